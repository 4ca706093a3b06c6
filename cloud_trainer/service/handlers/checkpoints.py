"""What the trainer knows of checkpoints, and how they are delivered, offered, promoted and taken back.

One class, and so a long file: every way out passes the same checks.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cloud_trainer.records.gates import GateGap
from cloud_trainer.records.trail import Trail, Trails
from cloud_trainer.service.gates import GateDesk
from cloud_trainer.service.handlers.flows import Flows
from cloud_trainer.service.handlers.robots import RobotHandlers
from cloud_trainer.service.publish import Publisher, Within
from cloud_trainer.service.words import Word
from cloud_trainer.store.protocols import BlobStore, MetaStore, ReleaseRow
from cloud_trainer.store.tenants import CHECKPOINTS, tenant_folder
from gymnast_core.authority import Who, authorise
from gymnast_core.errors import ConfigError, NotPossibleError, NotTrustedError
from gymnast_core.records.gate_rule import MOST_REASON, GateOverride
from gymnast_core.records.lineage import ProvenanceError
from gymnast_core.records.manifest import Manifest, read_manifest
from gymnast_core.records.release import EVERY_ROBOT, Release
from gymnast_core.records.signing import SignedDocument
from gymnast_core.wire.errors import NotFoundError

Signed = tuple[Release, SignedDocument]


@dataclass(frozen=True)
class KnownCheckpoint:
    """A checkpoint of this trainer, published or kept on its shelf.

    Attributes:
        manifest: what it is.
        bytes: of its weights.
        since_ns: wall clock, when it came to be known.
        folder: on the shelf; None for one that was only ever published.
        digest: in the blob store; empty for one that was never published.
    """

    manifest: Manifest
    bytes: int
    since_ns: int
    folder: Path | None = None
    digest: str = ""


class CheckpointHandlers:
    """Every checkpoint of one trainer, by tenant.

    Args:
        folder: of the trainer.
        meta: the catalogue.
        blobs: the bytes.
        publisher: signs.
        trails: where actions are written down.
        robots: the robots they may go to.
        flows: which have won a trial.
        gates: the gate records, and which robots ask for one.
    """

    def __init__(
        self, folder: Path, meta: MetaStore, blobs: BlobStore, publisher: Publisher, trails: Trails,
        robots: RobotHandlers, flows: Flows, gates: GateDesk,
    ) -> None:  # fmt: skip
        self._folder, self._meta, self._blobs, self._publisher = folder, meta, blobs, publisher
        self._trails, self._robots, self._flows, self._gates = trails, robots, flows, gates
        self._publishing = threading.Lock()

    def all(self, who: Who) -> dict[str, KnownCheckpoint]:
        """Return every checkpoint of the caller's tenant by id, newest first."""
        authorise(who, "look")
        found = {}
        shelved = tenant_folder(self._folder, who.tenant) / CHECKPOINTS
        for path in shelved.glob("*/manifest.json"):
            manifest = read_manifest(path.parent)
            found[manifest.id] = KnownCheckpoint(manifest, manifest.weights_bytes, path.stat().st_mtime_ns, path.parent)
        for row in self._meta.checkpoints(who.tenant, limit=100_000):
            shelf = found.get(row.checkpoint_id)
            found[row.checkpoint_id] = KnownCheckpoint(
                Manifest.from_bytes(row.manifest),
                row.weights_size,
                row.published_ns if shelf is None else min(shelf.since_ns, row.published_ns),
                None if shelf is None else shelf.folder,
                row.weights_digest,
            )
        return dict(sorted(found.items(), key=lambda item: -item[1].since_ns))

    def find(self, who: Who, checkpoint_id: str) -> KnownCheckpoint:
        """Return one checkpoint.

        Raises:
            NotFoundError: it is not known here.
        """
        known = self.all(who).get(checkpoint_id)
        if known is None:
            raise NotFoundError(
                f"checkpoint {checkpoint_id[:80]!r} is not known here; it must come from this trainer's jobs"
            )
        return known

    def has_won(self, who: Who, checkpoint_id: str) -> bool:
        """Whether a decided trial says that a checkpoint may be promoted."""
        return self._flows.has_won(who.tenant, checkpoint_id)

    def releases(self, who: Who, *, after: int = 0, limit: int) -> list[ReleaseRow]:
        """Return a page of releases, oldest first, empty only at their end; a robot sees those for itself alone."""
        authorise(who, "follow")
        found: list[ReleaseRow] = []
        while not found and (page := self._meta.releases(who.tenant, after, limit)):
            found = [row for row in page if self._publisher.fits(row) and is_for(row, who)]
            after = page[-1].sequence
        return found

    def watch(self, who: Who, after: int, wait_s: float) -> tuple[list[ReleaseRow], int]:
        """Return the next releases for somebody, after waiting a while where there is none, and where to go on."""
        authorise(who, "follow")
        page = self._publisher.watch(who.tenant, after, wait_s)
        found = [row for row in page if self._publisher.fits(row) and is_for(row, who)]
        return found, page[-1].sequence if page else after

    def words(self, who: Who, checkpoint_ids: Sequence[str]) -> list[Word]:
        """Return what robots say of checkpoints; a robot is answered its own words alone."""
        authorise(who, "follow")
        own = who.name if who.role == "robot" else ""
        return self._robots.words.of(who.tenant, robot=own, checkpoint_ids=checkpoint_ids)

    def deliver(
        self, who: Who, manifest: Manifest, weights: Path, *, robots: Sequence[str], valid_s: int | None,
        override: str = "",
    ) -> Signed:  # fmt: skip
        """Take in a checkpoint that was made elsewhere, and offer it; its weights file is consumed.

        Raises:
            NotTrustedError: a robot asks for a gate record that it has not; it is taken in and not offered.
        """
        authorise(who, "deliver weights")
        robots = tuple(robots) or (EVERY_ROBOT,)
        said = self._override(who, manifest.id, robots, override)
        asked = {"checkpoint": manifest.id, "robots": list(robots), **_said(said)}
        trail = self._trails.of(who.tenant)
        if manifest.kind == "policy" and said is None and (gaps := self._gates.gaps(who.tenant, manifest.id, robots)):
            with trail.committing(who, "take in", {"checkpoint": manifest.id}):
                self._publisher.take_in(who.tenant, manifest, weights)
            raise NotTrustedError(
                f"{manifest.id} was taken in, and is not offered: {ungated(manifest.id, gaps, 'offer')}"
            )
        return self._publisher.publish_file(
            who.tenant, manifest, weights, robots=robots, valid_s=valid_s, override=said,
            within=trail.committing(who, "publish", asked),
        )  # fmt: skip

    def readable(self, signed: SignedDocument | ReleaseRow, *, gates: bool) -> SignedDocument:
        """Return a release as its reader takes it; see Publisher.readable."""
        return self._publisher.readable(signed, gates=gates)

    def gaps(self, who: Who, checkpoint_id: str, robots: Sequence[str]) -> list[GateGap]:
        """Return the robots that would refuse a checkpoint for want of a gate record; no name is every robot."""
        authorise(who, "look")
        return self._gates.gaps(who.tenant, checkpoint_id, tuple(robots) or (EVERY_ROBOT,))

    def offer(self, who: Who, checkpoint_id: str, robots: Sequence[str] = (), *, override: str = "") -> Signed:
        """Let robots stage a checkpoint, for a trial; no name is every robot.

        Args:
            who: asks.
            checkpoint_id: of the policy.
            robots: their names.
            override: why it goes out although a robot asks for a gate record that it has not; signed with the name.

        Raises:
            NotPossibleError: unknown, already being published, or to an unknown robot.
            NotTrustedError: something it was made from was retracted, or a gate record is missing.
            NotPermittedError: this caller may override no gate.
        """
        authorise(who, "publish")
        return self._publish(who, checkpoint_id, robots, promote=False, override=override)

    def promote(self, who: Who, checkpoint_id: str, robots: Sequence[str] = (), *, override: str = "") -> Signed:
        """Have robots run a checkpoint from their next episode on, once checked there; as offer().

        Raises:
            NotTrustedError: also without a trial won.
        """
        authorise(who, "promote")
        return self._publish(who, checkpoint_id, robots, promote=True, override=override)

    def roll_back(
        self, who: Who, checkpoint_id: str, robots: Sequence[str], reason: str, *, override: str = ""
    ) -> Signed:
        """Order robots back to a checkpoint; one that ran on them or is kept here need not have been published.

        Raises:
            ConfigError: no reason; or an override that no robot asks for, since it ran there.
            NotPermittedError: this caller may override no gate.
            NotPossibleError: to an unknown robot, or it is no policy.
            NotFoundError: neither this trainer nor one of the robots has it.
        """
        authorise(who, "roll back")
        if not reason.strip():
            raise ConfigError("give the reason why robots go back; it travels with the order")
        self._check_robots(who, robots)
        holders = self._robots.board.holding(who.tenant, checkpoint_id)
        if checkpoint_id not in holders and (known := self.all(who).get(checkpoint_id)) is not None:
            _check_policy(checkpoint_id, known)
        ran = self._robots.words.in_force_on(who.tenant, checkpoint_id)
        said = self._override(who, checkpoint_id, robots, override, ran=ran)
        asked = {"checkpoint": checkpoint_id, "robots": list(robots), "reason": reason.strip(), **_said(said)}
        return self._publisher.rollback(
            who.tenant, checkpoint_id, robots=list(robots) or [EVERY_ROBOT],
            reason=f"{reason.strip()} (by {who.name})", holders=holders, override=said,
            within=self._trails.of(who.tenant).committing(who, "roll back", asked),
        )  # fmt: skip

    def check_on(self, who: Who, robot: str, checkpoint_id: str) -> None:
        """Return if a robot can have this policy staged.

        Raises:
            NotPossibleError: it is unknown, no policy, or was never offered to this robot.
        """
        _check_policy(checkpoint_id, self.find(who, checkpoint_id))
        releases = self._meta.releases(who.tenant)
        offered = [json.loads(row.payload)["robots"] for row in releases if row.checkpoint_id == checkpoint_id]
        if not any(name in robots for robots in offered for name in (EVERY_ROBOT, robot)):
            raise NotPossibleError(
                f"{checkpoint_id} was never offered to {robot}; an admin offers it: gymnast operate offer"
            )

    def check_known(self, who: Who, checkpoint_id: str, runs_on: str = "") -> None:
        """Return if this trainer knows a policy, so that what is concluded of it can be looked up.

        Args:
            who: asks.
            checkpoint_id: of the policy.
            runs_on: robot that says it runs it; empty where a person named it.

        Raises:
            NotPossibleError: it is unknown, or no policy.
        """
        known = self.all(who).get(checkpoint_id)
        if known is None:
            whose = f"{runs_on[:80]} runs {checkpoint_id[:80]!r}, which" if runs_on else f"{checkpoint_id[:80]!r}"
            raise NotPossibleError(
                f"{whose} is no checkpoint of this trainer; take it in (gymnast serve --import FOLDER), or name one "
                "of those (gymnast operate checkpoints)"
            )
        _check_policy(checkpoint_id, known)

    def _override(
        self, who: Who, checkpoint_id: str, robots: Sequence[str], reason: str, *, ran: Collection[str] = ()
    ) -> GateOverride | None:
        """Somebody's word in place of a gate record, if the caller may give it; None where none was given.

        `ran` are robots that go back to it, and need no record for that.
        """
        if not reason.strip():
            return None
        authorise(who, "override the gate")
        if len(reason) > MOST_REASON:
            raise ConfigError(f"a reason of {len(reason)} characters; an override takes at most {MOST_REASON}")
        if not self._gates.may_ask(who.tenant, checkpoint_id, tuple(robots) or (EVERY_ROBOT,), proved=ran):
            back = " (the way back to what ran on a robot needs none)" if ran else ""
            raise ConfigError(
                f"no robot that {checkpoint_id} goes to asks for a gate record that it has not{back}; release it "
                "without --override-gate, which would be signed and shown in red for nothing"
            )
        return self._gates.override(who, checkpoint_id, reason)

    def _publish(self, who: Who, checkpoint_id: str, robots: Sequence[str], *, promote: bool, override: str) -> Signed:
        known, trail = self.find(who, checkpoint_id), self._trails.of(who.tenant)
        _check_policy(checkpoint_id, known)
        self._check_robots(who, robots)
        _check_untainted(trail, checkpoint_id)
        if promote and not self.has_won(who, checkpoint_id):
            raise NotTrustedError(
                f"{checkpoint_id} has not won a trial yet; try it on a robot first (its page, or `gymnast operate try`)"
            )
        said = self._override(who, checkpoint_id, robots, override)
        if said is None and (gaps := self.gaps(who, checkpoint_id, robots)):
            raise NotTrustedError(f"{checkpoint_id} is not released: {ungated(checkpoint_id, gaps, 'gate')}")
        if not self._publishing.acquire(blocking=False):
            raise NotPossibleError("something is being published at this moment; wait until that is done, look again")
        asked = {"checkpoint": checkpoint_id, "robots": list(robots), **_said(said)}
        try:
            within = trail.promoting(who, "promote" if promote else "publish", asked)
            named = list(robots) or [EVERY_ROBOT]
            return self._release(who.tenant, known, named, promote=promote, override=said, within=within)
        finally:
            self._publishing.release()

    def _check_robots(self, who: Who, robots: Sequence[str]) -> None:
        here = self._robots.known(who.tenant)
        unknown = [name for name in robots if name != EVERY_ROBOT and name not in here]
        if unknown:
            known = ", ".join(sorted(here)) or "none yet"
            raise NotPossibleError(f"no robot {unknown[0][:80]!r} reports here; known: {known}")

    def _release(
        self, tenant: str, known: KnownCheckpoint, robots: Sequence[str], *, promote: bool,
        override: GateOverride | None, within: Within,
    ) -> Signed:  # fmt: skip
        if known.folder is not None:
            return self._publisher.publish(
                tenant, known.folder, robots=robots, promote=promote, override=override, within=within
            )
        folder = Path(tempfile.mkdtemp(prefix="offer-", dir=self._folder / "console"))
        copy = folder / "weights.safetensors"  # the publisher consumes the file it is given
        shutil.copyfile(self._blobs.local_path(known.digest), copy)
        signed = self._publisher.publish_file(
            tenant, known.manifest, copy, robots=robots, promote=promote, override=override, within=within
        )
        folder.rmdir()
        return signed


