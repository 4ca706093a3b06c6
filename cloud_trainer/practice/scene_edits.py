"""Changes to a picture of a scene: pasted objects, colour, light, background, and plug-ins for generative edits."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import cv2
import numpy as np

from gymnast_core.errors import ConfigError, ShapeError
from gymnast_core.types import BoolArray, ByteArray, FloatArray

Record = dict[str, Any]
"""JSON values that say what an edit did, enough to do it again."""


class SceneEdit(Protocol):
    """Changes a picture and says how; the same generator state gives the same picture."""

    def __call__(self, image_HWC: ByteArray, rng: np.random.Generator) -> tuple[ByteArray, Record]:
        """Return an image of the same shape and the record of the change."""
        ...


@dataclass(frozen=True)
class CutOut:
    """A segmented object.

    Attributes:
        image_HWC: (h, w, 3) uint8 RGB.
        alpha_HW: (h, w) float32, 0 outside, 1 inside, feathered at the edge.
        name: what to call it in an instruction.
        source: episode and box it was cut from.
    """

    image_HWC: ByteArray
    alpha_HW: FloatArray
    name: str
    source: str


def cut_out(
    image_HWC: ByteArray,
    background_HWC: ByteArray,
    box: tuple[int, int, int, int],
    *,
    name: str,
    source: str,
    threshold: float = 24.0,
) -> CutOut:
    """Segment the largest object inside a box by its difference from the empty scene.

    Args:
        image_HWC: (H, W, 3) uint8 with the object.
        background_HWC: the same camera without it, e.g. world_model.compact_data.median_background.
        box: top, left, bottom, right in pixels.
        name: what to call it.
        source: where it comes from, for the lineage.
        threshold: grey levels of difference that count as object.

    Raises:
        ConfigError: nothing in the box differs from the background.
    """
    top, left, bottom, right = box
    patch, empty = image_HWC[top:bottom, left:right], background_HWC[top:bottom, left:right]
    differs = _difference(patch, empty) > threshold
    count, labels, stats, _ = cv2.connectedComponentsWithStats(differs.astype(np.uint8), connectivity=8)
    if count < 2:
        raise ConfigError(f"nothing in box {box} of {source} differs from the background by {threshold}; move the box")
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    alpha = cv2.GaussianBlur((labels == largest).astype(np.float32), (3, 3), 0)
    return CutOut(patch.copy(), alpha.astype(np.float32), name, source)


def _difference(first_HWC: ByteArray, second_HWC: ByteArray) -> FloatArray:
    if first_HWC.shape != second_HWC.shape:
        raise ShapeError(f"images {first_HWC.shape} and {second_HWC.shape} must be of the same camera")
    apart: FloatArray = np.abs(first_HWC.astype(np.float32) - second_HWC.astype(np.float32)).max(-1)
    return apart


@dataclass(frozen=True)
class PasteObjects:
    """Objects and distractors from other episodes, with a soft shadow.

    Attributes:
        crops: to choose from.
        region: top, left, bottom, right in pixels, where centres may lie.
        count: how many to paste, without repeats.
        scale: smallest and largest factor.
    """

    crops: tuple[CutOut, ...]
    region: tuple[int, int, int, int]
    count: int = 1
    scale: tuple[float, float] = (0.8, 1.2)

    def __post_init__(self) -> None:
        """Refuse what cannot be pasted."""
        top, left, bottom, right = self.region
        if not 1 <= self.count <= len(self.crops) or top >= bottom or left >= right or self.scale[0] <= 0:
            raise ConfigError(f"count {self.count} of {len(self.crops)} crops into region {self.region} cannot be")

    def __call__(self, image_HWC: ByteArray, rng: np.random.Generator) -> tuple[ByteArray, Record]:
        """See SceneEdit."""
        out = image_HWC.astype(np.float32)
        placed = []
        for index in rng.permutation(len(self.crops))[: self.count]:
            crop, factor = self.crops[index], float(rng.uniform(*self.scale))
            row = int(rng.integers(self.region[0], self.region[2]))
            column = int(rng.integers(self.region[1], self.region[3]))
            _composite(out, crop, row, column, factor)
            placed.append({"object": crop.name, "from": crop.source, "at": [row, column], "scale": round(factor, 4)})
        return np.clip(np.rint(out), 0, 255).astype(np.uint8), {"edit": "paste_objects", "placed": placed}


def _composite(out_HWC: FloatArray, crop: CutOut, row: int, column: int, factor: float) -> None:
    """Blend a scaled crop, centred at (row, column), and darken what lies just below it; in place."""
    size = (max(1, round(crop.image_HWC.shape[1] * factor)), max(1, round(crop.image_HWC.shape[0] * factor)))
    colour = cv2.resize(crop.image_HWC.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    alpha = cv2.resize(crop.alpha_HW, size, interpolation=cv2.INTER_LINEAR)
    full = np.zeros(out_HWC.shape[:2], np.float32)
    layer = np.zeros_like(out_HWC)
    top, left = row - size[1] // 2, column - size[0] // 2
    rows = slice(max(0, top), min(out_HWC.shape[0], top + size[1]))
    columns = slice(max(0, left), min(out_HWC.shape[1], left + size[0]))
    inside = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    full[rows, columns], layer[rows, columns] = alpha[inside], colour[inside]
    shadow = np.roll(cv2.GaussianBlur(full, (0, 0), max(1.0, size[1] / 8)), max(1, size[1] // 6), axis=0)
    out_HWC *= 1 - 0.35 * (shadow * (1 - full))[..., None]
    out_HWC += full[..., None] * (layer - out_HWC)


@dataclass(frozen=True)
class ChangeLight:
    """Brightness, contrast curve and a gradient across the image.

    Attributes:
        gain: smallest and largest factor.
        gamma: smallest and largest exponent.
        slope: largest relative change from one side to the other.
    """

    gain: tuple[float, float] = (0.7, 1.25)
    gamma: tuple[float, float] = (0.8, 1.25)
    slope: float = 0.3

    def __call__(self, image_HWC: ByteArray, rng: np.random.Generator) -> tuple[ByteArray, Record]:
        """See SceneEdit."""
        gain, gamma = float(rng.uniform(*self.gain)), float(rng.uniform(*self.gamma))
        slope, angle = float(rng.uniform(0, self.slope)), float(rng.uniform(0, 2 * np.pi))
        height, width = image_HWC.shape[:2]
        down, across = np.meshgrid(np.linspace(-0.5, 0.5, height), np.linspace(-0.5, 0.5, width), indexing="ij")
        ramp = 1 + slope * (np.cos(angle) * across + np.sin(angle) * down)
        lit = 255.0 * (image_HWC / 255.0) ** gamma * gain * ramp[..., None]
        record = {"edit": "change_light", "gain": gain, "gamma": gamma, "slope": slope, "angle_rad": angle}
        return np.clip(np.rint(lit), 0, 255).astype(np.uint8), record


@dataclass(frozen=True)
class ChangeColour:
    """Turn the hue and the saturation of everything that differs from the background: other objects, same shapes.

    Attributes:
        background_HWC: the empty scene; None turns the whole picture.
        hue: largest turn in degrees.
        saturation: smallest and largest factor.
        threshold: grey levels of difference that count as object.
    """

    background_HWC: ByteArray | None = None
    hue: float = 180.0
    saturation: tuple[float, float] = (0.7, 1.3)
    threshold: float = 24.0

    def __call__(self, image_HWC: ByteArray, rng: np.random.Generator) -> tuple[ByteArray, Record]:
        """See SceneEdit."""
        turn, factor = float(rng.uniform(-self.hue, self.hue)), float(rng.uniform(*self.saturation))
        hsv = cv2.cvtColor(image_HWC.astype(np.float32) / 255.0, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + turn) % 360.0
        hsv[..., 1] = np.clip(hsv[..., 1] * factor, 0, 1)
        turned = np.rint(255.0 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)).astype(np.uint8)
        everywhere = np.ones(image_HWC.shape[:2], bool)
        where: BoolArray = (
            everywhere if self.background_HWC is None else _difference(image_HWC, self.background_HWC) > self.threshold
        )
        record = {"edit": "change_colour", "hue_deg": turn, "saturation": factor, "objects_only": not where.all()}
        return np.where(where[..., None], turned, image_HWC), record


@dataclass(frozen=True)
class ChangeBackground:
    """Put another surface behind arm and objects.

    Attributes:
        background_HWC: the empty scene of this camera.
        others: names and replacement pictures of the same size.
        threshold: grey levels below which a pixel is background.
    """

    background_HWC: ByteArray
    others: Mapping[str, ByteArray] = field(default_factory=dict)
    threshold: float = 24.0

    def __call__(self, image_HWC: ByteArray, rng: np.random.Generator) -> tuple[ByteArray, Record]:
        """See SceneEdit."""
        front = (_difference(image_HWC, self.background_HWC) > self.threshold).astype(np.float32)
        alpha = cv2.GaussianBlur(front, (3, 3), 0)[..., None]
        if self.others:
            name = sorted(self.others)[int(rng.integers(len(self.others)))]
            behind = self.others[name].astype(np.float32)
        else:
            colour = rng.integers(30, 226, 3)
            name, behind = f"plain {colour.tolist()}", np.broadcast_to(colour, image_HWC.shape).astype(np.float32)
        mixed = alpha * image_HWC + (1 - alpha) * behind
        return np.clip(np.rint(mixed), 0, 255).astype(np.uint8), {"edit": "change_background", "to": name}


def load_edit(name: str, **settings: object) -> SceneEdit:
    """Make a plug-in edit, e.g. a diffusion in-painter, from "package.module:Factory".

    Raises:
        ConfigError: no such module or attribute.
    """
    module, _, attribute = name.partition(":")
    try:
        edit: SceneEdit = getattr(importlib.import_module(module), attribute)(**settings)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"scene edit {name!r} cannot be loaded ({error}); write package.module:Factory") from error
    return edit
