"""Where noise enters a flow policy, and how likely what came out of it was: three ways behind one interface.

Time runs from t = 1 (noise) to t = 0 (actions) in N Euler steps of d = 1 / N; v is the predicted velocity,
x0 = x - v t the clean estimate, x1 = x + v (1 - t) the noise estimate.

- endpoint: the flow runs deterministically from its drawn start, then noise is added to its end; the update replays
  the last step alone. The noise of neighbouring actions of a chunk may be correlated (AR(1)).
- sde: one step, drawn for each row, is stochastic and keeps the marginals of the flow; the update replays that step.
- fpo: no likelihood; the flow-matching loss of what was executed stands in for it, at drawn times and noises.

Sources:
    endpoint noise, last-step replay, AR(1): StructRL, arXiv 2608.15139. Flow-SDE with one stochastic step:
    RLinf/RLinf @a3816b596, openpi_action_model.py, sample_mean_var_val. FPO: arXiv 2507.21053, eq. 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gymnast_core.jobs.exploration import Exploration
from gymnast_core.types import Trace


@dataclass(frozen=True)
class Flow:
    """The velocity field of some observations.

    Attributes:
        field: (seen (B, H), x (B, K, 7), t (B,)) -> velocity (B, K, 7).
        seen: (B, H) features, computed once for all steps.
        steps: N, Euler steps.
    """

    field: Callable[[Tensor, Tensor, Tensor], Tensor]
    seen: Tensor
    steps: int

    @property
    def rows(self) -> int:
        """B."""
        return int(self.seen.shape[0])

    def velocity(self, x: Tensor, time: Tensor | float) -> Tensor:
        """Return the velocity at x, at one time or one per row."""
        time_B = time if isinstance(time, Tensor) else torch.full((self.rows,), float(time))
        return self.field(self.seen, x, time_B)

    def path(self, start: Tensor) -> list[tuple[Tensor, float]]:
        """Return the states and times before each Euler step from a start at t = 1."""
        states = [(start, 1.0)]
        for index in range(1, self.steps):
            states.append((self.after(*states[-1]), 1.0 - index / self.steps))
        return states

    def after(self, x: Tensor, time: float) -> Tensor:
        """Return the states one Euler step later."""
        return x - self.velocity(x, time) / self.steps

    def run(self, start: Tensor) -> Tensor:
        """Return where the flow ends that starts there at t = 1."""
        return self.after(*self.path(start)[-1])

    def repeated(self, count: int) -> Flow:
        """Return it with every row `count` times."""
        return Flow(self.field, self.seen.repeat_interleave(count, 0), self.steps)


@dataclass(frozen=True)
class Chosen:
    """Chunks that were sampled.

    Attributes:
        z: (B, K, 7) what is executed, in units of how much actions vary.
        trace: what log_probs needs.
    """

    z: Tensor
    trace: Trace


class Explorer(Protocol):
    """One way to sample a flow."""

    def draw(self, shape: tuple[int, int, int], steps: int, rng: np.random.Generator) -> Trace:
        """Draw all noise of (B, K, 7) chunks, row by row: a row's noise does not depend on how many follow it."""
        ...

    def sample(self, flow: Flow, drawn: Trace) -> Chosen:
        """Run the flow with drawn noise."""
        ...

    def log_probs(self, flow: Flow, trace: Trace) -> Tensor:
        """Return (B, K, 7) log-probabilities of traced chunks, with gradients."""
        ...


def explorer(settings: Exploration, temperature: float) -> Explorer:
    """Return how to sample, its noise scaled by the temperature."""
    if settings.way == "endpoint":
        return _Endpoint(settings.sigma * temperature, settings.rho)
    if settings.way == "sde":
        return _Sde(settings.noise_level * temperature)
    return _MatchingRatio(settings.draws)


