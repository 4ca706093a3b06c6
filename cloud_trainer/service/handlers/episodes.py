"""Recorded episodes: listed, labelled, withdrawn; a run of a trial that is not decided names its policy to nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cloud_trainer.records.trail import Trails
from cloud_trainer.service.handlers.flows import Flows
from cloud_trainer.store.episodes import EpisodeCatalogue
from cloud_trainer.store.judgements import SqlJudgements
from cloud_trainer.store.protocols import EpisodeRow, MetaStore
from gymnast_core.authority import Who, authorise
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.recorded_attempts import MOST_LOOKED_AT, RetriedPolicy, retried
from gymnast_core.records.lineage import LABELS, Node
from gymnast_core.types import Outcome
from gymnast_core.wire.errors import NotFoundError

_BLOCK = 1000


@dataclass(frozen=True)
class Labelled:
    """A label that was set.

    Attributes:
        row: the episode as it is now.
        was: the label before.
        made: checkpoints that were made with another label.
        changed: False where the same person had set the same label before.
    """

    row: EpisodeRow
    was: str
    made: tuple[str, ...] = ()
    changed: bool = True


class EpisodeHandlers:
    """See the module.

    Args:
        meta: the catalogue.
        trails: where actions are written down.
        flows: which trials are not decided.
        catalogue_of: tenant -> its episodes as files.
        judgements: what judges found of them.
    """

    def __init__(
        self, meta: MetaStore, trails: Trails, flows: Flows, catalogue_of: Callable[[str], EpisodeCatalogue],
        judgements: SqlJudgements,
    ) -> None:  # fmt: skip
        self._meta, self._trails, self._flows, self._catalogue_of = meta, trails, flows, catalogue_of
        self._judgements = judgements
        self._seen_sequence: dict[str, int] = {}

    def page(self, who: Who, *, after: int = 0, limit: int, state: str = "", robot: str = "") -> list[EpisodeRow]:
        """Return a page in order of arrival."""
        authorise(who, "look")
        states = [state] if state else None
        rows = self._meta.episodes(who.tenant, after=after, limit=limit, states=states, robot=robot or None)
        return [self._seen(row) for row in rows]

    def newest(
        self, who: Who, *, before: int = 0, limit: int, state: str = "", robot: str = "", outcome: str = "",
        text: str = "",
    ) -> list[EpisodeRow]:  # fmt: skip
        """Return episodes newest first, filtered.

        Args:
            who: asks.
            before: sequence of the last one of the page before; 0 begins with the newest.
            limit: at most so many.
            state: only these; empty is all.
            robot: only its.
            outcome: only with this label.
            text: only with this in their instruction or id.
        """
        authorise(who, "look")
        chosen: list[EpisodeRow] = []
        high, states = before or self.newest_sequence(who.tenant) + 1, [state] if state else None
        while high > 0 and len(chosen) < limit:
            low = max(high - _BLOCK - 1, 0)
            rows = self._meta.episodes(who.tenant, robot=robot or None, after=low, limit=_BLOCK, states=states)
            chosen += [
                row
                for row in reversed(rows)
                if row.sequence < high
                and (not outcome or row.outcome == outcome)
                and (not text or text.lower() in f"{row.instruction} {row.episode_id}".lower())
            ]
            high -= _BLOCK
        return [self._seen(row) for row in chosen[:limit]]

    def retried(self, who: Who) -> list[RetriedPolicy]:
        """Return what trying again came to, among the newest episodes."""
        return retried(self.newest(who, limit=MOST_LOOKED_AT, state="valid"))

    def find(self, who: Who, episode_id: str) -> EpisodeRow:
        """Return one episode.

        Raises:
            NotFoundError: there is none, or it is another tenant's.
        """
        authorise(who, "look")
        row = self._meta.episode(who.tenant, episode_id)
        if row is None:
            raise NotFoundError(f"there is no episode {episode_id[:80]!r} here; look for it in the list")
        return self._seen(row)

    def files(self, who: Who) -> EpisodeCatalogue:
        """Return the episodes the caller may see, as files."""
        authorise(who, "look")
        return self._catalogue_of(who.tenant)

    def story(self, who: Who, episode_id: str) -> tuple[list[dict[str, object]], list[Node]]:
        """Return every label an episode ever had, and everything that was made from it, oldest first."""
        authorise(who, "look")
        graph = self._trails.of(who.tenant).graph
        if episode_id not in graph:
            return [], []
        labels = [node.payload for node in graph.affected_by_role(episode_id, LABELS)]
        return labels, graph.affected(episode_id)

    def label(self, who: Who, episode_id: str, outcome: str) -> Labelled:
        """Set or correct a label; checkpoints made with another one are named in the answer.

        Raises:
            ConfigError: no such label.
            NotFoundError: no such episode.
        """
        authorise(who, "label")
        if outcome not in [known.value for known in Outcome]:
            raise ConfigError(f"outcome {outcome[:40]!r} is no label; choose {', '.join(o.value for o in Outcome)}")
        before = self.find(who, episode_id)
        self._judgements.settle(who.tenant, episode_id, f"operator:{who.name}")
        if before.outcome == outcome and before.labelled_by == f"operator:{who.name}":
            return Labelled(before, outcome, changed=False)
        trail = self._trails.of(who.tenant)
        row = self._seen(trail.label(who, episode_id, Outcome(outcome)))
        changed = before.outcome not in (outcome, Outcome.UNLABELLED.value)
        return Labelled(row, before.outcome, tuple(trail.made_from(episode_id)) if changed else ())

    def retract(self, who: Who, episode_id: str, reason: str) -> Sequence[Node]:
        """Withdraw an episode; returns everything that was made with it, oldest first: no more promotable.

        Raises:
            ConfigError: no reason.
            NotFoundError: no such episode.
        """
        authorise(who, "retract")
        return self._trails.of(who.tenant).retract(who, episode_id, reason)

    def newest_sequence(self, tenant: str) -> int:
        """Return the sequence of a tenant's newest episode; 0 without any."""
        seen = self._seen_sequence.get(tenant, 0)
        while page := self._meta.episodes(tenant, after=seen, limit=_BLOCK):
            seen = page[-1].sequence
        self._seen_sequence[tenant] = seen
        return seen

    def _seen(self, row: EpisodeRow) -> EpisodeRow:
        """Without its policy, and without the address of its file, which names it, until its trial is decided."""
        return replace(row, policy_version="", digest="") if self._flows.blinds(row) else row
