"""A vision transformer under timm's tensor names: what DINOv2 (with registers) and SigLIP need, nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gymnast_core.policies.openvla.config import TowerConfig


class PatchEmbed(nn.Module):
    """Pixels to patch tokens."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.embed_dim, config.patch_size, stride=config.patch_size)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, patches, embed_dim), row by row."""
        tokens: Tensor = self.proj(pixels_BCHW).flatten(2).transpose(1, 2)
        return tokens


class SelfAttention(nn.Module):
    """Multi-head attention with one fused qkv matrix."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        batch, tokens, width = x_BND.shape
        qkv = self.qkv(x_BND).view(batch, tokens, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return projected


class FeedForward(nn.Module):
    """Two linear layers with exact GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class LayerScale(nn.Module):
    """Per-channel factor; the published checkpoints call it scale_factor where timm has gamma."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return x * self.scale_factor


class VisionBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        width, scaled = config.embed_dim, config.layer_scale
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attn = SelfAttention(config)
        self.ls1 = LayerScale(width) if scaled else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = FeedForward(width, config.mlp_hidden)
        self.ls2 = LayerScale(width) if scaled else nn.Identity()

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x_BND = x_BND + self.ls1(self.attn(self.norm1(x_BND)))
        out: Tensor = x_BND + self.ls2(self.mlp(self.norm2(x_BND)))
        return out


class AttentionPool(nn.Module):
    """SigLIP's pooling head: its tensors are in the checkpoint, its output is never asked for."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.latent = nn.Parameter(torch.zeros(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = FeedForward(width, config.mlp_hidden)


class VisionTower(nn.Module):
    """Patch features of one tower: the last block but one, prefix tokens dropped, no final norm."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.config = config
        self.prefix = int(config.class_token) + config.register_tokens
        if config.class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        if config.register_tokens:
            self.reg_token = nn.Parameter(torch.zeros(1, config.register_tokens, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.patches, width))
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        if config.attention_pool:
            self.attn_pool = AttentionPool(config)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) normalised pixels -> (B, patches, embed_dim)."""
        x = self.patch_embed(pixels_BCHW) + self.pos_embed
        rows = x.shape[0]
        if self.config.register_tokens:
            x = torch.cat([self.reg_token.expand(rows, -1, -1), x], dim=1)
        if self.config.class_token:
            x = torch.cat([self.cls_token.expand(rows, -1, -1), x], dim=1)
        for block in self.blocks[: self.config.depth - 1]:
            x = block(x)
        features: Tensor = x[:, self.prefix :]
        return features


class FusedVision(nn.Module):
    """Two towers side by side on six channels."""

    def __init__(self, first: TowerConfig, second: TowerConfig) -> None:
        super().__init__()
        self.featurizer = VisionTower(first)
        self.fused_featurizer = VisionTower(second)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """(B, 6, H, W) -> (B, patches, sum of widths)."""
        first, second = pixels_BCHW[:, :3], pixels_BCHW[:, 3:]
        return torch.cat([self.featurizer(first), self.fused_featurizer(second)], dim=-1)
