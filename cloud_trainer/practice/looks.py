"""Random looks of recorded frames: another table, light, camera, objects beside it. What is done there stays the same.

A whole batch at a time, from the pixels alone: the table is what has a frame's most common colour. No look is one of
the simulator's named scenes; those stay unseen. Colours run over nearly all a table can have, a camera moves by some
centimetres, and what lies about is a soft disc or a box of any colour.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gymnast_core.types import ByteArray

AS_RECORDED = 0.25
"""Share of frames whose table, and share whose camera, stays as it is."""
SURFACE = 0.09
"""Distance from the most common colour, of 1, up to which a pixel is table."""
LUMA, CHROMA = (0.06, 0.9), 0.2
"""Brightness of a new table, drawn by its logarithm half of the time, and how far its channels part."""
HUE_RAD, SATURATION = 0.35, (0.7, 1.3)
"""Of everything that is no table: words name colours, so a red thing stays red."""
GAIN, GAMMA, SLOPE, TINT = (0.45, 1.3), (0.78, 1.28), 0.8, 0.08
"""Of the light: brightness, contrast, its fall from one side to the other, its colour."""
MOST_THINGS, THING = 3, (0.028, 0.08)
"""Things that are part of no task, each there every second time; half their size, in sides of the frame."""
SCALE, SHEAR, SHIFT, TILT = 0.05, 0.06, 0.07, 0.04
"""Standard deviations of a camera's homography, in half sides of the frame."""


def another_look(frames_BHWC: ByteArray, rng: np.random.Generator) -> ByteArray:
    """Return each frame of a batch in a random look of its own; the same generator state gives the same ones.

    Args:
        frames_BHWC: (B, H, W, 3) uint8, squares.
        rng: moved on.
    """
    draw = _Draw(rng, len(frames_BHWC))
    x_BHWC = torch.from_numpy(np.ascontiguousarray(frames_BHWC)).float() / 255.0
    middle_B11C = x_BHWC.flatten(1, 2).median(1).values[:, None, None]
    apart_BHW1 = (x_BHWC - middle_B11C).abs().amax(-1, keepdim=True)
    table_BHW1 = torch.sigmoid(60.0 * (SURFACE - apart_BHW1))
    behind_BHWC = _littered(x_BHWC + _table_change(middle_B11C, draw), draw)
    scene_BHWC = table_BHW1 * behind_BHWC + (1 - table_BHW1) * _recoloured(x_BHWC, draw)
    seen_BHWC = _moved_camera(_lit(scene_BHWC.clamp(0, 1), draw).clamp(0, 1), draw)
    looks: ByteArray = (seen_BHWC.clamp(0, 1) * 255.0).round().to(torch.uint8).numpy()
    return looks


class _Draw:
    """Random tensors, one row a frame."""

    def __init__(self, rng: np.random.Generator, count: int) -> None:
        self._rng, self._count = rng, count

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(self._rng.uniform(low, high, (self._count, *shape)).astype(np.float32))

    def normal(self, deviation: float, *shape: int) -> Tensor:
        return torch.from_numpy(self._rng.normal(0.0, deviation, (self._count, *shape)).astype(np.float32))

    def with_chance(self, share: float, *shape: int) -> Tensor:
        """1 with this chance, else 0."""
        return (self.uniform(0.0, 1.0, *shape) < share).float()


def _table_change(middle_B11C: Tensor, draw: _Draw) -> Tensor:
    """What to add to a table of this colour so that it has another one; its texture stays."""
    even = draw.uniform(*LUMA, 1, 1, 1)
    dark = draw.uniform(math.log(LUMA[0]), math.log(LUMA[1]), 1, 1, 1).exp()
    luma = torch.where(draw.with_chance(0.5, 1, 1, 1) > 0, even, dark)
    colour = (luma * (1 + draw.uniform(-CHROMA, CHROMA, 1, 1, 3))).clamp(0.02, 1.0)
    return (1 - draw.with_chance(AS_RECORDED, 1, 1, 1)) * (colour - middle_B11C)


