"""A plan's path in the camera's picture, where it is known how the camera looks at the arm."""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from cloud_trainer.world_model.capabilities import knows_camera
from gymnast_core.arm.targets import commanded_proprioception
from gymnast_core.records.manifest import Manifest
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import ByteArray, FloatArray

SIDE = 512
"""Pixels of the picture."""
_FINER = 2  # drawn so much larger and averaged, for smooth edges
_OPEN, _CLOSED, _EDGE = (58, 208, 240), (255, 150, 40), (20, 20, 20)


@dataclass(frozen=True)
class PathPicture:
    """The picture, or why there is none.

    Attributes:
        png: SIDE x SIDE pixels; empty where it could not be drawn.
        why_not: in words, empty where it was drawn.
    """

    png: bytes = b""
    why_not: str = ""


def path_picture(
    frame_HWC: ByteArray, pose_P: FloatArray | None, actions_TA: FloatArray, camera: Manifest | None,
    robot: RobotSpec = WIDOWX_250S,
) -> PathPicture:  # fmt: skip
    """Draw where the gripper would go into what the camera sees now.

    Between two steps the line has the colour of the gripper that is commanded there: blue open, orange closed. A cross
    is where it is, each dot a control step, a square the end.

    Args:
        frame_HWC: square picture.
        pose_P: (7,) proprioception where the plan begins; None is not known.
        actions_TA: (T, 7) of the plan.
        camera: a world model that was trained on that camera; None is not known.
        robot: the arm that the plan is for.
    """
    if camera is None:
        return PathPicture(why_not="no world model was named that knows this camera")
    if not knows_camera(camera):
        return PathPicture(why_not=f"{camera.id} is a {camera.architecture}, which knows no camera matrix")
    if pose_P is None:
        return PathPicture(why_not="a picture alone does not say where the arm is; plan from a recorded episode")
    poses_TP = commanded_proprioception(pose_P[None], actions_TA[None], robot)[0]
    places_T2 = projected(poses_TP[:, :3], camera)
    if not ((places_T2 >= 0) & (places_T2 < 1)).all(1).any():
        return PathPicture(why_not=f"the path lies outside of what the camera of {camera.id} sees")
    return PathPicture(_drawn(frame_HWC, places_T2, poses_TP[:, 6] > 0.5))


def projected(points_T3: FloatArray, camera: Manifest) -> FloatArray:
    """Return where points lie in the picture.

    Args:
        points_T3: (T, 3) metres in the arm's base frame.
        camera: of a world model, see capabilities.knows_camera().

    Returns:
        (T, 2) across and down, as shares of the picture's side; NaN behind the camera.
    """
    matrix = np.asarray(camera.config["camera_matrix"], np.float64).reshape(3, 4)
    homogeneous = points_T3.astype(np.float64) @ matrix[:, :3].T + matrix[:, 3]
    depth = np.where(homogeneous[:, 2:] > 0, homogeneous[:, 2:], np.nan)
    pixels = homogeneous[:, :2] / depth  # whole numbers are centres of pixels
    places: FloatArray = ((pixels + 0.5) / camera.config["image_size"]).astype(np.float32)
    return places


def _drawn(frame_HWC: ByteArray, places_T2: FloatArray, open_T: np.ndarray) -> bytes:
    side, unit = SIDE * _FINER, 2.0 * _FINER
    picture = Image.fromarray(frame_HWC).resize((side, side), Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(picture)
    seen = [(float(x) * side, float(y) * side, bool(o)) for (x, y), o in zip(places_T2, open_T, strict=True) if x == x]
    steps = list(itertools.pairwise(seen))
    for width, colour in ((4.5 * unit, _EDGE), (2.5 * unit, None)):  # an edge below: seen on any ground
        for (x, y, _), (to_x, to_y, opened) in steps:
            canvas.line((x, y, to_x, to_y), fill=colour or _of(opened), width=round(width))
    for x, y, opened in seen[1:-1]:
        canvas.circle((x, y), 2.6 * unit, fill=_of(opened), outline=_EDGE, width=_FINER)
    (x, y, opened), (end_x, end_y, ends_open) = seen[0], seen[-1]
    reach = 7 * unit
    for width, colour in ((5 * unit, _EDGE), (2.5 * unit, _of(opened))):
        canvas.line((x - reach, y - reach, x + reach, y + reach), fill=colour, width=round(width))
        canvas.line((x - reach, y + reach, x + reach, y - reach), fill=colour, width=round(width))
    half = 5 * unit
    box = (end_x - half, end_y - half, end_x + half, end_y + half)
    canvas.rectangle(box, fill=_of(ends_open), outline=_EDGE, width=round(unit))
    buffer = io.BytesIO()
    picture.resize((SIDE, SIDE), Image.Resampling.BOX).save(buffer, "PNG")
    return buffer.getvalue()


def _of(opened: bool) -> tuple[int, int, int]:
    return _OPEN if opened else _CLOSED
