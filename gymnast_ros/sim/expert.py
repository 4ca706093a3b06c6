"""A scripted operator that knows where everything is: makes demonstrations, flawed ones on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gymnast_core.errors import ContractError
from gymnast_core.types import ACTION_DIM, ActionChunk, FloatArray, Observation
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.tasks import Oracle

Array = npt.NDArray[np.float64]

GRASP_HEIGHT_M = 0.022
HOVER_HEIGHT_M = 0.085
PUSH_HEIGHT_M = 0.025
CLEAR_HEIGHT_M = 0.075
PUSH_START_M = 0.062
"""From the middle of the block to the gripper before it pushes."""
PUSH_LENGTH_M = 0.125
DRAWER_START_M = 0.055
"""From the cabinet's face plus the opening to the gripper before it pushes."""
DRAWER_END_M = 0.027
"""From the cabinet's face to the gripper when the drawer is shut: half a closed gripper and the front."""
TABLE_SPOT_M = (0.275, 0.03)
"""Where a cube is put down that is taken off the plate."""
PUSH_BACK_Y_M = -0.018
"""Where a block is pushed back to."""
PUSH_CONTACT_M = 0.0445
"""From the middle of the block to the gripper that touches it."""
DRAG_OFFSET_M = 0.024
"""From the front's outer face, so that the inner one of two closed fingers stands on its edge."""
DRAG_LENGTH_M = 0.06
DRAG_HEIGHT_M = 0.044
"""Below the edge's 4.65 cm: the arm presses on it."""
OPEN, CLOSED = 1.0, 0.0


@dataclass(frozen=True, eq=False)
class _Leg:
    """Go to a place in so many equal steps, with the gripper so."""

    place_X: Array
    steps: int
    gripper: float


def _above(place_X: Array, height_m: float) -> Array:
    return np.array([place_X[0], place_X[1], height_m])


def _left(distance_m: float) -> Array:
    return np.array([0.0, distance_m, 0.0])


def _grasp(state: Oracle, aim_X: Array) -> list[_Leg]:
    cube = state.red_cube_X + aim_X
    return [
        _Leg(_above(cube, HOVER_HEIGHT_M), 3, OPEN),
        _Leg(_above(cube, GRASP_HEIGHT_M), 2, OPEN),
        _Leg(_above(cube, GRASP_HEIGHT_M), 2, CLOSED),
    ]


def _lift(state: Oracle, aim_X: Array) -> list[_Leg]:
    cube = state.red_cube_X + aim_X
    return [*_grasp(state, aim_X), _Leg(_above(cube, GRASP_HEIGHT_M + 0.12), 3, CLOSED)]


def _put(state: Oracle, aim_X: Array) -> list[_Leg]:
    cube, plate = state.red_cube_X + aim_X, state.plate_X + aim_X
    return [
        *_grasp(state, aim_X),
        _Leg(_above(cube, 0.065), 1, CLOSED),
        _Leg(_above(plate, CLEAR_HEIGHT_M), 4, CLOSED),
        _Leg(_above(plate, GRASP_HEIGHT_M + 0.008), 1, CLOSED),
        _Leg(_above(plate, GRASP_HEIGHT_M + 0.008), 2, OPEN),
    ]


def _push(state: Oracle, aim_X: Array) -> list[_Leg]:
    start = state.blue_block_X + aim_X - _left(PUSH_START_M)
    end = start + _left(PUSH_LENGTH_M)
    return [
        _Leg(_above(start, CLEAR_HEIGHT_M), 3, CLOSED),
        _Leg(_above(start, PUSH_HEIGHT_M), 2, CLOSED),
        _Leg(_above(end, PUSH_HEIGHT_M), 4, CLOSED),
    ]


def _close_drawer(state: Oracle, aim_X: Array) -> list[_Leg]:
    face = state.drawer_face_X + aim_X
    start = face + _left(state.drawer_open_m + DRAWER_START_M)
    end = face + _left(DRAWER_END_M)
    return [
        _Leg(_above(start, CLEAR_HEIGHT_M), 3, CLOSED),
        _Leg(_above(start, PUSH_HEIGHT_M), 2, CLOSED),
        _Leg(_above(end, PUSH_HEIGHT_M), 4, CLOSED),
    ]


def _take(state: Oracle, aim_X: Array) -> list[_Leg]:
    """Down beside the plate, in the middle of where cubes stand when an episode begins."""
    cube = state.red_cube_X + aim_X
    spot = np.array([*TABLE_SPOT_M, 0.0]) + aim_X
    return [
        *_grasp(state, aim_X),
        _Leg(_above(cube, CLEAR_HEIGHT_M), 1, CLOSED),
        _Leg(_above(spot, CLEAR_HEIGHT_M), 4, CLOSED),
        _Leg(_above(spot, GRASP_HEIGHT_M), 1, CLOSED),
        _Leg(_above(spot, GRASP_HEIGHT_M), 2, OPEN),
    ]


