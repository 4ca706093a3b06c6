"""The compact planner's networks: the compact world model's blocks under words instead of actions, and its inverse.

The first draws a whole plan at once, its frames as channels of one picture, so that they fit each other. The second
reads the actions off two frames that follow each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloud_trainer.world_model.compact.network import ACTION_SCALE, FrameAttention, FrameBlock, check_flow
from gymnast_core.errors import ConfigError
from gymnast_core.policies.processor import laid_out, lay_out
from gymnast_core.policies.vision import KeypointEncoder
from gymnast_core.types import ACTION_DIM


@dataclass(frozen=True)
class PlannerConfig:
    """Sizes of the compact planner; stored in the manifest.

    Attributes:
        image_size: pixels.
        chunk: control steps from one frame of a plan to the next.
        chunks: frames of a plan beside the one now.
        text_buckets: hashed words.
        cell: pixels a side that the network takes as one place.
        widths: channels at that resolution, half and a quarter of it.
        embedding: width of the conditioning vector.
        sampling_steps: of the flow.
        pixel_scale: grey levels per unit of the network's input.
        keypoint_widths: channels of the inverse dynamics' encoder.
        hidden: width of its layers.
    """

    image_size: int = 64
    chunk: int = 5
    chunks: int = 3
    text_buckets: int = 128
    cell: int = 4
    widths: tuple[int, int, int] = (40, 64, 80)
    embedding: int = 128
    sampling_steps: int = 4
    pixel_scale: float = 64.0
    keypoint_widths: tuple[int, int, int] = (16, 24, 32)
    hidden: int = 160

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        sizes = (self.cell, self.chunk, self.chunks, self.text_buckets)
        if min(sizes) < 1 or self.image_size % (4 * self.cell):
            raise ConfigError(f"image_size must be a multiple of 4 cells, the others at least 1; got {self}")
        check_flow(self.sampling_steps, self.pixel_scale)


class PlanNetwork(nn.Module):
    """Predicts the clean frames of a plan from noisy ones, the frame now and an instruction."""

    def __init__(self, config: PlannerConfig) -> None:
        super().__init__()
        self.config = config
        (a, b, c), e = config.widths, config.embedding
        frames, grid, area = 3 * config.chunks, config.image_size // config.cell, config.cell**2
        self.condition = nn.Sequential(
            nn.Linear(config.text_buckets + 32, e), nn.SiLU(), nn.Linear(e, e), nn.SiLU(), nn.Linear(e, e), nn.SiLU()
        )
        self.place = nn.Parameter(torch.zeros(1, a, grid, grid))
        self.enter = nn.Conv2d(area * (frames + 3), a, 3, padding=1)
        self.fine1, self.down1 = FrameBlock(a, a, e), nn.Conv2d(a, b, 3, stride=2, padding=1)
        self.mid1, self.down2 = FrameBlock(b, b, e), nn.Conv2d(b, c, 3, stride=2, padding=1)
        self.deep1, self.attention, self.deep2 = FrameBlock(c, c, e), FrameAttention(c), FrameBlock(c, c, e)
        self.up2, self.mid2 = nn.Conv2d(c, b, 1), FrameBlock(2 * b, b, e)
        self.up1, self.fine2 = nn.Conv2d(b, a, 1), FrameBlock(2 * a, a, e)
        self.leave_norm, self.leave = nn.GroupNorm(8, a), nn.Conv2d(a, area * frames, 3, padding=1)
        with torch.no_grad():
            self.leave.weight.mul_(0.1)  # begins with little change
        lay_out(self)

    def forward(self, noisy: Tensor, now: Tensor, bag_BV: Tensor, tau_B: Tensor) -> Tensor:
        """Return the predicted clean frames, (B, 3 chunks, H, W), frames being differences from the background.

        Args:
            noisy: (B, 3 chunks, H, W), (1 - tau) noise + tau clean.
            now: (B, 3, H, W).
            bag_BV: (B, text_buckets), the instruction.
            tau_B: (B,) in [0, 1), flow time.
        """
        angle = tau_B[:, None] * torch.exp(torch.linspace(0.0, math.log(50.0), 16))
        condition = self.condition(torch.cat([bag_BV, angle.sin(), angle.cos()], dim=1))
        x = laid_out(F.pixel_unshuffle(torch.cat([noisy, now], dim=1), self.config.cell))
        fine = self.fine1(self.enter(x) + self.place, condition)
        mid = self.mid1(self.down1(fine), condition)
        deep = self.deep2(self.attention(self.deep1(self.down2(mid), condition)), condition)
        mid = self.mid2(torch.cat([mid, F.interpolate(self.up2(deep), scale_factor=2.0)], dim=1), condition)
        fine = self.fine2(torch.cat([fine, F.interpolate(self.up1(mid), scale_factor=2.0)], dim=1), condition)
        change = F.pixel_shuffle(self.leave(F.silu(self.leave_norm(fine))), self.config.cell).float()
        return now.repeat(1, self.config.chunks, 1, 1) + change  # most of a scene stays as it is


class InverseDynamics(nn.Module):
    """Reads the actions between two frames that are a chunk apart."""

    action_scale: Tensor

    def __init__(self, config: PlannerConfig) -> None:
        super().__init__()
        self.chunk = config.chunk
        self.register_buffer("action_scale", torch.tensor(ACTION_SCALE), persistent=False)
        self.encoder = KeypointEncoder(9, 1, 8, config.keypoint_widths)
        self.head = nn.Sequential(
            nn.Linear(self.encoder.out_dim, config.hidden), nn.SiLU(), nn.Linear(config.hidden, config.hidden),
            nn.SiLU(), nn.Linear(config.hidden, config.chunk * ACTION_DIM),
        )  # fmt: skip

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return (B, chunk, 7), deltas in units of ACTION_SCALE, the gripper as a logit of open.

        Args:
            before: (B, 3, H, W) differences from the background.
            after: the same, a chunk later.
        """
        features, _ = self.encoder(torch.cat([before, after, after - before], dim=1), torch.ones(len(before), 1))
        out: Tensor = self.head(features)
        return out.view(-1, self.chunk, ACTION_DIM)

    def actions(self, before: Tensor, after: Tensor) -> Tensor:
        """Return (B, chunk, 7) in metres and radians, the gripper 0 or 1."""
        said = self(before, after)
        return torch.cat([said[..., :6] * self.action_scale[:6], (said[..., 6:] > 0).float()], dim=-1)
