"""The WorldGym diffusion transformer: spatial full and temporal causal attention in turn, adaLN-Zero.

Parameter names and arithmetic follow the released checkpoint (tests/data/manifests/worldgym_dit.json), so it
loads by name. Every frame has its own timestep and action.
Axes: B batch, T frames, H W latent rows and columns, C latent channels, N tokens per frame, D model width.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from cloud_trainer.world_model.dit.kv_cache import CacheShape, KVContext, LayerKV
from cloud_trainer.world_model.dit.rope import VARIANTS, Turn, axis_angles, grid_angles, rotate, turn_by
from gymnast_core.errors import ConfigError, ShapeError

_TIMESTEP_CHANNELS = 256
_TIMESTEP_PERIOD = 10_000.0
_LAYER_NORM_EPS = 1e-6


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


class Attention(nn.Module):
    """Multi-head attention over the second last axis of (..., L, D)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv_proj = nn.Linear(dim, 3 * dim, bias=False)
        self.out_proj = nn.Linear(dim, dim)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each (..., heads, L, head_dim)."""
        q, k, v = self.qkv_proj(x).reshape(*x.shape[:-1], 3, self.heads, -1).unbind(-3)
        return q.transpose(-3, -2), k.transpose(-3, -2), v.transpose(-3, -2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Return the projected attention output, (..., L, D)."""
        lead = q.shape[:-3]
        out = functional.scaled_dot_product_attention(
            q.flatten(0, -4), k.flatten(0, -4), v.flatten(0, -4), attn_mask=mask, is_causal=causal
        )
        merged: Tensor = self.out_proj(out.reshape(*lead, *out.shape[1:]).transpose(-3, -2).flatten(-2))
        return merged


class HalfBlock(nn.Module, abc.ABC):
    """Attention and MLP, each shifted, scaled and gated by the frame's condition (adaLN-Zero)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        dim = config.dim
        self.norm1 = nn.LayerNorm(dim, eps=_LAYER_NORM_EPS, elementwise_affine=False)
        self.attn = Attention(dim, config.num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=_LAYER_NORM_EPS, elementwise_affine=False)
        self.ffwd = nn.Sequential(
            nn.Linear(dim, config.mlp_ratio * dim), nn.GELU(approximate="tanh"), nn.Linear(config.mlp_ratio * dim, dim)
        )
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    @abc.abstractmethod
    def _attention(self, x_BTND: Tensor, pass_: _Pass, layer: int) -> Tensor:
        """Attend; the two halves differ only here."""

    def forward(self, x_BTND: Tensor, cond_BTD: Tensor, pass_: _Pass, layer: int) -> Tensor:
        """Return the residual stream after this half."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(cond_BTD)[:, :, None].chunk(6, dim=-1)
        attended = self._attention(_modulate(self.norm1(x_BTND), shift1, scale1), pass_, layer)
        x_BTND = torch.addcmul(x_BTND, gate1, attended)
        return torch.addcmul(x_BTND, gate2, self.ffwd(_modulate(self.norm2(x_BTND), shift2, scale2)))


class SpatialHalf(HalfBlock):
    """Every token sees every token of its own frame."""

    def _attention(self, x_BTND: Tensor, pass_: _Pass, layer: int) -> Tensor:
        q, k, v = self.attn.project(x_BTND)
        return self.attn.attend(rotate(q, pass_.grid_turn), rotate(k, pass_.grid_turn), v)


class TemporalHalf(HalfBlock):
    """Every token sees its own position in this frame and the earlier ones."""

    def _attention(self, x_BTND: Tensor, pass_: _Pass, layer: int) -> Tensor:
        q, k, v = self.attn.project(x_BTND.transpose(1, 2))
        if pass_.written is not None:
            pass_.written.append((k, v))
        q, k = rotate(q, pass_.time_turn), rotate(k, pass_.time_turn)
        if pass_.context is None:
            return self.attn.attend(q, k, v, causal=True).transpose(1, 2)
        k, v = pass_.context.joined(layer, k, v)
        return self.attn.attend(q, k, v, mask=pass_.context.slot_mask).transpose(1, 2)


@dataclass
class _Pass:
    """What every block of one forward pass shares."""

    grid_turn: Turn
    time_turn: Turn
    context: KVContext | None
    written: list[LayerKV] | None


class Block(nn.Module):
    """A spatial half, then a temporal half."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.s_block = SpatialHalf(config)
        self.t_block = TemporalHalf(config)

    def forward(self, x_BTND: Tensor, cond_BTD: Tensor, pass_: _Pass, layer: int) -> Tensor:
        """Return the residual stream after both halves."""
        out: Tensor = self.t_block(self.s_block(x_BTND, cond_BTD, pass_, layer), cond_BTD, pass_, layer)
        return out


class FinalLayer(nn.Module):
    """Modulated norm (shift, scale) and the linear map to patches."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(config.dim, eps=_LAYER_NORM_EPS, elementwise_affine=False)
        self.linear = nn.Linear(config.dim, config.patch_size**2 * config.in_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.dim, 2 * config.dim))

    def forward(self, x_BTND: Tensor, cond_BTD: Tensor) -> Tensor:
        """Return (B, T, N, patch * patch * C)."""
        shift, scale = self.adaLN_modulation(cond_BTD)[:, :, None].chunk(2, dim=-1)
        out: Tensor = self.linear(_modulate(self.norm_final(x_BTND), shift, scale))
        return out


