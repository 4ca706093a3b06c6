from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cloud_trainer.world_model.dit import kv_cache
from cloud_trainer.world_model.dit.diffusion import CONTEXT_TIMESTEP, RectifiedFlow, VPrediction
from cloud_trainer.world_model.dit.kv_cache import CacheShape, KVCache, LayerKV
from cloud_trainer.world_model.dit.network import DiT
from cloud_trainer.world_model.dit.rope import Turn, rotate
from cloud_trainer.world_model.dit.sampler import RolloutSampler, SamplerConfig
from gymnast_core.errors import ConfigError, ContractError
from tests.world_model.tiny import tiny_model
from tests.world_model.uncached import sample_uncached


def world(frames: int, made: int, rows: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    context = torch.randn(rows, frames, 8, 8, 3, generator=generator)
    actions = torch.randn(rows, frames + made, 10, generator=generator)
    return context, actions, torch.randn(rows, made, 8, 8, 3, generator=generator)


def cached_rollout(
    model: DiT, config: SamplerConfig, context: Tensor, actions: Tensor, noise: Tensor, static: bool = False
) -> Tensor:
    sampler = RolloutSampler(model, VPrediction(), config, static=static)
    known = context.shape[1]
    sampler.start(context, actions[:, :known])
    made = [sampler.next_frame(actions[:, known + i], noise[:, i]) for i in range(noise.shape[1])]
    return torch.cat((context, torch.stack(made, dim=1)), dim=1)


@pytest.mark.parametrize("rope", ["standard", "pixel"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("static", [False, True])
def test_cached_equals_uncached_inside_the_window(rope: str, guidance: float, static: bool) -> None:
    model, config = tiny_model(spatial_rope=rope), SamplerConfig(steps=3, guidance=guidance, window=6)
    context, actions, noise = world(frames=3, made=3)
    expected = sample_uncached(model, VPrediction(), config, context, actions, noise)
    actual = cached_rollout(model, config, context, actions, noise, static)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("pinned", [0, 1])
def test_keys_kept_before_rotary_make_one_layer_exact_while_the_window_slides(pinned: int) -> None:
    # with a single layer a frame's keys depend on that frame alone, so nothing but the rotary positions can differ
    model = tiny_model(num_layers=1)
    config = SamplerConfig(steps=2, window=4, pinned=pinned)
    context, actions, noise = world(frames=2, made=6)
    expected = sample_uncached(model, VPrediction(), config, context, actions, noise)
    actual = cached_rollout(model, config, context, actions, noise)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_context_outputs_ignore_later_frames() -> None:
    model = tiny_model()
    x, actions, noise = world(frames=5, made=1)
    t = torch.full((2, 5), CONTEXT_TIMESTEP)
    before = model(x, t, actions[:, :5])
    x2, t2, a2 = x.clone(), t.clone(), actions[:, :5].clone()
    x2[:, 4], t2[:, 4], a2[:, 4] = noise[:, 0], 999, 7.0
    after = model(x2, t2, a2)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])


def test_denoising_leaves_the_cache_untouched_and_writes_once_per_frame() -> None:
    model = tiny_model()
    context, actions, noise = world(frames=2, made=1)
    passes: list[tuple[int, bool]] = []

    def counting(x: Tensor, t: Tensor, a: Tensor, **kwargs: object) -> Tensor:
        passes.append((x.shape[1], kwargs["written"] is not None))
        out: Tensor = model(x, t, a, **kwargs)
        return out

    sampler = RolloutSampler(model, VPrediction(), SamplerConfig(steps=4, window=6), network=counting)
    sampler.start(context, actions[:, :2])
    keys = sampler.cache.context().layers[1][0].clone()
    sampler.next_frame(actions[:, 2], noise[:, 0])
    assert torch.equal(sampler.cache.context().layers[1][0][..., :2, :], keys[..., :2, :])
    assert passes == [(2, True)] + [(1, False)] * 4 + [(1, True)]
    assert sampler.cache.frames == 3


def test_frames_made_do_not_depend_on_later_actions_or_noise() -> None:
    model, config = tiny_model(), SamplerConfig(steps=2, window=6)
    context, actions, noise = world(frames=2, made=3)
    actions2, noise2 = actions.clone(), noise.clone()
    actions2[:, 4], noise2[:, 2] = 5.0, 0.0
    first, second = (cached_rollout(model, config, context, a, n) for a, n in ((actions, noise), (actions2, noise2)))
    assert torch.equal(first[:, :4], second[:, :4])
    assert not torch.equal(first[:, 4], second[:, 4])


def test_rows_fanned_out_equal_rows_started_apart() -> None:
    model, config = tiny_model(), SamplerConfig(steps=2, guidance=2.0, window=6)
    context, actions, noise = world(frames=2, made=1, rows=3)
    rows = [2, 0, 0]
    fanned = RolloutSampler(model, VPrediction(), config)
    fanned.start(context, actions[:, :2])
    fanned.fan_out(rows)
    apart = RolloutSampler(model, VPrediction(), config)
    apart.start(context[rows], actions[rows, :2])
    frames = [s.next_frame(actions[:, 2], noise[:, 0]) for s in (fanned, apart)]
    torch.testing.assert_close(frames[0], frames[1], atol=1e-6, rtol=1e-6)


def test_ring_drops_the_oldest_unpinned_frame() -> None:
    cache = KVCache(CacheShape(layers=1, batch=1, tokens=1, heads=1, head_dim=4, capacity=3, pinned=1))
    for number in range(5):
        frame = torch.full((1, 1, 1, 1, 4), float(number))
        cache.append([(frame, frame)])
    assert cache.context().layers[0][1][0, 0, 0, cache.slots, 0].tolist() == [0.0, 3.0, 4.0]
    assert cache.frames == 3


def test_cache_refuses_other_layer_counts_and_windows_that_cannot_slide() -> None:
    cache = KVCache(CacheShape(layers=2, batch=1, tokens=1, heads=1, head_dim=4, capacity=3))
    layer: LayerKV = (torch.zeros(1, 1, 1, 1, 4), torch.zeros(1, 1, 1, 1, 4))
    with pytest.raises(ContractError, match="2 layers, got keys and values of 1"):
        cache.append([layer])
    with pytest.raises(ConfigError, match="pinned"):
        CacheShape(layers=1, batch=1, tokens=1, heads=1, head_dim=4, capacity=2, pinned=2)
    with pytest.raises(ConfigError, match="max_frames 6"):
        RolloutSampler(tiny_model(), VPrediction(), SamplerConfig(window=7))


def test_rectified_flow_with_a_perfect_network_lands_on_the_frame_in_any_number_of_steps() -> None:
    flow = RectifiedFlow()
    x, noise = torch.randn(1, 1, 2, 2, 3), torch.randn(1, 1, 2, 2, 3)
    for steps in (1, 2, 4):
        from cloud_trainer.world_model.dit.diffusion import noise_steps

        schedule, frame = noise_steps(steps), noise.clone()
        for index in range(steps, 0, -1):
            t, t_next = schedule[index].expand(1, 1), schedule[index - 1].expand(1, 1)
            frame = flow.step(frame, flow.target(x, noise, t), t, t_next)
        torch.testing.assert_close(frame, x, atol=1e-6, rtol=1e-6)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    x, actions, _ = world(frames=3, made=0)
    grads = []
    for checkpointed in (False, True):
        model = tiny_model(checkpoint_gradients=checkpointed).train()
        model(x, torch.full((2, 3), 500), actions).square().mean().backward()
        grads.append([p.grad for p in model.parameters()])
    for plain, again in zip(*grads, strict=True):
        assert plain is not None
        assert again is not None
        torch.testing.assert_close(plain, again)


def test_shapes_are_refused_by_name() -> None:
    model = tiny_model()
    with pytest.raises(Exception, match=r"latents must be \(B, T, H, W, 3\)"):
        model(torch.zeros(1, 2, 8, 8, 4), torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2, 10))
    with pytest.raises(Exception, match="timesteps"):
        model(torch.zeros(1, 2, 8, 8, 3), torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 2, 10))


