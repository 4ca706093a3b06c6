"""The compact planner as a checkpoint: a plan's frames by flow matching, its actions by inverse dynamics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from cloud_trainer.world_model.capabilities import (
    COMPACT_PLANNER,
    ActionKind,
    Capabilities,
    beside,
    declaration,
    declared_by,
)
from cloud_trainer.world_model.compact.model import BACKGROUND
from cloud_trainer.world_model.planner.network import InverseDynamics, PlannerConfig, PlanNetwork
from cloud_trainer.world_model.planner.plans import VideoPlans
from gymnast_core.errors import CheckpointError
from gymnast_core.policies.processor import mixed_precision
from gymnast_core.policies.text import bag_of_words
from gymnast_core.records.manifest import Manifest, read_checkpoint, write_checkpoint
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import ByteArray, FloatArray

ARCHITECTURE = COMPACT_PLANNER
_TUPLES = ("widths", "keypoint_widths")


class CompactPlanner:
    """Keeps planner.plans.Planner.

    Attributes:
        config: its sizes.
        network: draws plans, in eval mode unless a trainer changes it.
        inverse: reads their actions.
        background: (H, W, 3) uint8, subtracted from every frame.
        robot: the arm whose actions it reads.
    """

    def __init__(
        self, network: PlanNetwork, inverse: InverseDynamics, background: ByteArray, *, version: str = "unsaved",
        robot: RobotSpec = WIDOWX_250S,
    ) -> None:  # fmt: skip
        self.network, self.inverse, self.config = network.eval(), inverse.eval(), network.config
        self.background, self._version, self.robot = background, version, robot
        self._background = torch.from_numpy(background.astype(np.float32)).permute(2, 0, 1)

    @staticmethod
    def fresh(
        config: PlannerConfig, background: ByteArray, *, seed: int, robot: RobotSpec = WIDOWX_250S
    ) -> CompactPlanner:
        """Return an untrained one."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return CompactPlanner(PlanNetwork(config), InverseDynamics(config), background, robot=robot)

    @property
    def version(self) -> str:
        """Id of the checkpoint, "unsaved" before the first save."""
        return self._version

    @property
    def image_size(self) -> int:
        """See Planner."""
        return self.config.image_size

    @property
    def steps(self) -> int:
        """See Planner."""
        return self.config.chunk * self.config.chunks

    def to_input(self, frames_NHWC: ByteArray) -> Tensor:
        """Frames (..., H, W, 3) uint8 -> differences from the background (..., 3, H, W) float32."""
        frames = torch.from_numpy(np.ascontiguousarray(frames_NHWC)).movedim(-1, -3).float()
        return (frames - self._background) / self.config.pixel_scale

    @torch.no_grad()
    def plan(self, frames_BHWC: ByteArray, instructions: Sequence[str], seeds: Sequence[tuple[int, ...]]) -> VideoPlans:
        """See Planner."""
        config, now = self.config, self.to_input(frames_BHWC)
        bags = torch.from_numpy(bag_of_words(instructions, config.text_buckets))
        shape = (3 * config.chunks, config.image_size, config.image_size)
        noise = np.stack([np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) for seed in seeds])
        x = torch.from_numpy(noise)
        for step in range(config.sampling_steps):
            clean = self.denoised(x, now, bags, torch.full((len(x),), step / config.sampling_steps))
            x = x + (clean - x) / (config.sampling_steps - step)
        film = torch.cat([now[:, None], x.view(len(x), config.chunks, *now.shape[1:])], dim=1)
        actions = self._read(film)
        pixels = (film * config.pixel_scale + self._background).round().clamp(0, 255).to(torch.uint8)
        return VideoPlans(
            tuple(instructions), np.arange(config.chunks + 1, dtype=np.int64) * config.chunk,
            np.ascontiguousarray(pixels.movedim(2, -1).numpy()), actions, self.version,
        )  # fmt: skip

    @torch.no_grad()
    def actions_between(self, frames_BFHWC: ByteArray) -> FloatArray:
        """Return the (B, T, 7) actions that lead from frame to frame, within an arm's limits.

        Args:
            frames_BFHWC: (B, chunks + 1, image_size, image_size, 3) uint8, a chunk apart.

        Raises:
            CheckpointError: its weights lead to actions that are not finite.
        """
        return self._read(self.to_input(frames_BFHWC))

    def _read(self, film_BFCHW: Tensor) -> FloatArray:
        actions = self.inverse.actions(film_BFCHW[:, :-1].flatten(0, 1), film_BFCHW[:, 1:].flatten(0, 1))
        if not bool(actions.isfinite().all() and film_BFCHW.isfinite().all()):
            raise CheckpointError(f"planner {self.version} draws or asks for what is no number; train it anew")
        low, high = self.robot.action_low_A, self.robot.action_high_A
        inside: FloatArray = np.clip(actions.reshape(len(film_BFCHW), self.steps, -1).numpy(), low, high)
        return inside

    def denoised(self, noisy: Tensor, now: Tensor, bags: Tensor, tau: Tensor) -> Tensor:
        """Return what the network takes for the clean frames, see PlanNetwork.forward."""
        with mixed_precision():
            clean: Tensor = self.network(noisy, now, bags, tau)
        return clean

    def save(self, folder: Path, *, lineage: Mapping[str, object] | None = None) -> Manifest:
        """Write an immutable checkpoint folder, weights in bfloat16; this object takes its id, not its rounding."""
        parts = {"network": self.network, "inverse": self.inverse}
        tensors = {
            f"{part}.{name}": (value.to(torch.bfloat16) if value.is_floating_point() else value).contiguous()
            for part, module in parts.items()
            for name, value in module.state_dict().items()
        }
        tensors[BACKGROUND] = torch.from_numpy(self.background)
        sizes = asdict(self.config)
        able = Capabilities(
            actions={ActionKind.TEXT: self.config.text_buckets}, image_size=self.image_size, context_frames=1,
            horizon=self.steps, domains=(self.robot.name,),
        )  # fmt: skip
        manifest = write_checkpoint(
            folder, safetensors.torch.save(tensors), kind="world_model", architecture=ARCHITECTURE,
            config=sizes | {name: list(sizes[name]) for name in _TUPLES} | declaration(able), lineage=lineage or {},
        )  # fmt: skip
        self._version = manifest.id
        return manifest

    @classmethod
    def load(cls, folder: Path) -> CompactPlanner:
        """Read a checkpoint folder.

        Raises:
            CheckpointError: altered, of another kind, or with tensors that do not fit its configuration.
        """
        manifest, weights = read_checkpoint(folder, kind="world_model", architecture=ARCHITECTURE)
        tensors, robot = safetensors.torch.load(weights), declared_by(manifest).arm
        return cls.of(beside(manifest.config), tensors, folder, version=manifest.id, robot=robot)

    @classmethod
    def of(
        cls, sizes: Mapping[str, Any], tensors: dict[str, Tensor], folder: Path, *, version: str, robot: RobotSpec
    ) -> CompactPlanner:
        """Return the planner of a checkpoint's sizes, tensors and arm.

        Raises:
            CheckpointError: the tensors do not fit the sizes; names the folder.
        """
        try:
            config = PlannerConfig(**{**sizes, **{name: tuple(sizes[name]) for name in _TUPLES}})
            network, inverse = PlanNetwork(config), InverseDynamics(config)
            background = tensors.pop(BACKGROUND).numpy()
            for part, module in (("network", network), ("inverse", inverse)):
                own = {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(part)}
                module.load_state_dict(
                    {name: value.float() if value.is_floating_point() else value for name, value in own.items()}
                )
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{folder}: tensors do not fit the configuration: {error}") from error
        return cls(network, inverse, background, version=version, robot=robot)
