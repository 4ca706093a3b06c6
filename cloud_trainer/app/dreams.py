"""What jobs keep of their audits for people: held-out episodes beside their dreams."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load_file

from gymnast_core.types import ByteArray


@dataclass(frozen=True)
class KeptDream:
    """A held-out episode and the dream of its actions.

    Attributes:
        instruction: of the episode.
        real: its outcome, as labelled.
        imagined: outcome of the dream, as judged.
        frame_steps: control step of each frame.
        real_FHWC: (F, H, W, 3) uint8.
        imagined_FHWC: (F, H, W, 3) uint8.
    """

    instruction: str
    real: str
    imagined: str
    frame_steps: tuple[int, ...]
    real_FHWC: ByteArray
    imagined_FHWC: ByteArray


def read_dreams(job: Path) -> list[KeptDream]:
    """Read what cloud_trainer.practice.dreams wrote into a job's folder; empty where it wrote nothing."""
    index = job / "dreams.json"
    if not index.exists():
        return []
    frames = load_file(job / "dreams.safetensors")
    return [
        KeptDream(
            entry["instruction"], entry["real"], entry["imagined"], tuple(entry["frame_steps"]),
            frames[f"real_{number}"], frames[f"imagined_{number}"],
        )
        for number, entry in enumerate(json.loads(index.read_text()))
    ]  # fmt: skip
