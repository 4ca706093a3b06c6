"""What the diffusion transformer is stacked of: attention within a frame, then over time, each with its MLP.

Axes: B batch, T frames, N tokens per frame, L tokens that see each other, D model width.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from cloud_trainer.world_model.dit.config import DiTConfig
from cloud_trainer.world_model.dit.kv_cache import KVContext, LayerKV
from cloud_trainer.world_model.dit.rope import Turn, rotate

LAYER_NORM_EPS = 1e-6


class CachedAttention(nn.Module):
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
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS, elementwise_affine=False)
        self.attn = CachedAttention(dim, config.num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS, elementwise_affine=False)
        self.ffwd = nn.Sequential(
            nn.Linear(dim, config.mlp_ratio * dim), nn.GELU(approximate="tanh"), nn.Linear(config.mlp_ratio * dim, dim)
        )
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    @abc.abstractmethod
    def _attention(self, x_BTND: Tensor, pass_: Pass, layer: int) -> Tensor:
        """Attend; the two halves differ only here."""

    def forward(self, x_BTND: Tensor, cond_BTD: Tensor, pass_: Pass, layer: int) -> Tensor:
        """Return the residual stream after this half."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(cond_BTD)[:, :, None].chunk(6, dim=-1)
        attended = self._attention(modulate(self.norm1(x_BTND), shift1, scale1), pass_, layer)
        x_BTND = torch.addcmul(x_BTND, gate1, attended)
        return torch.addcmul(x_BTND, gate2, self.ffwd(modulate(self.norm2(x_BTND), shift2, scale2)))


class SpatialHalf(HalfBlock):
    """Every token sees every token of its own frame."""

    def _attention(self, x_BTND: Tensor, pass_: Pass, layer: int) -> Tensor:
        q, k, v = self.attn.project(x_BTND)
        return self.attn.attend(rotate(q, pass_.grid_turn), rotate(k, pass_.grid_turn), v)


class TemporalHalf(HalfBlock):
    """Every token sees its own position in this frame and the earlier ones."""

    def _attention(self, x_BTND: Tensor, pass_: Pass, layer: int) -> Tensor:
        q, k, v = self.attn.project(x_BTND.transpose(1, 2))
        if pass_.written is not None:
            pass_.written.append((k, v))
        q, k = rotate(q, pass_.time_turn), rotate(k, pass_.time_turn)
        if pass_.context is None:
            return self.attn.attend(q, k, v, causal=True).transpose(1, 2)
        k, v = pass_.context.joined(layer, k, v)
        return self.attn.attend(q, k, v, mask=pass_.context.slot_mask).transpose(1, 2)


@dataclass
class Pass:
    """What every block of one forward pass shares; written collects keys and values, context holds those of before."""

    grid_turn: Turn
    time_turn: Turn
    context: KVContext | None
    written: list[LayerKV] | None


class DiTBlock(nn.Module):
    """A spatial half, then a temporal half."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.s_block = SpatialHalf(config)
        self.t_block = TemporalHalf(config)

    def forward(self, x_BTND: Tensor, cond_BTD: Tensor, pass_: Pass, layer: int) -> Tensor:
        """Return the residual stream after both halves."""
        out: Tensor = self.t_block(self.s_block(x_BTND, cond_BTD, pass_, layer), cond_BTD, pass_, layer)
        return out


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return x scaled and shifted by a condition; neither changes it at zero."""
    return x * (1 + scale) + shift
