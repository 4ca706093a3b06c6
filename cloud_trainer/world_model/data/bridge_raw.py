"""BridgeData V2 raw folders: .../traj_group*/traj*/ with images0/im_N.jpg, obs_dict.pkl, policy_out.pkl, lang.txt.

Pickles are read by the restricted unpickler only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cloud_trainer.world_model.data.source import SourceInfo, actions_of, reading, shifted
from cloud_trainer.world_model.data.video import read_picture
from cloud_trainer.world_model.restricted_unpickler import load_pickle
from gymnast_core.errors import CorruptError
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import Episode, FloatArray


@dataclass(frozen=True)
class BridgeRawSource:
    """All trajectories below a folder.

    Attributes:
        folder: any folder above traj_group*/traj*.
        info: tags.
        camera: images<camera> is read.
        size: side to resize frames to.
    """

    folder: Path
    info: SourceInfo = field(default_factory=lambda: SourceInfo("bridge_v2"))
    camera: int = 0
    size: int | None = None

    @cached_property
    def trajectories(self) -> tuple[Path, ...]:
        """Folders that hold a trajectory, in order."""
        return tuple(sorted(path.parent for path in self.folder.rglob("policy_out.pkl")))

    def __len__(self) -> int:
        """Trajectories."""
        return len(self.trajectories)

    def episode(self, index: int) -> Episode:
        """Read one.

        Raises:
            CorruptError: files missing, hostile or of lengths that do not fit.
        """
        folder = self.trajectories[index]
        with reading(self.info, folder):
            return self._episode(folder)

    def _episode(self, folder: Path) -> Episode:
        state_TP = _array(load_pickle(folder / "obs_dict.pkl"), "full_state", folder)[:, :7].astype(np.float32)
        actions = actions_of(self.info, _actions(load_pickle(folder / "policy_out.pkl"), folder))
        pictures = sorted((folder / f"images{self.camera}").glob("im_*.jpg"), key=lambda p: int(p.stem.split("_")[1]))
        count = len(pictures)
        if state_TP.shape[0] != count or actions.shape[0] not in (count, count - 1):
            raise CorruptError(
                f"{folder}: {count} pictures, {state_TP.shape[0]} states and {actions.shape[0]} actions do not fit; "
                "N + 1 pictures and states need N actions"
            )
        whole = Episode(
            episode_id="bridge-" + "-".join(folder.relative_to(self.folder).parts)[-56:],
            instruction=_instruction(folder),
            images={"main": np.stack([read_picture(path, self.size) for path in pictures])},
            proprio_TP=state_TP,
            actions_TA=actions[: count - 1],
            time_ns_T=np.arange(count, dtype=np.int64) * WIDOWX_250S.step_ns,
            metadata={"source": self.info.name, "folder": str(folder)},
        )
        return shifted(whole, self.info.lag)


def _actions(content: Any, folder: Path) -> FloatArray:
    """policy_out.pkl is a list of dicts with "actions", in older data a list of arrays."""
    if not isinstance(content, list) or not content:
        raise CorruptError(f"{folder}/policy_out.pkl holds no list of actions")
    rows = [row.get("actions") if isinstance(row, dict) else row for row in content]
    vectors = [row for row in rows if isinstance(row, np.ndarray) and row.ndim == 1]
    if len(vectors) != len(rows):
        raise CorruptError(f"{folder}/policy_out.pkl: {len(rows) - len(vectors)} entries have no action vector")
    return np.stack(vectors).astype(np.float32)


def _array(content: Any, key: str, folder: Path) -> FloatArray:
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.shape[1] < 7:
        raise CorruptError(f"{folder}/obs_dict.pkl has no (T, 7) array {key!r}")
    return value


def _instruction(folder: Path) -> str:
    path = folder / "lang.txt"
    lines = path.read_text().splitlines() if path.is_file() else []
    spoken = [line.strip() for line in lines if line.strip() and not line.startswith("confidence:")]
    return spoken[0] if spoken else "unknown"
