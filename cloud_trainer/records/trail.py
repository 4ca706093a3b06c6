"""What was made from what, and who changed it: a tenant's provenance graph and log of actions, kept by the service.

Whoever corrects a label or withdraws an episode (over the wire or on the page) does it here, so both end in the graph
and in the log.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloud_trainer.records.provenance import (
    LINKED_CHECKPOINTS,
    episode_record,
    explain,
    label_record,
    record_checkpoint,
)
from cloud_trainer.store.protocols import EpisodeRow, MetaStore
from cloud_trainer.store.tenants import CHECKPOINTS, DEFAULT_TENANT, PerTenant, tenant_folder
from gymnast_core.authority import Who
from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.evaluation.purpose import is_blinded
from gymnast_core.records.journal import Journal
from gymnast_core.records.lineage import Node, Record
from gymnast_core.records.manifest import Manifest, read_manifest
from gymnast_core.records.provenance import LABELS, ProvenanceGraph
from gymnast_core.types import Outcome
from gymnast_core.wire.errors import NotFoundError

LOG = logging.getLogger(__name__)
MADE = ("policy", "world_model", "judge")
_LABELS = frozenset({Outcome.SUCCESS.value, Outcome.FAILURE.value, Outcome.ABSTAIN.value})
_KEPT_FACTS = ("task", "scene", "seed", "purpose")
_PAGE = 1000
_ERROR_CHARACTERS = 500
_FOLLOW_S = 2.0
"""Between two looks at what came in."""
_SEEN = "episodes"
"""Mark in the graph: the catalogue's rows up to this number are in it."""


