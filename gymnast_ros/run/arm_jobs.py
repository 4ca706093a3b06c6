"""What the rollout node does with its arm: episodes and paired evaluations, one at a time, and their labels.

One class, and so a long file: it joins what an episode needs, and each request is a few lines on that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gymnast_core.episodes import Spool
from gymnast_core.errors import CheckpointError, ConfigError, EstopLatchedError, TransientBridgeError
from gymnast_core.evaluation.attempts import Retry
from gymnast_core.evaluation.purpose import TRIALS
from gymnast_core.outcome import OutcomeJudge
from gymnast_core.paging import Pager
from gymnast_core.policies.chunking import ChunkingConfig
from gymnast_core.policy import Policy
from gymnast_core.practice_status import PracticeStatus
from gymnast_core.robots import robot_named
from gymnast_core.sampling import USUAL_TEMPERATURE, at_temperature, can_sample_at
from gymnast_ros.graph import REAL_TIME
from gymnast_ros.run.arming import Arming
from gymnast_ros.run.codec import NothingToDoError
from gymnast_ros.run.conduct import EpisodeEvents
from gymnast_ros.run.dispatch import Handler
from gymnast_ros.run.episodes import ArmEnv, EpisodeRunner
from gymnast_ros.run.evaluation import EvaluationPlan, evaluate, write_evaluation
from gymnast_ros.run.fault_pages import FaultPages
from gymnast_ros.run.job_desk import JobDesk
from gymnast_ros.run.operator import OperatorDesk
from gymnast_ros.run.order_book import OrderBook
from gymnast_ros.run.plan import EpisodePlan, EpisodeResult, task_and_instruction
from gymnast_ros.run.policy_host import PolicyHost
from gymnast_ros.run.policy_source import PolicySource, dial
from gymnast_ros.run.ports import Log, Publish, Values
from gymnast_ros.run.practice_desk import DeskPorts, PracticeDesk
from gymnast_ros.run.referee import SkillWatch
from gymnast_ros.run.requests import (
    Annotate,
    Cancel,
    Evaluate,
    GoOnPractising,
    Label,
    Practise,
    Request,
    RunEpisode,
)  # fmt: skip
from gymnast_ros.run.retry import NamedJudge, RetryingRunner
from gymnast_ros.shadow import ShadowBook


@dataclass(frozen=True)
class JobTopics:
    """Where the jobs' news go.

    Attributes:
        status: the state, latched.
        result: of the newest run, latched.
        version: of the policy in force, latched.
        episode: one event per episode.
    """

    status: Publish
    result: Publish
    version: Publish
    episode: Publish


class ArmJobs:
    """Answers the requests of the rollout node; a job runs in a worker, which owns the arm's topics.

    Args:
        settings: parameters of the node.
        connect: reaches the arm.
        topics: where the news go.
        log: of the node.
        name: of the node, for the instructions how to label an episode.
        pager: calls for a person.
        judge: reaches the trainer's judge of real episodes; None where there is no trainer.

    Attributes:
        arming: hears the gate's status from the node.
        jobs: runs them; has the state.
    """

    def __init__(
        self, settings: Values, connect: Callable[[], ArmEnv], topics: JobTopics, log: Log, *, name: str,
        pager: Pager, judge: Callable[[], OutcomeJudge] | None = None,
    ) -> None:  # fmt: skip
        self._settings, self._topics, self._log, self._name = settings, topics, log, name
        self._reach_judge = judge
        folder = Path(settings["folder"])
        self._results = folder / "results"
        self._spool, self._done = Spool(folder / "spool"), OrderBook(folder / "orders")
        self._closing = False
        recovered = self._spool.recover()
        if recovered:
            log.warning(f"recovered episodes={len(recovered)} after a crash")
        self._book = ShadowBook(
            folder, robot_named(settings["robot_model"]), device=settings["device"],
            max_latency_s=settings["max_latency_s"],
        )  # fmt: skip
        self._host = PolicyHost(settings["device"])
        self._policies = PolicySource(
            folder / "store", settings["policy"], host=self._host, dial=partial(dial, settings), book=self._book,
            report=log.info,
        )  # fmt: skip
        self._warm_up = threading.Thread(target=self._policies.warm_up, name="warm-up", daemon=True)
        self._warm_up.start()  # beside discovery, which waits for others
        self.jobs = JobDesk(topics.status, topics.result, log)
        self.arming = Arming()
        self._desk = OperatorDesk(self._waiting_for_label)
        self._episodes = EpisodeEvents(topics.episode)
        self._faults = FaultPages(pager)
        self._practice = PracticeDesk(folder, settings, DeskPorts(
            begin=self.jobs.begin, episode=self._practise, judge=judge, pager=pager, gate=self.arming,
            show=self._show_practice, cancelled=self.jobs.worker.cancelled,
            task=task_and_instruction, log=log,
        ))  # fmt: skip
        self._runner = EpisodeRunner(
            connect, self._spool, settings["robot_name"], self._desk.label, finished=self._note_episode,
            recent=self._book.recent,
        )  # fmt: skip
        self.jobs.show(state="idle", bridge_expected=settings["bridge_expected"])
        self.publish_version()

    @property
    def handlers(self) -> Mapping[type[Request], Handler]:
        """One for each kind of request."""
        begin = self.jobs.begin
        return {
            RunEpisode: lambda asked: begin("run_episode", asked.ordered_by, partial(self._run_episode, asked)),
            Evaluate: lambda asked: begin("evaluate", asked.ordered_by, partial(self._evaluate, asked)),
            Practise: lambda asked: self._practice.begin(asked),
            GoOnPractising: lambda asked: self._practice.go_on(asked),
            Cancel: self._cancel,
            Label: self._label,
            Annotate: self._annotate,
        }

    def close(self) -> None:
        """End the running episode; its recording is kept, and a practice run goes on with the next process."""
        self._closing = True
        self._practice.close()
        self._desk.cancel()
        self._book.close()
        self.jobs.worker.close(10.0)
        self._host.close()
        self._warm_up.join(1.0)
        self._runner.close()

    def resume(self) -> None:
        """Go on with a practice run that the end of a process before this one cut."""
        self._practice.resume()

    def publish_version(self) -> None:
        """Latch the version in force; a swap by the bridge takes effect when the next episode opens it."""
        self._topics.version({"policy_version": self._policies.version})

    def health(self) -> tuple[int, str, Mapping[str, object]]:
        """For diagnostics: level, words, values."""
        usage = self._spool.usage()
        values = {**self.jobs.status, "spool_entries": usage.entries, "spool_bytes": usage.bytes}
        return (2 if usage.full else 0), "spool full" if usage.full else str(self.jobs.status["state"]), values

    def _run_episode(self, asked: RunEpisode, run_id: str) -> dict[str, object]:
        task, instruction = task_and_instruction(asked.instruction)
        plan = EpisodePlan(
            instruction, task, asked.seed, asked.scene, asked.temperature_seed, asked.record, asked.purpose,
            resume=asked.resume, temperature=asked.temperature,
        )  # fmt: skip
        policy = self._open(asked.checkpoint, asked.temperature)
        if asked.retry is not None and asked.resume:
            raise ConfigError("one episode that is tried again (retry) is not resumed by a name (resume); ask evaluate")
        retrying = self._retrying(asked.retry)
        self.jobs.show(total=1, instruction=instruction)
        if retrying is not None:
            group = retrying.again(retrying.first(plan, policy), plan, policy)
            return {"episode": {**group.rows[0].to_json(), **group.to_json()}}
        done = self._done.done(asked.resume) if asked.resume else []
        found = done[0] if done else self._arm().run(plan, policy, self.jobs.worker.cancelled)
        self._require_open(complete=found.truncated_reason != "cancelled")
        if asked.resume and not done:
            self._done.note(asked.resume, found)
        row = found.to_json()
        return {"episode": {**row, "policy": ""} if plan.purpose in TRIALS else row}

    def _retrying(self, retry: Retry | None) -> RetryingRunner | None:
        if retry is None:
            return None
        if self._reach_judge is None:
            raise ConfigError(
                "no judge to see a failure: this robot has no trainer; start it with one, or do not retry"
            )
        judge = NamedJudge(self._reach_judge(), retry.judge)
        return RetryingRunner(
            self._arm(), judge, retry.max, self.jobs.worker.cancelled, lambda number: self.jobs.show(attempt=number)
        )

    def _practise(self, plan: EpisodePlan, checkpoint: str, watch: SkillWatch) -> EpisodeResult:
        policy = self._open(checkpoint, plan.temperature)
        if plan.temperature is None and plan.rng() is not None and can_sample_at(policy) is not None:
            policy = at_temperature(policy, USUAL_TEMPERATURE)
        self.jobs.show(instruction=plan.instruction)
        return self._arm().run(plan, policy, self.jobs.worker.cancelled, watch.judge, label=watch.label)

    def _evaluate(self, asked: Evaluate, run_id: str) -> dict[str, object]:
        started = time.monotonic()
        plan = EvaluationPlan(
            tuple(task_and_instruction(name) for name in asked.tasks), asked.seed_start, asked.seed_count, asked.scene,
            asked.temperature_seed, asked.record, asked.purpose, asked.episode_ids, asked.resume,
            asked.temperature,
        )  # fmt: skip
        self.jobs.show(instruction=", ".join(instruction for _, instruction in plan.tasks))
        names = list(asked.checkpoints) or [""]
        if self.arming.closed:
            raise EstopLatchedError(
                f"the gate is closed ({self.arming.reason or 'disarmed'}); re-arm it, then evaluate"
            )
        policies = [self._open(name, asked.temperature) for name in names]
        retrying = self._retrying(asked.retry)
        rows = evaluate(
            self._arm(), policies, plan, cancelled=self.jobs.worker.cancelled,
            progress=partial(self._progress, asked.resume), stopped=self._pause, retrying=retrying,
            renew=(lambda _: self._open("", asked.temperature)) if names == [""] else (lambda policy: policy),
            before=self._done.done(asked.resume) if asked.resume else (),
        )  # fmt: skip
        complete = len(rows) == len(plan.episodes()) * len(policies)
        self._require_open(complete=complete)
        # of the one in force: whatever drove, the base or the adapter of a scene
        in_force = names == [""] and rows
        versions = list(dict.fromkeys(row.policy for row in rows)) if in_force else [one.version for one in policies]
        return write_evaluation(
            self._results / f"{run_id}.json", plan, rows, versions, retrying=retrying, complete=complete,
            seconds=time.monotonic() - started,
        )  # fmt: skip

    def _pause(self, reason: str) -> bool:
        """An e-stop ended an episode of an evaluation: wait for the re-arming, then it goes on."""
        self._log.warning(f"paused: {reason}; the evaluation goes on when the arm is re-armed")
        self.jobs.show(state="paused", message=f"{reason}; re-arm it to go on, or cancel")
        armed = self.arming.wait_open(self.jobs.worker.cancelled)
        self.jobs.show(state="running", message="")
        return armed

    def _require_open(self, *, complete: bool) -> None:
        """What this node's own end cut is no answer: whoever asked asks again once it is up.

        Raises:
            TransientBridgeError: it was cut so.
        """
        if self._closing and not complete:
            raise TransientBridgeError("the robot's rollout node is being stopped; ask again when it is up")

    def _progress(self, resume: str, done: int, total: int, rows: Sequence[EpisodeResult]) -> None:
        if resume:
            self._done.note(resume, rows[-1])
        successes = int(self.jobs.status.get("successes", 0)) + int(rows[-1].success is True)
        self.jobs.show(done=done, total=total, successes=successes, last_policy=rows[-1].policy)

    def _arm(self) -> EpisodeRunner:
        """The runner, with the present labelling rules."""
        settings = self._settings
        self._desk.automatic, self._desk.wait_s = settings["auto_label"], settings["label_timeout_s"]
        paced = settings["chunking"] == REAL_TIME
        self._runner.chunking = (
            ChunkingConfig(settings["chunking_horizon"], settings["chunking_delay"]) if paced else None
        )
        self._runner.policy_hz = settings["policy_hz"]
        labels = self._reach_judge is not None and settings["judge_labels"]
        self._runner.judge = self._reach_judge() if self._reach_judge is not None and labels else None
        self._runner.judge_every = settings["judge_every"] if labels else 0
        self._host.answer_s = max(settings["answer_s"], 3.0 * settings["max_latency_s"])
        return self._runner

    def _open(self, name: str, temperature: float | None) -> Policy:
        self.publish_version()
        try:
            return at_temperature(self._policies.open(name), temperature)
        except CheckpointError as error:
            version = name.rpartition("/")[2] or self._policies.version
            self._episodes.report(version, blame=f"cannot be opened: {error}")
            raise

    def _note_episode(self, row: EpisodeResult) -> None:
        outcome = {True: "success", False: "failure", None: "unlabelled"}[row.success]
        cut = f"; cut: {row.truncated_reason}, {row.detail}" if row.truncated_reason else ""
        self._log.info(f"episode {row.episode_id or 'not recorded'}: {row.steps} steps, {outcome}{cut}")
        if self.jobs.worker.kind != "practise":  # which calls a person itself, and waits for the answer
            self._faults.note(row)
        self._episodes.report(
            row.policy, steps=row.steps, episode_id=row.episode_id, blame=row.blame, cut=row.truncated_reason
        )

    def _cancel(self, asked: Cancel) -> str:
        running = self.jobs.worker.cancel()
        self._desk.cancel()
        if not running:
            raise NothingToDoError("nothing is running")
        return "ending after this step"

    def _label(self, asked: Label) -> str:
        return _refused(self._desk.give(asked.label, asked.labelled_by))

    def _annotate(self, asked: Annotate) -> str:
        return _refused(self._runner.annotate(asked.text, asked.by))

    def _show_practice(self, status: PracticeStatus) -> None:
        """A run that waits for a person is paused, for whoever looks."""
        waits = status["state"] == "waiting"
        state = {"state": "paused" if waits else "running"} if self.jobs.worker.busy else {}
        self.jobs.show(practice=status, message=status["reason"] if waits else "", **state)

    def _waiting_for_label(self, waiting: bool) -> None:
        if waiting:
            self._log.info(
                f"label it within {self._desk.wait_s:.0f} s: ros2 service call {self._name}/label_success "
                "std_srvs/srv/Trigger (or label_failure, discard)"
            )
        self.jobs.show(state="awaiting_label" if waiting else "running")


def _refused(reason: str) -> str:
    """Raise the reason why something is not possible now; an empty one is none."""
    if reason:
        raise NothingToDoError(reason)
    return ""
