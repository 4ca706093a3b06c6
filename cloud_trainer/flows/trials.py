"""Blinded trials of a checkpoint against another on one robot's arm, for the operator's page and its commands.

The rule is declared before the first run; whoever labels sees run ids alone; every run is an entry of the trial's
journal, so a restart goes on with the run at hand. A decided trial leaves its result card, which promotion asks for.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypedDict

from cloud_trainer.progress import ClosingError
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_core.errors import ConfigError, GymnastError, NotPossibleError
from gymnast_core.evaluation.cards import BlindedTrial, ResultCard
from gymnast_core.evaluation.purpose import is_blinded
from gymnast_core.evaluation.sequential import SequentialRule
from gymnast_core.evaluation.trial import Trial
from gymnast_core.evaluation.trial_plan import TrialPlan
from gymnast_core.seeds import block, take

LOG = logging.getLogger(__name__)


def new_trial_id() -> str:
    """Return an id no other trial has, or can be guessed by."""
    return f"trial-{secrets.token_hex(6)}"


CLOSE_S = 10.0


@dataclass(frozen=True)
class TrialOrigin:
    """Who asked for a trial, and where it runs.

    Attributes:
        trial_id: of the trial.
        robot: the robot it runs on.
        scene: the robot's name for where it stands; empty is the trainer's usual one.
        by: the user that asked for it.
        tenant: the tenant they belong to.
        at_ns: wall clock.
        candidate: checkpoint id.
        incumbent: checkpoint id.
        instruction: what the arm is asked to do; of several tasks, their names.
        tasks: instructions that take turns, pair by pair; empty is `instruction` alone.
        key: chosen by the caller, which finds the trial by it; the same key never starts a second one.
    """

    trial_id: str
    robot: str
    scene: str
    by: str
    tenant: str
    at_ns: int
    candidate: str
    incumbent: str
    instruction: str
    tasks: tuple[str, ...] = ()
    key: str = ""


class TrialEnd(TypedDict, total=False):
    """How a trial ended: with its card, or without one for a reason."""

    card: ResultCard
    reason: str


class TrialRow(TypedDict):
    """What may be seen of a trial: what was asked for, see TrialOrigin, and how far it is."""

    trial_id: str
    robot: str
    scene: str
    by: str
    tenant: str
    at_ns: int
    candidate: str
    incumbent: str
    instruction: str
    tasks: tuple[str, ...]
    key: str
    state: Literal["running", "decided", "stopped"]
    reason: str
    pairs_done: int
    max_pairs: int
    card: ResultCard


class TrialEngine(Protocol):
    """What moves the arm."""

    def run_trial(self, trial: Trial, asked: TrialOrigin, stop: Callable[[], bool]) -> None:
        """Do run after run until the trial is decided or stop() holds; raises GymnastError where it cannot go on."""
        ...


class Trials:
    """All trials of a trainer, in one folder; those under way go on at start.

    Args:
        root: their folder.
        engine_of: tenant -> what moves its arms; None where this trainer moves none; old cards can be looked at.
    """

    def __init__(self, root: Path, engine_of: Callable[[str], TrialEngine] | None) -> None:
        self._root, self._engine_of = root, engine_of
        self._lock = threading.Lock()
        self._closing = False
        self._asked: dict[str, TrialOrigin] = {}
        self._running: dict[str, Trial] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._ends: dict[str, TrialEnd] = {}
        root.mkdir(parents=True, exist_ok=True)
        for path in sorted(root.glob("*.asked.json")):
            asked = json.loads(path.read_text())
            self._recall(TrialOrigin(**{**asked, "tasks": tuple(asked.get("tasks", ()))}))

    def start(
        self, tenant: str, *, robot: str, candidate: str, incumbent: str, tasks: Sequence[str], by: str,
        scene: str = "", rule: SequentialRule | None = None, trial_id: str = "", key: str = "",
    ) -> str:  # fmt: skip
        """Declare a trial and begin; returns its id at once. Several tasks take turns, pair by pair.

        Raises:
            ConfigError: something is not named, or both checkpoints are the same.
            NotPossibleError: this trainer moves no arm.
        """
        tasks = tuple(task.strip() for task in tasks)
        if not robot.strip() or not tasks or not all(tasks) or not incumbent.strip():
            raise ConfigError("name a robot, what it should do, and the checkpoint to compare with")
        if self._engine_of is None:
            raise NotPossibleError("this page moves no arm; use the one of `gymnast serve`")
        rule = rule or SequentialRule()
        with self._lock:
            trial_id = trial_id or new_trial_id()
            asked = TrialOrigin(
                trial_id,
                robot,
                scene.strip(),
                by,
                tenant,
                time.time_ns(),
                candidate,
                incumbent.strip(),
                ", ".join(tasks),
                tasks if len(tasks) > 1 else (),
                key,
            )
            trial = Trial.declare(self._path(trial_id, "jsonl"), self._plan(asked, rule), secrets.token_bytes(32))
            self._write(trial_id, "asked", vars(asked))
            self._asked[trial_id] = asked
            self._go_on(asked, trial)
        return trial_id

    def known(self, tenant: str, key: str) -> TrialOrigin | None:
        """Return the trial that was begun with this key; None without a key, or when there is none."""
        mine = (asked for asked in list(self._asked.values()) if asked.tenant == tenant)
        return next((asked for asked in mine if key and asked.key == key), None)

    def on(self, tenant: str, robot: str) -> TrialOrigin | None:
        """Return the trial that a tenant's robot is in."""
        running = (self._asked[name] for name in list(self._running))
        return next((asked for asked in running if (asked.tenant, asked.robot) == (tenant, robot)), None)

    def blinds(self, row: EpisodeRow) -> bool:
        """Whether an episode may be a run of a trial that is not over: its policy stays hidden."""
        return is_blinded(row.metadata) and any(
            (asked.robot, asked.tenant) == (row.robot, row.tenant) and asked.at_ns <= row.received_ns
            for name, asked in list(self._asked.items())
            if name not in self._ends
        )

    def stop(self, tenant: str, trial_id: str, *, by: str) -> None:
        """End a trial after the run at hand; what was recorded stays, but nothing is concluded from it.

        Raises:
            NotPossibleError: there is none under way.
        """
        if trial_id not in self._running or self._asked[trial_id].tenant != tenant:
            raise NotPossibleError(f"trial {trial_id!r} is not under way; there is nothing to stop")
        self._end(trial_id, {"reason": f"stopped by {by}"})

    def views(self, tenant: str) -> list[TrialRow]:
        """Return what may be seen of a tenant's trials, newest first: the card once decided, never the score before."""
        known = sorted(self._asked.values(), key=lambda asked: -asked.at_ns)
        return [self._view(asked) for asked in known if asked.tenant == tenant]

    def close(self) -> None:
        """Rest after the runs at hand; another process may go on."""
        self._closing = True
        for thread in list(self._threads.values()):
            thread.join(CLOSE_S)

    def version(self, tenant: str) -> tuple[int, int, int]:
        """Changes whenever something that a tenant sees does: how many there are, have ended, and pairs are done."""
        mine = {name for name, asked in list(self._asked.items()) if asked.tenant == tenant}
        done = sum(trial.counts.n for name, trial in list(self._running.items()) if name in mine)
        return len(mine), sum(name in mine for name in list(self._ends)), done

    def _view(self, asked: TrialOrigin) -> TrialRow:
        trial, end = self._running.get(asked.trial_id), self._ends.get(asked.trial_id, TrialEnd())
        card = end.get("card", ResultCard())
        seen = BlindedTrial() if trial is None else trial.blinded_view()
        return {
            "trial_id": asked.trial_id, "robot": asked.robot, "scene": asked.scene, "by": asked.by,
            "tenant": asked.tenant, "at_ns": asked.at_ns, "candidate": asked.candidate, "incumbent": asked.incumbent,
            "instruction": asked.instruction, "tasks": asked.tasks, "key": asked.key,
            "state": "decided" if card else "stopped" if end else "running",
            "reason": end.get("reason", ""), "pairs_done": seen.get("pairs_done", card.get("n", 0)),
            "max_pairs": seen.get("max_pairs", int(card.get("rule", {}).get("max_pairs", 0))), "card": card,
        }  # fmt: skip

    def _recall(self, asked: TrialOrigin) -> None:
        """After a restart: how it ended, or go on."""
        self._asked[asked.trial_id] = asked
        end = self._path(asked.trial_id, "end.json")
        if end.exists():
            self._ends[asked.trial_id] = json.loads(end.read_text())
        elif self._engine_of is not None:
            try:
                self._go_on(asked, Trial.load(self._path(asked.trial_id, "jsonl")))
            except GymnastError as error:
                self._end(asked.trial_id, {"reason": f"{error}"})

    def _plan(self, asked: TrialOrigin, rule: SequentialRule) -> TrialPlan:
        names = ("tenant", "candidate", "incumbent", "robot", "instruction")
        earlier = sum(all(getattr(one, name) == getattr(asked, name) for name in names) for one in self._asked.values())
        turn, before = divmod(earlier, max(1, len(block("trial")) // rule.max_pairs))  # the same two again: new starts
        starts = take("trial", turn, rule.max_pairs, after=before * rule.max_pairs)
        return TrialPlan(
            trial_id=asked.trial_id, incumbent=asked.incumbent, candidate=asked.candidate,
            instruction=asked.instruction, tasks=asked.tasks, rule=rule, start_seeds=tuple(starts),
            versions={"robot": asked.robot, "scene": asked.scene or "usual", "earlier_trials_of_the_same": earlier},
        )  # fmt: skip

    def _go_on(self, asked: TrialOrigin, trial: Trial) -> None:
        self._running[asked.trial_id] = trial
        thread = threading.Thread(target=self._work, args=(asked, trial), name=asked.trial_id, daemon=True)
        self._threads[asked.trial_id] = thread
        thread.start()

    def _work(self, asked: TrialOrigin, trial: Trial) -> None:
        assert self._engine_of is not None
        trial_id = asked.trial_id
        try:
            if not trial.decision.final:
                self._engine_of(asked.tenant).run_trial(trial, asked, lambda: self._closing or trial_id in self._ends)
            if trial.decision.final:
                self._end(trial_id, {"card": trial.card()})
        except ClosingError:
            LOG.info("trial_rests id=%s", trial_id)
        except GymnastError as error:
            self._end(trial_id, {"reason": f"{error}"})
        except Exception as error:  # whatever an engine does wrong ends its trial, which nobody waits for then
            LOG.exception("trial_failed id=%s", trial_id)
            self._end(trial_id, {"reason": f"{type(error).__name__}: {error}; the trainer's log has the rest"})
        finally:
            trial.close()
            self._running.pop(trial_id, None)
            self._threads.pop(trial_id, None)

    def _path(self, trial_id: str, kind: str) -> Path:
        return self._root / f"{trial_id}.{kind}"

    def _end(self, trial_id: str, end: TrialEnd) -> None:
        """Write down how it ended; a stopped trial stays stopped, unless it was decided by its last run."""
        if trial_id in self._ends and "card" not in end:
            return
        self._write(trial_id, "end", end)
        self._ends[trial_id] = end

    def _write(self, trial_id: str, kind: str, value: Mapping[str, object]) -> None:
        staging = self._path(trial_id, f"{kind}.partial")
        staging.write_text(json.dumps(value, indent=1))
        staging.replace(self._path(trial_id, f"{kind}.json"))
