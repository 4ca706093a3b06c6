"""Checkpoints on the robot: staged, current, and how to get back.

What was released is taken in here, tried, put in force and taken back; scene_attachments.py has what stands beside it,
store_folder.py what both change. One class, and so a long file: these are the steps of one state, and any of them may
end another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from gymnast_core.episodes.durable import write_durably
from gymnast_core.errors import CheckpointError
from gymnast_core.records.gate_rule import REQUIRED, GateNote, GateRule, RunsHere, note_of, still_good
from gymnast_core.records.manifest import Manifest, read_checkpoint, read_manifest, verify_checkpoint
from gymnast_core.records.release import Release, check_release
from gymnast_core.records.signing import SignedDocument, TrustedKeys
from gymnast_ros.uplink.scene_attachments import SceneAttachments
from gymnast_ros.uplink.shelf import write_weights
from gymnast_ros.uplink.store_folder import ADAPTER_OF, StoreFolder
from gymnast_ros.uplink.store_state import Mandate, StoreState

LOG = logging.getLogger(__name__)
GATE_NAME = "gate.json"
"""Beside the weights: the record of the gate that they have passed."""
_DOWNLOAD = "download"
_MOST_STAGED = 8


class RobotStore:
    """The robot's checkpoints. One process owns it; readers may follow `current` at any time.

    Args:
        folder: created when missing.
        robot: our name, as releases spell it.
        trusted: keys releases must be signed with; None refuses every release (local checkpoints alone).
        action_space: what this arm understands.
        keep: how many checkpoints that were current are kept.
        clock_ns: wall clock, for expiry.
        gate: what a release must show before it is taken in.
        tenant: of this robot's certificate; empty without one.

    Attributes:
        adapters: that stand beside a checkpoint.
        scenes: attaches and detaches them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        robot: str,
        trusted: TrustedKeys | None = None,
        action_space: str = "bridge_delta_ee_7",
        keep: int = 3,
        clock_ns: Callable[[], int] = time.time_ns,
        gate: GateRule = REQUIRED,
        tenant: str = "",
    ) -> None:
        self.folder, self._robot, self._trusted = folder, robot, trusted
        self.gate, self._tenant = gate, tenant
        self._action_space, self._clock_ns = action_space, clock_ns
        self._kept = kept = StoreFolder(folder, keep=keep, clock_ns=clock_ns)
        self._lock, self._shelf, self._state = kept.lock, kept.shelf, kept.state
        self.adapters, self.scenes = kept.adapters, SceneAttachments(kept)
        self.download_folder = folder / _DOWNLOAD
        self.download_folder.mkdir(parents=True, exist_ok=True)
        self._drop_ungated()

    @property
    def state(self) -> StoreState:
        """A copy of the state."""
        with self._lock:
            return StoreState.from_bytes(self._state.to_bytes())

    @property
    def highest(self) -> int:
        """Highest release sequence accepted."""
        return self._state.highest

    def current(self) -> Path | None:
        """The folder of the checkpoint in use; safe to ask from another process."""
        return self._shelf.current()

    def current_id(self) -> str | None:
        """Its id."""
        return self._kept.current_id()

    def staged(self) -> Path | None:
        """The newest checkpoint that is verified and was not tried yet."""
        with self._lock:
            return self._shelf.folder_of(self._state.staged[-1]) if self._state.staged else None

    def held(self) -> list[str]:
        """Ids of every checkpoint on this robot: bases for deltas."""
        return self._shelf.held()

    def path(self, checkpoint_id: str) -> Path:
        """The folder of a checkpoint on this robot.

        Raises:
            CheckpointError: it is not here.
        """
        return self._shelf.path(checkpoint_id)

    def check(self, document: SignedDocument) -> Release:
        """Verify a release before anything is fetched; see gymnast_core.records.release.check_release.

        Raises:
            CheckpointError: this robot may not act on it; the subclass is the reason.
        """
        trusted = self._trusted or TrustedKeys([])
        return check_release(
            document,
            trusted,
            robot=self._robot,
            action_space=self._action_space,
            highest=self._state.highest,
            now_ns=self._clock_ns(),
        )

    def check_gate(self, release: Release, record: bytes | None) -> GateNote:
        """Return how a verified release passes this robot's gate; see gymnast_core.records.gate_rule.note_of.

        Args:
            release: see check().
            record: the blob that its gate seal names; None where it names none.

        Raises:
            NotGatedError: it does not.
        """
        with self._lock:
            return note_of(self.gate, release.gated, record, self._in_force(), self._clock_ns())

    def _in_force(self) -> RunsHere:
        """What this robot runs, and what that succeeded here or was made from."""
        current, held = self.current_id() or "", set(self.held())
        before, waiting = set(self._state.history), [current]
        while waiting:
            if (name := waiting.pop()) in held:
                fresh = set(read_manifest(self._shelf.folder_of(name)).parents) - before
                before |= fresh
                waiting += fresh
        return RunsHere(current, before, self._state.ran(), self._tenant)

    def _drop_ungated(self) -> None:
        """Turn down what was taken in under a looser setting and has not come into force."""
        mandated = [] if self._state.mandate is None else [self._state.mandate.checkpoint_id]
        for name in dict.fromkeys((*self._state.staged, *mandated)):
            if why := still_good(self.gate, self._state.gates.get(name), name, self._in_force()):
                LOG.warning("ungated_turned_down checkpoint=%s reason=%s", name, why)
                self.reject(name, why)

    def install(self, checkpoint: Path) -> Path:
        """Copy in a local checkpoint and make it current at once: the first one, shipped with the robot."""
        manifest, weights = read_checkpoint(checkpoint)
        with self._lock:
            if manifest.id not in self.held():
                self._shelf.place(manifest, None, lambda target: write_weights(target, weights))
            if manifest.id not in self._state.installed:
                self._state.installed.append(manifest.id)
            self._kept.make_current(manifest.id)
            return self._shelf.folder_of(manifest.id)

    def stage(
        self, document: SignedDocument, weights: Path | None, lineage: bytes | None = None, gate: bytes | None = None
    ) -> Path:
        """Take in a release and its downloaded weights.

        Args:
            document: the signed release.
            weights: verified bytes on this file system, moved in; None where the checkpoint is here already.
            lineage: the blob that the release's lineage_digest names; None where it names none, or the checkpoint is
                here already.
            gate: the blob that the release's gate seal names; None where it names none.

        Returns:
            The staged folder; staged() gives it, too.

        Raises:
            NotGatedError: see check_gate().
            CheckpointError: not acceptable, or the weights are not those of the release.
        """
        with self._lock:
            release = self.check(document)
            note = self.check_gate(release, gate)
            manifest = self._manifest_of(release, lineage)
            if (base := manifest.config.get(ADAPTER_OF)) is not None and base not in self.held():
                raise CheckpointError(
                    f"adapter {manifest.id} needs {base!r}, which is not here; publish that first, then this again"
                )
            if manifest.id not in self.held():
                if weights is None:
                    raise CheckpointError(f"checkpoint {manifest.id} is not here; fetch its weights first")
                self._shelf.place(manifest, document, lambda target: weights.rename(target))
            verify_checkpoint(self._shelf.folder_of(manifest.id))
            if gate is not None:
                write_durably(self._shelf.folder_of(manifest.id) / GATE_NAME, gate)
            self._state.note_gate(manifest.id, note, self.held())
            self._state.highest = release.sequence
            self._state.failed.pop(manifest.id, None)
            # several candidates may wait to be compared; a rollback is the last word on all of them
            others = [] if release.kind == "rollback" else [name for name in self._state.staged if name != manifest.id]
            new = [manifest.id] if manifest.id != self.current_id() else []
            self._state.staged = [*others, *new][-_MOST_STAGED:]
            if release.kind != "release":
                self._state.mandate = Mandate(manifest.id, release.kind, release.sequence, release.reason)
            self._kept.save()
            self._kept.prune()
            for stray in self.download_folder.iterdir():  # of older releases, which nobody will fetch again
                stray.unlink()
            return self._shelf.folder_of(manifest.id)

    def _manifest_of(self, release: Release, lineage: bytes | None) -> Manifest:
        """What it names; a rollback by id alone names something that this robot must hold."""
        here = release.checkpoint_id in self.held()
        if not release.by_id and not (here and release.lineage_digest):
            return release.whole_manifest(lineage)
        if not here:
            raise CheckpointError(f"this robot does not hold {release.checkpoint_id}, nor has the trainer a copy of it")
        return read_manifest(self._shelf.folder_of(release.checkpoint_id))

    def refuse(self, release: Release, reason: str) -> None:
        """Note a verified release that cannot be acted on, so that it is named and not offered again."""
        with self._lock:
            self._state.highest = max(self._state.highest, release.sequence)
            self._state.note_failure(release.checkpoint_id, reason)
            if release.kind != "release":
                self._state.obeyed = release.sequence
            self._kept.save()

    def skip(self, document: SignedDocument) -> None:
        """Note a verified release that is none of ours (a world model, a judge), so that it is not offered again."""
        with self._lock:
            self._state.highest = self.check(document).sequence
            self._kept.save()

    def swap(self, checkpoint_id: str, *, probation_episodes: int = 0) -> Path:
        """Make a staged checkpoint current; call it between episodes.

        Args:
            checkpoint_id: a staged one.
            probation_episodes: good episodes it needs before it is trusted; 0 trusts it at once.

        Raises:
            CheckpointError: it is not staged, or not intact.
        """
        with self._lock:
            if checkpoint_id not in self._state.staged:
                raise CheckpointError(f"{checkpoint_id!r} is not staged; staged are {self._state.staged}")
            verify_checkpoint(self._shelf.folder_of(checkpoint_id))
            previous = self.current_id()
            # what was released before it is overtaken: trying that afterwards would be a step back
            self._state.overtake(checkpoint_id)
            self._state.put_on_probation(checkpoint_id, previous, probation_episodes)
            self._kept.make_current(checkpoint_id)
            return self._shelf.folder_of(checkpoint_id)

    def obey(self, *, probation_episodes: int = 0) -> Path | None:
        """Put in force what the newest promotion or rollback names, once it has passed its shadow check.

        A rollback takes back what ran until now: that is never offered again unless it is released anew. Its target
        is on probation only if it never passed one here.

        Args:
            probation_episodes: see swap().

        Returns:
            What is in force; None when there was nothing to obey.

        Raises:
            CheckpointError: it is not intact.
        """
        with self._lock:
            mandate, before = self._state.mandate, self.current_id()
            if mandate is None:
                return None
            target = mandate.checkpoint_id
            verify_checkpoint(self.path(target))
            if target != before:
                self._state.overtake(target)
                if mandate.kind == "rollback" and before is not None:
                    self._state.note_failure(before, f"rolled back to {target}: {mandate.reason}")
                    self._state.history = [other for other in self._state.history if other != before]
                    before = next(iter(self._state.ways_back(target, self.held())), None)
                self._state.put_on_probation(target, before, probation_episodes)
                self._kept.make_current(target, spare=self.current_id() or "")
            # afterwards: a kill in between leaves the mandate, and obeying it again changes nothing
            self._state.mandate, self._state.obeyed = None, mandate.sequence
            self._kept.save()
            return self._shelf.folder_of(target)

    def reject(self, checkpoint_id: str, reason: str) -> None:
        """Turn a staged checkpoint down (the shadow check failed): it is not offered again."""
        with self._lock:
            self._state.staged = [other for other in self._state.staged if other != checkpoint_id]
            self._state.note_failure(checkpoint_id, reason)
            if (mandate := self._state.mandate) is not None and mandate.checkpoint_id == checkpoint_id:
                self._state.mandate, self._state.obeyed = None, mandate.sequence
            self._kept.save()
            self._kept.prune()

    def on_episode(self, *, good: bool, reason: str = "", run: str = "") -> bool:
        """Count an episode of the current checkpoint; one that is not good during probation rolls back.

        Args:
            good: the policy behaved; about success, trials decide.
            reason: why not.
            run: name of the episode; one that was counted before is not counted again. Empty is always counted.

        Returns:
            False when it was rolled back: load current() again.
        """
        with self._lock:
            if self._state.probation is None or (run and run in self._state.probation.counted):
                return True
            if run:
                self._state.probation.counted.append(run)
            if not good:
                self.rollback(reason or "an episode failed during probation")
                return False
            self._state.probation.left -= 1
            if self._state.probation.left <= 0:
                self.confirm()
            else:
                self._kept.save()
            return True

    def confirm(self) -> None:
        """End the probation: the current checkpoint stays."""
        with self._lock:
            if (probation := self._state.probation) is not None:
                self._state.proven = [*self._state.proven, probation.checkpoint_id]
            self._state.probation = None
            self._kept.save()
            self._kept.prune()

    def rollback(self, reason: str) -> Path:
        """Go back to the checkpoint before, and never offer this one again.

        Raises:
            CheckpointError: there is none before.
        """
        with self._lock:
            bad = self.current_id()
            target = next(iter(self._state.ways_back(bad or "", self.held())), None)
            if bad is None or target is None:
                raise CheckpointError("there is no earlier checkpoint to go back to")
            LOG.warning("rollback from=%s to=%s reason=%s", bad, target, reason)
            self._state.note_failure(bad, reason)
            self._state.failed.pop(target, None)
            self._state.probation = None
            self._state.history = [other for other in self._state.history if other != bad]
            self._state.remember(target, self._clock_ns())
            self._kept.save()  # first, so that a kill before the rename ends in recover() doing it
            self._kept.make_current(target, spare=bad)
            return self._shelf.folder_of(target)
