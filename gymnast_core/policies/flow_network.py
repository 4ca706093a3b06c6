"""The compact flow policy's network: an image and words to features, a noisy chunk and its time to a velocity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gymnast_core.errors import ConfigError
from gymnast_core.jobs.exploration import Exploration
from gymnast_core.policies.processor import lay_out
from gymnast_core.policies.vision import Film, KeypointEncoder
from gymnast_core.types import ACTION_DIM


@dataclass(frozen=True)
class FlowPolicyConfig:
    """Sizes of the compact flow policy and how it explores; stored in the manifest.

    Attributes:
        image_size: pixels the network sees, after area downsampling.
        chunk_length: K, actions per call.
        steps: Euler steps from noise to actions.
        text_buckets: hashed words.
        text_dim: width of the instruction embedding.
        widths: channels of the three convolution stages.
        hidden: width of the velocity network.
        time_dim: width of the embedding of the flow's time; even.
        temperature: scales the exploration's noise.
        camera: which camera it looks through; empty means the first.
        exploration: where noise enters when it is sampled.
    """

    image_size: int = 64
    chunk_length: int = 5
    steps: int = 4
    text_buckets: int = 256
    text_dim: int = 48
    widths: tuple[int, int, int] = (24, 40, 48)
    hidden: int = 384
    time_dim: int = 32
    temperature: float = 1.0
    camera: str = ""
    exploration: Exploration = field(default_factory=Exploration)

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work."""
        if self.temperature <= 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}; greedy is rng=None")
        if min(self.image_size, self.chunk_length, self.steps, self.hidden) < 1 or self.time_dim % 2:
            raise ConfigError(f"sizes must be positive and time_dim even, got {self}")

    def to_json(self) -> dict[str, Any]:
        """JSON values for a manifest."""
        return asdict(self) | {"widths": list(self.widths), "exploration": self.exploration.model_dump(mode="json")}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> FlowPolicyConfig:
        """Read what to_json wrote."""
        known = dict(fields)
        exploration = Exploration(**known.pop("exploration", {}))
        return FlowPolicyConfig(**{**known, "widths": tuple(known["widths"])}, exploration=exploration)


class FlowNetwork(nn.Module):
    """Image and bag of words to features; features, a noisy chunk and its time to a velocity."""

    def __init__(self, config: FlowPolicyConfig) -> None:
        super().__init__()
        self.config = config
        width = config.chunk_length * ACTION_DIM
        self.encoder = KeypointEncoder(3, config.text_buckets, config.text_dim, config.widths)
        self.seen = nn.Linear(self.encoder.out_dim, config.hidden)
        self.film = Film(config.text_dim, config.hidden)
        self.seen2 = nn.Linear(config.hidden, config.hidden)
        self.chunk = nn.Linear(width, config.hidden)
        self.time = nn.Linear(config.time_dim, config.hidden)
        self.layer1 = nn.Linear(2 * config.hidden, config.hidden)
        self.layer2 = nn.Linear(config.hidden, config.hidden)
        self.layer3 = nn.Linear(config.hidden, config.hidden)
        self.head = nn.Linear(config.hidden, width)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        lay_out(self)

    def look(self, image_BHWC: Tensor, bag_BV: Tensor) -> Tensor:
        """Map image (B, 64, 64, 3) uint8 and bag (B, buckets) to features (B, hidden)."""
        x = image_BHWC.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
        features, text = self.encoder(x, bag_BV)
        h = F.silu(self.film(self.seen(features), text))
        seen: Tensor = h + F.silu(self.seen2(h))
        return seen

    def velocity(self, seen_BH: Tensor, x_BKA: Tensor, time_B: Tensor) -> Tensor:
        """Return the velocity (B, K, 7) of chunks x at times t (B,)."""
        h = self.chunk(x_BKA.flatten(1)) + self.time(_sinusoids(time_B, self.config.time_dim))
        h = F.silu(self.layer1(torch.cat([F.silu(h), seen_BH], dim=1)))
        h = h + F.silu(self.layer2(h))
        h = h + F.silu(self.layer3(h))
        velocity: Tensor = self.head(h)
        return velocity.view_as(x_BKA)


def _sinusoids(time_B: Tensor, width: int) -> Tensor:
    """Sine and cosine of the time at periods from .004 to 4, as openpi embeds it."""
    fraction = torch.linspace(0.0, 1.0, width // 2)
    period = 0.004 * (4.0 / 0.004) ** fraction
    angle = 2 * math.pi * time_B[:, None] / period
    return torch.cat([angle.sin(), angle.cos()], dim=1)
