"""The robots of a loop: which of them take orders now, and the policy in force brought to every one of them.

A robot that is away (silent, stopped, busy for somebody else) is passed over by name as long as another can go on, and
brought to the policy in force when it is back; where none can go on, the loop waits.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

from cloud_trainer.flows.adaptation_engine import Ended
from cloud_trainer.flows.arms import FlowRobot
from cloud_trainer.flows.loop_parts import AGAIN_S, ATTEMPTS, LoopStoppedError, Shows, go_on
from cloud_trainer.flows.loop_state import StepFile
from cloud_trainer.progress import ClosingError
from gymnast_core.errors import ConfigError, GymnastError

POLL_S = 0.2
REPORTS_S = 30.0
"""How long a robot's report of what it runs may take."""
STAGE_S = FLUSH_S = 120.0
"""How long a checkpoint may take down, and episodes up."""
AWAY_S = 3600.0
"""How long all robots may be silent; one that is stopped is waited for without a limit, as an arm always is."""


class RobotsAwayError(GymnastError):
    """No robot of a loop has taken an order for too long; the message has the reason of each."""


class AwayWait:
    """Counts how long a loop has waited because none of its robots could go on."""

    def __init__(self) -> None:
        self._since_s = time.monotonic()

    def reset(self) -> None:
        """One goes on."""
        self._since_s = time.monotonic()

    def check(self, robots: Mapping[str, FlowRobot]) -> None:
        """Return while there is hope.

        Raises:
            RobotsAwayError: there is none.
        """
        if any(robot.stopped for robot in robots.values()):
            self.reset()
        if time.monotonic() - self._since_s > AWAY_S:
            raise RobotsAwayError(f"no robot took an order for {AWAY_S / 60:.0f} minutes: {away(robots)}")


