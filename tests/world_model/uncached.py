"""The sampler without a cache: the whole window at every step, slow, and what the cache is checked against."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cloud_trainer.world_model.dit.diffusion import CONTEXT_TIMESTEP, Objective, noise_steps
from cloud_trainer.world_model.dit.network import DiT
from cloud_trainer.world_model.dit.sampler import SamplerConfig, combine_guidance, with_null_branch


@torch.no_grad()
def sample_uncached(
    model: DiT,
    objective: Objective,
    config: SamplerConfig,
    context_BTHWC: Tensor,
    actions_BTA: Tensor,
    noise_BTHWC: Tensor,
    trace: Callable[[int, int, Tensor], None] | None = None,
) -> Tensor:
    """Generate frames by running the whole window at every step: slow, and what the cache is checked against.

    Args:
        model: the network.
        objective: what it predicts.
        config: steps, guidance, window (pinned frames stay).
        context_BTHWC: known frames.
        actions_BTA: one per frame, known and generated.
        noise_BTHWC: one per generated frame.
        trace: called with generated frame, denoising step, and the frame after it.

    Returns:
        (B, known + generated, H, W, C); the known frames are unchanged.
    """
    frames, schedule = context_BTHWC, noise_steps(config.steps).to(context_BTHWC.device)
    for made in range(noise_BTHWC.shape[1]):
        keep = list(range(frames.shape[1]))
        while len(keep) > config.window - 1:
            del keep[config.pinned]
        past, actions = objective.context(frames[:, keep]), actions_BTA[:, [*keep, frames.shape[1]]]
        frame = noise_BTHWC[:, made : made + 1]
        for index in range(config.steps, 0, -1):
            t = torch.full(actions.shape[:2], CONTEXT_TIMESTEP, device=frames.device)
            t[:, -1] = schedule[index]
            rows = with_null_branch(torch.cat((past, frame), dim=1), t, actions, config)
            prediction = combine_guidance(model(*rows), config)[:, -1:]
            frame = objective.step(frame, prediction, t[:, -1:], schedule[index - 1].expand_as(t[:, -1:]))
            if trace is not None:
                trace(made, config.steps - index, frame[:, 0])
        frames = torch.cat((frames, frame), dim=1)
    return frames
