"""The newest imagined rollouts of a job, kept in its folder for people to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from gymnast_core.types import ByteArray

if TYPE_CHECKING:
    from cloud_trainer.practice.grpo.scored import Scored

ROLLOUTS = "imagined.safetensors"
SHOWN_ROLLOUTS = 4


def keep_rollouts(folder: Path, scored: Scored) -> None:
    """Write a few rollouts in place of those before; one of each of 4 groups.

    Args:
        folder: of the job.
        scored: what was imagined, and what the judge said of it.
    """
    groups, first = np.unique(scored.rollouts.group_B, return_index=True)
    rows = first[np.linspace(0, len(groups) - 1, min(SHOWN_ROLLOUTS, len(groups))).round().astype(int)].tolist()
    verdicts = np.where(scored.use_B, np.where(scored.reward_B > 0.5, "success", "failure"), "abstain")
    shown = [{"instruction": scored.rollouts.instructions[row], "outcome": str(verdicts[row])} for row in rows]
    films = {str(n): np.ascontiguousarray(scored.rollouts.frames_BFHWC[row]) for n, row in enumerate(rows)}
    partial = folder / f".{ROLLOUTS}.partial"
    save_file(films, partial, metadata={"rows": json.dumps(shown)})
    partial.rename(folder / ROLLOUTS)


def read_rollouts(folder: Path) -> tuple[list[dict[str, object]], list[ByteArray]]:
    """Return what keep_rollouts() wrote last: {instruction, outcome} and (F, H, W, 3) frames of each; empty before."""
    path = folder / ROLLOUTS
    if not path.exists():
        return [], []
    with safe_open(path, framework="numpy") as file:
        rows, films = json.loads(file.metadata()["rows"]), [file.get_tensor(str(n)) for n in range(len(file.keys()))]
    return rows, films
