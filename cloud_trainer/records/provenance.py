"""What the trainer writes into the provenance graph, and the two questions operators ask of it: why, and what if not.

The keys read from a manifest's lineage are: episodes (ids, or {id, digest, outcome, labelled_by}), world_model, judge,
audit, starts, judge_calls; everything else (stage, seed, code version, configuration) rides along as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cloud_trainer.records.graph import ProvenanceGraph
from gymnast_core.outcome import judge_in
from gymnast_core.records.lineage import EXTERNAL, LABELS, Node, ProvenanceError, Record
from gymnast_core.records.manifest import KINDS, Manifest, canonical_json

_PAGE = 1000
_DATASETS = ("episodes", "starts")
LINKED_CHECKPOINTS = ("world_model", "judge", "base", "policy")
EPISODES = ("episode", EXTERNAL)


def checkpoints_among(graph: ProvenanceGraph, names: Iterable[str]) -> set[str]:
    """Return those that are recorded as checkpoints, or stand as placeholders: an episode is nobody's policy."""
    return {name for name, kind in graph.kinds(names).items() if kind in (*KINDS, EXTERNAL)}


def episode_record(known: Container[str], episode_id: str, *, digest: str, facts: Mapping[str, Any]) -> Record:
    """Return the record of a committed episode.

    Args:
        known: ids of checkpoints that are recorded, as far as they matter here; see checkpoints_among().
        episode_id: of the episode.
        digest: of its MCAP file.
        facts: JSON values that never change: robot, instruction, seed or start state, policy versions.
    """
    acted = [str(version) for version in facts.get("policy_versions", ()) if str(version) in known]
    parents = tuple(("acted_by", version) for version in dict.fromkeys(acted))
    return Record(episode_id, "episode", {**facts, "digest": digest}, parents)


def label_record(
    known: Container[str], episode_id: str, *, number: int, outcome: str, by: str,
    evidence: Mapping[str, Any] | None = None,
) -> Record:  # fmt: skip
    """Return the record of a label of an episode; the newest one counts, older ones stay.

    Args:
        known: as in episode_record().
        episode_id: of the episode.
        number: how many labels it has already.
        outcome: success, failure or abstain.
        by: "operator:<name>" or "judge:<version>", behind "robot:<name>/" where a robot reported it.
        evidence: JSON values: votes, score, reasons.
    """
    payload = {"outcome": outcome, "by": by, "evidence": dict(evidence or {}), "number": number}
    judge = judge_in(by)
    parents = [(LABELS, episode_id)] + ([("given_by", judge)] if judge in known else [])
    return Record(f"label-{_digest([episode_id, payload])}", "label", payload, tuple(parents))


