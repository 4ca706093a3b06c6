"""Sizes of the diffusion transformer."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from cloud_trainer.world_model.dit.rope import VARIANTS
from gymnast_core.errors import ConfigError
from gymnast_core.json_values import JsonValue
from gymnast_core.settings import Count, Says, Settings


class DiTConfig(Settings):
    """Sizes of the network; the defaults are the released 608 M model."""

    where: ClassVar[str] = "network"

    in_channels: Count = 16
    """Latent channels C."""
    patch_size: Count = 2
    """Latent pixels per token side."""
    dim: Count = 1024
    """Model width D."""
    num_layers: Count = 16
    """Blocks; each holds a spatial and a temporal half."""
    num_heads: Count = 16
    """Attention heads."""
    action_dim: Count = 10
    """Numbers per action."""
    max_frames: Annotated[int, Field(ge=2, le=10_000)] = 20
    """Longest window the network is trained on."""
    spatial_rope: Annotated[str, Field(pattern=f"^({'|'.join(VARIANTS)})$"), Says(f"one of {', '.join(VARIANTS)}")] = (
        "standard"
    )
    """Rotary positions: standard, or pixel (the Bridge-only checkpoint)."""
    mlp_ratio: Count = 4
    """Hidden width of the MLPs over D."""
    checkpoint_gradients: bool = False
    """Trade compute for memory in training."""

    @model_validator(mode="after")
    def _heads_divide(self) -> DiTConfig:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 4:
            raise ConfigError(f"network: dim {self.dim} / num_heads {self.num_heads} must be a multiple of 4")
        return self

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads

    def to_json(self) -> dict[str, JsonValue]:
        """Every size, for a manifest: a later default must not change what was trained."""
        return self.model_dump(mode="json")
