"""A plan's path lies in the camera's picture where the arm really goes; what is not known is said."""

from __future__ import annotations

import io
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from PIL import Image

from cloud_trainer.world_model.planner.picture import SIDE, path_picture, projected
from gymnast_core.records.manifest import Manifest, read_manifest
from gymnast_core.shipped import shipped_checkpoints
from gymnast_core.types import FloatArray
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.scene import CAMERA, SceneConfig, mjcf

SHIPPED = read_manifest(shipped_checkpoints() / "world_model")
PINHOLE = replace(SHIPPED, config={"camera_matrix": [10, 0, 4, 0, 0, 10, 4, 0, 0, 0, 1, 0], "image_size": 8})
"""Ten pixels of focal length, the axis through pixel (4, 4) of 8 x 8; looks along z."""
GREY = np.full((64, 64, 3), 120, np.uint8)
HERE = np.array([0.27, 0.0, 0.12, 0, 0, 0, 1], np.float32)


def moves(*rows: tuple[float, float, float, float]) -> FloatArray:
    """Translation and gripper of each step."""
    return np.array([(x, y, z, 0, 0, 0, gripper) for x, y, z, gripper in rows], np.float32)


def opened(png: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(png)))


def test_points_lie_where_a_pinhole_shows_them() -> None:
    points = np.array([[0, 0, 2], [0.1, -0.2, 1], [0, 0, -1]], np.float32)
    found = projected(points, PINHOLE)
    np.testing.assert_allclose(found[:2], [[4.5 / 8, 4.5 / 8], [5.5 / 8, 2.5 / 8]], atol=1e-6)
    assert np.isnan(found[2]).all(), "behind the camera"


def test_the_shipped_world_model_projects_as_the_simulators_camera_does() -> None:
    model = mujoco.MjModel.from_xml_string(mjcf(SceneConfig(), 64))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = model.camera(CAMERA).id
    points = np.array([[0.2, -0.1, 0.02], [0.27, 0.0, 0.12], [0.35, 0.12, 0.2]], np.float32)
    seen = (points - data.cam_xpos[camera]) @ data.cam_xmat[camera].reshape(3, 3)  # right, up, back
    slope = seen[:, :2] / -seen[:, 2:] / np.tan(np.radians(model.cam_fovy[camera]) / 2)
    np.testing.assert_allclose(projected(points, SHIPPED), 0.5 + 0.5 * slope * [1, -1], atol=0.25 / 64)


@pytest.mark.parametrize("move", [(0.0, 0.04, 0.0), (0.03, -0.03, 0.0), (0.0, 0.0, 0.03)])
def test_the_path_ends_where_the_camera_sees_the_arm_arrive(move: tuple[float, float, float]) -> None:
    world = SimEnv(image_size=64)
    seen = world.reset("lift the red cube", seed=3)
    before, pose_P = next(iter(seen.images.values()))[0], seen.proprio_BP[0]
    actions_TA = moves(*[(*move, 1.0)] * 3)
    for action in actions_TA:
        seen = world.step(action[None]).observation
    after = next(iter(seen.images.values()))[0].astype(int)
    changed = np.argwhere(np.abs(after - before).max(-1) > 25)[:, ::-1]  # across and down
    end = projected(seen.proprio_BP[:, :3], SHIPPED)[0]
    assert np.linalg.norm(changed - (end * 64 - 0.5), axis=1).min() < 4, "a fingertip's width from what moved"
    drawn = path_picture(before, pose_P, actions_TA, SHIPPED)
    assert not drawn.why_not
    across, down = (end * SIDE).astype(int)
    red, _, blue = opened(drawn.png)[down, across].astype(int)
    assert blue > 200 > red, "a blue square at the end: the gripper is open there"
    world.close()


def test_the_line_says_where_the_gripper_closes() -> None:
    path = moves(*[(0, 0.03, 0, 1.0)] * 3, *[(0, 0.03, 0, 0.0)] * 3)
    poses = HERE[None, :3] + np.cumsum(np.vstack([np.zeros((1, 3)), path[:, :3]]), axis=0)
    picture = opened(path_picture(GREY, HERE, path, SHIPPED).png).astype(int)
    for step, opens in ((2, True), (5, False)):
        x, y = (projected(poses[None, step].astype(np.float32), SHIPPED)[0] * SIDE).astype(int)
        red, _, blue = picture[y, x]
        assert (blue > red) == opens, f"step {step}"


@pytest.mark.parametrize(
    ("pose", "camera", "said"),
    [
        (HERE, None, "no world model was named that knows this camera"),
        (HERE, replace(SHIPPED, architecture="dit"), "is a dit, which knows no camera matrix"),
        (None, SHIPPED, "does not say where the arm is; plan from a recorded episode"),
        (HERE, replace(PINHOLE, config={**PINHOLE.config, "camera_matrix": [10, 0, 400, 0, 0, 10, 4, 0, 0, 0, 1, 0]}),
         "outside of what the camera of world_model-"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_said(pose: FloatArray | None, camera: Manifest | None, said: str) -> None:
    found = path_picture(GREY, pose, moves((0, 0.03, 0, 1.0)), camera)
    assert said in found.why_not
    assert not found.png
