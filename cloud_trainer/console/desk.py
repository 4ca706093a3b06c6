"""Everything behind the pages: the trainer's stores, the robots' reports, adaptations, trials, the log of actions.

A page asks the desk; an action is a method of it that checks the role, does one thing, and writes it down.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from cloud_trainer.console.auth import User
from cloud_trainer.jobs.ledger import CalibrationLedger
from cloud_trainer.jobs.provenance import LINKED_CHECKPOINTS, record_checkpoint, record_episode, record_label
from cloud_trainer.jobs.scene_adaptation import Adaptations, Budget
from cloud_trainer.store.episodes import EpisodeCatalogue
from cloud_trainer.store.protocols import FINAL_STATES, BlobStore, EpisodeRow, JobRow, JobStore, MetaStore
from gymnast_core.errors import ConfigError, ContractError, GymnastError
from gymnast_core.journal import Journal
from gymnast_core.manifest import Manifest, read_manifest
from gymnast_core.provenance import ProvenanceGraph
from gymnast_core.types import Outcome

REPORT_STALE_S = 15.0
EPISODES_PER_PAGE = 60


class RefusedError(GymnastError):
    """The action is not possible now; the message says what happened and what is possible."""


class Releases(Protocol):
    """What the desk needs of the service's publisher."""

    def publish(self, folder: Path, *, robots: Sequence[str], valid_s: int | None = None) -> tuple[Any, Any]:
        """Sign and offer a checkpoint folder."""
        ...

    def publish_file(
        self, manifest: Manifest, weights: Path, *, robots: Sequence[str], valid_s: int | None = None
    ) -> tuple[Any, Any]:
        """Sign and offer weights in a file, which is consumed."""
        ...

    def rollback(self, checkpoint_id: str, *, robots: Sequence[str], reason: str) -> tuple[Any, Any]:
        """Order back."""
        ...


@dataclass(frozen=True)
class RobotReport:
    """What a robot last said of itself.

    Attributes:
        robot: its name, from its token or certificate.
        tenant: whose it is.
        status: JSON values: state, policy_version, estop, spool {entries, bytes, full}, instruction, ...
        frame: its camera image (JPEG or WebP bytes); empty without one.
        received_s: monotonic.
    """

    robot: str
    tenant: str
    status: Mapping[str, Any]
    frame: bytes
    received_s: float

    def age_s(self) -> float:
        """Seconds since it spoke."""
        return time.monotonic() - self.received_s


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


