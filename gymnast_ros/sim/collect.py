"""Episodes and success rates straight from the simulator, in process: for pretraining and for the upper bounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gymnast_core.images import area_downsample
from gymnast_core.policy import Policy
from gymnast_core.robots import declared
from gymnast_core.rollout import run_episode
from gymnast_core.types import ActionChunk, ByteArray, Episode, FloatArray, IntArray, Observation, Outcome, StepResult
from gymnast_ros.sim.actuation import ActuatedEnv
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.tasks import TASKS, task_for

LABELLED_BY = "operator:sim"
"""The labeller of simulated outcomes: the simulator's state."""


class _Recorder:
    """Keeps what one row observed and executed; frames only at the steps asked for."""

    def __init__(self, frame_steps: frozenset[int] | None, frame_size: int) -> None:
        self._frame_steps, self._frame_size = frame_steps, frame_size
        self.frames: dict[str, list[ByteArray]] = {}
        self.proprio: list[FloatArray] = []
        self.actions: list[FloatArray] = []
        self.time_ns: list[IntArray] = []
        self.versions: list[str] = []

    def on_reset(self, instructions: Sequence[str], observation: Observation) -> None:
        """Keep the first observation."""
        self._keep(observation)

    def on_step(self, action_BA: FloatArray, result: StepResult, chunk: ActionChunk, index: int) -> None:
        """Keep what was executed and what came of it."""
        self.actions.append(result.commanded_BA[0])
        self.versions.append(chunk.policy_version)
        self._keep(result.observation)

    def _keep(self, observation: Observation) -> None:
        step = len(self.actions)
        self.proprio.append(observation.proprio_BP[0])
        self.time_ns.append(observation.time_ns_B[0])
        for camera in observation.images:
            kept = self.frames.setdefault(camera, [])
            if self._frame_steps is None or step in self._frame_steps:
                kept.append(area_downsample(observation.images[camera][0], self._frame_size))
            else:
                kept.append(kept[-1])


def collect(
    env: SimEnv | ActuatedEnv,
    policy: Policy,
    instruction: str,
    seeds: Iterable[int],
    *,
    frame_steps: Sequence[int] | None = None,
    rng: np.random.Generator | None = None,
    frame_size: int = 64,
) -> list[Episode]:
    """Run one episode per seed and label each by the simulator's state.

    Args:
        env: the simulator.
        policy: what drives it.
        instruction: of one task.
        seeds: start states.
        frame_steps: steps whose frames are drawn (0 first, max_steps last); at the others the last one drawn
            is repeated, which saves the time to draw it. None draws all. Step 0 is always drawn.
        rng: sampling noise of the policy; None is greedy.
        frame_size: side in pixels of the kept frames.

    Returns:
        One episode per seed, images area-downsampled to (T+1, frame_size, frame_size, 3), metadata
        {task, seed, scene, success_step, frame_steps}, and robot_model where it is no WidowX 250s.
    """
    wanted = None if frame_steps is None else frozenset(frame_steps) | {0}
    task = task_for(instruction)
    episodes = []
    for seed in seeds:
        recorder = _Recorder(wanted, frame_size)
        run_episode(env, policy, task.instruction, seed=seed, rng=rng, observers=[recorder])
        metadata = {
            "task": task.name,
            "seed": seed,
            "scene": env.scene.name,
            "success_step": env.success_step,
            "frame_steps": None if wanted is None else sorted(wanted),
            **declared(env.spec.robot.name),
        }
        episodes.append(
            Episode(
                episode_id=f"sim-{env.scene.name}-{task.name}-{seed}",
                instruction=task.instruction,
                images={camera: np.stack(frames) for camera, frames in recorder.frames.items()},
                proprio_TP=np.stack(recorder.proprio),
                actions_TA=np.stack(recorder.actions),
                time_ns_T=np.array(recorder.time_ns, np.int64),
                outcome=Outcome.SUCCESS if env.succeeded() else Outcome.FAILURE,
                labelled_by=LABELLED_BY,
                policy_versions=tuple(recorder.versions),
                metadata=metadata,
            )
        )
    return episodes


@dataclass(frozen=True)
class SimTrial:
    """One evaluated episode."""

    task: str
    seed: int
    succeeded: bool


def evaluate(
    env: SimEnv,
    policy: Policy,
    seeds: Iterable[int],
    *,
    tasks: Sequence[str] = tuple(TASKS),
    rng: np.random.Generator | None = None,
) -> list[SimTrial]:
    """Run every task from every seed and return which succeeded; frames are drawn only where the policy looks.

    Args:
        env: the simulator.
        policy: what drives it.
        seeds: start states, the same ones for every task.
        tasks: names or instructions.
        rng: sampling noise of the policy; None is greedy.
    """
    trials = []
    for seed in seeds:
        for name in tasks:
            task = task_for(name)
            run_episode(env, policy, task.instruction, seed=seed, rng=rng)
            trials.append(SimTrial(task.name, seed, env.succeeded()))
    return trials
