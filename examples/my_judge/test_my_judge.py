"""It says what it sees, abstains where it cannot, and `gymnast judge calibrate` measures it against labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from examples.installing import Terminal
from examples.my_judge.my_judge import DotDistance
from examples.my_simulator.my_simulator import TASK, Dots
from gymnast_core.episodes import write_episode
from gymnast_core.errors import ConfigError
from gymnast_core.types import Episode, Outcome, RolloutBatch

HERE = Path(__file__).parent


def recorded(seed: int, *, good: bool) -> Episode:
    """An episode that goes to the dot, or away from it; the world's own state is its label."""
    world = Dots()
    observation = world.reset(TASK, seed=seed)
    seen, actions = [observation], []
    for _ in range(world.spec.max_steps):
        way_X = world._dot_X - world.arm_target()[0].position_m[:2]
        action_BA = np.zeros((1, 7), np.float32)
        action_BA[0, :2] = np.clip(way_X if good else -np.sign(way_X) * 0.03, -0.03, 0.03)
        result = world.step(action_BA)
        seen.append(result.observation)
        actions.append(result.commanded_BA[0])
    return Episode(
        f"dots-{seed}-{good}", TASK, {"top": np.concatenate([one.images["top"] for one in seen])},
        np.concatenate([one.proprio_BP for one in seen]), np.stack(actions),
        np.concatenate([one.time_ns_B for one in seen]),
        Outcome.SUCCESS if world.succeeded() else Outcome.FAILURE, "operator:dots", ["by-hand"] * len(actions),
    )  # fmt: skip


def batch(*episodes: Episode) -> RolloutBatch:
    frames = np.stack([episode.images["top"] for episode in episodes])
    actions = np.stack([episode.actions_TA for episode in episodes])
    lengths = np.array([episode.steps for episode in episodes])
    steps = np.arange(frames.shape[1])
    return RolloutBatch(
        [TASK] * len(episodes),
        steps,
        frames,
        actions,
        np.zeros_like(actions),
        lengths,
        "by-hand",
        steps[: len(episodes)],
    )


def test_it_sees_what_the_world_knows() -> None:
    episodes = [recorded(seed, good=good) for seed in range(4) for good in (True, False)]
    verdicts = DotDistance().judge(batch(*episodes))
    said = [verdict.outcome for verdict in verdicts]
    assert said[::2] == [episode.outcome for episode in episodes[::2]] == [Outcome.SUCCESS] * 4
    assert Outcome.SUCCESS not in said[1::2]  # away from the dot, and partly out of the picture


def test_it_abstains_where_nothing_is_to_be_seen() -> None:
    rollouts = batch(recorded(0, good=True))
    blank = np.full_like(rollouts.frames_BFHWC, 230)
    (verdict,) = DotDistance().judge(RolloutBatch(**{**vars(rollouts), "frames_BFHWC": blank}))
    assert verdict.outcome is Outcome.ABSTAIN
    assert np.isnan(verdict.score)


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="near must lie in"):
        DotDistance(near=2.0)


def test_the_command_calibrates_it(terminal: Terminal) -> None:
    for seed in range(6):
        for good in (True, False):
            write_episode(terminal.folder / "episodes", recorded(seed, good=good), robot="dots")
    shown = terminal.run("--json", "judge", "calibrate", "episodes", "--judge", str(HERE / "judge.json"))
    report = json.loads(shown)
    assert report["judge"] == "dot-distance-0.1"
    assert {row["precision"]["mean"] for row in report["tasks"]} == {1.0}, report
