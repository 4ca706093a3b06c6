"""Test-time training for one scene: begun, looked at, decided step by step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from gymnast_client.client import Client, message, same_fields
from gymnast_client.reading import read, read_object
from gymnast_core.adaptations import (
    AdaptationOptions,
    BudgetFigures,
    CanaryPair,
    DeclaredCanary,
    ForgettingFigures,
    Moment,
    PracticeIteration,
    TrustFigures,
)
from gymnast_core.evaluation.cards import ResultCard
from gymnast_core.json_values import JsonObject
from gymnast_core.wire.gymnast.v1 import adaptations_pb2 as pb
from gymnast_core.wire.gymnast.v1 import adaptations_pb2_grpc as rpc

_BEGIN_DEADLINE_S = 60.0
_STEP_DEADLINE_S = 60.0
_PICTURE_DEADLINE_S = 60.0
_SAME = ("adaptation_id", "robot", "instruction", "started_by", "stage", "revision", "reason", "scene",
         "known_adapters", "mode", "job", "candidate", "ended_by", "decided_by", "cancel_requested", "over", "busy",
         "paused")  # fmt: skip


@dataclass(frozen=True)
class PracticeBudget:
    """What practice may cost; whatever is used up first ends it, and None is as usual.

    Attributes:
        minutes: of wall time; it only cuts off.
        rollouts: imagined ones.
        money: in the trainer's currency.
        mode: lora or full; empty is the trainer's first.
    """

    minutes: float | None = None
    rollouts: int | None = None
    money: float | None = None
    mode: str = ""


@dataclass(frozen=True)
class AdaptationView:
    """An adaptation as it is now.

    Attributes:
        adaptation_id: never reused.
        robot: its name.
        instruction: what it shall do there.
        started_by: a person, or the robot itself.
        stage: captured, refused, ready, training, checking, preview, canary, kept, reverted, cancelled or failed.
        revision: rises with everything that matters to a decision.
        reason: why it is refused, or how it ended.
        scene: the robot's name for where it stands.
        known_adapters: checkpoints that were kept for this scene before.
        mode: what is trained: lora or full.
        job: of the practice.
        candidate: checkpoint id, once there is one.
        ended_by: the budget that ended practice.
        decided_by: the person or robot that let it onto the arm.
        cancel_requested: it ends at the next whole iteration, pair or collection.
        over: nothing more will happen.
        busy: the trainer works, and the operator waits.
        paused: what holds up whatever runs on the arm; empty when nothing does.
        options: what else was asked for when it began.
        trust: {ok, reason, figures}; empty before the check.
        budget: {seconds, rollouts, money, price_per_hour}; empty before practice.
        iterations: of practice: {iteration, imagined_reward, rollouts, ...}.
        forgetting: what it lost on other tasks, in imagination.
        declared: the rules of its canary.
        canary: its pairs so far, blinded.
        card: the canary's result card.
        history: {kind, at_ns, by}, oldest first.
    """

    adaptation_id: str
    robot: str
    instruction: str
    started_by: str
    stage: str
    revision: int
    reason: str
    scene: str
    known_adapters: tuple[str, ...]
    mode: str
    job: str
    candidate: str
    ended_by: str
    decided_by: str
    cancel_requested: bool
    over: bool
    busy: bool
    paused: str
    options: AdaptationOptions = field(default_factory=AdaptationOptions)
    trust: TrustFigures = field(default_factory=TrustFigures)
    budget: BudgetFigures = field(default_factory=BudgetFigures)
    iterations: Sequence[PracticeIteration] = ()
    forgetting: ForgettingFigures = field(default_factory=ForgettingFigures)
    declared: DeclaredCanary = field(default_factory=dict)
    canary: Sequence[CanaryPair] = ()
    card: ResultCard = field(default_factory=ResultCard)
    history: Sequence[Moment] = ()

    @property
    def rollouts(self) -> int:
        """Imagined rollouts so far."""
        return sum(int(row["rollouts"]) for row in self.iterations)


class AdaptationsClient(Client):
    """Adaptations. A step is taken on a view, and refused where somebody has decided since (OutdatedError)."""

    def begin(
        self, robot: str, instruction: str, *, scene: str = "", seed: int = 0, world_model: str = "", judge: str = "",
        config: JsonObject | None = None, other_tasks: Sequence[str] = (),
    ) -> AdaptationView:  # fmt: skip
        """Have the scene before a robot looked at, and the world model checked there; once, not to be repeated.

        Args:
            robot: its name; a robot may begin its own alone.
            instruction: what it shall do there.
            scene: the robot's name for where it stands; empty is the trainer's usual.
            seed: of everything random.
            world_model: checkpoint id; empty is the trainer's newest.
            judge: checkpoint id; empty is the trainer's newest.
            config: settings of the training job, over the trainer's own.
            other_tasks: instructions on which the canary looks for harm; none: what the robot was seen to succeed at.

        Raises:
            NotPossibleError: the robot cannot be ordered about now, or is busy.
            ConfigError: what is asked for is not there.
            TransientBridgeError: the trainer is away, or went away before it answered: look before you repeat.
        """
        request = message(
            pb.BeginAdaptationRequest, robot=robot, instruction=instruction, scene=scene, seed=seed,
            world_model=world_model, judge=judge, config_json=json.dumps(dict(config or {})),
            other_tasks=list(other_tasks),
        )  # fmt: skip
        return _adaptation(
            self._link.once(
                lambda channel: rpc.AdaptationServiceStub(channel).Begin, request, timeout_s=_BEGIN_DEADLINE_S
            )
        )

    def get(self, adaptation_id: str) -> AdaptationView:
        """One adaptation.

        Raises:
            NotFoundError: there is none of this id that we may follow.
        """
        request = pb.AdaptationId(adaptation_id=adaptation_id)
        return _adaptation(self._link.call(lambda channel: rpc.AdaptationServiceStub(channel).Get, request))

    def list(self) -> Iterator[AdaptationView]:
        """Every adaptation we may follow, newest first; a robot's are its own."""
        rows = self._rows(
            lambda channel: rpc.AdaptationServiceStub(channel).List,
            lambda after: pb.ListAdaptationsRequest(after=after),
            lambda reply: reply.adaptations,
            lambda row: row.adaptation_id,
        )
        return map(_adaptation, rows)

    def collect(self, view: AdaptationView, episodes: int | None = None) -> AdaptationView:
        """Refused: run a few real episodes there, then check trust again."""
        return self._step(view, pb.AdaptationStep(collect=message(pb.CollectStep, episodes=episodes)))

    def train(self, view: AdaptationView, budget: PracticeBudget | None = None) -> AdaptationView:
        """Ready: practise within a budget."""
        return self._step(view, pb.AdaptationStep(train=message(pb.TrainStep, **asdict(budget or PracticeBudget()))))

    def reuse(self, view: AdaptationView, adapter: str) -> AdaptationView:
        """Ready or refused: try the adapter that was kept for this scene before."""
        return self._step(view, pb.AdaptationStep(reuse=pb.ReuseStep(adapter=adapter)))

    def approve(self, view: AdaptationView) -> AdaptationView:
        """Preview: let the candidate onto the arm, as a canary."""
        return self._step(view, pb.AdaptationStep(approve=pb.ApproveStep()))

    def reject(self, view: AdaptationView) -> AdaptationView:
        """Preview: do not let it onto the arm."""
        return self._step(view, pb.AdaptationStep(reject=pb.RejectStep()))

    def cancel(self, view: AdaptationView) -> AdaptationView:
        """Stop at the next whole iteration, pair or collection; what runs on the robot stays what it was."""
        return self._step(view, pb.AdaptationStep(cancel=pb.CancelStep()))

    def picture(self, adaptation_id: str, name: str) -> bytes:
        """What it saw (start) or imagined (old, new), as WebP.

        Raises:
            NotFoundError: there is none yet.
        """
        request = pb.AdaptationPictureRequest(adaptation_id=adaptation_id, name=name)
        return self._link.pieces(
            lambda channel: rpc.AdaptationServiceStub(channel).Picture,
            request,
            f"{adaptation_id}'s {name}",
            timeout_s=_PICTURE_DEADLINE_S,
        )

    def _step(self, view: AdaptationView, step: pb.AdaptationStep) -> AdaptationView:
        """Do one step, once.

        Raises:
            OutdatedError: somebody has decided since.
            NotPermittedError: a robot may not take this one.
        """
        step.adaptation_id, step.revision = view.adaptation_id, view.revision
        return _adaptation(
            self._link.once(lambda channel: rpc.AdaptationServiceStub(channel).Step, step, timeout_s=_STEP_DEADLINE_S)
        )


