"""Six tasks of Meta-World, chosen and written down on 2026-11-30, before any of them was run here.

One of each kind of contact that an arm's tasks have, so that no one trick does for all: none, pushing what slides,
pushing what turns on a rail, pressing, pulling, and grasping to carry. Among tasks of a kind, the one that papers on
world models report most was taken. None was left out for its result.
"""

from __future__ import annotations

from dataclasses import dataclass


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
