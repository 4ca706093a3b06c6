"""A ViperX 300s along the paths that world models take: its own episodes, its own limits, its own name."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from cloud_trainer.jobs.desk.serving import PredictLimits, served_world
from cloud_trainer.world_model.capabilities import capabilities_of
from cloud_trainer.world_model.compact.data import clips_of
from cloud_trainer.world_model.data.described import DatasetConfig, build_source
from cloud_trainer.world_model.data.source import SchemaError, SourceInfo, at_control_rate, proprio_of_joints
from cloud_trainer.world_model.data.units import check_sizes
from cloud_trainer.world_model.planner.choice import load_planner
from cloud_trainer.world_model.refinement import Refinement, refine_world
from cloud_trainer.world_model.serving.messages import API_VERSION
from cloud_trainer.world_model.serving.pictures import to_picture
from cloud_trainer.world_model.serving.predictor import PROFILE
from cloud_trainer.world_model.worlds import load_world
from gymnast_cli.main import main
from gymnast_core import robots
from gymnast_core.episodes import read_episode, write_episode
from gymnast_core.errors import ConfigError
from gymnast_core.jobs.practice import DreamConfig
from gymnast_core.policies.flow import ActionScale
from gymnast_core.policies.history import HistoryNetwork, HistoryPolicyConfig
from gymnast_core.policies.matching import within_limits
from gymnast_core.robots import declared
from gymnast_core.spec import VIPERX_300S, WIDOWX_250S
from gymnast_core.types import Episode
from gymnast_ros.sim.collect import collect
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.expert import ScriptedExpert
from gymnast_ros.sim.tasks import TASKS
from tests.cloud.learning_fakes import episode, tiny_world_model
from tests.world_model.test_sources import lerobot_folder

LONG = replace(VIPERX_300S, name="long300s", max_translation_m=0.08, max_rotation_rad=0.4)
QUICK = replace(LONG, name="quick300s", control_hz=10.0)
"""Arms of a package: longer steps, and more of them."""


def of(model: str, seed: int) -> Episode:
    shown = episode(seed)
    return replace(shown, metadata={**shown.metadata, **declared(model)})


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Episodes of the simulated arm and its scripted expert, as files."""
    folder, env = tmp_path_factory.mktemp("vx300s"), SimEnv(image_size=64, robot=VIPERX_300S)
    try:
        shown = collect(env, ScriptedExpert(env), TASKS["lift"].instruction, range(4), frame_steps=(0, 5, 10, 15))
    finally:
        env.close()
    return [write_episode(folder, one, robot="sim-0") for one in shown]