def _littered(behind_BHWC: Tensor, draw: _Draw) -> Tensor:
    """Things lying on the table, behind whatever stands on it."""
    side = behind_BHWC.shape[1]
    axis = (torch.arange(side) + 0.5) / side
    down_1HW, across_1HW = (grid[None] for grid in torch.meshgrid(axis, axis, indexing="ij"))
    for _ in range(MOST_THINGS):
        row, column = draw.uniform(0.15, 0.95, 1, 1), draw.uniform(0.05, 0.95, 1, 1)
        y, x = (down_1HW - row) / draw.uniform(*THING, 1, 1), (across_1HW - column) / draw.uniform(*THING, 1, 1)
        corners = 2.0 + 4.0 * draw.with_chance(0.5, 1, 1)  # a disc, or nearly a box
        there = torch.sigmoid(4.0 * (1 - y.abs() ** corners - x.abs() ** corners)) * draw.with_chance(0.5, 1, 1)
        colour = draw.uniform(0.03, 0.95, 1, 1, 3) * (1 - 0.35 * y.clamp(-1, 1))[..., None]
        behind_BHWC = behind_BHWC + there[..., None] * (colour - behind_BHWC)
    return behind_BHWC


def _recoloured(x_BHWC: Tensor, draw: _Draw) -> Tensor:
    """Turn the hue about the grey axis, and change the saturation."""
    turn = draw.uniform(-HUE_RAD, HUE_RAD)
    own = torch.cos(turn) + (1 - torch.cos(turn)) / 3
    to, fro = ((1 - torch.cos(turn)) / 3 + sign * torch.sin(turn) / math.sqrt(3) for sign in (-1.0, 1.0))
    rows = [torch.stack(row, -1) for row in ((own, to, fro), (fro, own, to), (to, fro, own))]
    turned = torch.einsum("bij,bhwj->bhwi", torch.stack(rows, -2), x_BHWC)
    grey = turned.mean(-1, keepdim=True)
    return (grey + draw.uniform(*SATURATION, 1, 1, 1) * (turned - grey)).clamp(0, 1)


def _lit(scene_BHWC: Tensor, draw: _Draw) -> Tensor:
    """Another lamp: brightness, contrast, a fall across the picture, colour."""
    axis = torch.linspace(-0.5, 0.5, scene_BHWC.shape[1])
    down, across = (grid[None, ..., None] for grid in torch.meshgrid(axis, axis, indexing="ij"))
    angle, slope = draw.uniform(0.0, 2 * math.pi, 1, 1, 1), draw.uniform(0.0, SLOPE, 1, 1, 1)
    fall = 1 + slope * (torch.cos(angle) * across + torch.sin(angle) * down)
    gain, gamma = (draw.uniform(math.log(low), math.log(high), 1, 1, 1).exp() for low, high in (GAIN, GAMMA))
    lit: Tensor = scene_BHWC**gamma * gain * fall * (1 + draw.uniform(-TINT, TINT, 1, 1, 3))
    return lit


def _moved_camera(seen_BHWC: Tensor, draw: _Draw) -> Tensor:
    """Look from somewhere near: a random homography; the border goes on where nothing was recorded."""
    warp_B33 = torch.zeros(len(seen_BHWC), 3, 3)
    for row, column, deviation in (
        *((0, 0, SCALE), (0, 1, SHEAR), (0, 2, SHIFT), (1, 0, SHEAR), (1, 1, SCALE), (1, 2, SHIFT)),
        *((2, 0, TILT), (2, 1, TILT)),
    ):
        warp_B33[:, row, column] = draw.normal(deviation)
    warp_B33 = warp_B33 * (1 - draw.with_chance(AS_RECORDED, 1, 1)) + torch.eye(3)
    side = seen_BHWC.shape[1]
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    down, across = torch.meshgrid(axis, axis, indexing="ij")
    places = torch.einsum("bij,hwj->bhwi", warp_B33, torch.stack([across, down, torch.ones_like(down)], -1))
    grid_BHW2 = places[..., :2] / places[..., 2:].clamp(min=0.1)
    moved = F.grid_sample(seen_BHWC.permute(0, 3, 1, 2), grid_BHW2, padding_mode="border", align_corners=False)
    return moved.permute(0, 2, 3, 1)
