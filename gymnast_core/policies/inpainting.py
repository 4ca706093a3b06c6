"""Chunks of a flow that begin as the arm goes on meanwhile: guided inpainting.

Source:
    Black, Galliker, Levine, "Real-Time Execution of Action Chunking Flow Policies", arXiv 2506.07339, eq. 2 to 4 and
    algorithm 1. Time runs the other way there: their tau is 1 - t here, their velocity the negative of ours.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gymnast_core.errors import ContractError
from gymnast_core.policies.exploration import Flow
from gymnast_core.policies.plans import GRIPPER
from gymnast_core.policy import Committed
from gymnast_core.types import ACTION_DIM, FloatArray

MOST_GUIDANCE = 5.0
"""beta of the source, which has 5 denoising steps: without a bound few of them overshoot."""


def run_after(flow: Flow, committed_BKW: Tensor, weight_BKW: Tensor) -> Tensor:
    """Return where the flow ends that starts at zero and is pulled towards what is committed at every step.

    Args:
        flow: of B rows.
        committed_BKW: (B, K, W) as the network sees actions.
        weight_BKW: the same shape, 1 where frozen, 0 where free.
    """
    x = torch.zeros_like(committed_BKW)
    for index in range(flow.steps):
        time = 1.0 - index / flow.steps
        with torch.enable_grad():
            here = x.detach().requires_grad_()
            velocity = flow.velocity(here, time)
            clean = here - time * velocity
            apart = ((committed_BKW - clean) * weight_BKW).detach()
            (pull,) = torch.autograd.grad(clean, here, apart)
        x = x - (velocity.detach() - _guidance(time, flow.steps) * pull) / flow.steps
    return x


def run_rows_after(
    flow_of: Callable[[slice], Flow], committed_BKW: FloatArray, weight_K: FloatArray, *, row_by_row: bool
) -> FloatArray:
    """Run the flows of B rows as run_after(); the gripper is a switch and stays free.

    Args:
        flow_of: the flow of some rows.
        committed_BKW: (B, K, W) as the network sees actions, the arm's own numbers first.
        weight_K: (K,).
        row_by_row: each by itself, so that a row's actions do not depend on its batch.
    """
    weight_BKW = np.zeros(committed_BKW.shape, np.float32)
    weight_BKW[..., :GRIPPER] = weight_K[:, None]
    committed, weight = torch.from_numpy(committed_BKW), torch.from_numpy(weight_BKW)
    rows = [slice(b, b + 1) for b in range(len(committed_BKW))] if row_by_row else [slice(None)]
    ends: FloatArray = torch.cat([run_after(flow_of(row), committed[row], weight[row]) for row in rows]).numpy()
    return ends


def check_committed(committed: Committed, rows: int, chunk_length: int) -> None:
    """Refuse what is no chunk of this policy's.

    Raises:
        ContractError: the message names both shapes.
    """
    shape, weights = (rows, chunk_length, ACTION_DIM), (chunk_length,)
    if committed.actions_BKA.shape != shape or committed.weight_K.shape != weights:
        raise ContractError(
            f"committed actions {committed.actions_BKA.shape} and weights {committed.weight_K.shape}; this "
            f"policy's are {shape} and {weights}"
        )


def _guidance(time: float, steps: int) -> float:
    """min(beta, N, (1 - tau) / (tau r^2)) with r^2 = (1 - tau)^2 / (tau^2 + (1 - tau)^2) and tau = 1 - t.

    N is ours: one Euler step never goes further than all of the way.
    """
    most = min(MOST_GUIDANCE, float(steps))
    if time >= 1.0:
        return most
    return min(most, ((1 - time) ** 2 + time**2) / ((1 - time) * time))
