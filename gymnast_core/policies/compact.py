"""The compact policy: instruction and one 64x64 image to a chunk of 5 actions as 256-bin tokens.

About 1.3 M parameters, fp32, CPU. Log-probabilities are exact: the softmax the tokens were drawn from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gymnast_core.errors import CheckpointError, ConfigError, ContractError
from gymnast_core.images import area_downsample
from gymnast_core.policies.processor import lay_out
from gymnast_core.policies.sampling import choose_tokens, picked_log_probs, token_divergence
from gymnast_core.policies.text import bag_of_words
from gymnast_core.policies.vision import Film, KeypointEncoder
from gymnast_core.records.manifest import Manifest, read_checkpoint, write_checkpoint
from gymnast_core.types import ACTION_DIM, ActionChunk, Asked, ByteArray, FloatArray, IntArray, Observation, Trace

ARCHITECTURE = "compact_policy"
ROWS = 16
"""Of one pass where rows go together; more leave the cache (benchmarks/dream_speed_cpu2_202611.md)."""


@dataclass(frozen=True)
class CompactPolicyConfig:
    """Sizes of the compact policy; stored in the manifest.

    Attributes:
        image_size: pixels the network sees, after area downsampling.
        chunk_length: K, actions per call.
        bins: tokens per action component.
        text_buckets: hashed words.
        text_dim: width of the instruction embedding.
        widths: channels of the three convolution stages.
        hidden: width of the trunk.
        head: width of the layer below the token head.
        temperature: the policy's own sampling temperature.
        camera: which camera it looks through; empty means the first.
    """

    image_size: int = 64
    chunk_length: int = 5
    bins: int = 256
    text_buckets: int = 256
    text_dim: int = 48
    widths: tuple[int, int, int] = (24, 40, 48)
    hidden: int = 224
    head: int = 112
    temperature: float = 1.0
    camera: str = ""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work."""
        if self.temperature <= 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}; greedy is rng=None")
        if min(self.image_size, self.chunk_length, self.bins - 1, self.hidden, self.head) < 1:
            raise ConfigError(f"sizes must be positive and bins at least 2, got {self}")


@dataclass(frozen=True)
class ActionBins:
    """Evenly spaced bins per action component, in physical units.

    Attributes:
        low_A: (7,) lower edge of the first bin.
        high_A: (7,) upper edge of the last bin.
        bins: how many.
    """

    low_A: FloatArray
    high_A: FloatArray
    bins: int

    def decode(self, tokens: IntArray) -> FloatArray:
        """Tokens (..., 7) -> bin centres (..., 7) float32."""
        width_A = (self.high_A - self.low_A) / self.bins
        return (self.low_A + (tokens + 0.5) * width_A).astype(np.float32)

    def position(self, actions: FloatArray) -> FloatArray:
        """Actions (..., 7) -> fractional bin index (..., 7), clipped to [0, bins - 1]."""
        width_A = (self.high_A - self.low_A) / self.bins
        return np.clip((actions - self.low_A) / width_A - 0.5, 0, self.bins - 1).astype(np.float32)

    def encode(self, actions: FloatArray) -> IntArray:
        """Actions (..., 7) -> nearest token (..., 7) int64."""
        return np.rint(self.position(actions)).astype(np.int64)

    def to_json(self) -> dict[str, list[float]]:
        """JSON values for a manifest."""
        return {"low": [float(x) for x in self.low_A], "high": [float(x) for x in self.high_A]}

    @staticmethod
    def from_json(fields: Mapping[str, Any], bins: int) -> ActionBins:
        """Read what to_json wrote."""
        low, high = (np.asarray(fields[name], np.float32) for name in ("low", "high"))
        if low.shape != (ACTION_DIM,) or high.shape != (ACTION_DIM,) or not (low < high).all():
            raise CheckpointError(f"normalisation must hold low < high, {ACTION_DIM} each, got {low} and {high}")
        return ActionBins(low, high, bins)


