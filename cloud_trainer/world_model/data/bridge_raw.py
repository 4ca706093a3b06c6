"""BridgeData V2 raw folders.

.../<date>/raw/traj_group*/traj*/ with images0/im_N.jpg, obs_dict.pkl, policy_out.pkl, lang.txt.
Pickles are read by the restricted unpickler only. What was collected before 2021-07-23 has observations that are one
step late, as the collection's own converter corrects by the date of the folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np

from cloud_trainer.world_model.data.files import walk
from cloud_trainer.world_model.data.source import SourceInfo, actions_of, reading, shifted
from cloud_trainer.world_model.data.units import check_sizes
from cloud_trainer.world_model.data.video import read_picture
from cloud_trainer.world_model.dit.restricted_unpickler import load_pickle
from gymnast_core.errors import CorruptError
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import Episode, FloatArray

IN_STEP_FROM = datetime(2021, 7, 23)
_DATED = re.compile(r"\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}")
_PARTS = ("obs_dict.pkl", "policy_out.pkl")


@dataclass(frozen=True)
class BridgeRawSource:
    """All trajectories below a folder.

    Attributes:
        folder: any folder above traj_group*/traj*; symbolic links are followed.
        info: tags.
        camera: images<camera> is read.
        size: side to resize frames to.
        lag_by_date: a trajectory's lag is that of its date; else info.lag is the lag of all.
    """

    folder: Path
    info: SourceInfo = field(default_factory=lambda: SourceInfo("bridge_v2"))
    camera: int = 0
    size: int | None = None
    lag_by_date: bool = True

    @cached_property
    def trajectories(self) -> tuple[Path, ...]:
        """Folders that hold a trajectory or a part of one, in order."""
        return tuple(sorted(place for place, folders, files in walk(self.folder) if _holds_part(folders, files)))

    def __len__(self) -> int:
        """Trajectories."""
        return len(self.trajectories)

    def episode(self, index: int) -> Episode:
        """Read one.

        Raises:
            CorruptError: files missing, hostile or of lengths that do not fit.
            SchemaError: actions are of another width, or of a size that no arm is commanded.
        """
        folder = self.trajectories[index]
        with reading(self.info, folder):
            return self._episode(folder)

    def fingerprint(self, index: int) -> bytes:
        """Return what tells a trajectory from others, without its pictures.

        Raises:
            CorruptError: a file is missing.
        """
        folder = self.trajectories[index]
        with reading(self.info, folder):
            return b"".join((folder / name).read_bytes() for name in _PARTS)

    def _episode(self, folder: Path) -> Episode:
        if missing := [name for name in _PARTS if not (folder / name).is_file()]:
            raise CorruptError(f"{folder} has no {' and no '.join(missing)}; fetch it again or leave it out")
        state_TP = _array(load_pickle(folder / "obs_dict.pkl"), "full_state", folder)[:, :7].astype(np.float32)
        actions = actions_of(self.info, _actions(load_pickle(folder / "policy_out.pkl"), folder, self.info))
        pictures = self._pictures(folder)
        count = len(pictures)
        if state_TP.shape[0] != count or actions.shape[0] not in (count, count - 1):
            raise CorruptError(
                f"{folder}: {count} pictures, {state_TP.shape[0]} states and {actions.shape[0]} actions do not fit; "
                "N + 1 pictures and states need N actions"
            )
        lag, date = self._lag(folder)
        whole = Episode(
            episode_id="bridge-" + "-".join(folder.relative_to(self.folder).parts)[-56:],
            instruction=_instruction(folder),
            images={"main": np.stack([read_picture(path, self.size) for path in pictures])},
            proprio_TP=state_TP,
            actions_TA=actions[: count - 1],
            time_ns_T=np.arange(count, dtype=np.int64) * WIDOWX_250S.step_ns,
            metadata={"source": self.info.name, "folder": str(folder), "batch": date or "undated", "lag": lag},
        )
        return check_sizes(shifted(whole, lag), self.info)

    def _lag(self, folder: Path) -> tuple[int, str]:
        """The lag of a trajectory, and the name of its dated folder."""
        dated = [part for part in folder.resolve().parts if _DATED.fullmatch(part)]
        if not self.lag_by_date or not dated:
            return self.info.lag, dated[-1] if dated else ""
        return int(datetime.strptime(dated[-1], "%Y-%m-%d_%H-%M-%S") < IN_STEP_FROM), dated[-1]

    def _pictures(self, folder: Path) -> list[Path]:
        place = folder / f"images{self.camera}"
        if not place.is_dir():
            others = sorted(path.name for path in folder.glob("images*") if path.is_dir())
            raise CorruptError(
                f"{folder} has no {place.name}, only {', '.join(others) or 'no pictures'}; choose another camera with "
                "--camera N"
            )
        found = sorted(place.glob("im_*.jpg"), key=lambda path: int(path.stem.split("_")[1]))
        for number, path in enumerate(found):
            if path.name != f"im_{number}.jpg":
                raise CorruptError(f"{place} lacks im_{number}.jpg, the next is {path.name}; fetch it again")
        return found


def _holds_part(folders: list[str], files: list[str]) -> bool:
    return any(name in files for name in _PARTS) or any(re.fullmatch(r"images\d+", name) for name in folders)


def _actions(content: object, folder: Path, info: SourceInfo) -> FloatArray:
    """policy_out.pkl is a list of dicts with "actions", in older data a list of arrays."""
    if not info.actions.has_numbers and isinstance(content, list):
        return np.zeros((len(content), 0), np.float32)
    if not isinstance(content, list) or not content:
        raise CorruptError(f"{folder}/policy_out.pkl holds no list of actions")
    rows = [row.get("actions") if isinstance(row, dict) else row for row in content]
    vectors = [row for row in rows if isinstance(row, np.ndarray) and row.ndim == 1]
    if len(vectors) != len(rows):
        keys = sorted({str(key) for row in content if isinstance(row, dict) for key in row})
        raise CorruptError(
            f'{folder}/policy_out.pkl: {len(rows) - len(vectors)} of {len(rows)} entries have no vector "actions"'
            f"{f', they have {keys}' if keys else ''}; --actions none reads the pictures alone"
        )
    if len({len(vector) for vector in vectors}) > 1:
        raise CorruptError(f"{folder}/policy_out.pkl has actions of {sorted({len(v) for v in vectors})} numbers")
    return np.stack(vectors).astype(np.float32)


def _array(content: object, key: str, folder: Path) -> FloatArray:
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.shape[1] < 7:
        raise CorruptError(f"{folder}/obs_dict.pkl has no (T, 7) array {key!r}")
    return value


def _instruction(folder: Path) -> str:
    path = folder / "lang.txt"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    spoken = [line.strip() for line in lines if line.strip() and not line.startswith("confidence:")]
    return spoken[0] if spoken else "unknown"
