"""What an operator looks at in one scene: the trust check before training, and the preview before the canary.

Training asks the very same trust check again: the same episodes (by id), judge, bounds, overrides and seed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cloud_trainer.film import film
from cloud_trainer.jobs.calibrated import calibrated_bounds
from cloud_trainer.jobs.gates import Gates, Passed, measure_gates, practice_bounds, require_gates
from cloud_trainer.jobs.job import Job, by_people, load_episodes
from cloud_trainer.jobs.practice import practice_judge
from cloud_trainer.jobs.scene_amounts import MOST_HERE, TRACKER_EPISODES
from cloud_trainer.practice.imagine import imagine_from
from cloud_trainer.progress import Progress, ProgressEvent, silent
from cloud_trainer.world_model.compact.data import clips_of, starts_of
from cloud_trainer.world_model.worlds import World, load_world
from gymnast_core.episodes import read_episode
from gymnast_core.errors import ConfigError, NotTrustedError
from gymnast_core.evaluation.scene import Fingerprint
from gymnast_core.jobs import AdaptSettings
from gymnast_core.jobs.audit import SCENE_PARTS, AuditConfig
from gymnast_core.jobs.scene import PreviewResult, PreviewSpec, TrustResult, TrustSpec
from gymnast_core.judge import Judge
from gymnast_core.policies import load_policy
from gymnast_core.types import Episode, Outcome

SAME_LOOK = 1.4
"""Distance of fingerprints up to which two first frames, 64 pixels a side, show one scene: in the simulator starts of
one look are at most 1.04 apart, of different looks at least 1.9."""
CHANGE_RECALL = 0.3
"""Least share of moved object pixels that move in the dream of a scene: between honest dreams, 0.41 at least where the
table is dark, and frozen objects, 0.24 at most (benchmarks/gate_faults_cpu2_202611.md)."""
LEAST_SUCCESSES = 5
"""With fewer real ones, missed successes cannot be measured, and are not asked for; that few are made up is asked in
any case. Where none was ever recorded, practice gained nothing there and lost elsewhere, and the canary sent it back
(benchmarks/flow_seeds_cpu2_202611.md)."""
FILMS = ("old", "new")
"""Of the policy in force, and of the candidate."""


@dataclass(frozen=True)
class SceneEpisodes:
    """Recorded episodes as a scene divides them, each by id.

    Attributes:
        mine: of the task, in the scene: start states, and what its trust is checked on.
        here: of any task in the scene: what it looks like.
        others: from elsewhere.
        tracker: some of them, to learn reading the gripper from.
    """

    mine: tuple[Episode, ...]
    here: tuple[Episode, ...]
    others: tuple[Episode, ...]
    tracker: tuple[Episode, ...]

    @property
    def checked(self) -> list[str]:
        """Ids of what the trust check looks at."""
        return sorted(episode.episode_id for episode in (*self.here, *self.tracker))


def divide(
    episodes: Sequence[Episode], *, robot: str, scene: str, instruction: str, checked: Collection[str] | None = None
) -> SceneEpisodes:
    """Find a scene among recorded episodes: this robot's, of this name, that look alike.

    Neither a name nor a robot is enough: two robots both call their bench "standard", and a bench is rearranged under
    the same name. What the scene looks like now, the newest episode says.

    Args:
        episodes: labelled, oldest first.
        robot: the robot in the scene; empty takes the one with the newest episode of the scene.
        scene: its name.
        instruction: the task.
        checked: ids of a trust check that was made before; None looks at all.

    Raises:
        ConfigError: there is none of this task in this scene.
    """
    seen = [episode for episode in episodes if checked is None or episode.episode_id in checked]
    named = [episode for episode in seen if episode.metadata.get("scene") == scene]
    robot = robot or (str(named[-1].metadata.get("robot", "")) if named else "")
    here = [episode for episode in named if episode.metadata.get("robot", "") == robot]
    now = next((Fingerprint.of(_first(e)) for e in reversed(here) if e.instruction == instruction), None)
    if now is None:
        raise ConfigError(
            f"no episode of {instruction!r} in scene {scene!r}{f' of {robot}' * bool(robot)}; collect a few there first"
        )
    here = [episode for episode in here if now.distance(Fingerprint.of(_first(episode))) <= SAME_LOOK][-MOST_HERE:]
    inside = {episode.episode_id for episode in here}
    by_id = sorted(episodes, key=lambda episode: episode.episode_id)
    others = [episode for episode in by_id if episode.episode_id not in inside]
    tracker = [episode for episode in others if checked is None or episode.episode_id in checked][:TRACKER_EPISODES]
    mine = [episode for episode in by_id if episode.episode_id in inside and episode.instruction == instruction]
    return SceneEpisodes(tuple(mine), tuple(here), tuple(others), tuple(tracker))


def scene_gates(config: AdaptSettings, calibrated: Mapping[str, Any]) -> Gates:
    """The gates of one scene and task: as many episodes as an operator collects in minutes, no floor of the judge.

    The judge's floor is the audit's P(success | real failure) here: 20 labels prove no precision. Bounds are those
    named by the job, else those the world model was calibrated to, else the usual ones.
    """
    bounds = practice_bounds({"change_recall": CHANGE_RECALL, **calibrated}, config.bounds)
    audit = AuditConfig(**{"pictures": config.audit.pictures, **config.audit.named(), "parts": SCENE_PARTS})
    return Gates(
        audit, bounds.changed(episodes=config.scene_episodes), config.overrides, judge_floor=None,
        judge_task_floor=config.judge_task_floor, check=config.check,
    )  # fmt: skip


def check_scene(
    home: World, judge: Judge, chosen: SceneEpisodes, gates: Gates, folder: Path, *, seed: int,
    progress: Progress = silent,
) -> tuple[World, Passed]:  # fmt: skip
    """Put the world model into the scene and measure it there; see gates.require_gates() for the verdict.

    Args:
        home: the world model.
        judge: will give the reward.
        chosen: see divide().
        gates: see scene_gates().
        folder: the audit and its dreams go here.
        seed: of the dreams, and of the scene's background.
        progress: gets the headline figures.

    Raises:
        ConfigError: a judge labelled all of them, which measures no judge.
    """
    mine = by_people(chosen.mine)
    if not mine:
        raise ConfigError(f"none of {len(chosen.mine)} episodes of this task here was labelled by a person; label some")
    if sum(episode.outcome is Outcome.SUCCESS for episode in mine) < LEAST_SUCCESSES:
        gates = replace(gates, bounds=gates.bounds.changed(missed_success=None, correlation=None))
    there = home.in_scene(clips_of(chosen.here, home.image_size), seed=seed)
    passed = measure_gates(
        there, judge, mine, gates, folder, tracker_episodes=chosen.tracker, progress=progress, seed=seed
    )
    return there, passed


def trust(job: Job[TrustSpec]) -> TrustResult:
    """Dream the recorded episodes of a scene and measure: what training will ask again, of the same episodes.

    Returns:
        What was found; a job that does not check (config.check false) is ok in any case, with the reason.

    Raises:
        ConfigError: no episode of this task in this scene.
    """
    spec, config = job.spec, job.spec.config
    home = load_world(job.checkpoints["world_model"], config.dream)
    episodes = load_episodes(job, len(job.episodes), home.image_size)
    chosen = divide(episodes, robot=spec.robot, scene=spec.scene, instruction=spec.instruction)
    judge = practice_judge(config, job.checkpoints["judge"], job.folder)
    gates = scene_gates(config, calibrated_bounds(job.checkpoints["world_model"], "adapt"))
    _, passed = check_scene(home, judge, chosen, gates, job.folder, seed=spec.seed, progress=job.progress)
    measured = passed.report.summary().items()
    figures: dict[str, Any] = {
        name: value for name, value in measured if isinstance(value, (int, float)) and math.isfinite(value)
    }
    figures |= {
        "real_episodes_here": len(chosen.mine), "judge": judge.version, "episodes_checked": len(chosen.checked),
    }  # fmt: skip
    figures |= {"overridden": dict(passed.overridden)} if passed.overridden else {}
    ok, reason = True, ""
    try:
        require_gates(passed, gates)
    except NotTrustedError as refusal:
        ok, reason = not config.check, f"{refusal}"
    return TrustResult(ok=ok, reason=reason, figures=figures, checked=tuple(chosen.checked))


def preview(job: Job[PreviewSpec]) -> PreviewResult:
    """Imagine both policies in a scene: old.webp and new.webp in the job's folder.

    Raises:
        ConfigError: the captured episode is not here any more.
    """
    spec = job.spec
    home = load_world(job.checkpoints["world_model"], spec.config.dream)
    start = next((entry for entry in job.episodes if entry.episode_id == spec.start), None)
    if start is None:
        raise ConfigError(f"the captured start {spec.start} was withdrawn meanwhile; begin a new adaptation")
    episodes = load_episodes(job, len(job.episodes), home.image_size)
    chosen = divide(episodes, robot=spec.robot, scene=spec.scene, instruction=spec.instruction, checked=spec.checked)
    world = home.in_scene(clips_of(chosen.here, home.image_size), seed=spec.seed)
    captured = read_episode(start.path, image_size=(world.image_size, world.image_size))
    starts = starts_of(clips_of([captured], world.image_size))
    for number, (name, kind) in enumerate(zip(FILMS, ("policy", "candidate"), strict=True)):
        rollouts = imagine_from(world, starts, load_policy(job.checkpoints[kind]), seed=0)
        (job.folder / f"{name}.webp").write_bytes(film(rollouts.frames_BFHWC[0]))
        job.progress(ProgressEvent("preview", number + 1, len(FILMS)))
    return PreviewResult(folder=str(job.folder))


def _first(episode: Episode) -> Any:
    return next(iter(episode.images.values()))[0]
