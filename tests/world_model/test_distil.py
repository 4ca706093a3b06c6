"""A student of fewer sampling steps comes out where its teacher does, on its own rollouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cloud_trainer.practice.imagine import replay_clips
from cloud_trainer.progress import CancelledError
from cloud_trainer.world_model.compact.data import clips_of
from cloud_trainer.world_model.compact.distil import CompactDistillation, CompactDistiller
from cloud_trainer.world_model.compact.model import CompactWorldModel
from cloud_trainer.world_model.compact.narrow import narrowed
from cloud_trainer.world_model.compact.network import CompactWorldNetwork
from cloud_trainer.world_model.distillation import Distilling, distil_world
from cloud_trainer.world_model.dit.checkpoint import load_world_model, save_world_model
from cloud_trainer.world_model.dit.codec import CodecConfig
from cloud_trainer.world_model.own_path import own_path_loss
from cloud_trainer.world_model.refinement import Refinement, refine_world
from cloud_trainer.world_model.worlds import CompactWorld, DiTWorld, load_world
from gymnast_core.errors import ConfigError
from gymnast_core.jobs import DistilSettings
from gymnast_core.records.manifest import read_manifest
from tests.cloud.learning_fakes import episode, tiny_world_model
from tests.world_model.tiny import tiny_episode, tiny_model

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "world_model"
CLIPS = clips_of([episode(seed) for seed in range(6)], 64)
QUICK = DistilSettings(iterations=3, batch_size=1, learning_rate=1e-3)


def compact_teacher(folder: Path) -> Path:
    tiny_world_model().save(folder)
    return folder


def dit_teacher(folder: Path) -> Path:
    model = tiny_model(patch_size=4)
    save_world_model(
        folder, model.state_dict(), model.config, objective_name="v_prediction",
        codec_config=CodecConfig(kind="identity"), image_size=8,
    )  # fmt: skip
    return folder


KINDS = [(compact_teacher, [episode(seed) for seed in range(4)]), (dit_teacher, [tiny_episode(s) for s in range(3)])]


def test_a_student_learns_where_its_teacher_comes_out_from_the_students_own_points() -> None:
    seen: list[float] = []

    def teacher(x: torch.Tensor, step: int) -> torch.Tensor:
        seen.append(float(x))
        return x + 10

    loss, end = own_path_loss(torch.tensor(1.0), 2, teacher, lambda x, step: x + 7, lambda a, b: (a - b).square())
    assert seen == [1.0, 8.0]  # the second begins where the student came out, not the teacher
    assert float(loss) == 9.0
    assert float(end) == 15.0


@pytest.mark.parametrize(("make", "episodes"), KINDS)
def test_a_stopped_run_goes_on_bit_for_bit_and_names_its_teacher(
    make: Callable[[Path], Path], episodes: list[Any], tmp_path: Path
) -> None:
    teacher = make(tmp_path / "teacher")
    distil_world(teacher, episodes, Distilling(QUICK, 3, tmp_path / "a.state"), tmp_path / "a")
    asked = iter([False, True])
    stopped = Distilling(QUICK, 3, tmp_path / "b.state", cancelled=lambda: next(asked))
    with pytest.raises(CancelledError):
        distil_world(teacher, episodes, stopped, tmp_path / "b")
    distil_world(teacher, episodes, Distilling(QUICK, 3, tmp_path / "b.state"), tmp_path / "b")
    first, second = read_manifest(tmp_path / "a"), read_manifest(tmp_path / "b")
    assert first.id == second.id
    assert first.parents == (read_manifest(teacher).id,)
    assert first.config["sampling_steps"] == 1
    assert first.lineage["episodes"] == [one.episode_id for one in episodes]


def test_distillation_brings_a_narrow_student_near_its_teacher() -> None:
    config = CompactDistillation(iterations=20, batch_size=1, learning_rate=5e-3, widths=(8, 8, 8), warmup=2)
    distiller = CompactDistiller(tiny_world_model(), CLIPS, config)
    losses = [distiller.run_step() for _ in range(20)]
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:2])


def test_a_dit_student_draws_with_the_steps_it_was_distilled_to(tmp_path: Path) -> None:
    teacher, settings = dit_teacher(tmp_path / "teacher"), QUICK.changed(steps=2, teacher_steps=4, guidance=2.0)
    how = Distilling(settings, 0, tmp_path / "state")
    assert distil_world(teacher, [tiny_episode(0)], how, tmp_path / "student").version == read_manifest(teacher).id
    assert load_world_model(tmp_path / "student").sampling_steps == 2
    assert load_world_model(teacher).sampling_steps == 10
    assert isinstance(load_world(tmp_path / "student"), DiTWorld)
    refining = Refinement(1, 1e-4, 0, tmp_path / "refining")
    refine_world(tmp_path / "student", [tiny_episode(0)], refining, tmp_path / "refined")
    refined = load_world_model(tmp_path / "refined")
    assert (refined.sampling_steps, refined.manifest.config["sampling_steps"]) == (2, 2), "refined, it is still one"


def test_a_network_narrowed_to_its_own_channels_is_the_same_one_and_wider_is_refused() -> None:
    network = CompactWorldModel.load(SHIPPED).network
    same = narrowed(network, network.config.widths)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(same.state_dict()[name], tensor, rtol=0, atol=0)
    assert isinstance(narrowed(network, (16, 48, 128)), CompactWorldNetwork)
    with pytest.raises(ConfigError, match="multiples of 8, at most"):
        narrowed(network, (40, 64, 256))
    with pytest.raises(ConfigError, match="multiples of 8, at most"):
        narrowed(network, (12, 64, 256))


def test_frames_of_a_student_follow_its_actions() -> None:
    """Each clip with another clip's actions: what changes must be more than what another noise changes."""
    teacher = CompactWorldModel.load(SHIPPED)
    distiller = CompactDistiller(teacher, CLIPS, CompactDistillation(iterations=1, batch_size=1))
    distiller.run_step()
    world, clips = CompactWorld(distiller.ema), CLIPS.take([0, 1])
    permuted = replace(clips, actions_NTA=clips.actions_NTA[::-1].copy())
    own, other, noise = (
        replay_clips(world, one, seed=seed).frames_BFHWC[:, -1].astype(int)
        for one, seed in ((clips, 0), (permuted, 0), (clips, 1))
    )  # fmt: skip
    assert np.abs(own - other).mean() > 3 * np.abs(own - noise).mean()


