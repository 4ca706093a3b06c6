"""Our simulated WidowX 250s as a benchmark of vla-eval: any policy that the harness serves is measured on our tasks.

    vla-eval run --config integrations/vla_eval/gymnast_benchmark.yaml --server-url ws://127.0.0.1:8000

It runs where this project and the harness are installed together; an episode's start state is its number.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult
from vla_eval.specs import GRIPPER_01, IMAGE_RGB, LANGUAGE, POSITION_DELTA, RAW, ROTATION_EULER, DimSpec
from vla_eval.types import Action, EpisodeResult, Observation, Task

from gymnast_core.types import ACTION_DIM
from gymnast_core.types import Observation as Seen
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.tasks import TASKS


class GymnastBenchmark(StepBenchmark):
    """One simulated arm, in lockstep.

    Args:
        seed_start: start state of a task's first episode.
        send_state: send proprioception as "state", 7 numbers: x y z [m], roll pitch yaw [rad], gripper (1 open).
    """

    render_backends = frozenset({"cpu", "gpu"})

    def __init__(self, seed_start: int = 2_000_000, send_state: bool = False) -> None:
        super().__init__()
        self._seed_start, self._send_state = seed_start, send_state
        self._env = SimEnv()

    @classmethod
    def configure_render(cls, mode: str) -> dict[str, str]:
        """EGL draws on a GPU and without one, pixel for pixel as on our robots' simulator."""
        os.environ["MUJOCO_GL"] = "egl"
        return {"MUJOCO_GL": "egl"}

    def get_tasks(self) -> list[Task]:
        """Every task, by name."""
        return [{"name": name, "instruction": task.instruction} for name, task in TASKS.items()]

    def reset(self, task: Task) -> Seen:
        """Place everything as the episode's number has it."""
        return self._env.reset(task["instruction"], seed=self._seed_start + int(task.get("episode_idx", 0)))

    def step(self, action: Action) -> StepResult:
        """Command one action: deltas in metres and radians, and the gripper, 1 open; beyond the limits it is cut."""
        wanted = np.asarray(action["actions"], np.float32)
        if wanted.shape != (ACTION_DIM,) or not np.isfinite(wanted).all():
            raise ValueError(f"an action is {ACTION_DIM} finite numbers, got {wanted.shape}: {wanted.tolist()}")
        wanted[6] = np.clip(wanted[6], 0.0, 1.0)
        after = self._env.step(wanted[None])
        done = self._env.succeeded()
        return StepResult(after.observation, float(done), done or bool(after.done_B[0]), {})

    def make_obs(self, raw_obs: Seen, task: Task) -> Observation:
        """The camera's picture as "agentview", and the instruction."""
        (frame,) = next(iter(raw_obs.images.values()))
        state = {"state": raw_obs.proprio_BP[0]} if self._send_state else {}
        return {"images": {"agentview": np.ascontiguousarray(frame)}, "task_description": task["instruction"], **state}

    def get_step_result(self, step_result: StepResult) -> EpisodeResult:
        """Whether the task was done."""
        return {"success": self._env.succeeded()}

    def get_action_spec(self) -> dict[str, DimSpec]:
        """See step()."""
        return {"position": POSITION_DELTA, "rotation": ROTATION_EULER, "gripper": GRIPPER_01}

    def get_observation_spec(self) -> dict[str, DimSpec]:
        """See make_obs()."""
        return {"image": IMAGE_RGB, "language": LANGUAGE, **({"state": RAW} if self._send_state else {})}

    def get_metadata(self) -> dict[str, Any]:
        """How long an episode is."""
        return {"max_steps": self._env.spec.max_steps}

    def cleanup(self) -> None:
        """Free the renderer."""
        self._env.close()
