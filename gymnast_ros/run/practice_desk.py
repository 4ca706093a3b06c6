"""Begins a robot's practice runs, goes on with one that a restart cut, and has the answers of people at the robot."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from gymnast_core.errors import ConfigError
from gymnast_core.outcome import OutcomeJudge
from gymnast_core.paging import Pager
from gymnast_core.practice import PracticeAsked, PracticeState, Skill
from gymnast_core.practice_status import PracticeStatus
from gymnast_ros.run.arming import Arming
from gymnast_ros.run.codec import NothingToDoError, RobotBusyError
from gymnast_ros.run.dispatch import Began
from gymnast_ros.run.ports import Log, Values
from gymnast_ros.run.practice import PracticeEpisode, PracticePorts, PracticeRun, new_run
from gymnast_ros.run.practice_book import PracticeBook
from gymnast_ros.run.referee import JudgeWatch, Pair, SimulatorWatch, SkillWatch, Watching
from gymnast_ros.run.requests import GoOnPractising, Practise

Job = Callable[[str], dict[str, object]]


@dataclass(frozen=True)
class DeskPorts:
    """What the desk needs of the rollout node's jobs.

    Attributes:
        begin: has a job of this kind run in the worker, in somebody's name.
        episode: runs an episode.
        judge: reaches the trainer's judge of real episodes; None where there is no trainer.
        pager: calls for a person.
        gate: whether it is open.
        show: called with every change of a run.
        cancelled: whether the worker's job shall end.
        task: a task's name and instruction.
        log: of the node.
    """

    begin: Callable[[str, str, Job], Began]
    episode: PracticeEpisode
    judge: Callable[[], OutcomeJudge] | None
    pager: Pager
    gate: Arming
    show: Callable[[PracticeStatus], None]
    cancelled: Callable[[], bool]
    task: Callable[[str], tuple[str, str]]
    log: Log


class PracticeDesk:
    """See the module.

    Args:
        folder: of the robot; practice/ is made in it.
        settings: parameters of the node.
        ports: see there.
    """

    def __init__(self, folder: Path, settings: Values, ports: DeskPorts) -> None:
        self._settings, self._ports = settings, ports
        self._book = PracticeBook(folder / "practice")
        self._lock = threading.Lock()
        self._run: PracticeRun | None = None
        self._closing = False

    def close(self) -> None:
        """From now on an end of the worker's job is that of the process: the next one goes on."""
        self._closing = True

    def resume(self) -> None:
        """Go on with a run that has not ended, in the process before this one."""
        state = self._book.state
        if state is not None and state.state != "ended":
            self._ports.log.warning(f"practice goes on after a restart run={state.run} episodes={state.episodes}")
            self._start(state)

    def begin(self, asked: Practise) -> str:
        """Begin a run, or go on with the one of this name; returns its id.

        Raises:
            RobotBusyError: something else is under way.
            ConfigError: a task is missing or both are one, or nobody could watch.
        """
        wanted = PracticeAsked(**asked.model_dump(exclude={"ordered_by"}))
        with self._lock:
            known = self._book.state
            if known is not None and wanted.resume and known.asked.resume == wanted.resume:
                return known.run
            self._watching(wanted)
            self._pair(wanted)
            state = new_run(wanted, asked.ordered_by)
            before, self._book.state = known, state
            try:
                self._start(state)
            except RobotBusyError:
                self._book.state = before
                raise
            return state.run

    def go_on(self, asked: GoOnPractising) -> str:
        """A person at the robot has done what the run waits for.

        Raises:
            NothingToDoError: it waits for nobody.
        """
        state, run = self._book.state, self._run
        if state is None or state.waiting is None or run is None:
            raise NothingToDoError("no practice waits for a person")
        if state.waiting.kind == "estop":
            raise NothingToDoError("the practice goes on when the arm is re-armed: gymnast rearm")
        run.answer(asked.by)
        return f"{state.waiting.kind}: answered by {asked.by}"

    def _start(self, state: PracticeState) -> None:
        """Have it run in the worker."""
        pair, watching = self._pair(state.asked), self._watching(state.asked)
        ports = self._ports
        run = PracticeRun(self._book, pair, PracticePorts(
            episode=ports.episode, watching=watching, pager=ports.pager, gate=ports.gate, show=ports.show,
            ended=lambda: ports.cancelled() and not self._closing, closing=lambda: self._closing, log=ports.log,
        ))  # fmt: skip

        def job(run_id: str) -> dict[str, object]:
            return {"practice": run.run().model_dump(mode="json")}

        ports.begin("practise", state.by, job)
        self._run = run

    def _pair(self, asked: PracticeAsked) -> Pair:
        told = {skill: self._ports.task(getattr(asked, skill)) for skill in ("task", "reset")}
        if told["task"] == told["reset"]:
            raise ConfigError(f"task and reset are both {told['task'][0]!r}: a reset has to undo the task")
        names = cast(Mapping[Skill, str], {skill: name for skill, (name, _) in told.items()})
        words = cast(Mapping[Skill, str], {skill: words for skill, (_, words) in told.items()})
        return Pair(names, words)

    def _watching(self, asked: PracticeAsked) -> Watching:
        simulated = bool(self._settings["auto_label"])
        named = asked.judge or ("simulator" if simulated else "trainer")
        if named == "simulator" and not simulated:
            raise ConfigError("judge 'simulator' is for a simulated arm whose state labels its episodes (auto_label)")
        if named == "simulator":
            return SimulatorWatch
        if self._ports.judge is None:
            raise ConfigError(
                "nobody could watch: this robot has no trainer whose judge looks at its episodes; start it with one"
            )
        judge = self._ports.judge()

        def watch(skill: Skill, pair: Pair) -> SkillWatch:
            return JudgeWatch(judge, skill, pair)

        return watch
