"""Teach the judge on real and imagined ends of the same episodes, and calibrate it where it will be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cloud_trainer.judge.drift import kept_reference
from cloud_trainer.judge.examples import Examples, examples_from_rollouts, join_examples
from cloud_trainer.judge.learned import JudgeConfig, LearnedJudge
from cloud_trainer.judge.thresholds import calibration_report, choose_thresholds
from cloud_trainer.judge.training import JudgeTraining, train_judge
from cloud_trainer.practice.imagine import replay_clips
from cloud_trainer.progress import Cancelled, Progress, never, silent
from cloud_trainer.world_model.audit.outcomes import Judged, OutcomeReport, outcome_report, outcomes_of
from cloud_trainer.world_model.compact.data import Clips
from cloud_trainer.world_model.worlds import World
from gymnast_core.errors import ConfigError
from gymnast_core.images import area_downsample
from gymnast_core.judge import Judge
from gymnast_core.records.manifest import Manifest


@dataclass(frozen=True)
class JudgeData:
    """Labelled episodes, apart from each other.

    Attributes:
        recorded: shown with their real ends; may be what the world model was trained on.
        imagined: shown with imagined ends; best never seen by the world model, so that its mistakes look like those
            it will make in a dream.
        choosing: imagined ends that pick the thresholds; used for nothing else.
    """

    recorded: Clips
    imagined: Clips
    choosing: Clips


def real_examples(clips: Clips, size: int) -> Examples:
    """First and last recorded frames of the labelled episodes, shrunk to what the judge sees."""
    clips = clips.labelled()
    ends = clips.frames_NTHWC[:, 0], clips.frames_NTHWC[np.arange(len(clips)), clips.length_N]
    first, last = (area_downsample(frames, size) for frames in ends)
    ones = np.ones(len(clips), np.float32)
    return Examples(first, last, clips.instructions, clips.success_N, ones)


def imagined_examples(world: World, clips: Clips, size: int, *, seed: int, cancelled: Cancelled = never) -> Examples:
    """First recorded and last imagined frames of the labelled episodes, with what really happened."""
    clips = clips.labelled()
    rollouts = replay_clips(world, clips, seed=seed, cancelled=cancelled)
    return examples_from_rollouts(rollouts, clips.success_N, size)


def replayed_outcomes(
    world: World, judge: Judge, clips: Clips, *, seed: int = 0, cancelled: Cancelled = never
) -> OutcomeReport:
    """Replay recorded episodes in the dream and compare their judged ends with what really happened.

    Raises:
        ConfigError: an episode has no label, or the judge abstained on all.
    """
    if not clips.labelled_N.all():
        raise ConfigError("comparing outcomes needs labelled episodes; leave the others out")
    success, decided, score = outcomes_of(judge.judge(replay_clips(world, clips, seed=seed, cancelled=cancelled)))
    policies = ("recorded",) * len(clips)
    judged = Judged(judge.version, success, decided, score, clips.success_N, clips.instructions, policies)
    return outcome_report(judged, np.random.default_rng(seed))


def refine_judge(
    world: World,
    data: JudgeData,
    config: JudgeTraining,
    out: Path,
    *,
    parent: Path | None = None,
    imagined_share: float = 0.6,
    abstain: float = 0.08,
    state: Path | None = None,
    lineage: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    cancelled: Cancelled = never,
) -> Manifest:
    """Train (parent None) or refine a judge for this world model and write its checkpoint.

    Args:
        world: draws the imagined ends.
        data: what to learn from and what to choose thresholds on.
        config: how.
        out: checkpoint folder to create.
        parent: the judge to refine.
        imagined_share: how often an imagined end is drawn.
        abstain: share of the choosing examples to leave undecided.
        state: state file of the training.
        lineage: goes into the manifest beside configuration, episode ids and calibration.
        progress: called every 20 steps.
        cancelled: asked every step.
    """
    size = (JudgeConfig() if parent is None else LearnedJudge.load(parent).config).image_size
    imagined = imagined_examples(world, data.imagined, size, seed=config.seed, cancelled=cancelled)
    examples = join_examples(real_examples(data.recorded, size), imagined, shares=[1 - imagined_share, imagined_share])
    judge = train_judge(examples, config, parent=parent, state=state, progress=progress, cancelled=cancelled)
    held = imagined_examples(world, data.choosing, size, seed=config.seed + 1, cancelled=cancelled)
    scores = judge.scores(held.first_NHWC, held.last_NHWC, held.instructions)
    thresholds = choose_thresholds(scores, held.success_N, abstain=abstain)
    calibration = calibration_report(scores, held.success_N, held.instructions, thresholds)
    made_from: dict[str, Any] = {
        "stage": "judge",
        "training": asdict(config),
        "world_model": world.version,
        "recorded": list(data.recorded.episode_ids),
        "imagined": list(data.imagined.episode_ids),
        "choosing": list(data.choosing.episode_ids),
        "calibration": calibration,
        "reference": kept_reference(scores.tolist(), calibration["overall"]),
    }
    parents = () if parent is None else (LearnedJudge.load(parent).version,)
    return judge.save(out, parents=parents, lineage=made_from | dict(lineage or {}), thresholds=thresholds)
