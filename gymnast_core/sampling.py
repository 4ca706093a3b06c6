"""At which temperature a policy is sampled when it explores: what may be asked for, and how a policy is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from pydantic import Field

from gymnast_core.errors import ConfigError
from gymnast_core.policy import Policy, Wrapper
from gymnast_core.types import ActionChunk, Observation

MOST_TEMPERATURE = 10.0
USUAL_TEMPERATURE = 0.25
"""Of practice: it costs no success and solves most of what greedy fails (benchmarks/exploration_cpu2_202611.md)."""
SAMPLED_AT = "temperature"
"""Key of an episode's metadata: what its policy was sampled at, 0 where it was greedy; absent where nobody knows."""

Temperature = Annotated[
    float, Field(gt=0, le=MOST_TEMPERATURE, allow_inf_nan=False, description="of the policy's sampling")
]


def require_sampled(temperature: float | None, seed: int) -> None:
    """Refuse a temperature where nothing is sampled.

    Raises:
        ValueError: the seed is negative, which is greedy.
    """
    if temperature is not None and seed < 0:
        raise ValueError(f"a temperature of {temperature:g} samples, and a seed of {seed} is greedy; leave one out")


def own_temperature(policy: object) -> float | None:
    """Return what a policy samples at unless another temperature is asked for; None where it has no such thing."""
    value = getattr(policy, "temperature", None)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def sampled_at(policy: object, *, greedy: bool) -> dict[str, float]:
    """Return what an episode's metadata say of it; nothing where nobody knows."""
    at = 0.0 if greedy else own_temperature(policy)
    return {} if at is None else {SAMPLED_AT: at}


def set_temperature(policy: Policy, temperature: float) -> None:
    """Have a policy of this process sample at a temperature from now on; its log-probabilities are of that, too.

    Raises:
        ConfigError: it has none.
    """
    if own_temperature(policy) is None:
        raise ConfigError(_none(policy))
    policy.temperature = temperature  # type: ignore[attr-defined]


@runtime_checkable
class TemperedPolicy(Policy, Protocol):
    """A policy of another process, asked at a temperature call by call: others may ask the same one greedily."""

    @property
    def temperature(self) -> float | None:
        """What it samples at unless another one is asked for; None where it cannot be given any."""
        ...

    def act_at(
        self, temperature: float, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator
    ) -> ActionChunk:
        """As act(), sampled at a temperature."""
        ...


class AtTemperature(Wrapper):
    """A policy that is sampled at a temperature; greedy calls are as ever.

    Args:
        inner: the policy.
        temperature: above 0.
    """

    inner: TemperedPolicy

    def __init__(self, inner: TemperedPolicy, temperature: float) -> None:
        super().__init__(inner)
        self.temperature = temperature

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """See Policy."""
        if rng is None:
            return self.inner.act(observation, instruction)
        return self.inner.act_at(self.temperature, observation, instruction, rng=rng)


def can_sample_at(policy: Policy) -> TemperedPolicy | None:
    """Return the policy if it can be asked at another temperature than its own."""
    return policy if isinstance(policy, TemperedPolicy) and policy.temperature is not None else None


def at_temperature(policy: Policy, temperature: float | None) -> Policy:
    """Return the policy sampled at a temperature; None is its own.

    Raises:
        ConfigError: it cannot be given any.
    """
    if temperature is None:
        return policy
    if (tempered := can_sample_at(policy)) is None:
        raise ConfigError(_none(policy))
    return AtTemperature(tempered, temperature)


def _none(policy: Policy) -> str:
    return f"policy {policy.version} cannot be sampled at another temperature than its own; leave temperature out"
