"""Blinded trials of one checkpoint against another on a robot's arm, and their result cards."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gymnast_client.client import Client, same_fields
from gymnast_client.reading import read
from gymnast_core.evaluation.cards import ResultCard
from gymnast_core.evaluation.sequential import SequentialRule
from gymnast_core.wire.gymnast.v1 import trials_pb2, trials_pb2_grpc

_FIELDS = ("trial_id", "robot", "scene", "by", "at_ns", "candidate", "incumbent", "instruction", "tasks", "key",
           "state", "reason", "pairs_done", "max_pairs", "paused")  # fmt: skip


@dataclass(frozen=True)
class TrialView:
    """A trial as far as it may be seen: the card once it is decided, never the score before.

    Attributes:
        trial_id: never reused.
        robot: the robot it runs on.
        scene: the robot's name for where it stands; empty is the trainer's usual one.
        by: the person that began it.
        at_ns: the trainer's wall clock, when.
        candidate: checkpoint id.
        incumbent: checkpoint id.
        instruction: what the arm is asked to do; of several tasks, their names.
        tasks: instructions that take turns, pair by pair; empty is `instruction` alone.
        key: chosen by the caller that began it.
        state: running, decided or stopped.
        reason: why it was stopped.
        pairs_done: so far.
        max_pairs: at most.
        paused: what holds it up; empty when nothing does.
        card: the result card, JSON values; empty before it is decided.
    """

    trial_id: str
    robot: str
    scene: str
    by: str
    at_ns: int
    candidate: str
    incumbent: str
    instruction: str
    tasks: tuple[str, ...]
    key: str
    state: str
    reason: str
    pairs_done: int
    max_pairs: int
    paused: str
    card: ResultCard = field(default_factory=ResultCard)


class TrialsClient(Client):
    """Trials."""

    def begin(
        self, candidate: str, robot: str, tasks: Sequence[str], *, against: str = "", scene: str = "",
        rule: SequentialRule | None = None, pairs: int | None = None, key: str = "",
    ) -> TrialView:  # fmt: skip
        """Begin a blinded trial; the same key gives the same one, so this may be repeated.

        Args:
            candidate: checkpoint id, which the robot must have been offered.
            robot: its name.
            tasks: instructions; of several, pairs take turns.
            against: checkpoint id; empty is what the robot runs.
            scene: the robot's name for where it stands; empty is the trainer's usual.
            rule: when to stop and what to conclude; None is the usual one.
            pairs: at most so many, over the rule.
            key: empty makes one.

        Raises:
            NotPossibleError: the robot or the checkpoint cannot take part now.
            ConfigError: a value makes no sense.
        """
        settings = {} if rule is None else rule.to_json()
        if pairs is not None:
            settings["max_pairs"] = pairs
        request = trials_pb2.BeginTrialRequest(
            candidate=candidate, robot=robot, tasks=list(tasks), against=against, scene=scene,
            rule_json=json.dumps(settings), idempotency_key=key or secrets.token_hex(12),
        )  # fmt: skip
        return _trial(self._link.call(lambda channel: trials_pb2_grpc.TrialServiceStub(channel).Begin, request))

    def get(self, trial_id: str) -> TrialView:
        """One trial.

        Raises:
            NotFoundError: there is none of this id.
        """
        request = trials_pb2.TrialId(trial_id=trial_id)
        return _trial(self._link.call(lambda channel: trials_pb2_grpc.TrialServiceStub(channel).Get, request))

    def list(self) -> Iterator[TrialView]:
        """Every trial, newest first."""
        rows = self._rows(
            lambda channel: trials_pb2_grpc.TrialServiceStub(channel).List,
            lambda after: trials_pb2.ListTrialsRequest(after=after),
            lambda reply: reply.trials,
            lambda row: row.trial_id,
        )
        return map(_trial, rows)

    def stop(self, trial_id: str) -> TrialView:
        """End one after the run at hand; nothing is concluded from it.

        Raises:
            NotPossibleError: it is not under way.
        """
        request = trials_pb2.TrialId(trial_id=trial_id)
        return _trial(self._link.call(lambda channel: trials_pb2_grpc.TrialServiceStub(channel).Stop, request))

    def cards(self, checkpoint_id: str = "") -> Iterator[ResultCard]:
        """Result cards of everything that was decided, canaries of adaptations first; of one checkpoint if named."""
        seen = 0
        while True:
            request = trials_pb2.ListCardsRequest(checkpoint_id=checkpoint_id, after=seen)
            reply = self._link.call(lambda channel: trials_pb2_grpc.TrialServiceStub(channel).Cards, request)
            if not reply.cards_json:
                return
            for number, card in enumerate(reply.cards_json, seen):
                yield read(ResultCard, card, f"result card {number}")
            seen += len(reply.cards_json)


def _trial(message: trials_pb2.Trial) -> TrialView:
    return TrialView(
        **same_fields(message, _FIELDS), card=read(ResultCard, message.card_json, f"the card of {message.trial_id}")
    )
