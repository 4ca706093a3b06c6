"""A practice run on the arm: episode after episode, the next one begun from what the last one left, until it is over.

Whatever a person must see to ends in a page, and the arm does nothing until somebody has answered. What the run is
doing is written down before and after each episode, so that it goes on where it was when this process is started again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gymnast_core.errors import (
    CheckpointError,
    ConfigError,
    DiskFullError,
    GymnastError,
    StaleCommandError,
    StorageError,
)
from gymnast_core.paging import Pager
from gymnast_core.practice import HARD_RESET, LOST, PersonCall, PracticeAsked, PracticeMark, PracticeState
from gymnast_core.practice_status import PracticeStatus
from gymnast_core.seeds import block
from gymnast_ros.run.arming import Arming
from gymnast_ros.run.plan import MOTOR_FAULT, OVER_FORCE, EpisodePlan, EpisodeResult
from gymnast_ros.run.ports import Log
from gymnast_ros.run.practice_book import PracticeBook
from gymnast_ros.run.referee import Pair, SkillVerdict, SkillWatch, Watching

POLL_S, SHOWN_S = 0.2, 5.0
"""Between looks for an answer, and between reports of a run that waits."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
"""Between tries of what may pass: an arm that is started anew, a policy server that is cut off, a full spool."""
MOST_LOST, MOST_FAULTS = 8, 3
"""Episodes in a row that arm or gate were lost under; then a person is called."""

WORDS: Mapping[str, str] = {
    HARD_RESET: "{failed} tries in a row failed to {next}. Lay the scene so that the arm can {task}, then acknowledge.",
    LOST: "After {unknown} episodes in a row nothing confirms how things stand ({detail}). Look for what is lost or "
    "out of reach, lay the scene so that the arm can {task}, then acknowledge.",
    "over_force": "The arm pressed harder than it may: {detail}. Look at it, then acknowledge.",
    "motor_fault": "Motors failed: {detail}. Look at them, have the arm recover, then acknowledge.",
    "arm_fault": "The arm cannot go on: {detail}. Look at it, then acknowledge.",
    "estop": "The arm was stopped: {detail}. Re-arm it when it may move; the practice then goes on.",
    "practice_stopped": "The practice of '{task}' has ended before its time: {detail}.",
}


class PracticeEpisode(Protocol):
    """Runs one episode on the arm."""

    def __call__(self, plan: EpisodePlan, checkpoint: str, watch: SkillWatch, /) -> EpisodeResult:
        """Run it; it is labelled by what the watch found.

        Raises:
            GymnastError: it could not begin.
        """
        ...


@dataclass(frozen=True)
class PracticePorts:
    """What a run needs of the robot.

    Attributes:
        episode: runs one.
        watching: begins to watch an episode.
        pager: calls for a person.
        gate: whether it is open.
        show: called with every change.
        ended: whether somebody ended the run.
        closing: whether this process ends, and the run goes on with the next one.
        log: of the node.
    """

    episode: PracticeEpisode
    watching: Watching
    pager: Pager
    gate: Arming
    show: Callable[[PracticeStatus], None]
    ended: Callable[[], bool]
    closing: Callable[[], bool]
    log: Log