@pytest.mark.parametrize("static", [False, True])
def test_what_a_denoising_pass_left_in_the_open_slot_is_never_read(static: bool) -> None:
    model, config = tiny_model(), SamplerConfig(steps=2, window=4, pinned=1)
    context, actions, noise = world(frames=2, made=5)
    made: list[list[Tensor]] = []
    for rubbish in (0.0, 1e9):
        sampler = RolloutSampler(model, VPrediction(), config, static=static)
        sampler.start(context, actions[:, :2])
        made.append([])
        for step in range(5):
            seen = sampler.cache.context()
            for part in (part for layer in seen.layers for part in layer):
                part.index_fill_(-2, seen.slot, rubbish)
            made[-1].append(sampler.next_frame(actions[:, 2 + step], noise[:, step]))
    for clean, after_rubbish in zip(*made, strict=True):
        assert torch.equal(clean, after_rubbish)


@pytest.mark.parametrize("pinned", [0, 1])
def test_counting_positions_anew_changes_nothing_in_a_long_rollout(
    pinned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, config = tiny_model(), SamplerConfig(steps=1, window=4, pinned=pinned)
    context, actions, noise = world(frames=2, made=8)
    plain = cached_rollout(model, config, context, actions, noise)
    monkeypatch.setattr(kv_cache, "_RECOUNT_AFTER", 5)
    torch.testing.assert_close(cached_rollout(model, config, context, actions, noise), plain, atol=2e-5, rtol=1e-5)


def test_only_new_and_pinned_frames_are_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = KVCache(CacheShape(layers=1, batch=1, tokens=1, heads=1, head_dim=4, capacity=4, pinned=1))
    turned: list[int] = []

    def counting(x: Tensor, turn: Turn) -> Tensor:
        turned.append(x.shape[-2])
        return rotate(x, turn)

    monkeypatch.setattr(kv_cache, "rotate", counting)
    for number in range(8):
        frame = torch.full((1, 1, 1, 1, 4), float(number))
        cache.append([(frame, frame)])
        cache.context()
        cache.context()
    assert turned == [1, 1, 1, 1, 2, 2, 2, 2]