class CompactNetwork(nn.Module):
    """Image and bag of words to token logits (B, K, 7, bins)."""

    def __init__(self, config: CompactPolicyConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = KeypointEncoder(3, config.text_buckets, config.text_dim, config.widths)
        self.layer1 = nn.Linear(self.encoder.out_dim, config.hidden)
        self.film = Film(config.text_dim, config.hidden)
        self.layer2 = nn.Linear(config.hidden, config.hidden)
        self.layer3 = nn.Linear(config.hidden, config.head)
        self.head = nn.Linear(config.head, config.chunk_length * ACTION_DIM * config.bins)
        _smooth_head(self.head, config)
        lay_out(self)

    def forward(self, image_BHWC: Tensor, bag_BV: Tensor) -> Tensor:
        """Map image (B, 64, 64, 3) uint8 and bag (B, buckets) to logits (B, K, 7, bins)."""
        return self.choose(*self.encoder(self.pixels(image_BHWC), bag_BV))

    @staticmethod
    def pixels(image_BHWC: Tensor) -> Tensor:
        """Map uint8 images to (B, 3, H, W) in [-1, 1]."""
        return image_BHWC.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0

    def choose(self, features: Tensor, text: Tensor) -> Tensor:
        """Map features (B, F) and text (B, D) to logits (B, K, 7, bins)."""
        h = F.silu(self.film(self.layer1(features), text))
        h = h + F.silu(self.layer2(h))
        h = F.silu(self.layer3(h))
        logits: Tensor = self.head(h)
        return logits.view(-1, self.config.chunk_length, ACTION_DIM, self.config.bins)


def _smooth_head(head: nn.Linear, config: CompactPolicyConfig, waves: int = 12) -> None:
    """Start every output as a smooth function of its bin: a random sum of the first cosines, falling as 1/j."""
    bin_N = (torch.arange(config.bins) + 0.5) / config.bins
    basis_JN = torch.stack([torch.cos(math.pi * j * bin_N) / j for j in range(1, waves + 1)])
    outputs = config.chunk_length * ACTION_DIM
    weight = torch.randn(outputs, head.in_features, waves) @ basis_JN / math.sqrt(head.in_features)
    with torch.no_grad():
        head.weight.copy_(weight.transpose(1, 2).reshape(outputs * config.bins, head.in_features))
        head.bias.zero_()


class CompactPolicy:
    """A checkpoint of the compact network, keeping gymnast_core.policy.Policy.

    Attributes:
        architecture: as in its manifest; with the class of its sizes, for a kind that adds to this one.
        network: the torch module, in eval mode unless a trainer changes it.
        config: its sizes.
        action_bins: token <-> action.
        row_by_row: act on each row separately, so that a row's tokens do not depend on its batch (a matrix product
            rounds differently in another batch size). Imagined rollouts, whose batches are always the same, turn it
            off: ROWS at a time stay in the processor's cache.
    """

    architecture: ClassVar[str] = ARCHITECTURE
    config_class: ClassVar[type[CompactPolicyConfig]] = CompactPolicyConfig

    def __init__(
        self,
        network: CompactNetwork,
        action_bins: ActionBins,
        *,
        version: str = "unsaved",
        row_by_row: bool = True,
        temperature: float | None = None,
    ) -> None:
        self.network = network.eval()
        self.config = network.config
        self.action_bins = action_bins
        self.row_by_row = row_by_row
        self.temperature = self.config.temperature if temperature is None else temperature
        self._version = version

    @classmethod
    def network_for(cls, config: CompactPolicyConfig, model: str) -> CompactNetwork:
        """Return an untrained network of these sizes for an arm, by its model."""
        return CompactNetwork(config)

    @property
    def version(self) -> str:
        """Id of the checkpoint, "unsaved" before the first save."""
        return self._version

    @property
    def chunk_length(self) -> int:
        """K."""
        return self.config.chunk_length

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Choose K actions for each row; rng draws B*K*7 uniforms, mapped through the inverse distribution."""
        if len(instruction) != observation.batch_size:
            raise ContractError(f"{len(instruction)} instructions for {observation.batch_size} rows; pass one per row")
        images = area_downsample(observation.frames_of(self.config.camera), self.config.image_size)
        context = self.context_of(observation)
        log_probs = self._log_probs(images, instruction, *context.values())
        tokens = choose_tokens(log_probs, rng)
        chosen = np.take_along_axis(log_probs, tokens[..., None], -1)[..., 0]
        return ActionChunk(self.action_bins.decode(tokens), self._version, {"tokens": tokens, **context}, chosen)

    def context_of(self, observation: Observation) -> Trace:
        """Return what besides image and words its choice depends on; nothing here."""
        return {}

    def training_frames(self, frames_NHWC: ByteArray) -> ByteArray:
        """Prepare (N, H, W, 3) frames for log_probs."""
        return area_downsample(frames_NHWC, self.config.image_size)

    def log_probs(self, images: ByteArray, instructions: Sequence[str], trace: Trace) -> Tensor:
        """Return (B, K, 7) log-probabilities of traced tokens at the policy's temperature, with gradients."""
        return picked_log_probs(self.logits(images, instructions), trace["tokens"], self.temperature)

    def logits(self, images: ByteArray, instructions: Sequence[str]) -> Tensor:
        """Return raw (B, K, 7, bins) logits of (B, 64, 64, 3) uint8 images."""
        logits: Tensor = self.network(*self.inputs(images, instructions))
        return logits

    def inputs(self, images: ByteArray, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return images and bags of words as the network takes them."""
        bags = torch.from_numpy(bag_of_words(instructions, self.config.text_buckets))
        return torch.from_numpy(np.ascontiguousarray(images)), bags

    def divergence(
        self, base: CompactPolicy, images: ByteArray, instructions: Sequence[str], *, edited: Asked | None = None
    ) -> Tensor:
        """Return the mean KL(base || self) of a token."""
        with torch.no_grad():
            target = base.logits(images, instructions)
        return token_divergence(self.logits(*(edited or (images, instructions))), target)

    def token_positions(self, actions: FloatArray) -> FloatArray:
        """Return the fractional token index of (..., 7) actions."""
        return self.action_bins.position(actions)

    @torch.no_grad()
    def _log_probs(self, images: ByteArray, instructions: Sequence[str], *context: FloatArray) -> FloatArray:
        step = 1 if self.row_by_row else ROWS
        rows = [slice(b, b + step) for b in range(0, len(instructions), step)]
        logits = torch.cat([self.logits(images[row], instructions[row], *(c[row] for c in context)) for row in rows])
        log_probs: FloatArray = F.log_softmax(logits / self.temperature, dim=-1).numpy()
        return log_probs

    def save(
        self, folder: Path, *, parents: tuple[str, ...] = (), lineage: Mapping[str, object] | None = None
    ) -> Manifest:
        """Write an immutable checkpoint folder; this object takes its id as version."""
        manifest = write_checkpoint(
            folder,
            safetensors.torch.save({k: v.contiguous() for k, v in self.network.state_dict().items()}),
            kind="policy",
            architecture=self.architecture,
            config=asdict(self.config) | {"widths": list(self.config.widths)},
            parents=parents,
            normalisation=self.action_bins.to_json(),
            lineage=lineage or {},
        )
        self._version = manifest.id
        return manifest

    @classmethod
    def load(cls, folder: Path, *, row_by_row: bool = True, temperature: float | None = None) -> CompactPolicy:
        """Read a checkpoint folder.

        Raises:
            CheckpointError: altered, of another kind, or with tensors that do not fit its configuration.
        """
        manifest, weights = read_checkpoint(folder, kind="policy", architecture=cls.architecture)
        config = cls.config_class(**{**manifest.config, "widths": tuple(manifest.config["widths"])})
        network = cls.network_for(config, manifest.robot_model)
        try:
            network.load_state_dict(safetensors.torch.load(weights))
        except RuntimeError as error:
            raise CheckpointError(f"{folder}: tensors do not fit the configuration: {error}") from error
        bins = ActionBins.from_json(manifest.normalisation, config.bins)
        return cls(network, bins, version=manifest.id, row_by_row=row_by_row, temperature=temperature)
