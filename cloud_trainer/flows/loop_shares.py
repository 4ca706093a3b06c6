"""A loop's episodes in shares, handed to whichever of its robots is free; a share is done once, by one robot.

A robot that is silent, stopped or busy gets none; one that falls away while it has one gives it back as soon as another
robot is idle, and the episodes it recorded until then reach the trainer all the same.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

from cloud_trainer.flows.adaptation_engine import CLOSING, Ended
from cloud_trainer.flows.arms import FlowRobot
from cloud_trainer.flows.loop_fleet import POLL_S, AwayWait, Fleet, Tries, away
from cloud_trainer.flows.loop_parts import LoopStoppedError, Shows
from cloud_trainer.progress import ClosingError
from gymnast_core.errors import GymnastError
from gymnast_core.practice import PracticeAsked

ROBOT_S = 3600.0
"""How long a robot may take for one share."""
GRACE_S = 30.0
"""How long a robot may be away before an idle one takes its share over."""

Row = tuple[str, int, bool | None]
"""Task, start state, and whether it succeeded; None where nobody labelled it."""


class DoneShare(TypedDict):
    """What is remembered of a share."""

    robot: str
    episodes: int
    rows: list[Row]


@dataclass(frozen=True)
class EpisodeShare:
    """Episodes that one robot runs in one go.

    Attributes:
        name: of the step.
        tasks: each from every start state.
        scene: where.
        first: start state.
        count: of start states.
        record: for the trainer.
        purpose: rides in the recordings.
        temperature_seed: negative is greedy.
        prefers: the robot that ran them before: pairs are of one arm while that arm is there.
        whole: a robot that ends it early, because somebody cancelled it there, has to do it again.
        practice: what is practised instead of running each task from start states; the count is of both skills.
    """

    name: str
    tasks: tuple[str, ...]
    scene: str
    first: int
    count: int
    record: bool
    purpose: str
    temperature_seed: int = -1
    prefers: str = ""
    whole: bool = False
    practice: PracticeAsked | None = None

    @property
    def shown(self) -> str:
        """Of what it is, for people."""
        if self.practice is not None:
            return f"{self.practice.task} and {self.practice.reset} in turns"
        return f"{self.first} to {self.first + self.count - 1}"

    def run(self, robot: FlowRobot, withdrawn: Callable[[], bool]) -> tuple[int, list[Row]]:
        """Run it; returns how many episodes it came to, and where it has to be whole, each of them.

        Raises:
            GymnastError: the robot could not, or ended it early.
        """
        if self.practice is not None:
            timeout_s = 3600.0 * self.practice.hours + ROBOT_S
            return robot.practise(self.practice, timeout_s, withdrawn).episodes, []
        rows = robot.evaluate(
            tasks=list(self.tasks), seed_start=self.first, seed_count=self.count, scene=self.scene,
            temperature_seed=self.temperature_seed, record=self.record, purpose=self.purpose, timeout_s=ROBOT_S,
            withdrawn=withdrawn,
        )  # fmt: skip
        if self.whole and len(rows) < self.count * len(self.tasks):
            raise GymnastError(f"it was ended there after {len(rows)} of {self.count * len(self.tasks)} episodes")
        return len(rows), [(row.task, row.seed, row.success) for row in rows] if self.whole else []


class ShareOut:
    """Hands shares out until all are done.

    Args:
        fleet: the robots.
        version: policy in force, which every robot is brought to first.
        shares: what to do.
        keep: remembers one that is done; called on the caller's thread.
        ended: see Ended; what the robots do is waited for, but where this process ends.
        shows: where progress is seen.
    """

    def __init__(
        self, fleet: Fleet, version: str, shares: Sequence[EpisodeShare],
        keep: Callable[[EpisodeShare, DoneShare], None], ended: Ended, shows: Shows,
    ) -> None:  # fmt: skip
        self._fleet, self._version, self._keep, self._ended, self._shows = fleet, version, keep, ended, shows
        self._left, self._total = list(shares), sum(share.count for share in shares)
        self._robots = fleet.robots()
        self._at: dict[str, EpisodeShare] = {}
        self._answers: queue.Queue[tuple[str, tuple[int, list[Row]] | Exception]] = queue.Queue()
        self._tries, self._wait = Tries(), AwayWait()
        self._away_s: dict[str, float] = {}
        self._withdrawn: set[str] = set()
        self._over = threading.Event()

    def run(self) -> None:
        """Return when all are done.

        Raises:
            ClosingError, LoopStoppedError: the loop ends.
            RobotsAwayError: no robot came back.
            GymnastError: every robot failed; the last one's error.
        """
        try:
            while self._left or self._at:
                self._hand_out()
                self._show()
                try:
                    self._take_in(*self._answers.get(timeout=POLL_S))
                except queue.Empty:
                    self._look()
        finally:
            self._over.set()

    def _hand_out(self) -> None:
        why = self._ended()
        if why == CLOSING:
            raise ClosingError("shares wait for the next start")
        if why and not self._at:
            raise LoopStoppedError(why)
        for name, robot in () if why else self._robots.items():
            if name not in self._at and self._tries.may(name) and not robot.unable and (share := self._next(name)):
                self._left.remove(share)
                self._at[name] = share
                work = threading.Thread(target=self._work, args=(name, robot, share), name=share.name, daemon=True)
                work.start()
        if not self._at:
            self._tries.check(self._robots)

    def _next(self, name: str) -> EpisodeShare | None:
        """The next share for a robot: its own, else one that is nobody's, else one whose robot is away."""

        def gone(other: str) -> bool:
            robot = self._robots.get(other)
            return robot is None or bool(robot.unable) or other in self._tries.given_up

        for fits in (lambda share: share.prefers == name, lambda share: gone(share.prefers)):
            if found := next(filter(fits, self._left), None):
                return found
        return None

    def _work(self, name: str, robot: FlowRobot, share: EpisodeShare) -> None:
        """One share, on a thread of its own."""

        def withdrawn() -> bool:
            return self._over.is_set() or name in self._withdrawn

        try:
            self._fleet.bring(name, robot, self._version)
            self._answers.put((name, share.run(robot, withdrawn)))
        except Exception as error:  # noqa: BLE001  # raised again on the loop's thread, if it is none of the robot's
            self._answers.put((name, error))

    def _take_in(self, name: str, answer: tuple[int, list[Row]] | Exception) -> None:
        share = self._at.pop(name)
        if not isinstance(answer, Exception):
            self._withdrawn.discard(name)
            self._tries.forget(name)
            self._wait.reset()
            self._fleet.note(name, self._version)
            episodes, rows = answer
            self._keep(share, {"robot": name, "episodes": episodes, "rows": rows})
            return
        if not isinstance(answer, GymnastError):
            raise answer
        self._left.insert(0, share)
        if name in self._withdrawn:
            self._withdrawn.discard(name)
        else:
            self._tries.note(name, answer)

    def _look(self) -> None:
        """Take shares from robots that are away while another is idle; where all are away, wait for one."""
        now_s = time.monotonic()
        self._away_s = {n: self._away_s.get(n, now_s) for n, robot in self._robots.items() if robot.unable}
        idle = [n for n in self._robots if n not in self._at and n not in self._away_s and self._tries.may(n)]
        if (idle and not self._left) or self._ended():
            self._withdrawn |= {n for n in self._at if n in self._away_s and now_s - self._away_s[n] > GRACE_S}
        if self._at.keys() - self._away_s.keys():
            self._wait.reset()
        self._wait.check(self._robots)

    def _show(self) -> None:
        left = sum(share.count for share in (*self._left, *self._at.values()))
        at = [f"{n} {share.shown}" for n, share in self._at.items()]
        parts = [", ".join(at)] * (len(self._robots) > 1 and bool(at))
        if waits := away(self._robots, self._tries.failed):
            parts.append(f"passes over {waits}" if self._at.keys() - self._away_s.keys() else f"waits for {waits}")
        self._shows.advance(self._total - left, self._total, "; ".join(parts) or "start states a task")
