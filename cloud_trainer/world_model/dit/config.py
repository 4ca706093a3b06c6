"""Sizes of the diffusion transformer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from cloud_trainer.world_model.capabilities import CAMERA_DIM, ActionKind, Capabilities
from cloud_trainer.world_model.dit.actions import ConditionLayout
from cloud_trainer.world_model.dit.rope import VARIANTS
from gymnast_core.errors import ConfigError
from gymnast_core.json_values import JsonValue
from gymnast_core.settings import Count, Says, Settings
from gymnast_core.types import ACTION_DIM


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
    """Numbers per action of the arm."""
    camera_motion: bool = False
    """Also take how the camera moved: for datasets of kind camera."""
    text_buckets: Annotated[int, Field(ge=0, le=65_536)] = 0
    """Also take an instruction, hashed to so many numbers: for datasets of kind text; 0 takes none."""
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

    @property
    def layout(self) -> ConditionLayout:
        """Which numbers it takes a frame."""
        return ConditionLayout(self.camera_motion, self.text_buckets)

    @property
    def condition_dim(self) -> int:
        """How many they are."""
        return self.action_dim + CAMERA_DIM * self.camera_motion + self.text_buckets

    def capabilities(
        self, image_size: int | None, kinds: Collection[ActionKind], domains: tuple[str, ...]
    ) -> Capabilities:
        """Return what a checkpoint of this size declares that learned from these kinds of actions and arms."""
        widths = {
            ActionKind.EE_DELTA7: ACTION_DIM, ActionKind.CAMERA: CAMERA_DIM, ActionKind.TEXT: self.text_buckets,
            ActionKind.NONE: 0,
        }  # fmt: skip
        return Capabilities(
            actions={kind: width for kind, width in widths.items() if kind in kinds}, image_size=image_size,
            context_frames=self.max_frames - 1, domains=domains,
        )  # fmt: skip

    def to_json(self) -> dict[str, JsonValue]:
        """Every size, for a manifest: a later default must not change what was trained."""
        return self.model_dump(mode="json")
