"""The training loss: diffusion forcing, noisy context, and training on the model's own predictions.

Whatever is random about a sample is seeded by its number in the stream, so a run does not depend on how many
processes share it. Sources: diffusion forcing, Chen et al. 2024 (an independent timestep per frame); noisy context,
WoVR (arXiv 2602.13977); rollout consistency, Robotic World Model (Li et al. 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from cloud_trainer.world_model.data.mixture import Clip, stack_clips
from cloud_trainer.world_model.dit.codec import Codec
from cloud_trainer.world_model.dit.diffusion import CONTEXT_TIMESTEP, TIMESTEPS, Objective, null_action
from cloud_trainer.world_model.dit.network import DiT
from cloud_trainer.world_model.dit.sampler import Network, RolloutSampler, SamplerConfig
from gymnast_core.errors import ConfigError
from gymnast_core.settings import Count, Settings, Share


class LossConfig(Settings):
    """What is trained on."""

    where: ClassVar[str] = "train.loss"

    action_dropout: Share = 0.1
    """Share of clips whose actions are replaced by the null action."""
    noisy_context: Share = 0.0
    """Share of clips in which all frames but the last are nearly clean, as in a rollout."""
    context_noise: Annotated[int, Field(ge=0, lt=TIMESTEPS)] = 50
    """Highest timestep of those frames."""
    rollout_share: Share = 0.0
    """Share of steps in which the context is the model's own prediction."""
    rollout_frames: Count = 3
    """Frames it predicts then."""
    rollout_steps: Annotated[int, Field(ge=1, le=TIMESTEPS)] = 4
    """Denoising steps per predicted frame."""


@dataclass(frozen=True)
class Batch:
    """Clips with everything random already drawn.

    Attributes:
        latents: (B, F, h, w, C) clean.
        noise: like latents.
        t: (B, F) timesteps.
        actions: (B, F, 10), dropped clips already null.
        rollout_noise: like latents; what imagined frames start from.
    """

    latents: Tensor
    noise: Tensor
    t: Tensor
    actions: Tensor
    rollout_noise: Tensor


def draw_batch(clips: Sequence[Clip], codec: Codec, config: LossConfig, *, seed: int, device: torch.device) -> Batch:
    """Encode clips and draw their noise, timesteps and dropout, each from its own sample number."""
    frames, conditions = stack_clips(clips)
    latents, noise, times, rollout_noise = [], [], [], []
    actions = torch.from_numpy(conditions)
    for row, clip in enumerate(clips):
        generator = sample_generator(seed, clip.number)
        latents.append(codec.encode(torch.from_numpy(frames[row]), generator).cpu())
        noise.append(torch.randn(latents[-1].shape, generator=generator))
        rollout_noise.append(torch.randn(latents[-1].shape, generator=generator))
        dropped, quiet = torch.rand(2, generator=generator).tolist()
        t = torch.randint(0, TIMESTEPS, (len(frames[row]),), generator=generator)
        if quiet < config.noisy_context:
            t[:-1] = torch.randint(0, config.context_noise + 1, (len(t) - 1,), generator=generator)
        times.append(t)
        if dropped < config.action_dropout:
            actions[row] = null_action(actions[row])
    return Batch(
        latents=torch.stack(latents).to(device),
        noise=torch.stack(noise).to(device),
        t=torch.stack(times).to(device),
        actions=actions.to(device),
        rollout_noise=torch.stack(rollout_noise).to(device),
    )


def diffusion_forcing_loss(network: Network, objective: Objective, batch: Batch) -> Tensor:
    """Mean squared error over all elements, every frame at its own timestep."""
    noisy = objective.add_noise(batch.latents, batch.noise, batch.t)
    prediction = network(noisy, batch.t, batch.actions)
    return (prediction.float() - objective.target(batch.latents, batch.noise, batch.t)).square().mean()


def rollout_consistency_loss(
    network: Network, model: DiT, objective: Objective, batch: Batch, config: LossConfig
) -> Tensor:
    """Error on the last frame after a context whose latest frames the model imagined itself.

    The context has exactly the form it has in a rollout: CONTEXT_TIMESTEP, scaled, without noise. No gradient flows
    through the imagined frames.

    Raises:
        ConfigError: the clips are too short for the rollout.
    """
    frames = batch.latents.shape[1]
    known = frames - 1 - config.rollout_frames
    if known < 1:
        raise ConfigError(f"clips of {frames} frames leave no known frame before {config.rollout_frames} imagined ones")
    imagined = imagine_frames(
        network, model, objective, batch, known, config.rollout_frames, steps=config.rollout_steps
    )  # fmt: skip
    past = torch.cat((batch.latents[:, :known], imagined), dim=1)
    t = torch.full_like(batch.t, CONTEXT_TIMESTEP)
    t[:, -1] = batch.t[:, -1]
    noisy = objective.add_noise(batch.latents[:, -1:], batch.noise[:, -1:], t[:, -1:])
    prediction = network(torch.cat((objective.context(past), noisy), dim=1), t, batch.actions)[:, -1:]
    target = objective.target(batch.latents[:, -1:], batch.noise[:, -1:], t[:, -1:])
    return (prediction.float() - target).square().mean()


def imagine_frames(
    network: Network, model: DiT, objective: Objective, batch: Batch, known: int, count: int, *, steps: int
) -> Tensor:
    """Return (B, count, h, w, C): the frames that follow the batch's first `known` ones, as the network draws them.

    Args:
        network: called; the model, or it compiled.
        model: the network's sizes.
        objective: what it predicts.
        batch: clips with their actions and noise.
        known: frames that are taken from the clips.
        count: frames that are drawn.
        steps: denoising steps of each.
    """
    window = SamplerConfig(steps=steps, window=batch.latents.shape[1])
    sampler = RolloutSampler(model, objective, window, network=network)
    sampler.start(batch.latents[:, :known], batch.actions[:, :known])
    made = [
        sampler.next_frame(batch.actions[:, index], batch.rollout_noise[:, index])
        for index in range(known, known + count)
    ]
    return torch.stack(made, dim=1)


def sample_generator(seed: int, number: int) -> torch.Generator:
    """Return the source of randomness of one sample."""
    words = np.random.SeedSequence((seed, number)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))
