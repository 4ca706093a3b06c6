"""A judge behind any OpenAI-compatible endpoint (a vLLM server, a hosted model): n votes, and doubt is an abstention.

An outage, garbage, disagreement, or a picture that talks the model into things never becomes a reward.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cloud_trainer.judge.client import EndpointClient
from cloud_trainer.judge.rubric import (
    CONTROL_INSTRUCTION,
    GENERAL_RUBRIC,
    Reading,
    Rubric,
    Rubrics,
    chosen_frames,
    messages,
    parse,
)
from gymnast_core.errors import BridgeError
from gymnast_core.jobs.judges import Voting
from gymnast_core.judge import Verdict
from gymnast_core.types import ByteArray, Outcome, RolloutBatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Ballot:
    """Votes of one rollout: readings, unreadable answers, errors."""

    readings: tuple[Reading, ...]
    garbage: tuple[str, ...]
    errors: tuple[str, ...]


class EndpointJudge:
    """Keeps gymnast_core.judge.Judge over an EndpointClient.

    Attributes:
        client: sends requests.
        rubrics: what is asked.
        voting: when votes make a verdict.
    """

    def __init__(self, client: EndpointClient, rubrics: Rubrics | None = None, voting: Voting | None = None) -> None:
        self.client, self.rubrics, self.voting = client, rubrics or Rubrics(), voting or Voting()
        self._failures = 0
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        """Model + rubric + number of votes."""
        return f"{self.client.endpoint.model}+{self.rubrics.version}+{self.voting.votes}votes"

    def judge(self, rollouts: RolloutBatch) -> Sequence[Verdict]:
        """Judge each row; rows are asked concurrently, verdicts come in order."""
        shown = chosen_frames(rollouts.frame_steps_F, self.voting.max_frames)
        self._failures = 0
        with ThreadPoolExecutor(self.voting.concurrency, thread_name_prefix="judge") as pool:
            rows = zip(rollouts.frames_BFHWC[:, shown], rollouts.instructions, strict=True)
            return list(pool.map(lambda row: self._judge_row(*row), rows))

    def _judge_row(self, frames_FHWC: ByteArray, instruction: str) -> Verdict:
        rubric = self.rubrics.of(instruction)
        ballot = self._ask(frames_FHWC, instruction, rubric, self.voting.votes)
        evidence = _evidence(ballot)
        if len(ballot.readings) < self.voting.min_valid * self.voting.votes:
            return _abstain("outage" if ballot.errors else "garbage", evidence)
        share = sum(reading.success for reading in ballot.readings) / len(ballot.readings)
        if max(share, 1 - share) < self.voting.min_agreement:
            return _abstain("disagreement", evidence, share)
        if share < 0.5:
            return Verdict(Outcome.FAILURE, share, evidence)
        if any(reading.talks_to_the_judge for reading in ballot.readings):
            return _abstain("text in the picture addresses the judge", evidence)
        doubt = self._control(frames_FHWC) if self.voting.control else ""
        return _abstain(doubt, evidence) if doubt else Verdict(Outcome.SUCCESS, share, evidence)

    def _control(self, frames_FHWC: ByteArray) -> str:
        """Same frames, a task that was certainly not done; whoever grants that grants anything."""
        ballot = self._ask(frames_FHWC, CONTROL_INSTRUCTION, GENERAL_RUBRIC, 1)
        if not ballot.readings:
            return "control question unanswered"
        return "control question granted: the judge does not look at the task" if ballot.readings[0].success else ""

    def _ask(self, frames_FHWC: ByteArray, instruction: str, rubric: Rubric, votes: int) -> _Ballot:
        chat = messages(frames_FHWC, instruction, rubric)
        readings: list[Reading] = []
        garbage: list[str] = []
        errors: list[str] = []
        for vote in range(votes):
            if self._is_out():
                errors.append("not asked: the endpoint failed before in this batch")
                continue
            try:
                answer = self.client.complete(chat, seed=self.voting.seed + vote)
            except BridgeError as error:
                self._count(failed=True)
                logger.warning("judge call failed: model=%s error=%s", self.client.endpoint.model, error)
                errors.append(str(error)[:300])
                continue
            self._count(failed=False)
            reading = parse(answer, rubric)
            if reading is None:
                garbage.append(answer[:200])
            else:
                readings.append(reading)
        return _Ballot(tuple(readings), tuple(garbage), tuple(errors))

    def _is_out(self) -> bool:
        with self._lock:
            return self._failures >= self.voting.outage_after

    def _count(self, *, failed: bool) -> None:
        with self._lock:
            self._failures = self._failures + 1 if failed else 0


def _evidence(ballot: _Ballot) -> dict[str, object]:
    count = max(1, len(ballot.readings))
    return {
        "votes": [reading.success for reading in ballot.readings],
        "partial_credit": sum(reading.partial for reading in ballot.readings) / count,
        "criteria": [dict(reading.met) for reading in ballot.readings],
        "reasons": [reading.reason for reading in ballot.readings],
        "text_in_image": sorted({text for reading in ballot.readings for text in reading.texts}),
        "unreadable": list(ballot.garbage),
        "errors": list(ballot.errors),
    }


def _abstain(why: str, evidence: dict[str, object], score: float = float("nan")) -> Verdict:
    return Verdict(Outcome.ABSTAIN, score, {"abstained": why, **evidence})
