"""What the page knows of checkpoints, and how an administrator offers, promotes and takes them back."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloud_trainer.service import Service
from cloud_trainer.service.publish import Within
from cloud_trainer.store.tenants import CHECKPOINTS, tenant_folder
from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.records.manifest import Manifest, read_manifest
from gymnast_core.web.auth import User


class RefusedError(GymnastError):
    """The action is not possible now; the message says what happened and what is possible."""


class NotWonError(RefusedError):
    """What would be promoted has not won its trial."""


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


class Checkpoints:
    """Every checkpoint of one trainer, by tenant.

    Args:
        service: whose.
        won: whether a decided trial of a tenant says that a checkpoint may be promoted.
    """

    def __init__(self, service: Service, *, won: Callable[[str, str], bool]) -> None:
        self._service, self.has_won = service, won
        self._publishing = threading.Lock()

    def all(self, user: User) -> dict[str, KnownCheckpoint]:
        """Return every checkpoint of the user's tenant by id, newest first."""
        found = {}
        shelved = tenant_folder(self._service.config.folder, user.tenant) / CHECKPOINTS
        for path in shelved.glob("*/manifest.json"):
            manifest = read_manifest(path.parent)
            found[manifest.id] = KnownCheckpoint(manifest, manifest.weights_bytes, path.stat().st_mtime_ns, path.parent)
        for row in self._service.meta.checkpoints(user.tenant, limit=100_000):
            shelf = found.get(row.checkpoint_id)
            found[row.checkpoint_id] = KnownCheckpoint(
                Manifest.from_bytes(row.manifest),
                row.weights_size,
                row.published_ns if shelf is None else min(shelf.since_ns, row.published_ns),
                None if shelf is None else shelf.folder,
                row.weights_digest,
            )
        return dict(sorted(found.items(), key=lambda item: -item[1].since_ns))

    def find(self, user: User, checkpoint_id: str) -> KnownCheckpoint:
        """Return one checkpoint.

        Raises:
            RefusedError: it is not known here.
        """
        known = self.all(user).get(checkpoint_id)
        if known is None:
            raise RefusedError(f"checkpoint {checkpoint_id!r} is not known here; it must come from this trainer's jobs")
        return known

    def publish(self, user: User, checkpoint_id: str, robots: Sequence[str], *, promote: bool = False) -> str:
        """Offer a checkpoint to robots; to promote one, a decided trial must have said so.

        Raises:
            RefusedError: unknown, already being published, or to an unknown robot.
            NotWonError: to be promoted without a trial won.
            ProvenanceError: something it was made from was retracted.
        """
        user.require("promote" if promote else "publish")
        known, trail = self.find(user, checkpoint_id), self._service.trails.of(user.tenant)
        self._check_target(user, checkpoint_id, known, robots)
        trail.require(checkpoint_id)
        trail.graph.check_promotable(checkpoint_id)  # before anything is copied, and again when it is done
        if promote and not self.has_won(user.tenant, checkpoint_id):
            raise NotWonError(
                f"{checkpoint_id} has not won a trial yet; try it on a robot first (its page, or `gymnast operate try`)"
            )
        if not self._publishing.acquire(blocking=False):
            raise RefusedError("something is being published at this moment; wait until that is done, then look again")
        asked = {"checkpoint": checkpoint_id, "robots": list(robots)}
        try:
            within = trail.promoting(user, "promote" if promote else "publish", asked)
            sequence = self._offer(user.tenant, known, list(robots) or ["*"], promote=promote, within=within)
        finally:
            self._publishing.release()
        if promote:
            whom = _whom(robots)
            return f"{checkpoint_id} runs on {whom} from the next episode on, once checked there (release {sequence})"
        return f"{checkpoint_id} is offered to {_whom(robots)} as release {sequence}"

    def check_on(self, user: User, robot: str, checkpoint_id: str) -> None:
        """Return if a robot can have this policy staged.

        Raises:
            RefusedError: it is unknown, no policy, or was never offered to this robot.
        """
        self._check_policy(checkpoint_id, self.find(user, checkpoint_id))
        releases = self._service.meta.releases(user.tenant)
        offered = [json.loads(row.payload)["robots"] for row in releases if row.checkpoint_id == checkpoint_id]
        if not any(name in robots for robots in offered for name in ("*", robot)):
            raise RefusedError(
                f"{checkpoint_id} was never offered to {robot}; an admin offers it: gymnast operate offer"
            )

    def roll_back(self, user: User, checkpoint_id: str, robots: Sequence[str], reason: str) -> str:
        """Order robots back to a checkpoint; one that ran on them or is kept here need not have been published."""
        user.require("roll back")
        if not reason.strip():
            raise ConfigError("say why robots go back; the reason travels with the order")
        self._check_robots(user, robots)
        holders = self._service.robots.holding(user.tenant, checkpoint_id)
        if checkpoint_id not in holders and (known := self.all(user).get(checkpoint_id)) is not None:
            self._check_policy(checkpoint_id, known)
        asked = {"checkpoint": checkpoint_id, "robots": list(robots), "reason": reason.strip()}
        release, _ = self._service.publisher.rollback(
            user.tenant, checkpoint_id, robots=list(robots) or ["*"], reason=reason.strip(), holders=holders,
            within=self._service.trails.of(user.tenant).committing(user, "roll back", asked),
        )  # fmt: skip
        whom = _whom(release.robots)
        return f"{checkpoint_id} runs again on {whom} from the next episode on (release {release.sequence})"

    def _check_target(self, user: User, checkpoint_id: str, known: KnownCheckpoint, robots: Sequence[str]) -> None:
        self._check_policy(checkpoint_id, known)
        self._check_robots(user, robots)

    def _check_robots(self, user: User, robots: Sequence[str]) -> None:
        here = {report.robot for report in self._service.robots.of_tenant(user.tenant)}
        here |= {word.robot for word in self._service.words.of(user.tenant)}  # away since this process began
        unknown = [name for name in robots if name != "*" and name not in here]
        if unknown:
            raise RefusedError(f"no robot {unknown[0]!r} reports here; known: {', '.join(sorted(here)) or 'none yet'}")

    @staticmethod
    def _check_policy(checkpoint_id: str, known: KnownCheckpoint) -> None:
        if known.manifest.kind != "policy":
            kind = known.manifest.kind.replace("_", " ")
            raise RefusedError(f"{checkpoint_id} is a {kind}; only policies go to robots")

    def _offer(
        self, tenant: str, known: KnownCheckpoint, robots: Sequence[str], *, promote: bool, within: Within
    ) -> int:
        publisher = self._service.publisher
        if known.folder is not None:
            release, _ = publisher.publish(tenant, known.folder, robots=robots, promote=promote, within=within)
            return release.sequence
        folder = Path(tempfile.mkdtemp(prefix="offer-", dir=self._service.config.folder / "console"))
        copy = folder / "weights.safetensors"  # the publisher consumes the file it is given
        shutil.copyfile(self._service.blobs.local_path(known.digest), copy)
        release, _ = publisher.publish_file(tenant, known.manifest, copy, robots=robots, promote=promote, within=within)
        folder.rmdir()
        return release.sequence


def _whom(robots: Sequence[str]) -> str:
    return "all robots" if not robots or "*" in robots else ", ".join(robots)
