"""What a researcher measures at a desk, without a service: audits, bounds of gates, a judge's calibration, rollouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from cloud_trainer.jobs.calibrate import calibrate_gate, require_enough
from cloud_trainer.jobs.calibrated import GATES, calibrated_bounds, write_bounds
from cloud_trainer.jobs.desk.episodes import labelled_episodes, not_learned_from
from cloud_trainer.judge.choice import read_judge
from cloud_trainer.judge.learned import JudgeConfig, LearnedJudge
from cloud_trainer.judge.trust import JudgeCalibration, compare, require_trusted
from cloud_trainer.practice.imagine import replay_clips
from cloud_trainer.world_model.audit.audit import require_no_worse, require_trust
from cloud_trainer.world_model.audit.cases import imagine_cases
from cloud_trainer.world_model.audit.metrics import psnr
from cloud_trainer.world_model.audit.page import side_by_side
from cloud_trainer.world_model.audit.report import AuditReport, scalars
from cloud_trainer.world_model.audit.run import run_audit
from cloud_trainer.world_model.capabilities import capabilities_of, require_rollouts
from cloud_trainer.world_model.compact.data import Clips, clips_of
from cloud_trainer.world_model.data.video import write_video
from cloud_trainer.world_model.worlds import World, load_world
from gymnast_core.errors import ConfigError, NotTrustedError, RejectedBridgeError
from gymnast_core.jobs.audit import PARTS, AuditConfig
from gymnast_core.jobs.practice import DreamConfig
from gymnast_core.judge import Verdict
from gymnast_core.records.manifest import read_manifest
from gymnast_core.robots import arm_of_all
from gymnast_core.types import ByteArray, Episode, RolloutBatch

__all__ = (
    "AuditReport",
    "JudgeCalibration",
    "audit_world",
    "calibrate_bounds",
    "calibrate_judge",
    "film_frames",
    "film_rollout",
    "scalars",
)

TRACKER_EVERY = 4
"""Without episodes of its own, a tracker of the gripper learns from every fourth of those given."""

Stage = Callable[[str], AbstractContextManager[Any]]
"""Shows what is being done, while it is."""
Read = Callable[[Sequence[Path], int], list[Episode]]
"""Reads episodes from paths, with frames of so many pixels a side."""


def calibrate_bounds(
    world_model: Path, judge: Path, episodes: Sequence[Path], *, refined: Sequence[Path] = (),
    gates: Sequence[str] | None = None, parts: Sequence[str] | None = None, seed: int, stage: Stage,
) -> dict[str, object]:  # fmt: skip
    """Audit the untouched model over and over, and write what each gate may demand of it and its children.

    Args:
        world_model: checkpoint folder, as it is known to be good; its bounds.json is written.
        judge: checkpoint folder.
        episodes: .mcap files or folders; held out of training, labelled.
        refined: checkpoint folders of models refined from it that are known to be good as well: what the gate before
            practice asks, they must reach too.
        gates: which are calibrated, None is all; bounds of the others stay as they are.
        parts: of the audit whose bounds are set, None is all; bounds of the others stay as they are.
        seed: of the model's noise and of the draws.
        stage: see Stage.

    Returns:
        {world_model, judge, refined, episodes, horizon, gates, file}.

    Raises:
        ConfigError: too few episodes, some that the models learned from, a model refined from another, or no such gate.
    """
    gates, parts = gates or GATES, AuditConfig(parts=tuple(parts or PARTS)).parts
    world, reward = load_world(world_model), LearnedJudge.load(judge)
    children = [_refined_from(world, folder) for folder in refined]
    held_out = not_learned_from(labelled_episodes(episodes, world.image_size), (world_model, judge, *refined))
    require_arm(world_model, held_out)
    require_enough(held_out, gates)
    dreams = []
    for model in (world, *(children if "improve" in gates else ())):
        with stage(f"dream {len(held_out)} episodes in {model.version}"):
            dreams.append(imagine_cases(model.dreamer(), held_out, draws=1, seed=seed))
    found: dict[str, Mapping[str, object]] = {gate: calibrated_bounds(world_model, gate) for gate in GATES}
    for gate in gates:
        with stage(f"calibrate {gate}"):
            also = dreams[1:] if gate == "improve" else ()
            anew = calibrate_gate(gate, dreams[0], reward, refined=also, seed=seed)
            names = {name for part in parts for name in PARTS[part]}
            found[gate] = {**found[gate], **{name: value for name, value in anew.items() if name in names}}
    table = {
        "world_model": world.version, "judge": reward.version, "refined": [child.version for child in children],
        "episodes": len(held_out), "horizon": max(episode.steps for episode in held_out),
        "gates": {gate: bounds for gate, bounds in found.items() if bounds},
    }  # fmt: skip
    return {**table, "file": str(write_bounds(world_model, table))}


def require_arm(world_model: Path, episodes: Sequence[Episode]) -> None:
    """Return if a world model knows the one arm of recorded episodes.

    Raises:
        ConfigError: it does not, nobody here does, or they are of several.
    """
    robot = arm_of_all(episode.metadata for episode in episodes)
    require_rollouts(capabilities_of(world_model), read_manifest(world_model).id, robot=robot)


def _refined_from(parent: World, folder: Path) -> World:
    """Load a model that was refined from another.

    Raises:
        ConfigError: it was not.
    """
    if parent.version not in (parents := read_manifest(folder).parents):
        raise ConfigError(f"{folder} was refined from {', '.join(parents) or 'nothing'}, not from {parent.version}")
    return load_world(folder)


def audit_world(
    world_model: Path, episodes: Sequence[Path], tracker: Sequence[Path], *, read: Read, config: AuditConfig,
    judge: Path | None, parent: Path | None, overrides: Mapping[str, str], out: Path, seed: int,
) -> tuple[AuditReport, str]:  # fmt: skip
    """Audit a world model on recorded episodes.

    Args:
        world_model: checkpoint folder.
        episodes: held out of training.
        tracker: others of the same camera, to read the gripper by; empty sets every fourth of `episodes` apart.
        read: see Read.
        config: see AuditConfig.
        judge: checkpoint folder; None judges nothing.
        parent: checkpoint folder it must not audit worse than.
        overrides: bound -> why it is ignored.
        out: folder for audit.json and audit.html.
        seed: of the model's noise.

    Returns:
        The report, and why reinforcement learning would be refused; empty where it would not.
    """
    world = load_world(world_model)
    tracked = bool({"motion", "gripper"} & set(config.parts))
    held_out, others = _split(read(episodes, world.image_size), tracked=tracked and not tracker)
    others = read(tracker, world.image_size) if tracker else others
    require_arm(world_model, [*held_out, *others])
    reward = None if judge is None else LearnedJudge.load(judge)

    def audited(world: World, out: Path | None) -> AuditReport:
        return run_audit(
            world.dreamer(), held_out, judge=reward, tracker_episodes=others, config=config, out=out,
            model=world.version, seed=seed,
        )  # fmt: skip

    report = audited(world, out)
    try:
        require_trust(report, overrides=overrides)
        if parent is not None:
            require_no_worse(report, audited(load_world(parent), None), seed=seed, overrides=overrides)
    except NotTrustedError as error:
        return report, str(error)
    return report, ""


def calibrate_judge(
    judge: Path, episodes: Sequence[Path], *, world_model: Path | None, floor: float | None, seed: int
) -> tuple[JudgeCalibration, str]:
    """Compare a judge's verdicts with operators' labels.

    Args:
        judge: checkpoint folder, or a file that names an endpoint or a local model.
        episodes: labelled .mcap files or folders; held out.
        world_model: judge the episodes' dreams in this checkpoint; None judges their recordings.
        floor: precision that must be proven for every task; None demands nothing.
        seed: of the dreams.

    Returns:
        The report, and why the floor is not reached; empty where it is.

    Raises:
        RejectedBridgeError: the judge could not be asked.
    """
    world = None if world_model is None else load_world(world_model)
    size = JudgeConfig().image_size if world is None else world.image_size
    clips = clips_of(labelled_episodes(episodes, size), size)
    asked = read_judge(judge)
    labels = [clips.outcome_of(row) for row in range(len(clips))]
    rollouts = _rollouts(clips, world, seed)
    verdicts = asked.judge(rollouts)
    _require_answers(verdicts)
    report = compare(asked.version, verdicts, labels, rollouts.instructions)
    if floor is not None:
        try:
            require_trusted(report, asked.version, clips.instructions, floor=floor)
        except NotTrustedError as error:
            return report, str(error)
    return report, ""


def film_rollout(
    episode: Episode, world_model: Path, out: Path, *, steps: int | None, start: int, seed: int
) -> list[float]:
    """Replay a recorded episode's actions in a world model, as a video: real | imagined | difference.

    Args:
        episode: recorded.
        world_model: checkpoint folder.
        out: the video.
        steps: denoising steps per frame of a DiT; None is the checkpoint's own.
        start: step from which the model goes on alone.
        seed: of the model's noise.

    Returns:
        PSNR of every imagined step, in decibels.

    Raises:
        ConfigError: the model does not know the episode's arm.
    """
    require_arm(world_model, [episode])
    dreamer = load_world(world_model, DreamConfig(steps=steps), seeded=False).dreamer()
    (case,) = imagine_cases(dreamer, [episode], draws=1, start=start, seed=seed, flip_gripper=False)
    return film_frames(case.real_FHWC, case.imagined_KFHWC[0], out)[start + 1 :]


def film_frames(real_FHWC: ByteArray, imagined_FHWC: ByteArray, out: Path) -> list[float]:
    """Write a video, real | imagined | difference; returns the PSNR of every frame in decibels.

    Args:
        real_FHWC: (F, H, W, 3) uint8.
        imagined_FHWC: (F, H, W, 3) uint8.
        out: the video.
    """
    write_video(out, side_by_side(real_FHWC, imagined_FHWC))
    by_frame: list[float] = psnr(real_FHWC, imagined_FHWC).tolist()
    return by_frame


def _split(episodes: list[Episode], *, tracked: bool) -> tuple[list[Episode], list[Episode]]:
    """Held-out episodes, and those the gripper tracker learns from: none where no pose was recorded."""
    if not tracked or not all(episode.metadata.get("proprioception", True) for episode in episodes):
        return episodes, []
    apart = range(TRACKER_EVERY - 1, len(episodes), TRACKER_EVERY)
    return [e for row, e in enumerate(episodes) if row not in apart], [episodes[row] for row in apart]


def _require_answers(verdicts: Sequence[Verdict]) -> None:
    """Refuse a calibration in which silence would count as doubt: the judge could not be asked.

    Raises:
        RejectedBridgeError: some calls failed; carries how many rollouts that left open, and the first failure.
    """
    failed = [verdict.evidence["errors"] for verdict in verdicts if verdict.evidence.get("abstained") == "outage"]
    if failed:
        raise RejectedBridgeError(
            f"the judge could not be asked about {len(failed)} of {len(verdicts)} rollouts, nothing is calibrated; "
            f"the first failure: {failed[0][0]}"
        )


def _rollouts(clips: Clips, world: World | None, seed: int) -> RolloutBatch:
    """The recordings, or what the world model makes of them."""
    if world is not None:
        return replay_clips(world, clips, seed=seed)
    steps = clips.actions_NTA.shape[1]
    kept = np.unique(np.append(np.arange(0, steps, 5), steps)).astype(np.int64)
    return RolloutBatch(
        instructions=clips.instructions, frame_steps_F=kept, frames_BFHWC=clips.frames_NTHWC[:, kept],
        actions_BTA=clips.actions_NTA, log_probs_BTA=np.zeros_like(clips.actions_NTA),
        length_B=clips.length_N, policy_version="recorded", group_B=np.arange(len(clips)),
    )  # fmt: skip
