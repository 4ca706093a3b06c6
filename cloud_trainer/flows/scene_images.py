"""What a scene looks like, learned from the first images of a robot's recorded episodes."""

from __future__ import annotations

from collections import defaultdict

from cloud_trainer.store.episodes import EpisodeCatalogue
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_core.evaluation.recognition import SAME, SceneRecogniser
from gymnast_core.evaluation.scene import Fingerprint
from gymnast_core.types import ByteArray

MOST_EACH = 60
"""Episodes that are looked at of one scene's name, the newest."""
MOST_NAMES = 12
"""Scenes that this one is told from, those of the newest episodes."""


def learned(catalogue: EpisodeCatalogue, robot: str, scene: str, start_HWC: ByteArray) -> SceneRecogniser:
    """Learn to tell a scene from every other that its robot was recorded in.

    A bench that was rearranged under its old name is another scene: what looks otherwise than the start counts as
    elsewhere.

    Args:
        catalogue: of the robot's tenant.
        robot: its name.
        scene: the scene's.
        start_HWC: (H, W, 3) uint8 RGB, how the scene looks now.
    """
    rows: dict[str, list[EpisodeRow]] = defaultdict(list)
    for row in catalogue.all(robot=robot):
        rows[str(row.metadata.get("scene", ""))].append(row)
    start = Fingerprint.of(start_HWC)
    here, elsewhere = [start], list[Fingerprint]()
    newest = sorted(rows, key=lambda name: rows[name][-1].sequence)[-MOST_NAMES:]
    for name in dict.fromkeys((*newest, scene)):
        for row in rows.get(name, [])[-MOST_EACH:]:
            seen = Fingerprint.of(catalogue.film(row, 1, start_HWC.shape[1])[0])
            (here if name == scene and start.distance(seen) <= SAME else elsewhere).append(seen)
    return SceneRecogniser.fitted(here, elsewhere)
