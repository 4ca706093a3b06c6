"""What a student of fewer sampling steps learns from: where its teacher comes out from the student's own points."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gymnast_core.errors import ConfigError

Walk = Callable[[Tensor, int], Tensor]
"""(x, step) -> x after that step of the student's, however many steps it takes on the way."""


def own_path_loss(
    noise: Tensor, steps: int, teacher: Walk, student: Walk, error: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Walk the student from noise to a frame; at each of its steps the teacher walks on from the same point.

    Args:
        noise: (B, ...) where both begin.
        steps: of the student.
        teacher: its walk over the stretch of one step of the student's; no gradient flows through it.
        student: its step.
        error: of where the student came out and where the teacher did; a scalar.

    Returns:
        The mean error over the steps, and the student's frame without its graph.

    Source:
        Salimans & Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022, algorithm 2, on points of
        the student's own instead of noised data.
    """
    x, losses = noise, []
    for step in range(steps):
        with torch.no_grad():
            wanted = teacher(x, step)
        came = student(x, step)
        losses.append(error(came, wanted))
        x = came.detach()
    return torch.stack(losses).mean(), x


def check_steps(student: int, teacher: int) -> None:
    """Refuse a student whose steps do not end where the teacher's do.

    Raises:
        ConfigError: its number is no divisor of the teacher's.
    """
    if teacher % student:
        raise ConfigError(f"steps must divide the teacher's {teacher}, got {student}")