class Trail:
    """See the module. Threads may share it.

    Args:
        folder: of the tenant (cloud_trainer.store.tenants); provenance.db, actions.jsonl and checkpoints/ are there.
        meta: the catalogue.
        tenant: whose.

    Raises:
        StorageError: another process has the log open.
        CorruptError: the log was changed.
    """

    def __init__(self, folder: Path, meta: MetaStore, tenant: str = DEFAULT_TENANT) -> None:
        self._shelf, self._meta, self._tenant = folder / CHECKPOINTS, meta, tenant
        self.log = Journal(folder / "actions.jsonl")
        try:
            self.graph = ProvenanceGraph(folder / "provenance.db")
        except BaseException:
            self.log.close()
            raise
        self._catching_up = threading.Lock()
        self._labelling = threading.Lock()  # a label is read and written down by one at a time
        self._seen_sequence, self._seen_release = self._marked(), 0
        self._seen_manifests: set[Path] = set()
        self._stop = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="trail", daemon=True)

    def _marked(self) -> int:
        """How far an earlier process came; 0 where the catalogue is another one than it read, e.g. an older backup."""
        mark = self.graph.mark(_SEEN)
        page = self._meta.episodes(self._tenant, after=mark - 1, limit=1) if mark else []
        return mark if page and page[0].sequence == mark else 0

    def start(self) -> None:
        """Keep the graph up to date from now on, so that whoever asks why need not wait for it."""
        self._follower.start()

    def _follow(self) -> None:
        known = self._seen_sequence
        while not self._stop.is_set():
            try:
                self.catch_up()
                if known:
                    self._compare_again(known)
                    known = 0
            except Exception:  # whatever it is, the graph goes on following
                LOG.exception("graph_not_caught_up")
            self._stop.wait(_FOLLOW_S)

    def close(self) -> None:
        """Stop, and close both files; safe to call twice."""
        self._stop.set()
        if self._follower.is_alive():
            self._follower.join()
        self.log.close()
        self.graph.close()

    @contextlib.contextmanager
    def acting(self, who: Who, action: str, data: Mapping[str, Any]) -> Iterator[None]:
        """Write down what somebody is about to do, before it is done; what then fails gets a second entry.

        The log is a file and what is changed is elsewhere, so there is no transaction over both: an entry too many can
        be told by the one that follows it, an action without an entry could not.

        Args:
            who: acts; author, role, tenant and time are this session's, whatever data holds.
            action: in words.
            data: JSON values.
        """
        entry = self.log.append(action, {**data, **_author(who)})
        try:
            yield
        except Exception as error:
            failed = {"entry": entry.sequence, "error": f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]}
            self.log.append(f"{action}: failed", {**failed, **_author(who)})
            raise

    def label(self, who: Who, episode_id: str, outcome: Outcome) -> EpisodeRow:
        """Set or correct a label; the one before stays in the graph.

        Raises:
            NotFoundError: no such episode of this tenant.
        """
        by = f"operator:{who.name}"
        with self._labelling:
            row = self._episode(who, episode_id)
            with self.acting(who, "label", {"episode": episode_id, "outcome": outcome.value, "was": row.outcome}):
                self._remember([row])
                _, labelled = self._meta.change_episode(
                    self._tenant, episode_id, lambda row: replace(row, outcome=outcome.value, labelled_by=by)
                )
                if outcome.value in _LABELS:
                    self.graph.add(label_record(self.graph, episode_id, outcome=outcome.value, by=by))
        return labelled

    def retract(self, who: Who, episode_id: str, reason: str) -> list[Node]:
        """Withdraw an episode: it is not trained on again, and what was made from it cannot be promoted.

        Returns:
            Everything that was made from it, oldest first.

        Raises:
            ConfigError: no reason.
            NotFoundError: no such episode of this tenant.
        """
        if not reason.strip():
            raise ConfigError("say why this episode is withdrawn; whoever meets the block later will ask")
        row, reason = self._episode(who, episode_id), reason.strip()
        with self._labelling:
            self._remember([row])
        self.catch_up()
        touched, why = self.graph.affected(episode_id), f"retracted by {who.name}: {reason}"
        with self.acting(who, "retract", {"episode": episode_id, "reason": reason, "touched": len(touched)}):
            touched = self.graph.retract(episode_id, reason=reason, by=f"operator:{who.name}", at_ns=time.time_ns())
            self._meta.change_episode(
                self._tenant, episode_id, lambda row: replace(row, state="quarantined", reason=why)
            )
        return touched

    def explain(self, record_id: str, *, verify: bool = False) -> dict[str, Any]:
        """Return where a checkpoint comes from; see cloud_trainer.records.provenance.explain.

        Raises:
            NotFoundError: the record is unknown.
        """
        self._catch_up_to(record_id)
        return explain(self.graph, record_id, verify=verify)

    def lineage_json(self, record_id: str) -> str:
        """Return the complete graph above a checkpoint as JSON text; see ProvenanceGraph.why_json.

        Raises:
            NotFoundError: the record is unknown.
        """
        self._catch_up_to(record_id)
        return self.graph.why_json(record_id)

    def made_from(self, episode_id: str) -> list[str]:
        """Return the checkpoints an episode went into."""
        return [node.id for node in self.graph.affected(episode_id) if node.kind in MADE]

    def catch_up(self) -> None:
        """Bring the graph up to what the catalogue, the shelf and the releases hold by now."""
        with self._catching_up:
            paths = self._new_manifests()  # before the episodes: what a checkpoint was made from is then among them
            self._add_episodes()
            fresh = [path.parent for path in paths if path.parent.name not in self.graph]
            self._add_checkpoints([found for folder in fresh if (found := _readable(folder)) is not None])
            self._seen_manifests.update(paths)
            while page := self._meta.releases(self._tenant, self._seen_release, _PAGE):
                names = dict.fromkeys(row.checkpoint_id for row in page if row.checkpoint_id not in self.graph)
                rows = [self._meta.checkpoint(self._tenant, name) for name in names]
                self._add_checkpoints([Manifest.from_bytes(row.manifest) for row in rows if row])
                self._seen_release = page[-1].sequence

    def _new_manifests(self) -> list[Path]:
        """Checkpoints on the shelf that were not seen yet; a name with a dot is one that is being written."""
        found = sorted(path for path in self._shelf.glob("*/manifest.json") if not path.parent.name.startswith("."))
        return [path for path in found if path not in self._seen_manifests]

    def _add_checkpoints(self, manifests: Sequence[Manifest]) -> None:
        """Parents first; a manifest may name 100,000 episodes, so each is read once."""
        for each in parents_first(manifests):
            try:
                if each.id not in self.graph:
                    record_checkpoint(self.graph, each)
            except GymnastError as error:  # its manifest contradicts what is recorded: the others' trail goes on
                LOG.error("checkpoint_not_recorded checkpoint=%s error=%s", each.id, error)

    def _catch_up_to(self, record_id: str) -> None:
        self.catch_up()
        if record_id not in self.graph:
            raise NotFoundError(f"{record_id[:80]!r} is not recorded here; check the id, or `gymnast weights list`")

    def _add_episodes(self) -> None:
        """An episode that is not validated yet is looked at again: its facts are still to come."""
        settled = True
        for page in self._remembered(self._seen_sequence):
            settled = settled and all(row.state != "committed" for row in page)
            if settled:
                self._seen_sequence = page[-1].sequence
                self.graph.set_mark(_SEEN, self._seen_sequence)

    def _compare_again(self, known: int) -> None:
        """Once after a start: rows the graph knew may differ, after a crash between two files or a restored one."""
        for page in self._remembered(0):
            if page[-1].sequence >= known:
                return

    def _remembered(self, after: int) -> Iterator[list[EpisodeRow]]:
        """Pages of the catalogue, once they are in the graph."""
        while not self._stop.is_set():
            with self._labelling:
                page = self._meta.episodes(self._tenant, after=after, limit=_PAGE)
                self._remember([row for row in page if row.state != "committed"])
            if not page:
                return
            yield page
            after = page[-1].sequence

    def _remember(self, rows: Sequence[EpisodeRow]) -> None:
        """Write what the graph does not hold of these episodes and their labels."""
        held = self.graph.newest([row.episode_id for row in rows], LABELS)
        self.graph.add_many([record for row in rows for record in self._missing(row, held)])

    def _missing(self, row: EpisodeRow, held: Mapping[str, Node | None]) -> Iterator[Record]:
        label = held.get(row.episode_id)
        if row.episode_id not in held:
            facts = {
                "robot": row.robot, "instruction": row.instruction, "steps": row.steps, "tenant": row.tenant,
                **_facts(row.metadata),
            }  # fmt: skip
            if not is_blinded(row.metadata):  # who acted in a trial's run is seen in its card, once it is decided
                facts["policy_versions"] = [row.policy_version]
            yield episode_record(self.graph, row.episode_id, digest=row.digest, facts=facts)
        if row.outcome in _LABELS and (label is None or label.payload["outcome"] != row.outcome):
            yield label_record(self.graph, row.episode_id, outcome=row.outcome, by=row.labelled_by)

    def _episode(self, who: Who, episode_id: str) -> EpisodeRow:
        row = self._meta.episode(self._tenant, episode_id)
        if row is None:
            raise NotFoundError(f"there is no episode {episode_id[:80]!r} here; look for it in the list")
        return row


