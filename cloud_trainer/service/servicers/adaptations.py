"""AdaptationService: test-time training for one scene."""

from __future__ import annotations

import json
from collections.abc import Iterator

import grpc

from cloud_trainer.flows.adaptation_engine import SceneRequest
from cloud_trainer.flows.scene_adaptation import SceneAdaptation
from cloud_trainer.service.config import Limits
from cloud_trainer.service.handlers import AdaptationHandlers
from cloud_trainer.service.servicers.messages import (
    MOST_CHARACTERS,
    bounded,
    fitting,
    json_field,
    json_text,
    page_after,
    pieces,
)
from gymnast_core.adaptations import PracticeIteration, TrustFigures
from gymnast_core.wire.errors import InvalidMessageError
from gymnast_core.wire.gymnast.v1 import adaptations_pb2 as pb
from gymnast_core.wire.gymnast.v1 import weights_pb2
from gymnast_core.wire.identity import Peer

_MOST_TASKS = 100
_SAME = ("adaptation_id", "robot", "instruction", "started_by", "revision", "reason", "scene", "known_adapters", "mode",
         "job", "candidate", "ended_by", "decided_by", "cancel_requested")  # fmt: skip
_ITERATION = ("iteration", "imagined_reward", "rollouts")


class AdaptationServicer:
    """Adaptations."""

    def __init__(self, adaptations: AdaptationHandlers, limits: Limits) -> None:
        self._adaptations, self._limits = adaptations, limits

    def Begin(self, request: pb.BeginAdaptationRequest, peer: Peer, context: grpc.ServicerContext) -> pb.Adaptation:
        """Look at the scene and check trust there."""
        names = ("robot", "instruction", "scene", "world_model", "judge")
        texts = {name: str(getattr(request, name)).strip() for name in names}
        others = bounded("other tasks", request.other_tasks, _MOST_TASKS)
        for text in (*texts.values(), *others):
            bounded("characters of a text", text, MOST_CHARACTERS)
        config = json_field(request.config_json, self._limits)
        asked = SceneRequest(**texts, seed=request.seed, config=config, other_tasks=tuple(others))
        return self._shown(peer, self._adaptations.begin(peer, asked))

    def Get(self, request: pb.AdaptationId, peer: Peer, context: grpc.ServicerContext) -> pb.Adaptation:
        """One."""
        return self._shown(peer, self._adaptations.find(peer, request.adaptation_id))

    def List(
        self, request: pb.ListAdaptationsRequest, peer: Peer, context: grpc.ServicerContext
    ) -> pb.ListAdaptationsReply:
        """A page, newest first."""
        flows = self._adaptations.all(peer)
        page = page_after(flows, lambda flow: flow.view.adaptation_id, request.after, request.limit)
        return pb.ListAdaptationsReply(adaptations=fitting(self._shown(peer, flow) for flow in page))

    def Step(self, request: pb.AdaptationStep, peer: Peer, context: grpc.ServicerContext) -> pb.Adaptation:
        """One decision."""
        return self._shown(peer, self._step(request, peer))

    def _step(self, request: pb.AdaptationStep, peer: Peer) -> SceneAdaptation:
        adaptations, name = self._adaptations, request.WhichOneof("step")
        place = (peer, request.adaptation_id, request.revision)
        if name == "collect":
            return adaptations.collect(
                *place, episodes=request.collect.episodes if request.collect.HasField("episodes") else None
            )
        if name == "train":
            step = request.train
            return adaptations.train(
                *place, mode=step.mode,
                minutes=step.minutes if step.HasField("minutes") else None,
                rollouts=step.rollouts if step.HasField("rollouts") else None,
                money=step.money if step.HasField("money") else None,
            )  # fmt: skip
        if name == "reuse":
            return adaptations.reuse(*place, adapter=request.reuse.adapter)
        if name == "approve":
            return adaptations.approve(*place)
        if name == "reject":
            return adaptations.reject(*place)
        if name == "cancel":
            return adaptations.cancel(peer, request.adaptation_id)
        raise InvalidMessageError("a step must be one of collect, train, reuse, approve, reject, cancel")

    def Picture(
        self, request: pb.AdaptationPictureRequest, peer: Peer, context: grpc.ServicerContext
    ) -> Iterator[weights_pb2.BlobChunk]:
        """A film strip, in pieces."""
        yield from pieces(self._adaptations.picture(peer, request.adaptation_id, request.name).read_bytes())

    def _shown(self, peer: Peer, flow: SceneAdaptation) -> pb.Adaptation:
        view = flow.view
        return pb.Adaptation(
            **{name: getattr(view, name) for name in _SAME},
            stage=view.stage.value,
            options_json=json_text(view.options),
            trust=_trust(view.trust),
            budget=pb.AdaptationBudget(**view.budget) if view.budget else None,
            iterations=[_iteration(row) for row in list(view.iterations)],
            forgetting_json=json_text(view.forgetting),
            declared_json=json_text(view.declared),
            canary_json=[json.dumps(row, default=str) for row in list(view.canary)],
            card_json=json_text(view.card),
            history=[pb.AdaptationMoment(**row) for row in list(view.history)],
            over=view.stage.over,
            busy=view.stage.busy,
            paused=self._adaptations.paused(peer, flow),
        )


def _trust(trust: TrustFigures) -> pb.TrustCheck | None:
    if not trust:
        return None
    return pb.TrustCheck(ok=trust["ok"], reason=trust["reason"], figures_json=json_text(trust["figures"]))


def _iteration(row: PracticeIteration) -> pb.AdaptationIteration:
    return pb.AdaptationIteration(
        iteration=int(row.get("iteration", 0)), imagined_reward=row.get("imagined_reward", 0.0),
        rollouts=int(row.get("rollouts", 0)),
        metrics_json=json_text({name: value for name, value in row.items() if name not in _ITERATION}),
    )  # fmt: skip
