"""LeRobot's side of a served policy: no weights, every chunk is asked for."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import OBS_STATE
from torch import Tensor

from lerobot_policy_gymnast.asking import ServedPolicy
from lerobot_policy_gymnast.configuration_gymnast import GymnastConfig


class GymnastPolicy(PreTrainedPolicy):
    """A policy that a Gymnast trainer runs.

    Args:
        config: where it is, and what it is shown.
        given: what LeRobot hands to every policy; statistics are the trainer's affair.

    Raises:
        ValueError: it cannot drive a robot of these features.
        PolicyNotAnsweredError: nobody serves there.
    """

    config_class = GymnastConfig
    name = "gymnast"

    def __init__(self, config: GymnastConfig, **given: Any) -> None:
        super().__init__(config)
        config.validate_features()
        self._served = ServedPolicy(
            config.address, None if config.insecure else Path(config.identity), config.deadline_s
        )
        self._queue: deque[Tensor] = deque()

    @property
    def policy_version(self) -> str:
        """Id of the checkpoint that answered last."""
        return self._served.version

    def reset(self) -> None:
        """Forget what is left of a chunk."""
        self._queue.clear()

    def predict_action_chunk(self, batch: dict[str, Any], **options: Any) -> Tensor:
        """Return (B, K, 7): deltas of the end effector's target [m, rad], and the gripper (1 open).

        Args:
            batch: images (B, 3, H, W) in [0, 1], observation.state (B, 7), task: B texts, or one.
            options: of other policies, e.g. noise; this one takes none.

        Raises:
            PolicyNotAnsweredError: no answer in time; nothing may be executed.
        """
        state = batch[OBS_STATE]
        task = batch.get("task") or ""
        instructions = [task] * len(state) if isinstance(task, str) else list(task)
        frames = {camera: _frames(batch[key]) for key, camera in self.config.seen_cameras.items()}
        proprio_BP = state.detach().cpu().numpy().astype(np.float32)
        chunk_BKA = self._served.chunk(frames, proprio_BP, instructions, time.time_ns())
        return torch.from_numpy(chunk_BKA).to(state.device)

    def select_action(self, batch: dict[str, Any], **options: Any) -> Tensor:
        """Return (B, 7): the next action of the chunk, asking for another where it is used up; raises as above."""
        if not self._queue:
            chunk_BKA = self.predict_action_chunk(batch)
            self._queue.extend(chunk_BKA[:, : self.config.n_action_steps or None].unbind(1))
        return self._queue.popleft()

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any] | None]:
        """It is not trained here.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a served policy is trained by its trainer: gymnast jobs submit")

    def get_optim_params(self) -> dict[str, Any]:
        """It has none here."""
        return {}


def _frames(images: Tensor) -> np.ndarray:
    """(B, H, W, 3) uint8, as the camera took them, of LeRobot's (B, 3, H, W) in [0, 1]."""
    return np.ascontiguousarray((images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy())
