"""What a world model takes and how far it may be used: declared in its checkpoint, asked before anything is loaded.

A checkpoint says it in its manifest, as config["capabilities"]. One from before this was declared takes the arm's
actions, as every world model then did, with the image size that it recorded.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from gymnast_core.bounds import parsed_object
from gymnast_core.errors import CheckpointError, ConfigError, CorruptError
from gymnast_core.jobs.practice import DreamConfig
from gymnast_core.json_values import JsonValue
from gymnast_core.records.manifest import BOUNDS_NAME, MAX_CHARACTERS, Manifest, read_manifest
from gymnast_core.robots import is_known, robot_named
from gymnast_core.settings import Count, CountOrZero, Positive, Settings, Texts
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import ACTION_DIM

CAPABILITIES = "capabilities"
"""Key in a manifest's config."""
COMPACT = "compact_world_model"
"""Architecture of the compact world model."""
CAMERA_DIM = 6
"""Metres and radians that a camera moves in a step, in its own frame."""


class ActionKind(str, enum.Enum):
    """What the numbers of a step mean, in a dataset and to a world model."""

    EE_DELTA7 = "ee_delta7"
    """7 numbers: metres, radians, gripper 0 closed / 1 open, deltas on the previous target."""
    JOINT = "joint"
    """Absolute joint targets of the arm (6) and the gripper; a dataset's are turned into ee_delta7."""
    CAMERA = "camera"
    """6 numbers: how far the camera moved, metres and radians."""
    TEXT = "text"
    """An instruction and no numbers."""
    NONE = "none"
    """Neither: video under the null action."""

    @property
    def has_numbers(self) -> bool:
        """Whether a dataset of it stores numbers for every step."""
        return self not in (ActionKind.TEXT, ActionKind.NONE)

    @classmethod
    def _missing_(cls, value: object) -> ActionKind | None:
        """The words of a run.json from before there were several kinds; such a run goes on where it stopped."""
        return {"ee_delta": cls.EE_DELTA7, "text_only": cls.NONE}.get(str(value))


PLANNERS = COMPACT_PLANNER, WAN_PLANNER = "compact_planner", "wan_planner"
"""Architectures that make plans from words."""
KindName = Annotated[ActionKind, Field(strict=False)]


class Capabilities(Settings):
    """What a world model declares."""

    where: ClassVar[str] = CAPABILITIES

    actions: dict[KindName, CountOrZero]
    """What it may be conditioned on, and how many numbers each takes."""
    image_size: Count | None = None
    """Pixels a side of its frames; none is not known."""
    context_frames: Count | None = None
    """Frames it looks back on at most, the episode's first included; none is not known."""
    rate_hz: Positive = WIDOWX_250S.control_hz
    """Steps a second."""
    frames_per_action: Count = 1
    """Frames drawn for every action."""
    seeded: bool = True
    """Whether the same seed gives the same frames, row by row."""
    domains: Texts = (WIDOWX_250S.name,)
    """Arms whose actions it has learned."""
    horizon: Count | None = None
    """Steps that it was audited for; none was never measured."""

    @model_validator(mode="after")
    def _takes_something(self) -> Capabilities:
        if not self.actions:
            raise ConfigError(f"{CAPABILITIES}.actions names none of {', '.join(kind.value for kind in ActionKind)}")
        return self

    @property
    def kinds(self) -> str:
        """What it takes, in words: "ee_delta7 (7), text (64)"."""
        return ", ".join(f"{kind.value} ({width})" if width else kind.value for kind, width in self.actions.items())

    @property
    def arm(self) -> RobotSpec:
        """The arm that it is for where nobody names one.

        The WidowX 250s where it knows that, or no arm that is known here; else the first that it does.
        """
        if WIDOWX_250S.name in self.domains:
            return WIDOWX_250S
        return next((robot_named(name) for name in self.domains if is_known(name)), WIDOWX_250S)


def capabilities_of(folder: Path) -> Capabilities:
    """Return what a checkpoint declares, with the horizon that was measured since.

    Raises:
        CheckpointError: no checkpoint of a world model, or it declares what no such thing is.
    """
    declared = declared_by(read_manifest(folder))
    measured = _audited_steps(folder / BOUNDS_NAME)
    return declared if measured is None else declared.changed(horizon=measured)


def declared_by(manifest: Manifest) -> Capabilities:
    """Return what a manifest declares.

    Raises:
        CheckpointError: it is of no world model, or what it declares is nothing of the kind.
    """
    if manifest.kind != "world_model":
        raise CheckpointError(f"{manifest.id} is a {manifest.kind}, not a world model")
    try:
        if CAPABILITIES in manifest.config:
            return Capabilities.model_validate(manifest.config[CAPABILITIES])
        return Capabilities(
            actions={ActionKind.EE_DELTA7: ACTION_DIM}, image_size=manifest.config.get("image_size"),
        )  # fmt: skip
    except ConfigError as error:
        raise CheckpointError(f"{manifest.id}: {error}; its writer must mend it") from error


def image_size_of(manifest: Manifest) -> int:
    """Return the pixels a side of a world model's frames.

    Raises:
        ConfigError: nobody says which image size it was trained on.
        CheckpointError: see declared_by().
    """
    if (size := declared_by(manifest).image_size) is None:
        raise ConfigError(
            f"world model {manifest.id} does not say which image size it was trained on; name it: --size, or in a "
            'job\'s config "dream": {"image_size": 256}'
        )
    return size


