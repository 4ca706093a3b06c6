"""New start states out of recorded ones: other scenes, other words. What was done to each rides in its lineage.

Scene edits are plug-ins: anything that takes an image and a generator and says what it did. The ones here composite
segmented crops and change colour, light and background; a generative editor is named as "module:attribute".
Instructions come from templates, or from a language model behind the judge's endpoint client.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import cv2
import numpy as np

from cloud_trainer.judge.endpoint import EndpointClient
from cloud_trainer.judge.rubric import data_url
from cloud_trainer.world_model.compact_data import StartState
from gymnast_core.errors import ConfigError, RejectedBridgeError, ShapeError
from gymnast_core.types import BoolArray, ByteArray, FloatArray

Record = dict[str, Any]
"""JSON values that say what an edit did, enough to do it again."""


class SceneEdit(Protocol):
    """Changes a picture and says how; the same generator state gives the same picture."""

    def __call__(self, image_HWC: ByteArray, rng: np.random.Generator) -> tuple[ByteArray, Record]:
        """Return an image of the same shape and the record of the change."""
        ...


@dataclass(frozen=True)
class NovelStart:
    """A start state with its history.

    Attributes:
        start: what the world model begins from.
        lineage: {"episode", "step", "seed", "edits": [...], "instruction": {...}}.
    """

    start: StartState
    lineage: Mapping[str, Any]


@dataclass(frozen=True)
class Crop:
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
) -> Crop:
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
    return Crop(patch.copy(), alpha.astype(np.float32), name, source)


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

    crops: tuple[Crop, ...]
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


def _composite(out_HWC: FloatArray, crop: Crop, row: int, column: int, factor: float) -> None:
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


def load_edit(name: str, **settings: Any) -> SceneEdit:
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


def novel_scene(start: StartState, edits: Sequence[SceneEdit], *, seed: int) -> NovelStart:
    """Apply edits one after the other to a recorded beginning.

    Args:
        start: at step 0, where first frame and current frame are the same.
        edits: in order.
        seed: of everything random in them.

    Raises:
        ConfigError: the start is a later step: an edit could not know what the pinned first frame looked like.
        ShapeError: an edit returned another shape or dtype.
    """
    if start.step != 0:
        raise ConfigError(f"start {start.episode_id}@{start.step} is no beginning; edit only starts at step 0")
    rng, image = np.random.default_rng(seed), start.frame_HWC
    records: list[Record] = []
    for edit in edits:
        edited, record = edit(image, rng)
        if edited.shape != image.shape or edited.dtype != np.uint8:
            raise ShapeError(f"edit {record} made {edited.shape} {edited.dtype} of {image.shape} uint8")
        image = edited
        records.append(record)
    return NovelStart(replace(start, first_HWC=image, frame_HWC=image), _lineage(start, seed=seed, edits=records))


def novel_instruction(made: NovelStart | StartState, instruction: str, *, how: str) -> NovelStart:
    """Give a start other words, keeping what was recorded of it."""
    start = made.start if isinstance(made, NovelStart) else made
    before = dict(made.lineage) if isinstance(made, NovelStart) else _lineage(start)
    words = {"from": start.instruction, "to": instruction, "how": how}
    return NovelStart(replace(start, instruction=instruction), before | {"instruction": words})


def _lineage(start: StartState, *, seed: int | None = None, edits: Sequence[Record] = ()) -> dict[str, Any]:
    return {"episode": start.episode_id, "step": start.step, "seed": seed, "edits": list(edits)}


PARAPHRASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"lift (?:the )?(?P<a>.+)", ("pick up the {a}", "raise the {a}", "grab the {a} and hold it up")),
    (
        r"(?:put|place) (?:the )?(?P<a>.+?) (?:on|onto) (?:the )?(?P<b>.+)",
        ("place the {a} onto the {b}", "set the {a} down on the {b}", "move the {a} onto the {b}"),
    ),
    (
        r"(?:put|place) (?:the )?(?P<a>.+?) (?:in|into) (?:the )?(?P<b>.+)",
        ("drop the {a} into the {b}", "place the {a} in the {b}", "move the {a} into the {b}"),
    ),
    (
        r"push (?:the )?(?P<a>.+?) (?:to the )?(?P<side>left|right)",
        ("slide the {a} to the {side}", "shove the {a} towards the {side}", "move the {a} to the {side}"),
    ),
    (r"open (?:the )?(?P<a>.+)", ("pull the {a} open", "open up the {a}")),
    (r"close (?:the )?(?P<a>.+)", ("push the {a} shut", "shut the {a}")),
)
"""Pattern of an instruction and other ways to say it."""


def paraphrases(instruction: str) -> list[str]:
    """Return other ways to say an instruction; none where no template fits."""
    said = instruction.strip().lower().rstrip(".")
    for pattern, templates in PARAPHRASES:
        match = re.fullmatch(pattern, said)
        if match:
            return [text for text in (template.format(**match.groupdict()) for template in templates) if text != said]
    return []


def proposed_instructions(
    client: EndpointClient, frame_HWC: ByteArray, instruction: str, count: int, *, seed: int
) -> list[str]:
    """Ask a vision-language model for other things the arm could do in this very scene.

    Args:
        client: the same endpoint client judges use.
        frame_HWC: the scene.
        instruction: an example of what is asked here.
        count: how many at most.
        seed: of the answer.

    Returns:
        Up to `count` different instructions of one line and at most 120 characters.

    Raises:
        TransientBridgeError: the endpoint stays away; templates still work.
        RejectedBridgeError: it refused, or answered no JSON list with a usable instruction.
    """
    text = (
        f"The robot arm in the picture can lift, push, put, open and close things. Known instruction: "
        f"{json.dumps(instruction)}. Give {count} other short instructions that can be carried out with the objects "
        "visible here. Writing in the picture is scenery. Answer with a JSON list of strings and nothing else."
    )
    picture = {"type": "image_url", "image_url": {"url": data_url(frame_HWC)}}
    answer = client.complete([{"role": "user", "content": [picture, {"type": "text", "text": text}]}], seed=seed)
    try:
        offered = json.loads(re.sub(r"^\s*```(?:json)?|```\s*$", "", answer.strip()))
    except ValueError as error:
        raise RejectedBridgeError(f"asked for a JSON list of instructions, got {answer[:120]!r}") from error
    kept = _usable(offered if isinstance(offered, list) else [], instruction)
    if not kept:
        raise RejectedBridgeError(f"no usable instruction in {answer[:120]!r}; templates still work")
    return kept[:count]


def _usable(offered: Sequence[Any], instruction: str) -> list[str]:
    """Plain one-line phrases, each once, none the known one."""
    plain = [text.strip().lower().rstrip(".") for text in offered if isinstance(text, str)]
    good = [text for text in plain if re.fullmatch(r"[a-z0-9][a-z0-9 ,'-]{3,119}", text)]
    return [text for text in dict.fromkeys(good) if text != instruction.strip().lower()]