def _push_back(state: Oracle, aim_X: Array) -> list[_Leg]:
    start = state.blue_block_X + aim_X + _left(PUSH_START_M)
    end = np.array([start[0], PUSH_BACK_Y_M + PUSH_CONTACT_M, 0.0])
    return [
        _Leg(_above(start, CLEAR_HEIGHT_M), 3, CLOSED),
        _Leg(_above(start, PUSH_HEIGHT_M), 2, CLOSED),
        _Leg(_above(end, PUSH_HEIGHT_M), 4, CLOSED),
    ]


def _open_drawer(state: Oracle, aim_X: Array) -> list[_Leg]:
    """Press one finger onto the front's upper edge and drag it out: the drawer has no handle."""
    face = state.drawer_face_X + aim_X
    start = face + _left(state.drawer_open_m + DRAG_OFFSET_M)
    end = start + _left(DRAG_LENGTH_M)
    return [
        _Leg(_above(start, CLEAR_HEIGHT_M), 4, CLOSED),
        _Leg(_above(start, DRAG_HEIGHT_M), 2, CLOSED),
        _Leg(_above(end, DRAG_HEIGHT_M), 5, CLOSED),
        _Leg(_above(end, CLEAR_HEIGHT_M), 1, CLOSED),
    ]


_PLANS: Mapping[str, Callable[[Oracle, Array], list[_Leg]]] = {
    "lift": _lift,
    "push": _push,
    "put": _put,
    "drawer": _close_drawer,
    "take": _take,
    "push_back": _push_back,
    "open": _open_drawer,
}


class ScriptedExpert:
    """Plans a whole episode from the simulator's true state at its start, then plays it chunk by chunk.

    It keeps to its plan when it fails, so a mis-aimed expert shows the whole motion beside the object.

    Args:
        env: the simulator it looks into; act() must be asked about this environment's running episode.
        aim_offset_m: (x, y) added to every place it aims at: a mis-calibrated station.
        aim_noise_m: standard deviation of a fresh (x, y) error per episode.
        action_noise_m: standard deviation of the error of every single move; the next move corrects it.
        rng: draws the errors.
        chunk_length: K, actions per call.
    """

    version = "scripted-expert"

    def __init__(
        self,
        env: SimEnv,
        *,
        aim_offset_m: tuple[float, float] = (0.0, 0.0),
        aim_noise_m: float = 0.0,
        action_noise_m: float = 0.0,
        rng: np.random.Generator | None = None,
        chunk_length: int = 5,
    ) -> None:
        self._env = env
        self._aim_X = np.array([*aim_offset_m, 0.0])
        self._aim_noise_m, self._action_noise_m = aim_noise_m, action_noise_m
        self._rng = rng if rng is not None else np.random.default_rng(0)
        self._chunk_length = chunk_length
        self._plan_TX = np.zeros((0, 4))

    @property
    def chunk_length(self) -> int:
        """K, actions per call."""
        return self._chunk_length

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Return the next K actions of the plan; see gymnast_core.policy.Policy.act.

        Raises:
            ContractError: more than one row, or an episode that it did not see from its start.
        """
        if observation.batch_size != 1 or len(instruction) != 1:
            raise ContractError(f"the scripted expert drives one arm, got {observation.batch_size} rows")
        state = self._env.oracle()
        if state.step == 0:
            self._plan_TX = self._plan(state)
        elif not len(self._plan_TX):
            raise ContractError(f"the scripted expert was first asked at step {state.step}; ask from step 0 on")
        rows = np.arange(state.step, state.step + self._chunk_length).clip(max=len(self._plan_TX) - 1)
        actions = self._actions(state.target_X, self._plan_TX[rows])
        return ActionChunk(actions[None], self.version)

    def _plan(self, state: Oracle) -> Array:
        """(T, 4): where the gripper should be after every step, and its opening."""
        noise = self._rng.normal(0.0, 1.0, 2) * self._aim_noise_m
        aim_X = self._aim_X + np.array([*noise, 0.0])
        rows: list[Array] = []
        place_X = state.target_X
        for leg in _PLANS[self._env.task.name](state, aim_X):
            for step in range(1, leg.steps + 1):
                at_X = place_X + (leg.place_X - place_X) * (step / leg.steps)
                rows.append(np.array([*at_X, leg.gripper]))
            place_X = leg.place_X
        return np.stack(rows)

    def _actions(self, target_X: Array, plan_KX: Array) -> FloatArray:
        robot = self._env.spec.robot
        limit = robot.max_translation_m
        actions = np.zeros((len(plan_KX), ACTION_DIM), np.float32)
        place_X = target_X
        for action_A, row_X in zip(actions, plan_KX, strict=True):
            noise = self._rng.normal(0.0, 1.0, 3) * self._action_noise_m
            move = np.clip(row_X[:3] - place_X + noise, -limit, limit)
            action_A[:3], action_A[6] = move, row_X[3]
            place_X = np.clip(place_X + move, robot.workspace_low_m, robot.workspace_high_m)
        return actions
