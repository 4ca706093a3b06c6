"""Recorded episodes and tiny checkpoints that the job tests share."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cloud_trainer.jobs.runner import Recorded
from cloud_trainer.judge.learned import JudgeConfig, JudgeNetwork, LearnedJudge
from cloud_trainer.judge.thresholds import Thresholds
from cloud_trainer.world_model.compact.data import clips_of, median_background
from cloud_trainer.world_model.compact.model import CompactWorldModel
from gymnast_core.episodes import read_episode, read_summary, write_episode
from gymnast_core.policies.processor import use_threads
from gymnast_ros.sim.collect import collect
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.expert import ScriptedExpert
from tests.cloud.learning_fakes import tiny_policy, tiny_world_model
from tests.once import made_once


def record_material(folder: Path) -> None:
    """Write the checkpoints and the episodes, whose names stand in episodes.json in their order."""
    torch.manual_seed(0)
    env = SimEnv(image_size=64)
    files = []
    for task, offset in ((task, offset) for task in ("lift", "drawer") for offset in (0.0, 0.03)):
        expert = ScriptedExpert(env, aim_offset_m=(offset, 0.0))
        for episode in collect(env, expert, task, range(12)):
            own = replace(episode, episode_id=f"{task}-{int(offset * 100)}-{episode.metadata['seed']}")
            files.append(write_episode(folder / "episodes", own, robot="sim-0"))
    env.close()
    model = tiny_world_model()
    background = median_background(clips_of([read_episode(path) for path in files], 64).frames_NTHWC)
    CompactWorldModel(model.network, background).save(folder / "world_model")
    judge = LearnedJudge(JudgeNetwork(JudgeConfig(widths=(4, 8, 8), hidden=8)))
    judge.save(folder / "judge", parents=(), lineage={}, thresholds=Thresholds(0.5, 0.5))
    tiny_policy().save(folder / "policy")
    (folder / "episodes.json").write_text(json.dumps([path.name for path in files]))


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> tuple[dict[str, Path], list[Recorded]]:
    """Tiny checkpoints, and 48 recorded episodes of which about half succeed; nobody changes them."""
    use_threads()
    folder = made_once(tmp_path_factory, "material", record_material)
    files = [folder / "episodes" / name for name in json.loads((folder / "episodes.json").read_text())]
    recorded = [Recorded(path, read_summary(path).end.outcome.value) for path in files]
    return {name: folder / name for name in ("policy", "world_model", "judge")}, recorded
