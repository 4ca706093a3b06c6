"""What a policy did on the robot and how it ended, as a batch to reinforce it on before it practises in a dream.

No episode on a robot begins again from the same picture, so that an episode is compared with all of the same
instruction: REINFORCE with the mean outcome as its baseline (Williams 1992), under the clipped loss of practice.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cloud_trainer.practice.grpo.off_policy import log_probs_under
from cloud_trainer.practice.grpo.scored import Scored
from cloud_trainer.world_model.compact.data import Clips
from gymnast_core.policies.trainable import LearningPolicy, TokenPolicy, TrainableAdapter
from gymnast_core.records.manifest import Manifest
from gymnast_core.types import FloatArray, IntArray, RolloutBatch

READABLE = ("compact_policy", "openvla")
"""Of gymnast_core.policies.ARCHITECTURES those whose tokens can be read off a recorded action. What a flow drew on its
way to one cannot, nor is what a policy with a memory had behind it in clips."""


@dataclass(frozen=True)
class Lesson:
    """Recorded episodes that a policy is reinforced on once, before its first update in the dream.

    Attributes:
        rollouts: the policy's own episodes, frames at its chunk starts and the end, one group an instruction; without
            trace and log-probabilities, which take the policy.
        reward_B: (B,) float32 1 where a label says success, else 0.
        epochs: passes over them.
    """

    rollouts: RolloutBatch
    reward_B: FloatArray
    epochs: int

    @staticmethod
    def of(parts: Sequence[Clips], version: str, chunk: int, epochs: int, *, apart: Collection[str] = ()) -> Lesson:
        """Return the lesson that these episodes hold for a policy.

        An instruction that always went well, or never, compares nothing and is left out.

        Args:
            parts: labelled episodes.
            version: id of the policy's checkpoint; what others recorded is left out.
            chunk: actions that it chooses at once.
            epochs: passes over them.
            apart: ids of episodes that are left out, too.
        """
        own = [
            [n for n, policy in enumerate(part.policies) if policy == version and part.episode_ids[n] not in apart]
            for part in parts
        ]
        told = [(part, n) for part, rows in zip(parts, own, strict=True) for n in rows]
        outcomes = {(part.instructions[n], bool(part.success_N[n])) for part, n in told}
        mixed = sorted(text for text, won in outcomes if won and (text, False) in outcomes)
        rows = [
            (part, np.array([n for n in its if part.instructions[n] in mixed], np.int64))
            for part, its in zip(parts, own, strict=True)
        ]
        steps = max(part.actions_NTA.shape[1] for part in parts)
        reward_B = np.concatenate([part.success_N[index] for part, index in rows]).astype(np.float32)
        batches = [_rollouts(part, index, version, mixed, chunk, steps) for part, index in rows]
        return Lesson(RolloutBatch.joined(batches), reward_B, epochs)

    def batch(self, policy: LearningPolicy) -> Scored:
        """Return the episodes as rollouts of the policy as it was then: the tokens nearest to what was commanded."""
        rollouts, chunk = self.rollouts, policy.chunk_length
        count, steps = rollouts.actions_BTA.shape[:2]
        inner = policy.base if isinstance(policy, TrainableAdapter) else policy
        assert isinstance(inner, TokenPolicy)
        whole_BTA = np.pad(rollouts.actions_BTA, ((0, 0), (0, -steps % chunk), (0, 0)), mode="edge")
        tokens = np.rint(inner.token_positions(whole_BTA)).astype(np.int64)
        drawn = replace(rollouts, trace={"tokens": tokens.reshape(count, -1, chunk, tokens.shape[-1])})
        scored = replace(drawn, log_probs_BTA=log_probs_under(policy, drawn))
        return Scored(scored, self.reward_B, np.ones(count, bool))


def lesson_of(
    parts: Sequence[Clips], policy: Manifest, version: str, epochs: int, *, apart: Collection[str] = ()
) -> Lesson | None:
    """Return the lesson for a policy; None where there is none, or none can be read off its episodes.

    Args:
        parts: see Lesson.of.
        policy: says of what kind it is; of an adapter, its base's.
        version: see Lesson.of.
        epochs: see Lesson.of; 0 asks for none.
        apart: see Lesson.of.
    """
    if not epochs or policy.architecture not in READABLE:
        return None
    lesson = Lesson.of(parts, version, int(policy.config["chunk_length"]), epochs, apart=apart)
    return lesson if len(lesson.reward_B) else None


def _rollouts(clips: Clips, rows: IntArray, version: str, names: Sequence[str], chunk: int, steps: int) -> RolloutBatch:
    """Episodes as rollouts of so many steps; a shorter part stands still to the end."""
    seen_F = np.array([*range(0, steps, chunk), steps], np.int64)
    there = clips.actions_NTA.shape[1]
    actions_BTA = np.pad(clips.actions_NTA[rows], ((0, 0), (0, steps - there), (0, 0)))
    texts = tuple(clips.instructions[row] for row in rows)
    return RolloutBatch(
        instructions=texts, frame_steps_F=seen_F,
        frames_BFHWC=clips.frames_NTHWC[rows[:, None], np.minimum(seen_F, there)], actions_BTA=actions_BTA,
        log_probs_BTA=np.zeros_like(actions_BTA), length_B=clips.length_N[rows], policy_version=version,
        group_B=np.array([names.index(text) for text in texts], np.int64),
    )  # fmt: skip
