"""Robots as the trainer knows them: what they last reported, and which checkpoints they say they run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gymnast_client.checkpoints import RobotWord, robot_word
from gymnast_client.client import Client, same_fields
from gymnast_core.practice_status import PracticeStatus
from gymnast_core.robot_status import AdapterNews, GateNews
from gymnast_core.wire.gymnast.v1 import robots_pb2, robots_pb2_grpc
from gymnast_core.wire.practice import practice_status

_STATUS = ("state", "policy_version", "instruction", "estop", "estop_reason", "alarm", "takes_orders")
_GATE = ("mode", "overrides", "max_age_s", "how", "record", "by", "reason")
_ADAPTER = ("checkpoint_id", "scene", "base", "since_ns", "resting", "probation_left", "recognised")
_MANDATE = ("checkpoint_id", "kind", "sequence", "at_ns", "reason", "robots", "done")


@dataclass(frozen=True)
class SpoolView:
    """Episodes that a robot has yet to send."""

    entries: int
    bytes: int
    full: bool


@dataclass(frozen=True)
class MandateView:
    """The newest promotion or rollback for a robot; done once the robot reports that it has acted on it."""

    checkpoint_id: str
    kind: str
    sequence: int
    at_ns: int
    reason: str
    robots: tuple[str, ...]
    done: bool


@dataclass(frozen=True)
class CheckpointWords:
    """What a robot says of its checkpoints.

    Attributes:
        runs: of the one in force; None before its first word.
        ran: of the one of its newest episode.
        refused: of those it turned down, newest last.
        ordered: the checkpoint it was ordered to run.
        checking: what it tries beside the running one.
        probation_left: good episodes the running one still needs.
        held: those it has.
        adapters: of scenes, oldest first.
    """

    runs: RobotWord | None
    ran: RobotWord | None
    refused: tuple[RobotWord, ...]
    ordered: MandateView | None
    checking: str
    probation_left: int
    held: tuple[str, ...]
    adapters: tuple[AdapterNews, ...]


@dataclass(frozen=True)
class RobotView:
    """A robot.

    Attributes:
        robot: its name.
        age_s: since it last reported.
        silent: for so long that nothing may be concluded from it.
        state: idle, running, ...
        policy_version: checkpoint in force.
        instruction: what is being done; empty when nothing is.
        estop: its arm is stopped.
        estop_reason: why.
        alarm: what an operator must do something about.
        takes_orders: the trainer may run episodes on it.
        spool: what it has yet to send.
        words: what it says of its checkpoints.
        gate: what it asks of them.
        practice: its newest practice run; None before the first.
    """

    robot: str
    age_s: float
    silent: bool
    state: str
    policy_version: str
    instruction: str
    estop: bool
    estop_reason: str
    alarm: str
    takes_orders: bool
    spool: SpoolView
    words: CheckpointWords
    gate: GateNews
    practice: PracticeStatus | None


class RobotsClient(Client):
    """Robots of our tenant."""

    def list(self) -> Iterator[RobotView]:
        """Every robot that reported, by name."""
        rows = self._rows(
            lambda channel: robots_pb2_grpc.RobotServiceStub(channel).List,
            lambda after: robots_pb2.ListRobotsRequest(after=after),
            lambda reply: reply.robots,
            lambda row: row.robot,
        )
        return map(_robot, rows)

    def frame(self, robot: str) -> bytes:
        """The newest camera image of a robot, JPEG or WebP; empty where it sends none.

        Raises:
            NotPossibleError: it never reported.
        """
        request = robots_pb2.RobotName(robot=robot)
        reply = self._link.call(lambda channel: robots_pb2_grpc.RobotServiceStub(channel).Frame, request)
        return bytes(reply.data)

    def drop_adapter(self, robot: str, checkpoint_id: str) -> None:
        """Have a robot's base drive again where an adapter did; returns once the robot says that it does.

        Raises:
            NotPossibleError: it has no such adapter, or does not answer.
        """
        request = robots_pb2.DropAdapterRequest(robot=robot, checkpoint_id=checkpoint_id)
        self._link.call(lambda channel: robots_pb2_grpc.RobotServiceStub(channel).DropAdapter, request)


def _robot(message: robots_pb2.RobotState) -> RobotView:
    report = message.report
    return RobotView(
        robot=message.robot, age_s=message.age_s, silent=message.silent, **same_fields(report, _STATUS),
        spool=SpoolView(report.spool_entries, report.spool_bytes, report.spool_full),
        words=CheckpointWords(
            runs=robot_word(message.runs) if message.HasField("runs") else None,
            ran=robot_word(message.ran) if message.HasField("ran") else None,
            refused=tuple(map(robot_word, message.refused)),
            ordered=MandateView(**same_fields(message.ordered, _MANDATE)) if message.HasField("ordered") else None,
            checking=report.weights.checking,
            probation_left=report.weights.probation_left,
            held=tuple(message.held),
            adapters=tuple(AdapterNews(**same_fields(one, _ADAPTER)) for one in report.weights.adapters),
        ),
        gate=GateNews(**same_fields(report.weights.gate, _GATE)),
        practice=practice_status(report.practice) if report.HasField("practice") else None,
    )  # fmt: skip
