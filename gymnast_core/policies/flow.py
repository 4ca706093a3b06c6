"""The compact flow policy: instruction and one 64x64 image to a chunk of 5 actions, by flow matching.

About as large as the compact token policy, fp32, CPU. Time runs as in openpi: t = 1 is noise, t = 0 is data,
x_t = t * noise + (1 - t) * data, and the network predicts the velocity noise - data.

Source:
    Lipman et al., "Flow Matching for Generative Modeling", arXiv 2210.02747, eq. 23; conventions and the distribution
    of training times: Physical-Intelligence/openpi @15a9616, src/openpi/models/pi0.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from gymnast_core.errors import CheckpointError, ContractError
from gymnast_core.images import area_downsample
from gymnast_core.policies.exploration import Flow, explorer
from gymnast_core.policies.flow_network import FlowNetwork, FlowPolicyConfig
from gymnast_core.policies.text import bag_of_words
from gymnast_core.records.manifest import Manifest, read_checkpoint, write_checkpoint
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import ACTION_DIM, ActionChunk, BoolArray, ByteArray, FloatArray, Observation, Trace

ARCHITECTURE = "compact_flow"


@dataclass(frozen=True)
class ActionScale:
    """Actions in units of how much they vary: z = (action - mean) / std.

    Attributes:
        mean_A: (7,).
        std_A: (7,), above 0.
    """

    mean_A: FloatArray
    std_A: FloatArray

    @staticmethod
    def of(actions_NA: FloatArray) -> ActionScale:
        """Return the scale of demonstrated actions; an axis that hardly moves is not blown up."""
        floor = np.array([0.005] * 3 + [0.02] * 3 + [0.2], np.float32)
        std = np.maximum(actions_NA.std(axis=0), floor)
        return ActionScale(actions_NA.mean(axis=0).astype(np.float32), std.astype(np.float32))

    def encode(self, actions: FloatArray) -> FloatArray:
        """Actions (..., 7) in SI units to z."""
        return ((actions - self.mean_A) / self.std_A).astype(np.float32)

    def decode(self, z: FloatArray) -> FloatArray:
        """Z (..., 7) to actions in SI units within the arm's limits of a step."""
        actions = z * self.std_A + self.mean_A
        most = np.array([WIDOWX_250S.max_translation_m] * 3 + [WIDOWX_250S.max_rotation_rad] * 3, np.float32)
        actions[..., :6] = np.clip(actions[..., :6], -most, most)
        actions[..., 6] = np.clip(actions[..., 6], 0.0, 1.0)
        return actions.astype(np.float32)

    def to_json(self) -> dict[str, list[float]]:
        """JSON values for a manifest."""
        return {"mean": [float(x) for x in self.mean_A], "std": [float(x) for x in self.std_A]}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> ActionScale:
        """Read what to_json wrote.

        Raises:
            CheckpointError: not seven finite means and positive deviations.
        """
        mean, std = (np.asarray(fields[name], np.float32) for name in ("mean", "std"))
        if mean.shape != (ACTION_DIM,) or std.shape != (ACTION_DIM,) or not ((std > 0) & np.isfinite(mean + std)).all():
            raise CheckpointError(f"normalisation must hold {ACTION_DIM} means and positive deviations: {mean}, {std}")
        return ActionScale(mean, std)


