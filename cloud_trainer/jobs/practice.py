"""What the training jobs share: a trusted dream to practise in, the settings of practice, and the result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud_trainer.jobs.calibrated import calibrated_bounds
from cloud_trainer.jobs.gates import Passed, gates_of, pass_gates, starts_within
from cloud_trainer.jobs.job import Job, arm_of, by_people, load_episodes, practice_steps, require_audited
from cloud_trainer.jobs.refine import promoted_world_model, refined_judge
from cloud_trainer.jobs.sight import sight_gate
from cloud_trainer.jobs.splits import split
from cloud_trainer.judge.cache import CachedJudge
from cloud_trainer.judge.choice import judge_of
from cloud_trainer.judge.learned import LearnedJudge
from cloud_trainer.practice.ray.cluster import require_ray
from cloud_trainer.practice.train import Training
from cloud_trainer.world_model.capabilities import capabilities_of
from cloud_trainer.world_model.compact.data import Clips, clips_of, looking_into
from cloud_trainer.world_model.starts import StartState
from cloud_trainer.world_model.worlds import World, load_world
from gymnast_core.errors import ConfigError
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.jobs.judges import VlmChoice
from gymnast_core.jobs.practice import PracticeSettings
from gymnast_core.jobs.spec import (
    Candidate,
    PractisedResult,
    RefiningSpec,
    ReinforcingSpec,
    RewardPoint,
    TrainingSpec,
)
from gymnast_core.judge import Judge
from gymnast_core.policies.adapter import ARCHITECTURE as ADAPTER
from gymnast_core.policies.adapter import Adapter
from gymnast_core.policies.lora_settings import LoraSettings
from gymnast_core.records.manifest import Manifest, read_manifest
from gymnast_core.robots import declared
from gymnast_core.types import Episode

JUDGE_CACHE = "judge_cache"
"""In the job's folder: what an endpoint or a local model has said, so that nothing is asked twice."""


@dataclass(frozen=True)
class Dream:
    """What passed the gates, and where in it practice may begin.

    Attributes:
        world: the world model.
        world_model: its checkpoint folder.
        judge: gives the reward.
        judge_folder: checkpoint of the learned judge, which need not be the one that gives the reward.
        passed: what the gates found.
        parts: the recorded episodes by what they were used for, see jobs.splits.
        starts: recorded beginnings.
        keyframes: recorded later chunk starts.
        steps: control steps of a whole dream.
        kept: why a refined world model was not promoted over its parent, or empty.
    """

    world: World
    world_model: Path
    judge: Judge
    judge_folder: Path
    passed: Passed
    parts: Mapping[str, Clips]
    starts: Sequence[StartState]
    keyframes: Sequence[StartState]
    steps: int
    kept: str


def trusted_dream(job: Job[RefiningSpec]) -> Dream:
    """Refine world model and judge on the job's episodes, and pass the gates.

    Raises:
        NotTrustedError: the audit is out of bounds, or the judge's precision is not proven.
        ConfigError: too few labelled episodes, or dreams longer than any of them; or the world model does not know the
            policy's arm, and is not refined.
        CancelledError: asked to stop.
    """
    config = job.spec.config
    require_ray(config.ray)
    named = practice_judge(config, job.checkpoints["judge"], job.folder) if config.judge else None
    home = _before_refinement(job)
    frame_sizes(job, home)
    loaded = load_episodes(job, config.most_episodes, home.image_size)
    steps, episodes = practice_steps(loaded, config.dream.episode_steps), split(loaded)
    del loaded  # or its frames would be held twice
    episodes["audit"] = by_people(episodes["audit"])
    if config.check:
        require_audited(episodes["audit"], config.dream.episode_steps)
    parts: dict[str, Clips] = {}
    for name in episodes:  # one part after the other lets go of its frames as they were read
        parts[name] = clips_for(episodes[name], name, home.image_size)
        episodes[name] = looking_into(parts[name], episodes[name])
    world_model, world, kept = promoted_world_model(job, home, episodes, parts["world_model"])
    came_with = job.checkpoints["judge"]
    judge_folder = came_with if named else refined_judge(job, world, parts)
    judge = named or LearnedJudge.load(judge_folder)
    sight = sight_gate(config, read_manifest(job.checkpoints["policy"]))
    demanded = gates_of(config, calibrated_bounds(world_model, "improve"), sight)
    before = None
    if named is None:
        parent = judge if judge_folder == came_with else LearnedJudge.load(came_with)
        before = (parent, read_manifest(came_with))
    passed = pass_gates(
        world, judge, episodes["audit"], demanded, job.folder,
        tracker_episodes=episodes["world_model"], came_with=before, progress=job.progress, seed=job.spec.seed,
    )  # fmt: skip
    within = [starts_within(part, steps, passed.horizon) for part in parts.values()]
    starts, late = ([start for pair in within for start in pair[which]] for which in (0, 1))
    return Dream(world, world_model, judge, judge_folder, passed, parts, starts, late, steps, kept)


