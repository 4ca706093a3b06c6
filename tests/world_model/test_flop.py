from __future__ import annotations

import pytest
import torch

from benchmarks.world_model import Counter, Scheme, count_flop
from cloud_trainer.world_model.dit.config import DiTConfig
from cloud_trainer.world_model.dit.network import DiT
from cloud_trainer.world_model.dit.sampler import SamplerConfig

LATENT, FRAMES = (8, 8), 5
CONFIG = DiTConfig(in_channels=3, dim=32, num_layers=2, num_heads=2, max_frames=4)


def one_pass(new: int, context: int) -> int:
    """Matrix products of one pass over `new` frames after `context` cached ones, counted by hand."""
    d, n, depth, a = CONFIG.dim, 16, CONFIG.num_layers, CONFIG.action_dim
    per_token = 2 * d * (3 * d + d + 8 * d)  # qkv, out, and the two halves of the MLP
    spatial, temporal = 4 * n * d, 4 * (context + new) * d
    half_condition = 2 * d * 6 * d
    ends = 2 * n * (12 * d) * 2 + 2 * d * 2 * d + 2 * 256 * d + 2 * d * d + 2 * a * d
    return new * (depth * (n * (2 * per_token + spatial + temporal) + 2 * half_condition) + ends)


@pytest.mark.parametrize(("kind", "guidance"), [("ours", 1.0), ("ours", 3.0), ("released", 3.0), ("uncached", 1.0)])
def test_counted_flop_equal_those_counted_by_hand(kind: str, guidance: float) -> None:
    with torch.device("meta"):
        counter = Counter(DiT(CONFIG).eval())
    steps, branches = 3, 1 if guidance == 1 else 2
    scheme = Scheme("s", kind, SamplerConfig(steps=steps, guidance=guidance, window=CONFIG.max_frames))
    known = [min(1 + made, CONFIG.max_frames - 1) for made in range(FRAMES)]
    if kind == "ours":
        expected = one_pass(1, 0) + sum((steps + 1) * one_pass(1, k) for k in known)
    elif kind == "released":
        expected = sum(one_pass(k + 1, 0) + (steps - 1) * one_pass(1, k) for k in known)
    else:
        expected = sum(steps * one_pass(k + 1, 0) for k in known)
    counted = count_flop(counter, scheme, latent=LATENT, frames=FRAMES) * FRAMES
    assert counted == pytest.approx(branches * expected)
