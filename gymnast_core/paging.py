"""A call for a person: raised on a robot or by the trainer, delivered by the trainer, open until somebody acknowledges.

What raises one hands it to a Pager and goes on; whoever must wait for the person asks for the answer now and then.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gymnast_core.errors import ContractError
from gymnast_core.json_values import JsonObject, JsonValue

KINDS: Mapping[str, str] = {
    "motor_fault": "motors failed, and recovering by itself did not help",
    "over_force": "the arm pressed harder than it may",
    "arm_fault": "the arm's driver, joint states or cameras failed",
    "estop": "an emergency stop has been latched for minutes while work waits",
    "hard_reset": "the scene must be put back by hand",
    "lost_object": "an object is out of reach or out of sight",
    "practice_stopped": "autonomous practice ended before its time",
    "robot_silent": "a robot with work to do no longer reports",
    "spool_full": "a robot has no room for another episode",
    "robot_alarm": "a robot reports an alarm of its link to the trainer",
    "policy_refused": "a robot turned a checkpoint down, or took it back during its probation",
    "loop_failed": "an unattended loop ended with an error",
    "test": "nothing: somebody tried the receivers",
    "other": "of a kind that this trainer does not know",
}
"""Kind -> what has happened. A robot of a newer version may raise others, which arrive as other."""
MAX_TEXT, MAX_DETAIL_BYTES = 1000, 8192
"""Of one page; a longer text is cut, larger details are left out."""
_ID = re.compile(r"page-[0-9a-f]{16}")


@dataclass(frozen=True)
class Page:
    """One call.

    Attributes:
        kind: one of KINDS.
        robot: whom it is about; empty where it is about no robot.
        text: what happened and what to do, for the person who is woken.
        at_ns: wall clock of where it was raised.
        detail: JSON values beside the text.
        page_id: the same call, however often it is sent.
    """

    kind: str
    robot: str
    text: str
    at_ns: int = field(default_factory=time.time_ns)
    detail: JsonObject = field(default_factory=dict)
    page_id: str = field(default_factory=lambda: f"page-{secrets.token_hex(8)}")

    def __post_init__(self) -> None:
        """Refuse an id that names no file and no row."""
        if not _ID.fullmatch(self.page_id):
            raise ContractError(f"{self.page_id[:80]!r} is no id of a page; they look like page-0123456789abcdef")


@dataclass(frozen=True)
class Acknowledgement:
    """Somebody looks after it.

    Attributes:
        by: name of the person.
        at_ns: the trainer's wall clock.
        note: what they wrote.
    """

    by: str
    at_ns: int
    note: str = ""


class Pager(Protocol):
    """Where a robot's nodes call for a person."""

    def page(self, kind: str, text: str, **detail: JsonValue) -> str:
        """Call for a person; returns the page's id at once, and never raises: what cannot be kept is logged."""
        ...

    def answer(self, page_id: str) -> Acknowledgement | None:
        """Return who looks after a page, None while nobody does; never waits."""
        ...

    def resolve(self, page_id: str, by: str) -> None:
        """Somebody at the robot has done what was asked: nobody is called any more; never waits, never raises."""
        ...


@dataclass(frozen=True)
class PageDelivery:
    """What a receiver got of a call.

    Attributes:
        receiver: its name.
        round: 0 for the first message, then one for each reminder.
        sent_ns: the trainer's wall clock; 0 while it waits.
        attempts: that failed.
        error: of the last one.
    """

    receiver: str
    round: int
    sent_ns: int
    attempts: int
    error: str


@dataclass(frozen=True)
class Tried:
    """What became of a test message.

    Attributes:
        receiver: its name.
        way: webhook, slack, ntfy or email.
        error: why it was not delivered; empty when it was.
        seconds: it took.
    """

    receiver: str
    way: str
    error: str
    seconds: float
