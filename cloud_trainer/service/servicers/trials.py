"""TrialService: blinded trials and their result cards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import grpc

from cloud_trainer.service.config import Limits
from cloud_trainer.service.handlers import TrialHandlers, TrialRequest
from cloud_trainer.service.handlers.trials import ShownTrial
from cloud_trainer.service.servicers.messages import (
    MOST_CHARACTERS,
    bounded,
    fitting,
    json_field,
    json_text,
    page_after,
    page_size,
)
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.sequential import SequentialRule
from gymnast_core.wire.errors import InvalidMessageError
from gymnast_core.wire.gymnast.v1 import trials_pb2
from gymnast_core.wire.identity import Peer

_MOST_TASKS = 100
_MOST_KEY = 128
_PAGE_CHARACTERS = 1 << 20
_FIELDS = ("trial_id", "robot", "scene", "by", "at_ns", "candidate", "incumbent", "instruction", "tasks", "key",
           "state", "reason", "pairs_done", "max_pairs", "paused")  # fmt: skip


class TrialServicer:
    """Trials."""

    def __init__(self, trials: TrialHandlers, limits: Limits) -> None:
        self._trials, self._limits = trials, limits

    def Begin(
        self, request: trials_pb2.BeginTrialRequest, peer: Peer, context: grpc.ServicerContext
    ) -> trials_pb2.Trial:
        """Declare a trial, or find the one with the same key."""
        tasks = bounded("tasks", request.tasks, _MOST_TASKS)
        for text in (*tasks, request.scene, request.against, request.candidate):
            bounded("characters of a text", text, MOST_CHARACTERS)
        if len(request.idempotency_key) > _MOST_KEY:
            raise InvalidMessageError(f"an idempotency key has at most {_MOST_KEY} characters")
        asked = TrialRequest(
            request.candidate, request.robot, tuple(tasks), request.against, request.scene,
            rule_of(json_field(request.rule_json, self._limits)), request.idempotency_key,
        )  # fmt: skip
        return _trial(self._trials.begin(peer, asked))

    def Get(self, request: trials_pb2.TrialId, peer: Peer, context: grpc.ServicerContext) -> trials_pb2.Trial:
        """One trial."""
        return _trial(self._trials.find(peer, request.trial_id))

    def List(
        self, request: trials_pb2.ListTrialsRequest, peer: Peer, context: grpc.ServicerContext
    ) -> trials_pb2.ListTrialsReply:
        """A page, newest first."""
        rows = page_after(self._trials.all(peer), lambda row: str(row["trial_id"]), request.after, request.limit)
        return trials_pb2.ListTrialsReply(trials=fitting(_trial(row) for row in rows))

    def Stop(self, request: trials_pb2.TrialId, peer: Peer, context: grpc.ServicerContext) -> trials_pb2.Trial:
        """End one; nothing is concluded."""
        return _trial(self._trials.stop(peer, request.trial_id))

    def Cards(
        self, request: trials_pb2.ListCardsRequest, peer: Peer, context: grpc.ServicerContext
    ) -> trials_pb2.ListCardsReply:
        """A page of result cards."""
        cards = self._trials.cards(peer, request.checkpoint_id)[request.after :][: page_size(request.limit)]
        page: list[str] = []
        size = 0
        for text in (json.dumps(card, default=str) for card in cards):
            size += len(text)
            if page and size > _PAGE_CHARACTERS:
                break
            page.append(text)
        return trials_pb2.ListCardsReply(cards_json=page)


def rule_of(named: Mapping[str, Any]) -> SequentialRule:
    """Return the promotion rule with the settings that are named, the rest as usual.

    Raises:
        ConfigError: there is no such setting, or a value makes no sense.
    """
    known = {entry.name for entry in fields(SequentialRule)}
    if unknown := sorted(set(named) - known):
        raise ConfigError(f"unknown settings {str(unknown)[:200]} of the rule; there are {sorted(known)}")
    for name, value in named.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"{name} of the rule must be a number, got {str(value)[:80]!r}")
    rule = SequentialRule(**named)
    rule.require_strict()
    return rule


def _trial(view: ShownTrial) -> trials_pb2.Trial:
    return trials_pb2.Trial(
        trial_id=view["trial_id"], robot=view["robot"], scene=view["scene"], by=view["by"], at_ns=view["at_ns"],
        candidate=view["candidate"], incumbent=view["incumbent"], instruction=view["instruction"],
        tasks=view["tasks"], key=view["key"], state=view["state"], reason=view["reason"],
        pairs_done=view["pairs_done"], max_pairs=view["max_pairs"], paused=view["paused"],
        card_json=json_text(view["card"]),
    )  # fmt: skip
