"""Noise, targets and one denoising step, for v-prediction (WorldGym) and rectified flow.

Sources: sigmoid schedule, Jabri et al. 2022 (arXiv 2212.11972, algorithm 1); v-prediction, Salimans & Ho 2022 (eq. 10);
DDIM, Song et al. 2020 (eq. 12, eta 0); diffusion forcing, Chen et al. 2024 (an independent noise level per frame);
rectified flow, Liu et al. 2022 (eq. 1).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from cloud_trainer.world_model.dit.actions import CONDITION_DIM
from gymnast_core.errors import ConfigError

TIMESTEPS = 1000
CONTEXT_TIMESTEP = 14
"""Timestep the network gets for finished frames (stabilisation level 15, counted from 0)."""

CLEAN = -1
"""Timestep index of a finished frame in a sampling schedule."""


class Objective(Protocol):
    """What the network predicts and how a frame walks from noise to clean."""

    @property
    def name(self) -> str:
        """Key in OBJECTIVES."""
        ...

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x at timestep t; t has x's leading axes."""
        ...

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return what the network should predict."""
        ...

    def step(self, x_t: Tensor, prediction: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """Return x one step cleaner; t_next = CLEAN gives the finished frame."""
        ...

    def clean(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """Return the network's estimate of the finished frame."""
        ...

    def context(self, x: Tensor) -> Tensor:
        """Return a finished frame as the network expects context at CONTEXT_TIMESTEP: scaled, without noise."""
        ...


def sigmoid_alphas_cumprod(
    timesteps: int = TIMESTEPS, start: float = -3.0, end: float = 3.0, tau: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return (betas, alphas_cumprod), each (timesteps,) float32.

    Betas are computed in float64, clipped to [0, 0.999] and rounded to float32 before the product, as the released
    code does; the last product is about 3e-7, not 0.
    """
    u = torch.linspace(0, timesteps, timesteps + 1, dtype=torch.float64) / timesteps
    low, high = (torch.tensor(v / tau).sigmoid() for v in (start, end))  # float32, as released
    curve = (high - ((u * (end - start) + start) / tau).sigmoid()) / (high - low)
    curve = curve / curve[0]
    betas = (1 - curve[1:] / curve[:-1]).clamp(0, 0.999).float()
    return betas, torch.cumprod(1 - betas, dim=0)


class VPrediction:
    """v = sqrt(a) noise - sqrt(1 - a) x under the sigmoid schedule; DDIM without added noise."""

    name = "v_prediction"

    def __init__(self) -> None:
        self.betas, self.alphas_cumprod = sigmoid_alphas_cumprod()
        self._context_scale = float(self.alphas_cumprod[CONTEXT_TIMESTEP].sqrt())
        self._tables: dict[torch.device, Tensor] = {}

    def _roots(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(a_t) and sqrt(1 - a_t), shaped to broadcast over like; t = CLEAN gives 1 and 0."""
        if like.device not in self._tables:
            self._tables[like.device] = torch.cat((self.alphas_cumprod, torch.ones(1))).to(like.device)
        alpha = self._tables[like.device][t].reshape(*t.shape, *(1,) * (like.ndim - t.ndim))
        return alpha.sqrt().to(like.dtype), (1 - alpha).sqrt().to(like.dtype)

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return sqrt(a) x + sqrt(1 - a) noise."""
        signal, spread = self._roots(t, x)
        return signal * x + spread * noise

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return v."""
        signal, spread = self._roots(t, x)
        return signal * noise - spread * x

    def clean(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """Return sqrt(a) x_t - sqrt(1 - a) v."""
        signal, spread = self._roots(t, x_t)
        return signal * x_t - spread * prediction

    def step(self, x_t: Tensor, prediction: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """One DDIM step, eta 0."""
        signal, spread = self._roots(t, x_t)
        clean = self.clean(x_t, prediction, t)
        noise = (x_t - signal * clean) / spread
        signal_next, spread_next = self._roots(t_next, x_t)
        return signal_next * clean + spread_next * noise

    def context(self, x: Tensor) -> Tensor:
        """Return sqrt(a_14) x."""
        return x * self._context_scale


class RectifiedFlow:
    """Straight paths x_s = (1 - s) x + s noise, s = (t + 1) / 1000; the network predicts noise - x."""

    name = "rectified_flow"

    def _level(self, t: Tensor, like: Tensor) -> Tensor:
        level = (t.to(like.dtype) + 1) / TIMESTEPS
        return level.reshape(*t.shape, *(1,) * (like.ndim - t.ndim))

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return (1 - s) x + s noise."""
        return torch.lerp(x, noise, self._level(t, x))

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return noise - x, whatever t."""
        return noise - x

    def clean(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """Return x_s - s velocity."""
        return x_t - self._level(t, x_t) * prediction

    def step(self, x_t: Tensor, prediction: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """One Euler step from level s to level s_next."""
        return x_t + (self._level(t_next, x_t) - self._level(t, x_t)) * prediction

    def context(self, x: Tensor) -> Tensor:
        """Return (1 - s_14) x."""
        return x * (1 - (CONTEXT_TIMESTEP + 1) / TIMESTEPS)


_OBJECTIVES: dict[str, type[VPrediction] | type[RectifiedFlow]] = {
    VPrediction.name: VPrediction,
    RectifiedFlow.name: RectifiedFlow,
}


def objective(name: str) -> Objective:
    """Return the objective of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in _OBJECTIVES:
        raise ConfigError(f"objective {name!r} is not one of {tuple(_OBJECTIVES)}")
    return _OBJECTIVES[name]()


def noise_steps(count: int) -> Tensor:
    """Return (count + 1,) int64 timesteps; index 0 is CLEAN, a frame walks from the last index to 0.

    Raises:
        ConfigError: count is not in 1..1000.
    """
    if not 1 <= count <= TIMESTEPS:
        raise ConfigError(f"sampling steps must lie in 1..{TIMESTEPS}, got {count}")
    return torch.arange(count + 1) * TIMESTEPS // count - 1


def null_action(actions: Tensor) -> Tensor:
    """Return the condition that means "no action given": zeros, and 1 in the last of the arm's components."""
    null = torch.zeros_like(actions)
    null[..., CONDITION_DIM - 1] = 1
    return null