class PracticeRun:
    """One run, from its beginning or from where it was.

    Args:
        book: has the run.
        pair: its skills.
        ports: see there.
    """

    def __init__(self, book: PracticeBook, pair: Pair, ports: PracticePorts) -> None:
        self._book, self._pair, self._ports = book, pair, ports
        self._told = ""
        self._lost = self._faults = 0
        self._recovers = False
        self._wait_s = FIRST_WAIT_S

    @property
    def _state(self) -> PracticeState:
        if self._book.state is None:
            raise StorageError("there is no practice run on this robot")
        return self._book.state

    def answer(self, by: str) -> None:
        """A person at the robot has done what was asked; safe from any thread."""
        self._told = by

    def run(self) -> PracticeState:
        """Practise until it is over, or this process ends; returns where it is then."""
        self._keep(self._state)
        while not self._ports.closing():
            if reason := self._over():
                return self._end(reason)
            if self._state.waiting is not None:
                self._await_person()
            else:
                self._step()
        return self._state

    def _over(self) -> str:
        if self._ports.ended():
            return "stopped by an operator"
        return self._state.over(time.time_ns()) or ("" if self._state.state != "ended" else self._state.reason)

    def _step(self) -> None:
        """One episode, and what follows from it."""
        try:
            plan = self._plan()
            watch = self._ports.watching(self._state.next, self._pair)
            row = self._ports.episode(plan, self._state.asked.checkpoint, watch)
        except DiskFullError as error:
            self._pause(f"the spool is full: {error}")
        except StaleCommandError as error:
            self._arm_is_away(str(error))
        except (CheckpointError, ConfigError, StorageError) as error:
            self._give_up(str(error))
        except GymnastError as error:
            self._call("arm_fault", str(error))
        else:
            self._follow(plan, row, watch.verdict)

    def _plan(self) -> EpisodePlan:
        """The next episode, written down before it begins, so that its start state is used once."""
        state = self._keep(self._state.model_copy(update={"number": self._state.number + 1}))
        asked, skill = state.asked, state.next
        seeds = block("practise", asked.seed)
        return EpisodePlan(
            self._pair.instructions[skill], self._pair.names[skill], seeds[(state.number - 1) % len(seeds)],
            asked.scene, asked.sample, purpose="practise", temperature=asked.temperature,
            practice=PracticeMark(state.run, skill, state.number, continues=not state.lay_out),
        )  # fmt: skip

    def _follow(self, plan: EpisodePlan, row: EpisodeResult, verdict: SkillVerdict) -> None:
        if row.truncated_reason:
            self._keep(self._state.model_copy(update={"cut": self._state.cut + 1}))
            self._follow_cut(plan, row)
            return
        self._lost = self._faults = 0
        self._recovers = False
        self._wait_s = FIRST_WAIT_S
        state = self._keep(self._state.done(verdict.outcome, verdict.ready))
        if state.needs:
            self._call(state.needs, verdict.reason)

    def _follow_cut(self, plan: EpisodePlan, row: EpisodeResult) -> None:
        """An episode that did not run to its end."""
        reason, detail = row.truncated_reason, row.detail or row.truncated_reason
        if reason == "cancelled":
            return  # the loop ends, or this process does
        if reason == "estop":
            self._call("estop", detail)
        elif reason == "fault":
            self._call("arm_fault", detail)
        elif reason == OVER_FORCE:
            self._call(OVER_FORCE, detail)
        elif reason == MOTOR_FAULT or (reason == "refused" and self._recovers):
            self._recovers = True
            self._arm_is_away(f"it recovers by itself, or calls a person: {detail}")
        elif reason == "refused" and plan.keep_scene:
            self._log_waiting(f"the arm has no scene to go on from: {detail}")
            self._keep(self._state.model_copy(update={"lay_out": True}))
        elif reason == "refused":
            self._call("arm_fault", detail)
        elif reason == "policy_fault":
            self._faults += 1
            if self._faults >= MOST_FAULTS:
                self._give_up(f"the policy failed {self._faults} times in a row: {detail}")
        elif reason == "link_lost":
            self._pause(f"the policy's server does not answer: {detail}")
        else:
            self._arm_is_away(detail)

    def _arm_is_away(self, detail: str) -> None:
        """Arm or gate may be being started again, or recover; what was moved is the next episode's to find out."""
        self._lost += 1
        if self._lost >= MOST_LOST:
            self._lost = 0
            self._call("arm_fault", f"lost {MOST_LOST} times in a row, the last time: {detail}")
        else:
            self._pause(f"arm or gate are away: {detail}")

    def _call(self, kind: str, detail: str) -> None:
        """PersonCall for a person and do nothing until somebody answers."""
        state = self._state
        text = WORDS[kind].format(
            task=self._pair.instructions["task"], next=self._pair.instructions[state.next], failed=state.failed,
            unknown=state.unknown, detail=detail,
        )  # fmt: skip
        self._told = ""
        page_id = self._ports.pager.page(
            kind, text, practice=state.run, skill=self._pair.names[state.next], episode=state.number
        )
        self._keep(state.called(PersonCall(page_id=page_id, kind=kind, text=text, at_ns=time.time_ns())))
        self._ports.log.warning(f"practice waits for a person page={page_id} kind={kind}: {text}")

    def _await_person(self) -> None:
        """Wait until the page is answered, here or at the trainer; a stop is answered by re-arming."""
        call = self._state.waiting
        shown_s = time.monotonic()
        while call is not None and not self._interrupted():
            if time.monotonic() - shown_s > SHOWN_S:
                shown_s = time.monotonic()
                self._show()
            if by := self._answer_to(call):
                if self._ports.pager.answer(call.page_id) is None:
                    self._ports.pager.resolve(call.page_id, by)
                self._keep(self._state.answered(by, time.time_ns()))
                self._ports.log.info(f"practice goes on page={call.page_id} by={by}")
                return
            time.sleep(POLL_S)

    def _answer_to(self, call: PersonCall) -> str:
        """By whom a call was answered; empty while nobody did."""
        if call.kind == "estop":
            return "whoever re-armed it" if self._ports.gate.wait_open(self._interrupted) else ""
        found = self._ports.pager.answer(call.page_id)
        return self._told if found is None else found.by

    def _interrupted(self) -> bool:
        return self._ports.closing() or bool(self._over())

    def _give_up(self, detail: str) -> None:
        """What no waiting mends: the run ends, and somebody hears of it."""
        text = WORDS["practice_stopped"].format(task=self._pair.instructions["task"], detail=detail)
        self._ports.pager.page("practice_stopped", text, practice=self._state.run)
        state = self._state
        self._keep(state.model_copy(update={"pages": state.pages + 1}).ended(detail, time.time_ns()))

    def _pause(self, reason: str) -> None:
        self._log_waiting(reason)
        until_s = time.monotonic() + self._wait_s
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
        self._keep(self._state.model_copy(update={"reason": reason}))
        while time.monotonic() < until_s and not self._interrupted():
            time.sleep(POLL_S)
        self._keep(self._state.model_copy(update={"reason": ""}))

    def _log_waiting(self, reason: str) -> None:
        self._ports.log.warning(f"practice is held up: {reason}")

    def _end(self, reason: str) -> PracticeState:
        if self._state.state == "ended":
            return self._state
        return self._keep(self._state.ended(reason, time.time_ns()))

    def _keep(self, state: PracticeState) -> PracticeState:
        try:
            self._book.keep(state)
        except DiskFullError as error:
            self._log_waiting(f"its state is kept in memory alone: {error}")
        self._show()
        return state

    def _show(self) -> None:
        self._ports.show(self._state.status(time.time_ns()))


def new_run(asked: PracticeAsked, by: str) -> PracticeState:
    """Return a run that begins now."""
    return PracticeState(run=f"practice-{uuid.uuid4().hex[:12]}", asked=asked, by=by, began_ns=time.time_ns())
