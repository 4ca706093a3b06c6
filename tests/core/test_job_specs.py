"""Every kind of job is asked for with its own settings, and a mistake is named before anything is spent on it."""

import json
import subprocess
import sys

import pytest

from gymnast_cli.main import main
from gymnast_core.errors import ConfigError
from gymnast_core.jobs import KINDS, ImproveSettings, ImproveSpec, kinds_of, spec_of

OWN = {"improve": {}, "imitate": {}, "adapt": {"scene": "bench", "instruction": "lift"}, "replay": {}}
OWN["gate"] = {"incumbent": "policy-0"}
OWN["trust"] = {**OWN["adapt"], "episodes": ["e-1"]}
OWN["preview"] = {**OWN["trust"], "candidate": "policy-2", "start": "e-1"}
BARE = {kind: {"policy": "policy-1", **own} for kind, own in OWN.items()}
BARE["plan"] = {"planner": "world_model-1", "instruction": "lift", "episode": "e-1"}
BARE["distil"] = {"world_model": "world_model-1"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_spec_travels_as_json_and_comes_back_the_same(kind):
    asked = {"seed": 3, **BARE[kind]}
    spec = spec_of(kind, asked)
    assert spec_of(kind, json.loads(json.dumps(spec.to_json()))) == spec
    assert spec.to_json() == asked  # defaults are the trainer's


WRONG = [
    ("improve", {"polcy": "p"}, r"^job improve: spec: unknown settings \['polcy'\] \(did you mean policy\?\)"),
    ("improve", {"policy": ""}, "spec: policy must be a checkpoint's id, got ''"),
    ("improve", {"seed": -1}, r"seed must be a whole number of at least 0 .*, got -1; the default is 0"),
    ("improve", {"mode": "half"}, "mode must be one of full, lora, got 'half'; the default is 'full'"),
    ("improve", {"scene": "bench"}, r"unknown settings \['scene'\]"),
    ("improve", {"config": {"rehearsal": 0.5}}, r"config: unknown settings \['rehearsal'\]"),
    ("improve", {"config": {"sft": {}}}, r"config: unknown settings \['sft'\]"),
    ("improve", {"config": []}, "config must be an object of settings, got"),
    ("improve", {"config": {"grpo": {"temperature": float("inf")}}}, "temperature must be a number above 0, got inf"),
    (
        "improve",
        {"config": {"judge": {"kind": "oracle"}}},
        "judge kind 'oracle' is not one of checkpoint, endpoint",
    ),
    ("improve", {"config": {"judge": {"kind": "endpoint", "base_url": "http://x"}}}, "endpoint judge lacks model: "),
    (
        "improve",
        {"config": {"judge": {"kind": "vlm", "folder": "x", "dtype": "int8"}}},
        "dtype must be one of",
    ),
    ("adapt", {"scene": " "}, "scene must be a text, got ' '"),
    (
        "adapt",
        {"rollouts": 0},
        r"rollouts must be a whole number .*, or none, got 0; the default is none",
    ),
    ("adapt", {"config": {"refine_iterations": 1}}, r"unknown settings \['refine_iterations'\]"),
    ("adapt", {"config": {"bounds": {"psnr_db": 9.0}}}, r"bounds: unknown settings \['psnr_db'\]"),
    ("imitate", {"config": {"grpo_iterations": 1}}, r"unknown settings \['grpo_iterations'\]"),
    (
        "imitate",
        {"config": {"judge_floor": 0.1}},
        "judge_floor: imitation of recorded successes",
    ),
    ("imitate", {"config": {"fresh": "history", "imagined_rounds": 1}}, "begun anew .*cannot have imagined"),
    ("imitate", {"config": {"fresh": "history"}, "mode": "lora"}, "mode=lora: a policy that is begun anew"),
    ("replay", {"config": {}}, r"job replay: spec: unknown settings \['config'\]"),
    ("replay", {"episodes": "all"}, "episodes must be a list, or none, got 'all'"),
]


@pytest.mark.parametrize(("kind", "change", "message"), WRONG)
def test_what_a_kind_does_not_know_or_cannot_be_is_named_with_the_remedy(kind, change, message):
    with pytest.raises(ConfigError, match=message):
        spec_of(kind, {"policy": "policy-1", **BARE[kind], **change})


def test_a_missing_setting_says_what_it_is():
    with pytest.raises(ConfigError, match=r"^job adapt: spec lacks instruction: what it shall do there$"):
        spec_of("adapt", {"policy": "policy-1", "scene": "bench"})
    with pytest.raises(ConfigError, match=r"'improv' is not one of .* .did you mean improve"):
        spec_of("improv", {})


def test_settings_are_changed_as_a_copy_that_is_checked_again():
    config = ImproveSettings(device="cuda:1", groups=3)
    assert config.dream.device == "cuda:1"
    assert config.changed(groups=4).to_json() == {**config.to_json(), "groups": 4}
    with pytest.raises(ConfigError, match=r"groups .* got 0"):
        config.changed(groups=0)
    with pytest.raises(ConfigError, match=r"config: groups .* got 0"):
        ImproveSpec(policy="p", config={"groups": 0})


def test_who_is_waited_for_goes_first():
    assert (kinds_of("interactive"), kinds_of("background")) == (("adapt", "gate"), ("replay",))
    assert kinds_of("quick", "interactive") == ("adapt", "trust", "preview", "gate", "plan")


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_line_prints_the_schema_of_a_kind(kind, capsys):
    assert main(["jobs", "schema", kind]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["additionalProperties"] is False
    assert {"seed", *BARE[kind]} <= set(schema["properties"])
    assert all("description" in field for field in schema["properties"].values())
    assert main(["jobs", "schema", kind, "--result"]) == 0
    assert "episodes" in json.loads(capsys.readouterr().out)["properties"]


def test_specs_need_neither_torch_nor_the_trainer():
    code = "import sys, gymnast_core.jobs; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    names = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "cloud_trainer", "gymnast_ros", "grpc"} & set(names)
