"""What a robot reports of itself, as the trainer keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from gymnast_core.practice_status import PracticeStatus


@dataclass(frozen=True)
class GateNews:
    """What a robot asks of a release, and how what it runs came past that.

    Attributes:
        mode: required, warn or off; empty on a robot from before gates, which checks none.
        overrides: it accepts an administrator's signed override.
        max_age_s: an older record does not count.
        how: of the one in force: passed, override, ran, warned or off; empty where it came with the robot.
        record: id of its gate record.
        by: of an override: who.
        reason: of an override or a warning: why.
    """

    mode: str
    overrides: bool
    max_age_s: float
    how: str = ""
    record: str = ""
    by: str = ""
    reason: str = ""


@dataclass(frozen=True)
class AdapterNews:
    """An adapter that stands beside a robot's base and drives in one scene alone.

    Attributes:
        checkpoint_id: of the adapter.
        scene: where it drives, recognised by the first image of an episode.
        base: beside which it stands.
        since_ns: the robot's wall clock, when it was kept.
        resting: another base is in force, so it drives nowhere.
        probation_left: good episodes it still needs there.
        recognised: how well its scene is told from others, in words.
    """

    checkpoint_id: str
    scene: str
    base: str
    since_ns: int
    resting: bool
    probation_left: int
    recognised: str


class SpoolStatus(TypedDict, total=False):
    """Episodes that wait to be sent."""

    entries: int
    bytes: int
    full: bool


class GateStatus(TypedDict, total=False):
    """How a robot holds releases against the gate, and how what it runs came past it."""

    mode: str
    """required, warn or off; empty on a robot from before gates."""
    overrides: bool
    """It accepts an administrator's signed override."""
    max_age_s: float
    how: str
    """Of the one in force: passed, override, ran, warned, off; empty where it came with the robot."""
    record: str
    by: str
    reason: str


class AdapterStatus(TypedDict):
    """An adapter that stands beside a robot's base and drives in one scene."""

    checkpoint_id: str
    scene: str
    base: str
    since_ns: int
    resting: bool
    """Another base is in force."""
    probation_left: int
    recognised: str
    """How well the scene is told from others, in words."""


class WeightsStatus(TypedDict, total=False):
    """A robot's checkpoints, by id."""

    current: str
    """In force."""
    checking: str
    """Tried beside the one in force."""
    ran: str
    """Of the newest episode."""
    since_ns: int
    obeyed: int
    """Sequence of the newest promotion or rollback it acted on."""
    probation_left: int
    ran_ns: int
    refused: dict[str, str]
    """Checkpoint -> reason."""
    held: list[str]
    gate: GateStatus
    adapters: list[AdapterStatus]
    """Oldest first."""


class RobotStatus(TypedDict, total=False):
    """The newest report of a robot, without its image."""

    state: str
    policy_version: str
    instruction: str
    estop: bool
    estop_reason: str
    alarm: str
    takes_orders: bool
    practice: PracticeStatus | None
    """Its newest run; none before the first."""
    spool: SpoolStatus
    weights: WeightsStatus
