"""Which recorded episodes say how a scene is."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloud_trainer.jobs.scene_amounts import MOST_HERE, TRACKER_EPISODES, cannot_tell, too_few_elsewhere
from cloud_trainer.jobs.splits import split_of
from cloud_trainer.store.episodes import EpisodeCatalogue
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_core.evaluation.purpose import is_learnable
from gymnast_core.jobs import AdaptSettings
from gymnast_core.outcome import judge_in
from gymnast_core.types import Outcome

KINDEST = 0.5
"""Rate of success at which the fewest starts show that nothing is lost; the job knows the true one."""
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
        """Episodes of this task in this scene that a person labelled: those that a trust check measures by."""
        here = self._here(self._learnable())
        return [row for row in here if row.instruction == self.instruction and not judge_in(row.labelled_by)]

    def refusal(self, config: AdaptSettings) -> str:
        """Say why an adaptation would be refused for what is recorded elsewhere; empty where it would not.

        Where nothing is recorded elsewhere, nothing is asked; where this robot was in this scene before, its job knows
        which of the episodes look otherwise, and asks the same before it practises.

        Args:
            config: of the job.
        """
        if not config.check or config.forgetting >= 1:
            return ""
        learnable = self._learnable()
        elsewhere = [
            row for row in learnable[-config.most_episodes :]
            if row.outcome in LABELS and split_of(row.episode_id) != "world_model"
        ]  # fmt: skip
        if not elsewhere or self._here(learnable):
            return ""
        won = sum(row.outcome == Outcome.SUCCESS.value for row in elsewhere)
        if won in (0, len(elsewhere)):
            return cannot_tell(won, len(elsewhere) - won)
        tasks = Counter(row.instruction for row in elsewhere)
        return too_few_elsewhere({task: (n, KINDEST) for task, n in tasks.items()}, config.forgetting)

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
        return [row for row in self.catalogue.all() if is_learnable(row.metadata)]

    def _here(self, rows: Sequence[EpisodeRow]) -> list[EpisodeRow]:
        wanted = (self.robot, self.scene)
        return [row for row in rows if (row.robot, row.metadata.get("scene")) == wanted and row.outcome in LABELS]


def digest_of(rows: Sequence[EpisodeRow]) -> str:
    """Return what changes with every episode and every label."""
    text = "|".join(f"{row.episode_id}={row.outcome}" for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
