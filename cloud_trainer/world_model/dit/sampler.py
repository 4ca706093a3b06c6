"""Generates latent frames one after another, with a persistent causal KV cache or, for reference, without one.

Per generated frame the cached sampler runs `steps` passes over that one frame and one write pass that stores its keys
and values for good; both guidance branches go through the network in one call. In a cached rollout no pass ever sees
a noisy frame as context, and finished frames never see later ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from cloud_trainer.world_model.dit.diffusion import CONTEXT_TIMESTEP, TIMESTEPS, Objective, noise_steps, null_action
from cloud_trainer.world_model.dit.kv_cache import KVCache, KVContext, LayerKV
from cloud_trainer.world_model.dit.network import DiT
from gymnast_core.errors import ConfigError, ContractError
from gymnast_core.settings import Settings

Trace = Callable[[int, Tensor], None]
"""Called with the denoising step and the frame after it."""


class SamplerConfig(Settings):
    """How frames are drawn."""

    where: ClassVar[str] = "sampler"

    steps: Annotated[int, Field(ge=1, le=TIMESTEPS)] = 10
    """Denoising steps per frame."""
    guidance: float = 1.0
    """Classifier-free guidance on actions; 1 runs the conditional branch alone."""
    window: Annotated[int, Field(ge=2, le=10_000)] = 20
    """Frames the network sees, the one being made included; the oldest leave first."""
    pinned: Annotated[int, Field(ge=0)] = 0
    """Leading frames that never leave the window (1 = the anchor frame)."""

    @model_validator(mode="after")
    def _window_slides(self) -> SamplerConfig:
        if self.pinned >= self.window - 1:
            raise ConfigError(
                f"sampler: pinned must lie in [0, window - 1 = {self.window - 1}), got {self.pinned}; the default is 0"
            )
        return self

    @property
    def branches(self) -> int:
        """Network rows per world: 2 with guidance, else 1."""
        return 1 if self.guidance == 1.0 else 2


Network = Callable[..., Tensor]
"""DiT.forward, or torch.compile of it."""


class RolloutSampler:
    """Rolls a batch of worlds forward with a persistent cache.

    start() takes the known frames, next_frame() makes one more and remembers it.
    """

    def __init__(
        self,
        model: DiT,
        objective: Objective,
        config: SamplerConfig,
        *,
        static: bool = False,
        network: Network | None = None,
    ) -> None:
        """Bind the sampler to a network.

        Args:
            model: in eval mode; its parameters' dtype is the one passes run in.
            objective: what it was trained to predict.
            config: steps, guidance, window.
            static: hand the network one context shape throughout (for compiled networks).
            network: what is called instead of model, e.g. torch.compile(model).

        Raises:
            ConfigError: the window exceeds what the network was trained on.
        """
        if config.window > model.config.max_frames:
            raise ConfigError(f"window {config.window} exceeds the network's max_frames {model.config.max_frames}")
        self.model, self.objective, self.config = model, objective, config
        self._network: Network = model if network is None else network
        self._static = static
        self._cache: KVCache | None = None
        self._batch = 0

    @property
    def cache(self) -> KVCache:
        """The context so far.

        Raises:
            ContractError: start() was not called.
        """
        if self._cache is None:
            raise ContractError("the rollout has no context yet; call start() first")
        return self._cache

    @torch.no_grad()
    def start(self, context_BTHWC: Tensor, actions_BTA: Tensor) -> None:
        """Forget everything and take known frames as context, in one causal pass.

        Args:
            context_BTHWC: finished latents, T at least 1; only what the window holds is used, pinned frames first.
            actions_BTA: action that led to each of them (zeros for the very first).
        """
        config, frames = self.config, context_BTHWC.shape[1]
        keep = list(range(frames))
        while len(keep) > config.window - 1:
            del keep[config.pinned]
        context_BTHWC, actions_BTA = context_BTHWC[:, keep], actions_BTA[:, keep]
        self._batch = context_BTHWC.shape[0]
        grid = (int(context_BTHWC.shape[2]), int(context_BTHWC.shape[3]))
        shape = self.model.cache_shape(
            self._batch * config.branches, grid, capacity=config.window - 1, pinned=config.pinned
        )
        weight = self.model.action_embedder.weight
        self._cache = KVCache(shape, device=weight.device, dtype=weight.dtype, static=self._static)
        self._write(context_BTHWC, actions_BTA, None)

    def fan_out(self, rows: Sequence[int]) -> None:
        """Go on with the given rows of the started batch, repeats allowed: one start, a whole group.

        Args:
            rows: indices into the batch start() was given.
        """
        index = torch.tensor([row + b * self._batch for b in range(self.config.branches) for row in rows])
        self._cache, self._batch = self.cache.gather(index), len(rows)

    @torch.no_grad()
    def next_frame(self, action_BA: Tensor, noise_BHWC: Tensor, trace: Trace | None = None) -> Tensor:
        """Make the next frame and write it into the context.

        Args:
            action_BA: action that leads to it.
            noise_BHWC: standard normal, float32; the only randomness there is.
            trace: sees the frame after every denoising step.

        Returns:
            (B, H, W, C) float32 finished latents.
        """
        if noise_BHWC.shape[0] != self._batch:
            raise ContractError(f"the rollout has {self._batch} rows, got noise for {noise_BHWC.shape[0]}")
        context = self.cache.context()
        actions, frame = action_BA[:, None], noise_BHWC[:, None].float()
        schedule = noise_steps(self.config.steps).to(frame.device)
        for index in range(self.config.steps, 0, -1):
            t, t_next = (schedule[i].expand(self._batch, 1) for i in (index, index - 1))
            frame = self.objective.step(frame, self._guided(frame, t, actions, context), t, t_next)
            if trace is not None:
                trace(self.config.steps - index, frame[:, 0])
        self._write(frame, actions, context)
        return frame[:, 0]

    def _guided(self, x: Tensor, t: Tensor, actions: Tensor, context: KVContext) -> Tensor:
        both = self._call(*self._branch(x, t, actions), context, None)
        return combine_guidance(both, self.config)

    def _write(self, frames: Tensor, actions: Tensor, context: KVContext | None) -> None:
        written: list[LayerKV] = []
        t = torch.full(frames.shape[:2], CONTEXT_TIMESTEP, device=frames.device)
        self._call(*self._branch(self.objective.context(frames), t, actions), context, written)
        self.cache.append(written)

    def _branch(self, x: Tensor, t: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return with_null_branch(x, t, actions, self.config)

    def _call(
        self, x: Tensor, t: Tensor, actions: Tensor, context: KVContext | None, written: list[LayerKV] | None
    ) -> Tensor:
        dtype = self.model.action_embedder.weight.dtype
        return self._network(x.to(dtype), t, actions.to(dtype), context=context, written=written).float()


def with_null_branch(x: Tensor, t: Tensor, actions: Tensor, config: SamplerConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return the network's rows: the conditional ones, then (with guidance) the same without actions."""
    if config.branches == 1:
        return x, t, actions
    return torch.cat((x, x)), torch.cat((t, t)), torch.cat((actions, null_action(actions)))


def combine_guidance(prediction: Tensor, config: SamplerConfig) -> Tensor:
    """Return (1 - g) null + g conditional; the inverse of with_null_branch."""
    if config.branches == 1:
        return prediction
    conditional, null = prediction.chunk(2)
    return (1 - config.guidance) * null + config.guidance * conditional
