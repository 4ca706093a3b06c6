"""What the trainer writes into the provenance graph, and the two questions operators ask of it: why, and what if not.

The keys read from a manifest's lineage are: episodes (ids, or {id, digest, outcome, labelled_by}), world_model, judge,
audit, starts, judge_calls; everything else (stage, seed, code version, configuration) rides along as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gymnast_core.records.lineage import Node, Record
from gymnast_core.records.manifest import Manifest, canonical_json
from gymnast_core.records.provenance import LABELS, ProvenanceGraph

LINKED_CHECKPOINTS = ("world_model", "judge", "base", "policy")


def record_episode(graph: ProvenanceGraph, episode_id: str, *, digest: str, facts: Mapping[str, Any]) -> None:
    """Write a committed episode.

    Args:
        graph: to write to.
        episode_id: of the episode.
        digest: of its MCAP file.
        facts: JSON values that never change: robot, instruction, seed or start state, policy versions.

    Raises:
        ProvenanceError: the id stands for another episode.
    """
    graph.add(episode_record(graph, episode_id, digest=digest, facts=facts))


def episode_record(graph: ProvenanceGraph, episode_id: str, *, digest: str, facts: Mapping[str, Any]) -> Record:
    """Return what record_episode() writes, for writing many at once."""
    acted = [str(version) for version in facts.get("policy_versions", ()) if str(version) in graph]
    parents = tuple(("acted_by", version) for version in dict.fromkeys(acted))
    return Record(episode_id, "episode", {**facts, "digest": digest}, parents)


def record_label(
    graph: ProvenanceGraph, episode_id: str, *, outcome: str, by: str, evidence: Mapping[str, Any] | None = None
) -> str:
    """Write a label of an episode and return its record id; the newest one counts, older ones stay.

    Args:
        graph: to write to.
        episode_id: must be recorded.
        outcome: success, failure or abstain.
        by: "operator:<name>" or "judge:<version>".
        evidence: JSON values: votes, score, reasons.

    Raises:
        ProvenanceError: the episode is unknown.
    """
    record = label_record(graph, episode_id, outcome=outcome, by=by, evidence=evidence)
    graph.add(record)
    return record.id


def label_record(
    graph: ProvenanceGraph, episode_id: str, *, outcome: str, by: str, evidence: Mapping[str, Any] | None = None
) -> Record:
    """Return what record_label() writes, for writing many at once."""
    number = len(graph.affected_by_role(episode_id, LABELS))
    payload = {"outcome": outcome, "by": by, "evidence": dict(evidence or {}), "number": number}
    judge = by.removeprefix("judge:")
    parents = [(LABELS, episode_id)] + ([("given_by", judge)] if by != judge and judge in graph else [])
    return Record(f"label-{_digest([episode_id, payload])}", "label", payload, tuple(parents))


def record_checkpoint(graph: ProvenanceGraph, manifest: Manifest) -> None:
    """Write a checkpoint with everything its manifest says it was made from.

    Parents that were never recorded (made elsewhere) are written as records of kind "external", so the answer to why
    says where the trail ends instead of hiding it.

    Raises:
        ProvenanceError: the id stands for something else.
    """
    lineage = dict(manifest.lineage)
    parents = [("parent", _known(graph, parent)) for parent in manifest.parents]
    for role in LINKED_CHECKPOINTS:
        if isinstance(lineage.get(role), str) and lineage[role]:
            parents.append((role, _known(graph, lineage[role])))
    for role in ("episodes", "starts"):
        if lineage.get(role):
            parents.append((role, record_dataset(graph, lineage.pop(role))))
    if isinstance(lineage.get("audit"), Mapping):
        audit = lineage.pop("audit")
        audit_id = f"audit-{_digest(audit)}"
        of = [("of", _known(graph, lineage["world_model"]))] if isinstance(lineage.get("world_model"), str) else []
        graph.add(Record(audit_id, "audit", audit, tuple(of)))
        parents.append(("audit", audit_id))
    payload = {
        "architecture": manifest.architecture,
        "weights_sha256": manifest.weights_sha256,
        "manifest_sha256": hashlib.sha256(manifest.to_bytes()).hexdigest(),
        "config": dict(manifest.config),
        "lineage": lineage,
    }
    graph.add(Record(manifest.id, manifest.kind, payload, tuple(dict.fromkeys(parents))))


def record_dataset(graph: ProvenanceGraph, episodes: Sequence[str | Mapping[str, Any]]) -> str:
    """Write a set of episodes, each through the label it had at that moment, and return its record id.

    Raises:
        ProvenanceError: an entry contradicts what is recorded of its episode.
    """
    found = graph.newest(map(_id_of, episodes), LABELS)
    fresh = {_id_of(entry): _fresh(graph, entry) for entry in episodes if _id_of(entry) not in found}
    graph.add_many(fresh.values())  # all at once: a data set has 100,000 episodes
    newest = {name: node.id if node else name for name, node in {**dict.fromkeys(fresh), **found}.items()}
    said = {name: str(node.payload["outcome"]) for name, node in found.items() if node}
    labels = []
    for entry in episodes:
        name, details = (entry, {}) if isinstance(entry, str) else (_id_of(entry), dict(entry))
        outcome = str(details.get("outcome") or "")
        if outcome not in ("", said.get(name)):
            labels.append(label_record(graph, name, outcome=outcome, by=str(details.get("labelled_by", ""))))
            newest[name], said[name] = labels[-1].id, outcome
    graph.add_many(labels)
    members = sorted(set(newest.values()))
    dataset_id = f"dataset-{_digest(members)}"
    if dataset_id not in graph:
        parents = tuple(("holds", member) for member in members)
        graph.add(Record(dataset_id, "dataset", {"n": len(members)}, parents))
    return dataset_id


def _id_of(entry: str | Mapping[str, Any]) -> str:
    return entry if isinstance(entry, str) else str(entry["id"])


def _fresh(graph: ProvenanceGraph, entry: str | Mapping[str, Any]) -> Record:
    """An episode that was recorded elsewhere; more is known of it where the entry is not its id alone."""
    if isinstance(entry, str):
        return _external(entry)
    facts = {key: value for key, value in entry.items() if key not in ("id", "digest", "outcome", "labelled_by")}
    return episode_record(graph, str(entry["id"]), digest=str(entry.get("digest", "")), facts=facts)


def _known(graph: ProvenanceGraph, record_id: str) -> str:
    if record_id not in graph:
        graph.add(_external(record_id))
    return record_id


def _external(record_id: str) -> Record:
    return Record(record_id, "external", {"note": "made elsewhere; nothing more is recorded here"})


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()[:16]


def explain(graph: ProvenanceGraph, record_id: str, *, verify: bool = False) -> dict[str, Any]:
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
            for node in graph.above(record_id, "policy", "world_model", "judge", "external")
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
    """Labels by who gave them; equal payloads, of which there are few, are parsed once."""
    found: Counter[str] = Counter()
    for text, count in Counter(node.payload_json for node in labels).items():
        found[str(json.loads(text).get("by", ""))] += count
    return dict(found)
