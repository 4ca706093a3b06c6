"""Tiny random models every test of this folder shares."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from cloud_trainer.world_model.dit.codec import IdentityCodec
from cloud_trainer.world_model.dit.config import DiTConfig
from cloud_trainer.world_model.dit.diffusion import VPrediction
from cloud_trainer.world_model.dit.env import WorldModelEnv, WorldModelEnvConfig
from cloud_trainer.world_model.dit.network import DiT
from cloud_trainer.world_model.dit.sampler import SamplerConfig
from cloud_trainer.world_model.starts import StartState, start_from_episode
from gymnast_core.types import Episode, Outcome


def tiny_model(seed: int = 0, **changes: Any) -> DiT:
    """A DiT whose every parameter is random, so that no path is silent."""
    config = DiTConfig(**{"in_channels": 3, "dim": 32, "num_layers": 2, "num_heads": 2, "max_frames": 6, **changes})
    model = DiT(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def tiny_episode(seed: int = 0, steps: int = 8, size: int = 8, **changes: Any) -> Episode:
    """Random pictures and actions inside the arm's limits."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-0.05, 0.05, (steps, 7)).astype(np.float32)
    actions[:, 6] = rng.integers(0, 2, steps)
    fields: dict[str, Any] = {
        "episode_id": f"tiny-{seed}",
        "instruction": "put the block on the plate",
        "images": {"main": rng.integers(0, 256, (steps + 1, size, size, 3), dtype=np.uint8)},
        "proprio_TP": rng.uniform(0.1, 0.2, (steps + 1, 7)).astype(np.float32),
        "actions_TA": actions,
        "time_ns_T": np.arange(steps + 1, dtype=np.int64) * 200_000_000,
        "outcome": Outcome.SUCCESS,
    }
    return Episode(**{**fields, **changes})


def tiny_starts(count: int = 3) -> list[StartState]:
    return [start_from_episode(tiny_episode(seed), 4) for seed in range(count)]


def tiny_env(batch_size: int = 3, **changes: Any) -> WorldModelEnv:
    fields: dict[str, Any] = {
        "batch_size": batch_size,
        "max_steps": 4,
        "context_frames": 3,
        "sampler": SamplerConfig(steps=2, window=5, pinned=1),
        **changes,
    }
    return WorldModelEnv(tiny_model(), VPrediction(), IdentityCodec(), tiny_starts(), WorldModelEnvConfig(**fields))


def autoencoder(kind: str) -> Any:
    """A small random image autoencoder of diffusers, "kl" or "tiny"."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import AutoencoderKL, AutoencoderTiny
    torch.manual_seed(0)
    if kind == "tiny":
        return AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
            num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1), latent_channels=16,
        )  # fmt: skip
    # SD3's configuration with fewer channels: 16 latent channels, no quant convolutions, its scale and shift
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=16, norm_num_groups=4, layers_per_block=1,
        scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
