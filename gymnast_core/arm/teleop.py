"""From joystick axes and buttons to actions and events; no ROS, no device."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gymnast_core.errors import ConfigError
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import FloatArray


class Event(str, enum.Enum):
    """What a button press asks for; names are the services behind them."""

    ESTOP = "estop"
    RE_ARM = "re_arm"
    START = "start"
    SUCCESS = "success"
    FAILURE = "failure"
    DISCARD = "discard"
    ANNOTATE = "annotate"


@dataclass(frozen=True)
class Mapping:
    """Which axis and button does what. Defaults fit a SpaceMouse and most gamepads through ROS's joy node.

    Attributes:
        axes: for dx, dy, dz, droll, dpitch, dyaw; -1 is unused.
        signs: +1 or -1 per axis.
        share: of the step limits at full deflection.
        dead_zone: smaller deflections are rest.
        take_over: button held while a human commands.
        gripper: button that toggles the gripper.
        events: button -> event, on press.
    """

    axes: tuple[int, ...] = (1, 0, 2, 3, 4, 5)
    signs: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    share: float = 0.6
    dead_zone: float = 0.1
    take_over: int = 0
    gripper: int = 1
    events: dict[int, Event] = field(
        default_factory=lambda: {
            2: Event.ESTOP, 3: Event.RE_ARM, 4: Event.START, 5: Event.SUCCESS, 6: Event.FAILURE, 7: Event.DISCARD,
            8: Event.ANNOTATE,
        }
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse a mapping that is ambiguous or dangerous."""
        if len(self.axes) != 6 or len(self.signs) != 6:
            raise ConfigError(f"axes and signs need 6 values, got {self.axes} and {self.signs}")
        if not 0.0 < self.share <= 1.0:
            raise ConfigError(f"share must be above 0 and at most 1, got {self.share}")
        buttons = [self.take_over, self.gripper, *self.events]
        if len(set(buttons)) != len(buttons):
            raise ConfigError(f"a button does two things: {buttons}")
        if Event.ESTOP not in self.events.values():
            raise ConfigError("one button must be the emergency stop")


@dataclass(frozen=True, eq=False)
class Wish:
    """What the human wants now.

    Attributes:
        taking_over: whether the human commands.
        action_A: (7,) float32; rest with the present gripper when not taking over.
        events: buttons pressed since the last reading; the emergency stop as long as it is held, for a release that
            nobody heard must not cost the next press.
    """

    taking_over: bool
    action_A: FloatArray
    events: tuple[Event, ...]


class Stick:
    """Remembers what was pressed before; one per device."""

    def __init__(self, mapping: Mapping | None = None, spec: RobotSpec = WIDOWX_250S) -> None:
        self._mapping, self._spec = mapping or Mapping(), spec
        self._pressed: frozenset[int] = frozenset()
        self._gripper = 1.0
        self._taking_over = False

    def read(self, axes: Sequence[float], buttons: Sequence[int], gripper: float) -> Wish:
        """Turn one reading of the device into a wish.

        Args:
            axes: deflections -1..1; missing or NaN ones are rest.
            buttons: 0 or 1.
            gripper: commanded last, taken over when the human starts.
        """
        mapping = self._mapping
        pressed = frozenset(number for number, down in enumerate(buttons) if down)
        fresh, self._pressed = pressed - self._pressed, pressed
        taking_over = mapping.take_over in pressed
        if taking_over and not self._taking_over:
            self._gripper = gripper
        self._taking_over = taking_over
        if mapping.gripper in fresh:
            self._gripper = 0.0 if self._gripper > 0.5 else 1.0
        action_A = np.zeros(7, np.float32)
        if taking_over:
            action_A[:6] = self._deltas(axes)
        action_A[6] = self._gripper
        events = tuple(
            event
            for number, event in sorted(mapping.events.items())
            if number in fresh or (number in pressed and event is Event.ESTOP)
        )
        return Wish(taking_over, action_A, events)

    def _deltas(self, axes: Sequence[float]) -> FloatArray:
        mapping, spec = self._mapping, self._spec
        limits_A = spec.action_high_A
        deltas = np.zeros(6, np.float32)
        for component, (axis, sign) in enumerate(zip(mapping.axes, mapping.signs, strict=True)):
            deflection = axes[axis] if 0 <= axis < len(axes) else 0.0
            if np.isfinite(deflection) and abs(deflection) >= mapping.dead_zone:
                deltas[component] = sign * float(np.clip(deflection, -1.0, 1.0)) * mapping.share * limits_A[component]
        return deltas


KEYS: dict[str, tuple[str, int, float]] = {
    "w": ("axis", 1, 1.0), "s": ("axis", 1, -1.0), "a": ("axis", 0, 1.0), "d": ("axis", 0, -1.0),
    "r": ("axis", 2, 1.0), "f": ("axis", 2, -1.0), "q": ("axis", 5, 1.0), "e": ("axis", 5, -1.0),
    "t": ("toggle", 0, 1.0), "g": ("button", 1, 1.0), " ": ("button", 2, 1.0), "p": ("button", 3, 1.0),
    "n": ("button", 4, 1.0), "y": ("button", 5, 1.0), "u": ("button", 6, 1.0), "x": ("button", 7, 1.0),
    "m": ("button", 8, 1.0),
}  # fmt: skip
"""Keyboard as a joystick: wasd rf qe move, t takes over and gives back, g gripper, SPACE emergency stop, m marks
the moment; p re-arms where teleop's re_arm_by_joystick allows it."""


class Keyboard:
    """Keys as axes and buttons of the default Mapping; a key acts on one reading, t stays until pressed again."""

    def __init__(self) -> None:
        self._taking_over = False

    def read(self, keys: str) -> tuple[list[float], list[int]]:
        """Axes and buttons for the keys pressed since the last reading; unknown ones are ignored."""
        axes, buttons = [0.0] * 6, [0] * 9
        for key in keys:
            kind, number, value = KEYS.get(key, ("", 0, 0.0))
            if kind == "axis":
                axes[number] = value
            elif kind == "button":
                buttons[number] = 1
            elif kind == "toggle":
                self._taking_over = not self._taking_over
        buttons[0] = int(self._taking_over)
        return axes, buttons
