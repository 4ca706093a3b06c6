"""WorldGym's packaging: NNN.mp4 and NNN.npz (arr_0, [T, 10], rescaled) side by side, T frames and T actions.

Row i of the array goes with video frame i in the file. On the sample clips the motion from frame t to t+1 follows
row t-1 best (data/lag.py measures it), so that is the default conversion.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from cloud_trainer.world_model.data.source import SourceInfo, reading, shifted
from cloud_trainer.world_model.data.video import read_video
from cloud_trainer.world_model.dit.actions import CONDITION_DIM, physical_from_bridge
from gymnast_core.errors import CorruptError
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import Episode, FloatArray

MEASURED_LAG = 1


@dataclass(frozen=True)
class WorldGymSource:
    """A folder of mp4 and npz pairs; there is no proprioception and no instruction in it.

    Attributes:
        info: tags; lag is counted as in SourceInfo.
        folder: where the pairs lie.
        size: side to resize frames to.
        instruction: what all of them are said to do.
    """

    folder: Path
    info: SourceInfo = field(default_factory=lambda: SourceInfo("worldgym", lag=MEASURED_LAG))
    size: int | None = None
    instruction: str = "unknown"

    @cached_property
    def stems(self) -> tuple[str, ...]:
        """Names of the pairs, in order.

        Raises:
            CorruptError: a video without actions or the other way round.
        """
        videos, arrays = ({p.stem for p in self.folder.glob(f"*.{kind}")} for kind in ("mp4", "npz"))
        if lonely := sorted(videos ^ arrays):
            raise CorruptError(f"{self.folder}: {lonely[:5]} have a video or an array but not both")
        return tuple(sorted(videos))

    def __len__(self) -> int:
        """Pairs."""
        return len(self.stems)

    def raw_actions(self, index: int) -> FloatArray:
        """Return the stored (T, 10) array.

        Raises:
            CorruptError: no such array in the file.
        """
        path = self.folder / f"{self.stems[index]}.npz"
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                stored = np.asarray(archive["arr_0"], np.float32)
        except (KeyError, ValueError, TypeError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise CorruptError(f"{path} holds no readable arr_0: {error}") from error
        if stored.ndim != 2 or stored.shape[1] != CONDITION_DIM:
            raise CorruptError(f"{path}: actions are {stored.shape}, not (T, {CONDITION_DIM})")
        return stored

    def episode(self, index: int) -> Episode:
        """Read one pair; the last stored action has no frame after it and is left out.

        Raises:
            CorruptError: damaged, or of lengths that do not fit.
        """
        with reading(self.info, self.folder / self.stems[index]):
            return self._episode(index)

    def _episode(self, index: int) -> Episode:
        stem, stored = self.stems[index], self.raw_actions(index)
        frames = read_video(self.folder / f"{stem}.mp4", size=self.size)
        if frames.shape[0] != stored.shape[0]:
            raise CorruptError(f"{self.folder}/{stem}: {frames.shape[0]} frames but {stored.shape[0]} actions")
        count = frames.shape[0]
        whole = Episode(
            episode_id=f"worldgym-{stem}",
            instruction=self.instruction,
            images={"main": frames},
            proprio_TP=np.zeros((count, 7), np.float32),
            actions_TA=physical_from_bridge(stored)[:-1],
            time_ns_T=np.arange(count, dtype=np.int64) * WIDOWX_250S.step_ns,
            metadata={"source": self.info.name, "proprioception": False},
        )
        return shifted(whole, self.info.lag)
