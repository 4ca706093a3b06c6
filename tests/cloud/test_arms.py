"""Which arm a policy is for: declared by training, inherited by what practises, and held against everything else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cloud_trainer.jobs.improve import improve
from cloud_trainer.jobs.job import Job, arm_of
from cloud_trainer.jobs.release_gate import release_gate
from cloud_trainer.jobs.runner import Recorded
from cloud_trainer.sft.trainer import SftConfig, train_sft
from cloud_trainer.world_model.capabilities import capabilities_of
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.episodes import read_episode, write_episode
from gymnast_core.errors import ConfigError
from gymnast_core.extensions import GATES, extension
from gymnast_core.jobs import GateSpec, spec_of
from gymnast_core.policies.flow_network import FlowPolicyConfig
from gymnast_core.records.manifest import read_manifest
from gymnast_core.robots import declared
from gymnast_core.spec import ROBOT_MODEL, VIPERX_300S, WIDOWX_250S
from gymnast_core.types import Episode
from tests.cloud.jobs import TINY, job_of
from tests.cloud.learning_fakes import episode, tiny_policy

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
QUICK = SftConfig(iterations=1, batch_size=4, warmup=1)
SIZES = FlowPolicyConfig(widths=(4, 4, 4), hidden=16, text_dim=4, time_dim=8)


def of(model: str, seed: int = 0) -> Episode:
    shown = episode(seed)
    return replace(shown, metadata={**shown.metadata, **declared(model)})


def trained(folder: Path, *models: str, parent: Path | None = None) -> Path:
    shown = [of(model, seed) for seed, model in enumerate(models)]
    train_sft(shown, QUICK, folder, policy_config=None if parent else SIZES, parent=parent)
    return folder


def test_a_policy_is_for_the_arm_of_its_episodes_and_so_is_what_comes_of_it(tmp_path: Path) -> None:
    first = trained(tmp_path / "first", "vx300s", "vx300s")
    again = trained(tmp_path / "again", "vx300s", parent=first)
    assert [read_manifest(folder).robot_model for folder in (first, again)] == ["vx300s"] * 2
    assert "made for the vx300s, and this arm is a wx250s" in read_manifest(first).misfit("wx250s")
    assert read_manifest(first).misfit("vx300s") == ""
    assert arm_of({"policy": again}) is VIPERX_300S
    assert arm_of({}) is WIDOWX_250S


def test_a_widowx_policy_is_silent_as_before_there_were_other_arms(tmp_path: Path) -> None:
    manifest = read_manifest(trained(tmp_path / "policy", "wx250s"))
    assert (ROBOT_MODEL in manifest.lineage, manifest.robot_model) == (False, "wx250s")


def test_episodes_of_two_arms_and_a_parent_of_another_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="several arms: vx300s, wx250s"):
        trained(tmp_path / "mixed", "wx250s", "vx300s")
    parent = trained(tmp_path / "parent", "wx250s")
    with pytest.raises(ConfigError, match="several arms: vx300s, wx250s"):
        trained(tmp_path / "child", "vx300s", parent=parent)


def test_no_policy_practises_in_a_world_model_that_never_saw_its_arm() -> None:
    load_world(CHECKPOINTS / "world_model")
    with pytest.raises(ConfigError, match="knows the domains wx250s, not vx300s"):
        load_world(CHECKPOINTS / "world_model", robot=VIPERX_300S)


def test_the_release_gate_holds_a_policy_in_its_own_arm_or_says_that_it_cannot(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("pybullet", reason="PyBullet has no wheel for this Python; its extra, gate, would build it")
    policy = trained(tmp_path / "policy", "vx300s")
    gate = extension(GATES, "bullet")(robot=VIPERX_300S)
    assert gate.env.spec.robot.name == "vx300s"
    gate.close()
    names = {"policy": policy, "incumbent": CHECKPOINTS / "policy"}
    spec = spec_of("gate", {name: read_manifest(folder).id for name, folder in names.items()})
    assert isinstance(spec, GateSpec)
    job = Job(spec, names, (), tmp_path, lambda event: None, lambda: False)
    with pytest.raises(ConfigError, match="several arms: vx300s, wx250s"):
        release_gate(job)
    monkeypatch.setattr("cloud_trainer.jobs.release_gate.extension", lambda group, name: lambda: None)
    with pytest.raises(ConfigError, match="has a wx250s alone, and the policy is for a vx300s"):
        release_gate(replace(job, checkpoints=dict.fromkeys(names, policy)))


def test_refinement_teaches_a_world_model_the_arm_that_the_policy_is_for(
    material: tuple[dict[str, Path], list[Recorded]], tmp_path: Path
) -> None:
    checkpoints, files = material
    shown = [read_episode(entry.path) for entry in files]
    shown = [replace(one, metadata={**one.metadata, **declared("vx300s")}) for one in shown]
    paths = [write_episode(tmp_path / "vx300s", one, robot="sim-0") for one in shown]
    theirs = [replace(entry, path=path) for entry, path in zip(files, paths, strict=True)]
    policy = tmp_path / "policy"
    tiny_policy().save(policy, lineage=declared("vx300s"))
    lab = ({**checkpoints, "policy": policy}, theirs)
    with pytest.raises(ConfigError, match="knows the domains wx250s, not vx300s"):
        improve(job_of(lab, tmp_path / "kept", config={**TINY, "refine_iterations": 0}))
    quick = {**TINY, "refine_iterations": 1, "judge_iterations": 0, "grpo_iterations": 1, "forgetting_starts": 1}
    made = improve(job_of(lab, tmp_path / "refined", config=quick))
    assert capabilities_of(tmp_path / "refined" / "world_model").domains == ("vx300s", "wx250s")
    assert [read_manifest(Path(one.folder)).robot_model for one in made.candidates] == ["vx300s"]
