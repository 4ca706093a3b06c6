"""The compact world model's network: a three-level U-Net over 2x2 pixel blocks, conditioned on the actions twice.

Once as a drawing (the commanded end-effector path projected into the image) and once as numbers (FiLM).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gymnast_core.errors import ConfigError
from gymnast_core.policies.processor import laid_out, lay_out
from gymnast_core.types import ACTION_DIM, PROPRIO_DIM

MAP_CHANNELS = 9
MOST_STEPS = 1000
ACTION_SCALE = (0.05, 0.05, 0.05, 0.25, 0.25, 0.25, 1.0)
POSE_CENTRE = (0.27, 0.0, 0.12, 0.0, 0.0, 0.0, 0.5)
POSE_SCALE = (0.12, 0.15, 0.1, 0.5, 0.5, 0.5, 0.5)


@dataclass(frozen=True)
class CompactWorldModelConfig:
    """Sizes and constants of the compact world model; stored in the manifest.

    Attributes:
        camera_matrix: 12 numbers, row-major 3x4: metres in the arm's base frame -> homogeneous pixels at image_size.
        image_size: pixels.
        horizon: K, the furthest frame predicted in one go: the policy's chunk length.
        widths: channels at 1/2, 1/4 and 1/8 resolution.
        embedding: width of the conditioning vector.
        sampling_steps: of the flow; 1 was measured worse than 2, more than 2 no better.
        pixel_scale: grey levels per unit of the network's input.
        table_height_m: where the drawn ground marker lies.
    """

    camera_matrix: tuple[float, ...]
    image_size: int = 64
    horizon: int = 5
    widths: tuple[int, int, int] = (32, 64, 256)
    embedding: int = 192
    sampling_steps: int = 2
    pixel_scale: float = 64.0
    table_height_m: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if len(self.camera_matrix) != 12:
            raise ConfigError(f"camera_matrix needs 12 numbers (3x4), got {len(self.camera_matrix)}")
        if self.image_size % 8 or self.horizon < 1:
            raise ConfigError(f"image_size must be a multiple of 8, horizon >= 1; got {self}")
        check_flow(self.sampling_steps, self.pixel_scale)


def check_flow(sampling_steps: int, pixel_scale: float) -> None:
    """Refuse what no tensor's shape gives away: a checkpoint with a billion steps would load, and never answer.

    Raises:
        ConfigError: steps that are no whole number from 1 to MOST_STEPS, or a scale that divides to nothing finite.
    """
    whole = isinstance(sampling_steps, int) and not isinstance(sampling_steps, bool)
    if not whole or not 1 <= sampling_steps <= MOST_STEPS:
        raise ConfigError(f"sampling_steps must be a whole number from 1 to {MOST_STEPS}, got {sampling_steps!r}")
    if not isinstance(pixel_scale, (int, float)) or not 1 <= pixel_scale <= 255:
        raise ConfigError(f"pixel_scale must be from 1 to 255 grey levels, got {pixel_scale!r}")


def pose_maps(poses_BKP: Tensor, camera_34: Tensor, size: int, cell: int, table_m: float) -> Tensor:
    """Draw a commanded path as (B, 9, size/cell, size/cell) maps of Gaussian spots.

    Args:
        poses_BKP: (B, k+1, 7) commanded poses, from the context frame to the predicted one.
        camera_34: (3, 4) metres -> homogeneous pixels.
        size: image size in pixels.
        cell: pixels per map cell.
        table_m: height of the ground marker.
    """
    grid = torch.arange(size // cell) * float(cell) + (cell - 1) / 2
    spots = _spots(poses_BKP[..., :3], camera_34, grid)
    ground = poses_BKP[:, [0, -1], :3].clone()
    ground[..., 2] = table_m
    shadow = _spots(ground, camera_34, grid)
    grip = poses_BKP[..., 6][..., None, None]
    height = ((poses_BKP[..., 2] - 0.1) / 0.1)[..., None, None]
    start, end = spots[:, 0], spots[:, -1]
    later = spots[:, 1:]
    return torch.stack(
        [
            start,
            start * grip[:, 0],
            end,
            end * grip[:, -1],
            end * height[:, -1],
            later.amax(1),
            (later * (1 - grip[:, 1:])).amax(1),
            shadow[:, 0],
            shadow[:, 1],
        ],
        dim=1,
    )


def _spots(points_BK3: Tensor, camera_34: Tensor, grid: Tensor, sigma_px: float = 2.5) -> Tensor:
    """Return (B, K, G, G) Gaussian spots around projected points."""
    projected = points_BK3 @ camera_34[:, :3].T + camera_34[:, 3]
    pixel = projected[..., :2] / projected[..., 2:]
    across = torch.exp(-0.5 * ((grid - pixel[..., :1]) / sigma_px).square())
    down = torch.exp(-0.5 * ((grid - pixel[..., 1:]) / sigma_px).square())
    return down[..., :, None] * across[..., None, :]


class FrameBlock(nn.Module):
    """Two 3x3 convolutions with FiLM from the conditioning vector and a residual path."""

    def __init__(self, in_channels: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, in_channels), nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * channels)
        self.skip = nn.Conv2d(in_channels, channels, 1) if in_channels != channels else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map x (B, C, H, W), condition (B, E) to (B, channels, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(condition)[..., None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        out: Tensor = self.skip(x) + h
        return out


class FrameAttention(nn.Module):
    """Self-attention over the coarsest grid: where an object went may be far from where it was."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, self.heads, channels // self.heads, height * width)
        q, k, v = qkv.transpose(-1, -2).unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(batch, channels, height, width)
        out: Tensor = x + self.out(mixed)
        return out


