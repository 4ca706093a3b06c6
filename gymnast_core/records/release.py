"""Signed releases: what a robot believes before it loads a checkpoint.

A release is canonical JSON in a signed document. It names the checkpoint by content, rises monotonically, expires, and
names the robots it is for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from blake3 import blake3

from gymnast_core.bounds import parsed_object
from gymnast_core.errors import CheckpointError, CorruptError
from gymnast_core.records.gate_rule import Gated, GateOverride, GateSeal
from gymnast_core.records.manifest import MAX_CHARACTERS, Manifest, canonical_json
from gymnast_core.records.signing import SignedDocument, TrustedKeys

SECOND_NS = 1_000_000_000
EVERY_ROBOT = "*"
KINDS = ("release", "promotion", "rollback")
LINEAGE_WITHIN_BYTES = 64 << 10
"""A longer lineage (every episode that a checkpoint was trained on) travels as a blob beside the release."""


class ExpiredError(CheckpointError):
    """A release is past its expiry."""


class DowngradeError(CheckpointError):
    """A release is not newer than what this robot has already accepted."""


class NotForThisRobotError(CheckpointError):
    """A release does not list this robot, or is for another action space."""


@dataclass(frozen=True)
class Delta:
    """A smaller way to the same weights, for a robot that holds a base.

    Attributes:
        base_id: checkpoint the robot must hold.
        digest: hex BLAKE3 of the delta blob.
        size: its bytes.
    """

    base_id: str
    digest: str
    size: int


@dataclass(frozen=True)
class Release:
    """What gets signed.

    Attributes:
        kind: "release" is an offer: staged and checked, for a trial or a swap by hand. "promotion" and "rollback" are
            acted on: the robot runs that checkpoint from its next episode on. A rollback alone may go back to an
            older one.
        sequence: rises by at least one with every release of a service; a robot accepts only higher ones.
        checkpoint_id: the manifest's id.
        manifest: the checkpoint's manifest, JSON values; carries parents, action space, statistics, lineage, SHA-256.
            Empty in a rollback to what a robot holds and the trainer has no copy of: the id names the content.
            Its lineage is empty where lineage_digest names it.
        weights_digest: hex BLAKE3 of weights.safetensors: its address.
        weights_size: bytes.
        published_ns: wall clock.
        expires_ns: wall clock; not accepted afterwards.
        robots: names, or "*".
        deltas: smaller ways to the same weights.
        reason: why, for a rollback.
        lineage_digest: hex BLAKE3 of the lineage's canonical JSON, where it is a blob of its own; else empty.
        lineage_size: its bytes.
        gate: the record of the gate that the checkpoint has passed, by digest; None without one.
        override: an administrator's word in its place; None without one.
    """

    kind: Literal["release", "promotion", "rollback"]
    sequence: int
    checkpoint_id: str
    manifest: Mapping[str, Any]
    weights_digest: str
    weights_size: int
    published_ns: int
    expires_ns: int
    robots: tuple[str, ...] = (EVERY_ROBOT,)
    deltas: tuple[Delta, ...] = field(default_factory=tuple)
    reason: str = ""
    lineage_digest: str = ""
    lineage_size: int = 0
    gate: GateSeal | None = None
    override: GateOverride | None = None

    @property
    def gated(self) -> Gated:
        """What it says for itself at a robot's gate."""
        return Gated(self.checkpoint_id, self.kind, self.gate, self.override, self.published_ns)

    def ungated(self) -> Release:
        """As a reader from before gates takes it: such a one refuses fields that it does not know."""
        return replace(self, gate=None, override=None)

    @property
    def by_id(self) -> bool:
        """Whether it names its checkpoint by id alone."""
        return not self.manifest

    def to_bytes(self) -> bytes:
        """Canonical JSON: what is signed. A robot of before lineage_digest, or gates, reads it where there is none."""
        fields = asdict(self)
        for name in ("gate", "override"):
            if fields[name] is None:
                del fields[name]
        if not self.lineage_digest:
            del fields["lineage_digest"], fields["lineage_size"]
        return canonical_json(fields)

    def whole_manifest(self, lineage: bytes | None = None) -> Manifest:
        """Return the manifest with its lineage.

        Args:
            lineage: the blob that lineage_digest names; None where the release holds the lineage itself.

        Raises:
            CheckpointError: the blob is another one, or this is no manifest of checkpoint_id.
        """
        fields = dict(self.manifest)
        if self.lineage_digest:
            if lineage is None or blake3(lineage).hexdigest() != self.lineage_digest:
                raise CheckpointError(
                    f"the lineage of {self.checkpoint_id} is not {self.lineage_digest}; fetch it again"
                )
            fields["lineage"] = parsed_lineage(lineage)
        manifest = Manifest.from_bytes(canonical_json(fields))
        if manifest.id != self.checkpoint_id:
            raise CheckpointError(f"release names {self.checkpoint_id!r}, its manifest is {manifest.id!r}")
        return manifest

    @staticmethod
    def from_bytes(payload: bytes) -> Release:
        """Parse a payload whose signature was verified.

        Raises:
            CheckpointError: not a release, or the manifest's content does not give checkpoint_id; where the lineage
                is a blob of its own, only whole_manifest() can find that out.
        """
        try:
            fields = json.loads(payload)
            deltas = tuple(Delta(**delta) for delta in fields["deltas"])
            gate = GateSeal(**fields["gate"]) if fields.get("gate") is not None else None
            override = GateOverride(**fields["override"]) if fields.get("override") is not None else None
            parts = {"deltas": deltas, "robots": tuple(fields["robots"]), "gate": gate, "override": override}
            release = Release(**{**fields, **parts})
            whole = not release.lineage_digest and not (release.by_id and release.kind == "rollback")
            named = Manifest.from_bytes(canonical_json(release.manifest)).id if whole else release.checkpoint_id
        except (ValueError, TypeError, KeyError, RecursionError, CorruptError) as error:
            raise CheckpointError(f"unreadable release: {error}") from error
        if release.kind not in KINDS:
            raise CheckpointError(f"release kind {release.kind!r} is none of {', '.join(KINDS)}")
        if named != release.checkpoint_id:
            raise CheckpointError(f"release names {release.checkpoint_id!r}, its manifest is {named!r}")
        numbers = (
            release.sequence, release.weights_size, release.published_ns, release.expires_ns, release.lineage_size
        )  # fmt: skip
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise CheckpointError(f"release {release.checkpoint_id} holds numbers that are none: {numbers}")
        if release.lineage_size > MAX_CHARACTERS:
            raise CheckpointError(f"a lineage of {release.lineage_size} bytes; at most {MAX_CHARACTERS} are accepted")
        return release


