"""Sizes of the diffusion transformer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cloud_trainer.world_model.dit.rope import VARIANTS
from gymnast_core.errors import ConfigError


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of the network; the defaults are the released 608 M model.

    Attributes:
        in_channels: latent channels C.
        patch_size: latent pixels per token side.
        dim: model width D.
        num_layers: blocks; each holds a spatial and a temporal half.
        num_heads: attention heads.
        action_dim: numbers per action.
        max_frames: longest window the network is trained on.
        spatial_rope: "standard" or "pixel" (the Bridge-only checkpoint).
        mlp_ratio: hidden width of the MLPs over D.
        checkpoint_gradients: trade compute for memory in training.
    """

    in_channels: int = 16
    patch_size: int = 2
    dim: int = 1024
    num_layers: int = 16
    num_heads: int = 16
    action_dim: int = 10
    max_frames: int = 20
    spatial_rope: str = "standard"
    mlp_ratio: int = 4
    checkpoint_gradients: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that do not divide."""
        if self.spatial_rope not in VARIANTS:
            raise ConfigError(f"spatial_rope {self.spatial_rope!r} is not one of {VARIANTS}")
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 4:
            raise ConfigError(f"dim {self.dim} / num_heads {self.num_heads} must be a multiple of 4")
        if self.max_frames < 2:
            raise ConfigError(f"max_frames must be at least 2, got {self.max_frames}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads

    def to_json(self) -> dict[str, Any]:
        """JSON values, for a manifest."""
        return asdict(self)
