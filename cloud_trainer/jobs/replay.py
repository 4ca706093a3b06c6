"""Every real evaluation is dreamt again: the same policy from the same first frames, judged, beside what happened.

replay_watch notices evaluation episodes and submits this job; its rows go into the calibration ledger.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloud_trainer.jobs.forgetting import load_batched
from cloud_trainer.jobs.job import Job, arm_of, load_episodes, practice_steps
from cloud_trainer.jobs.runner import MOST_REPLAYED
from cloud_trainer.judge.learned import LearnedJudge
from cloud_trainer.practice.imagine import imagine_from
from cloud_trainer.progress import ProgressEvent
from cloud_trainer.records.measured import rows_of
from cloud_trainer.world_model.compact.data import clips_of, starts_of
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.jobs import ReplayResult, ReplaySpec
from gymnast_core.judge import Verdict
from gymnast_core.types import Episode


def replay(job: Job[ReplaySpec]) -> ReplayResult:
    """Dream the job's episodes again with the policy that acted, greedily, and compare the ends.

    Raises:
        ConfigError: none of the episodes is labelled, or the world model does not know the policy's arm.
    """
    world = load_world(job.checkpoints["world_model"], robot=arm_of(job.checkpoints))
    judge = LearnedJudge.load(job.checkpoints["judge"])
    policy = load_batched(job.checkpoints["policy"], device="auto")

    def dream(episodes: Sequence[Episode]) -> Sequence[Verdict]:
        starts = starts_of(clips_of(episodes, world.image_size), ends=practice_steps(episodes, None))
        return judge.judge(imagine_from(world, starts, policy, seed=job.spec.seed, cancelled=job.cancelled))

    episodes = load_episodes(job, MOST_REPLAYED, world.image_size)
    names = {"policy": policy.version, "world_model": world.version, "judge": judge.version}
    rows = tuple(rows_of(episodes, dream, **names))
    job.progress(ProgressEvent("replay", len(episodes), len(episodes)))
    return ReplayResult(ledger=rows, register=(), episodes=len(episodes), folder=str(job.folder))
