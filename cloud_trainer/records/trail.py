"""What was made from what, and who changed it: a tenant's provenance graph and log of actions, kept by the service.

Whoever corrects a label or withdraws an episode (over the wire or on the page) does it here: row, graph and log change
in one transaction. One class, and so a long file: nothing else may write to one of the three without the others.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cloud_trainer.records.chain import Chain
from cloud_trainer.records.provenance import explain, prepare_checkpoint, record_checkpoint
from cloud_trainer.records.recorder import Recorder, parents_first
from cloud_trainer.store.database import Database
from cloud_trainer.store.protocols import EpisodeRow, MetaStore
from cloud_trainer.store.tables import CHECKPOINTS, EPISODES
from cloud_trainer.store.tenants import CHECKPOINTS as SHELF
from cloud_trainer.store.tenants import DEFAULT_TENANT, PerTenant, tenant_folder
from gymnast_core.authority import Who
from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.outcome import Judgement
from gymnast_core.records.lineage import EXTERNAL, Node
from gymnast_core.records.manifest import Manifest, read_manifest
from gymnast_core.types import Outcome
from gymnast_core.wire.errors import NotFoundError

LOG = logging.getLogger(__name__)
MADE = ("policy", "world_model", "judge")
_ERROR_CHARACTERS = 500


class Trail:
    """See the module. Threads may share it.

    Args:
        database: of the trainer.
        meta: the catalogue, whose witness is the recorder.
        recorder: of the graphs.
        shelf: folder of the tenant's checkpoints, each in a folder named by its id.
        tenant: the tenant they belong to.

    Raises:
        CorruptError: the log was changed.
    """

    def __init__(
        self, database: Database, meta: MetaStore, recorder: Recorder, shelf: Path, tenant: str = DEFAULT_TENANT
    ) -> None:
        self._database, self._meta, self._recorder = database, meta, recorder
        self._shelf, self._tenant = shelf, tenant
        self.log, self.graph = Chain(database, tenant), recorder.graph(tenant)
        self.catch_up()

    @contextlib.contextmanager
    def committing(self, who: Who, action: str, data: Mapping[str, object]) -> Iterator[None]:
        """Do something in the database, and write down that it was done: one transaction, so both or neither.

        What is done must be quick and of the database alone, see acting() for everything else. What fails is written
        down as such: the action, and a second entry with the error.

        Args:
            who: acts; author, role, tenant and time are this session's, whatever data holds.
            action: in words.
            data: JSON values.
        """
        try:
            with self._database.transaction():
                yield
                self.log.append(action, {**data, **_author(who)})
        except Exception as error:
            self._failed(who, action, self._begun(who, action, data), error)
            raise

    @contextlib.contextmanager
    def promoting(self, who: Who, action: str, data: Mapping[str, Any]) -> Iterator[None]:
        """As committing(), of a checkpoint (data["checkpoint"]) that must be promotable at the very moment.

        Raises:
            ProvenanceError: something it was made from was retracted, perhaps just now.
        """
        with self.committing(who, action, data):
            yield
            self.graph.check_promotable(data["checkpoint"])

    @contextlib.contextmanager
    def acting(self, who: Who, action: str, data: Mapping[str, object]) -> Iterator[None]:
        """Write down what somebody is about to do outside the database, before it is done.

        There is no transaction over a robot, a file and the log: an entry too many shows by the one that follows
        it, which says that it failed; an action without an entry could not.

        Args:
            who: acts; author, role, tenant and time are this session's, whatever data holds.
            action: in words.
            data: JSON values.
        """
        begun = self.log.append(action, {**data, **_author(who)}).sequence
        try:
            yield
        except Exception as error:
            self._failed(who, action, begun, error)
            raise

    def _begun(self, who: Who, action: str, data: Mapping[str, object]) -> int | None:
        """Write down what came to nothing; None where not even that can be written."""
        try:
            return self.log.append(action, {**data, **_author(who)}).sequence
        except GymnastError as error:
            LOG.error("failure_not_logged action=%s error=%s", action, error)
            return None

    def _failed(self, who: Who, action: str, begun: int | None, error: Exception) -> None:
        if begun is not None:
            failed = {"entry": begun, "error": f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]}
            self._begun(who, f"{action}: failed", failed)

    def label(self, who: Who, episode_id: str, outcome: Outcome) -> EpisodeRow:
        """Set or correct a label; the one before stays in the graph.

        Raises:
            NotFoundError: no such episode of this tenant.
        """
        by = f"operator:{who.name}"
        with self._database.transaction():
            before, labelled = self._meta.change_episode(
                self._tenant, episode_id, lambda row: replace(row, outcome=outcome.value, labelled_by=by)
            )
            said = {"episode": episode_id, "outcome": outcome.value, "was": before.outcome}
            self.log.append("label", {**said, **_author(who)})
        return labelled

    def label_judged(self, episode_id: str, judgement: Judgement) -> bool:
        """Label an episode as a judge finds it, unless somebody has labelled or withdrawn it meanwhile.

        Args:
            episode_id: which.
            judgement: a decided one, of a judge that is proven there.

        Returns:
            Whether it is labelled now by the judge.

        Raises:
            NotFoundError: no such episode of this tenant.
        """

        def labelled(row: EpisodeRow) -> EpisodeRow:
            if row.state != "valid" or row.labelled_by or row.outcome != Outcome.UNLABELLED.value:
                return row
            return replace(row, outcome=judgement.label.value, labelled_by=judgement.labelled_by)

        with self._database.transaction():
            before, after = self._meta.change_episode(self._tenant, episode_id, labelled)
            if done := after != before:
                said = {"episode": episode_id, "outcome": after.outcome, "was": before.outcome}
                found = {"score": judgement.metadata()["judge"]["score"], "frame": judgement.frame}
                author = {"by": judgement.labelled_by, "role": "judge", "tenant": self._tenant}
                self.log.append("label", {**said, **found, **author, "at_ns": time.time_ns()})
        return done

    def retract(self, who: Who, episode_id: str, reason: str) -> list[Node]:
        """Withdraw an episode: it is not trained on again, and what was made from it cannot be promoted.

        Returns:
            Everything that was made from it, oldest first.

        Raises:
            ConfigError: no reason.
            NotFoundError: no such episode of this tenant.
        """
        if not (reason := reason.strip()):
            raise ConfigError("say why this episode is withdrawn; whoever meets the block later will ask")
        why, by = f"retracted by {who.name}: {reason}", f"operator:{who.name}"
        with self._database.transaction():
            self._meta.change_episode(
                self._tenant, episode_id, lambda row: replace(row, state="quarantined", reason=why)
            )
            touched = self.graph.retract(episode_id, reason=reason, by=by, at_ns=time.time_ns())
            self.log.append(
                "retract", {"episode": episode_id, "reason": reason, "touched": len(touched), **_author(who)}
            )
        return touched

    def explain(self, record_id: str, *, verify: bool = False) -> dict[str, object]:
        """Return where a checkpoint comes from; see cloud_trainer.records.provenance.explain.

        Raises:
            NotFoundError: the record is unknown.
        """
        self.require(record_id)
        return explain(self.graph, record_id, verify=verify)

    def lineage_json(self, record_id: str) -> str:
        """Return the complete graph above a checkpoint as JSON text; see ProvenanceGraph.why_json.

        Raises:
            NotFoundError: the record is unknown.
        """
        self.require(record_id)
        return self.graph.why_json(record_id)

    def made_from(self, episode_id: str) -> list[str]:
        """Return the checkpoints an episode went into."""
        return [node.id for node in self.graph.affected(episode_id) if node.kind in MADE]

    def shelved(self, manifest: Manifest) -> None:
        """Record a checkpoint that came onto the tenant's shelf; published or not, it was made from something."""
        try:
            self._recorder.checkpoint(self._tenant, manifest)
        except GymnastError as error:  # it contradicts what is recorded: the checkpoint is there all the same
            LOG.error("checkpoint_not_recorded checkpoint=%s error=%s", manifest.id, error)

    def import_checkpoint(
        self, who: Who, manifest: Manifest, origin: Mapping[str, object], register: Callable[[], None]
    ) -> bool:
        """Record a checkpoint from outside as that, and register it in the same transaction.

        Args:
            who: vouches for it.
            manifest: what it says of itself; see provenance.record_checkpoint for what is believed.
            origin: where it came from, JSON values.
            register: puts it into the catalogue.

        Returns:
            Whether it was recorded before; then that record stays.

        Raises:
            ProvenanceError: its manifest contradicts what is recorded.
        """
        known = self.graph.holds(manifest.id, manifest.kind)
        if not known:
            prepare_checkpoint(self.graph, manifest, imported=True)
        with self.committing(who, "import", {"checkpoint": manifest.id, **origin}):
            record_checkpoint(self.graph, manifest, imported={**origin, **_author(who)})
            register()
        return known

    def catch_up(self) -> None:
        """Record what is on the shelf and not in the graph: put there by hand, or just before a crash.

        And what an older version left a placeholder for, because it was named before it came.
        """
        found = sorted(path.parent for path in self._shelf.glob("*/manifest.json"))
        names = [folder.name for folder in found if not folder.name.startswith(".")]  # one with a dot is being written
        kinds = self.graph.kinds(names)
        fresh = [_readable(self._shelf / name) for name in names if kinds.get(name, EXTERNAL) == EXTERNAL]
        for manifest in parents_first([manifest for manifest in fresh if manifest is not None]):
            self.shelved(manifest)
        self._take_places()

    def _take_places(self) -> None:
        """Record what the catalogue has and the graph holds a placeholder of."""
        mine = EPISODES.c.tenant == self._tenant
        for name in self.graph.placeholders_among(sa.select(EPISODES.c.episode_id).where(mine)):
            if (episode := self._meta.episode(self._tenant, name)) is not None:
                self._recorder.added([episode])
        mine = CHECKPOINTS.c.tenant == self._tenant
        names = self.graph.placeholders_among(sa.select(CHECKPOINTS.c.checkpoint_id).where(mine))
        rows = [row for name in names if (row := self._meta.checkpoint(self._tenant, name)) is not None]
        for manifest in parents_first([Manifest.from_bytes(row.manifest) for row in rows]):
            self.shelved(manifest)

    def require(self, record_id: str) -> None:
        """Return if something is recorded, or was put on the shelf by hand and is recorded now.

        Raises:
            NotFoundError: it is not.
        """
        if self.graph.kinds([record_id]).get(record_id, EXTERNAL) == EXTERNAL:
            self.catch_up()
        if record_id not in self.graph:
            raise NotFoundError(f"{record_id[:80]!r} is not recorded here; check the id, or `gymnast weights list`")


class Trails(PerTenant[Trail]):
    """The trail of every tenant, opened when it is first asked for. Threads may share it.

    Args:
        folder: of the trainer.
        database: of the trainer.
        meta: the catalogue.
        recorder: its witness.
    """

    def __init__(self, folder: Path, database: Database, meta: MetaStore, recorder: Recorder) -> None:
        super().__init__(lambda tenant: Trail(database, meta, recorder, tenant_folder(folder, tenant) / SHELF, tenant))
        self.of(DEFAULT_TENANT)


def overrides_in(config: Any) -> dict[str, Any]:
    """What an entry of the log says of a job's settings: the bounds to be ignored and why, where there are any."""
    named = config.get("overrides") if isinstance(config, Mapping) else None
    return {"overrides": named} if named else {}


def _author(who: Who) -> dict[str, object]:
    return {"by": who.name, "role": who.role, "tenant": who.tenant, "at_ns": time.time_ns()}


def _readable(folder: Path) -> Manifest | None:
    """The manifest of a folder on the shelf; None for one that cannot be read, which is named in the log."""
    try:
        return read_manifest(folder)
    except (GymnastError, OSError) as error:
        LOG.error("manifest_unreadable folder=%s error=%s", folder, error)
        return None
