"""How a flow policy explores, apart from gymnast_core/policies/exploration.py, which needs torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gymnast_core.settings import Positive, Settings


class Exploration(Settings):
    """Where noise enters a flow policy when it is sampled; gymnast_core.policies.exploration has the three ways."""

    where: ClassVar[str] = "exploration"

    way: Literal["endpoint", "sde", "fpo"] = "endpoint"
    """endpoint: noise on the end of the flow, and the update replays its last step. sde: one stochastic step for each
    row (Flow-SDE). fpo: no density; the flow-matching loss stands in for it."""
    sigma: Positive = 0.2
    """endpoint: standard deviation of the noise, in units of how much demonstrated actions vary."""
    rho: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """endpoint: correlation of the noise of neighbouring actions of a chunk; 0 is white. .7, between StructRL's .6 and
    .8, was not shown to be better (benchmarks/flow_seeds_cpu2_202611.md)."""
    noise_level: Positive = 0.5
    """sde: a in sigma(t) = a sqrt(t / (1 - t))."""
    draws: Annotated[int, Field(ge=1, le=1024)] = 16
    """fpo: pairs of time and noise for each chunk."""
