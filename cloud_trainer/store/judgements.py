"""What judges found of real episodes, beside the labels that people gave of the same ones."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from cloud_trainer.store.database import Database
from cloud_trainer.store.tables import EPISODES, JUDGEMENTS
from gymnast_core.outcome import Judgement, is_operators
from gymnast_core.types import Outcome

_LABELS = (Outcome.SUCCESS.value, Outcome.FAILURE.value)
_SAME = (JUDGEMENTS.c.tenant == EPISODES.c.tenant) & (JUDGEMENTS.c.episode_id == EPISODES.c.episode_id)


@dataclass(frozen=True)
class JudgedRow:
    """A judgement of an episode that a person labelled.

    Attributes:
        judge: version.
        task: instruction of the episode.
        scene: of the episode.
        episode_id: which.
        judged: what the judge found.
        score: NaN where it could not look.
        label: what the person found.
        labelled_by: that person.
    """

    judge: str
    task: str
    scene: str
    episode_id: str
    judged: Outcome
    score: float
    label: Outcome
    labelled_by: str


@dataclass(frozen=True)
class JudgedCount:
    """How many episodes of a task in a scene a judge found so and a person labelled so."""

    judge: str
    task: str
    scene: str
    judged: Outcome
    label: Outcome
    n: int = 1


@dataclass(frozen=True)
class Doubtful:
    """An episode that waits for a person, with what judges found of it, newest first.

    Attributes:
        sequence: of the episode.
        episode_id: which.
        judgements: none where no judge has looked at it.
    """

    sequence: int
    episode_id: str
    judgements: tuple[Judgement, ...]


@dataclass(frozen=True)
class Unlabelled:
    """Valid episodes without a label of which a judge found the same: of a task in a scene."""

    tenant: str
    task: str
    scene: str
    judged: Outcome


class SqlJudgements:
    """Judgements on SQLite or PostgreSQL. Threads may share them.

    Args:
        database: of the trainer.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, tenant: str, episode_id: str, judgement: Judgement, *, task: str, scene: str, held_out: bool) -> bool:
        """Write down what a judge found; False where this judge had judged the episode before, which then stands.

        Args:
            tenant: whose episode.
            episode_id: which.
            judgement: also one that is no label, because the judge is not proven there.
            task: instruction of the episode.
            scene: of the episode.
            held_out: whether it may prove the judge: one that it did not learn from, and no attempt after a failure
                that it called itself.
        """
        values: dict[str, object] = {
            "tenant": tenant, "judge": judgement.judge, "episode_id": episode_id, "outcome": judgement.outcome.value,
            "score": None if math.isnan(judgement.score) else judgement.score, "frame": judgement.frame,
            "reason": judgement.reason[:1000], "task": task, "scene": scene, "held_out": held_out,
            "judged_ns": time.time_ns(), "settled_by": "",
        }  # fmt: skip
        with self._database.transaction() as connection:
            return self._database.insert_new(connection, JUDGEMENTS, values)

    def known(self, tenant: str, judge: str, episode_ids: Sequence[str]) -> set[str]:
        """Return which of the episodes this judge has judged."""
        query = sa.select(JUDGEMENTS.c.episode_id).where(
            (JUDGEMENTS.c.tenant == tenant) & (JUDGEMENTS.c.judge == judge),
            JUDGEMENTS.c.episode_id.in_(list(episode_ids)),
        )
        with self._database.transaction() as connection:
            return {str(name) for (name,) in connection.execute(query)}

    def of(self, tenant: str, episode_id: str) -> list[Judgement]:
        """Return what judges found of an episode, newest first."""
        query = (
            sa.select(JUDGEMENTS)
            .where((JUDGEMENTS.c.tenant == tenant) & (JUDGEMENTS.c.episode_id == episode_id))
            .order_by(JUDGEMENTS.c.judged_ns.desc())
        )
        with self._database.transaction() as connection:
            return [_judgement(row) for row in connection.execute(query).mappings()]

    def count(self, tenant: str) -> int:
        """Return how many judgements a tenant's episodes have."""
        query = sa.select(sa.func.count()).select_from(JUDGEMENTS).where(JUDGEMENTS.c.tenant == tenant)
        with self._database.transaction() as connection:
            return int(connection.execute(query).scalar_one())

    def settle(self, tenant: str, episode_id: str, by: str) -> None:
        """A person labelled the episode with what judges found before them: there is no doubt left."""
        these = (JUDGEMENTS.c.tenant == tenant) & (JUDGEMENTS.c.episode_id == episode_id)
        with self._database.transaction() as connection:
            connection.execute(sa.update(JUDGEMENTS).where(these).values(settled_by=by))

    def counts(self, tenant: str, *, judge: str = "", task: str = "", scene: str | None = None) -> list[JudgedCount]:
        """Count judgements of valid episodes that a person labelled and the judge had not learned from.

        Args:
            tenant: whose.
            judge: only this one's; empty is every judge's.
            task: only of this instruction; empty is all.
            scene: only of this scene; None is all.
        """
        what: list[sa.ColumnElement[Any]] = [JUDGEMENTS.c[name] for name in ("judge", "task", "scene", "outcome")]
        what += [EPISODES.c.outcome.label("label"), EPISODES.c.labelled_by]
        query = _labelled(sa.select(*what, sa.func.count().label("n")), tenant, judge, task, scene).group_by(*what)
        with self._database.transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return [
            JudgedCount(
                row["judge"], row["task"], row["scene"], Outcome(row["outcome"]), Outcome(row["label"]), row["n"]
            )
            for row in rows
            if is_operators(row["labelled_by"])
        ]

    def evidence(self, tenant: str, *, judge: str, task: str, scene: str) -> list[JudgedRow]:
        """Return the judgements that counts() counts of one judge, task and scene, in order of arrival."""
        what = sa.select(JUDGEMENTS, EPISODES.c.outcome.label("label"), EPISODES.c.labelled_by)
        query = _labelled(what, tenant, judge, task, scene).order_by(EPISODES.c.sequence)
        with self._database.transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return [
            JudgedRow(
                row["judge"], row["task"], row["scene"], row["episode_id"], Outcome(row["outcome"]),
                math.nan if row["score"] is None else float(row["score"]), Outcome(row["label"]), row["labelled_by"],
            )
            for row in rows
            if is_operators(row["labelled_by"])
        ]  # fmt: skip

    def unlabelled(self, judge: str) -> list[Unlabelled]:
        """Return where valid episodes have no label although this judge decided, of all tenants."""
        columns = [JUDGEMENTS.c[name] for name in ("tenant", "task", "scene", "outcome")]
        with self._database.transaction() as connection:
            rows = connection.execute(sa.select(*columns).where(*_undecided(judge)).distinct()).all()
        return [Unlabelled(tenant, task, scene, Outcome(judged)) for tenant, task, scene, judged in rows]

    def unlabelled_at(self, judge: str, place: Unlabelled) -> list[tuple[str, Judgement]]:
        """Return the episodes of one of these with what the judge found of each, in order of arrival."""
        here = {"tenant": place.tenant, "task": place.task, "scene": place.scene, "outcome": place.judged.value}
        same = [JUDGEMENTS.c[name] == value for name, value in here.items()]
        query = sa.select(JUDGEMENTS).where(*_undecided(judge), *same).order_by(EPISODES.c.sequence)
        with self._database.transaction() as connection:
            return [(row["episode_id"], _judgement(row)) for row in connection.execute(query).mappings()]

    def doubtful(self, tenant: str, *, before: int, limit: int) -> list[Doubtful]:
        """Return valid episodes that wait for a person, newest first: unlabelled ones, and unsettled contradictions.

        An episode waits where it has no label and nobody has seen its judgements, where a judge found otherwise than
        its label, or where two judges decided differently.

        Args:
            tenant: whose.
            before: sequence of the last one of the page before; 0 begins with the newest.
            limit: at most so many.
        """
        names = self._waiting(tenant, before, limit)
        found = {name: self.of(tenant, name) for _, name in names}
        return [Doubtful(sequence, name, tuple(found[name])) for sequence, name in names]

    def _waiting(self, tenant: str, before: int, limit: int) -> list[tuple[int, str]]:
        mine = (JUDGEMENTS.c.tenant == EPISODES.c.tenant) & (JUDGEMENTS.c.episode_id == EPISODES.c.episode_id)
        decided = JUDGEMENTS.c.outcome.in_(_LABELS)
        unsettled = sa.select(JUDGEMENTS.c.episode_id).where(mine, JUDGEMENTS.c.settled_by == "", decided)
        other = JUDGEMENTS.alias("other")
        differs = unsettled.where(
            sa.exists().where(
                other.c.tenant == JUDGEMENTS.c.tenant, other.c.episode_id == JUDGEMENTS.c.episode_id,
                other.c.outcome.in_(_LABELS), other.c.outcome != JUDGEMENTS.c.outcome,
            )
        )  # fmt: skip
        contradicted = unsettled.where(EPISODES.c.outcome.in_(_LABELS), EPISODES.c.outcome != JUDGEMENTS.c.outcome)
        query = sa.select(EPISODES.c.sequence, EPISODES.c.episode_id).where(
            EPISODES.c.tenant == tenant,
            EPISODES.c.state == "valid",
            (EPISODES.c.outcome == Outcome.UNLABELLED.value) | sa.exists(contradicted) | sa.exists(differs),
        )
        query = query.where(EPISODES.c.sequence < before) if before else query
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(EPISODES.c.sequence.desc()).limit(limit)).all()
        return [(int(sequence), str(name)) for sequence, name in rows]


