"""Six tasks of Meta-World, chosen and written down on 2026-11-30, before any of them was run here.

One of each kind of contact that an arm's tasks have, so that no one trick does for all: none, pushing what slides,
pushing what turns on a rail, pressing, pulling, and grasping to carry. Among tasks of a kind, the one that papers on
world models report most was taken. None was left out for its result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gymnast_core.seeds import CHOOSING_SEEDS, EVALUATION_SEEDS, TRAINING_SEEDS

GYMNASIUM = "benchmarks.metaworld.env:gymnast/MetaWorld-v0"


@dataclass(frozen=True)
class MetaWorldTask:
    """One task.

    Attributes:
        name: Meta-World's.
        instruction: in our words.
        kind: why it is among the six.
    """

    name: str
    instruction: str
    kind: str


TASKS = (
    MetaWorldTask("reach-v3", "reach the goal", "free motion, no contact"),
    MetaWorldTask("push-v3", "push the puck to the goal", "pushing what slides freely"),
    MetaWorldTask("drawer-close-v3", "close the drawer", "pushing what runs on a rail"),
    MetaWorldTask("button-press-topdown-v3", "press the button from above", "pressing against a spring"),
    MetaWorldTask("drawer-open-v3", "open the drawer", "hooking and pulling"),
    MetaWorldTask("pick-place-v3", "put the puck at the goal in the air", "grasping and carrying"),
)
REPEAT = 5
"""Steps of Meta-World in one of ours: 62.5 ms, in which the hand moves 5 cm at most."""
MAX_STEPS = 40
"""Ours; 200 of Meta-World's 500. Its experts need 30 to 120."""


def task_named(name: str) -> MetaWorldTask:
    """Return a task.

    Raises:
        KeyError: there is none of that name.
    """
    return {task.name: task for task in TASKS}[name]


def starts_of(what: str, seed: int) -> Sequence[int]:
    """Return the start states of a use, disjoint from every other use's and seed's.

    Args:
        what: demos, more, loop, varied (whatever the seed), choose or evaluate.
        seed: of the benchmark, 0..9.
    """
    own = 20_000 * seed
    return {
        "demos": TRAINING_SEEDS[own : own + 2_000],
        "more": TRAINING_SEEDS[own + 2_000 : own + 4_000],
        "loop": TRAINING_SEEDS[own + 4_000 : own + 6_000],
        "varied": TRAINING_SEEDS[500_000:510_000],
        "choose": CHOOSING_SEEDS[1_000 * (seed + 1) : 1_000 * (seed + 2)],
        "evaluate": EVALUATION_SEEDS[1_000 * (seed + 1) : 1_000 * (seed + 2)],
    }[what]


def episodes_of(out: Path, what: str, seed: int) -> Path:
    """Return the folder of recorded episodes; a folder a task lies in it."""
    return out / "episodes" / (what if what == "varied" else f"{what}-{seed}")
