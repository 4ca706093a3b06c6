"""One episode on the arm, recorded and labelled: what run_episode, evaluate and test-time training repeat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gymnast_core.env import Env
from gymnast_core.episodes import EpisodeRecorder, Spool
from gymnast_core.errors import (
    BridgeError,
    EstopLatchedError,
    PolicyFailedError,
    SafetyError,
    StaleCommandError,
)
from gymnast_core.evaluation.purpose import MEASURED
from gymnast_core.outcome import OutcomeJudge
from gymnast_core.policies.chunking import ChunkingConfig, RealTimeChunking
from gymnast_core.policies.stretched import StretchedPolicy
from gymnast_core.policy import Policy
from gymnast_core.rollout import GuardedPolicy, Observer, run_episode
from gymnast_core.sampling import sampled_at
from gymnast_core.spec import BRIDGE_HZ, ROBOT_MODEL
from gymnast_core.types import ActionChunk, FloatArray, Observation, Outcome, StepResult
from gymnast_ros.rates import steps_per_action
from gymnast_ros.run.conduct import verdict
from gymnast_ros.run.judged import JudgedEpisode, concluded
from gymnast_ros.run.plan import MOTOR_FAULT, OVER_FORCE, EpisodePlan, EpisodeResult
from gymnast_ros.run.policy_source import ReplayPolicy
from gymnast_ros.shadow import keep_episode

Label = Callable[[Mapping[str, object]], tuple[Outcome | None, str]]
"""Given the simulator's truth (empty on a real arm): outcome and labeller; outcome None discards the episode."""


class Joints(Protocol):
    """Measured joints, as sensor_msgs/JointState holds them."""

    position: Sequence[float]
    velocity: Sequence[float]


class ArmEnv(Env, Protocol):
    """The arm as an environment, with what a recording holds beside the observation (gymnast_ros.nodes.topic_env).

    Attributes:
        scene: look of the simulated world from the next reset on.
        keep_scene: whether the next reset leaves everything but the arm where it is; a real arm always does.
        truth: the simulator's, of the newest observation; empty on a real arm.
        notes: a real arm's, of the newest observation.
        executed_source: the commander of the last step.
    """

    scene: str
    keep_scene: bool
    truth: dict[str, Any]
    notes: dict[str, Any]
    executed_source: str

    @property
    def joints(self) -> Joints:
        """Measured with the newest observation: position [rad] and, where the arm has it, velocity [rad/s]."""
        ...


class _Watcher:
    """Counts what happened; the source of each step's command."""

    def __init__(self, env: ArmEnv) -> None:
        self._env = env
        self.steps = self.interventions = 0
        self.sources: list[str] = []

    def on_reset(self, instructions: Sequence[str], observation: Observation) -> None:
        self.steps = self.interventions = 0
        self.sources = []

    def on_step(self, action_BA: FloatArray, result: StepResult, chunk: ActionChunk, index: int) -> None:
        self.steps += 1
        self.interventions += int(not np.array_equal(action_BA, result.commanded_BA))
        self.sources.append(self._env.executed_source)


class _Sensors:
    """Gives the recorder what an observation does not hold: the joints, and when each camera took its frame."""

    def __init__(self, env: ArmEnv, recorder: EpisodeRecorder) -> None:
        self._env, self._recorder = env, recorder

    def on_reset(self, instructions: Sequence[str], observation: Observation) -> None:
        joints = self._env.joints
        self._recorder.note_joints(joints.position, joints.velocity)
        self._recorder.note_captured(self._env.notes.get("captured_ns", {}))

    def on_step(self, action_BA: FloatArray, result: StepResult, chunk: ActionChunk, index: int) -> None:
        self.on_reset((), result.observation)