class DiT(nn.Module):
    """Predicts v (or velocity) for latent frames, each with its own timestep and action."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.x_proj = nn.Conv2d(config.in_channels, config.dim, config.patch_size, stride=config.patch_size)
        self.timestep_mlp = nn.Sequential(
            nn.Linear(_TIMESTEP_CHANNELS, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim)
        )
        self.action_embedder = nn.Linear(config.action_dim, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_layer = FinalLayer(config)

    def initialise(self, generator: torch.Generator) -> DiT:
        """Draw fresh weights: Xavier for linear maps, zeros where adaLN-Zero wants the identity; returns self."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1), generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if "adaLN_modulation" in name or name.startswith("final_layer.linear"):
                nn.init.zeros_(parameter)
        return self

    def forward(
        self,
        x_BTHWC: Tensor,
        t_BT: Tensor,
        actions_BTA: Tensor,
        *,
        context: KVContext | None = None,
        written: list[LayerKV] | None = None,
    ) -> Tensor:
        """Predict for T new frames.

        Args:
            x_BTHWC: noisy latents.
            t_BT: timestep of each frame, integers 0..999.
            actions_BTA: condition of each frame.
            context: keys and values of earlier frames; one new frame follows them in time and takes the open slot.
            written: when given, receives per layer the new frames' unrotated keys and values (a write pass).

        Returns:
            (B, T, H, W, C) prediction.

        Raises:
            ShapeError: the shapes do not fit each other or the configuration.
        """
        self._check(x_BTHWC, t_BT, actions_BTA)
        if context is not None and x_BTHWC.shape[1] != 1:
            raise ShapeError(f"with a context one frame is predicted at a time, got {x_BTHWC.shape[1]}")
        tokens_BTND, grid = self.embed_patches(x_BTHWC)
        cond_BTD = self.condition(t_BT, actions_BTA)
        pass_ = self._begin(tokens_BTND, grid, context, written)
        for layer, block in enumerate(self.blocks):
            if self.config.checkpoint_gradients and torch.is_grad_enabled():
                tokens_BTND = checkpoint(block, tokens_BTND, cond_BTD, pass_, layer, use_reentrant=False)
            else:
                tokens_BTND = block(tokens_BTND, cond_BTD, pass_, layer)
        return self._unpatch(self.final_layer(tokens_BTND, cond_BTD), grid)

    def embed_patches(self, x_BTHWC: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return (B, T, N, D) tokens and the token grid."""
        embedded = self.x_proj(x_BTHWC.flatten(0, 1).permute(0, 3, 1, 2))
        height, width = embedded.shape[-2:]
        return embedded.flatten(2).transpose(1, 2).reshape(*x_BTHWC.shape[:2], height * width, self.config.dim), (
            height,
            width,
        )

    def condition(self, t_BT: Tensor, actions_BTA: Tensor) -> Tensor:
        """Return the (B, T, D) condition: embedded timestep plus embedded action."""
        embedding = timestep_embedding(t_BT).to(self.action_embedder.weight.dtype)
        out: Tensor = self.timestep_mlp(embedding) + self.action_embedder(actions_BTA)
        return out

    def cache_shape(self, batch: int, grid: tuple[int, int], *, capacity: int, pinned: int = 0) -> CacheShape:
        """Return the sizes of a cache for latents of grid = (H, W)."""
        tokens = (grid[0] // self.config.patch_size) * (grid[1] // self.config.patch_size)
        config = self.config
        return CacheShape(config.num_layers, batch, tokens, config.num_heads, config.head_dim, capacity, pinned)

    def _begin(
        self, tokens_BTND: Tensor, grid: tuple[int, int], context: KVContext | None, written: list[LayerKV] | None
    ) -> _Pass:
        device, head_dim = tokens_BTND.device, self.config.head_dim
        positions = torch.arange(tokens_BTND.shape[1], device=device) if context is None else context.position
        time = turn_by(axis_angles(positions, head_dim // 2))
        return _Pass(turn_by(grid_angles(*grid, head_dim, self.config.spatial_rope, device)), time, context, written)

    def _unpatch(self, x_BTNP: Tensor, grid: tuple[int, int]) -> Tensor:
        patch, channels = self.config.patch_size, self.config.in_channels
        x = x_BTNP.reshape(*x_BTNP.shape[:2], *grid, patch, patch, channels)
        return x.transpose(3, 4).flatten(4, 5).flatten(2, 3)

    def _check(self, x_BTHWC: Tensor, t_BT: Tensor, actions_BTA: Tensor) -> None:
        config = self.config
        if x_BTHWC.ndim != 5 or x_BTHWC.shape[-1] != config.in_channels:
            raise ShapeError(f"latents must be (B, T, H, W, {config.in_channels}), got {tuple(x_BTHWC.shape)}")
        if x_BTHWC.shape[2] % config.patch_size or x_BTHWC.shape[3] % config.patch_size:
            raise ShapeError(f"latent size {tuple(x_BTHWC.shape[2:4])} is no multiple of patch {config.patch_size}")
        lead = tuple(x_BTHWC.shape[:2])
        if tuple(t_BT.shape) != lead or tuple(actions_BTA.shape) != (*lead, config.action_dim):
            raise ShapeError(
                f"latents are (B, T) = {lead}; timesteps {tuple(t_BT.shape)} and actions {tuple(actions_BTA.shape)} "
                f"must be {lead} and {(*lead, config.action_dim)}"
            )


def timestep_embedding(t: Tensor, channels: int = _TIMESTEP_CHANNELS) -> Tensor:
    """Return (..., channels) float32 sinusoids of the timestep, cosines first, then sines."""
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[..., None] * torch.exp(-math.log(_TIMESTEP_PERIOD) * steps / half)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def parameter_manifest(config: DiTConfig) -> Sequence[tuple[str, tuple[int, ...]]]:
    """Return (key, shape) of every tensor of a checkpoint, without allocating it."""
    with torch.device("meta"):
        model = DiT(config)
    return [(name, tuple(value.shape)) for name, value in model.state_dict().items()]


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift
