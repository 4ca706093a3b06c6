"""What the service keeps: rows, and the protocols of blobs and catalogue (tests/contracts/store_contract.py)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from gymnast_core.job import JobState, JobView
from gymnast_core.json_values import JsonObject

EpisodeState = Literal["committed", "valid", "quarantined"]
AddResult = Literal["added", "duplicate", "conflict"]


@dataclass(frozen=True)
class EpisodeRow:
    """One episode in the catalogue.

    Attributes:
        sequence: position in the catalogue; rises with every commit.
        tenant: the tenant it belongs to.
        episode_id: unique within the tenant, never reused.
        robot: name in the certificate that sent it.
        digest: hex BLAKE3 of the file: its address in the blob store.
        size: bytes.
        received_ns: wall clock of the commit.
        state: committed (durable, not looked into), valid, or quarantined.
        reason: why it is quarantined.
        instruction: what the arm was asked to do.
        outcome: label.
        labelled_by: author of the label.
        steps: T.
        policy_version: the first one in the file.
        metadata: the header's JSON values.
    """

    sequence: int
    tenant: str
    episode_id: str
    robot: str
    digest: str
    size: int
    received_ns: int
    state: EpisodeState = "committed"
    reason: str = ""
    instruction: str = ""
    outcome: str = "unlabelled"
    labelled_by: str = ""
    steps: int = 0
    policy_version: str = ""
    metadata: JsonObject = field(default_factory=dict)


EpisodeChange = Callable[[EpisodeRow], EpisodeRow]


@dataclass(frozen=True)
class ReleaseRow:
    """One signed release.

    Attributes:
        tenant: tenant of the robots it is for.
        sequence: as signed.
        checkpoint_id: what it releases.
        payload: canonical JSON.
        key_id: id of the key that signed it.
        signature: Ed25519.
    """

    tenant: str
    sequence: int
    checkpoint_id: str
    payload: bytes
    key_id: str
    signature: bytes


@dataclass(frozen=True)
class CheckpointRow:
    """One published checkpoint.

    Attributes:
        tenant: the tenant it belongs to.
        checkpoint_id: from its content, never reused; two tenants may have the same.
        kind: policy, world_model or judge.
        manifest: canonical JSON.
        weights_digest: hex BLAKE3.
        weights_size: bytes.
        published_ns: wall clock.
    """

    tenant: str
    checkpoint_id: str
    kind: str
    manifest: bytes
    weights_digest: str
    weights_size: int
    published_ns: int


@dataclass(frozen=True)
class JobRow(JobView):
    """One job as the store keeps it.

    Attributes:
        tenant: the tenant it belongs to.
        attempts: how often it was claimed.
    """

    tenant: str
    attempts: int


@dataclass(frozen=True)
class JobEnd:
    """How a job ended: its final state, result (JSON values) and error."""

    state: JobState
    result: JsonObject = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Usage:
    """What a tenant has stored."""

    episodes: int
    bytes: int


def new_job_id() -> str:
    """Return an id no other job has, or can be guessed by."""
    return f"job-{secrets.token_hex(8)}"


class BlobStore(Protocol):
    """Immutable bytes, named by their BLAKE3 digest."""

    def put_file(self, source: Path, digest: str) -> None:
        """Take over a local file whose bytes have this digest and are durable; when it returns the blob is durable.

        The source is consumed. Putting a blob that exists already changes nothing.

        Raises:
            DiskFullError: no space; the source is kept.
        """
        ...

    def has(self, digest: str) -> bool:
        """Whether the blob is there, whole."""
        ...

    def size(self, digest: str) -> int:
        """Bytes.

        Raises:
            NotFoundError: no such blob.
        """
        ...

    def read(self, digest: str, offset: int, length: int) -> bytes:
        """A range; shorter at the end of the blob.

        Raises:
            NotFoundError: no such blob.
        """
        ...

    def local_path(self, digest: str) -> Path:
        """A local file with the blob's bytes, to be read only; fetched and verified first where it is remote.

        Raises:
            NotFoundError: no such blob.
            CorruptError: the fetched bytes do not have this digest.
        """
        ...

    def digests(self) -> Iterator[str]:
        """Every blob."""
        ...

    def free_bytes(self) -> int | None:
        """Space left where that is known."""
        ...


class MetaStore(Protocol):
    """The catalogue: episodes, checkpoints, releases."""

    def add_episodes(self, rows: Sequence[EpisodeRow]) -> list[AddResult]:
        """Commit episodes in one transaction; row.sequence is assigned here.

        Returns:
            Per row: added, duplicate (same id, same digest), or conflict (same id, another digest; nothing changed).
        """
        ...

    def episode(self, tenant: str, episode_id: str) -> EpisodeRow | None:
        """One episode."""
        ...

    def episodes(
        self,
        tenant: str | None,
        *,
        after: int = 0,
        limit: int = 1000,
        states: Sequence[str] | None = None,
        robot: str | None = None,
        instruction: str | None = None,
    ) -> list[EpisodeRow]:
        """Episodes of a tenant with a higher sequence, in order; None is for the service's own work on all of them."""
        ...

    def waiting(self, each: int) -> list[EpisodeRow]:
        """What is committed and was not looked into, in order of arrival: at most so many of each robot."""
        ...

    def change_episode(self, tenant: str, episode_id: str, change: EpisodeChange) -> tuple[EpisodeRow, EpisodeRow]:
        """Read one row, change it and write it back, with nobody in between: the one way a row changes.

        Args:
            tenant: the tenant they belong to.
            episode_id: which.
            change: gets the row as it is and returns it as it shall be: state, reason, label and description; id,
                digest, size and sequence never change. It must be quick, and may be called only once.

        Returns:
            The row before and after.

        Raises:
            NotFoundError: no such episode.
        """
        ...

    def names_blob(self, tenant: str, digest: str, robot: str | None = None) -> bool:
        """Whether an episode (of this robot, if one is given) or checkpoint of a tenant consists of this blob."""
        ...

    def usage(self, tenant: str) -> Usage:
        """What a tenant has stored; costs the same at any number of episodes."""
        ...

    def prepare_checkpoint(self, row: CheckpointRow) -> None:
        """Do what makes add_checkpoint() quick; it need not be called, and changes nothing that others see."""
        ...

    def add_checkpoint(self, row: CheckpointRow) -> bool:
        """Register a checkpoint; False when it was known already.

        Raises:
            IdReusedError: the id is known with other weights.
        """
        ...

    def checkpoint(self, tenant: str, checkpoint_id: str) -> CheckpointRow | None:
        """One checkpoint."""
        ...

    def checkpoints(self, tenant: str, kind: str | None = None, limit: int = 1000) -> list[CheckpointRow]:
        """Published checkpoints, newest first."""
        ...

    def add_release(self, sign: Callable[[int], ReleaseRow]) -> ReleaseRow:
        """Number, sign and register a release in one transaction, so that numbers become visible in their order.

        Args:
            sign: gets a number higher than any before, also after a crash, and returns the release of that number.
        """
        ...

    def newest_release(self, tenant: str) -> int:
        """Sequence of a tenant's newest release; 0 before the first."""
        ...

    def releases(self, tenant: str, after: int = 0, limit: int = 1000) -> list[ReleaseRow]:
        """Releases with a higher sequence, in order."""
        ...

    def transaction(self) -> AbstractContextManager[object]:
        """What this thread changes inside it, by this store and those on the same database, is one transaction."""
        ...

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call something once what this thread has changed is there for others; at once outside a transaction."""
        ...

    def close(self) -> None:
        """Free connections; safe to call twice."""
        ...