class EpisodeRunner:
    """Runs planned episodes on one arm.

    Args:
        connect: reaches the arm; called at first use, and again after the arm was lost.
        spool: where recordings go; None never records.
        robot: its name in recordings.
        label: asked once per finished episode.
        observers: further ones (live screens).
        finished: called with every row.
        recent: where the last recordings are kept for shadow checks; None keeps none.

    Attributes:
        chunking: how the next chunk is computed while this one executes; None waits for every chunk. Recorded actions
            that are played back are one chunk and wait for nothing.
        policy_hz: rate of the policy's actions; the arm's is a multiple of it.
        judge: labels what no person labels, blinded runs excepted; None leaves that unlabelled.
        judge_every: steps between two looks of a judge at a running episode, which ends when success was seen twice in
            a row; 0 never looks. What measures a policy runs to its end.
    """

    def __init__(
        self,
        connect: Callable[[], ArmEnv],
        spool: Spool | None,
        robot: str,
        label: Label,
        observers: Sequence[Observer] = (),
        finished: Callable[[EpisodeResult], None] = lambda row: None,
        recent: Path | None = None,
    ) -> None:
        self._connect, self._finished = connect, finished
        self._recent = recent
        self._runs: Counter[EpisodePlan] = Counter()
        self.chunking: ChunkingConfig | None = None
        self.policy_hz = BRIDGE_HZ
        self.judge: OutcomeJudge | None = None
        self.judge_every = 0
        self._env: ArmEnv | None = None
        self._spool, self._label, self._observers = spool, label, tuple(observers)
        self._recorder = EpisodeRecorder(spool.recording_folder, robot=robot) if spool is not None else None

    def close(self) -> None:
        """Let go of the arm; the next episode connects again."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def annotate(self, text: str, by: str) -> str:
        """Note something at this moment of the recording; returns why not, or an empty string."""
        recorder = self._recorder
        if recorder is None or recorder.episode_id is None:
            return "no episode is being recorded"
        recorder.annotate(text, by)
        return ""

    def run(
        self,
        plan: EpisodePlan,
        policy: Policy,
        cancelled: Callable[[], bool],
        judge: OutcomeJudge | None = None,
        *,
        label: Label | None = None,
    ) -> EpisodeResult:
        """Run one episode to its end, whatever that is; a recording survives in any case.

        Args:
            plan: of the episode.
            policy: drives.
            cancelled: asked before every step.
            judge: looks at the episode instead of the runner's own; what it found rides in recording and row.
            label: of this episode, instead of the runner's own.

        Raises:
            StaleCommandError: there is no arm to connect to.
            DiskFullError: the spool is full; nothing was started.
        """
        recorder = self._recorder if plan.record else None
        env = self._env = self._env or self._connect()
        rate_hz = env.spec.robot.control_hz
        if recorder is not None and self._spool is not None:
            self._spool.check_space()
            start = replace(plan, attempt=None)
            self._runs[start] += bool(plan.ids)
            recorder.begin(
                metadata={**plan.metadata, ROBOT_MODEL: env.spec.robot.name}, seed=plan.seed,
                episode_id=plan.episode_id(self._runs[start]), control_hz=rate_hz,
            )  # fmt: skip
        cut = self._at_rate(policy, rate_hz)
        watcher, paced = _Watcher(env), self._paced(cut, rate_hz)
        guarded = GuardedPolicy(paced or cut)
        env.scene, env.keep_scene = plan.scene, plan.keep_scene
        kept: list[Observer] = [] if recorder is None else [_Sensors(env, recorder), recorder]
        judged = self._judged(plan, judge)
        observers: list[Observer] = [*kept, watcher, *self._observers, *([] if judged is None else [judged])]
        observers += [paced] if paced is not None else []
        reason = detail = ""
        try:
            result = run_episode(
                env, guarded, plan.instruction, seed=plan.seed, rng=plan.rng(),
                observers=observers, cancelled=lambda: cancelled() or (judged is not None and judged.ends()),
            )  # fmt: skip
            reason = "" if judged is not None and judged.ended else _reason(result, env.notes)
            detail = str(env.notes.get("fault", ""))
        except (SafetyError, BridgeError) as error:
            reason, detail = fault_of(error), str(error)
        finally:
            if paced is not None:
                paced.close()
        if reason == "arm_lost":
            self.close()  # only a new connection is free of what a dead process left behind
        found, more = concluded(judged, reason)
        outcome, labelled_by = (label or self._label)(env.truth) if not reason else (Outcome.UNLABELLED, "")
        if outcome is Outcome.UNLABELLED and found is not None and self.judge is not None and not plan.is_blinded:
            outcome, labelled_by = found.label, found.labelled_by
        seams = {} if paced is None else {"chunking": {"seams": len(paced.seams), "starved": paced.starved_ticks}}
        sampled = sampled_at(policy, greedy=plan.rng() is None)
        episode_id = self._finish(recorder, outcome, labelled_by, reason, watcher, {**sampled, **seams, **more})
        success = outcome is Outcome.SUCCESS if outcome in (Outcome.SUCCESS, Outcome.FAILURE) else None
        row = EpisodeResult(
            policy.version, plan.task, plan.instruction, plan.seed, plan.scene, success, labelled_by, watcher.steps,
            episode_id, reason, detail, watcher.interventions, watcher.sources.count("teleop"),
            verdict(reason, detail, watcher.sources),
            plan.attempt, more.get("judge"), outcome is None, more.get("termination", ""),
        )  # fmt: skip
        self._finished(row)
        return row

    def _judged(self, plan: EpisodePlan, judge: OutcomeJudge | None) -> JudgedEpisode | None:
        """What watches the episode for a judge, where one is asked; a blinded run keeps the labels it declared."""
        asked = judge or (None if plan.is_blinded else self.judge)
        if asked is None:
            return None
        every = 0 if plan.purpose in MEASURED else self.judge_every
        return JudgedEpisode(asked, plan.instruction, plan.scene, every)

    def _at_rate(self, policy: Policy, rate_hz: float) -> Policy:
        """The policy, its actions cut into the arm's steps."""
        parts = steps_per_action(rate_hz, self.policy_hz)
        return policy if parts == 1 or isinstance(policy, ReplayPolicy) else StretchedPolicy(policy, parts)

    def _paced(self, policy: Policy, rate_hz: float) -> RealTimeChunking | None:
        """Real-time chunking, where it was asked for; a seam's jump of speed is the same at every rate."""
        if self.chunking is None or isinstance(policy, ReplayPolicy):
            return None
        share, config = BRIDGE_HZ / rate_hz, self.chunking
        jump_m, jump_rad = config.max_jump_m * share, config.max_jump_rad * share
        return RealTimeChunking(policy, replace(config, max_jump_m=jump_m, max_jump_rad=jump_rad))

    def _finish(
        self,
        recorder: EpisodeRecorder | None,
        outcome: Outcome | None,
        labelled_by: str,
        reason: str,
        watcher: _Watcher,
        more: Mapping[str, object],
    ) -> str:
        """Make the recording durable and hand it to the spool; returns its id."""
        if recorder is None or recorder.episode_id is None or self._spool is None:
            return ""
        episode_id = recorder.episode_id
        metadata = {"sources": watcher.sources, "interventions": watcher.interventions, **more}
        path: Path = recorder.finish(
            outcome or Outcome.UNLABELLED, labelled_by, truncated_reason=reason, metadata=metadata
        )
        if outcome is None:
            path.unlink()  # the operator asked for that
            return ""
        if self._recent is not None and watcher.steps:
            keep_episode(path, self._recent)
        self._spool.enqueue(path)
        return episode_id


def _reason(result: StepResult, notes: Mapping[str, Any]) -> str:
    if result.terminated_B.any():
        kind = notes.get("fault_kind")
        return kind if kind in (OVER_FORCE, MOTOR_FAULT) else "fault"  # anybody may publish notes
    return "" if result.done_B.all() else "cancelled"


def fault_of(error: SafetyError | BridgeError) -> str:
    """Return the truncated_reason of an episode that this error cut."""
    if isinstance(error, BridgeError):
        return "link_lost"
    if isinstance(error, EstopLatchedError):
        return "estop"
    if isinstance(error, PolicyFailedError):
        return "policy_fault"
    return "arm_lost" if isinstance(error, StaleCommandError) else "refused"
