from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cloud_trainer.world_model.data.mixture import Clip, ClipStream, MixtureConfig
from cloud_trainer.world_model.data.source import MemorySource, SourceInfo
from cloud_trainer.world_model.dit.codec import IdentityCodec
from cloud_trainer.world_model.dit.diffusion import CONTEXT_TIMESTEP, RectifiedFlow, VPrediction, null_action
from cloud_trainer.world_model.dit.loss import (
    Batch,
    LossConfig,
    diffusion_forcing_loss,
    draw_batch,
    rollout_consistency_loss,
)
from gymnast_core.errors import ConfigError
from tests.world_model.tiny import tiny_episode, tiny_model


def clips(count: int, frames: int = 6) -> list[Clip]:
    source = MemorySource(SourceInfo("tiny"), [tiny_episode(seed) for seed in range(3)])
    return ClipStream([source], MixtureConfig(frames=frames)).next_clips(count)


def batch(count: int = 2, **changes: float) -> Batch:
    return draw_batch(clips(count), IdentityCodec(), LossConfig(**changes), seed=1, device=torch.device("cpu"))  # type: ignore[arg-type]


def test_v_target_and_noise_recover_the_frame() -> None:
    # with alpha_bar a: x_t = sqrt(a) x + sqrt(1-a) n, v = sqrt(a) n - sqrt(1-a) x, so sqrt(a) x_t - sqrt(1-a) v = x
    schedule, t = VPrediction(), torch.tensor([[0, 500, 998]])
    x, noise = torch.randn(1, 3, 2, 2, 3), torch.randn(1, 3, 2, 2, 3)
    noisy, v = schedule.add_noise(x, noise, t), schedule.target(x, noise, t)
    torch.testing.assert_close(schedule.clean(noisy, v, t), x, atol=1e-5, rtol=1e-5)
    a = schedule.alphas_cumprod[500]
    expected = a.sqrt() * x[0, 1] + (1 - a).sqrt() * noise[0, 1]
    torch.testing.assert_close(noisy[0, 1], expected)


def test_a_perfect_network_has_no_loss_and_a_blind_one_has_the_targets_power() -> None:
    drawn, schedule = batch(), VPrediction()
    target = schedule.target(drawn.latents, drawn.noise, drawn.t)
    assert diffusion_forcing_loss(lambda x, t, a: target, schedule, drawn) == 0
    blind = diffusion_forcing_loss(lambda x, t, a: torch.zeros_like(x), schedule, drawn)
    torch.testing.assert_close(blind, target.square().mean())


def test_randomness_belongs_to_the_sample_not_to_its_batch() -> None:
    whole, drawn = batch(4), clips(4)
    parts = [draw_batch([clip], IdentityCodec(), LossConfig(), seed=1, device=torch.device("cpu")) for clip in drawn]
    for name in ("latents", "noise", "t", "actions", "rollout_noise"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))


def test_every_frame_has_its_own_timestep() -> None:
    assert len(set(batch(4).t.flatten().tolist())) > 15


def test_dropped_clips_lose_their_actions_whole() -> None:
    all_dropped = batch(3, action_dropout=1.0)
    assert torch.equal(all_dropped.actions, null_action(all_dropped.actions))
    assert not batch(3, action_dropout=0.0).actions[..., -1].any()


def test_noisy_context_keeps_all_but_the_last_frame_nearly_clean() -> None:
    t = batch(8, noisy_context=1.0, context_noise=50).t
    assert t[:, :-1].max() <= 50
    assert t[:, -1].max() > 50


def test_rollout_consistency_trains_the_last_frame_after_imagined_context() -> None:
    model, drawn, seen = tiny_model(), batch(), []

    def spy(x: Tensor, t: Tensor, a: Tensor, **kwargs: object) -> Tensor:
        out: Tensor = model(x, t, a, **kwargs)
        seen.append((x.detach(), t))
        return out

    config = LossConfig(rollout_frames=2, rollout_steps=2)
    loss = rollout_consistency_loss(spy, model, VPrediction(), drawn, config)
    loss.backward()  # type: ignore[no-untyped-call]
    x, t = seen[-1]
    assert t[:, :-1].eq(CONTEXT_TIMESTEP).all()
    assert torch.equal(t[:, -1], drawn.t[:, -1])
    scaled = VPrediction().context(drawn.latents)
    assert torch.equal(x[:, :3], scaled[:, :3])
    assert not torch.allclose(x[:, 3:5], scaled[:, 3:5], atol=0.1)
    assert model.x_proj.weight.grad is not None
    with pytest.raises(ConfigError, match="leave no known frame"):
        rollout_consistency_loss(spy, model, VPrediction(), drawn, LossConfig(rollout_frames=5))


def test_rectified_flow_levels_are_linear() -> None:
    flow, t = RectifiedFlow(), torch.tensor([[249]])
    x, noise = torch.zeros(1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, 1)
    assert flow.add_noise(x, noise, t).item() == pytest.approx(0.25)
    assert flow.target(x, noise, t).item() == 1
    assert flow.clean(flow.add_noise(x, noise, t), flow.target(x, noise, t), t).item() == pytest.approx(0)


def test_shares_outside_zero_to_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="rollout_share"):
        LossConfig(rollout_share=1.5)
    with pytest.raises(ConfigError, match="context_noise"):
        LossConfig(context_noise=1000)
