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

from cloud_trainer.judge.client import EndpointClient
from cloud_trainer.practice.instructions import paraphrases, proposed_instructions
from cloud_trainer.practice.scene_edits import (
    ChangeBackground,
    ChangeColour,
    ChangeLight,
    PasteObjects,
    Record,
    SceneEdit,
    cut_out,
    load_edit,
)
from cloud_trainer.world_model.starts import StartState
from gymnast_core.errors import ConfigError, ShapeError
from gymnast_core.jobs.practice import EDITS, NovelConfig
from gymnast_core.types import ByteArray


@dataclass(frozen=True)
class NovelStart:
    """A start state with its history.

    Attributes:
        start: what the world model begins from.
        lineage: {"episode", "step", "seed", "edits": [...], "instruction": {...}}.
    """

    start: StartState
    lineage: Mapping[str, Any]


def novel_starts(
    starts: Sequence[StartState], config: NovelConfig, background_HWC: ByteArray, *, seed: int
) -> list[NovelStart]:
    """Make what a configuration asks for out of recorded beginnings, each drawn at random.

    Raises:
        ConfigError: no start to change, an unknown edit, a crop of an unknown episode, or no instruction that a
            template knows.
    """
    if not config.asked:
        return []
    rng, first = np.random.default_rng(seed), [start for start in starts if start.step == 0]
    if not first:
        raise ConfigError("no start is an episode's beginning (the dream's horizon is shorter); leave novel out")
    edits = [_edit(name, config, first, background_HWC) for name in config.edits] if config.scenes else []
    made = [
        novel_scene(first[int(rng.integers(len(first)))], edits, seed=int(rng.integers(2**31)))
        for _ in range(config.scenes)
    ]
    return made + _reworded(first, config, rng)


def _edit(name: str, config: NovelConfig, starts: Sequence[StartState], background_HWC: ByteArray) -> SceneEdit:
    if name == "paste_objects":
        frames = {start.episode_id: start.frame_HWC for start in starts}
        missing = sorted({crop.episode for crop in config.crops} - frames.keys())
        if missing:
            raise ConfigError(f"crops name episodes {missing}, which this job does not begin from")
        crops = [
            cut_out(frames[crop.episode], background_HWC, crop.box, name=crop.name, source=crop.episode)
            for crop in config.crops
        ]
        return PasteObjects(tuple(crops), config.region)
    if name == "change_light":
        return ChangeLight()
    if name == "change_colour":
        return ChangeColour(background_HWC)
    if name == "change_background":
        return ChangeBackground(background_HWC)
    if ":" not in name:
        raise ConfigError(f"edit {name!r} is not one of {', '.join(EDITS)}, nor package.module:Factory")
    return load_edit(name)


def _reworded(starts: Sequence[StartState], config: NovelConfig, rng: np.random.Generator) -> list[NovelStart]:
    made: list[NovelStart] = []
    client = EndpointClient(config.endpoint) if config.endpoint is not None else None
    for index in rng.permutation(len(starts)):
        start = starts[index]
        if len(made) == config.instructions:
            break
        if client is None:
            texts, how = paraphrases(start.instruction), "template"
        else:
            seed = int(rng.integers(2**31))
            texts = proposed_instructions(client, start.frame_HWC, start.instruction, 3, seed=seed)
            how = client.endpoint.model
        if texts:
            made.append(novel_instruction(start, texts[int(rng.integers(len(texts)))], how=how))
    if client is not None:
        client.close()
    if len(made) < config.instructions:
        raise ConfigError(f"other words for {len(made)} of {config.instructions} starts; name an endpoint, or ask less")
    return made


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


def _lineage(start: StartState, *, seed: int | None = None, edits: Sequence[Record] = ()) -> dict[str, object]:
    return {"episode": start.episode_id, "step": start.step, "seed": seed, "edits": list(edits)}
