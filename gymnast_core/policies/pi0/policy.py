"""pi0 and pi0.5 as policies: frames, instructions and state in, action chunks with log-probabilities out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from gymnast_core.errors import CheckpointError, ConfigError, ContractError
from gymnast_core.policies.exploration import Flow, explorer
from gymnast_core.policies.inpainting import check_committed, run_rows_after
from gymnast_core.policies.matching import matching_error, path_distance, run_rows, within_limits
from gymnast_core.policies.pi0 import images as image_pipeline
from gymnast_core.policies.pi0.config import Pi0Config
from gymnast_core.policies.pi0.network import Pi0Network, assign
from gymnast_core.policies.pi0.norms import NormStats
from gymnast_core.policies.pi0.prompt import PiPrompts
from gymnast_core.policies.placement import device_of
from gymnast_core.policy import Committed
from gymnast_core.records.manifest import Manifest, read_checkpoint, write_checkpoint
from gymnast_core.robots import robot_named
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import (
    ACTION_DIM,
    PROPRIO_DIM,
    ActionChunk,
    Asked,
    BoolArray,
    ByteArray,
    FloatArray,
    IntArray,
    Observation,
    Trace,
)

ARCHITECTURE = "pi0"
TOKENIZER_KEY = "tokenizer.json"
"""Name under which the tokenizer file's bytes travel inside weights.safetensors."""
PROPRIO_KEY = "proprio"
"""In a trace: what the state was, without which a chunk has no density."""
TRAINING_DRAWS = 4
"""Times and noises per demonstrated window: beside the prefix, which they share, the expert costs little."""


