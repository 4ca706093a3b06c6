"""Start states are within reach, apart from each other, and named by (task, seed)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gymnast_core.arm.kinematics import inverse
from gymnast_core.arm.targets import DEFAULT_ROTATION
from gymnast_core.errors import ConfigError
from gymnast_core.seeds import CHOOSING_SEEDS, EVALUATION_SEEDS, TRAINING_SEEDS
from gymnast_ros.sim.expert import DRAWER_END_M, DRAWER_START_M, PUSH_LENGTH_M, PUSH_START_M
from gymnast_ros.sim.scene import NOVEL_SCENES, STANDARD, SceneConfig, scene_named
from gymnast_ros.sim.tasks import (
    REGIONS,
    RESETS,
    TASKS,
    draw_layout,
    task_for,
)

REACHES = {
    # What the gripper does around each thing: y from, y to, heights, in metres; 3.1 cm of mis-aim in x on top.
    "red_cube": (0.0, 0.0, (0.02, 0.085, 0.142)),
    "plate": (0.0, 0.0, (0.03, 0.075)),
    "blue_block": (-PUSH_START_M, PUSH_LENGTH_M - PUSH_START_M, (0.025, 0.075)),
    "drawer_face": (DRAWER_END_M, 0.065 + DRAWER_START_M, (0.025, 0.075)),
}


@pytest.mark.parametrize("name", REACHES)
def test_gripper_reaches_the_whole_region_pointing_down(name: str) -> None:
    (low_x, low_y), (high_x, high_y) = REGIONS[name]
    first, last, heights = REACHES[name]
    for x in (low_x - 0.031, low_x, high_x, high_x + 0.031):
        for y, z in itertools.product((low_y + first, high_y + last), heights):
            inverse([x, y, z], DEFAULT_ROTATION, [0.0, 0.02, 0.18, 0.0, 1.37, 0.0])


def test_start_poses_are_reachable() -> None:
    low, high = REGIONS["gripper"]
    for corner in itertools.product(*zip(low, high, strict=True)):
        inverse(corner, DEFAULT_ROTATION, [0.0, 0.02, 0.18, 0.0, 1.37, 0.0])


def test_things_stand_apart() -> None:
    for task, seed in itertools.product(TASKS.values(), range(200)):
        layout = draw_layout(task, seed, distractors=2)
        assert np.linalg.norm(layout.red_cube_X - layout.blue_block_X) > 0.06
        assert np.linalg.norm(layout.red_cube_X - layout.plate_X) > 0.05 + 0.0215 * np.sqrt(2)
        front = layout.drawer_face_X + np.array([0.0, layout.drawer_open_m + 0.01])
        for block in (layout.red_cube_X, layout.blue_block_X):
            assert abs(block[0] - front[0]) > 0.05 or block[1] - front[1] > 0.02
        for spot in layout.distractors_DX:
            assert min(np.linalg.norm(spot - x) for x in (layout.red_cube_X, layout.blue_block_X)) > 0.06


def test_layout_depends_on_task_and_seed_alone() -> None:
    one, again = (draw_layout(TASKS["lift"], 5) for _ in range(2))
    np.testing.assert_array_equal(one.red_cube_X, again.red_cube_X)
    np.testing.assert_array_equal(one.red_cube_X, draw_layout(TASKS["lift"], 5, distractors=2).red_cube_X)
    assert not np.array_equal(one.red_cube_X, draw_layout(TASKS["lift"], 6).red_cube_X)
    assert not np.array_equal(one.red_cube_X, draw_layout(TASKS["put"], 5).red_cube_X)


def test_seed_ranges_do_not_overlap() -> None:
    for one, other in itertools.combinations((TRAINING_SEEDS, CHOOSING_SEEDS, EVALUATION_SEEDS), 2):
        assert not range(max(one.start, other.start), min(one.stop, other.stop))


def test_tasks_are_found_by_name_and_by_instruction() -> None:
    for task in (*TASKS.values(), *RESETS.values()):
        assert task_for(task.name) is task
        assert task_for(f" {task.instruction.upper()} ") is task


def test_scenes_are_found_by_name_and_refused_otherwise() -> None:
    assert scene_named("standard") is STANDARD
    assert all(scene_named(name).name == name for name in NOVEL_SCENES)
    with pytest.raises(ConfigError, match="pink_cube"):
        scene_named("moon")
    with pytest.raises(ConfigError, match="distractors"):
        SceneConfig(distractors=3)
