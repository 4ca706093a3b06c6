"""What every policy whose actions are the end of a flow does alike: chunks out, the matching loss, a distance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gymnast_core.policies.exploration import Explorer, Flow
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import ACTION_DIM, BoolArray, FloatArray, Trace


def run_rows(
    flow_of: Callable[[slice], Flow], how: Explorer, shape: tuple[int, int, int], steps: int,
    rng: np.random.Generator | None, *, row_by_row: bool,
) -> tuple[FloatArray, Trace, FloatArray | None]:  # fmt: skip
    """Run the flows of B rows, each row by itself or all together.

    Args:
        flow_of: the flow of some rows.
        how: where noise enters.
        shape: (B, K, W).
        steps: N, Euler steps.
        rng: draws all noise; None starts at zero and draws nothing.
        row_by_row: each by itself, so that a row's actions do not depend on its batch.

    Returns:
        z (B, K, W); without a generator an empty trace and None, else what log_probs needs and the log-probabilities
        (B, K, 7) of the arm's own numbers, the first of W.
    """
    drawn = None if rng is None else how.draw(shape, steps, rng)
    rows = [slice(b, b + 1) for b in range(shape[0])] if row_by_row else [slice(None)]
    z, traces, log_probs = [], [], []
    for row in rows:
        flow = flow_of(row)
        if drawn is None:
            z.append(flow.run(torch.zeros((flow.rows, *shape[1:]))))
            continue
        chosen = how.sample(flow, {name: array[row] for name, array in drawn.items()})
        z.append(chosen.z)
        traces.append(chosen.trace)
        log_probs.append(how.log_probs(flow, chosen.trace)[..., :ACTION_DIM])
    if drawn is None:
        return torch.cat(z).numpy(), {}, None
    joined = {name: np.concatenate([trace[name] for trace in traces]) for name in traces[0]}
    return torch.cat(z).numpy(), joined, torch.cat(log_probs).numpy()


def matching_error(
    flow: Flow, clean_NKW: FloatArray, valid_NK: BoolArray, rng: np.random.Generator, *, draws: int
) -> Tensor:
    """Return the squared error of the velocity, mean over valid steps, with gradients.

    Args:
        flow: of N rows.
        clean_NKW: (N, K, W) demonstrated chunks as the network sees them.
        valid_NK: (N, K) bool.
        rng: of times and noise.
        draws: times and noises per row; what was seen is computed once for all.

    Source:
        Lipman et al., arXiv 2210.02747, eq. 23; the distribution of times is openpi's (@15a9616, models/pi0.py).
    """
    clean = torch.from_numpy(clean_NKW).repeat_interleave(draws, 0)
    noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
    time_B = torch.from_numpy((rng.beta(1.5, 1.0, len(clean)) * 0.999 + 0.001).astype(np.float32))
    x = time_B[:, None, None] * noise + (1 - time_B[:, None, None]) * clean
    error = (flow.repeated(draws).velocity(x, time_B) - (noise - clean)).square().mean(-1)
    valid = torch.from_numpy(valid_NK).repeat_interleave(draws, 0)
    return (error * valid).sum() / valid.sum().clamp(min=1)


def path_distance(flow: Flow, base: Flow, shape: tuple[int, int, int]) -> Tensor:
    """Return the mean squared difference of velocities along the base's path from zero, with gradients in `flow`."""
    with torch.no_grad():
        path = base.path(torch.zeros(shape))
        target = [base.velocity(x, t) for x, t in path]
    apart = [(flow.velocity(x, t) - aim).square().mean() for (x, t), aim in zip(path, target, strict=True)]
    return torch.stack(apart).mean()


def within_limits(actions: FloatArray, robot: RobotSpec = WIDOWX_250S) -> FloatArray:
    """Return (..., 7) actions within an arm's limits of a step."""
    return np.clip(actions, robot.action_low_A, robot.action_high_A).astype(np.float32)