def _before_refinement(job: Job[RefiningSpec]) -> World:
    """The parent for the policy's arm where it knows that already, else for its own: refinement is yet to teach it."""
    folder, arm = job.checkpoints["world_model"], arm_of(job.checkpoints)
    knows = arm.name in capabilities_of(folder).domains
    return load_world(folder, job.spec.config.dream, robot=arm if knows else None)


def practice_judge(config: PracticeSettings, checkpoint: Path, folder: Path) -> Judge:
    """Open the judge that gives the reward: the learned one of the checkpoint, or the one the configuration names.

    Args:
        config: of the job.
        checkpoint: of a learned judge.
        folder: of the job; what a named judge has said is kept there.
    """
    choice = config.judge
    if choice is None:
        return LearnedJudge.load(checkpoint)
    if isinstance(choice, VlmChoice) and choice.device is None:
        choice = choice.changed(device=config.device)
    return CachedJudge(judge_of(choice), folder / JUDGE_CACHE)


def frame_sizes(job: Job[TrainingSpec], world: World) -> dict[str, int]:
    """Pixels a side of the frames that the world model draws and that policy and learned judge were trained on.

    Larger frames are shrunk to what policy and judge see, by area; OpenVLA prepares any size in its own way.

    Raises:
        ConfigError: the world model draws less than one of them sees.
    """
    sizes = {"world_model": world.image_size}
    for part in ("policy",) if job.spec.config.judge else ("policy", "judge"):
        manifest = whole_manifest(job.checkpoints[part])
        if (size := manifest.config.get("image_size")) is not None:
            sizes[part] = int(size)
        if sizes.get(part, 0) > world.image_size:
            raise ConfigError(
                f"world model {world.version} draws {world.image_size} pixels a side, but {part} {manifest.id} sees "
                f"{size}: practise in a world model of at least {size}, or train the {part} at {world.image_size}"
            )
    return sizes


def whole_manifest(folder: Path) -> Manifest:
    """Return what a checkpoint says of its network; an adapter's base says it for it."""
    manifest = read_manifest(folder)
    return read_manifest(Adapter.read(folder).base) if manifest.architecture == ADAPTER else manifest


def clips_for(episodes: Sequence[Episode], part: str, image_size: int) -> Clips:
    """Stack episodes, frames of image_size pixels a side.

    Raises:
        ConfigError: there are none; the message names the part of the job that needs them.
    """
    if not episodes:
        raise ConfigError(f"no episodes for the {part} part; collect more and label them (100 are a beginning)")
    return clips_of(episodes, image_size)


def grpo_config(job: Job[ReinforcingSpec]) -> GrpoConfig:
    """How to reinforce; an adapter has a learning rate of its own."""
    config = job.spec.config
    return GrpoConfig(
        group_size=config.group_size, groups=config.groups, iterations=config.grpo_iterations,
        learning_rate=config.lora_rate if job.spec.mode == "lora" else config.learning_rate,
        keyframe_share=config.keyframe_share, mask_after_success=config.mask_after_success, seed=job.spec.seed,
        **config.grpo.named(),
    )  # fmt: skip


def lora_of(spec: TrainingSpec) -> LoraSettings | None:
    """Size of a fresh adapter where the job's mode is lora; None trains what the parent is, whole or adapter."""
    if spec.mode != "lora":
        return None
    return LoraSettings(rank=spec.config.lora_rank, alpha=2.0 * spec.config.lora_rank)


def lineage_of(
    job: Job[TrainingSpec], world: World, judge: Judge, passed: Passed, parts: Iterable[Clips]
) -> dict[str, Any]:
    """What a candidate's manifest says about where it practised; frame_sizes where they differ."""
    sizes = frame_sizes(job, world)
    episodes = [episode for part in parts for episode in part.episode_ids]
    lineage = {
        "world_model": world.version,
        "judge": judge.version,
        "audit": passed.report.summary(),
        "episodes": episodes,
    }
    lineage |= {"overridden": dict(passed.overridden)} if passed.overridden else {}
    lineage |= {"frame_sizes": sizes} if len(set(sizes.values())) > 1 else {}
    lineage |= declared(arm_of(job.checkpoints).name)
    choice = job.spec.config.judge
    return lineage if choice is None else lineage | {"judge_settings": choice.to_json()}


def result_of(
    job: Job[TrainingSpec], training: Training, world_model: Path, judge: Path, passed: Passed, episodes: int
) -> PractisedResult:
    """What a job that reinforced leaves behind, whatever its kind."""
    return PractisedResult(
        candidates=tuple(
            Candidate(id=c.version, iteration=c.iteration, folder=str(c.folder), imagined_reward=c.imagined_reward)
            for c in training.candidates
        ),
        imagined_reward=tuple(
            RewardPoint(iteration=row["iteration"], reward=row["imagined_reward"]) for row in training.history
        ),
        episodes=episodes,
        **dreamt_in(job, world_model, judge, passed),
    )


def dreamt_in(job: Job[TrainingSpec], world_model: Path, judge: Path, passed: Passed) -> dict[str, Any]:
    """What a result says of the dream that was practised in, by field of DreamResult."""
    return {
        "world_model": read_manifest(world_model).id,
        "judge": read_manifest(judge).id,
        "register": (str(world_model), str(judge)),
        "folder": str(job.folder),
        **passed.figures(),
    }