def parsed_lineage(data: bytes) -> dict[str, object]:
    """Parse the blob that a release's lineage_digest names.

    Raises:
        CheckpointError: no JSON object.
    """
    try:
        return parsed_object(data.decode(), "lineage", MAX_CHARACTERS)
    except (UnicodeDecodeError, CorruptError) as error:
        raise CheckpointError(f"unreadable lineage: {error}") from error


def check_release(
    document: SignedDocument, trusted: TrustedKeys, *, robot: str, action_space: str, highest: int, now_ns: int
) -> Release:
    """Return the release if this robot may act on it.

    Args:
        document: as received.
        trusted: keys of this robot.
        robot: its name.
        action_space: what its arm understands; checked for policies.
        highest: highest sequence accepted before.
        now_ns: wall clock.

    Raises:
        NotSignedError: unknown key or altered.
        ExpiredError: past its expiry.
        DowngradeError: sequence not above highest.
        NotForThisRobotError: other robots, or another action space.
        CheckpointError: unreadable.
    """
    release = Release.from_bytes(trusted.verify(document))
    name = release.checkpoint_id
    if now_ns > release.expires_ns:
        late_s = (now_ns - release.expires_ns) // SECOND_NS
        raise ExpiredError(f"release {name} expired {late_s} s ago; publish it again, or set this robot's clock")
    if release.sequence <= highest:
        raise DowngradeError(
            f"release {name} has sequence {release.sequence}, this robot accepted {highest} already; "
            "going back needs a signed rollback"
        )
    if EVERY_ROBOT not in release.robots and robot not in release.robots:
        raise NotForThisRobotError(f"release {name} is for {release.robots}, not for {robot!r}")
    found = release.manifest.get("action_space")
    if release.manifest.get("kind") == "policy" and found != action_space:
        raise NotForThisRobotError(f"release {name} acts in {found!r}, this arm in {action_space!r}")
    return release