def normal_log_prob(x: Tensor, mean: Tensor, std: Tensor | float) -> Tensor:
    """Return the log-density of x under N(mean, std^2), element by element."""
    std = torch.as_tensor(std, dtype=x.dtype)
    return -0.5 * ((x - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)


class _Endpoint:
    """Noise on the end of the flow; neighbouring actions share it as an AR(1) process with unit marginals."""

    def __init__(self, sigma: float, rho: float) -> None:
        self._sigma, self._rho = sigma, rho

    def draw(self, shape: tuple[int, int, int], steps: int, rng: np.random.Generator) -> Trace:
        noise = rng.standard_normal((shape[0], 2, *shape[1:]), dtype=np.float32)
        return {"start": noise[:, 0], "noise": noise[:, 1]}

    def sample(self, flow: Flow, drawn: Trace) -> Chosen:
        before, time = flow.path(torch.from_numpy(drawn["start"]))[-1]
        end = flow.after(before, time)
        white = torch.from_numpy(drawn["noise"])
        noise: list[Tensor] = []
        for k in range(white.shape[1]):
            fresh = white[:, k] if k == 0 else self._rho * noise[-1] + math.sqrt(1 - self._rho**2) * white[:, k]
            noise.append(fresh)
        z = end + self._sigma * torch.stack(noise, dim=1)
        return Chosen(z, {"before": before.numpy(), "executed": z.numpy()})

    def log_probs(self, flow: Flow, trace: Trace) -> Tensor:
        before, executed = torch.from_numpy(trace["before"]), torch.from_numpy(trace["executed"])
        apart = executed - flow.after(before, 1.0 / flow.steps)
        first = normal_log_prob(apart[:, :1], torch.zeros(()), self._sigma)
        narrower = self._sigma * math.sqrt(1 - self._rho**2)
        return torch.cat([first, normal_log_prob(apart[:, 1:], self._rho * apart[:, :-1], narrower)], dim=1)


class _Sde:
    """One stochastic step for each row, the others deterministic."""

    def __init__(self, level: float) -> None:
        self._level = level

    def draw(self, shape: tuple[int, int, int], steps: int, rng: np.random.Generator) -> Trace:
        rows = [(rng.standard_normal((2, *shape[1:]), dtype=np.float32), rng.integers(steps)) for _ in range(shape[0])]
        noise = np.stack([row[0] for row in rows])
        return {"start": noise[:, 0], "noise": noise[:, 1], "step": np.array([row[1] for row in rows], np.int64)}

    def sample(self, flow: Flow, drawn: Trace) -> Chosen:
        x, step_B = torch.from_numpy(drawn["start"]), torch.from_numpy(drawn["step"])
        noise = torch.from_numpy(drawn["noise"])
        before, after = torch.zeros_like(x), torch.zeros_like(x)
        for index in range(flow.steps):
            velocity = flow.velocity(x, 1.0 - index / flow.steps)
            mean, std = self._transition(flow, x, velocity, torch.full((flow.rows,), index))
            stochastic = mean + std * noise
            here = (step_B == index)[:, None, None]
            before, after = torch.where(here, x, before), torch.where(here, stochastic, after)
            x = torch.where(here, stochastic, x - velocity / flow.steps)
        return Chosen(x, {"before": before.numpy(), "after": after.numpy(), "step": drawn["step"]})

    def log_probs(self, flow: Flow, trace: Trace) -> Tensor:
        before, after = torch.from_numpy(trace["before"]), torch.from_numpy(trace["after"])
        step_B = torch.from_numpy(trace["step"])
        velocity = flow.velocity(before, 1.0 - step_B.to(torch.float32) / flow.steps)
        mean, std = self._transition(flow, before, velocity, step_B)
        return normal_log_prob(after, mean, std)

    def _transition(self, flow: Flow, x: Tensor, velocity: Tensor, step_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the state after a stochastic step; at t = 1 the next time bounds sigma."""
        d = 1.0 / flow.steps
        t = (1.0 - step_B.to(torch.float32) * d)[:, None, None]
        rest = torch.where(step_B[:, None, None] == 0, torch.full_like(t, d), 1.0 - t)
        sigma = self._level * (t / rest).sqrt()
        clean, noisy, later = x - velocity * t, x + velocity * (1 - t), t - d
        mean = clean * (1 - later) + noisy * (later - sigma.square() * d / (2 * t))
        return mean, math.sqrt(d) * sigma


class _MatchingRatio:
    """The flow runs deterministically from its drawn start; its loss at drawn times and noises replaces a density."""

    def __init__(self, draws: int) -> None:
        self._draws = draws

    def draw(self, shape: tuple[int, int, int], steps: int, rng: np.random.Generator) -> Trace:
        rows = [
            (rng.standard_normal((1 + self._draws, *shape[1:]), dtype=np.float32), rng.random(self._draws))
            for _ in range(shape[0])
        ]
        noise = np.stack([row[0] for row in rows])
        times = np.stack([row[1] for row in rows]).astype(np.float32) * 0.999 + 0.001
        return {"start": noise[:, 0], "noise": noise[:, 1:], "time": times}

    def sample(self, flow: Flow, drawn: Trace) -> Chosen:
        z = flow.run(torch.from_numpy(drawn["start"]))
        return Chosen(z, {"executed": z.numpy(), "noise": drawn["noise"], "time": drawn["time"]})

    def log_probs(self, flow: Flow, trace: Trace) -> Tensor:
        executed, noise = torch.from_numpy(trace["executed"]), torch.from_numpy(trace["noise"])
        time_BM = torch.from_numpy(trace["time"])
        draws = time_BM.shape[1]
        clean, noisy, t = executed.repeat_interleave(draws, 0), noise.flatten(0, 1), time_BM.flatten()[:, None, None]
        velocity = flow.repeated(draws).velocity(t * noisy + (1 - t) * clean, time_BM.flatten())
        error = (velocity - (noisy - clean)).square()
        return -error.view(len(executed), draws, *executed.shape[1:]).mean(1)
