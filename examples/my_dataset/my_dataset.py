"""A dataset of your own: a folder an episode, with steps.csv, task.txt and numbered PNG files.

steps.csv has a line a frame: x y z roll pitch yaw gripper (where the arm was), then the seven numbers of the action
that was commanded after it; the last line's action is empty. Positions in metres, angles in radians, 5 Hz.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cloud_trainer.world_model.data.source import SourceInfo, actions_of, reading, shifted
from gymnast_core.errors import CorruptError
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import Episode


@dataclass(frozen=True)
class CsvPng:
    """Keeps cloud_trainer.world_model.data.source.EpisodeSource.

    Attributes:
        folder: of the dataset.
        info: its name, what its actions are, how many steps they are late.
        size: side in pixels that frames are resized to; None keeps them.
    """

    folder: Path
    info: SourceInfo
    size: int | None = None

    def __len__(self) -> int:
        """Episodes."""
        return len(self._episodes())

    def episode(self, index: int) -> Episode:
        """Read one, in our convention: N actions, N+1 observations, action t between frames t and t+1.

        Raises:
            CorruptError: the file and what is wrong with it.
        """
        folder = self._episodes()[index]
        with reading(self.info, folder):  # whatever a damaged file raises is named with dataset and file
            rows_TD = np.loadtxt(folder / "steps.csv", delimiter=",", dtype=np.float32, ndmin=2, converters=_number)
            frames = np.stack([self._frame(folder / f"{number:04d}.png") for number in range(len(rows_TD))])
            episode = Episode(
                episode_id=f"{self.info.name}-{folder.name}", instruction=(folder / "task.txt").read_text().strip(),
                images={"camera": frames}, proprio_TP=rows_TD[:, :7],
                actions_TA=actions_of(self.info, rows_TD[:-1, 7:]),
                time_ns_T=np.arange(len(rows_TD), dtype=np.int64) * WIDOWX_250S.step_ns,
                policy_versions=[self.info.name] * (len(rows_TD) - 1),
            )  # fmt: skip
            return shifted(episode, self.info.lag)

    def _episodes(self) -> list[Path]:
        return sorted(path.parent for path in self.folder.glob("*/steps.csv"))

    def _frame(self, path: Path) -> np.ndarray:
        picture = cv2.imread(str(path))
        if picture is None:
            raise CorruptError(f"{path} is missing or no picture; fetch it again or leave the episode out")
        if self.size is not None:
            picture = cv2.resize(picture, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _number(text: str) -> float:
    return float(text) if text.strip() else 0.0
