"""What the arm can be asked to do, where things stand when it is asked, and when it has done it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from gymnast_core.errors import ContractError
from gymnast_ros.sim.scene import CUBE_HALF_M, PLATE_HALF_HEIGHT_M, PLATE_RADIUS_M

Array = npt.NDArray[np.float64]

LIFT_HEIGHT_M = 0.05
PUSH_DISTANCE_M = 0.045
DRAWER_CLOSED_M = 0.012
DRAWER_OPEN_M = 0.042
"""Out as far as where closing it is asked for, less a little."""
RIGHT_Y_M, LEFT_Y_M = 0.03, 0.04
"""A block is on the right up to here, on the left from here on; in between it is nowhere in particular."""
OFF_PLATE_M = 0.078
"""From the plate's middle to that of a cube that stands beside it."""


@dataclass(frozen=True, eq=False)
class Oracle:
    """The true state, for the scripted expert and the success label; no policy or model ever sees it.

    Attributes:
        step: control steps done in this episode.
        red_cube_X: centre of the red cube, (3,) [m].
        blue_block_X: centre of the blue block.
        blue_block_start_X: where it stood at the start.
        plate_X: middle of the plate's top.
        drawer_face_X: middle of the cabinet's opening, on the table; the drawer slides along +y from it.
        drawer_open_m: how far the drawer is out.
        gripper_open: measured opening, 0..1.
        commanded_gripper: 0 closed, 1 open.
        target_X: commanded gripper position.
    """

    step: int
    red_cube_X: Array
    blue_block_X: Array
    blue_block_start_X: Array
    plate_X: Array
    drawer_face_X: Array
    drawer_open_m: float
    gripper_open: float
    commanded_gripper: float
    target_X: Array


@dataclass(frozen=True)
class Task:
    """One thing to do.

    Attributes:
        name: short, [a-z_]; rides in metadata and tables.
        instruction: what the policy is asked to do.
        succeeded: judges one state; an episode succeeds if any of its states does.
        ready: whether things stand so that the task can be begun.
    """

    name: str
    instruction: str
    succeeded: Callable[[Oracle], bool]
    ready: Callable[[Oracle], bool]


def _lifted(state: Oracle) -> bool:
    return bool(state.red_cube_X[2] > CUBE_HALF_M + LIFT_HEIGHT_M)


def _pushed(state: Oracle) -> bool:
    moved = state.blue_block_X - state.blue_block_start_X
    return bool(moved[1] > PUSH_DISTANCE_M and abs(moved[0]) < 0.05 and abs(moved[2]) < 0.015)


def _let_go(state: Oracle) -> bool:
    return bool(state.commanded_gripper > 0.5 and state.gripper_open > 0.6)


def _on_plate(state: Oracle) -> bool:
    away = state.red_cube_X - state.plate_X
    return bool(np.hypot(away[0], away[1]) < PLATE_RADIUS_M - 0.005 and abs(away[2] - CUBE_HALF_M) < 0.008)


def _put(state: Oracle) -> bool:
    return _on_plate(state) and _let_go(state)


def _closed(state: Oracle) -> bool:
    return state.drawer_open_m < DRAWER_CLOSED_M


def _opened(state: Oracle) -> bool:
    return state.drawer_open_m > DRAWER_OPEN_M


def _beside_plate(state: Oracle) -> bool:
    """The cube stands on the table about where episodes begin with it, clear of the plate."""
    (low_x, low_y), (high_x, high_y) = REGIONS["red_cube"]
    x, y, z = state.red_cube_X
    about = low_x - 0.03 < x < high_x + 0.03 and low_y - 0.03 < y < high_y + 0.03
    away = state.red_cube_X - state.plate_X
    return bool(about and abs(z - CUBE_HALF_M) < 0.008 and np.hypot(away[0], away[1]) > OFF_PLATE_M)


def _taken(state: Oracle) -> bool:
    return _beside_plate(state) and _let_go(state)


def _block_in_reach(state: Oracle) -> bool:
    (low_x, _), (high_x, _) = REGIONS["blue_block"]
    x, _, z = state.blue_block_X
    return bool(low_x - 0.03 < x < high_x + 0.03 and abs(z - CUBE_HALF_M) < 0.008)


def _block_right(state: Oracle) -> bool:
    return _block_in_reach(state) and bool(-0.08 < state.blue_block_X[1] < RIGHT_Y_M)


def _block_left(state: Oracle) -> bool:
    return _block_in_reach(state) and bool(LEFT_Y_M < state.blue_block_X[1] < 0.14)


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task("lift", "lift the red cube", _lifted, _beside_plate),
            Task("push", "push the blue block to the left", _pushed, _block_right),
            Task("put", "put the red cube on the plate", _put, _beside_plate),
            Task("drawer", "close the drawer", _closed, _opened),
        )
    }
)
"""What policies are trained for and compared on."""

RESETS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task("push_back", "push the blue block to the right", _block_right, _block_left),
            Task("take", "take the red cube off the plate", _taken, _on_plate),
            Task("open", "open the drawer", _opened, _closed),
        )
    }
)
"""Tasks that lay the table for one of TASKS again: a robot that can do both practises by itself."""

