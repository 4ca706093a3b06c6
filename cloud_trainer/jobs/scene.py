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
from cloud_trainer.jobs.job import Job, arm_of, by_people, load_episodes
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
from gymnast_core.jobs.audit import SCENE_PARTS, SCENE_SUCCESS, AuditConfig
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
JUMP = 0.07
"""Largest mean leap in the dream of a scene. In six scenes honest dreams of the shipped model leap by 0.067 at most
(0.070 in the one before), teleports by 0.076 at least (0.074), both in the evening. At home a model leaps less,
the more so the longer it was trained (benchmarks/gate_faults_cpu2_202611.md)."""
LEAST_SUCCESSES = 5
"""With fewer real ones, missed successes cannot be measured, and are not asked for; that few are made up is asked in
any case."""
BY_CHANCE = 0.10
"""How likely a scene is refused for no success, at most, whose policy does succeed once in a group of rollouts. Where
none of 43 episodes did, practice gained nothing, lost 9 and 18 points elsewhere, and the canary sent it back
(benchmarks/flow_seeds_cpu2_202611.md). A group of GRPO that holds no success teaches nothing; with a rate below one in
a group most hold none. From no success of n follows a rate of at most 1 - BY_CHANCE^(1/n), one-sided: 18 episodes are
enough for groups of 8, fewer than the 20 that a trust check asks for. One success more lifts it, so that being wrong
costs a few episodes."""
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
    bounds = practice_bounds({"change_recall": CHANGE_RECALL, "jump": JUMP, **calibrated}, config.bounds)
    audit = AuditConfig(**{"pictures": config.audit.pictures, **config.audit.named(), "parts": SCENE_PARTS})
    return Gates(
        audit, bounds.changed(episodes=config.scene_episodes), config.overrides, judge_floor=None,
        judge_task_floor=config.judge_task_floor, check=config.check,
    )  # fmt: skip


def nothing_succeeds(mine: Sequence[Episode], group_size: int) -> str:
    """Return why practice in a scene would find nothing to learn from; empty where it may.

    Args:
        mine: labelled episodes of the task there.
        group_size: rollouts of a group.
    """
    if not mine or any(episode.outcome is Outcome.SUCCESS for episode in mine):
        return ""
    most = 1 - BY_CHANCE ** (1 / len(mine))
    if most * group_size >= 1:
        return ""
    return (
        f"scene_success: none of {len(mine)} real episodes of this task here succeeded, so at most {most:.0%} do, less "
        f"than one in a group of {group_size} rollouts: there is nothing to learn from, and no imagined success can be "
        "checked. Demonstrate or tele-operate some successes here, or override scene_success with a reason"
    )


def check_scene(
    home: World, judge: Judge, chosen: SceneEpisodes, gates: Gates, folder: Path, *, group_size: int, seed: int,
    progress: Progress = silent,
) -> tuple[World, Passed]:  # fmt: skip
    """Put the world model into the scene and measure it there; see gates.require_gates() for the verdict.

    Args:
        home: the world model.
        judge: will give the reward.
        chosen: see divide().
        gates: see scene_gates().
        folder: the audit and its dreams go here.
        group_size: rollouts of a group, in practice.
        seed: of the dreams, and of the scene's background.
        progress: gets the headline figures.

    Raises:
        ConfigError: a judge labelled all of them, which measures no judge.
        NotTrustedError: nothing succeeded there; nothing was dreamt then.
    """
    mine = by_people(chosen.mine)
    if not mine:
        raise ConfigError(f"none of {len(chosen.mine)} episodes of this task here was labelled by a person; label some")
    nothing, why = nothing_succeeds(mine, group_size), gates.overrides.get(SCENE_SUCCESS, "")
    if nothing and gates.check and not why:
        raise NotTrustedError(nothing)
    if sum(episode.outcome is Outcome.SUCCESS for episode in mine) < LEAST_SUCCESSES:
        gates = replace(gates, bounds=gates.bounds.changed(missed_success=None, correlation=None))
    there = home.in_scene(clips_of(chosen.here, home.image_size), seed=seed)
    passed = measure_gates(
        there, judge, mine, gates, folder, tracker_episodes=chosen.tracker, progress=progress, seed=seed
    )
    ignored = {SCENE_SUCCESS: why} if nothing and why else {}
    return there, replace(passed, overridden={**passed.overridden, **ignored})


def trust(job: Job[TrustSpec]) -> TrustResult:
    """Dream the recorded episodes of a scene and measure: what training will ask again, of the same episodes.

    Returns:
        What was found; a job that does not check (config.check false) is ok in any case, with the reason.

    Raises:
        ConfigError: no episode of this task in this scene.
    """
    spec, config = job.spec, job.spec.config
    home = load_world(job.checkpoints["world_model"], config.dream, robot=arm_of(job.checkpoints))
    episodes = load_episodes(job, len(job.episodes), home.image_size)
    chosen = divide(episodes, robot=spec.robot, scene=spec.scene, instruction=spec.instruction)
    judge = practice_judge(config, job.checkpoints["judge"], job.folder)
    gates = scene_gates(config, calibrated_bounds(job.checkpoints["world_model"], "adapt"))
    here = {"real_episodes_here": len(chosen.mine), "judge": judge.version, "episodes_checked": len(chosen.checked)}
    try:
        _, passed = check_scene(
            home, judge, chosen, gates, job.folder, group_size=config.group_size, seed=spec.seed, progress=job.progress
        )
    except NotTrustedError as refusal:
        return TrustResult(ok=False, reason=str(refusal), figures=here | {"dreamt": 0}, checked=tuple(chosen.checked))
    ok, reason = True, ""
    try:
        require_gates(passed, gates)
    except NotTrustedError as refusal:
        ok, reason = not config.check, f"{refusal}"
    return TrustResult(ok=ok, reason=reason, figures=_figures(passed) | here, checked=tuple(chosen.checked))


def _figures(passed: Passed) -> dict[str, Any]:
    measured = passed.report.summary().items()
    figures: dict[str, Any] = {
        name: value for name, value in measured if isinstance(value, (int, float)) and math.isfinite(value)
    }
    return figures | ({"overridden": dict(passed.overridden)} if passed.overridden else {})


def preview(job: Job[PreviewSpec]) -> PreviewResult:
    """Imagine both policies in a scene: old.webp and new.webp in the job's folder.

    Raises:
        ConfigError: the captured episode is not here any more.
    """
    spec = job.spec
    home = load_world(job.checkpoints["world_model"], spec.config.dream, robot=arm_of(job.checkpoints))
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
