import dataclasses
from pathlib import Path

import numpy as np

from cloud_trainer.jobs.desk.pretrain import CAMERA_MATRIX
from cloud_trainer.judge.learned import LearnedJudge
from cloud_trainer.world_model.compact.model import CompactWorldModel
from gymnast_core.episodes.archive import Share, load_episodes, save_episodes
from gymnast_core.policies import load_policy
from gymnast_core.records.manifest import read_manifest
from gymnast_ros.sim.drivers import fill
from gymnast_ros.sim.env import mujoco  # which chooses the renderer before it imports it
from gymnast_ros.sim.scene import STANDARD, mjcf

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"


def test_camera_matrix_is_the_simulated_cameras():
    model = mujoco.MjModel.from_xml_string(mjcf(STANDARD, 64))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    point = np.array([0.3, 0.1, 0.05])
    right, up, back = (point - data.cam_xpos[0]) @ data.cam_xmat[0].reshape(3, 3)
    focal = 32 / np.tan(np.radians(model.cam_fovy[0]) / 2)
    expected = [31.5 + focal * right / -back, 31.5 - focal * up / -back]
    u, v, w = np.array(CAMERA_MATRIX).reshape(3, 4) @ np.append(point, 1.0)
    np.testing.assert_allclose([u / w, v / w], expected, atol=1e-4)


def test_collected_episodes_survive_the_disk_and_depend_on_kind_task_and_seed_alone(tmp_path):
    both = fill(Share("offset", "push", (3, 4)))
    (alone,) = fill(Share("offset", "push", (4,)))
    np.testing.assert_array_equal(both[1].actions_TA, alone.actions_TA)
    np.testing.assert_array_equal(both[1].images["over_shoulder"], alone.images["over_shoulder"])
    save_episodes(tmp_path / "e.npz", both)
    for written, read in zip(both, load_episodes(tmp_path / "e.npz"), strict=True):
        for field in dataclasses.fields(written):
            before, after = getattr(written, field.name), getattr(read, field.name)
            if field.name == "images":
                np.testing.assert_array_equal(before["over_shoulder"], after["over_shoulder"])
            elif isinstance(before, np.ndarray):
                np.testing.assert_array_equal(before, after)
            else:
                assert list(before) == list(after) if field.name == "policy_versions" else before == after


def test_shipped_checkpoints_load_belong_together_and_stay_small():
    policy, world_model, judge = (CHECKPOINTS / name for name in ("policy", "world_model", "judge"))
    assert load_policy(policy).version.startswith("policy-")
    version = CompactWorldModel.load(world_model).version
    assert LearnedJudge.load(judge).version.startswith("judge-")
    assert read_manifest(judge).lineage["world_model"] == version
    assert sum(path.stat().st_size for path in CHECKPOINTS.rglob("*") if path.is_file()) <= 20_000_000