RESET_OF: Mapping[str, str] = MappingProxyType({"push": "push_back", "put": "take", "drawer": "open"})
"""Task -> the one that undoes it. Nothing undoes a lift: what is let go of falls."""

_ALL = (*TASKS.values(), *RESETS.values())
"""In this order their start states are drawn; new ones go to the end."""


def task_for(instruction: str) -> Task:
    """Return the task an instruction (or a task's name) asks for; case and outer blanks do not matter.

    Raises:
        ContractError: no task has this instruction; the message lists them.
    """
    wanted = instruction.strip().lower()
    for task in _ALL:
        if wanted in (task.name, task.instruction):
            return task
    known = ", ".join(repr(task.instruction) for task in _ALL)
    raise ContractError(f"the simulator has no task {instruction!r}; it knows {known}")


def ready_tasks(state: Oracle) -> list[str]:
    """Return the names of the tasks that could be begun as things stand."""
    return [task.name for task in _ALL if task.ready(state)]


@dataclass(frozen=True, eq=False)
class Layout:
    """Where everything stands at the start. Positions (2,) [m] on the table, yaw [rad].

    Attributes:
        gripper_X: (3,) start of the gripper, which points straight down, open.
        red_cube_X: middle of the cube; its yaw is red_cube_rad.
        red_cube_rad: yaw.
        blue_block_X: middle of the block; its yaw is blue_block_rad.
        blue_block_rad: yaw.
        plate_X: middle of the plate.
        drawer_face_X: middle of the cabinet's opening.
        drawer_open_m: how far the drawer is out.
        distractors_DX: (D, 2) middles of the distractors.
        red_cube_on_m: height of what the cube stands on.
    """

    gripper_X: Array
    red_cube_X: Array
    red_cube_rad: float
    blue_block_X: Array
    blue_block_rad: float
    plate_X: Array
    drawer_face_X: Array
    drawer_open_m: float
    distractors_DX: Array
    red_cube_on_m: float = 0.0


REGIONS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = MappingProxyType(
    {
        "gripper": ((0.24, -0.03, 0.11), (0.31, 0.05, 0.15)),
        "red_cube": ((0.25, 0.015), (0.33, 0.085)),
        "blue_block": ((0.185, -0.05), (0.23, 0.015)),
        "plate": ((0.30, 0.12), (0.355, 0.155)),
        "drawer_face": ((0.30, -0.145), (0.345, -0.115)),
        "distractor": ((0.20, -0.12), (0.38, 0.13)),
    }
)
"""Corner to corner, where each thing may stand; inverse kinematics reaches all of it gripper-down (a test)."""


def draw_layout(task: Task, seed: int, distractors: int = 0) -> Layout:
    """Draw a start state: the same (task, seed, distractors) gives the same one, bit for bit.

    Distractors are drawn last, so the rest stands where it stands without them.
    """
    rng = np.random.default_rng([seed, [each.name for each in _ALL].index(task.name)])
    gripper = _draw(rng, "gripper")
    while True:
        cube, block, plate = (_draw(rng, name) for name in ("red_cube", "blue_block", "plate"))
        clear = np.linalg.norm(cube - plate) > 0.09 and np.linalg.norm(cube - block) > 0.068
        if clear and np.linalg.norm(block + np.array([0.0, 0.09]) - plate) > 0.085:
            break
    face = _draw(rng, "drawer_face")
    cube_rad, block_rad = rng.uniform(-0.35, 0.35), rng.uniform(-0.2, 0.2)
    opening = float(rng.uniform(0.05, 0.065))
    taken = [(cube, 0.07), (block, 0.075), (plate, 0.08), (face, 0.11)]
    placed: list[Array] = []
    while len(placed) < distractors:
        spot = _draw(rng, "distractor")
        if all(np.linalg.norm(spot - other) > gap for other, gap in taken):
            placed.append(spot)
            taken.append((spot, 0.05))
    spots = np.array(placed, np.float64).reshape(-1, 2)
    layout = Layout(gripper, cube, float(cube_rad), block, float(block_rad), plate, face, opening, spots)
    return _UNDONE[task.name](layout, rng) if task.name in _UNDONE else layout


def _pushed_over(layout: Layout, rng: np.random.Generator) -> Layout:
    return replace(layout, blue_block_X=layout.blue_block_X + np.array([0.0, rng.uniform(0.07, 0.1)]))


def _cube_on_plate(layout: Layout, rng: np.random.Generator) -> Layout:
    spot = layout.plate_X + rng.uniform(-0.015, 0.015, 2)
    return replace(layout, red_cube_X=spot, red_cube_on_m=2 * PLATE_HALF_HEIGHT_M)


def _shut(layout: Layout, rng: np.random.Generator) -> Layout:
    return replace(layout, drawer_open_m=float(rng.uniform(0.0, 0.006)))


_UNDONE: Mapping[str, Callable[[Layout, np.random.Generator], Layout]] = MappingProxyType(
    {"push_back": _pushed_over, "take": _cube_on_plate, "open": _shut}
)
"""Reset -> how things stand when what it undoes was done."""


def _draw(rng: np.random.Generator, name: str) -> Array:
    low, high = REGIONS[name]
    return rng.uniform(low, high)
