"""What the service keeps, as three protocols; tests/contracts/store_contract.py holds every implementation to them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from gymnast_core.job import JobEvent, JobState, JobView

EpisodeState = Literal["committed", "valid", "quarantined"]
AddResult = Literal["added", "duplicate", "conflict"]


@dataclass(frozen=True)
class EpisodeRow:
    """One episode in the catalogue.

    Attributes:
        sequence: position in the catalogue; rises with every commit.
        tenant: whose it is.
        episode_id: unique within the tenant, never reused.
        robot: name in the certificate that sent it.
        digest: hex BLAKE3 of the file: its address in the blob store.
        size: bytes.
        received_ns: wall clock of the commit.
        state: committed (durable, not looked into), valid, or quarantined.
        reason: why it is quarantined.
        instruction: what the arm was asked to do.
        outcome: label.
        labelled_by: who gave it.
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
    metadata: Mapping[str, Any] = field(default_factory=dict)


EpisodeChange = Callable[[EpisodeRow], EpisodeRow]


@dataclass(frozen=True)
class ReleaseRow:
    """One signed release.

    Attributes:
        tenant: whose robots it is for.
        sequence: as signed.
        checkpoint_id: what it releases.
        payload: canonical JSON.
        key_id: who signed.
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
        tenant: whose it is.
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
        tenant: whose it is.
        attempts: how often it was claimed.
    """

    tenant: str
    attempts: int


@dataclass(frozen=True)
class JobEnd:
    """How a job ended: its final state, result (JSON values) and error."""

    state: JobState
    result: Mapping[str, Any] = field(default_factory=dict)
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


class Witness(Protocol):
    """Hears of every change of the catalogue in the transaction that makes it; what it raises undoes the change."""

    def added(self, rows: Sequence[EpisodeRow]) -> None:
        """Episodes were committed."""
        ...

    def changed(self, before: EpisodeRow, after: EpisodeRow) -> None:
        """An episode's state, label or description changed."""
        ...

    def coming(self, row: CheckpointRow) -> None:
        """A checkpoint is about to be registered; what takes long may be done now, outside the transaction."""
        ...

    def published(self, row: CheckpointRow) -> None:
        """A checkpoint was registered."""
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
            tenant: whose.
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


class JobStore(Protocol):
    """Jobs and their events."""

    def submit(
        self, tenant: str, kind: str, spec: Mapping[str, Any], key: str, submitted_by: str, *, job_id: str | None = None
    ) -> JobRow:
        """Create a job, or return the one this tenant created with the same key.

        Args:
            tenant: whose.
            kind: of job.
            spec: JSON values.
            key: the same key is the same job.
            submitted_by: name.
            job_id: of a new one, from new_job_id(); None makes one.

        Raises:
            IdReusedError: the key was used for another kind or spec.
        """
        ...

    def get(self, tenant: str, job_id: str) -> JobRow:
        """One job.

        Raises:
            NotFoundError: no such job, or another tenant's.
        """
        ...

    def find(self, tenant: str, key: str) -> JobRow | None:
        """The job this tenant created with a key."""
        ...

    def list(self, tenant: str | None, limit: int = 100, state: str | None = None) -> list[JobRow]:
        """Jobs of a tenant, newest first; None is for the service's own work on all of them."""
        ...

    def request_cancel(self, tenant: str, job_id: str) -> JobRow:
        """Cancel a waiting job at once, ask a running one to stop, leave an ended one alone.

        Raises:
            NotFoundError: see get().
        """
        ...

    def claim(self, tenant: str | None, worker: str, kinds: Sequence[str] = (), lease_s: float = 60.0) -> JobRow | None:
        """Take a waiting job of a tenant (of these kinds, if any are given), or None.

        Interactive kinds go first and background ones last (gymnast_core.job); of one class the oldest. No tenant is
        for the service's own workers, who do everybody's.
        """
        ...

    def renew(self, tenant: str, job_id: str, worker: str, lease_s: float = 60.0) -> bool:
        """Keep a claim; False when it was lost."""
        ...

    def append(self, tenant: str, job_id: str, kind: str, data: Mapping[str, Any]) -> int:
        """Add an event and return its sequence.

        Raises:
            NotFoundError: no such job.
        """
        ...

    def events(self, tenant: str, job_id: str, after: int = 0, limit: int = 1000) -> Sequence[JobEvent]:
        """Events with a higher sequence, in order; none of another tenant's job."""
        ...

    def finish(
        self,
        tenant: str,
        job_id: str,
        state: JobState,
        result: Mapping[str, Any] | None = None,
        error: str = "",
        *,
        worker: str | None = None,
    ) -> JobRow:
        """End a job, with a last event of kind "state"; an ended job stays as it is.

        A job whose cancellation was acknowledged ends as cancelled, with the result, even when its work was done.

        Args:
            tenant: whose.
            job_id: which.
            state: done, failed or cancelled.
            result: JSON values.
            error: why it failed.
            worker: only if this one still holds it; None ends it whoever does.

        Raises:
            NotFoundError: no such job.
        """
        ...

    def report(
        self,
        tenant: str,
        job_id: str,
        worker: str,
        events: Sequence[tuple[str, Mapping[str, Any]]],
        end: JobEnd | None = None,
    ) -> JobRow:
        """Renew a claim, append events and end the job, all or nothing.

        Raises:
            NotFoundError: this worker does not hold the job (any more).
        """
        ...

    def requeue_lost(self, *, max_attempts: int = 3, worker: str | None = None) -> Sequence[JobRow]:
        """Put running jobs back whose lease ran out, or whose worker's name starts so; fail those out of attempts."""
        ...
