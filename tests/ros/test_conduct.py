"""What counts as a policy's own fault."""

from __future__ import annotations

import numpy as np
import pytest

from gymnast_core.errors import PolicyFailedError, StaleCommandError
from gymnast_core.rollout import GuardedPolicy
from gymnast_core.types import ActionChunk, Observation
from gymnast_core.wire.errors import LinkLostError, error_from_wire
from gymnast_ros.run.conduct import verdict
from gymnast_ros.run.episodes import fault_of

OBSERVATION = Observation(
    {"over_shoulder": np.zeros((1, 8, 8, 3), np.uint8)}, np.zeros((1, 7), np.float32), np.zeros(1, np.int64)
)


class Answers:
    version, chunk_length = "policy-x", 1

    def __init__(self, answer) -> None:
        self._answer = answer

    def act(self, observation, instruction, *, rng=None) -> ActionChunk:
        if isinstance(self._answer, Exception):
            raise self._answer
        return ActionChunk(self._answer, self.version)


def ask(answer) -> ActionChunk:
    return GuardedPolicy(Answers(answer)).act(OBSERVATION, ["lift"])


def test_finite_actions_pass_untouched() -> None:
    actions_BKA = np.full((1, 2, 7), 0.01, np.float32)
    assert ask(actions_BKA).actions_BKA is actions_BKA


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.full((1, 2, 7), np.nan, np.float32), "policy-x asked for actions that are not finite"),
        (np.zeros((1, 2, 6), np.float32), "ShapeError"),
        (np.zeros((1, 0, 7), np.float32), "no action|ShapeError"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "RuntimeError: mat1"),
        (KeyError("camera"), "KeyError"),
        (OSError("weights on a disk that is gone"), "OSError"),
    ],
)
def test_what_is_no_action_is_the_policys_failure(answer, message) -> None:
    with pytest.raises(PolicyFailedError, match=message):
        ask(answer)


def test_lost_link_of_a_remote_policy_is_not_its_failure() -> None:
    with pytest.raises(StaleCommandError):
        ask(StaleCommandError("no answer"))


@pytest.mark.parametrize(
    ("reason", "sources", "blamed"),
    [
        ("", ["policy"] * 15, False),
        ("", ["hold"] * 2, False),
        ("", ["hold"] * 7 + ["policy"] * 8, False),
        ("", ["hold"] * 8 + ["policy"] * 8, True),
        ("", ["silence"] * 15, False),
        ("arm_lost", ["policy"], False),
        ("policy_fault", [], True),
    ],
)
def test_blame_is_for_faults_and_for_asking_what_must_be_refused(reason, sources, blamed) -> None:
    assert bool(verdict(reason, "it raised", sources)) is blamed


def test_a_remote_policy_that_raises_is_blamed_and_a_lost_link_is_not():
    raised = error_from_wire("PolicyFailedError", "policy remote-1 raised TypeError: no", retry=False)
    assert type(raised) is PolicyFailedError
    assert (fault_of(raised), verdict(fault_of(raised), str(raised), [])) == ("policy_fault", str(raised))
    lost = LinkLostError("no answer within 0.5 s")
    assert (fault_of(lost), verdict(fault_of(lost), str(lost), [])) == ("link_lost", "")
