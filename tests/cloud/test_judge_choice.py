"""A judge is picked by a folder or a file, and what cannot be picked is named."""

import json

import pytest

from cloud_trainer.judge.choice import choice_of, judge_of, read_judge
from cloud_trainer.judge.endpoint import EndpointJudge
from cloud_trainer.judge.learned import JudgeConfig, JudgeNetwork, LearnedJudge
from cloud_trainer.judge.vlm import VlmJudge
from gymnast_core.errors import CheckpointError, ConfigError
from tests.cloud.openai_server import OpenAiServer
from tests.cloud.rollouts import noise, rollouts_of
from tests.cloud.test_judge_vlm import write_qwen

TOML = """
kind = "endpoint"
base_url = "URL"
model = "tiny-vlm"
[voting]
votes = 1
[rubrics]
"Put the cube on the plate" = [
  {name = "lifted", text = "the cube left the table", weight = 1, required = false},
  {name = "on_plate", text = "at the end the cube lies on the plate", weight = 3},
]
"""


def test_a_file_names_an_endpoint_with_rubrics_and_partial_credit(tmp_path):
    answer = json.dumps({"text_in_image": [], "reason": "", "criteria": {"lifted": True, "on_plate": False}})
    with OpenAiServer(lambda request: answer) as server:
        (tmp_path / "judge.toml").write_text(TOML.replace("URL", server.url))
        judge = read_judge(tmp_path / "judge.toml")
        (verdict,) = judge.judge(rollouts_of(noise(1), ["put the cube on the plate"]))
    assert isinstance(judge, EndpointJudge)
    assert judge.voting.votes == 1
    assert verdict.evidence["partial_credit"] == 0.25


def test_a_folder_is_a_checkpoint_and_settings_may_name_one(tmp_path):
    saved = LearnedJudge(JudgeNetwork(JudgeConfig(widths=(4, 4, 4), hidden=8))).save(tmp_path / "judge")
    assert read_judge(tmp_path / "judge").version == saved.id
    assert judge_of(choice_of({"kind": "checkpoint", "folder": str(tmp_path / "judge")})).version == saved.id


def test_settings_name_a_local_model(tmp_path):
    write_qwen(tmp_path / "qwen")
    judge = judge_of(
        choice_of({"kind": "vlm", "folder": str(tmp_path / "qwen"), "dtype": "float32", "success_at": 0.9})
    )
    assert isinstance(judge, VlmJudge)
    assert judge.settings.success_at == 0.9


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "endpoint", "model": "m"}, "base_url"),
        ({"kind": "endpoint", "base_url": "http://x", "model": "m", "votes": 3}, r"unknown settings \['votes'\]"),
        ({"kind": "endpoint", "base_url": "http://x", "model": "m", "key_variable": "NOT_SET_ANYWHERE"}, "NOT_SET"),
        ({"kind": "checkpoint"}, "checkpoint judge lacks folder"),
        ({"kind": "vlm", "folder": "x", "dtype": "int8"}, "dtype"),
        ({}, "judge lacks kind"),
    ],
)
def test_what_cannot_be_picked_is_named(settings, said):
    with pytest.raises(ConfigError, match=said):
        judge_of(choice_of(settings))


def test_a_missing_file_or_model_says_what_is_wanted(tmp_path):
    with pytest.raises(ConfigError, match=r"neither a judge's checkpoint folder nor a settings file.*shipped judge"):
        read_judge(tmp_path / "nothing")
    (tmp_path / "judge.json").write_text("{")
    with pytest.raises(ConfigError, match=r"cannot read the judge's settings .*judge\.json"):
        read_judge(tmp_path / "judge.json")
    with pytest.raises(CheckpointError, match="download the model there first"):
        judge_of(choice_of({"kind": "vlm", "folder": str(tmp_path / "nothing")}))
