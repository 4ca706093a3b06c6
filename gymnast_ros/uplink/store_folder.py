"""What a robot's checkpoints are kept in: the shelf, the state beside it, and the adapters of scenes, as one.

The shelf holds what was verified and links to the one in use; state.json holds the rest. After a kill at any point,
recover() finds a whole, never older checkpoint in use. Whoever changes anything holds the lock meanwhile.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from gymnast_core.episodes.durable import PARTIAL_SUFFIX, write_durably
from gymnast_core.errors import CheckpointError, CorruptError
from gymnast_core.records.manifest import read_manifest
from gymnast_ros.uplink.scene_adapters import SceneAdapters
from gymnast_ros.uplink.shelf import CheckpointShelf
from gymnast_ros.uplink.store_state import StoreState

LOG = logging.getLogger(__name__)
ADAPTER_OF = "adapter_of"
"""Key of a manifest's config: this checkpoint is a LoRA adapter, and travels without the base it names."""
_STATE = "state.json"


class StoreFolder:
    """A robot's checkpoints on its disk.

    Args:
        folder: created when missing.
        keep: how many checkpoints that were current are kept.
        clock_ns: wall clock.

    Attributes:
        lock: of every change.
        shelf: of the checkpoints.
        adapters: that stand beside one.
        state: what is known of them; save() writes it.
    """

    def __init__(self, folder: Path, *, keep: int, clock_ns: Callable[[], int]) -> None:
        self.folder, self._keep, self.clock_ns = folder, keep, clock_ns
        self.lock = threading.RLock()
        folder.mkdir(parents=True, exist_ok=True)
        self.shelf, self.adapters = CheckpointShelf(folder), SceneAdapters(folder)
        self.state = self._read_state()
        self.recover()

    def current_id(self) -> str | None:
        """Id of the checkpoint in use."""
        path = self.shelf.current()
        return path.name if path else None

    def held(self) -> list[str]:
        """Ids of every checkpoint on this robot."""
        return self.shelf.held()

    def recover(self) -> None:
        """Finish what a kill interrupted; called by the constructor."""
        with self.lock:
            self.shelf.recover()
            self.adapters.settle(self.held())
            for stray in self.folder.glob(f".{_STATE}{PARTIAL_SUFFIX}*"):
                stray.unlink()
            current = self.current_id()
            current = self._leave_scene(current)
            self.state.settle(current, self.held())
            if current is not None and current in self.state.failed and self.state.history:
                earlier = [other for other in self.state.history if other != current and other in self.held()]
                if earlier:
                    self.make_current(earlier[-1], spare=current)
            elif current is not None and (not self.state.history or self.state.history[-1] != current):
                self.state.remember(current, self.clock_ns())
                self.save()

    def _leave_scene(self, current: str | None) -> str | None:
        """What an older version had put in force for one scene alone makes room for what drove everywhere else."""
        path = self.folder / "scenes" / f"{current}.json"
        if current is None or not path.is_file():
            return current
        try:
            base = str(json.loads(path.read_bytes())["base"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is no scene: {error}; roll {current} back at the trainer") from error
        if base in self.held():
            LOG.warning(
                "kept_for_a_scene checkpoint=%s base=%s: the base is in force; keep it there anew", current, base
            )
            self.make_current(base, spare=current)
            current = base
        path.unlink()
        return current

    def make_current(self, checkpoint_id: str, *, spare: str = "") -> None:
        """Save the state, then swap the link; a kill in between is settled by recover().

        What was current is spared until the next change: a reader may have just found it.
        """
        self.state.remember(checkpoint_id, self.clock_ns())
        self.save()
        self.shelf.use(checkpoint_id)
        self.prune(spare)

    def prune(self, spare: str = "") -> None:
        """Delete what is neither current, nor staged, nor among the last that were current."""
        current = self.current_id()
        wanted = {*self.state.history[-self._keep :], *self.state.staged, *self.state.installed, current, spare}
        wanted |= {name for one in self.adapters.all() for name in (one.checkpoint_id, one.base)}
        wanted |= {self.state.mandate.checkpoint_id} if self.state.mandate is not None else set()
        wanted |= {
            read_manifest(self.shelf.folder_of(name)).config.get(ADAPTER_OF) for name in wanted if name in self.held()
        }
        self.shelf.keep(wanted)

    def save(self) -> None:
        """Write the state down."""
        write_durably(self.folder / _STATE, self.state.to_bytes())

    def _read_state(self) -> StoreState:
        path = self.folder / _STATE
        if not path.is_file():
            return StoreState()
        try:
            return StoreState.from_bytes(path.read_bytes())
        except CorruptError as error:
            raise CorruptError(f"{path} {error}; restore it or start afresh") from error