def beside(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest's config without what it declares: the sizes of its network."""
    return {name: value for name, value in config.items() if name != CAPABILITIES}


def declaration(capabilities: Capabilities) -> dict[str, JsonValue]:
    """Return what goes into a manifest's config: everything, since a later default must not change what was made."""
    return {CAPABILITIES: capabilities.model_dump(mode="json")}


def require_rollouts(found: Capabilities, model: str, *, robot: RobotSpec | None = None) -> None:
    """Let a model pass in which an arm can be commanded.

    Args:
        found: what it declares.
        model: its id, for messages.
        robot: the arm; None is the one that the model is for.

    Raises:
        ConfigError: it takes no actions of that arm, or not as the arm is commanded; names what and the remedy.
    """
    kind, robot = ActionKind.EE_DELTA7, robot or found.arm
    if kind not in found.actions:
        remedy = (
            "`gymnast wm plan` makes plans with it" if ActionKind.TEXT in found.actions else "train one on episodes"
        )
        raise ConfigError(
            f"world model {model} takes {found.kinds} and no {kind.value} actions, so that nothing can be commanded in "
            f"it: {remedy}; name a world model that takes {kind.value} (`gymnast wm show FOLDER`)"
        )
    for name, has, needs in (
        (f"numbers per {kind.value} action", found.actions[kind], ACTION_DIM),
        ("steps a second", found.rate_hz, robot.control_hz),
        ("frames per action", found.frames_per_action, 1),
    ):
        if has != needs:
            raise ConfigError(
                f"world model {model} has {has:g} {name}, the {robot.name} needs {needs:g}; convert its data to that "
                "and train it anew"
            )
    if robot.name not in found.domains:
        raise ConfigError(
            f"world model {model} knows the domains {', '.join(found.domains) or 'none'}, not {robot.name}; refine it "
            f"on episodes of that arm (an improve job, or gymnast wm train with a dataset of robot={robot.name})"
        )


def require_dream(manifest: Manifest, dream: DreamConfig) -> None:
    """Let settings of a dream pass that the world model heeds.

    Raises:
        ConfigError: it is a compact one, which samples as it was trained to, without guidance, and batches as it does.
    """
    given = {"steps": dream.steps, "guidance": dream.guidance if dream.guidance != 1.0 else None}
    given |= {name: value for name, value in dream.named().items() if name in ("batch_size", "image_size")}
    said = [f"dream.{name} {value:g}" for name, value in given.items() if value is not None]
    if manifest.architecture == COMPACT and said:
        config = manifest.config
        raise ConfigError(
            f"{' and '.join(said)}: {manifest.id} is a compact world model, which has no guidance and draws a frame in "
            f"the {config.get('sampling_steps')} steps that it was made for, {config.get('image_size')} pixels a side "
            "and as many rows at a time as it always does; leave it out, or make one of other steps: gymnast wm distil"
        )


def require_practice(found: Capabilities, model: str, *, robot: RobotSpec | None = None) -> None:
    """Let a model pass that a policy may practise in, or a judge be measured in.

    Raises:
        ConfigError: see require_rollouts(); or it cannot be seeded, so that neither a group of rollouts nor an audit
            could be had again.
    """
    require_rollouts(found, model, robot=robot)
    if not found.seeded:
        raise ConfigError(
            f"world model {model} cannot be seeded row by row: rollouts of one start could not be compared, and no "
            "audit repeated. Practise in one that declares seeded=true; `gymnast wm rollout` shows this one"
        )


def makes_plans(manifest: Manifest) -> bool:
    """Whether a checkpoint makes plans from words."""
    return manifest.architecture in PLANNERS and ActionKind.TEXT in declared_by(manifest).actions


def knows_camera(manifest: Manifest) -> bool:
    """Whether a checkpoint says how its camera sees the arm's base frame."""
    return manifest.architecture == COMPACT and "camera_matrix" in manifest.config


def require_plans(manifest: Manifest) -> None:
    """Let a model pass that makes plans from words.

    Raises:
        CheckpointError: no world model.
        ConfigError: it makes none.
    """
    if not makes_plans(manifest):
        raise ConfigError(
            f"{manifest.id} is a {manifest.architecture} that takes {declared_by(manifest).kinds}: no planner. Train "
            "one on recorded successes: gymnast wm train-planner EPISODES --out FOLDER"
        )


def require_horizon(found: Capabilities, model: str, steps: int, setting: str) -> None:
    """Let dreams pass that end where the model was still measured.

    Args:
        found: what it declares.
        model: its id.
        steps: of the longest dream.
        setting: what they were asked for with.

    Raises:
        ConfigError: they are longer than the audited horizon.
    """
    if found.horizon is not None and steps > found.horizon:
        raise ConfigError(
            f"{setting} {steps} is beyond the {found.horizon} steps that world model {model} was audited for; ask for "
            f"at most {found.horizon}, or measure it on longer episodes (gymnast wm bounds)"
        )


def learned(kinds: Iterable[tuple[ActionKind, str]]) -> tuple[set[ActionKind], tuple[str, ...]]:
    """Return the kinds that a model learns from datasets, given as (kind, robot), and the arms it learns to know."""
    arms = {ActionKind.EE_DELTA7, ActionKind.JOINT}
    pairs = list(kinds)
    taken = {ActionKind.EE_DELTA7 if kind in arms else kind for kind, _ in pairs}
    return taken, tuple(sorted({robot for kind, robot in pairs if kind in arms}))


def _audited_steps(path: Path) -> int | None:
    """The horizon that a calibration measured; None where there was none, or it did not say."""
    try:
        found = parsed_object(path.read_text(encoding="utf-8"), BOUNDS_NAME, MAX_CHARACTERS).get("horizon")
    except (OSError, ValueError, CorruptError):
        return None
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 1 else None
