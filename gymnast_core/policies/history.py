"""The compact policy with a memory: it also sees its last 16 poses and commands, and so how this arm errs today.

Nothing learns while it acts: what an arm makes of its commands shows in them, and the policy was trained on many arms.
As in Radosavovic et al., arXiv 2303.03381, where a causal transformer does it; a gated recurrent unit reads 16 steps as
well and costs less on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gymnast_core.errors import ConfigError, ContractError
from gymnast_core.past import no_past
from gymnast_core.policies.compact import CompactNetwork, CompactPolicy, CompactPolicyConfig
from gymnast_core.policies.sampling import picked_log_probs
from gymnast_core.robots import robot_named
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import ACTION_DIM, PAST_STEPS, PROPRIO_DIM, ByteArray, FloatArray, Observation, Trace

PAST = "past"
"""Key of a trace: (B, H+1, 15) float32, a step's pose, command and 1; the last row is the pose now."""
WIDTH = PROPRIO_DIM + ACTION_DIM + 1


@dataclass(frozen=True)
class HistoryPolicyConfig(CompactPolicyConfig):
    """Sizes of the policy with a memory.

    Attributes:
        past_steps: how many of the last 16 steps it looks back at; 0 leaves it the present pose.
        past_width: of the recurrent unit.
    """

    past_steps: int = PAST_STEPS
    past_width: int = 64

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work."""
        super().__post_init__()
        if not 0 <= self.past_steps <= PAST_STEPS or self.past_width < 1:
            raise ConfigError(f"past_steps must be 0 to {PAST_STEPS} and past_width at least 1, got {self}")


class HistoryNetwork(CompactNetwork):
    """Image, bag of words and past to token logits (B, K, 7, bins); the past in units of the arm's longest step."""

    def __init__(self, config: HistoryPolicyConfig, robot: RobotSpec = WIDOWX_250S) -> None:
        super().__init__(config)
        self._past_steps, self._step_A = config.past_steps, robot.action_high_A
        self.pose = nn.Linear(PROPRIO_DIM, config.past_width)
        self.memory = nn.GRU(3 * PROPRIO_DIM + 1, config.past_width, batch_first=True)
        self.layer1 = nn.Linear(self.encoder.out_dim + 2 * config.past_width, config.hidden)

    def forward(self, image_BHWC: Tensor, bag_BV: Tensor, past_BHX: Tensor) -> Tensor:  # type: ignore[override]
        """Map image (B, 64, 64, 3) uint8, bag (B, buckets) and past (B, H+1, 15) to logits (B, K, 7, bins)."""
        features, text = self.encoder(self.pixels(image_BHWC), bag_BV)
        return self.choose(torch.cat([features, self._remembered(past_BHX)], dim=1), text)

    def _remembered(self, past_BHX: Tensor) -> Tensor:
        """Where the arm was relative to now, what it was commanded there, and where it went: (B, 2 * width)."""
        span_P = past_BHX.new_tensor([0.1] * 3 + [0.5] * 3 + [1.0])
        step_A = past_BHX.new_tensor(self._step_A)
        pose_BHP, command_BHA, valid_BH1 = past_BHX.tensor_split([PROPRIO_DIM, PROPRIO_DIM + ACTION_DIM], dim=-1)
        now_BP = pose_BHP[:, -1]
        was_BHP = (pose_BHP[:, :-1] - now_BP[:, None]) / span_P
        went_BHP = (pose_BHP[:, 1:] - pose_BHP[:, :-1]) / step_A
        steps = torch.cat([was_BHP, command_BHA[:, :-1] / step_A, went_BHP, valid_BH1[:, :-1]], dim=-1)
        steps = steps * valid_BH1[:, :-1]
        pose = F.silu(self.pose(now_BP / span_P))
        if self._past_steps == 0:
            return torch.cat([pose, torch.zeros_like(pose)], dim=1)
        outputs, _ = self.memory(steps[:, -self._past_steps :])
        return torch.cat([pose, outputs[:, -1]], dim=1)


class HistoryPolicy(CompactPolicy):
    """A checkpoint of the network with a memory, keeping gymnast_core.policy.Policy.

    Whoever drives it gives each observation its past (gymnast_core.rollout does); without one it acts as at an
    episode's start.
    """

    architecture, config_class = "compact_history", HistoryPolicyConfig

    @classmethod
    def network_for(cls, config: CompactPolicyConfig, model: str) -> HistoryNetwork:
        """See CompactPolicy.

        Raises:
            ConfigError: nobody here knows the arm.
        """
        if not isinstance(config, HistoryPolicyConfig):
            raise ContractError(f"a policy with a memory needs its own sizes, got {config}")
        return HistoryNetwork(config, robot_named(model))

    def context_of(self, observation: Observation) -> Trace:
        """Return what besides image and words its choice depends on."""
        return {PAST: merged_past(observation)}

    def log_probs(self, images: ByteArray, instructions: Sequence[str], trace: Trace) -> Tensor:
        """Return (B, K, 7) log-probabilities of traced tokens at the policy's temperature, with gradients."""
        logits = self.logits(images, instructions, trace[PAST])
        return picked_log_probs(logits, trace["tokens"], self.temperature)

    def logits(self, images: ByteArray, instructions: Sequence[str], past_BHX: FloatArray | None = None) -> Tensor:
        """Return raw (B, K, 7, bins) logits of (B, 64, 64, 3) uint8 images; without a past, as at a start.

        Raises:
            ContractError: the past has another shape than (B, H+1, 15).
        """
        rows = len(instructions)
        past_BHX = np.zeros((rows, PAST_STEPS + 1, WIDTH), np.float32) if past_BHX is None else past_BHX
        if past_BHX.shape != (rows, PAST_STEPS + 1, WIDTH):
            raise ContractError(f"past must be ({rows}, {PAST_STEPS + 1}, {WIDTH}), got {past_BHX.shape}")
        logits: Tensor = self.network(*self.inputs(images, instructions), torch.from_numpy(past_BHX))
        return logits


def merged_past(observation: Observation) -> FloatArray:
    """Return (B, H+1, 15) float32, see PAST."""
    past = observation.past or no_past(observation.batch_size)
    valid_BH1 = past.valid_BH[..., None].astype(np.float32)
    steps = np.concatenate([past.proprio_BHP, past.actions_BHA, valid_BH1], axis=-1)
    now = np.zeros((observation.batch_size, 1, WIDTH), np.float32)
    now[:, 0, :PROPRIO_DIM], now[:, 0, -1] = observation.proprio_BP, 1.0
    merged: FloatArray = np.concatenate([steps, now], axis=1).astype(np.float32)
    return merged
