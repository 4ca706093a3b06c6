"""Where a judge may label: its precision on episodes that a person labelled, for each task and scene, against a floor.

Accuracy says nothing where successes are rare: a judge of 85 % can be wrong in most of what it calls a success. So each
of its two words is proven by itself, and the lower end of the interval counts, not the mean.

Source:
    Yang et al., RoboFuME (arXiv:2310.15145): a reward model of 84-89 % accuracy had 15-92 % precision by task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from cloud_trainer.store.judgements import JudgedCount
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.statistics import wilson_interval
from gymnast_core.outcome import Judgement
from gymnast_core.types import Outcome

FLOOR = 0.9
"""With no error at all, 35 calls prove it."""


@dataclass(frozen=True)
class Precision:
    """One judge on one task in one scene.

    Attributes:
        judge: version.
        task: instruction.
        scene: where.
        floor: the lower end of an interval must reach it.
        labelled: episodes that a person labelled and the judge looked at, without having learned from them.
        abstained: of those, by the judge.
        called_success: of those.
        true_success: of the called ones, by the person's label.
        called_failure: of those.
        true_failure: of the called ones.
    """

    judge: str
    task: str
    scene: str
    floor: float
    labelled: int = 0
    abstained: int = 0
    called_success: int = 0
    true_success: int = 0
    called_failure: int = 0
    true_failure: int = 0

    @property
    def success_low(self) -> float:
        """Lower end of the 95 % interval of P(success | called success); 0 where it called none."""
        return _low(self.true_success, self.called_success)

    @property
    def failure_low(self) -> float:
        """Lower end of the 95 % interval of P(failure | called failure); 0 where it called none."""
        return _low(self.true_failure, self.called_failure)

    @property
    def labels_success(self) -> bool:
        """Whether the judge may label successes here."""
        return self.success_low >= self.floor

    @property
    def labels_failure(self) -> bool:
        """Whether the judge may label failures here."""
        return self.failure_low >= self.floor

    @property
    def reason(self) -> str:
        """Why it may not label something; empty where it may label both."""
        return "; ".join(
            self._lack(word, low, right, called)
            for word, low, right, called, may in (
                ("success", self.success_low, self.true_success, self.called_success, self.labels_success),
                ("failure", self.failure_low, self.true_failure, self.called_failure, self.labels_failure),
            )
            if not may
        )

    def _lack(self, word: str, low: float, right: int, called: int) -> str:
        where = f"{self.task!r} in scene {self.scene!r}"
        if not called:
            return f"never called a {word} on {where} that a person labelled; label episodes there"
        return (
            f"{word} on {where}: {right} of {called} calls were right, lower bound {low:.2f} is under {self.floor:g}; "
            "label more episodes there"
        )

    def held_to(self, judgement: Judgement) -> Judgement:
        """Return the judgement where its word is proven, else an abstention that says what is missing."""
        if judgement.outcome is Outcome.SUCCESS:
            proven, counts = self.labels_success, (self.success_low, self.true_success, self.called_success)
        elif judgement.outcome is Outcome.FAILURE:
            proven, counts = self.labels_failure, (self.failure_low, self.true_failure, self.called_failure)
        else:
            return judgement
        if proven:
            return judgement
        return Judgement.abstain(
            f"its precision is not proven here: {self._lack(judgement.outcome.value, *counts)}",
            judge=judgement.judge, score=judgement.score, frame=judgement.frame,
        )  # fmt: skip


def checked_floor(floor: float) -> float:
    """Return a floor that is one.

    Raises:
        ConfigError: it is not within (0, 1).
    """
    if not 0 < floor < 1:
        raise ConfigError(f"a judge's precision floor must lie in (0, 1), got {floor}; 0.9 is usual")
    return floor


def table_of(counts: Iterable[JudgedCount], floor: float) -> list[Precision]:
    """Return one row per judge, task and scene that occur, in that order."""
    places: dict[tuple[str, str, str], list[JudgedCount]] = {}
    for count in counts:
        places.setdefault((count.judge, count.task, count.scene), []).append(count)
    return [precision_of(*place, of_place, floor) for place, of_place in sorted(places.items())]


def precision_of(judge: str, task: str, scene: str, counts: Iterable[JudgedCount], floor: float) -> Precision:
    """Return one row; the counts are of that judge, task and scene."""
    found: Counter[tuple[Outcome, Outcome]] = Counter()
    for count in counts:
        found[count.judged, count.label] += count.n
    won, lost = Outcome.SUCCESS, Outcome.FAILURE
    called_success, called_failure = found[won, won] + found[won, lost], found[lost, won] + found[lost, lost]
    labelled = found.total()
    return Precision(
        judge, task, scene, floor, labelled, labelled - called_success - called_failure, called_success,
        found[won, won], called_failure, found[lost, lost],
    )  # fmt: skip


def _low(right: int, called: int) -> float:
    return wilson_interval(right, called).low if called else 0.0
