"""LeRobot datasets that an export of ours has written: read back as what was recorded."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from cloud_trainer.world_model.data.export.layout import Kept
from cloud_trainer.world_model.data.export.lerobot import JOINTS, PICTURES, RATES
from cloud_trainer.world_model.data.lerobot import OWN, LeRobotSource
from cloud_trainer.world_model.data.lerobot_frames import Row
from cloud_trainer.world_model.data.source import reading
from gymnast_core.episodes.recording import Recording
from gymnast_core.episodes.writer import encode_jpeg
from gymnast_core.errors import CorruptError

_COLUMNS = ("action", "observation.state", "requested_action", "elapsed_ns")


def kept(source: LeRobotSource, index: int) -> Kept | None:
    """Return what an export of ours kept of an episode; None for a dataset of somebody else.

    Raises:
        CorruptError: it is damaged.
    """
    text = source.rows[index].get(OWN)
    if not isinstance(text, str):
        return None
    with reading(source.info, f"{OWN} of episode {index}"):
        return Kept.of(json.loads(text))


def recording(source: LeRobotSource, index: int, kept: Kept) -> Recording:
    """Return an episode of an export of ours as it was recorded; frames of a video are encoded as JPEGs again.

    Raises:
        CorruptError: a column is missing, or of another length than what was kept.
    """
    row = source.rows[index]
    with reading(source.info, f"episode {row['episode_index']} of {source.folder}"):
        table = source.data_rows(row, (*_COLUMNS, JOINTS, RATES))
        if missing := [name for name in _COLUMNS if name not in table[0]]:
            raise CorruptError(f"dataset {source.info.name} was exported by us and lacks {missing} now")
        columns = {name: np.array([entry[name] for entry in table]) for name in (*_COLUMNS, JOINTS, RATES)
                   if name in table[0]}  # fmt: skip
        return kept.recording(
            {camera: _jpegs(source, row, table, camera) for camera in kept.header.cameras},
            state_TP=columns["observation.state"],
            action_TA=columns["action"],
            requested_TA=columns["requested_action"],
            elapsed_T=columns["elapsed_ns"],
            joints_TJ=columns.get(JOINTS),
            rates_TJ=columns.get(RATES),
        )


def _jpegs(source: LeRobotSource, row: Row, table: Sequence[Row], camera: str) -> list[bytes]:
    reader = source.frames[f"{PICTURES}{camera}"]
    return reader.encoded(table) if reader.in_table else [encode_jpeg(frame) for frame in reader.of(row, table)]
