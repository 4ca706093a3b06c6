"""What an episode was run for: what teaches is never mixed up with what measures."""

from __future__ import annotations

from collections.abc import Mapping

from gymnast_core.evaluation.attempts import is_first_attempt

LEARNED = ("collect", "ttt", "practise")
"""Episodes to learn from: collected ones, those of a scene that a policy is adapted to, and those of a practice run."""
TRIALS = ("canary", "trial")
"""Runs of a blinded comparison."""
MEASURED = ("evaluate", *TRIALS)
"""Episodes that measure a policy: they go into the calibration ledger, and nothing is ever trained on them."""
PURPOSES = (*LEARNED, *MEASURED)


def is_measurement(metadata: Mapping[str, object]) -> bool:
    """Whether an episode with this metadata measured a policy.

    A purpose that nobody here knows measures too: an episode is learned from only where that is sure to be meant. One
    that names none was recorded before purposes were, or by another program: it may be learned from.
    """
    purpose = metadata.get("purpose")
    return purpose is not None and purpose not in LEARNED


def is_learnable(metadata: Mapping[str, object]) -> bool:
    """Whether an episode with this metadata may be learned from: it measured nothing, and was a first attempt."""
    return not is_measurement(metadata) and is_first_attempt(metadata)


def is_evaluation(metadata: Mapping[str, object]) -> bool:
    """Whether an episode with this metadata counts as one evaluation of a policy: a measurement, and a first attempt.

    What comes after a judged failure starts where a policy failed: it would make any policy look worse than it is.
    """
    return is_measurement(metadata) and is_first_attempt(metadata)


def is_blinded(metadata: Mapping[str, object]) -> bool:
    """Whether an episode with this metadata belongs to a blinded comparison."""
    return metadata.get("purpose") in TRIALS
