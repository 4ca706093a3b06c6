"""An arm that is commanded more often: shorter steps, no speed or acceleration looser, and recordings that say so."""

from pathlib import Path

import numpy as np
import pytest

from gymnast_core.arm.envelope import ArmState, Envelope
from gymnast_core.arm.kinematics import forward
from gymnast_core.arm.limits import GateLimits
from gymnast_core.arm.targets import EndEffectorTarget
from gymnast_core.episodes import EpisodeRecorder
from gymnast_core.episodes.inspection import ActionLimits, inspected
from gymnast_core.errors import ConfigError, CorruptError
from gymnast_core.spec import RATES_HZ, WIDOWX_250S
from gymnast_core.types import ActionChunk, Observation, Outcome, StepResult
from gymnast_ros.rates import check_rates


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_speeds_and_accelerations_are_those_of_the_5_hz_arm(rate_hz) -> None:
    base, limits = GateLimits(), GateLimits().at(rate_hz)
    for name in ("max_translation_m", "max_rotation_rad"):
        assert getattr(limits.spec, name) * rate_hz == pytest.approx(getattr(base.spec, name) * 5)
    for name in ("max_change_m", "max_change_rad"):
        assert getattr(limits, name) * rate_hz**2 == pytest.approx(getattr(base, name) * 25)
    assert limits.joint_step_rad * rate_hz == pytest.approx(WIDOWX_250S.joint_velocity_rad_s)
    assert (limits.deadman_ns, limits.max_command_age_ns) == (base.deadman_ns, base.max_command_age_ns)
    assert not limits.wider_than(base)


def test_a_command_at_50_hz_is_cut_to_a_tenth_of_a_step_and_speeds_up_as_slowly() -> None:
    joints_J = np.array(WIDOWX_250S.neutral_joints_rad)
    arm = ArmState(0, EndEffectorTarget(*forward(joints_J), 1.0), joints_J)
    envelope = Envelope(GateLimits().at(50.0))
    wanted = np.array([0.05, 0, 0, 0, 0, 0, 1], np.float32)
    from_rest, reasons = envelope.limit(wanted, (0.0,) * 7, arm)
    assert from_rest[0] == pytest.approx(0.001)
    assert {"step_limit", "seam"} <= set(reasons)
    at_speed, _ = envelope.limit(wanted, (0.005, 0, 0, 0, 0, 0, 1), arm)
    assert at_speed[0] == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("rate_hz", "policy_hz", "simulated", "message"),
    [
        (30.0, 5.0, True, "rate_hz must be one of .* got 30"),
        (50.0, 4.0, True, "policy_hz must be one of .* got 4"),
        (50.0, 20.0, True, "rate_hz 50 must be a multiple of policy_hz 20"),
        (50.0, 5.0, False, "rate_hz 50 is for the simulated arm"),
    ],
)
def test_rates_that_cannot_be_are_refused_by_name(rate_hz, policy_hz, simulated, message) -> None:
    with pytest.raises(ConfigError, match=message):
        check_rates(rate_hz, policy_hz, WIDOWX_250S, simulated=simulated)
    with pytest.raises(ConfigError, match="one of"):
        WIDOWX_250S.at(1.0)  # a step of 0.25 m


def test_a_recording_names_its_rate_and_what_learns_at_another_refuses_it(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(tmp_path, robot="sim-0")
    recorder.begin(episode_id="fast", control_hz=50.0)
    frames = {"camera": np.zeros((1, 16, 16, 3), np.uint8)}
    recorder.on_reset(["lift"], Observation(frames, np.zeros((1, 7), np.float32), np.zeros(1, np.int64)))
    action, no = np.zeros((1, 7), np.float32), np.zeros(1, bool)
    later = Observation(frames, np.zeros((1, 7), np.float32), np.full(1, 20_000_000, np.int64))
    recorder.on_step(action, StepResult(later, no, ~no, action), ActionChunk(action[:, None], "p"), 0)
    path = recorder.finish(Outcome.SUCCESS, "test")
    assert inspected(path, "fast", ActionLimits(0.05, 0.25, 50.0))["steps"] == 1
    with pytest.raises(CorruptError, match="recorded at 50 Hz; what learns here has steps of 5 Hz"):
        inspected(path, "fast", ActionLimits(0.05, 0.25))
