"""What the arm can be asked to do, where things stand when it is asked, and when it has done it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from gymnast_core.errors import ContractError
from gymnast_ros.sim.scene import CUBE_HALF_M, PLATE_RADIUS_M

Array = npt.NDArray[np.float64]

LIFT_HEIGHT_M = 0.05
PUSH_DISTANCE_M = 0.045
DRAWER_CLOSED_M = 0.012


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
    """

    name: str
    instruction: str
    succeeded: Callable[[Oracle], bool]


def _lifted(state: Oracle) -> bool:
    return bool(state.red_cube_X[2] > CUBE_HALF_M + LIFT_HEIGHT_M)


def _pushed(state: Oracle) -> bool:
    moved = state.blue_block_X - state.blue_block_start_X
    return bool(moved[1] > PUSH_DISTANCE_M and abs(moved[0]) < 0.05 and abs(moved[2]) < 0.015)


def _put(state: Oracle) -> bool:
    away = state.red_cube_X - state.plate_X
    on_plate = np.hypot(away[0], away[1]) < PLATE_RADIUS_M - 0.005 and abs(away[2] - CUBE_HALF_M) < 0.008
    return bool(on_plate and state.commanded_gripper > 0.5 and state.gripper_open > 0.6)


def _closed(state: Oracle) -> bool:
    return state.drawer_open_m < DRAWER_CLOSED_M


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task("lift", "lift the red cube", _lifted),
            Task("push", "push the blue block to the left", _pushed),
            Task("put", "put the red cube on the plate", _put),
            Task("drawer", "close the drawer", _closed),
        )
    }
)


def task_for(instruction: str) -> Task:
    """Return the task an instruction (or a task's name) asks for; case and outer blanks do not matter.

    Raises:
        ContractError: no task has this instruction; the message lists them.
    """
    wanted = instruction.strip().lower()
    for task in TASKS.values():
        if wanted in (task.name, task.instruction):
            return task
    known = ", ".join(repr(task.instruction) for task in TASKS.values())
    raise ContractError(f"the simulator has no task {instruction!r}; it knows {known}")


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
    rng = np.random.default_rng([seed, list(TASKS).index(task.name)])
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
    return Layout(gripper, cube, float(cube_rad), block, float(block_rad), plate, face, opening, spots)


def _draw(rng: np.random.Generator, name: str) -> Array:
    low, high = REGIONS[name]
    return rng.uniform(low, high)
