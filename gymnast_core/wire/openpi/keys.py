"""Which of our cameras, proprioception and actions stand under which of openpi's keys: one table, read in both ways."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

import yaml
from pydantic import Field, model_validator

from gymnast_core.episodes.messages import ACTION_NAMES, PROPRIO_NAMES
from gymnast_core.errors import ConfigError
from gymnast_core.pictures import MAX_IMAGE_SIDE
from gymnast_core.settings import Settings

Columns = Annotated[tuple[str, ...], Field(strict=False, max_length=64)]
Pair = Annotated[tuple[float, float], Field(strict=False)]
KeysT = TypeVar("KeysT", bound="Keys")


class Keys(Settings):
    """What of ours stands under each key of a style."""

    where: ClassVar[str] = "openpi"

    images: Annotated[dict[str, str], Field(min_length=1, max_length=8)]
    """Key -> camera; an empty camera is a picture that this arm does not have: black, or looked at by nobody."""
    image_map: str = ""
    """Key of the map that the images lie in; empty where they lie beside the others."""
    channels_first: bool = False
    """Images are (3, H, W) instead of (H, W, 3)."""
    size: Annotated[int, Field(ge=0, le=MAX_IMAGE_SIDE)] = 224
    """Side of the images sent to a policy server, padded to a square; 0 sends them as the camera took them."""
    state: Annotated[dict[str, Columns], Field(max_length=8)]
    """Key -> what its numbers are: x, y, z, roll, pitch, yaw, gripper, or empty for one that is 0 and not read."""
    state_gripper: Pair = (0.0, 1.0)
    """The gripper in the state: closed, open."""
    prompt: str = "prompt"
    """Key of the instruction."""
    actions: Columns = ACTION_NAMES
    """What each number of an action is: dx, dy, dz, droll, dpitch, dyaw, gripper, or empty for one that is not used."""
    action_gripper: Pair = (0.0, 1.0)
    """The gripper in actions: closed, open."""
    translation_m: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Metres per unit of an action's translation."""
    rotation_rad: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Radians per unit of an action's rotation."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Keys:
        if sorted(filter(None, self.actions)) != sorted(ACTION_NAMES):
            raise ConfigError(
                f"openpi: actions must name each of {', '.join(ACTION_NAMES)} once, and be empty for what is not used; "
                f"got {list(self.actions)}"
            )
        columns = [name for names in self.state.values() for name in names if name]
        if odd := sorted({name for name in columns if columns.count(name) > 1 or name not in PROPRIO_NAMES}):
            raise ConfigError(f"openpi: state must name some of {', '.join(PROPRIO_NAMES)} once; look at {odd}")
        for name in ("state_gripper", "action_gripper"):
            if len(set(getattr(self, name))) != 2:
                raise ConfigError(f"openpi: {name} must be two different numbers, closed and open")
        cameras = [camera for camera in self.images.values() if camera]
        for what, names in (("keys", self.top), ("cameras", cameras), ("images", list(self.images))):
            if odd := sorted({name for name in names if names.count(name) > 1 or not name}):
                raise ConfigError(f"openpi: {what} must differ from each other and not be empty; look at {odd}")
        return self

    @property
    def top(self) -> list[str]:
        """The keys of a request."""
        return [*([self.image_map] if self.image_map else self.images), *self.state, self.prompt]


_POSE = ("x", "y", "z", "roll", "pitch", "yaw")
STYLES: Mapping[str, Keys] = {
    "libero": Keys(
        images={"observation/image": "over_shoulder", "observation/wrist_image": ""},
        state={"observation/state": (*_POSE, "", "gripper")},
    ),
    "droid": Keys(
        images={"observation/exterior_image_1_left": "over_shoulder", "observation/wrist_image_left": ""},
        state={"observation/joint_position": (*_POSE, ""), "observation/gripper_position": ("gripper",)},
        state_gripper=(1.0, 0.0),
        actions=(*ACTION_NAMES[:6], "", "gripper"),
        action_gripper=(1.0, 0.0),
    ),
    "aloha": Keys(
        images={"cam_high": "over_shoulder", "cam_low": "", "cam_left_wrist": "", "cam_right_wrist": ""},
        image_map="images",
        channels_first=True,
        state={"state": (*_POSE, "gripper", *[""] * 7)},
        actions=(*ACTION_NAMES, *[""] * 7),
    ),
}
"""The keys and widths of openpi's own examples. What the numbers mean is ours: no joint of a Franka is an end effector
of a WidowX, so a policy must have been trained on this arm's episodes, whatever its keys are called."""


def read_keys(given: str, kind: type[KeysT]) -> KeysT:
    """Return the keys of a style, or of a YAML file: `style`, and what differs from it.

    Args:
        given: name of a style, or path of the file; empty is libero.
        kind: Keys, or a class of settings that adds to them.

    Raises:
        ConfigError: no such style or file, or a setting in it makes no sense.
    """
    if given in ("", *STYLES):
        return kind(**STYLES[given or "libero"].named())
    path, styles = Path(given), ", ".join(STYLES)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"openpi {given!r} is neither a style ({styles}) nor a readable file: {error}") from error
    if not isinstance(document, dict) or not all(isinstance(name, str) for name in document):
        raise ConfigError(f"openpi file {given} must map settings to values, e.g. style: libero")
    style = document.pop("style", "libero")
    if style not in STYLES:
        raise ConfigError(f"openpi file {given}: style {style!r} is not one of {styles}")
    return kind(**{**STYLES[style].named(), **document})
