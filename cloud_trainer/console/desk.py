"""Everything behind the pages: the trainer's stores, the robots' reports, adaptations, trials, the log of actions.

A page asks the desk; an action is a method of it that checks the role, does one thing, and writes it down.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from cloud_trainer.console.checkpoints import Checkpoints, RefusedError
from cloud_trainer.console.in_force import InForce
from cloud_trainer.console.loop_desk import LoopDesk
from cloud_trainer.flows.adaptation_engine import Budget, FlowError, SceneRequest
from cloud_trainer.flows.loops import Loops
from cloud_trainer.flows.scene_adaptation import Adaptations, SceneAdaptation, new_adaptation_id
from cloud_trainer.flows.trials import Trials, new_trial_id
from cloud_trainer.records.ledger import CalibrationLedger
from cloud_trainer.records.trail import MADE, Trail, overrides_in
from cloud_trainer.service import Service
from cloud_trainer.service.robots import RobotReport
from cloud_trainer.store.episodes import EpisodeCatalogue
from cloud_trainer.store.protocols import EpisodeRow, JobRow
from gymnast_core.bounds import parsed_json
from gymnast_core.errors import ConfigError, ContractError, CorruptError
from gymnast_core.evaluation.sequential import SequentialRule
from gymnast_core.evaluation.trial import has_won
from gymnast_core.loop_config import LoopConfig, loop_config_of
from gymnast_core.types import Outcome
from gymnast_core.web.auth import User
from gymnast_core.wire.errors import NotPermittedError

REPORT_STALE_S = 15.0
EPISODES_PER_PAGE = 60
_CONFIG_CHARACTERS = 64 * 1024
_MOST_NUMBER = 2.0**53
STEPS = ("collect", "train", "reuse", "approve", "reject", "cancel")
_FIELDS, _WORD, _TEXT = 32, 40, 400
"""Of a form that are written down: so many fields, characters of a name, characters of a value."""
ROBOT_STEPS = ("collect", "train", "approve", "cancel")
"""Of an adaptation that a robot began itself, by its certificate; everything else is for operators."""

T = TypeVar("T", list[Any], dict[str, Any])


class Desk:
    """See the module.

    Args:
        service: whose stores are shown.
        adaptations: of this trainer.
        trials: of this trainer.
        loops: of this trainer.
    """

    def __init__(self, service: Service, *, adaptations: Adaptations, trials: Trials, loops: Loops) -> None:
        self.folder = service.config.folder
        own = self.folder / "console"
        own.mkdir(parents=True, exist_ok=True)
        self.meta, self.jobs, self._episodes_of = service.meta, service.jobs, service.episodes_of
        self.adaptations, self.trials = adaptations, trials
        self._trails = service.trails
        self._robots = service.robots
        self.checkpoints = Checkpoints(service, won=self._has_won)
        self.in_force, self._words = InForce(service), service.words
        self._loops = loops
        self.loops = LoopDesk(loops, self._reporting, self._busy, self.trail)
        self._ledgers = service.ledgers
        self._seen_sequence: dict[str, int] = {}

    def close(self) -> None:
        """Close what is the desk's own; the rest is the service's."""
        self._loops.close()
        self.adaptations.close()
        self.trials.close()

    def trail(self, user: User) -> Trail:
        """Return the provenance graph and the log of actions of the user's tenant."""
        return self._trails.of(user.tenant)

    def ledger(self, user: User) -> CalibrationLedger:
        """Return real against imagined success of the user's tenant."""
        return self._ledgers.of(user.tenant)

    def catalogue(self, user: User) -> EpisodeCatalogue:
        """Return the episodes this user may see."""
        return self._episodes_of(user.tenant)

    def version(self, user: User, at: str) -> str:
        """Return something that changes whenever what this user sees at an address might.

        Robots speak every second; only their own page follows every word of theirs.
        """
        tenant = user.tenant
        flows = sum(len(flow.view.history) for flow in self.adaptations.of(tenant))
        jobs = self.jobs.list(tenant, limit=50)
        events = sum(job.last_event for job in jobs)
        running = sum(job.state == "running" for job in jobs)
        newest = self._newest_episode(tenant)
        stale = self._robots.silent(tenant, REPORT_STALE_S)
        known = (
            self._loops.version(tenant),
            len(self.trail(user).log.entries),
            flows,
            self.trials.version(tenant),
            self._words.version(tenant),
            len(jobs),
            events,
            running,
            newest,
            self._robots.version(tenant, every=at == "/"),
            stale,
        )
        return ".".join(map(str, known))

    def _newest_episode(self, tenant: str) -> int:
        seen = self._seen_sequence.get(tenant, 0)
        while page := self.meta.episodes(tenant, after=seen, limit=1000):
            seen = page[-1].sequence
        self._seen_sequence[tenant] = seen
        return seen

    def blinded(self, row: EpisodeRow) -> bool:
        """Whether an episode is, or may be, a run of a trial that is not decided: nobody sees who acted in it."""
        return self.trials.blinds(row) or self.adaptations.blinds(row)

    def _seen(self, row: EpisodeRow) -> EpisodeRow:
        return replace(row, policy_version="") if self.blinded(row) else row

    # what pages show ---------------------------------------------------------------------------------------------

    def robots(self, user: User) -> list[RobotReport]:
        """Return the newest report of every robot of the tenant."""
        return self._robots.of_tenant(user.tenant)

    def robot(self, user: User, name: str) -> RobotReport:
        """Return one robot.

        Raises:
            RefusedError: it never spoke.
        """
        report = self._robots.find(user.tenant, name)
        if report is None:
            raise RefusedError(f"robot {name!r} has not reported here; is its bridge running and enrolled?")
        return report

    def episodes(
        self, user: User, *, before: int | None = None, outcome: str = "", robot: str = "", text: str = ""
    ) -> list[EpisodeRow]:
        """Return up to 60 episodes, newest first, filtered."""
        chosen: list[EpisodeRow] = []
        high = self._newest_episode(user.tenant) + 1 if before is None else before
        while high > 0 and len(chosen) < EPISODES_PER_PAGE:
            rows = self.meta.episodes(user.tenant, robot=robot or None, after=max(high - 1001, 0), limit=1000)
            chosen += [
                row
                for row in reversed(rows)
                if row.sequence < high
                and (not outcome or row.outcome == outcome)
                and (not text or text.lower() in f"{row.instruction} {row.episode_id}".lower())
            ]
            high -= 1000
        return [self._seen(row) for row in chosen[:EPISODES_PER_PAGE]]

    def episode(self, user: User, episode_id: str) -> EpisodeRow:
        """Return one episode.

        Raises:
            RefusedError: there is none, or it is another tenant's.
        """
        row = self.meta.episode(user.tenant, episode_id)
        if row is None:
            raise RefusedError(f"there is no episode {episode_id!r} here; look for it in the list")
        return self._seen(row)

    # what users do -----------------------------------------------------------------------------------------------

    def label(self, user: User, episode_id: str, outcome: str) -> str:
        """Set or correct a label; checkpoints made with another label are named in the answer."""
        user.require("label")
        if outcome not in ("success", "failure", "abstain"):
            raise ConfigError(f"{outcome!r} is no label; choose success, failure or abstain")
        row = self.episode(user, episode_id)
        if row.outcome == outcome and row.labelled_by == f"operator:{user.name}":
            return f"{episode_id} is labelled {outcome} by you already"
        self.trail(user).label(user, episode_id, Outcome(outcome))
        built = self.trail(user).made_from(episode_id)
        if row.outcome not in (outcome, "unlabelled") and built:
            return (
                f"{episode_id} is now {outcome} (was {row.outcome}). {len(built)} checkpoints were made with the old "
                f"label and say so on their pages: {', '.join(built[:3])}{' ...' if len(built) > 3 else ''}"
            )
        return f"{episode_id} is now {outcome}"

    def retract(self, user: User, episode_id: str, reason: str) -> str:
        """Withdraw an episode; what was made with it cannot be promoted any more."""
        user.require("retract")
        self.episode(user, episode_id)
        blocked = [node.id for node in self.trail(user).retract(user, episode_id, reason) if node.kind in MADE]
        if not blocked:
            return f"{episode_id} is withdrawn; nothing was made with it yet"
        return (
            f"{episode_id} is withdrawn; promotion of {len(blocked)} checkpoints is blocked: {', '.join(blocked[:4])}"
        )

    def cancel_job(self, user: User, job_id: str) -> str:
        """Ask a job to stop."""
        user.require("cancel")
        row = self.jobs.get(user.tenant, job_id)
        if row.ended:
            return f"{job_id} had ended already ({row.state}); nothing to cancel, what it made is kept"
        with self.trail(user).committing(user, "cancel", {"job": job_id}):
            self.jobs.request_cancel(user.tenant, job_id)
        return f"{job_id} stops after its current iteration; what is finished is kept"

    def flows(self, user: User) -> list[SceneAdaptation]:
        """Return the adaptations this user may follow, newest first: a robot its own alone."""
        user.require("follow")
        return [
            flow for flow in self.adaptations.of(user.tenant) if user.role != "robot" or flow.view.robot == user.name
        ]

    def flow(self, user: User, adaptation_id: str) -> SceneAdaptation:
        """Return one of these.

        Raises:
            FlowError: there is none of this id, or it is another tenant's or another robot's.
        """
        flow = self.adaptations.get(user.tenant, adaptation_id)
        if flow not in self.flows(user):
            raise FlowError(f"there is no adaptation {adaptation_id!r} of {user.name}; choose one from the list")
        return flow

    def adapt(self, user: User, request: SceneRequest) -> str:
        """Begin test-time training; returns its id. A robot may have itself adapted."""
        robot = request.robot
        if user.role != "robot":
            user.require("adapt")
        elif user.name != robot:
            raise NotPermittedError(f"robot {user.name!r} may have itself adapted alone, not {robot!r}")
        self._require_ready(user, robot)
        if why := self._in_trial(user, robot) or self._in_loop(user, robot):
            raise RefusedError(why)
        adaptation_id = new_adaptation_id()
        asked = {"adaptation": adaptation_id, "robot": robot, "instruction": request.instruction}
        asked |= overrides_in(request.config)
        with self.trail(user).acting(user, "adapt", asked):
            self.adaptations.start(user.tenant, request, by=user.name, adaptation_id=adaptation_id)
        return adaptation_id

    def _require_ready(self, user: User, robot: str) -> RobotReport:
        """Return the report of a robot that may be ordered about.

        Raises:
            RefusedError: it may not, or nobody knows whether it is there.
        """
        report = self.robot(user, robot)
        if report.status.get("estop"):
            raise RefusedError(f"{robot} is stopped by its e-stop; re-arm it at the robot, then start again")
        if report.status.get("takes_orders") is False:
            raise RefusedError(
                f"{robot} takes no orders; start it with `gymnast up --orders` (orders:=true): its episodes and its "
                "canary are ordered from here"
            )
        if report.age_s() > REPORT_STALE_S:
            raise RefusedError(f"{robot} has been silent for {report.age_s():.0f} s; wait until it reports again")
        return report

    def _reporting(self, user: User) -> list[str]:
        return [report.robot for report in self.robots(user) if report.age_s() <= REPORT_STALE_S]

    def _busy(self, user: User, robot: str) -> str:
        """What a robot does that a loop would disturb; empty for nothing. Raises RefusedError where it is not there."""
        self._require_ready(user, robot)
        return self._in_trial(user, robot) or self._in_adaptation(user, robot)

    def _in_trial(self, user: User, robot: str) -> str:
        trial = self.trials.on(user.tenant, robot)
        return f"{robot} is in trial {trial.trial_id} of {trial.by}; wait for it or stop it first" if trial else ""

    def _in_adaptation(self, user: User, robot: str) -> str:
        flow = self.adaptations.on(user.tenant, robot)
        return (
            f"{robot} is being adapted by {flow.started_by} ({flow.adaptation_id}); finish that first" if flow else ""
        )

    def _in_loop(self, user: User, robot: str) -> str:
        loop = self._loops.on(user.tenant, robot)
        return f"{robot} is in loop {loop.name} of {loop.started_by}; wait for it or stop it first" if loop else ""

    def paused(self, user: User, robot: str) -> str:
        """Return what holds up whatever runs on a robot's arm; empty when nothing does."""
        report = self._robots.find(user.tenant, robot)
        if report is None or not report.status.get("estop"):
            return ""
        return f"{robot} is stopped ({report.status.get('estop_reason') or 'e-stop'}); it goes on when it is re-armed"

    def trial_views(self, user: User) -> list[dict[str, Any]]:
        """Return what may be seen of trials, see Trials.views; and as paused, what holds up one that runs."""
        views = self.trials.views(user.tenant)
        return [{**view, "paused": self.paused(user, view["robot"]) * (view["state"] == "running")} for view in views]

    def try_out(self, user: User, candidate: str, values: Mapping[str, str]) -> str:
        """Begin a blinded trial of a checkpoint against what a robot runs, or another one; returns its id.

        Args:
            user: who asks.
            candidate: checkpoint id.
            values: robot, instruction or tasks (JSON list of several that take turns), and as options against
                (checkpoint id), scene, pairs (at most so many), rule (JSON object of SequentialRule's settings), key
                (the same one never begins a second trial).

        Raises:
            RefusedError: the robot or the checkpoint cannot take part now.
            ConfigError: a value makes no sense.
        """
        user.require("try")
        if again := self.trials.known(user.tenant, values.get("key", "")):
            return again.trial_id
        robot, rule = values.get("robot", ""), _rule_of(values)
        tasks = _json(values, "tasks", list) or [values.get("instruction", "")]
        report = self._require_ready(user, robot)
        if why := self._in_adaptation(user, robot) or self._in_loop(user, robot):
            raise RefusedError(why)
        incumbent = values.get("against", "").strip() or str(report.status.get("policy_version", ""))
        self.checkpoints.check_on(user, robot, candidate)
        trial_id = new_trial_id()
        asked = {"trial": trial_id, "robot": robot, "candidate": candidate, "incumbent": incumbent}
        with self.trail(user).acting(user, "try", asked):
            self.trials.start(
                user.tenant, robot=robot, candidate=candidate, incumbent=incumbent,
                tasks=[str(task) for task in tasks], by=user.name, scene=values.get("scene", ""), rule=rule,
                trial_id=trial_id, key=values.get("key", ""),
            )  # fmt: skip
        return trial_id

    def stop_trial(self, user: User, trial_id: str) -> str:
        """End a trial after the run at hand."""
        user.require("try")
        with self.trail(user).acting(user, "stop trial", {"trial": trial_id}):
            self.trials.stop(user.tenant, trial_id, by=user.name)
        return f"{trial_id} ends after the run at hand; nothing is concluded from it"

    def adapt_step(self, user: User, adaptation_id: str, step: str, revision: int, values: Mapping[str, str]) -> str:
        """Do one of: collect, train, reuse, approve, reject, cancel."""
        flow = self.flow(user, adaptation_id)
        self._require_step(user, flow, step)
        if step not in STEPS:
            raise ContractError(f"there is no step {step!r}")
        form = {name[:_WORD]: value[:_TEXT] for name, value in list(values.items())[:_FIELDS]}
        with self.trail(user).acting(user, f"adapt: {step}", {"adaptation": adaptation_id, "form": form}):
            return self._step(user, flow, step, revision, values)

    def _step(self, user: User, flow: SceneAdaptation, step: str, revision: int, values: Mapping[str, str]) -> str:
        if step == "collect":
            flow.collect(revision, episodes=_whole(values, "episodes", 10), by=user.name)
            said = "collecting real episodes in this scene"
        elif step == "train":
            budget = Budget(
                seconds=60.0 * _number(values, "minutes", 60),
                rollouts=_whole(values, "rollouts", 5000),
                money=_number(values, "money", 5),
                price_per_hour=self.adaptations.price_per_hour(user.tenant),
            )
            flow.train(
                revision, budget=budget, mode=values.get("mode") or self.adaptations.modes(user.tenant)[0], by=user.name
            )
            said = "training has begun; it ends within one iteration of the budget"
        elif step == "reuse":
            flow.reuse(revision, adapter=values.get("adapter", ""), by=user.name)
            said = "imagining the kept adapter from this very frame"
        elif step == "approve":
            flow.approve(revision, by=user.name)
            said = "approved; the canary decides on the arm"
        elif step == "reject":
            flow.reject(revision, by=user.name)
            said = "rejected; the robot keeps what it runs"
        else:
            flow.cancel(by=user.name)
            said = "cancelled; the robot keeps what it runs"
        return said

    @staticmethod
    def _require_step(user: User, flow: SceneAdaptation, step: str) -> None:
        """Operators may do everything; a robot some steps of an adaptation that it began itself."""
        if user.role != "robot":
            user.require("adapt")
        elif step not in ROBOT_STEPS or flow.view.started_by != user.name:
            raise NotPermittedError(
                f"robot {user.name!r} may do {', '.join(ROBOT_STEPS)} of adaptations that it began itself, not "
                f"{step!r} of one begun by {flow.view.started_by!r}; an operator may"
            )

    def cards(self, tenant: str, checkpoint_id: str = "") -> list[dict[str, Any]]:
        """Return the result cards of a tenant's decided trials, canaries of adaptations first, newest first."""
        flows = [flow.view.card for flow in self.adaptations.of(tenant)]
        cards = [dict(card) for card in (*flows, *(row["card"] for row in self.trials.views(tenant))) if card]
        if checkpoint_id:
            cards = [card for card in cards if checkpoint_id in (card.get("candidate"), card.get("incumbent"))]
        return cards

    def _has_won(self, tenant: str, checkpoint_id: str) -> bool:
        cards = self.cards(tenant, checkpoint_id)
        return any(has_won(card) and card.get("candidate") == checkpoint_id for card in cards)

    def job(self, user: User, job_id: str) -> JobRow:
        """Return one job.

        Raises:
            NotFoundError: no such job of this tenant.
        """
        return self.jobs.get(user.tenant, job_id)