def _adaptation(reply: pb.Adaptation) -> AdaptationView:
    of = reply.adaptation_id
    rows: list[PracticeIteration] = [
        {
            **same_fields(row, ("iteration", "imagined_reward", "rollouts")),
            **read(PracticeIteration, row.metrics_json, f"iteration {row.iteration} of {of}"),  # type: ignore[type-abstract]
        }
        for row in reply.iterations
    ]
    return AdaptationView(
        **same_fields(reply, _SAME),
        options=read(AdaptationOptions, reply.options_json, f"the options of {of}"),
        trust=_trust(reply.trust, of) if reply.HasField("trust") else {},
        budget=_budget(reply.budget) if reply.HasField("budget") else {},
        iterations=rows,
        forgetting=read(ForgettingFigures, reply.forgetting_json, f"the forgetting check of {of}"),
        declared=read_object(reply.declared_json, f"the declared canary of {of}"),
        canary=[read(CanaryPair, row, f"a canary pair of {of}") for row in reply.canary_json],
        card=read(ResultCard, reply.card_json, f"the card of {of}"),
        history=[{"kind": row.kind, "at_ns": row.at_ns, "by": row.by} for row in reply.history],
    )


def _trust(message: pb.TrustCheck, of: str) -> TrustFigures:
    figures = read_object(message.figures_json, f"the trust figures of {of}")
    return {"ok": message.ok, "reason": message.reason, "figures": figures}


def _budget(message: pb.AdaptationBudget) -> BudgetFigures:
    return {"seconds": message.seconds, "rollouts": message.rollouts, "money": message.money,
            "price_per_hour": message.price_per_hour}  # fmt: skip