def record_checkpoint(graph: ProvenanceGraph, manifest: Manifest, *, imported: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint with everything its manifest says it was made from.

    Parents that were never recorded (made elsewhere) are written as records of kind "external", so the answer to why
    says where the trail ends instead of hiding it.

    Args:
        graph: to write into.
        manifest: of the checkpoint.
        imported: of one from outside: where from and by whom, JSON values. Its word is taken for which episodes it was
            made from, and for nothing that concerns these.

    Raises:
        ProvenanceError: the id stands for something else.
    """
    lineage = dict(manifest.lineage) | (_named_alone(manifest) if imported is not None else {})
    if graph.holds(manifest.id, manifest.kind):
        return
    parents = [("parent", _known(graph, parent)) for parent in manifest.parents]
    for role in LINKED_CHECKPOINTS:
        if isinstance(lineage.get(role), str) and lineage[role]:
            parents.append((role, _known(graph, lineage[role])))
    for role in _DATASETS:
        if lineage.get(role):
            parents.append((role, record_dataset(graph, lineage.pop(role))))
    if isinstance(lineage.get("audit"), Mapping):
        audit = lineage.pop("audit")
        of = [("of", _known(graph, lineage["world_model"]))] if isinstance(lineage.get("world_model"), str) else []
        [written] = unmistaken(graph, [Record(f"audit-{_digest([audit, of])}", "audit", audit, tuple(of))])
        graph.add(written)
        parents.append(("audit", written.id))
    payload = {
        "architecture": manifest.architecture,
        "weights_sha256": manifest.weights_sha256,
        "manifest_sha256": hashlib.sha256(manifest.to_bytes()).hexdigest(),
        "config": dict(manifest.config),
        "lineage": lineage,
        **({} if imported is None else {"imported": dict(imported)}),
    }
    graph.add(Record(manifest.id, manifest.kind, payload, tuple(dict.fromkeys(parents))))


def prepare_checkpoint(graph: ProvenanceGraph, manifest: Manifest, *, imported: bool = False) -> None:
    """Write the data sets of a checkpoint that is about to be recorded: what takes long, and is true without it.

    Raises:
        ProvenanceError: as record_checkpoint().
    """
    lineage = _named_alone(manifest) if imported else manifest.lineage
    for role in _DATASETS:
        if lineage.get(role):
            record_dataset(graph, lineage[role])


def _named_alone(manifest: Manifest) -> dict[str, list[str]]:
    """The data sets of a lineage as ids: what a stranger says of labels must not become a label here."""
    sets = {role: manifest.lineage.get(role) for role in _DATASETS}
    return {role: [_id_of(entry) for entry in entries] for role, entries in sets.items() if entries}


def record_dataset(graph: ProvenanceGraph, episodes: Sequence[str | Mapping[str, Any]]) -> str:
    """Write a set of episodes, each through the label it had at that moment, and return its record id.

    Raises:
        ProvenanceError: an entry contradicts what is recorded of its episode.
    """
    held = graph.kinds(map(_id_of, episodes))
    wrong = next((name for name, kind in held.items() if kind not in EPISODES), None)
    if wrong is not None:
        raise ProvenanceError(f"{wrong} is named as an episode and recorded as kind {held[wrong]}; name the episodes")
    known = checkpoints_among(graph, _named_by(episodes))
    fresh = {_id_of(entry): _fresh(known, entry) for entry in episodes if _is_news(held, entry)}
    _add_in_pages(graph, list(fresh.values()))
    found = graph.newest(map(_id_of, episodes), LABELS)
    newest = {name: node.id if node else name for name, node in found.items()}
    said = {name: str(node.payload["outcome"]) for name, node in found.items() if node}
    numbers, labels = graph.counts_by_role(found, LABELS), []
    for entry in episodes:
        name, details = (entry, {}) if isinstance(entry, str) else (_id_of(entry), dict(entry))
        outcome, by = str(details.get("outcome") or ""), str(details.get("labelled_by", ""))
        if outcome not in ("", said.get(name)):
            labels.append(label_record(known, name, number=numbers.get(name, 0), outcome=outcome, by=by))
            said[name] = outcome
    labels = unmistaken(graph, labels)
    newest |= {label.parents[0][1]: label.id for label in labels}
    _add_in_pages(graph, labels)
    members = sorted(set(newest.values()))
    parents = tuple(("holds", member) for member in members)
    dataset = Record(f"dataset-{_digest(members)}", "dataset", {"n": len(members)}, parents)
    [dataset] = unmistaken(graph, [dataset])
    if not graph.holds(dataset.id, "dataset"):
        graph.add(dataset)
    return dataset.id


def unmistaken(graph: ProvenanceGraph, records: Sequence[Record]) -> list[Record]:
    """Records under ids of their own where somebody's episode bears the usual one."""
    kinds = graph.kinds(record.id for record in records)
    mistaken = {record.id for record in records if kinds.get(record.id, EXTERNAL) not in (record.kind, EXTERNAL)}
    return [replace(record, id=f"{record.id}-{_digest([record.id, record.kind])}") if record.id in mistaken else record
            for record in records]  # fmt: skip


def _is_news(held: Mapping[str, str], entry: str | Mapping[str, object]) -> bool:
    """Whether an entry of a data set says of an episode what is not recorded."""
    kind = held.get(_id_of(entry))
    return kind is None or (kind == EXTERNAL and not isinstance(entry, str))


def _add_in_pages(graph: ProvenanceGraph, records: Sequence[Record]) -> None:
    """A data set has 100,000 episodes: all at once would keep everybody else from the database for seconds."""
    for first in range(0, len(records), _PAGE):
        graph.add_many(records[first : first + _PAGE])


def _id_of(entry: str | Mapping[str, object]) -> str:
    return entry if isinstance(entry, str) else str(entry["id"])


def _named_by(episodes: Sequence[str | Mapping[str, Any]]) -> set[str]:
    """Policies and judges that entries of a data set name."""
    entries = [entry for entry in episodes if not isinstance(entry, str)]
    versions = {str(version) for entry in entries for version in entry.get("policy_versions") or ()}
    return versions | {judge_in(str(entry.get("labelled_by", ""))) for entry in entries}


def _fresh(known: Container[str], entry: str | Mapping[str, object]) -> Record:
    """An episode that was recorded elsewhere; more is known of it where the entry is not its id alone."""
    if isinstance(entry, str):
        return _external(entry)
    facts = {key: value for key, value in entry.items() if key not in ("id", "digest", "outcome", "labelled_by")}
    return episode_record(known, str(entry["id"]), digest=str(entry.get("digest", "")), facts=facts)


def _known(graph: ProvenanceGraph, record_id: str) -> str:
    if not graph.holds(record_id, *KINDS, EXTERNAL):
        graph.add(_external(record_id))
    return record_id


def _external(record_id: str) -> Record:
    return Record(record_id, EXTERNAL, {"note": "made elsewhere; nothing more is recorded here"})


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()[:16]


def explain(graph: ProvenanceGraph, record_id: str, *, verify: bool = False) -> dict[str, object]:
    """Return what `gymnast why` prints: counts and the short lists, with taint, changed labels and damage.

    Args:
        graph: to ask.
        record_id: usually a checkpoint.
        verify: recompute every hash above it (2 s at 100,000 episodes); without it damage is None.

    Raises:
        ProvenanceError: the record is unknown.
    """
    root = graph.get(record_id)
    return {
        "id": record_id,
        "kind": root.kind,
        "made_from": root.payload,
        "counts": graph.counts_above(record_id),
        "checkpoints": [
            {"id": node.id, "kind": node.kind}
            for node in graph.above(record_id, "policy", "world_model", "judge", EXTERNAL)
        ],
        "audits": [{"id": node.id, **node.payload} for node in graph.above(record_id, "audit")],
        "labels_by": _counted_by(graph.above(record_id, "label")),
        "retracted": [{"id": what.id, "kind": what.kind, **how.payload} for what, how in graph.taints(record_id)],
        "changed_labels": [
            {"was": old.payload["outcome"], "is": new.payload["outcome"], "by": new.payload["by"], "label": old.id}
            for old, new in graph.changed_labels(record_id)
        ],
        "damage": [{"id": row.id, "what": row.what} for row in graph.verify(record_id)] if verify else None,
    }


def _counted_by(labels: Sequence[Node]) -> dict[str, int]:
    """Labels by author; equal payloads, of which there are few, are parsed once."""
    found: Counter[str] = Counter()
    for text, count in Counter(node.payload_json for node in labels).items():
        found[str(json.loads(text).get("by", ""))] += count
    return dict(found)