@pytest.mark.parametrize(
    ("make", "settings", "said"),
    [
        (compact_teacher, {"guidance": 2.0}, "guidance: a compact world model has no such setting"),
        (compact_teacher, {"steps": 3}, "steps must divide the teacher's 2, got 3"),
        (dit_teacher, {"widths": (8, 8, 8)}, "widths: a DiT has no such setting"),
        (dit_teacher, {"steps": 3}, "steps must divide the teacher's 4, got 3"),
    ],
)
def test_what_a_kind_of_world_model_does_not_have_is_refused(
    make: Callable[[Path], Path], settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    how = Distilling(DistilSettings(**settings), 0, tmp_path / "state")
    with pytest.raises(ConfigError, match=said):
        distil_world(make(tmp_path / "teacher"), [episode(0)], how, tmp_path / "student")


def test_episodes_shorter_than_what_is_drawn_at_once_are_refused() -> None:
    whole, n = episode(0), 3
    short = replace(
        whole, images={name: frames[: n + 1] for name, frames in whole.images.items()},
        proprio_TP=whole.proprio_TP[: n + 1], actions_TA=whole.actions_TA[:n], time_ns_T=whole.time_ns_T[: n + 1],
        policy_versions=whole.policy_versions[:n],
    )  # fmt: skip
    with pytest.raises(ConfigError, match="no episode has the 5 steps drawn at once, but at most 3"):
        CompactDistiller(tiny_world_model(), clips_of([short], 64), CompactDistillation(iterations=1))
