from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_trainer.world_model.audit.metrics import psnr
from cloud_trainer.world_model.data.mixture import ClipStream, MixtureConfig
from cloud_trainer.world_model.data.source import MemorySource, SourceInfo
from cloud_trainer.world_model.data.worldgym import WorldGymSource
from cloud_trainer.world_model.dit.codec import IdentityCodec
from cloud_trainer.world_model.dit.config import DiTConfig
from cloud_trainer.world_model.dit.loss import LossConfig
from cloud_trainer.world_model.dit.network import DiT
from cloud_trainer.world_model.dit.sampler import RolloutSampler, SamplerConfig
from cloud_trainer.world_model.dit.train_config import TrainConfig
from cloud_trainer.world_model.dit.trainer import DiTTrainer

SAMPLE = Path("/work/shared/data/bridge_sample")
FRAMES = 8


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the BridgeData sample clips are not here")
def test_tiny_model_overfits_one_bridge_clip() -> None:
    whole = WorldGymSource(SAMPLE, size=32).episode(0)
    config = DiTConfig(in_channels=3, patch_size=4, dim=96, num_layers=3, num_heads=4, max_frames=FRAMES)
    model = DiT(config).initialise(torch.Generator().manual_seed(0))
    stream = ClipStream([MemorySource(SourceInfo("one"), [whole])], MixtureConfig(frames=FRAMES))
    clip = stream.sample(0)
    loss = LossConfig(action_dropout=0, noisy_context=0.5)
    settings = TrainConfig(batch_size=4, learning_rate=2e-3, warmup_steps=20, ema_decay=0.98, loss=loss)
    trainer = DiTTrainer(model, IdentityCodec(), stream, settings)
    trainer.stream = _Always(stream)  # one clip, over and over
    for _ in range(600):
        trainer.train_step()
    latents = IdentityCodec().encode(torch.from_numpy(clip.frames_FHWC))[None]
    actions = torch.from_numpy(clip.conditions_FC)[None]
    generator, reached = torch.Generator().manual_seed(1), []
    with trainer.averaged() as averaged:
        for index in range(1, FRAMES):  # teacher-forced: every frame from the real ones before it
            sampler = RolloutSampler(averaged, trainer._objective, SamplerConfig(steps=10, window=FRAMES))
            sampler.start(latents[:, :index], actions[:, :index])
            frame = sampler.next_frame(actions[:, index], torch.randn(latents[:, 0].shape, generator=generator))
            reached.append(psnr(clip.frames_FHWC[index], IdentityCodec().decode(frame)[0].numpy()))
    assert np.mean(reached) >= 25, reached


class _Always(ClipStream):
    """The stream's first clip, numbered on so that its noise differs."""

    def __init__(self, stream: ClipStream) -> None:
        self.__dict__.update(stream.__dict__)
        self._clip = stream.sample(0)

    def next_clips(self, count: int) -> list:  # type: ignore[type-arg]
        from dataclasses import replace

        first = self._position
        self._position += count
        return [replace(self._clip, number=number) for number in range(first, first + count)]
