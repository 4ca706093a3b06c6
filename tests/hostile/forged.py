"""Episode files and pictures no recorder of ours writes."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gymnast_core.episodes import EpisodeHeader, EpisodeWriter, encoding
from gymnast_core.episodes import messages as m
from gymnast_core.episodes.messages import EpisodeEnd
from gymnast_core.episodes.writer import encode_jpeg

GOOD_JPEG = encode_jpeg(np.zeros((64, 64, 3), np.uint8))
FRAME = GOOD_JPEG.index(b"\xff\xc0")
"""Where the frame header of GOOD_JPEG begins; it has 19 bytes."""


def frame_header(side: int) -> bytes:
    header = GOOD_JPEG[FRAME : FRAME + 19]
    return header[:5] + struct.pack(">HH", side, side) + header[9:]


def deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


def progressive(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan is sent again and again, each decoded over the whole image."""
    image = np.zeros((side, side, 3), np.uint8)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + b"\xff\xd9"


PICTURES = {
    "a frame header behind a stuffed byte": GOOD_JPEG[:FRAME]
    + b"\xff\x00" + struct.pack(">H", 21) + frame_header(32_000) + frame_header(64) + GOOD_JPEG[FRAME + 19 :],
    "two frame headers": GOOD_JPEG[:FRAME] + frame_header(64) + frame_header(32_000) + GOOD_JPEG[FRAME + 19 :],
    "fill bytes": GOOD_JPEG[:FRAME] + b"\xff\xff" + frame_header(32_000) + GOOD_JPEG[FRAME + 19 :],
    "32000 x 32000": GOOD_JPEG[:FRAME] + frame_header(32_000) + GOOD_JPEG[FRAME + 19 :],
    "thousands of scans": progressive(2048, 3000),
    "a PNG": cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes(),
}  # fmt: skip


def forged(
    folder: Path,
    episode_id: str,
    *,
    header: str | None = None,
    end: str | None = None,
    jpeg: bytes = GOOD_JPEG,
    proprio: float = 0.0,
    version: str = "p",
    others: Sequence[tuple[str, bytes]] = (),
    frames: int = 2,
) -> Path:
    """Write an episode whose documents, pictures and numbers are what is given instead of what is usual.

    Args:
        folder: where.
        episode_id: its id.
        header: JSON of the header, with ID for the id.
        end: JSON of the end.
        jpeg: every frame.
        proprio: every proprioceptive value of the last observation.
        version: policy version.
        others: further (topic, CDR bytes).
        frames: observations.
    """
    usual = EpisodeHeader(episode_id, "go", "wx250s", 0, ("cam",))
    writer = EpisodeWriter(folder, usual)
    document = usual.to_json() if header is None else header.replace("ID", episode_id)
    writer.add(m.HEADER_TOPIC, 0, encoding.encode_string(document))
    for topic, data in others:
        writer.add(topic, 0, data)
    for stamp in range(frames):
        writer.add(m.image_topic("cam"), stamp, encoding.encode_image(stamp, "cam", jpeg))
        values = [proprio if stamp == frames - 1 else 0.0] * 7
        writer.add(m.PROPRIO_TOPIC, stamp, encoding.encode_named(stamp, m.PROPRIO_NAMES, values))
        if stamp < frames - 1:
            writer.add(m.COMMANDED_TOPIC, stamp, encoding.encode_named(stamp, m.ACTION_NAMES, [0.0] * 7))
            writer.add(m.VERSION_TOPIC, stamp, encoding.encode_string(version))
    if end is not None:
        writer.add(m.OUTCOME_TOPIC, frames, encoding.encode_string(end))
    return writer.finish(EpisodeEnd())


def header_json(**fields: Any) -> str:
    return json.dumps({**asdict(EpisodeHeader("ID", "go", "wx250s", 0, ("cam",))), **fields})


def header_text(metadata: str = "{}", instruction: str = '"go"', seed: str = "null") -> str:
    """A header whose parts are JSON text, so that they may be what no encoder writes."""
    return (
        f'{{"episode_id":"ID","instruction":{instruction},"robot":"r","created_ns":0,"cameras":["cam"],'
        f'"control_hz":5,"seed":{seed},"metadata":{metadata},"schema":"{m.SCHEMA_VERSION}"}}'
    )


FILES: dict[str, dict[str, Any]] = {
    "metadata 900 deep": {"header": header_text(deep(900))},
    "metadata 100,000 deep": {"header": header_text(deep(100_000))},
    "end 900 deep": {"end": f'{{"outcome":"success","metadata":{deep(900)}}}'},
    "half a character in the instruction": {"header": header_text(instruction='"lift \\ud800"')},
    "half a character in the metadata": {"header": header_text('{"task":"\\udfff"}')},
    "a zero byte in the instruction": {"header": header_text(instruction='"lift\\u0000"')},
    "an instruction of a million characters": {"header": header_json(instruction="x" * 1_000_000)},
    "a number of 5,000 digits": {"header": header_text(f'{{"n":{"9" * 5000}}}')},
    "a seed of 4,000 digits": {"header": header_text(seed="9" * 4000)},
    "not a number": {"header": header_text('{"n":NaN}')},
    "too large for a number": {"header": header_text('{"n":1e999}')},
    "an instruction that is a list": {"header": header_text(instruction="[[]]")},
    "a version of a million characters": {"version": "v" * 1_000_000},
    "a labeller with half a character": {"end": '{"outcome":"success","labelled_by":"\\ud800"}'},
    "proprioception of 1e30": {"proprio": 1e30},
    "a pose 50 m away": {"proprio": 50.0},
    "40,000 annotations": {
        "others": [(m.ANNOTATION_TOPIC, encoding.encode_string('{"stamp_ns":0,"step":0,"text":"x","by":"y"}'))] * 40_000
    },
    "messages on 500 topics": {
        "others": [
            (f"/camera/c{number}/image/compressed", encoding.encode_image(0, "c", GOOD_JPEG)) for number in range(500)
        ]
    },
    **{name: {"jpeg": jpeg} for name, jpeg in PICTURES.items()},
}  # fmt: skip
"""Files that must be set aside, each by what is wrong with it."""