def is_for(row: ReleaseRow, who: Who) -> bool:
    """Whether a release may be seen by somebody: a robot sees those that name it."""
    robots = json.loads(row.payload)["robots"]
    return who.role != "robot" or EVERY_ROBOT in robots or who.name in robots


def ungated(checkpoint_id: str, gaps: Sequence[GateGap], helps: Literal["gate", "offer"]) -> str:
    """Say which robots ask for a gate record, and which command helps."""
    whom = ", ".join(f"{gap.robot} (runs {gap.incumbent or 'nothing'})" for gap in gaps[:3])
    more = f" and {len(gaps) - 3} more" if len(gaps) > 3 else ""
    return (
        f"{whom}{more} requires a gate record against what it runs; `gymnast operate {helps} {checkpoint_id} --robot "
        f"{gaps[0].robot}` runs the gate{' and offers it then' * (helps == 'offer')}, an admin may override it: "
        "--override-gate REASON"
    )


def _said(override: GateOverride | None) -> dict[str, object]:
    """What the log of actions says of an override."""
    return {} if override is None else {"override": override.reason, "gate": override.found}


def _check_policy(checkpoint_id: str, known: KnownCheckpoint) -> None:
    if known.manifest.kind != "policy":
        kind = known.manifest.kind.replace("_", " ")
        raise NotPossibleError(f"{checkpoint_id} is a {kind}; only policies go to robots")


def _check_untainted(trail: Trail, checkpoint_id: str) -> None:
    trail.require(checkpoint_id)
    try:
        trail.graph.check_promotable(checkpoint_id)
    except ProvenanceError as error:
        raise NotTrustedError(str(error)) from error
