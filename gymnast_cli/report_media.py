"""What the report shows moving: episodes as strips of frames, encoded as WebP in data URIs."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from gymnast_core.errors import ShapeError
from gymnast_core.types import ByteArray

STRIP_FRAMES = 8


@dataclass(frozen=True)
class Strip:
    """One episode to look at.

    Attributes:
        frames_FHWC: (F, H, W, 3) uint8, start to end.
        outcome: "success", "failure", or empty when nobody judged it.
    """

    frames_FHWC: ByteArray
    outcome: str = ""

    def __post_init__(self) -> None:
        """Refuse anything but at least one RGB frame."""
        shape, dtype = self.frames_FHWC.shape, self.frames_FHWC.dtype
        if len(shape) != 4 or shape[0] < 1 or shape[3] != 3 or dtype != np.uint8:
            raise ShapeError(f"frames must be (F >= 1, H, W, 3) uint8, got {shape} {dtype}")


@dataclass(frozen=True)
class TaskStrips:
    """The same start state of one task, before and after training.

    Attributes:
        task: name as in result["before"]["tasks"].
        before: episode of the base policy.
        after: episode of the trained policy.
        instruction: what the arm was asked to do.
    """

    task: str
    before: Strip
    after: Strip
    instruction: str = ""


@dataclass(frozen=True)
class DreamPair:
    """A recorded episode and the world model's dream of the same start and actions.

    Attributes:
        task: name of the task.
        real: frames of the recorded episode; outcome as labelled.
        imagined: as many frames as real, dreamt from the first one and the recorded actions; outcome as judged.
        frame_steps: control step of each frame, e.g. (0, 5, 10, 15); empty means 0, 1, 2, ...
    """

    task: str
    real: Strip
    imagined: Strip
    frame_steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse pairs that cannot be shown side by side."""
        real, imagined = len(self.real.frames_FHWC), len(self.imagined.frames_FHWC)
        if real != imagined or (self.frame_steps and len(self.frame_steps) != real):
            raise ShapeError(f"real {real}, imagined {imagined} and {len(self.frame_steps)} frame steps must agree")


@dataclass(frozen=True)
class ReportMedia:
    """What there is to look at; empty parts leave their section out."""

    strips: Sequence[TaskStrips] = ()
    pairs: Sequence[DreamPair] = ()


def strip_view(strips: TaskStrips) -> dict[str, object]:
    """Return what the template shows of one task: two strips of at most STRIP_FRAMES frames."""
    rows = []
    for label, strip in (("before", strips.before), ("after", strips.after)):
        picked = np.linspace(0, len(strip.frames_FHWC) - 1, min(STRIP_FRAMES, len(strip.frames_FHWC))).round()
        frames = strip.frames_FHWC[picked.astype(int)]
        rows.append({"label": label, "outcome": strip.outcome, "src": film_strip(frames), "frames": len(frames)})
    return {"task": strips.task, "instruction": strips.instruction, "rows": rows}


def pair_view(pair: DreamPair) -> dict[str, object]:
    """Return what the template plays of one pair."""
    height, width = pair.real.frames_FHWC.shape[1:3]
    agree = pair.real.outcome == pair.imagined.outcome and bool(pair.real.outcome)
    return {
        "task": pair.task,
        "real": webp_strip(pair.real.frames_FHWC),
        "imagined": webp_strip(pair.imagined.frames_FHWC),
        "real_outcome": pair.real.outcome,
        "imagined_outcome": pair.imagined.outcome,
        "agree": agree,
        "judged": bool(pair.real.outcome and pair.imagined.outcome),
        "frames": len(pair.real.frames_FHWC),
        "steps": json.dumps(list(pair.frame_steps) or list(range(len(pair.real.frames_FHWC)))),
        "width": width,
        "height": height,
    }


def webp_strip(frames_FHWC: ByteArray) -> str:
    """Return F frames side by side as one WebP data URI."""
    return _webp(np.concatenate(list(frames_FHWC), axis=1))


def film_strip(frames_FHWC: ByteArray) -> str:
    """Return F frames side by side with clear gaps between them as one WebP data URI."""
    frames, height, width, _ = frames_FHWC.shape
    gap = max(1, width // 40)
    film_HWC = np.zeros((height, frames * (width + gap) - gap, 4), np.uint8)
    for index, frame_HWC in enumerate(frames_FHWC):
        left = index * (width + gap)
        film_HWC[:, left : left + width, :3] = frame_HWC
        film_HWC[:, left : left + width, 3] = 255
    return _webp(film_HWC)


def _webp(image_HWC: ByteArray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, "WEBP", quality=88, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
