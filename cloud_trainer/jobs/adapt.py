"""Test-time training: practise in the dream of one scene, within a budget, without forgetting the rest."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloud_trainer.jobs.adaptation import anchored, check_request, iterations_within
from cloud_trainer.jobs.calibrated import calibrated_bounds
from cloud_trainer.jobs.forgetting import ForgettingCheck
from cloud_trainer.jobs.gates import Passed, require_gates, starts_within
from cloud_trainer.jobs.job import Job, load_episodes, practice_steps
from cloud_trainer.jobs.practice import clips_for, frame_sizes, grpo_config, lineage_of, practice_judge, result_of
from cloud_trainer.jobs.reinforce import at_hand, at_most, judge_maker, novel_beginnings, reinforce
from cloud_trainer.jobs.scene_trust import SceneEpisodes, check_scene, divide, scene_gates
from cloud_trainer.jobs.settings import PipelineConfig
from cloud_trainer.jobs.splits import split_of
from cloud_trainer.practice.grpo.config import GrpoConfig
from cloud_trainer.practice.pieces import Ground
from cloud_trainer.practice.train import Training
from cloud_trainer.progress import ProgressEvent
from cloud_trainer.world_model.compact.data import Clips, clips_of
from cloud_trainer.world_model.worlds import World, load_world
from gymnast_core.errors import ConfigError
from gymnast_core.judge import Judge
from gymnast_core.types import Episode


def adapt(job: Job, *, clock: Callable[[], float] = time.monotonic) -> dict[str, Any]:
    """Test-time training: practise in the dream of one scene, within a budget, without forgetting the rest.

    Updates and rollouts decide how long it practises, so that the result is the same on a busy machine as on a quiet
    one; a time budget only cuts off, and the result then names it.

    The scene's own recorded episodes are its start states and its trust check. Their background replaces the world
    model's. A share of the starts comes from elsewhere, so that the other tasks stay in practice; whether they do is
    checked on episodes that were not rehearsed.

    Args:
        job: spec holds scene, instruction, and as options robot, checked (ids of the trust check that an operator saw),
            rollouts (imagined ones, at most), budget_s and mode.
        clock: monotonic seconds, for the time budget.

    Returns:
        As improve(), with ended_by (empty, "the rollout budget" or "the time budget") and forgetting (see Forgetting);
        candidates is empty if nothing passes that check, and refused says why.

    Raises:
        NotTrustedError: the dream does not agree with the scene's real episodes.
        ConfigError: no episodes of this scene and instruction, or an unknown setting.
    """
    deadline = clock() + float(job.spec.get("budget_s", math.inf))
    check_request(job.spec)
    config = PipelineConfig.of(job.spec.get("config", {}))
    if config.forgetting_starts == 0:
        raise ConfigError("forgetting_starts 0 leaves nothing to see a loss by; leave it out, or set forgetting to 1")
    home = load_world(job.checkpoints["world_model"], config.dream)
    frame_sizes(job, config, home)
    checked = job.spec.get("checked")
    episodes = load_episodes(job, config.most_episodes, home.image_size, also=checked or ())
    steps = practice_steps(episodes, config.dream.episode_steps)
    asked = {name: str(job.spec.get(name, "")) for name in ("robot", "scene", "instruction")}
    chosen = divide(episodes, checked=checked, **asked)
    rehearsed = [episode for episode in chosen.others if split_of(episode.episode_id) == "world_model"]
    held_out = [episode for episode in chosen.others if split_of(episode.episode_id) != "world_model"]
    judge = practice_judge(config, job.checkpoints["judge"], job.folder)
    gates = scene_gates(config, calibrated_bounds(job.checkpoints["world_model"], "adapt"))
    there, passed = check_scene(home, judge, chosen, gates, job.folder, seed=job.seed, progress=job.progress)
    if gates.check:
        require_gates(passed, gates)
    grpo = grpo_config(job, config)
    allowed = iterations_within(job.spec, grpo.iterations, grpo.groups * grpo.group_size)
    training = _practise(
        job, config, replace(grpo, iterations=allowed), lambda: clock() > deadline, (there, home), judge,
        chosen, rehearsed, passed, steps,
    )  # fmt: skip
    result = result_of(
        job, training, job.checkpoints["world_model"], job.checkpoints["judge"], passed, len(chosen.mine)
    )
    result["ended_by"] = _ended_by(len(training.history), allowed, grpo.iterations)
    if not result["candidates"]:
        result["refused"] = f"budget_s {job.spec.get('budget_s')} did not last for one iteration; give more"
    elif held_out:
        result |= _remembering(job, config, home, judge, held_out, steps, result["candidates"])
    return result


def _remembering(
    job: Job, config: PipelineConfig, home: World, judge: Judge,
    held_out: Sequence[Episode], steps: int, candidates: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """Offer the longest trained of (all, half, a quarter, ...) of the iterations that does not forget the rest."""
    check = ForgettingCheck(
        home, judge, at_most(clips_for(held_out, "other scenes", home.image_size), config.forgetting_starts),
        job.checkpoints["policy"], steps=steps,
        adapted_to=str(job.spec["instruction"]), seed=job.seed, device=config.device, cancelled=job.cancelled,
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


def _ended_by(done: int, allowed: int, asked: int) -> str:
    """Which budget ended practice; empty where every iteration of the configuration was done."""
    if done < allowed:
        return "the time budget"
    return "the rollout budget" if allowed < asked else ""


def _practise(
    job: Job, config: PipelineConfig, grpo: GrpoConfig, late: Callable[[], bool], worlds: tuple[World, World],
    judge: Judge, chosen: SceneEpisodes, others: Sequence[Episode], passed: Passed, steps: int,
) -> Training:  # fmt: skip
    """Run GRPO for its iterations; the time budget cuts off."""
    there, home = worlds
    scene_clips, parent = clips_for(chosen.mine, "scene", there.image_size), job.checkpoints["policy"]
    here = clips_of(chosen.here, there.image_size)
    begin, later = starts_within(scene_clips, steps, passed.horizon)
    novel, told = novel_beginnings(begin, here, config, seed=job.seed)
    load = functools.partial(load_world, job.checkpoints["world_model"], config.dream)
    again = functools.partial(_world_in_scene, load, here, job.seed)
    grounds, anchor = [Ground(at_hand(config, there, again), [*begin, *novel], later)], None
    if others:
        elsewhere = clips_for(others, "other scenes", home.image_size)
        starts, keyframes = starts_within(elsewhere, steps, None)
        if config.rehearsal > 0:
            grounds.append(Ground(at_hand(config, home, load), starts, keyframes, config.rehearsal))
        if config.anchor > 0:
            anchor = functools.partial(anchored, parent, elsewhere, config.anchor, config.device)
    lineage = {**lineage_of(job, there, judge, passed, [scene_clips], config), "scene": job.spec["scene"], **told}
    return reinforce(
        job, config, grounds, judge_maker(job, config, judge, job.checkpoints["judge"]), grpo, lineage=lineage,
        candidate_every=1, anchor=anchor, over=late,
    )  # fmt: skip


def _world_in_scene(load: Callable[[], World], here: Clips, seed: int) -> World:
    return load().in_scene(here, seed=seed)
