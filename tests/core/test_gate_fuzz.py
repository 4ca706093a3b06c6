"""The fuzzer finds nothing in the gate, and finds holes that are planted in it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import gate_fuzz
from benchmarks.obedient_arm import STARTS, forward
from gymnast_core.arm import kinematics
from gymnast_core.arm.envelope import Envelope


def test_hostile_streams_leave_the_envelope_whole() -> None:
    result = gate_fuzz.piece((0, 300))
    assert result["violations"] == {}
    assert result["links_lost"] == result["stopped_within_one_tick"] > 50
    assert result["moves"] > 500
    assert {"forwarded", "limited", "held", "dropped", "replayed", "not_finite"} <= set(result["verdicts"])


@pytest.mark.parametrize(
    ("method", "hole", "found"),
    [
        ("_smooth", lambda self, action, last_A, reasons: action, "seam"),
        ("_slow", lambda self, arm, action, present_J, step_rad: (*self._advance(arm.target, action, []), present_J),
         "joint_velocity"),
    ],
)  # fmt: skip
def test_planted_hole_is_found(method, hole, found, monkeypatch) -> None:
    monkeypatch.setattr(Envelope, method, hole)
    assert gate_fuzz.piece((0, 300))["violations"][found] > 0


def test_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(gate_fuzz, "PIECE", 20)
    first = gate_fuzz.fuzz_core(40, 1, tmp_path)
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(kept) == {"0-20.json", "20-40.json"}
    again = gate_fuzz.fuzz_core(60, 1, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "40-60.json"}
    assert all((tmp_path / name).read_text() == text for name, text in kept.items())
    assert again["streams"] == 60
    assert again["told"] == first["told"] + json.loads((tmp_path / "40-60.json").read_text())["told"]


def test_checkers_forward_kinematics_is_that_of_the_arm() -> None:
    joints_NJ = np.stack([joints_J for _, joints_J in STARTS])
    position_NX, rotation_NXX = forward(joints_NJ)
    for row, joints_J in enumerate(joints_NJ):
        position_X, rotation_XX = kinematics.forward(joints_J)
        np.testing.assert_allclose(position_NX[row], position_X, atol=1e-12)
        np.testing.assert_allclose(rotation_NXX[row], rotation_XX, atol=1e-12)