def away(robots: Mapping[str, FlowRobot], failed: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return who is away or failed, and why."""
    reasons = {name: robot.unable or failed.get(name, "") for name, robot in robots.items()}
    return ", ".join(f"{name} ({why})" for name, why in reasons.items() if why)


class Tries:
    """Counts what failed on which robot: it is tried again after a rest, and given up after the third time.

    Attributes:
        failed: robot -> how it failed last.
        given_up: robot -> the error it was given up for.
    """

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        self.given_up: dict[str, GymnastError] = {}
        self._count: Counter[str] = Counter()
        self._rests_s: dict[str, float] = {}

    def may(self, name: str) -> bool:
        """Whether it may be tried on a robot now."""
        return name not in self.given_up and time.monotonic() >= self._rests_s.get(name, 0.0)

    def done(self, name: str, do: Callable[[], None]) -> bool:
        """Try something on a robot, if it may be now; returns whether that was done."""
        if not self.may(name):
            return False
        try:
            do()
        except (ClosingError, LoopStoppedError):
            raise
        except GymnastError as error:
            self.note(name, error)
            return False
        return True

    def note(self, name: str, error: GymnastError) -> None:
        """It failed."""
        self._count[name] += 1
        self._rests_s[name] = time.monotonic() + AGAIN_S
        self.failed[name] = f"attempt {self._count[name]} of {ATTEMPTS} failed: {error}"
        if self._count[name] >= ATTEMPTS or isinstance(error, ConfigError):
            self.given_up[name] = error

    def forget(self, name: str) -> None:
        """It works again."""
        self._count[name] = 0
        self.failed.pop(name, None)

    def check(self, names: Collection[str]) -> None:
        """Return while one of these robots may still do it.

        Raises:
            GymnastError: all were given up; the error of the last one.
        """
        if names and all(name in self.given_up for name in names):
            raise [self.given_up[name] for name in self.given_up if name in names][-1]


class Fleet:
    """See the module.

    Args:
        names: of the robots.
        connect: name -> the robot, to be ordered about in the loop's name.
        file: where the loop remembers what each robot runs.
        ended: see Ended.
        shows: where progress is seen.
    """

    def __init__(
        self, names: Sequence[str], connect: Callable[[str], FlowRobot], file: StepFile, ended: Ended, shows: Shows
    ) -> None:
        self.names, self._connect, self._file = tuple(names), connect, file
        self._ended, self._shows = ended, shows

    def robots(self, names: Collection[str] | None = None) -> dict[str, FlowRobot]:
        """Return robots by name; all where none are named."""
        return {name: self._connect(name) for name in (self.names if names is None else names)}

    def able(self) -> dict[str, FlowRobot]:
        """Return those that take orders now; waits for the first of them.

        Raises:
            RobotsAwayError: none came back.
            ClosingError, LoopStoppedError: the loop ends.
        """
        robots, wait = self.robots(), AwayWait()
        while not (found := {name: robot for name, robot in robots.items() if not robot.unable}):
            go_on(self._ended, "that waits for a robot")
            wait.check(robots)
            self._shows.advance(0, 0, f"waits for {away(robots)}")
            self._shows.wait(POLL_S)
        return found

    def note(self, name: str, version: str) -> None:
        """Remember what a robot runs."""
        self._file.note_reached(name, version)

    def running(self) -> str:
        """Return the policy that the robots run when the loop begins.

        Raises:
            ConfigError: they run different ones, or one does not report what it runs.
        """
        runs = {name: self._reported(robot, bool) for name, robot in self.able().items()}
        if silent := [name for name, found in runs.items() if not found]:
            raise ConfigError(f"{silent[0]} does not say which policy it runs; install or publish one first")
        if len(set(runs.values())) > 1:
            each = ", ".join(f"{name} runs {found}" for name, found in runs.items())
            raise ConfigError(f"{each}: have all run the same policy first, then start the loop again")
        found = next(iter(runs.values()))
        for name in self.names:  # those that are away are taken to run it too, until they report
            self.note(name, found)
        return found

    def bring(self, name: str, robot: FlowRobot, version: str, before: str = "") -> None:
        """Have a robot run the policy in force, if it runs what this loop left on it.

        Args:
            name: of the robot.
            robot: see above.
            version: policy in force.
            before: what it was left with, where the loop does not remember that.

        Raises:
            GymnastError: it runs another one, which somebody else put in force.
        """
        before = self._file.reached.get(name, before or version)
        found = self._reported(robot, lambda reported: reported in (version, before))
        if found != version and found == before:
            robot.wait_staged([version], STAGE_S)
            robot.swap(version)
            found = self._reported(robot, lambda reported: reported == version)
        if found != version:
            raise GymnastError(f"{name} runs {found}, not {version}: put that in force again, then go on")

    def swap(self, version: str, previous: str) -> Mapping[str, str]:
        """Put a checkpoint in force on every robot that is there; returns who was passed over, and why."""

        def put(name: str, robot: FlowRobot) -> None:
            self.bring(name, robot, version, previous)
            self.note(name, version)

        return self._each(self.names, put)

    def revert(self, version: str, previous: str) -> Mapping[str, str]:
        """Take a checkpoint back on every robot that is there; returns who was passed over, and why."""

        def back(name: str, robot: FlowRobot) -> None:
            if robot.policy_version != version or robot.rollback() != previous:
                self.bring(name, robot, previous, version)
            self.note(name, previous)

        return self._each(self.names, back)

    def flush(self, names: Collection[str]) -> Mapping[str, str]:
        """Return when the trainer has these robots' episodes; and whose it may lack, because they were away."""
        return self._each(names, lambda _, robot: robot.flush(FLUSH_S), patience_s=FLUSH_S)

    def settle(self, version: str, patience_s: float) -> Mapping[str, str]:
        """Bring the policy in force to robots that were away; returns who could not be reached, and why."""

        def put(name: str, robot: FlowRobot) -> None:
            self.bring(name, robot, version)
            self.note(name, version)

        reached = self._file.reached
        behind = [name for name in self.names if reached.get(name, "") != version]
        return self._each(behind, put, patience_s=patience_s, least=0) if reached else {}

    def _each(
        self, names: Collection[str], do: Callable[[str, FlowRobot], None], *, patience_s: float = 0.0, least: int = 1
    ) -> Mapping[str, str]:
        """Do something on each robot; returns who was passed over, and why.

        Args:
            names: of the robots.
            do: see above; may be done again.
            patience_s: how long those are waited for that are away, or fail.
            least: so many are waited for however long.

        Raises:
            GymnastError: fewer than that could do it.
        """
        left, tries, wait = self.robots(names), Tries(), AwayWait()
        until_s, needed = time.monotonic() + patience_s, min(least, len(left))
        while left:
            go_on(self._ended, "of all robots")
            for name, robot in list(left.items()):
                if not robot.unable and tries.done(name, lambda: do(name, robot)):  # noqa: B023  # called at once
                    del left[name]
            done = len(names) - len(left)
            if done >= needed and (time.monotonic() >= until_s or tries.given_up.keys() >= left.keys()):
                break
            if done < needed:
                tries.check(left)
                wait.check(left)
            self._shows.advance(done, len(names), f"waits for {away(left, tries.failed)}")
            self._shows.wait(POLL_S)
        return {name: robot.unable or tries.failed[name] for name, robot in left.items()}

    def _reported(self, robot: FlowRobot, wanted: Callable[[str], bool]) -> str:
        """Return the policy in force, as reported: once it is wanted, or the report of it should have come."""
        until = time.monotonic() + REPORTS_S
        while not wanted(found := robot.policy_version) and time.monotonic() < until:
            if self._shows.wait(POLL_S):
                break
        return found