def _undecided(judge: str) -> list[sa.ColumnElement[bool]]:
    """A judge's decided judgements of valid episodes that nobody has labelled."""
    return [
        _SAME, JUDGEMENTS.c.judge == judge, JUDGEMENTS.c.outcome.in_(_LABELS), EPISODES.c.state == "valid",
        EPISODES.c.outcome == Outcome.UNLABELLED.value, EPISODES.c.labelled_by == "",
    ]  # fmt: skip


def _labelled(query: sa.Select[Any], tenant: str, judge: str, task: str, scene: str | None) -> sa.Select[Any]:
    """Only judgements of valid episodes that somebody labelled and the judge had not learned from; see counts()."""
    query = query.where(
        _SAME, JUDGEMENTS.c.tenant == tenant, JUDGEMENTS.c.held_out, EPISODES.c.state == "valid",
        EPISODES.c.outcome.in_(_LABELS),
    )  # fmt: skip
    for column, value in (("judge", judge or None), ("task", task or None), ("scene", scene)):
        if value is not None:
            query = query.where(JUDGEMENTS.c[column] == value)
    return query


def _judgement(row: sa.RowMapping) -> Judgement:
    score = math.nan if row["score"] is None else float(row["score"])
    return Judgement(Outcome(row["outcome"]), score, int(row["frame"]), row["judge"], row["reason"])
