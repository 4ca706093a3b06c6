"""Rotary position encoding: neighbouring pairs (2j, 2j+1) turn by position times frequency.

Source: RoFormer (Su et al. 2021, eq. 34); the axial and the "pixel" variant as released with WorldGym
(shared facts, section 2, and golden/README.md, section 1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gymnast_core.errors import ConfigError

VARIANTS = ("standard", "pixel")
_THETA = 10_000.0
_PIXEL_MAX_FREQUENCY = 128.0


def frequencies(pairs: int, variant: str) -> Tensor:
    """Return the (pairs,) float32 angular frequencies of one axis.

    Raises:
        ConfigError: the variant is unknown.
    """
    if variant == "standard":
        return _THETA ** (-torch.arange(pairs, dtype=torch.float32) / pairs)
    if variant == "pixel":
        return torch.linspace(1.0, _PIXEL_MAX_FREQUENCY, pairs, dtype=torch.float32) * math.pi
    raise ConfigError(f"rope variant {variant!r} is not one of {VARIANTS}")


def axis_angles(positions: Tensor, pairs: int, variant: str = "standard") -> Tensor:
    """Return (positions, pairs) angles for positions on one axis."""
    return positions.to(torch.float32)[:, None] * frequencies(pairs, variant).to(positions.device)[None]


def grid_angles(height: int, width: int, head_dim: int, variant: str) -> Tensor:
    """Return (height * width, head_dim / 2) angles: first half of the pairs follows the row, second the column.

    Args:
        height: rows of the token grid.
        width: columns.
        head_dim: a multiple of 4.
        variant: "standard" counts positions 0, 1, 2...; "pixel" spreads them from -1 to 1 inclusive.
    """
    pairs = head_dim // 4

    def positions(count: int) -> Tensor:
        return torch.linspace(-1.0, 1.0, count) if variant == "pixel" else torch.arange(count, dtype=torch.float32)

    rows = axis_angles(positions(height), pairs, variant)[:, None].expand(height, width, pairs)
    columns = axis_angles(positions(width), pairs, variant)[None].expand(height, width, pairs)
    return torch.cat((rows, columns), dim=-1).reshape(height * width, 2 * pairs)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the pairs of x's last axis.

    Args:
        x: (..., positions, head_dim).
        angles: (positions, head_dim / 2) or anything that broadcasts to x without its last axis halved.

    Returns:
        Same shape and dtype as x; the turn itself is done in float32.
    """
    even, odd = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)
