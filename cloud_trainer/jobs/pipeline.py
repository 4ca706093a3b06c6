"""The training jobs of the service: improve (refine, audit, practise) and adapt (test-time training for one scene).

Each step writes its checkpoint or state into the job folder, so a job that was killed goes on where it stopped and
ends with the same result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cloud_trainer.grpo.config import GrpoConfig
from cloud_trainer.jobs.adaptation import check_request, frame_anchor, iterations_within, two_scene_sampler
from cloud_trainer.jobs.forgetting import ForgettingCheck
from cloud_trainer.jobs.gates import (
    Gates,
    Passed,
    no_worse_than_parent,
    pass_gates,
    practice_audit,
    practice_bounds,
    starts_within,
)
from cloud_trainer.jobs.job import EPISODE_STEPS, IMAGE_SIZE, Job, load_episodes
from cloud_trainer.jobs.judging import JudgeData, refine_judge
from cloud_trainer.jobs.replay import replay
from cloud_trainer.jobs.splits import name_of, split, split_of
from cloud_trainer.jobs.train import Training, run_grpo, world_model_sampler
from cloud_trainer.judge.learned import LearnedJudge
from cloud_trainer.judge.training import JudgeTraining
from cloud_trainer.progress import CancelledError, ProgressEvent
from cloud_trainer.world_model.audit_bounds import AuditBounds, AuditConfig
from cloud_trainer.world_model.compact_data import Clips, clips_of, median_background, starts_of
from cloud_trainer.world_model.compact_model import CompactWorldModel
from cloud_trainer.world_model.compact_train import WorldModelTraining, train_world_model
from gymnast_core.errors import ConfigError
from gymnast_core.manifest import read_manifest
from gymnast_core.policies.compact import CompactPolicy
from gymnast_core.types import Episode

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
        mask_after_success: learn nothing from what follows the first success. Better than without in 10 of 10 seeds
            (benchmarks/demo_seeds_cpu2_202611.md).
        most_episodes: only the newest so many are learned from.
        rehearsal: adapt only: share of starts taken from other scenes and tasks, against forgetting.
        scene_episodes: adapt only: least number of judged episodes of the scene for its trust check.
        anchor: adapt only: weight of the loss that keeps the policy where it was on real frames from elsewhere.
        lora_rank, lora_rate: adapt only: size of the adapters and their learning rate, where mode is lora.
        forgetting: adapt only: a loss of success on the other tasks beyond this must be excluded (95 % one-sided); 1
            measures and refuses nothing, where the robot itself tries the other tasks afterwards.
        check: refuse to practise where the audit is out of bounds, and to offer what may forget.
        audit: which parts of the audit are measured before practice.
        bounds: of the audit.
        overrides: names of bounds that an operator decided to ignore.
        judge_floor, judge_task_floor: see cloud_trainer.jobs.gates.Gates.
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
    mask_after_success: bool = True
    most_episodes: int = 1000
    rehearsal: float = 0.5
    anchor: float = 0.0
    lora_rank: int = 8
    lora_rate: float = 5e-4
    scene_episodes: int = 20
    forgetting: float = 0.10
    check: bool = True
    audit: AuditConfig = field(default_factory=practice_audit)
    bounds: AuditBounds = field(default_factory=practice_bounds)
    overrides: tuple[str, ...] = ()
    judge_floor: float | None = 0.4
    judge_task_floor: float | None = None

    @staticmethod
    def of(values: Mapping[str, Any]) -> PipelineConfig:
        """Build one from a job's spec.

        Raises:
            ConfigError: a setting does not exist; the message lists those that do.
        """
        known = {entry.name for entry in fields(PipelineConfig)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"unknown settings {unknown}; there are {sorted(known)}")
        try:
            audit = replace(practice_audit(), **_tuples(values.get("audit", {})))
            bounds = replace(practice_bounds(), **values.get("bounds", {}))
        except TypeError as error:
            raise ConfigError(f"audit or bounds: {error}; see AuditConfig and AuditBounds for their names") from error
        return PipelineConfig(**_tuples({**values, "audit": audit, "bounds": bounds}))

    @property
    def gates(self) -> Gates:
        """What stands before practice."""
        return Gates(self.audit, self.bounds, self.overrides, self.judge_floor, self.judge_task_floor, self.check)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows lists only."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def improve(job: Job) -> dict[str, Any]:
    """Refine world model and judge on the recorded episodes, audit them, practise, and return the candidates.

    Returns:
        JSON: candidates [{id, iteration, folder, imagined_reward}], world_model, judge (ids), register (folders),
        audit, judge_trust, judge_drift, horizon, imagined_reward (curve), episodes (count), folder, and
        world_model_kept: why a refined world model was not promoted over its parent, or empty.

    Raises:
        NotTrustedError: the audit is out of bounds, or the judge's precision is not proven; nothing was trained.
        ConfigError: too few labelled episodes, or an unknown setting.
        CancelledError: asked to stop; the job folder has everything up to the last whole iteration.
    """
    config = PipelineConfig.of(job.spec.get("config", {}))
    episodes = split(load_episodes(job, config.most_episodes))
    parts = {name: _clips(part, name) for name, part in episodes.items()}
    world_model, kept = _promoted_world_model(job, config, parts["world_model"], episodes["audit"])
    model = CompactWorldModel.load(world_model)
    judge_folder = _refined_judge(job, config, model, parts)
    judge = LearnedJudge.load(judge_folder)
    came_with = job.checkpoints["judge"]
    before = judge if judge_folder == came_with else LearnedJudge.load(came_with)
    passed = pass_gates(
        model, judge, episodes["audit"], config.gates, job.folder, tracker_episodes=episodes["world_model"],
        came_with=(before, read_manifest(came_with)), progress=job.progress, seed=job.seed,
    )  # fmt: skip
    within = [starts_within(part, EPISODE_STEPS, passed.horizon) for part in parts.values()]
    starts, late = ([start for pair in within for start in pair[which]] for which in (0, 1))
    grpo = _grpo_config(job, config)
    sampler = world_model_sampler(model, judge, starts, grpo, keyframes=late, cancelled=job.cancelled)
    training = run_grpo(
        job.checkpoints["policy"], sampler, grpo, job.folder / "candidates",
        candidate_every=config.candidate_every, state=job.folder / "grpo.state",
        lineage=_lineage(model, judge, passed, parts.values()), progress=job.progress, cancelled=job.cancelled,
    )  # fmt: skip
    result = _result(job, training, world_model, judge_folder, passed, sum(len(part) for part in parts.values()))
    return {**result, "world_model_kept": kept}


def adapt(job: Job, *, clock: Callable[[], float] = time.monotonic) -> dict[str, Any]:
    """Test-time training: practise in the dream of one scene, within a deadline, without forgetting the rest.

    The scene's own recorded episodes are its start states and its trust check. Their background replaces the world
    model's. A share of the starts comes from elsewhere, so that the other tasks stay in practice; whether they do is
    checked on episodes that were not rehearsed.

    Args:
        job: spec holds scene, instruction, budget_s, and as options rollouts (imagined ones, at most) and mode.
        clock: monotonic seconds, for the deadline.

    Returns:
        As improve(), with forgetting (see Forgetting); candidates is empty if nothing passes that check, and refused
        says why.

    Raises:
        NotTrustedError: the dream does not agree with the scene's real episodes.
        ConfigError: no episodes of this scene and instruction, or an unknown setting.
    """
    deadline = clock() + float(job.spec.get("budget_s", 120.0))
    check_request(job.spec)
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
    rehearsed = [episode for episode in others if split_of(name_of(episode)) == "world_model"]
    held_out = [episode for episode in others if split_of(name_of(episode)) != "world_model"]
    home = CompactWorldModel.load(job.checkpoints["world_model"])
    there = CompactWorldModel(home.network, median_background(clips_of(here, IMAGE_SIZE).frames_NTHWC, seed=job.seed))
    judge = LearnedJudge.load(job.checkpoints["judge"])
    passed = pass_gates(
        there, judge, mine, _scene_gates(config), job.folder, tracker_episodes=others, progress=job.progress,
        seed=job.seed,
    )  # fmt: skip
    training = _practise_until(job, config, lambda: clock() > deadline, there, judge, mine, rehearsed, passed)
    result = _result(job, training, job.checkpoints["world_model"], job.checkpoints["judge"], passed, len(mine))
    if not result["candidates"]:
        result["refused"] = f"budget_s {job.spec.get('budget_s')} did not last for one iteration; give more"
    elif held_out:
        result |= _remembering(job, config, home, judge, held_out, result["candidates"])
    return result


def _remembering(
    job: Job, config: PipelineConfig, home: CompactWorldModel, judge: LearnedJudge,
    held_out: Sequence[Episode], candidates: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """Offer the longest trained of (all, half, a quarter, ...) of the iterations that does not forget the rest."""
    check = ForgettingCheck(
        home, judge, _clips(held_out, "other scenes"), job.checkpoints["policy"],
        adapted_to=str(job.spec["instruction"]), seed=job.seed, cancelled=job.cancelled,
    )  # fmt: skip
    count, tried, refusal = len(candidates), [], ""
    while count:
        job.progress(ProgressEvent("forgetting", count, len(candidates)))
        found = check.of(Path(candidates[count - 1]["folder"]))
        refusal = refusal or found.refusal(config.forgetting)
        tried.append({"iteration": candidates[count - 1]["iteration"], **found.to_json(config.forgetting)})
        if tried[-1]["ok"] or not config.check:
            return {"candidates": list(candidates[:count]), "forgetting": tried[-1], "forgetting_tried": tried}
        count //= 2
    return {"candidates": [], "refused": refusal, "forgetting": tried[0], "forgetting_tried": tried}


def _practise_until(
    job: Job, config: PipelineConfig, late: Callable[[], bool], there: CompactWorldModel, judge: LearnedJudge,
    mine: Sequence[Episode], others: Sequence[Episode], passed: Passed,
) -> Training:  # fmt: skip
    """Run GRPO until its iterations or the deadline are spent, whichever is first."""

    def spent() -> bool:
        return job.cancelled() or late()

    grpo = _grpo_config(job, config)
    grpo = replace(grpo, iterations=iterations_within(job.spec, grpo.iterations, grpo.groups * grpo.group_size))
    scene_clips, parent = _clips(mine, "scene"), job.checkpoints["policy"]
    elsewhere = _clips(others, "other scenes") if others else None
    begin, _ = starts_within(scene_clips, EPISODE_STEPS, passed.horizon)
    sampler = two_scene_sampler(
        there, begin, CompactWorldModel.load(job.checkpoints["world_model"]),
        starts_of(elsewhere) if elsewhere else [], judge, grpo, rehearsal=config.rehearsal,
    )  # fmt: skip
    arguments: dict[str, Any] = {
        "candidate_every": 1,
        "state": job.folder / "grpo.state",
        "lineage": {**_lineage(there, judge, passed, [scene_clips]), "scene": job.spec["scene"]},
        "progress": job.progress,
    }
    if elsewhere and config.anchor > 0:
        base = CompactPolicy.load(parent, row_by_row=False)
        arguments["anchor"] = frame_anchor(base, elsewhere, weight=config.anchor)
    if job.spec.get("mode") == "lora":
        from gymnast_core.policies.lora import LoraSettings  # peft takes seconds to import

        arguments["lora"] = LoraSettings(rank=config.lora_rank, alpha=2.0 * config.lora_rank)
        grpo = replace(grpo, learning_rate=config.lora_rate)
    folder = job.folder / "candidates"
    try:
        return run_grpo(parent, sampler, grpo, folder, cancelled=spent, **arguments)
    except CancelledError:
        if job.cancelled():
            raise
        done = len(list(folder.glob("iteration-*")))
        if done == 0:
            return Training((), ())
        return run_grpo(parent, sampler, replace(grpo, iterations=done), folder, **arguments)


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


def _promoted_world_model(
    job: Job, config: PipelineConfig, clips: Clips, held_out: Sequence[Episode]
) -> tuple[Path, str]:
    """Refine; returns the refined model, or its parent and why the refined one is not promoted."""
    parent = job.checkpoints["world_model"]
    refined = _refined_world_model(job, config, clips, parent)
    if refined == parent or not config.check:
        return refined, ""
    models = (CompactWorldModel.load(refined), CompactWorldModel.load(parent))
    worse = no_worse_than_parent(*models, held_out, config.audit, seed=job.seed)
    if worse:
        job.progress(ProgressEvent("world_model_not_promoted", 1, 1))
    return (parent, worse) if worse else (refined, "")


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


def _scene_gates(config: PipelineConfig) -> Gates:
    """The gates of one scene and task: as many episodes as an operator collects in minutes, no single-task floor.

    The judge's floor is the audit's P(success | real failure) here: 20 labels prove no precision. Outcomes alone are
    asked, as on the operator's page: the gripper tracker has not seen the scene and finds its own error there.
    """
    bounds = replace(config.bounds, episodes=config.scene_episodes)
    gates = replace(config.gates, audit=replace(config.audit, parts=("outcomes",)), bounds=bounds)
    return replace(gates, judge_floor=None, judge_task_floor=config.judge_task_floor)


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


def _lineage(model: CompactWorldModel, judge: LearnedJudge, passed: Passed, parts: Any) -> dict[str, Any]:
    episodes = [episode for part in parts for episode in part.episode_ids]
    return {
        "world_model": model.version,
        "judge": judge.version,
        "audit": passed.report.summary(),
        "episodes": episodes,
    }


def _result(
    job: Job, training: Training, world_model: Path, judge: Path, passed: Passed, episodes: int
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
        "audit": passed.report.summary(),
        **passed.to_json(),
        "imagined_reward": curve,
        "episodes": episodes,
        "folder": str(job.folder),
    }


JOBS: Mapping[str, Callable[[Job], dict[str, Any]]] = {"improve": improve, "adapt": adapt, "replay": replay}
