"""New start states out of recorded ones: other scenes, other words. What was done to each rides in its lineage.

Scene edits are plug-ins: anything that takes an image and a generator and says what it did. The ones here composite
segmented crops and change colour, light and background; a generative editor is named as "module:attribute".
Instructions come from templates, or from a language model behind the judge's endpoint client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cloud_trainer.jobs.scene_edits import Record, SceneEdit
from cloud_trainer.world_model.compact_data import StartState
from gymnast_core.errors import ConfigError, ShapeError


@dataclass(frozen=True)
class NovelStart:
    """A start state with its history.

    Attributes:
        start: what the world model begins from.
        lineage: {"episode", "step", "seed", "edits": [...], "instruction": {...}}.
    """

    start: StartState
    lineage: Mapping[str, Any]


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
