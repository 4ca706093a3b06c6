"""Checkpoints on the robot: staged, current, and how to get back.

<folder>/checkpoints/<id>/ holds what was verified, `current` is a symbolic link that changes by one rename, and
state.json says the rest. After a kill at any point, recover() finds a whole, never older checkpoint in use.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gymnast_core.episodes.durable import PARTIAL_SUFFIX, move_durably, sync_file, sync_folder, write_durably
from gymnast_core.errors import CheckpointError, CorruptError
from gymnast_core.records.manifest import (
    MANIFEST_NAME,
    WEIGHTS_NAME,
    Manifest,
    read_checkpoint,
    read_manifest,
    verify_checkpoint,
)
from gymnast_core.records.signing import Release, SignedDocument, TrustedKeys, check_release
from gymnast_core.records.weights import check_safetensors_file
from gymnast_ros.uplink.kept_scenes import keep_for, kept_for
from gymnast_ros.uplink.store_state import Mandate, Probation, StoreState

LOG = logging.getLogger(__name__)
RELEASE_NAME = "release.json"
ADAPTER_OF = "adapter_of"
"""Key of a manifest's config: this checkpoint is a LoRA adapter, and travels without the base it names."""
_CURRENT, _STATE, _CHECKPOINTS, _DOWNLOAD = "current", "state.json", "checkpoints", "download"
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
    ) -> None:
        self.folder, self._robot, self._trusted = folder, robot, trusted
        self._action_space, self._keep, self._clock_ns = action_space, keep, clock_ns
        self._lock = threading.RLock()
        self.download_folder = folder / _DOWNLOAD
        for part in (folder / _CHECKPOINTS, self.download_folder):
            part.mkdir(parents=True, exist_ok=True)
        self._state = self._read_state()
        self.recover()

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
        link = self.folder / _CURRENT
        try:
            return (self.folder / link.readlink()).resolve(strict=True)
        except FileNotFoundError:
            return None

    def current_id(self) -> str | None:
        """Its id."""
        path = self.current()
        return path.name if path else None

    def staged(self) -> Path | None:
        """The newest checkpoint that is verified and was not tried yet."""
        with self._lock:
            return self._path(self._state.staged[-1]) if self._state.staged else None

    def held(self) -> list[str]:
        """Ids of every checkpoint on this robot: bases for deltas."""
        return sorted(path.name for path in (self.folder / _CHECKPOINTS).iterdir() if not path.name.startswith("."))

    def path(self, checkpoint_id: str) -> Path:
        """The folder of a checkpoint on this robot.

        Raises:
            CheckpointError: it is not here.
        """
        if checkpoint_id not in self.held():
            raise CheckpointError(f"checkpoint {checkpoint_id!r} is not on this robot; it has {self.held()}")
        return self._path(checkpoint_id)

    def check(self, document: SignedDocument) -> Release:
        """Verify a release before anything is fetched; see gymnast_core.records.signing.check_release.

        Raises:
            CheckpointError: one of its subclasses says why this robot may not act on it.
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

    def install(self, checkpoint: Path) -> Path:
        """Copy in a local checkpoint and make it current at once: the first one, shipped with the robot."""
        manifest, weights = read_checkpoint(checkpoint)
        with self._lock:
            if manifest.id not in self.held():
                self._place(manifest, None, lambda target: _write(target, weights))
            if manifest.id not in self._state.installed:
                self._state.installed.append(manifest.id)
            self._make_current(manifest.id)
            return self._path(manifest.id)

    def stage(self, document: SignedDocument, weights: Path | None) -> Path:
        """Take in a release and its downloaded weights.

        Args:
            document: the signed release.
            weights: verified bytes on this file system, moved in; None where the checkpoint is here already.

        Returns:
            The staged folder; staged() gives it, too.

        Raises:
            CheckpointError: not acceptable, or the weights are not what the release says.
        """
        with self._lock:
            release = self.check(document)
            manifest = self._manifest_of(release)
            if (base := manifest.config.get(ADAPTER_OF)) is not None and base not in self.held():
                raise CheckpointError(
                    f"adapter {manifest.id} needs {base!r}, which is not here; publish that first, then this again"
                )
            if manifest.id not in self.held():
                if weights is None:
                    raise CheckpointError(f"checkpoint {manifest.id} is not here; fetch its weights first")
                self._place(manifest, document, lambda target: weights.rename(target))
            verify_checkpoint(self._path(manifest.id))
            self._state.highest = release.sequence
            self._state.failed.pop(manifest.id, None)
            # several candidates may wait to be compared; a rollback is the last word on all of them
            others = [] if release.kind == "rollback" else [name for name in self._state.staged if name != manifest.id]
            new = [manifest.id] if manifest.id != self.current_id() else []
            self._state.staged = [*others, *new][-_MOST_STAGED:]
            if release.kind != "release":
                self._state.mandate = Mandate(manifest.id, release.kind, release.sequence, release.reason)
            self._save()
            self._prune()
            for stray in self.download_folder.iterdir():  # of older releases, which nobody will fetch again
                stray.unlink()
            return self._path(manifest.id)

    def _manifest_of(self, release: Release) -> Manifest:
        """What it names; a rollback by id alone names something that this robot must hold."""
        if not release.by_id:
            return Manifest.from_bytes(json.dumps(dict(release.manifest)).encode())
        if release.checkpoint_id not in self.held():
            raise CheckpointError(f"this robot does not hold {release.checkpoint_id}, nor has the trainer a copy of it")
        return read_manifest(self._path(release.checkpoint_id))

    def refuse(self, release: Release, reason: str) -> None:
        """Note a verified release that cannot be acted on, so that it is named and not offered again."""
        with self._lock:
            self._state.highest = max(self._state.highest, release.sequence)
            self._state.note_failure(release.checkpoint_id, reason)
            if release.kind != "release":
                self._state.obeyed = release.sequence
            self._save()

    def skip(self, document: SignedDocument) -> None:
        """Note a verified release that is none of ours (a world model, a judge), so that it is not offered again."""
        with self._lock:
            self._state.highest = self.check(document).sequence
            self._save()

    def swap(
        self, checkpoint_id: str, *, probation_episodes: int = 0, fingerprint: Mapping[str, Any] | None = None
    ) -> Path:
        """Make a staged checkpoint current; call it between episodes.

        Args:
            checkpoint_id: a staged one.
            probation_episodes: good episodes it needs before it is trusted; 0 trusts it at once.
            fingerprint: of the one scene it drives in, what runs now drives elsewhere; None is everywhere.

        Raises:
            CheckpointError: it is not staged, or not intact.
        """
        with self._lock:
            if checkpoint_id not in self._state.staged:
                raise CheckpointError(f"{checkpoint_id!r} is not staged; staged are {self._state.staged}")
            verify_checkpoint(self._path(checkpoint_id))
            previous = self.current_id()
            # what was released before it is overtaken: trying that afterwards would be a step back
            self._state.staged = self._state.staged[self._state.staged.index(checkpoint_id) + 1 :]
            self._put_on_probation(checkpoint_id, previous, probation_episodes)
            keep_for(self.folder, checkpoint_id, fingerprint if previous else None, self._base_of(previous or ""))
            self._make_current(checkpoint_id)
            return self._path(checkpoint_id)

    def _base_of(self, checkpoint_id: str) -> str:
        """What drives where no scene's own checkpoint does."""
        bound = kept_for(self.folder, checkpoint_id)
        return checkpoint_id if bound is None else bound.base

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
                self._state.staged = self._state.staged[_after(self._state.staged, target) :]
                if mandate.kind == "rollback" and before is not None:
                    self._state.note_failure(before, f"rolled back to {target}: {mandate.reason}")
                    self._state.history = [other for other in self._state.history if other != before]
                    before = next(iter(self._ways_back(target)), None)
                self._put_on_probation(target, before, probation_episodes)
                keep_for(self.folder, target, None, "")
                self._make_current(target, spare=self.current_id() or "")
            # afterwards: a kill in between leaves the mandate, and obeying it again changes nothing
            self._state.mandate, self._state.obeyed = None, mandate.sequence
            self._save()
            return self._path(target)

    def _put_on_probation(self, checkpoint_id: str, previous: str | None, episodes: int) -> None:
        trusted = checkpoint_id in self._state.proven or checkpoint_id in self._state.installed
        needed = episodes > 0 and previous is not None and not trusted
        self._state.probation = Probation(checkpoint_id, previous or "", episodes) if needed else None

    def reject(self, checkpoint_id: str, reason: str) -> None:
        """Turn a staged checkpoint down (the shadow check failed): it is not offered again."""
        with self._lock:
            self._state.staged = [other for other in self._state.staged if other != checkpoint_id]
            self._state.note_failure(checkpoint_id, reason)
            if (mandate := self._state.mandate) is not None and mandate.checkpoint_id == checkpoint_id:
                self._state.mandate, self._state.obeyed = None, mandate.sequence
            self._save()
            self._prune()

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
                self._save()
            return True

    def confirm(self) -> None:
        """End the probation: the current checkpoint stays."""
        with self._lock:
            if (probation := self._state.probation) is not None:
                self._state.proven = [*self._state.proven, probation.checkpoint_id]
            self._state.probation = None
            self._save()
            self._prune()

    def rollback(self, reason: str) -> Path:
        """Go back to the checkpoint before, and never offer this one again.

        Raises:
            CheckpointError: there is none before.
        """
        with self._lock:
            bad = self.current_id()
            target = next(iter(self._ways_back(bad or "")), None)
            if bad is None or target is None:
                raise CheckpointError("there is no earlier checkpoint to go back to")
            LOG.warning("rollback from=%s to=%s reason=%s", bad, target, reason)
            self._state.note_failure(bad, reason)
            self._state.failed.pop(target, None)
            self._state.probation = None
            self._state.history = [other for other in self._state.history if other != bad]
            self._remember(target)
            self._save()  # first, so that a kill before the rename ends in recover() doing it
            self._make_current(target, spare=bad)
            return self._path(target)

    def _ways_back(self, bad: str) -> list[str]:
        """What may run instead, best first: what ran before it, and at last what came with the robot."""
        names = dict.fromkeys((*reversed(self._state.history), *reversed(self._state.installed)))
        return [name for name in names if name != bad and name in self.held()]

    def recover(self) -> None:
        """Finish what a kill interrupted; called by the constructor."""
        with self._lock:
            for stray in (self.folder / _CHECKPOINTS).glob(".*"):
                shutil.rmtree(stray)
            for stray in (*self.folder.glob(f".{_CURRENT}-*"), *self.folder.glob(f".{_STATE}{PARTIAL_SUFFIX}*")):
                stray.unlink()
            current = self.current_id()
            self._state.staged = [other for other in self._state.staged if other in self.held() and other != current]
            if self._state.probation and self._state.probation.checkpoint_id != current:
                self._state.probation = None
            if self._state.history and (wanted := self._state.history[-1]) != current and wanted in self.held():
                self._state.history.pop()  # the swap had not happened yet
                if wanted not in self._state.failed and current not in self._state.failed:
                    self._state.staged.append(wanted)
                elif current in self._state.failed:
                    self._state.history.append(wanted)
            if current is not None and current in self._state.failed and self._state.history:
                earlier = [other for other in self._state.history if other != current and other in self.held()]
                if earlier:
                    self._make_current(earlier[-1], spare=current)
            elif current is not None and (not self._state.history or self._state.history[-1] != current):
                self._remember(current)
                self._save()

    def _path(self, checkpoint_id: str) -> Path:
        return self.folder / _CHECKPOINTS / checkpoint_id

    def _place(self, manifest: Manifest, document: SignedDocument | None, weights: Callable[[Path], object]) -> None:
        """Write a checkpoint folder beside the others and give it its name in one rename."""
        target = self._path(manifest.id)
        staging = target.with_name(f".{manifest.id}")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        weights(staging / WEIGHTS_NAME)
        check_safetensors_file(staging / WEIGHTS_NAME)
        write_durably(staging / MANIFEST_NAME, manifest.to_bytes())
        if document is not None:
            write_durably(staging / RELEASE_NAME, document.to_json())
        verify_checkpoint(staging)
        sync_file(staging / WEIGHTS_NAME)
        sync_folder(staging)
        move_durably(staging, target)

    def _make_current(self, checkpoint_id: str, *, spare: str = "") -> None:
        """Save the state, then swap the link; a kill in between is settled by recover().

        What was current is spared until the next change: a reader may have just found it.
        """
        self._remember(checkpoint_id)
        self._save()
        fresh = self.folder / f".{_CURRENT}-{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path(_CHECKPOINTS) / checkpoint_id)
        fresh.rename(self.folder / _CURRENT)
        sync_folder(self.folder)
        self._prune(spare)

    def _remember(self, checkpoint_id: str) -> None:
        if self._state.history[-1:] != [checkpoint_id] or not self._state.since_ns:
            self._state.since_ns = self._clock_ns()
        self._state.history = [other for other in self._state.history if other != checkpoint_id] + [checkpoint_id]

    def _prune(self, spare: str = "") -> None:
        """Delete what is neither current, nor staged, nor among the last that were current."""
        current = self.current_id()
        wanted = {*self._state.history[-self._keep :], *self._state.staged, *self._state.installed, current, spare}
        wanted |= {self._base_of(name) for name in wanted if name is not None}
        wanted |= {self._state.mandate.checkpoint_id} if self._state.mandate is not None else set()
        wanted |= {read_manifest(self._path(name)).config.get(ADAPTER_OF) for name in wanted if name in self.held()}
        for checkpoint_id in self.held():
            if checkpoint_id not in wanted:
                shutil.rmtree(self._path(checkpoint_id))

    def _save(self) -> None:
        write_durably(self.folder / _STATE, self._state.to_bytes())

    def _read_state(self) -> StoreState:
        path = self.folder / _STATE
        if not path.is_file():
            return StoreState()
        try:
            return StoreState.from_bytes(path.read_bytes())
        except CorruptError as error:
            raise CorruptError(f"{path} {error}; restore it or start afresh") from error


def _after(names: list[str], name: str) -> int:
    """Index of what follows a name; 0 where it is not among them."""
    return names.index(name) + 1 if name in names else 0


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    sync_file(path)
