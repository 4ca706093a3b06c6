"""The training jobs of the service: improve (refine, audit, practise) and adapt (test-time training for one scene).

Each step writes its checkpoint or state into the job folder, so a job that was killed goes on where it stopped and
ends with the same result.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cloud_trainer.grpo.trainer import GrpoConfig
from cloud_trainer.jobs.adaptation import two_scene_sampler
from cloud_trainer.jobs.audit import audit
from cloud_trainer.jobs.dreams import keep_dreams
from cloud_trainer.jobs.forgetting import check_forgetting
from cloud_trainer.jobs.judging import JudgeData, refine_judge
from cloud_trainer.jobs.runner import Recorded
from cloud_trainer.jobs.splits import name_of, split
from cloud_trainer.jobs.train import Training, run_grpo, world_model_sampler
from cloud_trainer.judge.learned import JudgeTraining, LearnedJudge
from cloud_trainer.progress import Cancelled, CancelledError, Progress, ProgressEvent
from cloud_trainer.world_model.audit_compact import AuditBounds, AuditReport, check_audit
from cloud_trainer.world_model.compact_data import Clips, clips_of, median_background, starts_of
from cloud_trainer.world_model.compact_model import CompactWorldModel
from cloud_trainer.world_model.compact_train import WorldModelTraining, train_world_model
from gymnast_core.episodes import read_episode, read_summary
from gymnast_core.errors import ConfigError
from gymnast_core.manifest import read_manifest
from gymnast_core.types import Episode, Outcome

IMAGE_SIZE = 64
EPISODE_STEPS = 15
"""Control steps of a full episode; shorter ones (e-stop, crash) are kept in the store but not learned from."""
CALIBRATION_EPISODES = 20
"""Fewer held-out episodes than this say nothing about a threshold: the parent judge is kept."""


@dataclass(frozen=True)
class PipelineConfig:
    """How much a job does. Fixed before the run.

    Attributes:
        refine_iterations: of the world model; 0 keeps the parent.
        refine_rate: peak learning rate of the refinement. Short and gentle: old episodes do not travel with a
            checkpoint, and what is not rehearsed is forgotten.
        judge_iterations: of the judge; 0 keeps the parent.
        judge_rate: peak learning rate of the judge.
        grpo_iterations: policy updates. Few on purpose: imagined reward keeps rising long after real success falls.
        groups: start states per update.
        group_size: rollouts per start state.
        learning_rate: of the policy.
        candidate_every: updates between checkpoints offered for the real evaluation.
        keyframe_share: share of groups that start at a later chunk of a recorded episode.
        mask_after_success: learn nothing from what follows the first success.
        most_episodes: only the newest so many are learned from.
        rehearsal: adapt only: share of starts taken from other scenes and tasks, against forgetting.
        scene_episodes: adapt only: least number of judged episodes of the scene for its trust check.
        forgetting: adapt only: largest tolerated loss of imagined success on the other tasks.
        check: refuse to practise where the audit is out of bounds.
        bounds: of the audit.
    """

    refine_iterations: int = 100
    refine_rate: float = 1e-4
    judge_iterations: int = 200
    judge_rate: float = 3e-4
    grpo_iterations: int = 8
    groups: int = 24
    group_size: int = 8
    learning_rate: float = 2e-4
    candidate_every: int = 4
    keyframe_share: float = 0.0
    mask_after_success: bool = False
    most_episodes: int = 1000
    rehearsal: float = 0.5
    scene_episodes: int = 20
    forgetting: float = 0.10
    check: bool = True
    bounds: AuditBounds = field(default_factory=AuditBounds)

    @staticmethod
    def of(values: Mapping[str, Any]) -> PipelineConfig:
        """Build one from a job's spec.

        Raises:
            ConfigError: a setting does not exist; the message lists those that do.
        """
        known = {entry.name for entry in fields(PipelineConfig)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"unknown settings {unknown}; there are {sorted(known)}")
        bounds = AuditBounds(**values.get("bounds", {}))
        return PipelineConfig(**{**values, "bounds": bounds})


@dataclass(frozen=True)
class Job:
    """One job as its worker sees it.

    Attributes:
        spec: seed, config, and for adapt: scene, instruction, budget_s.
        checkpoints: policy, world_model and judge folders.
        episodes: recorded episodes, oldest first.
        folder: where it works; its results stay there.
        progress: told what happens.
        cancelled: asked at every iteration.
    """

    spec: Mapping[str, Any]
    checkpoints: Mapping[str, Path]
    episodes: Sequence[Recorded]
    folder: Path
    progress: Progress
    cancelled: Cancelled

    @property
    def seed(self) -> int:
        """Of everything random in this job."""
        return int(self.spec.get("seed", 0))


def improve(job: Job) -> dict[str, Any]:
    """Refine world model and judge on the recorded episodes, audit them, practise, and return the candidates.

    Returns:
        JSON: candidates [{id, iteration, folder, imagined_reward}], world_model, judge (ids), register (folders),
        audit, imagined_reward (curve), episodes (count), folder.

    Raises:
        NotTrustedError: the audit is out of bounds; nothing was trained.
        ConfigError: too few labelled episodes, or an unknown setting.
        CancelledError: asked to stop; the job folder has everything up to the last whole iteration.
    """
    config = PipelineConfig.of(job.spec.get("config", {}))
    parts = {name: _clips(part, name) for name, part in split(load_episodes(job, config.most_episodes)).items()}
    world_model = _refined_world_model(job, config, parts["world_model"], job.checkpoints["world_model"])
    model = CompactWorldModel.load(world_model)
    judge_folder = _refined_judge(job, config, model, parts)
    judge = LearnedJudge.load(judge_folder)
    report = _audited(job, config, model, judge, parts["audit"])
    starts = [start for part in parts.values() for start in starts_of(part)]
    late = [start for part in parts.values() for start in starts_of(part, steps=(5, 10))]
    grpo = _grpo_config(job, config)
    sampler = world_model_sampler(model, judge, starts, grpo, keyframes=late, cancelled=job.cancelled)
    training = run_grpo(
        job.checkpoints["policy"], sampler, grpo, job.folder / "candidates",
        candidate_every=config.candidate_every, state=job.folder / "grpo.state",
        lineage=_lineage(model, judge, report, parts.values()), progress=job.progress, cancelled=job.cancelled,
    )  # fmt: skip
    return _result(job, training, world_model, judge_folder, report, sum(len(part) for part in parts.values()))


def adapt(job: Job) -> dict[str, Any]:
    """Test-time training: practise in the dream of one scene, within a deadline, without forgetting the rest.

    The scene's own recorded episodes are its start states and its trust check. Their background replaces the world
    model's. A share of the starts comes from elsewhere, so that the other tasks stay in practice.

    Returns:
        As improve(), with forgetting {task: {before, after}}; candidates is empty if the forgetting check refuses.

    Raises:
        NotTrustedError: the dream does not agree with the scene's real episodes.
        ConfigError: no episodes of this scene and instruction.
    """
    deadline = time.monotonic() + float(job.spec.get("budget_s", 120.0))
    config = PipelineConfig.of(job.spec.get("config", {}))
    scene = str(job.spec["scene"])
    episodes = load_episodes(job, config.most_episodes)
    here = [episode for episode in episodes if episode.metadata.get("scene") == scene]
    mine = [episode for episode in here if episode.instruction == job.spec["instruction"]]
    if not mine:
        raise ConfigError(f"no episode of {job.spec['instruction']!r} in scene {scene!r}; collect a few there first")
    others = [episode for episode in episodes if episode.metadata.get("scene") != scene]
    others.sort(key=name_of)
    mine.sort(key=name_of)
    home = CompactWorldModel.load(job.checkpoints["world_model"])
    there = CompactWorldModel(home.network, median_background(clips_of(here, IMAGE_SIZE).frames_NTHWC, seed=job.seed))
    judge = LearnedJudge.load(job.checkpoints["judge"])
    bounds = replace(config.bounds, episodes=config.scene_episodes)
    report = _audited(job, replace(config, bounds=bounds), there, judge, _clips(mine, "scene"))
    training = _practise_until(job, config, deadline, there, judge, mine, others, report)
    result = _result(job, training, job.checkpoints["world_model"], job.checkpoints["judge"], report, len(mine))
    if not result["candidates"]:
        result["refused"] = f"budget_s {job.spec.get('budget_s')} did not last for one iteration; give more"
    elif others:
        rest = _clips(others, "other scenes")
        kept = check_forgetting(
            home, judge, rest, job.checkpoints["policy"], Path(result["candidates"][-1]["folder"]), seed=job.seed
        )
        result["forgetting"] = {"before": kept.before, "after": kept.after, "bound": config.forgetting}
        if kept.loss > config.forgetting:
            result |= {"candidates": [], "refused": f"forgets {kept.loss:.2f} of imagined success on the other tasks"}
    return result


def _practise_until(
    job: Job, config: PipelineConfig, deadline: float, there: CompactWorldModel, judge: LearnedJudge,
    mine: Sequence[Episode], others: Sequence[Episode], report: AuditReport,
) -> Training:  # fmt: skip
    """Run GRPO until its iterations or the deadline are spent, whichever is first."""

    def spent() -> bool:
        return job.cancelled() or time.monotonic() > deadline

    grpo = _grpo_config(job, config)
    scene_clips = _clips(mine, "scene")
    sampler = two_scene_sampler(
        there, starts_of(scene_clips), CompactWorldModel.load(job.checkpoints["world_model"]),
        starts_of(_clips(others, "other scenes")) if others else [], judge, grpo, rehearsal=config.rehearsal,
    )  # fmt: skip
    arguments: dict[str, Any] = {
        "candidate_every": 1,
        "state": job.folder / "grpo.state",
        "lineage": {**_lineage(there, judge, report, [scene_clips]), "scene": job.spec["scene"]},
        "progress": job.progress,
    }
    folder, parent = job.folder / "candidates", job.checkpoints["policy"]
    try:
        return run_grpo(parent, sampler, grpo, folder, cancelled=spent, **arguments)
    except CancelledError:
        if job.cancelled():
            raise
        done = len(list(folder.glob("iteration-*")))
        if done == 0:
            return Training((), ())
        return run_grpo(parent, sampler, replace(grpo, iterations=done), folder, **arguments)


def load_episodes(job: Job, most: int) -> list[Episode]:
    """Read the newest labelled, full-length episodes, frames at IMAGE_SIZE.

    Raises:
        ConfigError: there is none.
    """
    episodes = []
    wanted = job.episodes[-most:]
    for index, entry in enumerate(wanted):
        labelled = entry.outcome in (Outcome.SUCCESS.value, Outcome.FAILURE.value)
        if labelled and read_summary(entry.path).steps == EPISODE_STEPS:
            episode = read_episode(entry.path, image_size=(IMAGE_SIZE, IMAGE_SIZE))
            episodes.append(replace(episode, outcome=Outcome(entry.outcome)))
        if index % 50 == 0:
            job.progress(ProgressEvent("read_episodes", index, len(wanted)))
    if not episodes:
        raise ConfigError(
            f"none of {len(job.episodes)} episodes is labelled and {EPISODE_STEPS} steps long; collect and label some"
        )
    return episodes


def _clips(episodes: Sequence[Episode], part: str) -> Clips:
    if not episodes:
        raise ConfigError(f"no episodes for the {part} part; collect more (100 are a beginning)")
    return clips_of(episodes, IMAGE_SIZE)


def _refined_world_model(job: Job, config: PipelineConfig, clips: Clips, parent: Path) -> Path:
    out = job.folder / "world_model"
    if config.refine_iterations == 0:
        return parent
    if not out.exists():
        training = WorldModelTraining(
            iterations=config.refine_iterations, learning_rate=config.refine_rate, own_context_from=0.0, seed=job.seed
        )
        train_world_model(
            clips, training, out, parent=parent, state=job.folder / "world_model.state",
            progress=job.progress, cancelled=job.cancelled,
        )  # fmt: skip
    return out


def _refined_judge(job: Job, config: PipelineConfig, model: CompactWorldModel, parts: Mapping[str, Clips]) -> Path:
    out = job.folder / "judge"
    if config.judge_iterations == 0:
        return job.checkpoints["judge"]
    if not _can_calibrate(parts["judge"]) or not _can_calibrate(parts["thresholds"]):
        job.progress(ProgressEvent("judge_kept_too_few_episodes", 1, 1))
        return job.checkpoints["judge"]
    if not out.exists():
        data = JudgeData(recorded=parts["world_model"], imagined=parts["judge"], choosing=parts["thresholds"])
        training = JudgeTraining(iterations=config.judge_iterations, learning_rate=config.judge_rate, seed=job.seed)
        refine_judge(
            model, data, training, out,
            parent=job.checkpoints["judge"], state=job.folder / "judge.state",
            progress=job.progress, cancelled=job.cancelled,
        )  # fmt: skip
    return out


def _can_calibrate(clips: Clips) -> bool:
    """Whether both outcomes are there, and enough of them to move a threshold for."""
    return len(clips) >= CALIBRATION_EPISODES and bool(clips.success_N.any()) and not bool(clips.success_N.all())


def _audited(
    job: Job, config: PipelineConfig, model: CompactWorldModel, judge: LearnedJudge, held_out: Clips
) -> AuditReport:
    """Audit on held-out episodes, keep dreams to look at, and refuse what is out of bounds."""
    job.progress(ProgressEvent("audit", 0, 1))
    report = audit(model, judge, held_out, seed=job.seed, cancelled=job.cancelled)
    keep_dreams(model, judge, held_out, job.folder, seed=job.seed)
    numbers = {"agreement": report.agreement, "optimism": report.optimism}
    job.progress(ProgressEvent("audit", 1, 1, numbers))
    (job.folder / "audit.json").write_text(json.dumps(report.to_json(), indent=1))
    if config.check:
        check_audit(report, config.bounds)
    return report


def _grpo_config(job: Job, config: PipelineConfig) -> GrpoConfig:
    return GrpoConfig(
        group_size=config.group_size,
        groups=config.groups,
        iterations=config.grpo_iterations,
        learning_rate=config.learning_rate,
        keyframe_share=config.keyframe_share,
        mask_after_success=config.mask_after_success,
        seed=job.seed,
    )


def _lineage(model: CompactWorldModel, judge: LearnedJudge, report: AuditReport, parts: Any) -> dict[str, Any]:
    episodes = [episode for part in parts for episode in part.episode_ids]
    return {"world_model": model.version, "judge": judge.version, "audit": report.to_json(), "episodes": episodes}


def _result(
    job: Job, training: Training, world_model: Path, judge: Path, report: AuditReport, episodes: int
) -> dict[str, Any]:
    candidates = [
        {"id": c.version, "iteration": c.iteration, "folder": str(c.folder), "imagined_reward": c.imagined_reward}
        for c in training.candidates
    ]
    curve = [{"iteration": row["iteration"], "reward": row["imagined_reward"]} for row in training.history]
    return {
        "candidates": candidates,
        "world_model": read_manifest(world_model).id,
        "judge": read_manifest(judge).id,
        "register": [str(world_model), str(judge)],
        "audit": report.to_json(),
        "imagined_reward": curve,
        "episodes": episodes,
        "folder": str(job.folder),
    }


JOBS: Mapping[str, Callable[[Job], dict[str, Any]]] = {"improve": improve, "adapt": adapt}
