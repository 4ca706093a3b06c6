"""Whether an environment keeps its contract, and whether its mapping's units are right: `gymnast env check`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gymnast_core.env import Env
from gymnast_core.errors import EpisodeOverError
from gymnast_core.types import FloatArray, Observation

STEPS = 5


@dataclass(frozen=True)
class EnvFinding:
    """One thing that was looked at.

    Attributes:
        what: in words.
        kept: False breaks the contract; None is for the reader to judge.
        found: figures or reasons.
    """

    what: str
    kept: bool | None
    found: str


def check_env(env: Env, instruction: str) -> list[EnvFinding]:
    """Drive it for a few episodes and report; the environment is reset again and again."""
    first, began = _played(env, instruction, seed=1), time.monotonic()
    again = _played(env, instruction, seed=1)
    rate = STEPS * env.spec.batch_size / max(1e-9, time.monotonic() - began)
    other = _played(env, instruction, seed=2)
    findings = [
        EnvFinding("the same seed and actions give the same observations", _same(first, again), ""),
        EnvFinding("another seed starts elsewhere", None, "no" if _same(first[:1], other[:1]) else "yes"),
        EnvFinding("steps a second, pictures included", None, f"{rate:.1f}"),
    ]
    findings += [_moved(env, instruction, axis) for axis in range(3)]
    return [*findings, _ends(env, instruction)]


def _action(env: Env, axis: int | None = None) -> FloatArray:
    action_BA = np.zeros((env.spec.batch_size, 7), np.float32)
    action_BA[:, 6] = 1.0
    if axis is not None:
        action_BA[:, axis] = 0.5 * env.spec.robot.max_translation_m
    return action_BA


def _played(env: Env, instruction: str, *, seed: int) -> list[Observation]:
    seen = [env.reset(instruction, seed=seed)]
    for step in range(min(STEPS, env.spec.max_steps)):
        seen.append(env.step(_action(env, step % 3)).observation)
    return seen


def _same(first: list[Observation], second: list[Observation]) -> bool:
    def arrays(one: Observation) -> list[object]:
        return [one.proprio_BP, one.time_ns_B, *(one.images[camera] for camera in one.images)]

    return all(
        np.array_equal(a, b)  # type: ignore[arg-type]
        for one, other in zip(first, second, strict=True)
        for a, b in zip(arrays(one), arrays(other), strict=True)
    )


def _moved(env: Env, instruction: str, axis: int) -> EnvFinding:
    """How far the arm goes along an axis, as it is commanded and as the proprioception says: the mapping's scale."""

    def place(observation: Observation) -> float:
        return float(observation.proprio_BP[0, axis])

    before = place(env.reset(instruction, seed=3))
    results = [env.step(_action(env, axis)) for _ in range(min(STEPS, env.spec.max_steps))]
    commanded = sum(float(result.commanded_BA[0, axis]) for result in results)
    moved = place(results[-1].observation) - before
    found = f"commanded {commanded:.3f} m, moved {moved:.3f} m"
    return EnvFinding(f"displacement along {'xyz'[axis]}", None, found)


def _ends(env: Env, instruction: str) -> EnvFinding:
    what = f"an episode ends within {env.spec.max_steps} steps and refuses more"
    env.reset(instruction, seed=4)
    steps = 1
    while not env.step(_action(env)).done_B.all():
        if steps == env.spec.max_steps:
            return EnvFinding(what, False, "it went on")
        steps += 1
    return EnvFinding(what, _refused(lambda: env.step(_action(env))), f"after {steps}")


def _refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except EpisodeOverError:
        return True
    return False
