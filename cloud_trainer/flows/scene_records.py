"""Which recorded episodes say how a scene is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloud_trainer.jobs.scene_amounts import MOST_HERE, TRACKER_EPISODES
from cloud_trainer.store.episodes import EpisodeCatalogue
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_core.evaluation.purpose import is_measurement
from gymnast_core.types import Outcome

LABELS = (Outcome.SUCCESS.value, Outcome.FAILURE.value)


@dataclass(frozen=True)
class SceneRecords:
    """The episodes of one robot in one scene.

    Attributes:
        catalogue: of its tenant.
        robot: its name.
        scene: the robot's name for it.
        instruction: the task.
    """

    catalogue: EpisodeCatalogue
    robot: str
    scene: str
    instruction: str

    @staticmethod
    def of(catalogue: EpisodeCatalogue, request: Mapping[str, Any]) -> SceneRecords:
        """Return those that an adaptation's request names."""
        return SceneRecords(catalogue, *(str(request[name]) for name in ("robot", "scene", "instruction")))

    def labelled(self) -> list[EpisodeRow]:
        """Labelled episodes of this task in this scene."""
        return [row for row in self._here(self._learnable()) if row.instruction == self.instruction]

    def to_look_at(self, newest: int) -> list[EpisodeRow]:
        """What a trust check looks at, oldest first: the scene's newest, and some of the `newest` from elsewhere."""
        learnable = self._learnable()
        rows = {row.episode_id: row for row in self._here(learnable)[-MOST_HERE:]}
        recent = [row for row in learnable[-newest:] if row.outcome in LABELS]
        elsewhere = sorted((row for row in recent if row.episode_id not in rows), key=lambda row: row.episode_id)
        rows |= {row.episode_id: row for row in elsewhere[:TRACKER_EPISODES]}
        return sorted(rows.values(), key=lambda row: row.sequence)

    def _learnable(self) -> list[EpisodeRow]:
        """Every episode that may be learned from, oldest first."""
        return [row for row in self.catalogue.all() if not is_measurement(row.metadata)]

    def _here(self, rows: Sequence[EpisodeRow]) -> list[EpisodeRow]:
        wanted = (self.robot, self.scene)
        return [row for row in rows if (row.robot, row.metadata.get("scene")) == wanted and row.outcome in LABELS]


def digest_of(rows: Sequence[EpisodeRow]) -> str:
    """Return what changes with every episode and every label."""
    text = "|".join(f"{row.episode_id}={row.outcome}" for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
