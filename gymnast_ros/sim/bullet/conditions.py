"""What differs from start to start in the second simulator: drawn from the seed, the same for both of a pair."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from gymnast_core.errors import ConfigError
from gymnast_core.json_values import JsonObject

Range = tuple[float, float]
_STREAM = 0x5EC0
"""Sets these draws apart from those of the start state, which come from the same seed."""


@dataclass(frozen=True)
class Conditions:
    """The physics of one episode.

    Attributes:
        friction: factor on every friction coefficient.
        payload_kg: what the gripper carries besides; the arm does not know of it.
        latency_steps: control steps that a command takes to reach the motors.
        gain: factor on the servos' gain.
        camera_shift_m: added to the camera's place.
        camera_widening_deg: added to its field of view.
    """

    friction: float = 1.0
    payload_kg: float = 0.0
    latency_steps: int = 0
    gain: float = 1.0
    camera_shift_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    camera_widening_deg: float = 0.0


@dataclass(frozen=True)
class Randomisation:
    """How far conditions are varied; every draw is uniform.

    Attributes:
        friction: lowest and highest factor.
        payload_kg: lightest and heaviest.
        latency_steps: fewest and most.
        gain: lowest and highest factor.
        camera_shift_m: furthest along each axis.
        camera_widening_deg: furthest either way.
    """

    friction: Range = (0.6, 1.2)
    payload_kg: Range = (0.0, 0.15)
    latency_steps: tuple[int, int] = (0, 2)
    gain: Range = (0.8, 1.25)
    camera_shift_m: float = 0.005
    camera_widening_deg: float = 0.5

    def __post_init__(self) -> None:
        """Refuse ranges that are none."""
        for name in ("friction", "payload_kg", "latency_steps", "gain"):
            low, high = getattr(self, name)
            if not 0 <= low <= high or (low == 0 and name in ("friction", "gain")):
                raise ConfigError(f"{name} must be a range of positive numbers, lower end first, got {low}..{high}")
        if min(self.camera_shift_m, self.camera_widening_deg) < 0:
            raise ConfigError(f"the camera is moved by at least 0, got {self.camera_shift_m} m")

    def draw(self, seed: int) -> Conditions:
        """Return the conditions of a seed; the same every time."""
        rng = np.random.default_rng([_STREAM, seed])
        friction, payload, gain = (rng.uniform(*each) for each in (self.friction, self.payload_kg, self.gain))
        latency = int(rng.integers(self.latency_steps[0], self.latency_steps[1] + 1))
        shift = rng.uniform(-self.camera_shift_m, self.camera_shift_m, 3)
        widening = float(rng.uniform(-self.camera_widening_deg, self.camera_widening_deg))
        x, y, z = (float(value) for value in shift)
        return Conditions(float(friction), float(payload), latency, float(gain), (x, y, z), widening)

    def to_json(self) -> JsonObject:
        """Return the ranges as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


VARIED = Randomisation()
"""What a gate varies."""
NOMINAL = Randomisation(
    friction=(1.0, 1.0), payload_kg=(0.0, 0.0), latency_steps=(0, 0), gain=(1.0, 1.0), camera_shift_m=0.0,
    camera_widening_deg=0.0,
)  # fmt: skip
"""Nothing is varied."""
