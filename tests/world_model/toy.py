"""A toy world whose dreams can be drawn with one thing wrong: a gripper that pushes a red block to the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from cloud_trainer.world_model.audit.cases import AuditCase
from gymnast_core.judge import Verdict
from gymnast_core.types import Episode, Outcome, RolloutBatch

STEPS, SIZE = 10, 32
Array = np.ndarray[Any, Any]


@dataclass
class State:
    """Pixels: gripper place, opening, block place; one row per frame."""

    gripper: Array
    opening: Array
    block: Array


def play(seed: int) -> tuple[State, bool]:
    """Half of the episodes push the block over the middle; the others move elsewhere."""
    rng = np.random.default_rng(seed)
    success = bool(seed % 2)
    first = np.array([4.0, rng.uniform(8, 14)])
    gripper = first + np.cumsum(rng.normal((1.6, 0.0), 0.6, (STEPS + 1, 2)), axis=0)
    opening = np.where(np.arange(STEPS + 1) < rng.integers(3, 7), 1.0, 0.0)
    block = np.tile([10.0, 24.0], (STEPS + 1, 1))
    if success:
        block[:, 0] += np.clip(np.arange(STEPS + 1) - 2, 0, None) * 1.6
    else:
        block[:, 0] += np.clip(np.arange(STEPS + 1) - 4, 0, 3) * 1.0
    return State(np.clip(gripper, 3, 28), opening, block), success


def draw(state: State, rng: np.random.Generator, noise: float) -> Array:
    frames = []
    for place, opening, block in zip(state.gripper, state.opening, state.block, strict=True):
        picture = np.full((SIZE * 4, SIZE * 4, 3), 110, np.uint8)
        x, y = (block * 4).astype(int)
        cv2.rectangle(picture, (x - 10, y - 10), (x + 10, y + 10), (220, 30, 30), -1)
        x, y = (place * 4).astype(int)
        gap = int(4 + 10 * opening)
        for side in (-1, 1):
            cv2.rectangle(picture, (x + side * gap - 4, y - 14), (x + side * gap + 4, y + 10), (20, 20, 20), -1)
        small = cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(np.float32)
        frames.append(np.clip(small + rng.normal(0, noise, small.shape), 0, 255))
    return np.stack(frames).astype(np.uint8)


def episode(seed: int) -> Episode:
    state, success = play(seed)
    pose = np.zeros((STEPS + 1, 7), np.float32)
    pose[:, :2] = state.gripper / 100
    pose[:, 6] = state.opening
    actions = np.zeros((STEPS, 7), np.float32)
    actions[:, :2] = np.diff(pose[:, :2], axis=0)
    actions[:, 6] = pose[1:, 6]
    return Episode(
        episode_id=f"toy-{seed}",
        instruction=("push right", "push far right")[seed % 3 == 0],
        images={"main": draw(state, np.random.default_rng(seed), 2.0)},
        proprio_TP=pose,
        actions_TA=actions,
        time_ns_T=np.arange(STEPS + 1, dtype=np.int64),
        outcome=Outcome.SUCCESS if success else Outcome.FAILURE,
        metadata={"policy": ("a", "b")[seed % 5 == 0]},
    )


def frozen(state: State) -> State:
    return State(state.gripper, state.opening, np.repeat(state.block[:1], STEPS + 1, axis=0))


def teleport(state: State) -> State:
    block = state.block.copy()
    block[6:] = [26, 6]
    return State(state.gripper, state.opening, block)


def gripper_ignored(state: State) -> State:
    return State(state.gripper, np.ones_like(state.opening), state.block)


def late(state: State) -> State:
    index = np.maximum(np.arange(STEPS + 1) - 1, 0)
    return State(state.gripper[index], state.opening[index], state.block[index])


def succeeds(state: State) -> State:
    block = state.block.copy()
    block[:, 0] = 10 + np.clip(np.arange(STEPS + 1) - 2, 0, None) * 1.6
    return State(state.gripper, state.opening, block)


def good(state: State) -> State:
    return state


FAULTS: dict[str, Callable[[State], State]] = {
    "object frozen": frozen,
    "teleport": teleport,
    "gripper ignored": gripper_ignored,
    "action late": late,
    "everything succeeds": succeeds,
}


def cases(seeds: Sequence[int], fault: Callable[[State], State] = good, seed: int = 0) -> list[AuditCase]:
    """Dreams that grow noisier with the horizon, more so in some episodes, as a real model's do."""
    out = []
    for number in seeds:
        real = episode(number)
        rng = np.random.default_rng((seed, number))
        noise = rng.uniform(2, 12)
        dreams = np.stack([draw(fault(play(number)[0]), rng, noise) for _ in range(2)])
        dreams[:, 0] = real.images["main"][0]
        state = play(number)[0]
        opposite = State(state.gripper, 1 - state.opening, state.block)
        flipped = draw(fault(opposite), np.random.default_rng((seed, number)), noise)
        out.append(AuditCase(real, real.images["main"], dreams, 0, flipped))
    return out


class ToyJudge:
    """Success when the red block ends past the middle."""

    version = "toy"

    def judge(self, rollouts: RolloutBatch) -> Sequence[Verdict]:
        last = rollouts.frames_BFHWC[:, -1].astype(np.float32)
        red = (last[..., 0] - last[..., 1:].mean(axis=-1)) > 80
        columns = np.arange(last.shape[2])
        place = [(row * columns).sum() / max(1, row.sum()) for row in red]
        return [Verdict(Outcome.SUCCESS if x > 16 else Outcome.FAILURE, float(x > 16)) for x in place]