def scene_request(form: Mapping[str, str]) -> SceneRequest:
    """Read what is asked for when an adaptation begins.

    Raises:
        ConfigError: the seed is no whole number, or config no JSON object.
    """
    texts = {name: form.get(name, "").strip() for name in ("robot", "instruction", "scene", "world_model", "judge")}
    config = _json(form, "config", dict)
    others = tuple(name.strip() for name in form.get("other_tasks", "").split(";") if name.strip())
    return SceneRequest(**texts, seed=_whole(form, "seed", 0), config=config, other_tasks=others)


def loop_request(form: Mapping[str, str]) -> LoopConfig:
    """Read what a loop is asked for: config (JSON object of LoopConfig's settings), and over it the form's own fields.

    Raises:
        ConfigError: a setting does not exist or makes no sense.
    """
    values = _json(form, "config", dict)
    texts = ("name", "robot", "scene", "world_model", "judge")
    values |= {name: form[name].strip() for name in texts if form.get(name, "").strip()}
    values |= {name: _whole(form, name, 0) for name in ("rounds", "seed") if form.get(name, "").strip()}
    if tasks := [task.strip() for task in form.get("tasks", "").split(";") if task.strip()]:
        values["tasks"] = tasks
    return loop_config_of(values, "this loop")


def _json(form: Mapping[str, str], name: str, kind: type[T]) -> T:
    """A field that holds JSON; empty where it is left out."""
    try:
        value = parsed_json(form.get(name, "").strip() or "null", name, _CONFIG_CHARACTERS)
    except CorruptError as error:
        raise ConfigError(str(error)) from error
    if value is not None and not isinstance(value, kind):
        what = "object" if kind is dict else "list"
        raise ConfigError(f"{name} must be a JSON {what}, got {form.get(name, '')[:80]!a}")
    return kind() if value is None else value


def _rule_of(values: Mapping[str, str]) -> SequentialRule:
    """The promotion rule of a trial: what the form names, the rest as usual."""
    named, known = _json(values, "rule", dict), {entry.name for entry in fields(SequentialRule)}
    if unknown := sorted(set(named) - known):
        raise ConfigError(f"unknown settings {unknown} of the rule; there are {sorted(known)}")
    return SequentialRule(**{"max_pairs": _whole(values, "pairs", SequentialRule().max_pairs), **named})


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def _number(values: Mapping[str, str], name: str, default: float) -> float:
    text = values.get(name, "").strip()
    try:
        number = float(text) if text else float(default)
    except ValueError as error:
        raise ConfigError(f"{name} must be a number, got {text[:40]!a}") from error
    if not abs(number) < _MOST_NUMBER:  # NaN is not below anything either
        raise ConfigError(f"{name} must be a number below {_MOST_NUMBER:g}, got {text[:40]!a}")
    return number


def _whole(values: Mapping[str, str], name: str, default: int) -> int:
    number = _number(values, name, default)
    if number != int(number):
        raise ConfigError(f"{name} must be a whole number, got {number:g}")
    return int(number)
