"""OpenVLA as a gymnast_core.policy.Policy: frames and instructions in, action chunks with log-probabilities out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from gymnast_core.errors import CheckpointError, ConfigError, ContractError
from gymnast_core.policies.openvla import images as image_pipeline
from gymnast_core.policies.openvla.config import OpenVLAConfig
from gymnast_core.policies.openvla.model import OpenVLANetwork, assign
from gymnast_core.policies.openvla.prompt import PromptTokenizer
from gymnast_core.policies.openvla.serving import Serving, prepare
from gymnast_core.policies.openvla.tokens import Statistics, decode_ids
from gymnast_core.policies.sampling import choose_tokens, picked_log_probs, token_divergence
from gymnast_core.records.manifest import Manifest, read_checkpoint, write_checkpoint
from gymnast_core.types import ACTION_DIM, ActionChunk, Asked, ByteArray, FloatArray, IntArray, Observation, Trace

ARCHITECTURE = "openvla"
TOKENIZER_KEY = "tokenizer.json"
"""Name under which the tokenizer file's bytes travel inside weights.safetensors."""


class OpenVLAPolicy:
    """A checkpoint of OpenVLA or OpenVLA-OFT.

    Attributes:
        network: the torch module; eval mode unless a trainer changes it.
        config: its sizes and its way of preparing inputs.
        tokenizer: instructions to ids.
        action_statistics: un-normalise actions.
        proprio_statistics: normalise proprioception, where the model takes it.
        temperature: of sampling and log-probabilities.
    """

    def __init__(
        self,
        network: OpenVLANetwork,
        tokenizer: PromptTokenizer,
        action_statistics: Statistics,
        *,
        proprio_statistics: Statistics | None = None,
        version: str = "unsaved",
        temperature: float | None = None,
    ) -> None:
        if network.config.proprio and proprio_statistics is None:
            raise ConfigError("this checkpoint takes proprioception but its statistics have no 'proprio' entry")
        self.network = network.eval()
        self.config = network.config
        self.tokenizer = tokenizer
        self.action_statistics = action_statistics
        self.proprio_statistics = proprio_statistics
        self.temperature = self.config.temperature if temperature is None else temperature
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
        return next(self.network.parameters()).device

    def served_on(self, device: str) -> OpenVLAPolicy:
        """Return it ready to act on a device; auto without a GPU leaves the weights as stored."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else ""
        return self.served(Serving(device, compiled=device.startswith("cuda"))) if device else self

    def served(self, serving: Serving) -> OpenVLAPolicy:
        """Return it ready to act; its network and tokenizer are prepared in place, not copied."""
        prepare(self.network, self.tokenizer, serving)
        return OpenVLAPolicy(
            self.network, self.tokenizer, self.action_statistics, proprio_statistics=self.proprio_statistics,
            version=self.version, temperature=self.temperature,
        )  # fmt: skip

    @torch.no_grad()
    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Choose K actions for each row; the gripper is clipped to [0, 1], the rest is as un-normalised."""
        frames = observation.frames_of(self.config.camera)
        if len(instruction) != observation.batch_size:
            raise ContractError(f"{len(instruction)} instructions for {observation.batch_size} rows; pass one per row")
        if self.config.head == "l1":
            hidden = self._hidden(frames, instruction, observation.proprio_BP)
            return self._chunk(self.network.action_head(hidden).double().cpu().numpy())
        if self.config.head == "causal":
            tokens, log_probs = self._decode_causal(frames, instruction, observation.proprio_BP, rng)
        else:
            table = F.log_softmax(self.logits(frames, instruction, observation.proprio_BP) / self.temperature, dim=-1)
            numbers = table.cpu().numpy()
            tokens = choose_tokens(numbers, rng)
            log_probs = np.take_along_axis(numbers, tokens[..., None], -1)[..., 0]
        return self._chunk(self._centres(tokens), tokens, log_probs)

    def pixels(self, frames: ByteArray) -> Tensor:
        """Camera frames (B, H, W, 3) uint8 -> (B, 6, S, S) in the network's dtype, on its device."""
        size = self.config.towers[0].image_size
        prepared = image_pipeline.prepare(frames, pipeline=self.config.pipeline, size=size)
        numbers = image_pipeline.to_pixels(prepared, self.config.means, self.config.stds, size)
        weight = self.network.projector.fc1.weight
        return torch.from_numpy(numbers).to(weight.device, weight.dtype)

    def training_frames(self, frames: ByteArray) -> ByteArray:
        """Return what log_probs takes: the camera's frames themselves; pixels() prepares them."""
        return frames

    def logits(self, frames: ByteArray, instructions: Sequence[str], proprio_BP: FloatArray | None = None) -> Tensor:
        """Return raw (B, K, 7, 256) float32 logits of the action tokens, with gradients.

        Raises:
            ContractError: this head has none (l1), or only step by step (causal).
        """
        if self.config.head != "discrete":
            raise ContractError(f"the {self.config.head} head has no parallel logits; load it with head='discrete'")
        logits = self.network.action_logits(self._hidden(frames, instructions, proprio_BP))
        return logits.view(len(instructions), self.chunk_length, ACTION_DIM, -1)

    def log_probs(
        self,
        frames: ByteArray,
        instructions: Sequence[str],
        trace: Trace,
        proprio_BP: FloatArray | None = None,
    ) -> Tensor:
        """Return (B, K, 7) log-probabilities of tokens at the policy's temperature; on the CPU, with gradients."""
        if self.config.head == "causal":
            logits = self._teacher_forced(frames, instructions, trace["tokens"], proprio_BP)
        else:
            logits = self.logits(frames, instructions, proprio_BP)
        return picked_log_probs(logits, trace["tokens"], self.temperature).cpu()

    def divergence(
        self, base: OpenVLAPolicy, frames: ByteArray, instructions: Sequence[str], *, edited: Asked | None = None
    ) -> Tensor:
        """Return the mean KL(base || self) of a token."""
        with torch.no_grad():
            target = base.logits(frames, instructions)
        return token_divergence(self.logits(*(edited or (frames, instructions))), target)

    def token_positions(self, actions: FloatArray) -> FloatArray:
        """Return the fractional token index of (..., 7) actions: 255 for -1 down to 1 for +1, after normalising.

        Token index 256 - b is bin b = 1..255 of the 255 between linspace(-1, 1, 256); a bin's centre is its index.
        """
        normalised = np.clip(self.action_statistics.normalise(actions), -1.0, 1.0)
        return np.clip(255.0 - ((normalised + 1.0) * 127.5 - 0.5), 1.0, 255.0).astype(np.float32)

    def _hidden(self, frames: ByteArray, instructions: Sequence[str], proprio_BP: FloatArray | None) -> Tensor:
        ids_BL, length_B = (torch.from_numpy(array).to(self.device) for array in self.tokenizer.batch(instructions))
        return self.network.parallel_hidden(self.pixels(frames), ids_BL, length_B, self._proprio(proprio_BP))

    def _proprio(self, proprio_BP: FloatArray | None) -> Tensor | None:
        if self.proprio_statistics is None or not self.config.proprio:
            return None
        if proprio_BP is None:
            raise ContractError("this checkpoint takes proprioception; pass proprio_BP")
        return torch.from_numpy(self.proprio_statistics.normalise(proprio_BP).astype(np.float32)).to(self.device)

    def _decode_causal(
        self,
        frames: ByteArray,
        instructions: Sequence[str],
        proprio_BP: FloatArray,
        rng: np.random.Generator | None,
    ) -> tuple[IntArray, FloatArray]:
        """Seven tokens one after the other, row by row (prompts differ in length), restricted to action ids."""
        rows = [
            self._decode_row(self.pixels(frames[b : b + 1]), text, self._proprio(proprio_BP[b : b + 1]), rng)
            for b, text in enumerate(instructions)
        ]
        tokens, log_probs = (np.stack(column)[:, None] for column in zip(*rows, strict=True))
        return tokens, log_probs

    def _decode_row(
        self, pixels: Tensor, instruction: str, proprio: Tensor | None, rng: np.random.Generator | None
    ) -> tuple[IntArray, FloatArray]:
        cache = DynamicCache(config=self.network.language_model.config)
        ids = torch.tensor([self.tokenizer.ids_of(instruction)], device=self.device)
        hidden = self.network.causal_hidden(pixels, ids, proprio, cache)
        tokens, log_probs = np.zeros(ACTION_DIM, np.int64), np.zeros(ACTION_DIM, np.float32)
        for component in range(ACTION_DIM):
            logits = self.network.action_logits(hidden[0, -1]) / self.temperature
            table = F.log_softmax(logits, dim=-1).cpu().numpy()
            tokens[component] = choose_tokens(table, rng)
            log_probs[component] = table[tokens[component]]
            following = torch.tensor([[int(tokens[component]) + self.config.first_action_id]], device=self.device)
            hidden = self.network.continue_causal(following, cache)
        return tokens, log_probs

    def _teacher_forced(
        self, frames: ByteArray, instructions: Sequence[str], tokens_BKA: IntArray, proprio_BP: FloatArray | None
    ) -> Tensor:
        rows = []
        for b, instruction in enumerate(instructions):
            action = [int(token) + self.config.first_action_id for token in tokens_BKA[b, 0]]
            ids = torch.tensor([self.tokenizer.ids_of(instruction) + action[:-1]], device=self.device)
            proprio = None if proprio_BP is None else self._proprio(proprio_BP[b : b + 1])
            hidden = self.network.causal_hidden(self.pixels(frames[b : b + 1]), ids, proprio)
            rows.append(self.network.action_logits(hidden[:, -ACTION_DIM:]))
        return torch.stack(rows)

    def _centres(self, tokens: IntArray) -> np.ndarray[Any, np.dtype[np.float64]]:
        return decode_ids(tokens + self.config.first_action_id, vocabulary_end=self.config.vocabulary_end)

    def _chunk(
        self,
        normalised: np.ndarray[Any, np.dtype[np.float64]],
        tokens: IntArray | None = None,
        log_probs: FloatArray | None = None,
    ) -> ActionChunk:
        physical = self.action_statistics.unnormalise(normalised, epsilon=self.config.range_epsilon)
        physical[..., -1] = np.clip(physical[..., -1], 0.0, 1.0)
        trace = {} if tokens is None else {"tokens": tokens}
        return ActionChunk(physical.astype(np.float32), self._version, trace, log_probs)

    def save(
        self, folder: Path, *, parents: tuple[str, ...] = (), lineage: Mapping[str, object] | None = None
    ) -> Manifest:
        """Write an immutable checkpoint folder, tokenizer included; this object takes its id as version.

        The weights pass through memory once: a full-size bf16 checkpoint needs 15 GB free.
        """
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        tensors[TOKENIZER_KEY] = torch.frombuffer(bytearray(self.tokenizer.source.encode()), dtype=torch.uint8)
        normalisation = {"action": self.action_statistics.to_json()}
        if self.proprio_statistics is not None:
            normalisation["proprio"] = self.proprio_statistics.to_json()
        manifest = write_checkpoint(
            folder,
            safetensors.torch.save(tensors),
            kind="policy",
            architecture=ARCHITECTURE,
            config=json.loads(json.dumps(self.config.to_json())),
            parents=parents,
            normalisation=normalisation,
            lineage=lineage or {},
        )
        self._version = manifest.id
        return manifest

    @classmethod
    def load(cls, folder: Path, *, temperature: float | None = None) -> OpenVLAPolicy:
        """Read a checkpoint folder that save wrote.

        Raises:
            CheckpointError: altered, of another kind, or with tensors that do not fit its configuration.
        """
        manifest, weights = read_checkpoint(folder, kind="policy", architecture=ARCHITECTURE)
        config = OpenVLAConfig.from_json(manifest.config)
        tensors = safetensors.torch.load(weights)
        source = tensors.pop(TOKENIZER_KEY, None)
        if source is None:
            raise CheckpointError(f"{folder} carries no {TOKENIZER_KEY}; it was not written by OpenVLAPolicy.save")
        network = OpenVLANetwork.without_memory(config)
        assign(network, tensors, where=str(folder))
        proprio = manifest.normalisation.get("proprio")
        return cls(
            network,
            PromptTokenizer(source.numpy().tobytes().decode(), config),
            Statistics.from_json(manifest.normalisation["action"]),
            proprio_statistics=None if proprio is None else Statistics.from_json(proprio),
            version=manifest.id,
            temperature=temperature,
        )
