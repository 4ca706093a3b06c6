from __future__ import annotations

import pytest
import torch

from cloud_trainer.world_model.dit.diffusion import VPrediction
from cloud_trainer.world_model.dit.sampler import RolloutSampler, SamplerConfig
from tests.world_model.tiny import tiny_model


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("backend", "atol"), [("aot_eager", 2e-5), ("inductor", 5e-4)])  # its own tanh, exp, cos
def test_compiled_network_with_static_shapes_makes_the_same_frames(backend: str, atol: float) -> None:
    torch._dynamo.reset()
    model, config = tiny_model(), SamplerConfig(steps=2, guidance=2.0, window=4)
    generator = torch.Generator().manual_seed(0)
    context = torch.randn(1, 1, 8, 8, 3, generator=generator)
    noise = torch.randn(5, 1, 8, 8, 3, generator=generator)
    actions = torch.randn(6, 1, 10, generator=generator)
    plain = RolloutSampler(model, VPrediction(), config)
    compiled = RolloutSampler(model, VPrediction(), config, static=True, network=torch.compile(model, backend=backend))
    for sampler in (plain, compiled):
        sampler.start(context, actions[:1].transpose(0, 1))
    for step in range(5):
        frames = [sampler.next_frame(actions[step + 1], noise[step]) for sampler in (plain, compiled)]
        torch.testing.assert_close(frames[1], frames[0], atol=atol, rtol=1e-4)
