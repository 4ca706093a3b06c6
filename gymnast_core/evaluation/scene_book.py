"""The scenes that a trainer's robots know, and the adapters kept for them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from gymnast_core.errors import ShapeError, StorageError
from gymnast_core.evaluation.recognition import SceneRecogniser
from gymnast_core.evaluation.scene import Fingerprint
from gymnast_core.types import ByteArray


@dataclass(frozen=True)
class KnownScene:
    """A scene that was adapted to.

    Attributes:
        name: given by the operator.
        recogniser: tells it by an image.
        adapters: checkpoint ids kept for this scene, newest last.
    """

    name: str
    recogniser: SceneRecogniser
    adapters: tuple[str, ...] = ()


class SceneBook:
    """The scenes a robot knows and the adapters kept for them, in one JSON file."""

    def __init__(self, path: Path) -> None:
        """Open or begin the book.

        Raises:
            StorageError: the file is no such book.
        """
        self.path = path
        self._scenes: dict[str, KnownScene] = {}
        if path.exists():
            try:
                for name, entry in json.loads(path.read_text()).items():
                    recogniser = (
                        SceneRecogniser.from_json(entry["recogniser"])
                        if "recogniser" in entry  # a book of 0.1 holds one image's fingerprint
                        else SceneRecogniser.fitted([Fingerprint.from_json(entry["fingerprint"])], [])
                    )
                    self._scenes[name] = KnownScene(name, recogniser, tuple(entry["adapters"]))
            except (ValueError, KeyError, TypeError, AttributeError, ShapeError) as error:
                raise StorageError(f"{path} is no book of scenes: {error}; move it away to begin anew") from error

    @property
    def scenes(self) -> tuple[KnownScene, ...]:
        """Every known scene."""
        return tuple(self._scenes.values())

    def find(self, frame_HWC: ByteArray) -> KnownScene | None:
        """Return the known scene that a frame shows, or None if it shows none of them.

        Args:
            frame_HWC: (H, W, 3) uint8 RGB.
        """
        seen = Fingerprint.of(frame_HWC)
        nearest = max(self._scenes.values(), key=lambda scene: scene.recogniser.margin(seen), default=None)
        return nearest if nearest is not None and nearest.recogniser.margin(seen) > 0 else None

    def keep(self, name: str, recogniser: SceneRecogniser, adapter: str) -> KnownScene:
        """Keep an adapter for a scene; a known name gains it, and is told by the newest recogniser.

        Returns:
            The scene with the adapter.
        """
        known = self._scenes.get(name)
        others = () if known is None else tuple(old for old in known.adapters if old != adapter)
        self._scenes[name] = KnownScene(name, recogniser, (*others, adapter))
        self._write()
        return self._scenes[name]

    def drop(self, adapter: str) -> None:
        """Forget an adapter everywhere, e.g. because it was reverted."""
        for scene in self.scenes:
            kept = tuple(old for old in scene.adapters if old != adapter)
            self._scenes[scene.name] = KnownScene(scene.name, scene.recogniser, kept)
        self._write()

    def _write(self) -> None:
        entries = {
            scene.name: {"recogniser": scene.recogniser.to_json(), "adapters": list(scene.adapters)}
            for scene in self.scenes
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        staging = self.path.with_name(f".{self.path.name}.partial")
        staging.write_text(json.dumps(entries))
        staging.rename(self.path)
