"""Its dreams keep the contract of every environment, and the shipped audit measures it and refuses to train in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cloud_trainer.world_model.refinement import Refinement, refine_world
from cloud_trainer.world_model.starts import start_from_episode
from cloud_trainer.world_model.worlds import load_world
from examples.installing import Terminal
from examples.my_judge.test_my_judge import recorded
from examples.my_world_model.my_world_model import StillEnv, save
from gymnast_core.episodes import write_episode
from gymnast_core.errors import CheckpointError, ConfigError
from tests.contracts.env_contract import EnvContract


class TestStillEnvKeepsTheContract(EnvContract):
    seeds_matter = False

    def make_env(self) -> StillEnv:
        episode = recorded(0, good=True)
        size = episode.images["top"].shape[1]
        return StillEnv([start_from_episode(episode, 0, ends=5) for _ in range(2)], size)


def test_its_checkpoint_is_refused_where_the_package_is_not_installed(tmp_path: Path) -> None:
    save(tmp_path / "world")
    with pytest.raises(CheckpointError, match="is a still_world, not a world model"):
        load_world(tmp_path / "world")


def test_a_dream_moves_the_arm_and_nothing_else(tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episode = recorded(1, good=True)
    save(tmp_path / "world", episode.images["top"].shape[1])
    monkeypatch.syspath_prepend(site)
    world = load_world(tmp_path / "world")
    env = world.env([start_from_episode(episode, 2)])
    before = env.reset(episode.instruction, seed=0)
    after = env.step(np.array([[0.01, 0, 0, 0, 0, 0, 1]], np.float32)).observation
    np.testing.assert_allclose(after.proprio_BP[0, 0] - before.proprio_BP[0, 0], 0.01, atol=1e-6)
    np.testing.assert_array_equal(after.images["camera"], before.images["camera"])
    with pytest.raises(ConfigError, match=r"still_world has no refine\(\)"):
        refine_world(tmp_path / "world", [episode], Refinement(1, 1e-4, 0, tmp_path / "state"), tmp_path / "out")


def test_the_command_audits_it_and_does_not_trust_it(terminal: Terminal) -> None:
    for seed in range(8):
        write_episode(terminal.folder / "episodes", recorded(seed, good=True), robot="dots")
    save(terminal.folder / "world", recorded(0, good=True).images["top"].shape[1])
    words = ("wm", "audit", "--world-model", "world", "--parts", "pictures", "--out", "audit", "episodes")
    assert json.loads(terminal.run("--json", *words, code=3).splitlines()[-1])["refusal"]
