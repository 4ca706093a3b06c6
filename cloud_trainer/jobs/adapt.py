"""Test-time training: practise in the dream of one scene, within a budget, without forgetting the rest."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cloud_trainer.jobs.calibrated import calibrated_bounds
from cloud_trainer.jobs.forgetting import ForgettingCheck
from cloud_trainer.jobs.gates import Passed, require_gates, starts_within
from cloud_trainer.jobs.job import Job, arm_of, load_episodes, practice_steps, require_audited
from cloud_trainer.jobs.practice import clips_for, frame_sizes, grpo_config, lineage_of, practice_judge, result_of
from cloud_trainer.jobs.reinforce import at_hand, at_most, judge_maker, novel_beginnings, reinforce
from cloud_trainer.jobs.scene import SceneEpisodes, check_scene, divide, scene_gates
from cloud_trainer.jobs.splits import split_of
from cloud_trainer.practice.augment import asked_in
from cloud_trainer.practice.pieces import Ground
from cloud_trainer.practice.ray.cluster import require_ray
from cloud_trainer.practice.train import Anchor, Training
from cloud_trainer.progress import ProgressEvent
from cloud_trainer.world_model.compact.data import Clips, clips_of
from cloud_trainer.world_model.worlds import World, load_world
from gymnast_core.errors import NotTrustedError
from gymnast_core.jobs import AdaptResult, AdaptSpec
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.jobs.spec import Remembered
from gymnast_core.judge import Judge
from gymnast_core.policies.trainable import LearningPolicy, load_trainable


def adapt(job: Job[AdaptSpec], *, clock: Callable[[], float] = time.monotonic) -> AdaptResult:
    """Test-time training: practise in the dream of one scene, within a budget, without forgetting the rest.

    Updates and rollouts decide how long it practises, so that the result is the same on a busy machine as on a quiet
    one; a time budget only cuts off, and the result then names it.

    The scene's own recorded episodes are its start states and its trust check. Their background replaces the world
    model's. A share of the starts comes from elsewhere, so that the other tasks stay in practice; whether they do is
    checked on episodes that were not rehearsed.

    Args:
        job: what is asked for, and with what.
        clock: monotonic seconds, for the time budget.

    Raises:
        NotTrustedError: the dream does not agree with the scene's real episodes, or no candidate could pass the check
            of what it forgets elsewhere.
        ConfigError: no episodes of this scene and instruction.
    """
    spec, config = job.spec, job.spec.config
    deadline = clock() + (math.inf if spec.budget_s is None else spec.budget_s)
    require_ray(config.ray)
    home = load_world(job.checkpoints["world_model"], config.dream, robot=arm_of(job.checkpoints))
    frame_sizes(job, home)
    episodes = load_episodes(job, config.most_episodes, home.image_size, also=spec.checked or ())
    steps = practice_steps(episodes, config.dream.episode_steps)
    chosen = divide(episodes, robot=spec.robot, scene=spec.scene, instruction=spec.instruction, checked=spec.checked)
    judge = practice_judge(config, job.checkpoints["judge"], job.folder)
    gates = scene_gates(config, calibrated_bounds(job.checkpoints["world_model"], "adapt"))
    if gates.check:
        require_audited(chosen.mine, config.dream.episode_steps)
    there, passed = check_scene(
        home, judge, chosen, gates, job.folder, group_size=config.group_size, seed=spec.seed, progress=job.progress
    )
    if gates.check:
        require_gates(passed, gates)
    memory = _memory(job, home, judge, chosen, steps)
    grpo = grpo_config(job)
    allowed = iterations_within(spec.rollouts, grpo.iterations, grpo.groups * grpo.group_size)
    training = _practise(
        job, grpo.changed(iterations=allowed), lambda: clock() > deadline, (there, home), judge, chosen, passed, steps
    )
    found = result_of(job, training, job.checkpoints["world_model"], job.checkpoints["judge"], passed, len(chosen.mine))
    result = found.extended(AdaptResult, ended_by=_ended_by(len(training.history), allowed, grpo.iterations))
    if not result.candidates:
        why = f"budget_s {spec.budget_s} did not last for one iteration; give more"
        return result.extended(AdaptResult, refused=why)
    return result if memory is None else _remembering(job, memory, result)


def _memory(
    job: Job[AdaptSpec], home: World, judge: Judge, chosen: SceneEpisodes, steps: int
) -> ForgettingCheck | None:
    """The check of what is forgotten elsewhere, before practice; None where nothing is recorded there.

    Raises:
        NotTrustedError: it is known already that no candidate will be let through.
    """
    spec, config = job.spec, job.spec.config
    held_out = [episode for episode in chosen.others if split_of(episode.episode_id) != "world_model"]
    if not held_out:
        return None
    check = ForgettingCheck(
        home, judge, at_most(clips_for(held_out, "other scenes", home.image_size), config.forgetting_starts),
        job.checkpoints["policy"], steps=steps,
        adapted_to=spec.instruction, seed=spec.seed, device=config.device, cancelled=job.cancelled,
    )  # fmt: skip
    if config.check and (refusal := check.refusal_beforehand(config.forgetting)):
        raise NotTrustedError(refusal)
    return check


def _remembering(job: Job[AdaptSpec], check: ForgettingCheck, result: AdaptResult) -> AdaptResult:
    """Offer the longest trained of (all, half, a quarter, ...) of the iterations that does not forget the rest."""
    config, candidates = job.spec.config, result.candidates
    count, tried, refusal = len(candidates), list[Remembered](), ""
    while count:
        job.progress(ProgressEvent("forgetting", count, len(candidates)))
        found = check.of(Path(candidates[count - 1].folder))
        refusal = refusal or found.refusal(config.forgetting)
        record = found.record(config.forgetting)
        tried.append(record.extended(Remembered, iteration=candidates[count - 1].iteration))
        if tried[-1].ok or not config.check:
            kept = candidates[:count]
            return result.extended(AdaptResult, candidates=kept, forgetting=tried[-1], forgetting_tried=tuple(tried))
        count //= 2
    return result.extended(
        AdaptResult, candidates=(), refused=refusal, forgetting=tried[0], forgetting_tried=tuple(tried)
    )


def _ended_by(done: int, allowed: int, asked: int) -> str:
    """Which budget ended practice; empty where every iteration of the configuration was done."""
    if done < allowed:
        return "the time budget"
    return "the rollout budget" if allowed < asked else ""


def _practise(
    job: Job[AdaptSpec], grpo: GrpoConfig, late: Callable[[], bool], worlds: tuple[World, World],
    judge: Judge, chosen: SceneEpisodes, passed: Passed, steps: int,
) -> Training:  # fmt: skip
    """Run GRPO for its iterations; the time budget cuts off."""
    (there, home), spec, config = worlds, job.spec, job.spec.config
    others = [episode for episode in chosen.others if split_of(episode.episode_id) == "world_model"]
    scene_clips, parent = clips_for(chosen.mine, "scene", there.image_size), job.checkpoints["policy"]
    here = clips_of(chosen.here, there.image_size)
    begin, later = starts_within(scene_clips, steps, passed.horizon)
    novel, beginnings = novel_beginnings(begin, here, config.novel, seed=spec.seed)
    load = functools.partial(load_world, job.checkpoints["world_model"], config.dream)
    again = functools.partial(_world_in_scene, load, here, spec.seed)
    grounds, anchor = [Ground(at_hand(config, there, again), [*begin, *novel], later)], None
    if others:
        elsewhere = clips_for(others, "other scenes", home.image_size)
        starts, keyframes = starts_within(elsewhere, steps, None)
        if config.rehearsal > 0:
            grounds.append(Ground(at_hand(config, home, load), starts, keyframes, config.rehearsal))
        if config.anchor > 0:
            anchor = functools.partial(anchored, parent, elsewhere, config.anchor, config.device)
    lineage = {**lineage_of(job, there, judge, passed, [scene_clips]), "scene": spec.scene, **beginnings}
    return reinforce(
        job, grounds, judge_maker(job, judge, job.checkpoints["judge"]), grpo, lineage=lineage,
        candidate_every=1, anchor=anchor, over=late,
    )  # fmt: skip


def _world_in_scene(load: Callable[[], World], here: Clips, seed: int) -> World:
    return load().in_scene(here, seed=seed)


def iterations_within(rollouts: int | None, most: int, rollouts_each: int) -> int:
    """Return how many iterations a rollout budget allows: those that begin before it is used up, at most `most`."""
    return most if rollouts is None else min(most, max(1, -(-rollouts // rollouts_each)))


def frame_anchor(base: LearningPolicy, clips: Clips, *, weight: float, frames: int = 96) -> Anchor:
    """Return a loss that keeps a policy where it was on recorded frames from elsewhere.

    Rehearsal by reinforcement alone holds nothing where the policy already succeeds: those groups have no advantage
    and are left out. Real frames need no world model to be believed.

    Args:
        base: the policy as it was; not trained.
        clips: recorded elsewhere; frames at chunk starts are used, where a policy looks.
        weight: of the loss, per token.
        frames: drawn for each optimiser step.

    Returns:
        weight times the policy's own divergence from the base: for tokens the mean KL(base || policy) at temperature 1.

    Source:
        Li & Hoiem, "Learning without Forgetting", 2016, section 3: the old model's outputs as targets.
    """
    images_NHWC, texts = asked_in(clips, base)

    def loss(policy: LearningPolicy, rng: np.random.Generator) -> torch.Tensor:
        rows = rng.integers(0, len(texts), frames)
        return weight * policy.divergence(base, images_NHWC[rows], [texts[row] for row in rows])

    return loss


def anchored(parent: Path, clips: Clips, weight: float, device: str = "cpu") -> Anchor:
    """Make the anchor to a checkpoint, in whichever process the learner is."""
    return frame_anchor(load_trainable(parent, device=device), clips, weight=weight)
