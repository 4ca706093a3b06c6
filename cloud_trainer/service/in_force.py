"""Which checkpoint each robot runs, was ordered to run, or turned down, and when it said so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cloud_trainer.service.robots import RobotReport
from cloud_trainer.service.words import RAN, REFUSED, RUNS, Word
from cloud_trainer.store.protocols import MetaStore
from gymnast_core.records.release import EVERY_ROBOT
from gymnast_core.robot_status import WeightsStatus

MANDATES = ("promotion", "rollback")


@dataclass(frozen=True)
class MandateRow:
    """A promotion or rollback.

    Attributes:
        checkpoint_id: what robots shall run.
        kind: one of MANDATES.
        sequence: of the release.
        at_ns: wall clock, when it was signed.
        reason: of a rollback.
        robots: the robots it is for.
        done: the robot that is asked about reports that it has acted on it.
    """

    checkpoint_id: str
    kind: str
    sequence: int
    at_ns: int
    reason: str
    robots: tuple[str, ...]
    done: bool = False

    def names(self, robot: str) -> bool:
        """Whether it is for a robot."""
        return EVERY_ROBOT in self.robots or robot in self.robots


@dataclass(frozen=True)
class RobotInForce:
    """What one robot has to do with checkpoints.

    Attributes:
        robot: its name.
        runs: its word on the one in force; None before its first.
        ran: its word on the one of its newest episode.
        refused: its words on those it turned down, newest last.
        ordered: the newest promotion or rollback for it.
        checking: what it tries beside the running one, as of its last report.
        probation_left: good episodes the running one still needs.
        held: checkpoints it has.
        age_s: since its last report; None where this process heard none.
    """

    robot: str
    runs: Word | None
    ran: Word | None
    refused: tuple[Word, ...]
    ordered: MandateRow | None
    checking: str
    probation_left: int
    held: tuple[str, ...]
    age_s: float | None


@dataclass(frozen=True)
class CheckpointOnRobot:
    """A robot that has to do with one checkpoint.

    Attributes:
        row: what else it has to do with checkpoints.
        state: "runs", "refused", "ordered" (it has not said so yet), "ran" or "holds".
        at_ns: since when; 0 where nobody noted it.
        reason: of a refusal.
    """

    row: RobotInForce
    state: str
    at_ns: int = 0
    reason: str = ""


class InForce:
    """Reads what the service knows; changes nothing.

    Args:
        meta: the catalogue of releases.
    """

    def __init__(self, meta: MetaStore) -> None:
        self._meta = meta
        self._mandates: dict[str, list[MandateRow]] = {}
        self._seen: dict[str, int] = {}

    def robots(self, tenant: str, words: Sequence[Word], reports: Sequence[RobotReport]) -> list[RobotInForce]:
        """Return one row a robot of the tenant, by name."""
        known = {report.robot: report for report in reports}
        names, mandates = sorted({*known, *(word.robot for word in words)}), self._mandates_of(tenant)
        return [_row(name, [word for word in words if word.robot == name], known.get(name), mandates) for name in names]

    def _mandates_of(self, tenant: str) -> list[MandateRow]:
        """Promotions and rollbacks, oldest first; releases are only ever added."""
        found = self._mandates.setdefault(tenant, [])
        while page := self._meta.releases(tenant, self._seen.get(tenant, 0)):
            for row in page:
                release = json.loads(row.payload)
                if release["kind"] in MANDATES:
                    same = {name: release[name] for name in ("checkpoint_id", "kind", "sequence", "reason")}
                    robots = tuple(release["robots"])
                    found.append(MandateRow(**same, at_ns=release["published_ns"], robots=robots))
            self._seen[tenant] = page[-1].sequence
        return found


def _row(robot: str, words: Sequence[Word], report: RobotReport | None, mandates: Sequence[MandateRow]) -> RobotInForce:
    said = WeightsStatus() if report is None else report.status.get("weights", WeightsStatus())
    mandate = next((one for one in reversed(mandates) if one.names(robot)), None)
    heard = max((word.release for word in words), default=0)
    if mandate is not None:
        mandate = replace(mandate, done=max(heard, int(said.get("obeyed", 0))) >= mandate.sequence)
    return RobotInForce(
        robot,
        runs=next((word for word in words if word.word == RUNS), None),
        ran=next((word for word in words if word.word == RAN), None),
        refused=tuple(word for word in words if word.word == REFUSED),
        ordered=mandate,
        checking=str(said.get("checking", "")),
        probation_left=int(said.get("probation_left", 0)),
        held=tuple(said.get("held", ())),
        age_s=None if report is None else report.age_s(),
    )


def on_robots(rows: Sequence[RobotInForce], checkpoint_id: str) -> list[CheckpointOnRobot]:
    """Return the robots that have to do with one checkpoint."""
    return [found for row in rows if (found := _state_of(row, checkpoint_id)) is not None]


def _state_of(row: RobotInForce, checkpoint_id: str) -> CheckpointOnRobot | None:
    """What a robot says of a checkpoint; None when they have nothing to do with each other."""
    runs, ran, ordered = row.runs, row.ran, row.ordered
    if ordered is not None and ordered.checkpoint_id == checkpoint_id and not ordered.done:
        return CheckpointOnRobot(row, "ordered", ordered.at_ns)
    if runs is not None and runs.checkpoint_id == checkpoint_id:
        return CheckpointOnRobot(row, RUNS, runs.at_ns)
    for word in row.refused:
        if word.checkpoint_id == checkpoint_id:
            return CheckpointOnRobot(row, REFUSED, word.at_ns, word.reason)
    if ran is not None and ran.checkpoint_id == checkpoint_id:
        return CheckpointOnRobot(row, RAN, ran.at_ns)
    return CheckpointOnRobot(row, "holds") if checkpoint_id in row.held else None
