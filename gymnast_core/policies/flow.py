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
from gymnast_core.policies.inpainting import check_committed, run_rows_after
from gymnast_core.policies.matching import matching_error, path_distance, run_rows, within_limits
from gymnast_core.policies.text import bag_of_words
from gymnast_core.policy import Committed
from gymnast_core.records.manifest import Manifest, read_checkpoint, write_checkpoint
from gymnast_core.robots import robot_named
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import ACTION_DIM, ActionChunk, Asked, BoolArray, ByteArray, FloatArray, Observation, Trace

ARCHITECTURE = "compact_flow"


@dataclass(frozen=True)
class ActionScale:
    """Actions in units of how much they vary: z = (action - mean) / std.

    Attributes:
        mean_A: (7,).
        std_A: (7,), above 0.
        robot: the arm whose limits of a step hold.
    """

    mean_A: FloatArray
    std_A: FloatArray
    robot: RobotSpec = WIDOWX_250S

    @staticmethod
    def of(actions_NA: FloatArray, robot: RobotSpec = WIDOWX_250S) -> ActionScale:
        """Return the scale of an arm's demonstrated actions; an axis that hardly moves is not blown up."""
        floor = np.array([0.005] * 3 + [0.02] * 3 + [0.2], np.float32)
        std = np.maximum(actions_NA.std(axis=0), floor)
        return ActionScale(actions_NA.mean(axis=0).astype(np.float32), std.astype(np.float32), robot)

    def encode(self, actions: FloatArray) -> FloatArray:
        """Actions (..., 7) in SI units to z."""
        return ((actions - self.mean_A) / self.std_A).astype(np.float32)

    def decode(self, z: FloatArray) -> FloatArray:
        """Z (..., 7) to actions in SI units within the arm's limits of a step."""
        return within_limits(z * self.std_A + self.mean_A, self.robot)

    def to_json(self) -> dict[str, list[float]]:
        """JSON values for a manifest."""
        return {"mean": [float(x) for x in self.mean_A], "std": [float(x) for x in self.std_A]}

    @staticmethod
    def from_json(fields: Mapping[str, Any], robot: RobotSpec = WIDOWX_250S) -> ActionScale:
        """Read what to_json wrote, for an arm.

        Raises:
            CheckpointError: not seven finite means and positive deviations.
        """
        mean, std = (np.asarray(fields[name], np.float32) for name in ("mean", "std"))
        if mean.shape != (ACTION_DIM,) or std.shape != (ACTION_DIM,) or not ((std > 0) & np.isfinite(mean + std)).all():
            raise CheckpointError(f"normalisation must hold {ACTION_DIM} means and positive deviations: {mean}, {std}")
        return ActionScale(mean, std, robot)


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
        z, trace, log_probs = run_rows(
            lambda row: self._flow(images[row], instruction[row]), explorer(self.exploration, self.temperature), shape,
            self.config.steps, rng, row_by_row=self.row_by_row,
        )  # fmt: skip
        return ActionChunk(self.scale.decode(z), self._version, trace, log_probs)

    @property
    def continues(self) -> bool:
        """Every flow can plan on from what is committed."""
        return True

    @torch.no_grad()
    def act_after(self, committed: Committed, observation: Observation, instruction: Sequence[str]) -> ActionChunk:
        """Choose K actions that begin as committed; see gymnast_core.policy.ContinuingPolicy.act_after."""
        check_committed(committed, len(instruction), self.chunk_length)
        images = area_downsample(observation.frames_of(self.config.camera), self.config.image_size)
        z = run_rows_after(
            lambda row: self._flow(images[row], instruction[row]), self.scale.encode(committed.actions_BKA),
            committed.weight_K, row_by_row=self.row_by_row,
        )  # fmt: skip
        return ActionChunk(self.scale.decode(z), self._version)

    def training_frames(self, frames_NHWC: ByteArray) -> ByteArray:
        """Prepare (N, H, W, 3) frames for the methods below."""
        return area_downsample(frames_NHWC, self.config.image_size)

    def log_probs(self, images: ByteArray, instructions: Sequence[str], trace: Trace) -> Tensor:
        """Return (N, K, 7) log-probabilities of traced chunks at the policy's temperature, with gradients."""
        return explorer(self.exploration, self.temperature).log_probs(self._flow(images, instructions), trace)

    def divergence(
        self, base: FlowPolicy, images: ByteArray, instructions: Sequence[str], *, edited: Asked | None = None
    ) -> Tensor:
        """Return the mean squared difference of velocities along the base's own path from zero."""
        with torch.no_grad():
            theirs = base._flow(images, instructions)
        shape = (theirs.rows, self.chunk_length, ACTION_DIM)
        return path_distance(self._flow(*(edited or (images, instructions))), theirs, shape)

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
        clean = self.scale.encode(actions_NKA)
        return matching_error(self._flow(images, instructions), clean, valid_NK, rng, draws=draws)

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
            ConfigError: nobody here knows the arm that it was made for.
        """
        manifest, weights = read_checkpoint(folder, kind="policy", architecture=ARCHITECTURE)
        network = FlowNetwork(FlowPolicyConfig.from_json(manifest.config))
        try:
            network.load_state_dict(safetensors.torch.load(weights))
        except RuntimeError as error:
            raise CheckpointError(f"{folder}: tensors do not fit the configuration: {error}") from error
        scale = ActionScale.from_json(manifest.normalisation, robot_named(manifest.robot_model))
        return cls(network, scale, version=manifest.id, row_by_row=row_by_row)
