"""The real arm's looks, from a copy of MuJoCo Menagerie where the user has one: GYMNAST_MENAGERIE names it."""

from __future__ import annotations

import os
from pathlib import Path

import mujoco
import numpy as np
import pytest

from gymnast_core.arm.kinematics import forward
from gymnast_core.errors import ConfigError
from gymnast_core.spec import JOINT_NAMES, WIDOWX_250S
from gymnast_ros.arguments import MENAGERIE_VARIABLE, check_files, config_from
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.menagerie import dressed, model_of
from gymnast_ros.sim.scene import STANDARD, mjcf

HERE = os.environ.get(MENAGERIE_VARIABLE, "")
has_menagerie = pytest.mark.skipif(not HERE, reason=f"{MENAGERIE_VARIABLE} names no copy of MuJoCo Menagerie")
GRIPPER_POINT_M = WIDOWX_250S.chain.gripper_x_m


@has_menagerie
def test_their_arm_and_ours_are_the_same_to_a_millimetre() -> None:
    model = mujoco.MjModel.from_xml_path(str(model_of(Path(HERE))))
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    low_J, high_J = np.array(WIDOWX_250S.joint_low_rad), np.array(WIDOWX_250S.joint_high_rad)
    worst_m = worst = 0.0
    for _ in range(200):
        joints_J = rng.uniform(low_J, high_J)
        for name, angle in zip(JOINT_NAMES, joints_J, strict=True):
            data.joint(name).qpos[0] = angle
        mujoco.mj_kinematics(model, data)
        link = data.body("wx250s/gripper_link")
        position_X, rotation_XX = forward(joints_J)
        theirs_XX = link.xmat.reshape(3, 3)
        worst_m = max(worst_m, float(np.abs(link.xpos + theirs_XX[:, 0] * GRIPPER_POINT_M - position_X).max()))
        worst = max(worst, float(np.abs(theirs_XX - rotation_XX).max()))
    assert (worst_m < 1e-3, worst < 1e-3) == (True, True), f"{worst_m:.2e} m, {worst:.2e}"
    limits_J2 = np.array([model.joint(name).range for name in JOINT_NAMES])
    np.testing.assert_allclose(limits_J2, np.stack([low_J, high_J], axis=1), atol=1e-3)


@has_menagerie
def test_only_the_looks_change() -> None:
    ours, theirs = SimEnv(image_size=64), SimEnv(image_size=64, menagerie=Path(HERE))
    first, second = (env.reset("lift the red cube", seed=3) for env in (ours, theirs))
    action_BA = np.array([[0.02, 0.01, -0.02, 0.0, 0.0, 0.1, 0.0]], np.float32)
    for _ in range(5):
        np.testing.assert_array_equal(ours.step(action_BA).commanded_BA, theirs.step(action_BA).commanded_BA)
        assert ours.state_digest() == theirs.state_digest()
    (camera,) = ours.spec.cameras
    differing = (first.images[camera] != second.images[camera]).any(axis=-1).mean()
    ours.close()
    theirs.close()
    assert 0.01 < differing < 0.5


def test_a_copy_that_lacks_something_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="git clone --depth 1"):
        dressed(mjcf(STANDARD, 64), tmp_path)
    (tmp_path / "trossen_wx250s").mkdir()
    (tmp_path / "trossen_wx250s" / "wx250s.xml").write_text("<mujoco><worldbody><body name='a'/></worldbody></mujoco>")
    with pytest.raises(ConfigError, match="has no base_link, gripper_link, left_finger_link"):
        dressed(mjcf(STANDARD, 64), tmp_path)
    bodies = ("base", "shoulder", "upper_arm", "upper_forearm", "lower_forearm", "wrist", "gripper")
    drawn = "<geom class='visual' mesh='m'/>"
    links = "".join(
        f"<body name='wx250s/{name}_link'>{drawn}</body>" for name in (*bodies, "left_finger", "right_finger")
    )
    (tmp_path / "trossen_wx250s" / "wx250s.xml").write_text(f"<mujoco><worldbody>{links}</worldbody></mujoco>")
    with pytest.raises(ConfigError, match=r"assets/m\.stl is missing"):
        dressed(mjcf(STANDARD, 64), tmp_path)
    (tmp_path / "m.stl").touch()
    for drawn_so, said in (
        ("mesh='../../m'", r"names the mesh '\.\./\.\./m', which is no file of its assets"),
        ("mesh=''", "names the mesh ''"),
        ("mesh='m' pos='1 2'", "pos '1 2' of mesh 'm'"),
        ("mesh='m' pos='a b c'", "pos 'a b c'"),
        ("mesh='m' quat='nan 0 0 0'", "quat 'nan 0 0 0'"),
    ):
        text = f"<mujoco><worldbody>{links}</worldbody></mujoco>".replace("mesh='m'", drawn_so)
        (tmp_path / "trossen_wx250s" / "wx250s.xml").write_text(text)
        with pytest.raises(ConfigError, match=said):
            dressed(mjcf(STANDARD, 64), tmp_path)


def test_the_arms_looks_are_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MENAGERIE_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=MENAGERIE_VARIABLE):
        config_from({"folder": str(tmp_path), "arm": "menagerie"})
    with pytest.raises(ConfigError, match="ask for that, too"):
        config_from({"folder": str(tmp_path), "menagerie": "there"})
    monkeypatch.setenv(MENAGERIE_VARIABLE, str(tmp_path))
    config = config_from({"folder": str(tmp_path), "arm": "menagerie"})
    assert config.menagerie == tmp_path
    with pytest.raises(ConfigError, match=r"has no trossen_wx250s/wx250s\.xml; name a copy"):
        check_files(config)
    with pytest.raises(ConfigError, match="a real one looks as it does"):
        config_from({"folder": str(tmp_path), "arm": "menagerie", "robot": "widowx"})