class Trails(PerTenant[Trail]):
    """The trail of every tenant, opened when it is first asked for. Threads may share it.

    Args:
        folder: of the trainer.
        meta: the catalogue.
    """

    def __init__(self, folder: Path, meta: MetaStore) -> None:
        self._running = False

        def opened(tenant: str) -> Trail:
            trail = Trail(tenant_folder(folder, tenant), meta, tenant)
            if self._running:
                trail.start()
            return trail

        super().__init__(opened)
        self.of(DEFAULT_TENANT)

    def start(self) -> None:
        """Keep the graphs up to date from now on."""
        for trail in self.made():
            trail.start()
        self._running = True

    def close(self) -> None:
        """Stop and close all; safe to call twice."""
        for trail in self.made():
            trail.close()


def overrides_in(config: Any) -> dict[str, Any]:
    """What an entry of the log says of a job's settings: the bounds to be ignored and why, where there are any."""
    named = config.get("overrides") if isinstance(config, Mapping) else None
    return {"overrides": named} if named else {}


def _author(who: Who) -> dict[str, Any]:
    return {"by": who.name, "role": who.role, "tenant": who.tenant, "at_ns": time.time_ns()}


def _readable(folder: Path) -> Manifest | None:
    """The manifest of a folder on the shelf; None for one that cannot be read, which is named in the log."""
    try:
        return read_manifest(folder)
    except (GymnastError, OSError) as error:
        LOG.error("manifest_unreadable folder=%s error=%s", folder, error)
        return None


def parents_first(manifests: Sequence[Manifest]) -> Iterator[Manifest]:
    """Each checkpoint once, after everything it was made from; a chain of thousands is walked without recursion."""
    known, seen = {manifest.id: manifest for manifest in manifests}, set()
    for name in known:
        waiting = [(name, False)]
        while waiting:
            name, ready = waiting.pop()
            if ready:
                yield known[name]
            elif name not in seen:
                seen.add(name)
                waiting.append((name, True))
                made_from = (*known[name].parents, *map(known[name].lineage.get, LINKED_CHECKPOINTS))
                waiting += [(one, False) for one in made_from if isinstance(one, str) and one in known]


def _facts(metadata: Mapping[str, object]) -> dict[str, object]:
    """What of an episode's header never changes and helps to read an answer."""
    kept = {name: metadata[name] for name in _KEPT_FACTS if name in metadata}
    return dict(json.loads(json.dumps(kept)))