@pytest.fixture(scope="module")
def refined(recorded: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world model of the WidowX, refined a little on the ViperX's episodes."""
    folder = tmp_path_factory.mktemp("world")
    tiny_world_model().save(folder / "parent")
    shown = [read_episode(path) for path in recorded]
    refine_world(folder / "parent", shown, Refinement(2, 1e-4, 0, folder / "state"), folder / "refined")
    return folder / "refined"


@pytest.fixture
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    """LONG and QUICK are known here."""
    known = {arm.name: arm for arm in (*robots.ROBOTS.values(), LONG, QUICK)}
    monkeypatch.setattr(robots, "ROBOTS", MappingProxyType(known))


def predicted(address: str, version: str, action_A: np.ndarray) -> httpx.Response:
    """What the service answers to one action from a grey picture."""
    picture = to_picture(np.full((64, 64, 3), 120, np.uint8)).model_dump()
    context = {"frames": [picture], "actions": [], "states": [[0.3, 0.0, 0.1, 0, 0, 0, 1]]}
    sample = {"sample_id": "one", "seed": 0, "context": context, "actions": [action_A.tolist()]}
    names = {"request_id": str(uuid.uuid4()), "model_version": version, "profile_id": PROFILE}
    body = {"api_version": API_VERSION, **names, "samples": [sample]}
    return httpx.post(f"{address}/v1/predict", json=body, timeout=120)


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, Any]:
    code = main(["--json", "wm", *map(str, words)])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_planner_is_for_the_arm_it_learned_from_and_plans_for_no_other(
    recorded: list[Path], refined: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert any(read_episode(path).outcome.value == "success" for path in recorded), "the expert lifts with it"
    planner, out = tmp_path / "planner", tmp_path / "plan"
    quick = ("--iterations", 1, "--inverse-iterations", 1)
    assert told(capsys, "train-planner", *recorded, "--out", planner, *quick)[0] == 0
    assert told(capsys, "show", planner)[1]["domains"] == ["vx300s"]
    assert load_planner(planner).robot is VIPERX_300S
    plan = ("plan", "--planner", planner, "--out", out, "--image")
    judged = ("--judge", Path(__file__).parents[2] / "checkpoints" / "judge", "--best-of", 2)
    code, found = told(capsys, *plan, recorded[0], *judged, "--world-model", refined)
    assert (code, found["steps"], len(found["scores"])) == (0, 15, 2)
    shipped = Path(__file__).parents[2] / "checkpoints" / "world_model"
    code, refused = told(capsys, *plan, recorded[0], *judged, "--world-model", shipped)
    assert (code, "knows the domains wx250s, not vx300s" in refused["message"]) == (2, True)
    other = write_episode(tmp_path / "wx250s", of("wx250s", 0), robot="sim-0")
    code, refused = told(capsys, *plan, other)
    assert (code, "several arms: vx300s, wx250s" in refused["message"]) == (2, True)


def test_a_world_model_refined_on_an_arm_knows_it_and_so_does_its_student(
    recorded: list[Path], refined: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert capabilities_of(refined).domains == ("vx300s", "wx250s")
    load_world(refined, robot=VIPERX_300S)
    quick = ("--iterations", 1, "--batch-size", 1, "--steps", 1)
    words = ("distil", *recorded, *quick, "--world-model")
    code, found = told(capsys, *words, refined, "--out", tmp_path / "student")
    assert code in (0, 3), found
    assert capabilities_of(tmp_path / "student").domains == ("vx300s", "wx250s")
    code, refused = told(capsys, *words, refined.parent / "parent", "--out", tmp_path / "none")
    assert (code, "knows the domains wx250s, not vx300s" in refused["message"]) == (2, True)
    audited = ("audit", *recorded, "--out", tmp_path / "audit", "--world-model", refined.parent / "parent")
    code, refused = told(capsys, *audited)
    assert (code, "knows the domains wx250s, not vx300s" in refused["message"]) == (2, True)


def test_poses_and_dreams_stay_in_the_arms_own_workspace(refined: Path) -> None:
    """Reaching 0.5 m ahead, a ViperX is where a WidowX never gets."""
    start_P = np.array([0.5, 0.0, 0.1, 0, 0, 0, 1], np.float32)
    shown = {
        model: replace(one, proprio_TP=np.tile(start_P, (one.steps + 1, 1)))
        for model in ("wx250s", "vx300s")
        for one in [of(model, 0)]
    }
    still = {model: replace(one, actions_TA=np.zeros_like(one.actions_TA)) for model, one in shown.items()}
    clips = {model: clips_of([one], 64).poses_NTP[0, :, 0] for model, one in still.items()}
    np.testing.assert_allclose(clips["vx300s"], 0.5, atol=1e-6)
    assert clips["wx250s"][1] == pytest.approx(0.45)
    for model, robot in (("vx300s", VIPERX_300S), ("wx250s", WIDOWX_250S)):
        made = load_world(refined, robot=robot).dreamer()._make_env([still[model]], 0)
        assert made.spec.robot is robot
        made.reset("lift the red cube", seed=0)
        seen = made.step(np.zeros((1, 7), np.float32)).observation.proprio_BP
        assert seen[0, 0] == pytest.approx(0.5 if robot is VIPERX_300S else 0.45)
        made.close()


@pytest.mark.usefixtures("_known")
def test_what_is_served_takes_the_actions_of_the_arm_that_the_model_is_for(tmp_path: Path) -> None:
    model = tiny_world_model()
    model.domains = (LONG.name,)
    model.save(tmp_path / "world")
    server, version = served_world(
        tmp_path / "world", PredictLimits(), DreamConfig(), host="127.0.0.1", port=0, token=None, identity=None
    )
    far = np.float32([0.07, 0, 0, 0.35, 0, 0, 1])
    try:
        address = server.start()
        answer = predicted(address, version, far)
        assert answer.status_code == 200, answer.text
        refused = predicted(address, version, far + np.float32([0.02, 0, 0, 0, 0, 0, 0]))
        assert "from -0.08 to 0.08 is taken" in refused.text
    finally:
        server.stop()
    env = load_world(tmp_path / "world").dreamer()._make_env([of(LONG.name, 0)], 0)
    assert env.spec.robot is LONG
    env.reset("lift", seed=0)
    np.testing.assert_allclose(env.step(far[None]).commanded_BA, far[None])


def test_policies_keep_to_the_limits_of_the_arm_that_they_are_for() -> None:
    far = np.array([[1.0, 0, 0, 1.0, 0, 0, 2.0]], np.float32)
    assert within_limits(far, LONG)[0, [0, 3, 6]].tolist() == pytest.approx([0.08, 0.4, 1.0])
    assert within_limits(far)[0, [0, 3, 6]].tolist() == pytest.approx([0.05, 0.25, 1.0])
    assert ActionScale.of(far, LONG).decode(far)[0, 0] == pytest.approx(0.08)
    sizes = HistoryPolicyConfig(widths=(4, 4, 4), hidden=8, head=8, text_dim=4, past_width=4)
    networks = []
    for robot in (WIDOWX_250S, LONG):
        torch.manual_seed(0)
        networks.append(HistoryNetwork(sizes, robot))
    past = torch.full((1, 17, 15), 0.1)
    ours, theirs = (network._remembered(past) for network in networks)
    assert not torch.allclose(ours, theirs), "the same command is a smaller share of the longer step"


@pytest.mark.usefixtures("_known")
def test_datasets_are_held_to_the_arm_that_they_are_declared_of(recorded: list[Path]) -> None:
    info = SourceInfo("theirs", robot=QUICK.name)
    fast = of(QUICK.name, 0)
    fast = replace(fast, actions_TA=np.tile(np.float32([0.13, 0, 0, 0, 0, 0, 1]), (fast.steps, 1)))
    assert check_sizes(fast, info) is fast
    with pytest.raises(SchemaError, match=r"at most 0.05 m"):
        check_sizes(fast, SourceInfo("ours"))
    assert at_control_rate(fast, 10.0, info) is fast
    with pytest.raises(SchemaError, match="commanded at 5 Hz"):
        at_control_rate(fast, 7.0, SourceInfo("ours"))
    mixed = str(recorded[0].parent)
    source = build_source(DatasetConfig(kind="mcap", folder=mixed))
    assert (source.info.robot, source.episode(0).metadata["robot_model"]) == ("vx300s", "vx300s")
    with pytest.raises(SchemaError, match="is of a vx300s, the dataset of a wx250s"):
        build_source(DatasetConfig(kind="mcap", folder=mixed, robot="wx250s")).episode(0)


def test_joints_of_a_dataset_are_read_by_the_arm_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    joints = [0.1, -0.5, 0.4, 0.0, 1.2, 0.0, 0.5]
    folder = lerobot_folder(tmp_path / "set", lengths=(4,), state=joints, action=joints)
    made = {}
    for model in ("wx250s", "vx300s"):
        into = tmp_path / model
        words = ["episodes", "import", "lerobot", folder, "--actions", "joint", "--robot", model, "--into", into]
        assert main(["--json", *map(str, words)]) == 0
        (name,) = json.loads(capsys.readouterr().out)["added"]
        made[model] = read_episode(into / f"{name}.mcap")
        wanted = proprio_of_joints(np.float32([joints]), model)[0]
        np.testing.assert_allclose(made[model].proprio_TP[0], wanted, atol=1e-5)
    assert [one.metadata.get("robot_model") for one in made.values()] == [None, "vx300s"]
    assert made["wx250s"].episode_id != made["vx300s"].episode_id, "another arm's motion is another episode"
    with pytest.raises(ConfigError, match="several arms"):
        robots.arm_of_all(one.metadata for one in made.values())
