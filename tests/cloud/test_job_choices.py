"""What a job's configuration can choose: the judge, the starts, imitation or reinforcement, whole or adapter, Ray."""

import json
from pathlib import Path

import pytest

from cloud_trainer.jobs.imitate import imitate
from cloud_trainer.jobs.improve import improve
from cloud_trainer.jobs.settings import PipelineConfig
from cloud_trainer.progress import CancelledError
from gymnast_core.errors import ConfigError
from gymnast_core.manifest import read_manifest
from tests.cloud.jobs import TINY, job_of
from tests.cloud.openai_server import OpenAiServer, frames_in, grade

QUICK = {**TINY, "refine_iterations": 0, "judge_iterations": 0, "audit": {"parts": ["outcomes"]}}


def parity(request):
    """Grants half of what it sees, by the last frame's sum: arbitrary, and the same whenever it is asked."""
    return grade(bool(int(frames_in(request)[-1].astype(int).sum()) % 2))


def endpoint(server, **more):
    voting = {"votes": 1, "control": False, "concurrency": 1}
    return {"kind": "endpoint", "base_url": server.url, "model": "tiny-vlm", "voting": voting, **more}


def test_a_job_is_rewarded_by_the_endpoint_it_names_and_asks_nothing_twice(material, tmp_path):
    with OpenAiServer(parity) as server:
        config = {**QUICK, "judge": endpoint(server), "forgetting_starts": 0}
        whole = improve(job_of(material, tmp_path / "whole", config=config))
        asked, state = len(server.requests), tmp_path / "cut" / "grpo.state"
        with pytest.raises(CancelledError):
            improve(job_of(material, tmp_path / "cut", config=config, cancelled=state.exists))
        resumed = improve(job_of(material, tmp_path / "cut", config=config))
        assert len(server.requests) == 2 * asked  # both runs together: every rollout was shown once
    last = read_manifest(Path(resumed["candidates"][-1]["folder"]))
    assert last.lineage["judge"].startswith("tiny-vlm+")
    assert last.lineage["judge_settings"]["model"] == "tiny-vlm"
    assert [c["id"] for c in resumed["candidates"]] == [c["id"] for c in whole["candidates"]]
    assert json.loads((tmp_path / "cut" / "judge_trust.json").read_text())["judge"].startswith("tiny-vlm+")


def test_every_choice_of_grpo_reaches_the_manifest(material, tmp_path):
    choices = {"temperature": 1.6, "epochs": 3, "clip_high": 0.4, "kl_weight": 0.1, "length_normalisation": "token",
               "target_groups": 2, "max_rounds": 2, "keep_low": 0.0, "keep_high": 1.0}  # fmt: skip
    result = improve(job_of(material, tmp_path, config={**QUICK, "grpo": choices}))
    used = read_manifest(Path(result["candidates"][-1]["folder"])).lineage["grpo"]
    assert {name: used[name] for name in choices} == choices
    told = result["candidates"][-1]["other_tasks"]
    assert set(told["by_task"]) <= {"lift the red cube", "close the drawer"}
    assert {"before", "after", "n", "most"} <= set(told)


def test_settings_of_parts_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"grpo: unknown settings \['temprature'\]"):
        PipelineConfig.of({"grpo": {"temprature": 1.6}})
    with pytest.raises(ConfigError, match=r"\['group_size'\] are settings of the job itself"):
        PipelineConfig.of({"grpo": {"group_size": 4}})
    with pytest.raises(ConfigError, match=r"novel: unknown settings \['scene'\]"):
        PipelineConfig.of({"novel": {"scene": 4}})
    with pytest.raises(ConfigError, match=r"ray: unknown settings \['actors_'\]"):
        PipelineConfig.of({"ray": {"actors_": 4}})
    with pytest.raises(ConfigError, match="for one learner"):
        PipelineConfig.of({"ray": {"learner_ranks": 2, "ahead": {"max_age": 1}}})


def test_a_judge_that_cannot_be_opened_ends_the_job_before_anything_is_trained(material, tmp_path):
    with pytest.raises(ConfigError, match="judge kind 'oracle' is not one of checkpoint, endpoint, vlm"):
        improve(job_of(material, tmp_path, config={**TINY, "judge": {"kind": "oracle"}}))
    assert not (tmp_path / "world_model").exists()


def test_practice_in_new_scenes_and_words_is_in_the_lineage(material, tmp_path):
    with pytest.raises(ConfigError, match="learned judge knows only"):
        improve(job_of(material, tmp_path / "x", config={**QUICK, "novel": {"instructions": 1}}))
    with OpenAiServer(parity) as server:
        novel = {"scenes": 3, "edits": ["change_light", "change_background"], "instructions": 2}
        result = improve(job_of(material, tmp_path, config={**QUICK, "novel": novel, "judge": endpoint(server)}))
    made = read_manifest(Path(result["candidates"][-1]["folder"])).lineage["novel_starts"]
    assert [[edit["edit"] for edit in row["edits"]] for row in made[:3]] == [["change_light", "change_background"]] * 3
    assert [row["instruction"]["how"] for row in made[3:]] == ["template"] * 2
    assert all(row["episode"] for row in made)


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_imitation_is_a_job_whole_or_by_adapter(material, tmp_path, mode):
    sft = {"iterations": 3, "batch_size": 8}
    result = imitate(job_of(material, tmp_path, config={**QUICK, "sft": sft}, mode=mode))
    (candidate,) = result["candidates"]
    manifest = read_manifest(Path(candidate["folder"]))
    assert manifest.parents == (read_manifest(material[0]["policy"]).id,)
    assert (manifest.lineage["stage"], manifest.architecture == "lora") == ("sft", mode == "lora")
    assert len(manifest.lineage["episodes"]) == result["episodes"] > 0
    assert imitate(job_of(material, tmp_path, config={**QUICK, "sft": sft}, mode=mode)) == result  # a restart


def test_iter_sft_mixes_in_what_the_judge_let_pass(material, tmp_path):
    with OpenAiServer(parity) as server:
        config = {**QUICK, "sft": {"iterations": 3, "batch_size": 8}, "imagined_rounds": 2, "judge": endpoint(server)}
        result = imitate(job_of(material, tmp_path, config=config))
    lineage = read_manifest(Path(result["candidates"][0]["folder"])).lineage
    assert lineage["stage"] == "iter_sft"
    assert 0 < lineage["imagined_successes"] == result["imagined_successes"] < 2 * 16
    assert lineage["world_model"] == result["world_model"]
    assert set(lineage["episodes"]) < set(lineage["starts"])


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [0, 2])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Train imports Ray Data, which warns about itself
def test_a_job_runs_on_ray_and_by_adapter(material, tmp_path, ranks):
    ray = {"address": "local", "rollout_actors": 1, "judge_actors": 1, "cpus_per_actor": 0.25, "learner_ranks": ranks}
    config = {**QUICK, "ray": ray, "grpo": {"keep_low": 0.0, "keep_high": 1.0}}
    result = improve(job_of(material, tmp_path, config=config, mode="lora"))
    last = read_manifest(Path(result["candidates"][-1]["folder"]))
    assert (last.architecture, last.lineage["iteration"]) == ("lora", 2)
    assert last.parents == (read_manifest(material[0]["policy"]).id,)
    greedy = {**config, "ray": {**ray, "cpus_per_actor": 100.0}}
    with pytest.raises(ConfigError, match=r"the job reserves \{'CPU': [34]00\.0"):
        improve(job_of(material, tmp_path / "greedy", config=greedy))
