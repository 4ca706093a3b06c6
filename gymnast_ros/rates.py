"""How often an arm is commanded, and how long a policy's actions last; no ROS in here."""

from __future__ import annotations

from gymnast_core.errors import ConfigError
from gymnast_core.spec import RATES_HZ, RobotSpec


def check_rates(rate_hz: float, policy_hz: float, spec: RobotSpec, *, simulated: bool) -> None:
    """Refuse rates that an arm and the actions of its policy cannot have.

    Args:
        rate_hz: of the arm.
        policy_hz: of the policy's actions.
        spec: the arm.
        simulated: whether it is.

    Raises:
        ConfigError: the message names the rate.
    """
    for name, value in (("rate_hz", rate_hz), ("policy_hz", policy_hz)):
        if value not in RATES_HZ:
            raise ConfigError(f"{name} must be one of {list(RATES_HZ)}, got {value:g}")
    if not simulated and rate_hz != spec.control_hz:
        raise ConfigError(
            f"rate_hz {rate_hz:g} is for the simulated arm; the driver of a real one moves in steps of "
            f"{spec.step_s:g} s"
        )
    steps_per_action(rate_hz, policy_hz)


def steps_per_action(rate_hz: float, policy_hz: float) -> int:
    """Return how many steps of the arm an action of the policy lasts.

    Raises:
        ConfigError: the arm's rate is no multiple of the policy's.
    """
    parts = round(rate_hz / policy_hz)
    if parts < 1 or parts * policy_hz != rate_hz:
        raise ConfigError(f"rate_hz {rate_hz:g} must be a multiple of policy_hz {policy_hz:g}")
    return parts


def chunk_ticks(rate_hz: float, spec: RobotSpec) -> dict[str, int]:
    """Return real-time chunking's parameters: an inference every 0.4 s, expected to take 0.2 s, whatever the rate."""
    ticks = round(rate_hz / spec.control_hz)
    return {"chunking_horizon": 2 * ticks, "chunking_delay": ticks}
