"""What a policy did on the robot and how it ended, as a batch to reinforce it on before it practises in a dream.

No episode on a robot begins again from the same picture, so that an episode is compared with all of the same
instruction: REINFORCE with the mean outcome as its baseline (Williams 1992), under the clipped loss of practice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cloud_trainer.practice.grpo.off_policy import log_probs_under
from cloud_trainer.practice.grpo.scored import Scored
from cloud_trainer.world_model.compact.data import Clips, join
from gymnast_core.policies.history import HistoryPolicy
from gymnast_core.policies.trainable import LearningPolicy, TokenPolicy, TrainableAdapter
from gymnast_core.types import FloatArray, IntArray, RolloutBatch


@dataclass(frozen=True)
class Lesson:
    """Recorded episodes that a policy is reinforced on once, before its first update in the dream.

    Attributes:
        clips: labelled episodes of the policy that practises.
        epochs: passes over them.
    """

    clips: Clips
    epochs: int

    @staticmethod
    def of(parts: Sequence[Clips], version: str, epochs: int) -> Lesson:
        """Return the lesson that these episodes hold for a policy.

        An instruction that always went well, or never, compares nothing and is left out.

        Args:
            parts: labelled episodes.
            version: id of the policy's checkpoint; what others recorded is left out.
            epochs: passes over them.
        """
        own = join([part.take([n for n, name in enumerate(part.policies) if name == version]) for part in parts])
        outcomes = set(zip(own.instructions, own.success_N.tolist(), strict=True))
        mixed = [n for n, text in enumerate(own.instructions) if {(text, True), (text, False)} <= outcomes]
        return Lesson(own.take(mixed), epochs)

    def batch(self, policy: LearningPolicy) -> Scored | None:
        """Return the episodes as the policy's own rollouts: one group an instruction, rewarded by their labels.

        Only tokens can be read off a recorded action: what a flow drew on its way to one, or what a policy with a
        memory had behind it, is not in these clips. None for such a policy, and where there is nothing to learn from.
        """
        inner = policy.base if isinstance(policy, TrainableAdapter) else policy
        readable = isinstance(inner, TokenPolicy) and not isinstance(inner, HistoryPolicy)
        if not (readable and self.epochs and len(self.clips)):
            return None
        rollouts = recorded_rollouts(self.clips, policy)
        return Scored(rollouts, self.clips.success_N.astype(np.float32), np.ones(len(self.clips), bool))


def recorded_rollouts(clips: Clips, policy: LearningPolicy) -> RolloutBatch:
    """Return recorded episodes as rollouts of a token policy: the tokens nearest to what was commanded.

    Args:
        clips: what it recorded; the frames at chunk starts and the last one are kept.
        policy: as it was then; its log-probabilities are those that ratios are taken to.
    """
    chunk, steps = policy.chunk_length, clips.actions_NTA.shape[1]
    chunks = -(-steps // chunk)
    actions_NTA = _padded(clips.actions_NTA, chunks * chunk)
    seen_F = np.array([*range(0, steps, chunk), steps], np.int64)
    names = list(dict.fromkeys(clips.instructions))
    rollouts = RolloutBatch(
        instructions=clips.instructions, frame_steps_F=seen_F, frames_BFHWC=clips.frames_NTHWC[:, seen_F],
        actions_BTA=clips.actions_NTA, log_probs_BTA=np.zeros_like(clips.actions_NTA), length_B=clips.length_N,
        policy_version=policy.version, group_B=np.array([names.index(text) for text in clips.instructions]),
        trace={"tokens": _tokens(policy, actions_NTA).reshape(len(clips), chunks, chunk, -1)},
    )  # fmt: skip
    return replace(rollouts, log_probs_BTA=log_probs_under(policy, rollouts))


def _padded(actions_NTA: FloatArray, steps: int) -> FloatArray:
    return np.pad(actions_NTA, ((0, 0), (0, steps - actions_NTA.shape[1]), (0, 0)), mode="edge")


def _tokens(policy: LearningPolicy, actions: FloatArray) -> IntArray:
    inner = policy.base if isinstance(policy, TrainableAdapter) else policy
    assert isinstance(inner, TokenPolicy)
    tokens: IntArray = np.rint(inner.token_positions(actions)).astype(np.int64)
    return tokens
