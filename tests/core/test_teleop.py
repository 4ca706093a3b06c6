"""Joystick readings to actions and events, by hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest

from gymnast_core.arm.teleop import KEYS, Event, Keyboard, Mapping, Stick
from gymnast_core.errors import ConfigError

REST = [0.0] * 6


def buttons(*pressed: int) -> list[int]:
    return [int(number in pressed) for number in range(8)]


def test_deflection_moves_only_while_taking_over() -> None:
    stick = Stick()
    assert not stick.read([0, 1.0, 0, 0, 0, 0], buttons(), 1.0).action_A[:6].any()
    wish = stick.read([0, 1.0, 0, 0, 0, 0.5], buttons(0), 1.0)
    assert wish.taking_over
    # 0.6 of 0.05 m forward; half of 0.6 of 0.25 rad yaw
    np.testing.assert_allclose(wish.action_A, [0.03, 0, 0, 0, 0, 0.075, 1.0], atol=1e-7)


def test_dead_zone_missing_axes_and_nan_are_rest() -> None:
    wish = Stick().read([0.05, np.nan], buttons(0), 1.0)
    assert not wish.action_A[:6].any()


def test_over_deflection_is_cut() -> None:
    assert Stick().read([0, 9.0, 0, 0, 0, 0], buttons(0), 1.0).action_A[0] == pytest.approx(0.03)


def test_taking_over_keeps_the_grippers_state_and_toggles_on_press_only() -> None:
    stick = Stick()
    assert stick.read(REST, buttons(0), 0.0).action_A[6] == 0.0
    assert stick.read(REST, buttons(0, 1), 0.0).action_A[6] == 1.0
    assert stick.read(REST, buttons(0, 1), 0.0).action_A[6] == 1.0  # still held: no second toggle
    assert stick.read(REST, buttons(0), 0.0).action_A[6] == 1.0
    assert stick.read(REST, buttons(0, 1), 0.0).action_A[6] == 0.0


def test_event_fires_once_per_press() -> None:
    stick = Stick()
    assert stick.read(REST, buttons(5), 1.0).events == (Event.SUCCESS,)
    assert stick.read(REST, buttons(5), 1.0).events == ()
    assert stick.read(REST, buttons(5, 4), 1.0).events == (Event.START,)


def test_emergency_stop_is_meant_as_long_as_it_is_held() -> None:
    stick = Stick()
    assert stick.read(REST, buttons(2), 1.0).events == (Event.ESTOP,)
    assert stick.read(REST, buttons(2, 5), 1.0).events == (Event.ESTOP, Event.SUCCESS)
    assert stick.read(REST, buttons(2, 5), 1.0).events == (Event.ESTOP,)
    assert stick.read(REST, buttons(5), 1.0).events == ()


@pytest.mark.parametrize("wrong", [{"axes": (0, 1)}, {"share": 0.0}, {"take_over": 2}, {"events": {3: Event.START}}])
def test_ambiguous_or_dangerous_mapping_is_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        Mapping(**wrong)


def test_keyboard_is_a_joystick_of_the_default_mapping() -> None:
    keyboard, stick = Keyboard(), Stick()
    assert stick.read(*keyboard.read("w"), 1.0).action_A[0] == 0.0
    assert stick.read(*keyboard.read("tw"), 1.0).action_A[0] == pytest.approx(0.03)
    assert stick.read(*keyboard.read("s?"), 1.0).action_A[0] == pytest.approx(-0.03)
    assert not stick.read(*keyboard.read("t"), 1.0).taking_over
    assert stick.read(*keyboard.read(" "), 1.0).events == (Event.ESTOP,)
    assert len({key.lower() for key in KEYS}) == len(KEYS)
