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
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gymnast_core.episodes.durable import PARTIAL_SUFFIX, move_durably, sync_file, sync_folder, write_durably
from gymnast_core.errors import CheckpointError, CorruptError
from gymnast_core.manifest import (
    MANIFEST_NAME,
    WEIGHTS_NAME,
    Manifest,
    read_checkpoint,
    read_manifest,
    verify_checkpoint,
)
from gymnast_core.signing import Release, SignedDocument, TrustedKeys, check_release
from gymnast_core.weights import check_safetensors_file

LOG = logging.getLogger(__name__)
RELEASE_NAME = "release.json"
ADAPTER_OF = "adapter_of"
"""Key of a manifest's config: this checkpoint is a LoRA adapter, and travels without the base it names."""
_CURRENT, _STATE, _CHECKPOINTS, _DOWNLOAD = "current", "state.json", "checkpoints", "download"
_REMEMBERED = 100
_MOST_STAGED = 8


@dataclass
class Probation:
    """A new checkpoint that must prove itself.

    Attributes:
        checkpoint_id: which.
        previous: where to go back to.
        left: good episodes still needed.
        counted: names of the episodes counted so far; none counts twice.
    """

    checkpoint_id: str
    previous: str
    left: int
    counted: list[str] = field(default_factory=list)


@dataclass
class StoreState:
    """What state.json holds.

    Attributes:
        highest: highest release sequence accepted.
        staged: verified candidates newer than the current one, not yet tried, oldest first, at most 8.
        history: ids that were current, oldest first, at most 100; the last one is current.
        failed: id -> why it was rolled back or turned down, the last 100.
        probation: of the current one, if any.
    """

    highest: int = 0
    staged: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    probation: Probation | None = None


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
            return self._parse(json.dumps(asdict(self._state)))

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
        """Verify a release before anything is fetched; see gymnast_core.signing.check_release.

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
            manifest = Manifest.from_bytes(json.dumps(dict(release.manifest)).encode())
            if (base := manifest.config.get(ADAPTER_OF)) is not None and base not in self.held():
                raise CheckpointError(f"adapter {manifest.id} needs {base!r}, which is not here; publish that first")
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
            self._save()
            self._prune()
            for stray in self.download_folder.iterdir():  # of older releases, which nobody will fetch again
                stray.unlink()
            return self._path(manifest.id)

    def skip(self, document: SignedDocument) -> None:
        """Note a verified release that is none of ours (a world model, a judge), so that it is not offered again."""
        with self._lock:
            self._state.highest = self.check(document).sequence
            self._save()

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
            verify_checkpoint(self._path(checkpoint_id))
            previous = self.current_id()
            # what was released before it is overtaken: trying that afterwards would be a step back
            self._state.staged = self._state.staged[self._state.staged.index(checkpoint_id) + 1 :]
            on_trial = probation_episodes > 0 and previous is not None
            self._state.probation = Probation(checkpoint_id, previous or "", probation_episodes) if on_trial else None
            self._make_current(checkpoint_id)
            return self._path(checkpoint_id)

    def reject(self, checkpoint_id: str, reason: str) -> None:
        """Turn a staged checkpoint down (the shadow check failed): it is not offered again."""
        with self._lock:
            self._state.staged = [other for other in self._state.staged if other != checkpoint_id]
            self._state.failed[checkpoint_id] = reason
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
            earlier = [other for other in self._state.history if other != bad and other in self.held()]
            if bad is None or not earlier:
                raise CheckpointError("there is no earlier checkpoint to go back to")
            LOG.warning("rollback from=%s to=%s reason=%s", bad, earlier[-1], reason)
            self._state.failed[bad] = reason
            self._state.probation = None
            self._state.history = [other for other in self._state.history if other != bad]
            self._save()  # first, so that a kill before the rename ends in recover() doing it
            self._make_current(earlier[-1], spare=bad)
            return self._path(earlier[-1])

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
        self._state.history = [other for other in self._state.history if other != checkpoint_id] + [checkpoint_id]

    def _prune(self, spare: str = "") -> None:
        """Delete what is neither current, nor staged, nor among the last that were current."""
        current = self.current_id()
        wanted = {*self._state.history[-self._keep :], *self._state.staged, current, spare}
        wanted |= {read_manifest(self._path(name)).config.get(ADAPTER_OF) for name in wanted if name in self.held()}
        for checkpoint_id in self.held():
            if checkpoint_id not in wanted:
                shutil.rmtree(self._path(checkpoint_id))

    def _save(self) -> None:
        self._state.history = self._state.history[-_REMEMBERED:]
        self._state.failed = dict(list(self._state.failed.items())[-_REMEMBERED:])
        write_durably(self.folder / _STATE, json.dumps(asdict(self._state), sort_keys=True).encode())

    def _read_state(self) -> StoreState:
        path = self.folder / _STATE
        if not path.is_file():
            return StoreState()
        return self._parse(path.read_bytes())

    def _parse(self, text: str | bytes) -> StoreState:
        try:
            fields = json.loads(text)
            probation = Probation(**fields["probation"]) if fields["probation"] else None
            state = StoreState(**{**fields, "probation": probation})
            _check_types(state)
            return state
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CorruptError(f"{self.folder / _STATE} is unreadable: {error}; restore it or start afresh") from error


def _check_types(state: StoreState) -> None:
    """Raise TypeError where a field holds something else than it should."""
    probation = state.probation or Probation("", "", 0)
    names = [*state.staged, *state.history, *state.failed, *state.failed.values(), *probation.counted]
    names += [probation.checkpoint_id, probation.previous]
    lists = all(isinstance(value, list) for value in (state.staged, state.history, probation.counted))
    numbers = all(type(value) is int for value in (state.highest, probation.left))
    if not (lists and numbers and isinstance(state.failed, dict) and all(isinstance(name, str) for name in names)):
        raise TypeError("a field holds a value of another type")


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    sync_file(path)


def checkpoint_kind(folder: Path) -> str:
    """The kind in a checkpoint folder's manifest."""
    return read_manifest(folder).kind
