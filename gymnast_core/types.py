"""What travels between environment, policy, recorder and judge.

Axes: B batch, T steps, K chunk, A action (7), P proprioception (7), H W C image, J joints (6).
Time: a_t is what is commanded between observation t and observation t+1. T actions, T+1 observations.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gymnast_core.errors import ContractError, ShapeError

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

Trace = Mapping[str, npt.NDArray[Any]]
"""What a policy drew to choose its chunks, under names of its own: all it needs to give their log-probability again."""

Asked = tuple[ByteArray, Sequence[str]]
"""What a policy is asked about: (N, H, W, 3) frames as it trains on them, and an instruction for each."""

ACTION_DIM = 7
"""[dx, dy, dz (m), droll, dpitch, dyaw (rad), gripper (0 closed, 1 open)]."""

PROPRIO_DIM = 7
"""[x, y, z (m), roll, pitch, yaw (rad, relative to Bridge's default rotation), gripper (0..1)]."""


class Outcome(str, enum.Enum):
    """How an episode or rollout ended, in the eyes of its labeller."""

    SUCCESS = "success"
    FAILURE = "failure"
    ABSTAIN = "abstain"
    UNLABELLED = "unlabelled"


PAST_STEPS = 16
"""H, steps that an observation looks back; at 5 Hz three seconds, as in Radosavovic et al., arXiv 2303.03381."""


@dataclass(frozen=True, eq=False)
class Past:
    """What an arm was commanded in the last steps of its episode and where it was then; newest last.

    Attributes:
        proprio_BHP: (B, H, 7) float32, before each action, see PROPRIO_DIM.
        actions_BHA: (B, H, 7) float32, what was commanded after the gate.
        valid_BH: (B, H) bool, False before the episode began; the other arrays are 0 there.
    """

    proprio_BHP: FloatArray
    actions_BHA: FloatArray
    valid_BH: BoolArray


@dataclass(frozen=True)
class Observation:
    """What a policy may see, batched.

    Attributes:
        images: camera name -> (B, H, W, 3) uint8 RGB. May be a lazy mapping: a world model decodes on access.
        proprio_BP: (B, 7) float32, see PROPRIO_DIM.
        time_ns_B: (B,) int64, sensor time of the frame; simulated or imagined time where that is the clock.
        past: what was before, as the loop that drives the episode remembers it; None where nobody does.
    """

    images: Mapping[str, ByteArray]
    proprio_BP: FloatArray
    time_ns_B: IntArray
    past: Past | None = None

    @property
    def batch_size(self) -> int:
        """B."""
        return int(self.proprio_BP.shape[0])

    def frames_of(self, camera: str) -> ByteArray:
        """Return the frames of a policy's camera; empty is the first.

        Raises:
            ContractError: there is no such camera.
        """
        name = camera or next(iter(self.images))
        if name not in self.images:
            raise ContractError(f"policy needs camera {name!r}; the observation has {sorted(self.images)}")
        return self.images[name]


@dataclass(frozen=True)
class StepResult:
    """The answer of an environment to one action.

    Attributes:
        observation: after the action.
        terminated_B: (B,) bool, the row ended by itself (arm fault, model lost trust).
        truncated_B: (B,) bool, the row ran out of steps or was cancelled.
        commanded_BA: (B, 7) float32, what was really executed: after the command gate's limits.
    """

    observation: Observation
    terminated_B: BoolArray
    truncated_B: BoolArray
    commanded_BA: FloatArray

    @property
    def done_B(self) -> BoolArray:
        """(B,) bool, rows that will not move any more."""
        return self.terminated_B | self.truncated_B


@dataclass(frozen=True)
class ActionChunk:
    """K actions a policy wants executed, in physical units.

    Attributes:
        actions_BKA: (B, K, 7) float32, see ACTION_DIM.
        policy_version: id of the checkpoint that chose them.
        trace: (B, ...) arrays, see Trace; empty where the policy has no density. A discrete policy's is "tokens",
            (B, K, 7) int64 action tokens 0..255.
        log_probs_BKA: (B, K, 7) float32, log-probability of what was drawn, at the sampling temperature.
    """

    actions_BKA: FloatArray
    policy_version: str
    trace: Trace = field(default_factory=dict)
    log_probs_BKA: FloatArray | None = None

    def __post_init__(self) -> None:
        """Refuse anything but (B, K, 7) float32."""
        if self.actions_BKA.ndim != 3 or self.actions_BKA.shape[2] != ACTION_DIM:
            raise ShapeError(f"actions_BKA must be (B, K, {ACTION_DIM}), got {self.actions_BKA.shape}")
        if self.actions_BKA.dtype != np.float32:
            raise ShapeError(f"actions_BKA must be float32, got {self.actions_BKA.dtype}")


@dataclass(frozen=True)
class Episode:
    """One recorded episode in memory: what the MCAP reader returns and what trainers consume.

    Attributes:
        episode_id: never reused, [A-Za-z0-9_-]{1,64}.
        instruction: what the arm was asked to do.
        images: camera name -> (T+1, H, W, 3) uint8 RGB.
        proprio_TP: (T+1, 7) float32.
        actions_TA: (T, 7) float32, what was commanded after the gate.
        time_ns_T: (T+1,) int64.
        outcome: label.
        labelled_by: author of the label ("operator:<name>", "judge:<id>"), empty when unlabelled.
        policy_versions: one per step, length T.
        truncated_reason: empty when the episode ran to its end; else why it is cut ("crash", "estop", ...).
        metadata: JSON values: robot, task, seed, scene, gate counts.
    """

    episode_id: str
    instruction: str
    images: Mapping[str, ByteArray]
    proprio_TP: FloatArray
    actions_TA: FloatArray
    time_ns_T: IntArray
    outcome: Outcome = Outcome.UNLABELLED
    labelled_by: str = ""
    policy_versions: Sequence[str] = ()
    truncated_reason: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse arrays that do not line up: T actions, T+1 observations."""
        steps = self.actions_TA.shape[0]
        lengths = {name: frames.shape[0] for name, frames in self.images.items()}
        lengths |= {"proprio_TP": self.proprio_TP.shape[0], "time_ns_T": self.time_ns_T.shape[0]}
        wrong = {name: n for name, n in lengths.items() if n != steps + 1}
        if wrong:
            raise ShapeError(f"episode {self.episode_id}: {steps} actions need {steps + 1} observations, got {wrong}")

    @property
    def steps(self) -> int:
        """T, the number of actions."""
        return int(self.actions_TA.shape[0])


@dataclass(frozen=True)
class RolloutBatch:
    """Rollouts generated for learning, as the judge and the learner see them.

    Attributes:
        instructions: B strings.
        frame_steps_F: (F,) int64, the step index of each kept frame (0 = start, T = after the last action).
        frames_BFHWC: (B, F, H, W, 3) uint8.
        actions_BTA: (B, T, 7) float32.
        log_probs_BTA: (B, T, 7) float32 at the sampling temperature; 0 where the policy has no density.
        length_B: (B,) int64, valid steps per row (<= T).
        policy_version: what generated them.
        group_B: (B,) int64, rows of one group share instruction and start.
        trace: (B, C, ...) arrays, the traces of the C chunks; empty where the policy has no density.
    """

    instructions: Sequence[str]
    frame_steps_F: IntArray
    frames_BFHWC: ByteArray
    actions_BTA: FloatArray
    log_probs_BTA: FloatArray
    length_B: IntArray
    policy_version: str
    group_B: IntArray
    trace: Trace = field(default_factory=dict)

    def rows(self, rows: IntArray) -> RolloutBatch:
        """Return chosen rows."""
        return replace(
            self,
            instructions=[self.instructions[row] for row in rows],
            frames_BFHWC=self.frames_BFHWC[rows],
            actions_BTA=self.actions_BTA[rows],
            log_probs_BTA=self.log_probs_BTA[rows],
            length_B=self.length_B[rows],
            group_B=self.group_B[rows],
            trace={name: array[rows] for name, array in self.trace.items()},
        )

    @staticmethod
    def joined(batches: Sequence[RolloutBatch]) -> RolloutBatch:
        """Put batches of the same kept frames behind each other; version and frame steps are the last one's."""

        def all_of(name: str) -> npt.NDArray[Any]:
            return np.concatenate([getattr(batch, name) for batch in batches])

        return replace(
            batches[-1],
            instructions=[text for batch in batches for text in batch.instructions],
            frames_BFHWC=all_of("frames_BFHWC"),
            actions_BTA=all_of("actions_BTA"),
            log_probs_BTA=all_of("log_probs_BTA"),
            length_B=all_of("length_B"),
            group_B=all_of("group_B"),
            trace={name: np.concatenate([batch.trace[name] for batch in batches]) for name in batches[-1].trace},
        )
