"""The adapters that stand beside a robot's base, one for each scene: a small file each, beside the checkpoints.

The bridge's process writes; the rollout reads the folder whenever an episode starts. A file that makes no sense
attaches nothing: the base drives there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gymnast_core.episodes.durable import PARTIAL_SUFFIX, sync_folder, write_durably
from gymnast_core.errors import CheckpointError, ShapeError
from gymnast_core.evaluation.recognition import SceneRecogniser
from gymnast_core.json_values import JsonObject

LOG = logging.getLogger(__name__)
FOLDER = "adapters"
MOST = 32
"""Scenes with an adapter on one robot; each is held against every first image."""
MOST_COUNTED = 100


@dataclass(frozen=True)
class SceneAdapter:
    """An adapter and where it drives.

    Attributes:
        checkpoint_id: of the adapter.
        base: id of the checkpoint that drives everywhere else; where another is in force, the adapter rests.
        scene: the trainer's name for it.
        recogniser: of the scene.
        since_ns: wall clock, when it was kept.
        left: good episodes it needs before it is trusted; one that goes wrong until then detaches it.
        counted: names of the episodes counted so far; none counts twice.
    """

    checkpoint_id: str
    base: str
    scene: str
    recogniser: SceneRecogniser
    since_ns: int
    left: int = 0
    counted: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
        """JSON values."""
        return {**vars(self), "recogniser": self.recogniser.to_json()}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> SceneAdapter:
        """Return what to_json() wrote.

        Raises:
            ShapeError: it is no recogniser.
            TypeError: a field is missing, unknown or of another type.
        """
        fields = {**values, "recogniser": SceneRecogniser.from_json(values["recogniser"])}
        found = SceneAdapter(**{**fields, "counted": tuple(fields["counted"])})
        texts = (found.checkpoint_id, found.base, found.scene, *found.counted)
        if (
            not all(type(text) is str for text in texts)
            or type(found.since_ns) is not int
            or type(found.left) is not int
        ):
            raise TypeError("a field holds a value of another type")
        return found

    def same_scene(self, name: str, recogniser: SceneRecogniser) -> bool:
        """Whether that is this scene: a name alone may have another view by now."""
        return self.scene == name and self.recogniser.margin(recogniser.centre) > 0


class SceneAdapters:
    """The files of one robot.

    Args:
        store: the robot's store folder.
    """

    def __init__(self, store: Path) -> None:
        self._folder = store / FOLDER

    def all(self) -> list[SceneAdapter]:
        """Every adapter, the oldest first; what is unreadable is passed over, with a word in the log."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                found.append(SceneAdapter.from_json(json.loads(path.read_bytes())))
            except FileNotFoundError:  # detached meanwhile
                continue
            except (OSError, ValueError, TypeError, KeyError, ShapeError, RecursionError) as error:
                LOG.warning("adapter_unreadable file=%s error=%s; drop it and keep it again", path, error)
        return sorted(found, key=lambda one: (one.since_ns, one.checkpoint_id))

    def of(self, base: str) -> list[SceneAdapter]:
        """Those that stand beside this base; the others rest until theirs is back."""
        return [one for one in self.all() if one.base == base]

    def find(self, checkpoint_id: str) -> SceneAdapter | None:
        """Return one by its checkpoint."""
        return next((one for one in self.all() if one.checkpoint_id == checkpoint_id), None)

    def put(self, adapter: SceneAdapter) -> None:
        """Attach one, in place of what was attached for the same scene of the same base.

        Raises:
            CheckpointError: there are too many scenes.
        """
        others = [one for one in self.all() if one.checkpoint_id != adapter.checkpoint_id]
        before = [
            one for one in others if one.base == adapter.base and one.same_scene(adapter.scene, adapter.recogniser)
        ]
        if len(others) - len(before) >= MOST:
            raise CheckpointError(f"{MOST} scenes have an adapter on this robot already; drop one first")
        self._write(adapter)
        for one in before:
            self.drop(one.checkpoint_id)

    def drop(self, checkpoint_id: str) -> bool:
        """Detach one; returns whether it was attached."""
        path = self._path(checkpoint_id)
        if not path.exists():
            return False
        path.unlink()
        sync_folder(self._folder)
        return True

    def count(self, adapter: SceneAdapter, *, good: bool, run: str) -> bool:
        """Count an episode of one on probation; returns whether it may stay."""
        if run and run in adapter.counted:
            return True
        if good:
            counted = (*adapter.counted, run)[-MOST_COUNTED:]
            self._write(replace(adapter, left=adapter.left - 1, counted=counted))
        return good

    def settle(self, held: Collection[str]) -> None:
        """After a kill, forget what is not on this robot, and remove what was left half written."""
        for stray in self._folder.glob(f".*{PARTIAL_SUFFIX}*"):
            stray.unlink()
        for one in self.all():
            if one.checkpoint_id not in held or one.base not in held:
                self.drop(one.checkpoint_id)

    def _write(self, adapter: SceneAdapter) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_durably(self._path(adapter.checkpoint_id), json.dumps(adapter.to_json()).encode())

    def _path(self, checkpoint_id: str) -> Path:
        return self._folder / f"{checkpoint_id}.json"