class FlowPolicy:
    """A checkpoint of the flow network, keeping gymnast_core.policies.trainable.LearningPolicy.

    Attributes:
        network: the torch module, in eval mode unless a trainer changes it.
        config: its sizes.
        scale: actions in units of how much they vary.
        exploration: where noise enters when it is sampled.
        temperature: scales that noise.
        row_by_row: act on each row separately, so that a row's actions do not depend on its batch.
    """

    def __init__(
        self, network: FlowNetwork, scale: ActionScale, *, version: str = "unsaved", row_by_row: bool = True
    ) -> None:
        self.network = network.eval()
        self.config = network.config
        self.scale, self.row_by_row = scale, row_by_row
        self.temperature, self.exploration = self.config.temperature, self.config.exploration
        self._version = version

    @property
    def version(self) -> str:
        """Id of the checkpoint, "unsaved" before the first save."""
        return self._version

    @property
    def chunk_length(self) -> int:
        """K."""
        return self.config.chunk_length

    @torch.no_grad()
    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Choose K actions for each row; without a generator the flow starts at zero and nothing is drawn."""
        if len(instruction) != observation.batch_size:
            raise ContractError(f"{len(instruction)} instructions for {observation.batch_size} rows; pass one per row")
        images = area_downsample(observation.frames_of(self.config.camera), self.config.image_size)
        shape = (len(instruction), self.chunk_length, ACTION_DIM)
        how = explorer(self.exploration, self.temperature)
        drawn = None if rng is None else how.draw(shape, self.config.steps, rng)
        rows = [slice(b, b + 1) for b in range(shape[0])] if self.row_by_row else [slice(None)]
        z, trace, log_probs = [], [], []
        for row in rows:
            flow = self._flow(images[row], instruction[row])
            if drawn is None:
                z.append(flow.run(torch.zeros((flow.rows, *shape[1:]))))
                continue
            mine = {name: array[row] for name, array in drawn.items()}
            chosen = how.sample(flow, mine)
            z.append(chosen.z)
            trace.append(chosen.trace)
            log_probs.append(how.log_probs(flow, chosen.trace))
        actions = self.scale.decode(torch.cat(z).numpy())
        if drawn is None:
            return ActionChunk(actions, self._version)
        joined = {name: np.concatenate([part[name] for part in trace]) for name in trace[0]}
        return ActionChunk(actions, self._version, joined, torch.cat(log_probs).numpy())

    def training_frames(self, frames_NHWC: ByteArray) -> ByteArray:
        """Prepare (N, H, W, 3) frames for the methods below."""
        return area_downsample(frames_NHWC, self.config.image_size)

    def log_probs(self, images: ByteArray, instructions: Sequence[str], trace: Trace) -> Tensor:
        """Return (N, K, 7) log-probabilities of traced chunks at the policy's temperature, with gradients."""
        return explorer(self.exploration, self.temperature).log_probs(self._flow(images, instructions), trace)

    def divergence(self, base: FlowPolicy, images: ByteArray, instructions: Sequence[str]) -> Tensor:
        """Return the mean squared difference of velocities along the base's own path from zero."""
        flow = self._flow(images, instructions)
        with torch.no_grad():
            theirs = base._flow(images, instructions)
            path = theirs.path(torch.zeros((theirs.rows, self.chunk_length, ACTION_DIM)))
            target = [theirs.velocity(x, t) for x, t in path]
        apart = [(flow.velocity(x, t) - aim).square().mean() for (x, t), aim in zip(path, target, strict=True)]
        return torch.stack(apart).mean()

    def matching_loss(
        self, images: ByteArray, instructions: Sequence[str], actions_NKA: FloatArray, valid_NK: BoolArray,
        rng: np.random.Generator, *, proprio_NP: FloatArray | None = None, draws: int = 8,
    ) -> Tensor:  # fmt: skip
        """Return the flow-matching loss of demonstrated chunks: squared error of the velocity, mean over valid steps.

        Args:
            images: (N, S, S, 3) from training_frames.
            instructions: N.
            actions_NKA: (N, K, 7) in SI units.
            valid_NK: (N, K) bool.
            rng: of times and noise.
            proprio_NP: not looked at.
            draws: times and noises per window; the image is encoded once for all.
        """
        clean = torch.from_numpy(self.scale.encode(actions_NKA)).repeat_interleave(draws, 0)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        time_B = torch.from_numpy((rng.beta(1.5, 1.0, len(clean)) * 0.999 + 0.001).astype(np.float32))
        flow = self._flow(images, instructions).repeated(draws)
        x = time_B[:, None, None] * noise + (1 - time_B[:, None, None]) * clean
        error = (flow.velocity(x, time_B) - (noise - clean)).square().mean(-1)
        valid = torch.from_numpy(valid_NK).repeat_interleave(draws, 0)
        return (error * valid).sum() / valid.sum().clamp(min=1)

    def _flow(self, images: ByteArray, instructions: Sequence[str]) -> Flow:
        bags = torch.from_numpy(bag_of_words(instructions, self.config.text_buckets))
        seen = self.network.look(torch.from_numpy(np.ascontiguousarray(images)), bags)
        return Flow(self.network.velocity, seen, self.config.steps)

    def save(
        self, folder: Path, *, parents: tuple[str, ...] = (), lineage: Mapping[str, object] | None = None
    ) -> Manifest:
        """Write an immutable checkpoint folder; this object takes its id as version."""
        manifest = write_checkpoint(
            folder,
            safetensors.torch.save({k: v.contiguous() for k, v in self.network.state_dict().items()}),
            kind="policy",
            architecture=ARCHITECTURE,
            config=self.config.to_json(),
            parents=parents,
            normalisation=self.scale.to_json(),
            lineage=lineage or {},
        )
        self._version = manifest.id
        return manifest

    @classmethod
    def load(cls, folder: Path, *, row_by_row: bool = True) -> FlowPolicy:
        """Read a checkpoint folder.

        Raises:
            CheckpointError: altered, of another kind, or with tensors that do not fit its configuration.
        """
        manifest, weights = read_checkpoint(folder, kind="policy", architecture=ARCHITECTURE)
        network = FlowNetwork(FlowPolicyConfig.from_json(manifest.config))
        try:
            network.load_state_dict(safetensors.torch.load(weights))
        except RuntimeError as error:
            raise CheckpointError(f"{folder}: tensors do not fit the configuration: {error}") from error
        return cls(network, ActionScale.from_json(manifest.normalisation), version=manifest.id, row_by_row=row_by_row)
