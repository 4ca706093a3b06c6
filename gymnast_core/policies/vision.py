"""The small image encoder shared by the compact policies (tokens, flow) and the learned judge."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Film(nn.Module):
    """Scale and shift of features by the instruction (feature-wise linear modulation, Perez et al. 2018, eq. 2)."""

    def __init__(self, text_dim: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(text_dim, 2 * channels)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x_BC: Tensor, text_BD: Tensor) -> Tensor:
        """Map x (B, C) or (B, C, H, W), text (B, D) to the shape of x."""
        scale_BC, shift_BC = self.linear(text_BD).chunk(2, dim=-1)
        if x_BC.ndim == 4:
            scale_BC, shift_BC = scale_BC[..., None, None], shift_BC[..., None, None]
        modulated: Tensor = x_BC * (1 + scale_BC) + shift_BC
        return modulated


def spatial_softmax(x_BCHW: Tensor) -> Tensor:
    """Return (B, 2C), the expected x and y in [-1, 1] of every map (Finn et al. 2016, section IV-A)."""
    _, _, height, width = x_BCHW.shape
    weights = F.softmax(x_BCHW.flatten(2), dim=-1).view_as(x_BCHW)
    across = torch.linspace(-1, 1, width, dtype=x_BCHW.dtype)
    down = torch.linspace(-1, 1, height, dtype=x_BCHW.dtype)
    return torch.cat([(weights.sum(2) * across).sum(-1), (weights.sum(3) * down).sum(-1)], dim=1)


class KeypointEncoder(nn.Module):
    """Image and instruction to a feature vector: convolutions, FiLM, and z-scored spatial-softmax keypoints.

    Keypoints move by a few hundredths of the image; without the running z-score the layers above hardly see them.
    """

    def __init__(self, in_channels: int, text_buckets: int, text_dim: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        a, b, c = widths
        self.text = nn.Sequential(nn.Linear(text_buckets, text_dim), nn.SiLU(), nn.Linear(text_dim, text_dim))
        self.conv1 = nn.Conv2d(in_channels, a, 5, stride=2, padding=2)
        self.norm1, self.film1 = nn.GroupNorm(4, a), Film(text_dim, a)
        self.conv2 = nn.Conv2d(a, b, 3, padding=1)
        self.norm2, self.film2 = nn.GroupNorm(4, b), Film(text_dim, b)
        self.conv3 = nn.Conv2d(b, c, 3, stride=2, padding=1)
        self.norm3, self.film3 = nn.GroupNorm(4, c), Film(text_dim, c)
        self.conv4 = nn.Conv2d(c, c, 3, padding=1)
        self.fine, self.coarse = nn.Conv2d(b, b, 1), nn.Conv2d(c, c, 1)
        keypoints = 2 * (b + c)
        self.zscore = nn.BatchNorm1d(keypoints, affine=False, momentum=0.05)
        self.out_dim = keypoints + c + text_dim

    def forward(self, x_BCHW: Tensor, bag_BV: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (B, C, 64, 64) in [-1, 1], bag (B, buckets) to features (B, out_dim) and text (B, text_dim)."""
        text = self.text(bag_BV)
        x = F.silu(self.film1(self.norm1(self.conv1(x_BCHW)), text))
        fine = F.silu(self.film2(self.norm2(self.conv2(x)), text))
        x = F.silu(self.film3(self.norm3(self.conv3(fine)), text))
        coarse = x + F.silu(self.conv4(x))
        points = torch.cat([spatial_softmax(3.0 * self.fine(fine)), spatial_softmax(3.0 * self.coarse(coarse))], dim=1)
        return torch.cat([self.zscore(points), coarse.mean((2, 3)), text], dim=1), text
