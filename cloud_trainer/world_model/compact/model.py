"""The compact world model as a checkpoint: predicts the frame k actions ahead, seeded row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from cloud_trainer.world_model.capabilities import (
    COMPACT,
    ActionKind,
    Capabilities,
    beside,
    declaration,
    declared_by,
)
from cloud_trainer.world_model.compact.network import CompactWorldModelConfig, CompactWorldNetwork
from gymnast_core.errors import CheckpointError
from gymnast_core.policies.processor import mixed_precision
from gymnast_core.records.manifest import Manifest, read_checkpoint, write_checkpoint
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import ACTION_DIM, ByteArray, FloatArray, IntArray

ARCHITECTURE = COMPACT
BACKGROUND = "background"


class CompactWorldModel:
    """Network, background and version.

    Attributes:
        network: in eval mode unless a trainer changes it.
        config: its sizes.
        background: (64, 64, 3) uint8, subtracted from every frame.
        batch_size: rows per forward pass when sampling.
        domains: models of the arms whose actions it has learned.
    """

    def __init__(
        self, network: CompactWorldNetwork, background: ByteArray, *, version: str = "unsaved", batch_size: int = 32,
        domains: tuple[str, ...] = (WIDOWX_250S.name,),
    ) -> None:  # fmt: skip
        self.network = network.eval()
        self.config = network.config
        self.background = background
        self.batch_size, self.domains = batch_size, domains
        self._version = version
        self._background = torch.from_numpy(background.astype(np.float32)).permute(2, 0, 1)

    @property
    def version(self) -> str:
        """Id of the checkpoint, "unsaved" before the first save."""
        return self._version

    @property
    def capabilities(self) -> Capabilities:
        """What it declares: the arm's actions, after the episode's first frame and the one now."""
        return Capabilities(
            actions={ActionKind.EE_DELTA7: ACTION_DIM}, image_size=self.config.image_size, context_frames=2,
            domains=self.domains,
        )  # fmt: skip

    def to_input(self, frames_BHWC: ByteArray) -> Tensor:
        """Frames (B, H, W, 3) uint8 -> differences from the background (B, 3, H, W) float32."""
        frames = torch.from_numpy(np.ascontiguousarray(frames_BHWC)).permute(0, 3, 1, 2).float()
        return (frames - self._background) / self.config.pixel_scale

    def to_frames(self, x_BCHW: Tensor) -> ByteArray:
        """Inverse of to_input, rounded and clipped."""
        pixels = (x_BCHW * self.config.pixel_scale + self._background).round().clamp(0, 255)
        return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).to(torch.uint8).numpy())

    def predict(
        self,
        context_BHWC: ByteArray,
        first_BHWC: ByteArray,
        poses_BKP: FloatArray,
        actions_BKA: FloatArray,
        ahead_B: IntArray,
        seeds: Sequence[tuple[int, ...]],
    ) -> ByteArray:
        """Draw the frame ahead_B steps after the context.

        Args:
            context_BHWC: (B, 64, 64, 3) uint8, the frame before the first action.
            first_BHWC: (B, 64, 64, 3) uint8, the first frame of the episode.
            poses_BKP: (B, K+1, 7) commanded poses, the last one repeated past ahead_B.
            actions_BKA: (B, K, 7), zero past ahead_B.
            ahead_B: (B,) in 1..K.
            seeds: B tuples; a row's noise depends on its own alone.

        Returns:
            (B, 64, 64, 3) uint8.
        """
        noise = row_noise(seeds, self.config.image_size)
        parts = []
        for low in range(0, len(seeds), self.batch_size):
            rows = slice(low, low + self.batch_size)
            x = self.sample(
                self.to_input(context_BHWC[rows]),
                self.to_input(first_BHWC[rows]),
                torch.from_numpy(poses_BKP[rows]),
                torch.from_numpy(actions_BKA[rows]),
                torch.from_numpy(ahead_B[rows]),
                noise[rows],
            )
            parts.append(self.to_frames(x))
        return np.concatenate(parts)

    @torch.no_grad()
    def sample(
        self, context: Tensor, first: Tensor, poses: Tensor, actions: Tensor, ahead: Tensor, noise: Tensor
    ) -> Tensor:
        """Walk the flow from noise to a frame in `sampling_steps` Euler steps of the predicted clean frame."""
        return self.walk(noise, context, first, poses, actions, ahead)

    @torch.no_grad()
    def walk(
        self, x: Tensor, context: Tensor, first: Tensor, poses: Tensor, actions: Tensor, ahead: Tensor, *,
        begin: float = 0.0, end: float = 1.0,
    ) -> Tensor:  # fmt: skip
        """Walk part of the flow, between two of the `sampling_steps` levels.

        With x_tau = (1 - tau) noise + tau x, the velocity is (x - x_tau) / (1 - tau) (Lipman et al. 2023, eq. 20-21).

        Args:
            x: (B, 3, H, W) at level begin.
            context: see CompactWorldNetwork.forward(), as the others.
            first: see there.
            poses: see there.
            actions: see there.
            ahead: see there.
            begin: 0 is noise.
            end: 1 is a frame.
        """
        steps = self.config.sampling_steps
        for step in range(round(begin * steps), round(end * steps)):
            tau = torch.full((len(x),), step / steps)
            with mixed_precision():
                clean = self.network(x, context, first, poses, actions, ahead, tau)
            x = x + (clean - x) * (1.0 / (steps - step))
        return x

    def save(
        self, folder: Path, *, parents: tuple[str, ...] = (), lineage: Mapping[str, object] | None = None
    ) -> Manifest:
        """Write an immutable checkpoint folder, weights in bfloat16; this object takes its id, not its rounding."""
        tensors = {k: v.to(torch.bfloat16).contiguous() for k, v in self.network.state_dict().items()}
        tensors[BACKGROUND] = torch.from_numpy(self.background)
        config = asdict(self.config) | declaration(self.capabilities)
        manifest = write_checkpoint(
            folder,
            safetensors.torch.save(tensors),
            kind="world_model",
            architecture=ARCHITECTURE,
            config=config | {name: list(config[name]) for name in ("widths", "camera_matrix")},
            parents=parents,
            lineage=lineage or {},
        )
        self._version = manifest.id
        return manifest

    @classmethod
    def load(cls, folder: Path, *, sampling_steps: int | None = None) -> CompactWorldModel:
        """Read a checkpoint folder.

        Raises:
            CheckpointError: altered, of another kind, or with tensors that do not fit its configuration.
        """
        manifest, weights = read_checkpoint(folder, kind="world_model", architecture=ARCHITECTURE)
        fields = {
            **beside(manifest.config),
            **{name: tuple(manifest.config[name]) for name in ("widths", "camera_matrix")},
        }
        if sampling_steps is not None:
            fields["sampling_steps"] = sampling_steps
        network = CompactWorldNetwork(CompactWorldModelConfig(**fields))
        tensors = safetensors.torch.load(weights)
        try:
            background = tensors.pop(BACKGROUND).numpy()
            network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"{folder}: tensors do not fit the configuration: {error}") from error
        return cls(network, background, version=manifest.id, domains=declared_by(manifest).domains)


def row_noise(seeds: Sequence[tuple[int, ...]], size: int) -> Tensor:
    """Return (B, 3, size, size) standard normal noise; row b from seeds[b] alone."""
    rows = [np.random.default_rng(seed).standard_normal((3, size, size), dtype=np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(rows))