class Desk:
    """See the module.

    Args:
        folder: of the trainer; provenance.db and checkpoints/ are shared with the command line, console/ is its own.
        meta, jobs, blobs: the service's stores.
        releases: the service's publisher.
        adaptations: of this trainer.
        loops: folders of unattended loops (gymnast loop), each with a history.json.
    """

    def __init__(
        self,
        folder: Path,
        *,
        meta: MetaStore,
        jobs: JobStore,
        blobs: BlobStore,
        releases: Releases,
        adaptations: Adaptations,
        loops: Sequence[Path] = (),
    ) -> None:
        own = folder / "console"
        own.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.meta, self.jobs, self.blobs, self.adaptations = meta, jobs, blobs, adaptations
        self._releases = releases
        self._loops = tuple(loops)
        self.log = Journal(own / "actions.jsonl")
        self.graph = ProvenanceGraph(folder / "provenance.db")
        self.ledger = CalibrationLedger(own / "ledger.jsonl")
        self.trials = own / "trials"
        self.trials.mkdir(exist_ok=True)
        self._robots: dict[tuple[str, str], RobotReport] = {}
        self._reports = 0
        self._seen_sequence = 0
        self._publishing = threading.Lock()

    def close(self) -> None:
        """Close what is the desk's own; the stores are the service's."""
        self.adaptations.close()
        self.log.close()
        self.ledger.close()
        self.graph.close()

    def catalogue(self, user: User) -> EpisodeCatalogue:
        """Return the episodes this user may see."""
        return EpisodeCatalogue(self.meta, self.blobs, user.tenant)

    def version(self) -> str:
        """Return something that changes whenever a page might."""
        flows = sum(len(flow.view.history) for flow in self.adaptations.all())
        jobs = self.jobs.list(limit=50)
        events = sum(job.last_event for job in jobs)
        running = sum(job.state == "running" for job in jobs)
        newest = self._newest_episode()
        stale = sum(report.age_s() > REPORT_STALE_S for report in self._robots.values())
        loops = sum(path.stat().st_mtime_ns % 1_000_000_007 for path in self._histories())
        return (
            f"{loops}.{len(self.log.entries)}.{flows}.{len(jobs)}.{events}.{running}.{newest}.{self._reports}.{stale}"
        )

    def _newest_episode(self) -> int:
        while page := self.meta.episodes(after=self._seen_sequence, limit=1000):
            self._seen_sequence = page[-1].sequence
        return self._seen_sequence

    def _histories(self) -> list[Path]:
        return [path for folder in self._loops if (path := folder / "history.json").exists()]

    # what pages show ---------------------------------------------------------------------------------------------

    def robots(self, user: User) -> list[RobotReport]:
        """Return the newest report of every robot of the tenant."""
        return sorted(
            (report for report in self._robots.values() if report.tenant == user.tenant), key=lambda row: row.robot
        )

    def robot(self, user: User, name: str) -> RobotReport:
        """Return one robot.

        Raises:
            RefusedError: it never spoke.
        """
        report = self._robots.get((user.tenant, name))
        if report is None:
            raise RefusedError(f"robot {name!r} has not reported here; is its bridge running and enrolled?")
        return report

    def episodes(
        self, user: User, *, before: int | None = None, outcome: str = "", robot: str = "", text: str = ""
    ) -> list[EpisodeRow]:
        """Return up to 60 episodes, newest first, filtered."""
        chosen: list[EpisodeRow] = []
        high = self._newest_episode() + 1 if before is None else before
        while high > 0 and len(chosen) < EPISODES_PER_PAGE:
            rows = self.meta.episodes(tenant=user.tenant, robot=robot or None, after=max(high - 1001, 0), limit=1000)
            chosen += [
                row
                for row in reversed(rows)
                if row.sequence < high
                and (not outcome or row.outcome == outcome)
                and (not text or text.lower() in f"{row.instruction} {row.episode_id}".lower())
            ]
            high -= 1000
        return chosen[:EPISODES_PER_PAGE]

    def episode(self, user: User, episode_id: str) -> EpisodeRow:
        """Return one episode.

        Raises:
            RefusedError: there is none, or it is another tenant's.
        """
        row = self.meta.episode(user.tenant, episode_id)
        if row is None:
            raise RefusedError(f"there is no episode {episode_id!r} here; look for it in the list")
        return row

    def checkpoints(self) -> dict[str, KnownCheckpoint]:
        """Return every checkpoint by id, newest first."""
        found = {}
        for path in (self.folder / "checkpoints").glob("*/manifest.json"):
            manifest = read_manifest(path.parent)
            found[manifest.id] = KnownCheckpoint(manifest, manifest.weights_bytes, path.stat().st_mtime_ns, path.parent)
        for row in self.meta.checkpoints(limit=100_000):
            shelf = found.get(row.checkpoint_id)
            found[row.checkpoint_id] = KnownCheckpoint(
                Manifest.from_bytes(row.manifest),
                row.weights_size,
                row.published_ns if shelf is None else min(shelf.since_ns, row.published_ns),
                None if shelf is None else shelf.folder,
                row.weights_digest,
            )
        return dict(sorted(found.items(), key=lambda item: -item[1].since_ns))

    def checkpoint(self, checkpoint_id: str) -> KnownCheckpoint:
        """Return one checkpoint.

        Raises:
            RefusedError: it is not known here.
        """
        known = self.checkpoints().get(checkpoint_id)
        if known is None:
            raise RefusedError(f"checkpoint {checkpoint_id!r} is not known here; it must come from this trainer's jobs")
        return known

    def remember_checkpoint(self, checkpoint_id: str) -> None:
        """Make sure the graph knows a checkpoint and everything of this trainer that it was made from."""
        known = self.checkpoints()
        waiting, order = [checkpoint_id], []
        while waiting:
            current = waiting.pop()
            if current in known and current not in order:
                order.append(current)
                manifest = known[current].manifest
                linked = [manifest.lineage.get(role) for role in LINKED_CHECKPOINTS]
                waiting += [*manifest.parents, *(name for name in linked if isinstance(name, str))]
        for name in reversed(order):
            if name not in self.graph:
                for entry in known[name].manifest.lineage.get("episodes", ()):
                    row = self.meta.episode("default", entry) if isinstance(entry, str) else None
                    if row is not None:
                        self._remember(row)
                record_checkpoint(self.graph, known[name].manifest)

    # what users do -----------------------------------------------------------------------------------------------

    def report(self, user: User, status: Mapping[str, Any], frame: bytes) -> None:
        """A robot says how it is; the name is the one it logged in with, whatever the message claims.

        Raises:
            RefusedError: the message claims to be another robot.
        """
        user.require("report")
        claimed = status.get("robot", user.name)
        if claimed != user.name:
            raise RefusedError(f"this identity is {user.name}, the report says {claimed}; use that robot's own token")
        self._robots[user.tenant, user.name] = RobotReport(user.name, user.tenant, status, frame, time.monotonic())
        self._reports += 1

    def label(self, user: User, episode_id: str, outcome: str) -> str:
        """Set or correct a label; checkpoints made with another label are named in the answer."""
        user.require("label")
        if outcome not in ("success", "failure", "abstain"):
            raise ConfigError(f"{outcome!r} is no label; choose success, failure or abstain")
        row = self.episode(user, episode_id)
        by = f"operator:{user.name}"
        if row.outcome == outcome and row.labelled_by == by:
            return f"{episode_id} is labelled {outcome} by you already"
        self._remember(row)
        self.catalogue(user).label(episode_id, Outcome(outcome), by, tenant=user.tenant)
        record_label(self.graph, episode_id, outcome=outcome, by=by)
        self._note(user, "label", episode=episode_id, outcome=outcome, was=row.outcome)
        built = self._checkpoints_above(episode_id)
        if row.outcome not in (outcome, "unlabelled") and built:
            return (
                f"{episode_id} is now {outcome} (was {row.outcome}). {len(built)} checkpoints were made with the old "
                f"label and say so on their pages: {', '.join(built[:3])}{' ...' if len(built) > 3 else ''}"
            )
        return f"{episode_id} is now {outcome}"

    def retract(self, user: User, episode_id: str, reason: str) -> str:
        """Withdraw an episode; what was made with it cannot be promoted any more."""
        user.require("retract")
        if not reason.strip():
            raise ConfigError("say why this episode is withdrawn; whoever meets the block later will ask")
        row = self.episode(user, episode_id)
        self._remember(row)
        touched = self.graph.retract(
            episode_id, reason=reason.strip(), by=f"operator:{user.name}", at_ns=time.time_ns()
        )
        self.meta.update_episode(
            replace(row, state="quarantined", reason=f"retracted by {user.name}: {reason.strip()}")
        )
        self._note(user, "retract", episode=episode_id, reason=reason.strip(), touched=len(touched))
        blocked = [node.id for node in touched if node.kind in ("policy", "world_model", "judge")]
        if not blocked:
            return f"{episode_id} is withdrawn; nothing was made with it yet"
        return (
            f"{episode_id} is withdrawn; promotion of {len(blocked)} checkpoints is blocked: {', '.join(blocked[:4])}"
        )

    def cancel_job(self, user: User, job_id: str) -> str:
        """Ask a job to stop."""
        user.require("cancel")
        row = self.jobs.get(job_id, user.tenant)
        if row.state in FINAL_STATES:
            return f"{job_id} had ended already ({row.state}); nothing to cancel, what it made is kept"
        self.jobs.request_cancel(job_id, user.tenant)
        self._note(user, "cancel", job=job_id)
        return f"{job_id} stops after its current iteration; what is finished is kept"

    def publish(self, user: User, checkpoint_id: str, robots: Sequence[str], *, promote: bool = False) -> str:
        """Offer a checkpoint to robots; to promote one, a decided trial must have said so.

        Raises:
            RefusedError: unknown, already being published, to an unknown robot, or not promotable.
            ProvenanceError: something it was made from was retracted.
        """
        user.require("promote" if promote else "publish")
        known = self.checkpoint(checkpoint_id)
        manifest = known.manifest
        if manifest.kind != "policy":
            raise RefusedError(f"{checkpoint_id} is a {manifest.kind.replace('_', ' ')}; only policies go to robots")
        here = {report.robot for report in self.robots(user)}
        unknown = [name for name in robots if name != "*" and name not in here]
        if unknown:
            raise RefusedError(f"no robot {unknown[0]!r} reports here; known: {', '.join(sorted(here)) or 'none yet'}")
        self.remember_checkpoint(checkpoint_id)
        self.graph.check_promotable(checkpoint_id)
        if promote and not any(card.get("decision") == "promote" for card in self.cards(checkpoint_id)):
            raise RefusedError(f"{checkpoint_id} has not won a trial yet; run one under Evaluations, then promote it")
        if not self._publishing.acquire(blocking=False):
            raise RefusedError("something is being published at this moment; wait until that is done, then look again")
        try:
            targets = list(robots) or ["*"]
            if known.folder is not None:
                release, _ = self._releases.publish(known.folder, robots=targets)
            else:
                copy = self._weights_copy(known.digest)
                release, _ = self._releases.publish_file(manifest, copy, robots=targets)
                copy.parent.rmdir()
        finally:
            self._publishing.release()
        self._note(user, "promote" if promote else "publish", checkpoint=checkpoint_id, robots=list(robots))
        return f"{checkpoint_id} is offered to {', '.join(robots) or 'every robot'} as release {release.sequence}"

    def roll_back(self, user: User, checkpoint_id: str, reason: str) -> str:
        """Order robots back to a checkpoint that was published before."""
        user.require("roll back")
        if not reason.strip():
            raise ConfigError("say why robots go back; the reason travels with the order")
        release, _ = self._releases.rollback(checkpoint_id, robots=["*"], reason=reason.strip())
        self._note(user, "roll back", checkpoint=checkpoint_id, reason=reason.strip())
        return f"every robot goes back to {checkpoint_id} (release {release.sequence})"

    def adapt(self, user: User, robot: str, instruction: str) -> str:
        """Begin test-time training; returns its id."""
        user.require("adapt")
        report = self.robot(user, robot)
        if report.status.get("estop"):
            raise RefusedError(f"{robot} is stopped by its e-stop; re-arm it at the robot, then start again")
        if report.age_s() > REPORT_STALE_S:
            raise RefusedError(f"{robot} has been silent for {report.age_s():.0f} s; wait until it reports again")
        flow = self.adaptations.start(robot=robot, instruction=instruction, by=user.name)
        self._note(user, "adapt", adaptation=flow.view.adaptation_id, robot=robot, instruction=instruction)
        return flow.view.adaptation_id

    def adapt_step(self, user: User, adaptation_id: str, step: str, revision: int, values: Mapping[str, str]) -> str:
        """Do one of: collect, train, approve, reject, cancel."""
        user.require("adapt")
        flow = self.adaptations.get(adaptation_id)
        if step == "collect":
            flow.collect(revision, episodes=_whole(values, "episodes", 10), by=user.name)
            said = "collecting real episodes in this scene"
        elif step == "train":
            budget = Budget(
                seconds=60.0 * _number(values, "minutes", 10),
                rollouts=_whole(values, "rollouts", 5000),
                money=_number(values, "money", 5),
                price_per_hour=_number(values, "price_per_hour", 0),
            )
            flow.train(revision, budget=budget, mode=values.get("mode") or self.adaptations.modes[0], by=user.name)
            said = "training has begun; it ends within one iteration of the budget"
        elif step == "approve":
            flow.approve(revision, by=user.name)
            said = "approved; the canary decides on the arm"
        elif step == "reject":
            flow.reject(revision, by=user.name)
            said = "rejected; the robot keeps what it runs"
        elif step == "cancel":
            flow.cancel(by=user.name)
            said = "cancelled; the robot keeps what it runs"
        else:
            raise ContractError(f"there is no step {step!r}")
        self._note(user, f"adapt: {step}", adaptation=adaptation_id, **dict(values))
        return said

    def loops(self) -> list[dict[str, Any]]:
        """Return the history of every loop, with the folder it runs in."""
        return [{"folder": str(path.parent), **_read_json(path)} for path in self._histories()]

    def cards(self, checkpoint_id: str = "") -> list[dict[str, Any]]:
        """Return trials, newest first: result cards where decided, else what may be seen meanwhile."""
        cards = [flow.view.card for flow in self.adaptations.all() if flow.view.card]
        for path in sorted(self.trials.glob("*.card.json"), reverse=True):
            cards.append(_read_json(path))
        if checkpoint_id:
            cards = [card for card in cards if checkpoint_id in (card.get("candidate"), card.get("incumbent"))]
        return cards

    def _weights_copy(self, digest: str) -> Path:
        """The publisher consumes the file it is given."""
        staging = Path(tempfile.mkdtemp(prefix="offer-", dir=self.trials.parent)) / "weights.safetensors"
        shutil.copyfile(self.blobs.local_path(digest), staging)
        return staging

    def _remember(self, row: EpisodeRow) -> None:
        """Make sure the graph knows an episode and the label it came with."""
        if row.episode_id in self.graph:
            return
        facts = {"robot": row.robot, "instruction": row.instruction, "policy_versions": [row.policy_version]}
        record_episode(self.graph, row.episode_id, digest=row.digest, facts=facts)
        if row.outcome != "unlabelled":
            record_label(self.graph, row.episode_id, outcome=row.outcome, by=row.labelled_by)

    def _checkpoints_above(self, episode_id: str) -> list[str]:
        kinds = ("policy", "world_model", "judge")
        return [node.id for node in self.graph.affected(episode_id) if node.kind in kinds]

    def _note(self, user: User, action: str, **data: Any) -> None:
        self.log.append(
            action, {"by": user.name, "role": user.role, "tenant": user.tenant, "at_ns": time.time_ns(), **data}
        )

    def job(self, user: User, job_id: str) -> JobRow:
        """Return one job.

        Raises:
            NotFoundError: no such job of this tenant.
        """
        return self.jobs.get(job_id, user.tenant)


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def _number(values: Mapping[str, str], name: str, default: float) -> float:
    text = values.get(name, "").strip()
    try:
        return float(text) if text else float(default)
    except ValueError as error:
        raise ConfigError(f"{name} must be a number, got {text!r}") from error


def _whole(values: Mapping[str, str], name: str, default: int) -> int:
    number = _number(values, name, default)
    if number != int(number):
        raise ConfigError(f"{name} must be a whole number, got {number:g}")
    return int(number)