class Pi0Policy:
    """A checkpoint of pi0 or pi0.5, keeping gymnast_core.policies.trainable.LearningPolicy.

    Attributes:
        network: the torch module; eval mode unless a trainer changes it. Its action expert learns, the rest is frozen.
        config: its sizes and its way of preparing inputs.
        prompts: instructions to ids.
        statistics: {"state", "actions"}, entries of norm_stats.
        exploration: where noise enters when it is sampled.
        temperature: scales that noise.
        row_by_row: act on each row separately, so that a row's actions do not depend on its batch. Without, rows that
            see the same (the beginning of a group) share one prefix.
    """

    def __init__(
        self, network: Pi0Network, prompts: PiPrompts, statistics: Mapping[str, Any], *, version: str = "unsaved",
        row_by_row: bool = True, robot: RobotSpec = WIDOWX_250S,
    ) -> None:  # fmt: skip
        self.network, self.config, self.prompts = network.eval(), network.config, prompts
        self.statistics, self.row_by_row, self._robot = statistics, row_by_row, robot
        how, epsilon = self.config.normalisation, self.config.norm_epsilon
        self._state, self._actions = (
            NormStats.read(statistics.get(name, {}), name=name, width=width, how=how, epsilon=epsilon)
            for name, width in (("state", PROPRIO_DIM), ("actions", ACTION_DIM))
        )
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

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        device: torch.device = self.network.action_out_proj.weight.device
        return device

    def served_on(self, device: str) -> Pi0Policy:
        """Return it ready to act on a device, in bfloat16 on a GPU; its network is moved, not copied."""
        where = device_of(device)
        if where.type != "cpu":
            self.network.to(where, torch.bfloat16)
        return self

    @torch.no_grad()
    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Choose K actions for each row; without a generator the flow starts at zero and nothing is drawn."""
        if len(instruction) != observation.batch_size:
            raise ContractError(f"{len(instruction)} instructions for {observation.batch_size} rows; pass one per row")
        frames, proprio_BP = self._frames(observation), observation.proprio_BP
        shape = (len(instruction), self.chunk_length, self.config.action_width)
        z, trace, log_probs = run_rows(
            lambda row: self._flow([camera[row] for camera in frames], instruction[row], proprio_BP[row]),
            explorer(self.exploration, self.temperature), shape, self.config.steps, rng, row_by_row=self.row_by_row,
        )  # fmt: skip
        actions = within_limits(self._actions.unnormalise(z[..., :ACTION_DIM]), self._robot)
        if rng is None:
            return ActionChunk(actions, self._version)
        return ActionChunk(actions, self._version, {**trace, PROPRIO_KEY: proprio_BP}, log_probs)

    @property
    def continues(self) -> bool:
        """Every flow can plan on from what is committed."""
        return True

    @torch.no_grad()
    def act_after(self, committed: Committed, observation: Observation, instruction: Sequence[str]) -> ActionChunk:
        """Choose K actions that begin as committed; see gymnast_core.policy.ContinuingPolicy.act_after."""
        check_committed(committed, len(instruction), self.chunk_length)
        frames, proprio_BP = self._frames(observation), observation.proprio_BP
        z = run_rows_after(
            lambda row: self._flow([camera[row] for camera in frames], instruction[row], proprio_BP[row]),
            _padded(self._actions.normalise(committed.actions_BKA), self.config.action_width), committed.weight_K,
            row_by_row=self.row_by_row,
        )  # fmt: skip
        actions = within_limits(self._actions.unnormalise(z[..., :ACTION_DIM]), self._robot)
        return ActionChunk(actions, self._version)

    def training_frames(self, frames_NHWC: ByteArray) -> ByteArray:
        """Return what the methods below take: one camera's frames themselves.

        Raises:
            ConfigError: this checkpoint looks through more cameras than one, which training cannot show it.
        """
        if any(self.config.cameras[1:]):
            raise ConfigError(
                f"this checkpoint looks through cameras {self.config.cameras}, and training shows it one; convert the "
                "published folder without --wrist-camera"
            )
        return frames_NHWC

    def log_probs(self, images: ByteArray, instructions: Sequence[str], trace: Trace) -> Tensor:
        """Return (N, K, 7) log-probabilities of traced chunks at the policy's temperature; gradients in the expert.

        Numbers beyond the arm's seven are the network's own affair: they are part of the state the flow was in, and
        weigh nothing.
        """
        flow = self._flow([images], instructions, trace[PROPRIO_KEY])
        return explorer(self.exploration, self.temperature).log_probs(flow, trace)[..., :ACTION_DIM]

    def divergence(
        self, base: Pi0Policy, images: ByteArray, instructions: Sequence[str], *, edited: Asked | None = None
    ) -> Tensor:
        """Return the mean squared difference of velocities along the base's own path from zero, at the mean state."""
        shape = (len(instructions), self.chunk_length, self.config.action_width)
        proprio_BP = np.repeat(self._state.unnormalise(np.zeros((1, PROPRIO_DIM))), len(instructions), axis=0)
        with torch.no_grad():
            theirs = base._flow([images], instructions, proprio_BP)
        images, instructions = edited or (images, instructions)
        return path_distance(self._flow([images], instructions, proprio_BP), theirs, shape)

    def matching_loss(
        self, images: ByteArray, instructions: Sequence[str], actions_NKA: FloatArray, valid_NK: BoolArray,
        rng: np.random.Generator, *, proprio_NP: FloatArray | None = None, draws: int = TRAINING_DRAWS,
    ) -> Tensor:  # fmt: skip
        """Return the flow-matching loss of demonstrated chunks, mean over valid steps and all the network's numbers.

        Args:
            images: (N, H, W, 3) from training_frames.
            instructions: N.
            actions_NKA: (N, K, 7) in SI units.
            valid_NK: (N, K) bool.
            rng: of times and noise.
            proprio_NP: (N, 7) in SI units.
            draws: times and noises per window; what was seen is computed once for all.

        Raises:
            ContractError: no proprio_NP.
        """
        if proprio_NP is None:
            raise ContractError("pi0 looks at the arm's state, which these episodes or rollouts were kept without")
        flow = self._flow([images], instructions, proprio_NP)
        clean = _padded(self._actions.normalise(actions_NKA), self.config.action_width)
        return matching_error(flow, clean, valid_NK, rng, draws=draws)

    def _frames(self, observation: Observation) -> list[ByteArray]:
        """The frames of the cameras it has; an absent one is left out of the sequence, which masking it amounts to."""
        wrists = [name for name in self.config.cameras[1:] if name]
        return [observation.frames_of(name) for name in (self.config.camera, *wrists)]

    def _flow(self, frames: Sequence[ByteArray], instructions: Sequence[str], proprio_BP: FloatArray) -> Flow:
        """The velocity field of some rows; rows with the same frames and prompt share one prefix."""
        state_BD = self._state.normalise(proprio_BP)
        ids_BL, text_BL = self.prompts.batch(instructions, state_BD)
        first_D, which_B = _distinct(frames, ids_BL)
        pixels = np.stack([self._pixels(camera[first_D]) for camera in frames], axis=1)
        device = self.device
        where = (torch.from_numpy(array).to(device) for array in (pixels, ids_BL[first_D], text_BL[first_D]))
        prefix = self.network.look(*where)
        state_BW = torch.from_numpy(_padded(state_BD, self.config.state_width)).to(device)
        shared_B = torch.from_numpy(which_B)

        def field(row_N1: Tensor, x: Tensor, time_N: Tensor) -> Tensor:
            row_N = row_N1[:, 0]
            seen, state = prefix.rows(shared_B[row_N]), state_BW[row_N.to(device)]
            return self.network.velocity(seen, state, x.to(device), time_N.to(device)).cpu()

        return Flow(field, torch.arange(len(instructions))[:, None], self.config.steps)

    def _pixels(self, frames_BHWC: ByteArray) -> FloatArray:
        return image_pipeline.to_unit(image_pipeline.resize_with_pad(frames_BHWC, self.config.vision.image_size))

    def save(
        self, folder: Path, *, parents: tuple[str, ...] = (), lineage: Mapping[str, Any] | None = None
    ) -> Manifest:
        """Write an immutable checkpoint folder, tokenizer included; this object takes its id as version.

        The weights pass through memory once: a full-size bf16 checkpoint needs 7 GB free.
        """
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        tensors[TOKENIZER_KEY] = torch.frombuffer(bytearray(self.prompts.source.encode()), dtype=torch.uint8)
        manifest = write_checkpoint(
            folder,
            safetensors.torch.save(tensors),
            kind="policy",
            architecture=ARCHITECTURE,
            config=json.loads(json.dumps(self.config.to_json())),
            parents=parents,
            normalisation={name: dict(self.statistics[name]) for name in ("state", "actions")},
            lineage=lineage or {},
        )
        self._version = manifest.id
        return manifest

    @classmethod
    def load(cls, folder: Path, *, row_by_row: bool = True) -> Pi0Policy:
        """Read a checkpoint folder that save wrote.

        Raises:
            CheckpointError: altered, of another kind, or with tensors that do not fit its configuration.
            ConfigError: nobody here knows the arm that it was made for.
        """
        manifest, weights = read_checkpoint(folder, kind="policy", architecture=ARCHITECTURE)
        config = Pi0Config.from_json(manifest.config)
        tensors = safetensors.torch.load(weights)
        source = tensors.pop(TOKENIZER_KEY, None)
        if source is None:
            raise CheckpointError(f"{folder} carries no {TOKENIZER_KEY}; it was not written by Pi0Policy.save")
        network = Pi0Network.without_memory(config)
        assign(network, tensors, where=str(folder))
        prompts = PiPrompts(source.numpy().tobytes().decode(), config)
        return cls(
            network, prompts, manifest.normalisation, version=manifest.id, row_by_row=row_by_row,
            robot=robot_named(manifest.robot_model),
        )  # fmt: skip


def _padded(numbers: FloatArray, width: int) -> FloatArray:
    """The numbers with zeros behind them up to a width."""
    short = width - numbers.shape[-1]
    return np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, short)])


def _distinct(frames: Sequence[ByteArray], ids_BL: IntArray) -> tuple[IntArray, IntArray]:
    """Rows that differ (D,) and which of them each row is (B,)."""
    places: dict[tuple[bytes, ...], int] = {}
    first: list[int] = []
    which = np.zeros(len(ids_BL), np.int64)
    for row, ids in enumerate(ids_BL):
        key = (ids.tobytes(), *(camera[row].tobytes() for camera in frames))
        if key not in places:
            places[key] = len(first)
            first.append(row)
        which[row] = places[key]
    return np.array(first, np.int64), which
