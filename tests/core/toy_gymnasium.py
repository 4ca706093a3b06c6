"""A Gymnasium environment of another house: a point that should come to a goal, seen as a dict, moved by 4 numbers."""

from __future__ import annotations

import os
import time
from typing import Any

import gymnasium
import numpy as np

MAPPING: dict[str, Any] = {
    "instruction": "reach the goal", "max_steps": 5, "repeat": 2, "success": "info.success", "image": "pixels.front",
    "camera": "front", "robot": "toy",
    "action": [{"of": axis, "scale": 10.0} for axis in ("dx", "dy", "dz")]
    + [{"of": "gripper", "scale": -2.0, "offset": 1.0}],
    "proprioception": ["state[0]", "state[1]", {"at": "state[2]", "scale": 1.0, "offset": 0.5}, 0, 0, 0, "state[3]"],
}  # fmt: skip


class Toy(gymnasium.Env):  # type: ignore[misc]
    """10 of its units are a metre; a gripper of -1 is open."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, fault: str = "", after: int = 3, render_mode: str | None = None) -> None:
        self.fault, self.after, self.render_mode = fault, after, render_mode
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
        picture = gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(
            state=gymnasium.spaces.Box(-9, 9, (4,), np.float64), pixels=gymnasium.spaces.Dict(front=picture)
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place, self.grip, self.steps = self.np_random.uniform(-0.1, 0.1, 3), 1.0, 0
        return self._seen(), {"success": 0.0}

    def step(self, action: np.ndarray) -> Any:
        self.steps += 1
        if self.fault and self.steps > self.after:
            if self.fault == "exits":
                os._exit(7)
            if self.fault == "hangs":
                time.sleep(600)
            raise RuntimeError("the physics exploded")
        self.place = self.place + action[:3] / 10.0
        self.grip = float(action[3] < 0)
        return self._seen(), 0.0, False, False, {"success": float(np.linalg.norm(self.place) < 0.08)}

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            return None
        return np.full((16, 16, 3), int(100 + 100 * self.place[0]), np.uint8)

    def _seen(self) -> dict[str, Any]:
        picture = np.zeros((16, 16, 3), np.uint8)
        x, y = np.clip(8 + 40 * self.place[:2], 0, 15).astype(int)
        picture[x, y] = 255
        picture[0, :, 0] = int(np.clip(128 + 200 * self.place[2], 0, 255))
        return {"state": np.append(self.place, self.grip), "pixels": {"front": picture}}


gymnasium.register("toy/Reach-v0", entry_point=Toy, disable_env_checker=True)
