"""The nouns of provenance: records, what is above one of them, and damage; cloud_trainer.records.graph holds them.

A record (episode, label, dataset, judge, audit, checkpoint, ...) is immutable. Its link is the SHA-256 of its id, kind,
payload and of the links of its parents, so a byte changed anywhere below a checkpoint shows, and is named. Corrections
are new records: a retraction points at what it retracts, a new label at its episode.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gymnast_core.errors import StorageError

RETRACTS, LABELS = "retracts", "labels"
"""Roles the graph itself understands: retraction -> record, label -> episode."""
EXTERNAL = "external"
"""Kind of a placeholder: something that was named as a parent and was made elsewhere, or has not come yet."""


class ProvenanceError(StorageError):
    """A record is unknown, is claimed twice with different content, or a promotion is blocked."""


class Node(NamedTuple):
    """One record; payload_json is parsed only when asked for.

    Attributes:
        id: of the record.
        kind: episode, label, dataset, judge, world_model, audit, policy, retraction, ...
        payload_json: canonical JSON.
    """

    id: str
    kind: str
    payload_json: str

    @property
    def payload(self) -> dict[str, object]:
        """The payload as JSON values."""
        return dict(json.loads(self.payload_json))


@dataclass(frozen=True)
class Record:
    """What is about to be written.

    Attributes:
        id: never reused.
        kind: see Node.
        payload: JSON values; digests of files belong here.
        parents: (role, id) of what it was made from; each must be written before.
    """

    id: str
    kind: str
    payload: Mapping[str, Any]
    parents: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Lineage:
    """Everything above a record.

    Attributes:
        nodes: the record first, then all ancestors, newest first.
        child_E: (E,) index into nodes.
        parent_E: (E,) index into nodes.
        roles_E: E roles: what the parent was to the child.
    """

    nodes: Sequence[Node]
    child_E: npt.NDArray[np.int64]
    parent_E: npt.NDArray[np.int64]
    roles_E: Sequence[str]

    @property
    def root(self) -> Node:
        """The record that was asked about."""
        return self.nodes[0]

    def edges(self) -> Iterator[tuple[str, str, str]]:
        """Yield (child id, role, parent id)."""
        for child, role, parent in zip(self.child_E, self.roles_E, self.parent_E, strict=True):
            yield self.nodes[child].id, role, self.nodes[parent].id


@dataclass(frozen=True)
class Damage:
    """One record that is not what was written.

    Attributes:
        id: of the record.
        what: what does not fit.
    """

    id: str
    what: str


def link_of(record_id: str, kind: str, payload_json: str, parents: Sequence[tuple[str, bytes]]) -> bytes:
    """Return the hash of a record: its own content, and the roles and hashes of its parents, in their order.

    A parent's hash holds its id, so the id need not be hashed again.
    """
    own = ",".join(map(encode_basestring_ascii, (record_id, kind, payload_json)))
    digest = hashlib.sha256(f"[{own},{len(parents)}]".encode())
    digest.update(b"".join(role.encode() + b"\0" + link for role, link in parents))
    return digest.digest()
