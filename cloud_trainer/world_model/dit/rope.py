"""Rotary position encoding: neighbouring pairs (2j, 2j+1) turn by position times frequency.

Source: RoFormer (Su et al. 2021, eq. 34); the axial and the "pixel" variant as released with WorldGym
(tests/parity/test_worldgym.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gymnast_core.errors import ConfigError

VARIANTS = ("standard", "pixel")
_THETA = 10_000.0
_PIXEL_MAX_FREQUENCY = 128.0


Turn = tuple[Tensor, Tensor]
"""What rotate() multiplies by, each (positions, head_dim) float32: cosines, and sines signed for the swapped pairs."""


def frequencies(pairs: int, variant: str, device: torch.device | None = None) -> Tensor:
    """Return the (pairs,) float32 angular frequencies of one axis.

    Raises:
        ConfigError: the variant is unknown.
    """
    if variant == "standard":
        return _THETA ** (-torch.arange(pairs, dtype=torch.float32, device=device) / pairs)
    if variant == "pixel":
        return torch.linspace(1.0, _PIXEL_MAX_FREQUENCY, pairs, dtype=torch.float32, device=device) * math.pi
    raise ConfigError(f"rope variant {variant!r} is not one of {VARIANTS}")


def axis_angles(positions: Tensor, pairs: int, variant: str = "standard") -> Tensor:
    """Return (positions, pairs) angles for positions on one axis."""
    return positions.to(torch.float32)[:, None] * frequencies(pairs, variant, positions.device)[None]


def grid_angles(height: int, width: int, head_dim: int, variant: str, device: torch.device | None = None) -> Tensor:
    """Return (height * width, head_dim / 2) angles: first half of the pairs follows the row, second the column.

    Args:
        height: rows of the token grid.
        width: columns.
        head_dim: a multiple of 4.
        variant: "standard" counts positions 0, 1, 2...; "pixel" spreads them from -1 to 1 inclusive.
        device: where they are wanted.
    """
    pairs = head_dim // 4

    def positions(count: int) -> Tensor:
        if variant == "pixel":
            return torch.linspace(-1.0, 1.0, count, device=device)
        return torch.arange(count, dtype=torch.float32, device=device)

    rows = axis_angles(positions(height), pairs, variant)[:, None].expand(height, width, pairs)
    columns = axis_angles(positions(width), pairs, variant)[None].expand(height, width, pairs)
    return torch.cat((rows, columns), dim=-1).reshape(height * width, 2 * pairs)


def turn_by(angles: Tensor) -> Turn:
    """Return the turn by (positions, head_dim / 2) angles; made once per pass, used by every layer."""
    cos, sin = angles.cos(), angles.sin()
    return cos.repeat_interleave(2, dim=-1), torch.stack((-sin, sin), dim=-1).flatten(-2)


def rotate(x: Tensor, turn: Turn) -> Tensor:
    """Turn the pairs of x's last axis.

    Args:
        x: (..., positions, head_dim).
        turn: of those positions.

    Returns:
        Same shape and dtype as x; the turn itself is done in float32.
    """
    cos, sin = turn
    whole = x.float()
    swapped = whole.reshape(*x.shape[:-1], -1, 2).flip(-1).flatten(-2)
    return torch.addcmul(whole * cos, swapped, sin).to(x.dtype)