class CompactWorldNetwork(nn.Module):
    """Predicts the clean frame k steps ahead from a noisy one, two context frames and the actions between."""

    camera: Tensor
    action_scale: Tensor
    pose_centre: Tensor
    pose_scale: Tensor

    def __init__(self, config: CompactWorldModelConfig) -> None:
        super().__init__()
        self.config = config
        a, b, c = config.widths
        e = config.embedding
        grid = config.image_size // 2
        self.register_buffer("camera", torch.tensor(config.camera_matrix).view(3, 4), persistent=False)
        self.register_buffer("action_scale", torch.tensor(ACTION_SCALE), persistent=False)
        self.register_buffer("pose_centre", torch.tensor(POSE_CENTRE), persistent=False)
        self.register_buffer("pose_scale", torch.tensor(POSE_SCALE), persistent=False)
        numbers = config.horizon * (ACTION_DIM + 1) + 2 * PROPRIO_DIM + 32
        self.condition = nn.Sequential(nn.Linear(numbers, e), nn.SiLU(), nn.Linear(e, e), nn.SiLU())
        self.place = nn.Parameter(torch.zeros(1, a, grid, grid))
        self.enter = nn.Conv2d(9 * 4 + MAP_CHANNELS, a, 3, padding=1)
        self.fine1 = FrameBlock(a, a, e)
        self.down1 = nn.Conv2d(a, b, 3, stride=2, padding=1)
        self.mid1 = FrameBlock(b, b, e)
        self.down2 = nn.Conv2d(b, c, 3, stride=2, padding=1)
        self.deep1, self.attention, self.deep2 = FrameBlock(c, c, e), FrameAttention(c), FrameBlock(c, c, e)
        self.up2 = nn.Conv2d(c, b, 1)
        self.mid2 = FrameBlock(2 * b, b, e)
        self.up1 = nn.Conv2d(b, a, 1)
        self.fine2 = FrameBlock(2 * a, a, e)
        self.leave_norm, self.leave = nn.GroupNorm(8, a), nn.Conv2d(a, 12, 3, padding=1)
        lay_out(self)

    def forward(
        self,
        noisy: Tensor,
        context: Tensor,
        first: Tensor,
        poses_BKP: Tensor,
        actions_BKA: Tensor,
        ahead_B: Tensor,
        tau_B: Tensor,
    ) -> Tensor:
        """Return the predicted clean frame, (B, 3, H, W), frames being differences from the background.

        Args:
            noisy: (B, 3, H, W), (1 - tau) noise + tau clean.
            context: (B, 3, H, W), the frame the actions start from.
            first: (B, 3, H, W), the episode's first frame.
            poses_BKP: (B, K+1, 7) commanded poses; from ahead_B on the last one repeats.
            actions_BKA: (B, K, 7), zero from ahead_B on.
            ahead_B: (B,) int64 in 1..K, how many actions lie between.
            tau_B: (B,) in [0, 1), flow time.
        """
        config = self.config
        maps = pose_maps(poses_BKP, self.camera, config.image_size, 2, config.table_height_m)
        condition = self.condition(self._numbers(poses_BKP, actions_BKA, ahead_B, tau_B))
        frames = F.pixel_unshuffle(torch.cat([noisy, context, first], dim=1), 2)
        x = laid_out(torch.cat([frames, maps], dim=1))
        fine = self.fine1(self.enter(x) + self.place, condition)
        mid = self.mid1(self.down1(fine), condition)
        deep = self.deep2(self.attention(self.deep1(self.down2(mid), condition)), condition)
        mid = self.mid2(torch.cat([mid, F.interpolate(self.up2(deep), scale_factor=2.0)], dim=1), condition)
        fine = self.fine2(torch.cat([fine, F.interpolate(self.up1(mid), scale_factor=2.0)], dim=1), condition)
        return F.pixel_shuffle(self.leave(F.silu(self.leave_norm(fine))), 2).float()

    def _numbers(self, poses: Tensor, actions: Tensor, ahead: Tensor, tau: Tensor) -> Tensor:
        """Everything that is no picture as one (B, n) vector."""
        reached = torch.arange(self.config.horizon) < ahead[:, None]
        ends = (poses[:, [0, -1]] - self.pose_centre) / self.pose_scale
        frequency = torch.exp(torch.linspace(0.0, math.log(50.0), 16))
        angle = tau[:, None] * frequency
        return torch.cat(
            [
                (actions / self.action_scale).flatten(1),
                reached.to(actions.dtype),
                ends.flatten(1),
                angle.sin(),
                angle.cos(),
            ],
            dim=1,
        )
