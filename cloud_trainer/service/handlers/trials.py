"""Blinded trials on a robot's arm, and the result cards that decide promotions."""

from __future__ import annotations

from dataclasses import dataclass, field

from cloud_trainer.flows.trials import TrialRow, new_trial_id
from cloud_trainer.records.trail import Trails
from cloud_trainer.service.handlers.checkpoints import CheckpointHandlers
from cloud_trainer.service.handlers.flows import Flows
from cloud_trainer.service.handlers.robots import RobotHandlers
from cloud_trainer.service.robots import RobotReport
from gymnast_core.authority import Who, authorise
from gymnast_core.episodes.messages import checked_id
from gymnast_core.evaluation.cards import ResultCard
from gymnast_core.evaluation.sequential import SequentialRule
from gymnast_core.wire.errors import NotFoundError


@dataclass(frozen=True)
class TrialRequest:
    """What is asked for when a trial begins.

    Attributes:
        candidate: checkpoint id, which the robot must have been offered.
        robot: its name.
        tasks: instructions; of several, pairs take turns.
        against: checkpoint id; empty is what the robot runs.
        scene: the robot's name for where it stands; empty is the trainer's usual.
        rule: when to stop and what to conclude.
        key: the same one never begins a second trial; empty is none.
    """

    candidate: str
    robot: str
    tasks: tuple[str, ...]
    against: str = ""
    scene: str = ""
    rule: SequentialRule = field(default_factory=SequentialRule)
    key: str = ""


class ShownTrial(TrialRow):
    """A trial, and what holds up its next run; empty when nothing does."""

    paused: str


class TrialHandlers:
    """See the module.

    Args:
        flows: of the trainer.
        robots: whether one may be ordered about.
        checkpoints: whether a robot may have one.
        trails: where actions are written down.
    """

    def __init__(self, flows: Flows, robots: RobotHandlers, checkpoints: CheckpointHandlers, trails: Trails) -> None:
        self._flows, self._robots, self._checkpoints, self._trails = flows, robots, checkpoints, trails

    def all(self, who: Who) -> list[ShownTrial]:
        """Return what may be seen of trials, newest first, see Trials.views; and as paused, what holds up a run."""
        authorise(who, "look")
        views = self._flows.trials.views(who.tenant)
        paused = [self._robots.paused(who, row["robot"]) if row["state"] == "running" else "" for row in views]
        return [{**row, "paused": reason} for row, reason in zip(views, paused, strict=True)]

    def find(self, who: Who, trial_id: str) -> ShownTrial:
        """Return one of these.

        Raises:
            NotFoundError: there is none of this id, or it is another tenant's.
        """
        view = next((view for view in self.all(who) if view["trial_id"] == trial_id), None)
        if view is None:
            raise NotFoundError(f"there is no trial {trial_id[:80]!r} here; see `gymnast operate evaluations`")
        return view

    def cards(self, who: Who, checkpoint_id: str = "") -> list[ResultCard]:
        """Return the result cards of decided trials, canaries of adaptations first, newest first."""
        authorise(who, "look")
        return self._flows.cards(who.tenant, checkpoint_id)

    def card(self, who: Who, trial_id: str) -> ResultCard:
        """Return one result card.

        Raises:
            NotFoundError: there is none of this id.
        """
        card = next((card for card in self.cards(who) if card.get("trial_id") == trial_id), None)
        if card is None:
            raise NotFoundError(f"there is no decided trial {trial_id!r}; cards appear when a trial is decided")
        return card

    def begin(self, who: Who, request: TrialRequest) -> ShownTrial:
        """Begin a blinded trial of a checkpoint against what a robot runs, or another one; returns its view.

        Raises:
            NotPossibleError: the robot or a checkpoint cannot take part now, or is not known here.
            ConfigError: a value makes no sense.
            ContractError: what it is compared with is no checkpoint id.
        """
        authorise(who, "try")
        if again := self._flows.trials.known(who.tenant, request.key):
            return self.find(who, again.trial_id)
        robot = request.robot
        report = self._robots.ready(who, robot)
        against = request.against.strip()
        incumbent = checked_id(against, "the checkpoint to compare with") if against else _runs(report)
        self._checkpoints.check_on(who, robot, request.candidate)
        self._checkpoints.check_known(who, incumbent, "" if against else robot)
        trial_id = new_trial_id()
        asked = {"trial": trial_id, "robot": robot, "candidate": request.candidate, "incumbent": incumbent}
        with self._trails.of(who.tenant).acting(who, "try", asked):
            self._flows.trials.start(
                who.tenant, robot=robot, candidate=request.candidate, incumbent=incumbent, tasks=request.tasks,
                by=who.name, scene=request.scene, rule=request.rule, trial_id=trial_id, key=request.key,
            )  # fmt: skip
        return self.find(who, trial_id)

    def stop(self, who: Who, trial_id: str) -> ShownTrial:
        """End a trial after the run at hand; nothing is concluded from it.

        Raises:
            NotPossibleError: there is none under way.
        """
        authorise(who, "try")
        with self._trails.of(who.tenant).acting(who, "stop trial", {"trial": trial_id}):
            self._flows.trials.stop(who.tenant, trial_id, by=who.name)
        return self.find(who, trial_id)


def _runs(report: RobotReport) -> str:
    """Return the checkpoint that a robot says it runs."""
    return str(report.status.get("policy_version", ""))
