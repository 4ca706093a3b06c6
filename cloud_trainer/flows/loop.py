"""The loop, unattended: collect, refine, audit, train, canary, promote, again; every finished step is remembered."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict, TypeVar, cast

from cloud_trainer.flows.adaptation_engine import CLOSING, ClosingError, Ended
from cloud_trainer.flows.arms import Errand, FlowRobot
from cloud_trainer.flows.loop_parts import (
    Advance,
    CanaryRequest,
    LoopEngine,
    LoopStoppedError,
    Shows,
    TrainedRound,
    TrialStoppedError,
)
from cloud_trainer.flows.loop_state import StepFile, stop_reason
from gymnast_core.errors import ConfigError, GymnastError, JobEndedError, NotTrustedError
from gymnast_core.evaluation.cards import ResultCard
from gymnast_core.evaluation.results import Trials, counts, difference
from gymnast_core.evaluation.sequential import SequentialRule
from gymnast_core.evaluation.trial import has_won
from gymnast_core.jobs import ImproveSpec
from gymnast_core.loop_config import LoopConfig
from gymnast_core.loop_history import LoopHistory, LoopRound, TriedCandidate
from gymnast_core.orders import EpisodeAnswer
from gymnast_core.seeds import take

SEEDS_PER_ROUND = 500
FLUSH_S = 120.0
"""How long episodes may take up."""
POLL_S = 0.2
REPORTS_S = 30.0
"""How long a robot's report of what it runs may take."""
ROBOT_S = 3600.0
"""How long a robot may take for one order."""
AGAIN_S = 20.0
ATTEMPTS = 3
"""Of a step that fails, e.g. because the robot's network did."""

KEPT_OF_JOB = ("audit", "world_model", "judge", "judge_trust", "imagined_reward")


_Result = TypeVar("_Result")


class CanaryPlan(TypedDict):
    """What is written down before a round's first canary."""

    incumbent: str
    candidates: list[str]
    rule: dict[str, float]


class Loop:
    """One loop on one robot.

    Args:
        folder: its own; state.json and history.json.
        config: what to do.
        robot: its name.
        person: whoever began it, or took it up again.
        engine: see LoopEngine.
        ended: see Ended; looked at between steps, and in those that last.
        shows: where progress is seen.

    Raises:
        ConfigError: the folder is of a loop with other settings.
    """

    def __init__(
        self, folder: Path, config: LoopConfig, robot: str, person: str, engine: LoopEngine, *, ended: Ended,
        shows: Shows,
    ) -> None:  # fmt: skip
        self.config, self.robot, self._engine, self._ended, self._shows = config, robot, engine, ended, shows
        self._errand = Errand(person, f"loop {config.name}", f"gymnast operate stop-loop {config.name}")
        self._folder = folder
        self._file = StepFile(folder / "state.json", config.to_json())
        self.policy = ""
        self.world_model, self.judge = config.world_model, config.judge
        self.rounds: list[LoopRound] = []
        self._episodes = 0

    def run(self) -> LoopHistory:
        """Go round until a stop condition holds; returns the history, which is also in folder/history.json.

        Raises:
            ClosingError: this process ends.
            LoopStoppedError: somebody stopped it.
            GymnastError: a step failed for good; the next run() goes on with it.
        """
        self.policy = self._file.step("start", self._running)
        first = self.policy
        before = self._evaluate("0/evaluate", first)
        latest, reason = before, ""
        for number in range(1, self.config.rounds + 1):
            reason = self._stop_reason(latest)
            if reason:
                break
            latest = self._round(number, latest)
            self._write(first, before, latest, "running")
        return self._write(first, before, latest, reason or self._stop_reason(latest) or "all rounds done")

    def _round(self, number: int, latest: Trials) -> Trials:
        row: LoopRound = {"round": number, "policy": self.policy, "before": counts(latest)}
        self.rounds.append(row)
        self._collect(number)
        job = self._step(f"{number}/train", lambda advance: self._train(number, advance))
        row["refused"] = job.get("refused", "")
        if not job["candidates"]:
            return latest
        self.world_model, self.judge = job["world_model"], job["judge"]
        row |= cast(LoopRound, {name: value for name, value in job.items() if name in KEPT_OF_JOB})
        chosen = self._canary(number, [candidate["id"] for candidate in job["candidates"]])
        row |= {"policy": chosen, "promoted": chosen != self.policy}
        if chosen == self.policy:
            return latest
        previous, self.policy = self.policy, chosen
        self._step(f"{number}/swap", lambda advance: self._swap(chosen))
        after = self._evaluate(f"{number}/evaluate", chosen)
        row |= {"after": counts(after), "difference": difference(latest, after)}
        if row["difference"]["high"] < 0:
            self._step(f"{number}/revert", lambda advance: self._revert(chosen))
            row |= {"promoted": False, "policy": previous}
            self.policy = previous
            return latest
        return after

    def _collect(self, number: int) -> None:
        """Record in pieces, so that a restart repeats at most one of them."""
        count = self.config.at("collect", number)
        first = take("loop collect", self.config.seed, count, after=(number - 1) * SEEDS_PER_ROUND).start
        for done in range(0, count, self.config.piece):
            size = min(self.config.piece, count - done)

            def record(advance: Advance, start: int = first + done, size: int = size) -> int:
                rows = self._run(start, size, temperature_seed=start, record=True, purpose="collect")
                return len(rows)

            self._episodes += int(self._step(f"{number}/collect/{done}", record))
        self._step(f"{number}/ship", lambda advance: self._client.flush(FLUSH_S))

    def _train(self, number: int, advance: Advance) -> TrainedRound:
        """Refine, audit, practise. A refusal is a result: the next round brings more episodes.

        After a restart the same job is followed again; after a failure of the job a new one is begun.
        """
        config = self.config.job.changed(grpo_iterations=self.config.at("grpo_iterations", number))
        spec = ImproveSpec(
            policy=self.policy, world_model=self.world_model, judge=self.judge,
            seed=self.config.seed * 100 + number, offer_to=(self.robot,), config=config,
        )  # fmt: skip
        key = f"loop-{self._file.id}-{number}-{self._file.failures(f'{number}/train')}"
        try:
            return self._engine.improve(spec.to_json(), key, self._errand.by, self._ended, advance)
        except NotTrustedError as refusal:
            return {"refused": str(refusal), "candidates": []}
        except JobEndedError:
            self._file.note_failure(f"{number}/train")
            raise

    def _canary(self, number: int, candidates: Sequence[str]) -> str:
        """Try the candidates, the longest trained first, until one is promoted; returns what shall run.

        Each in a blinded trial of the trainer, by an anytime-valid rule on pairs of equal start states, written down
        before the first pair; together they are promoted wrongly as rarely as one.
        """
        order = list(reversed(candidates))

        def declare(advance: Advance) -> CanaryPlan:
            return {"incumbent": self.policy, "candidates": order, "rule": self.config.rule(len(order)).to_json()}

        plan = self._step(f"{number}/canary/declare", declare)
        for candidate in plan["candidates"]:
            if has_won(self._trial(number, plan, candidate)):
                return str(candidate)
        return self.policy

    def _trial(self, number: int, plan: CanaryPlan, candidate: str) -> ResultCard:
        """Try one candidate until the declared rule decides; returns the result card."""
        name, rule = f"{number}/canary/{candidate}", SequentialRule.from_json(plan["rule"])
        key = f"loop-{self._file.id}-{name}-{self._file.failures(name)}"

        def run(advance: Advance) -> ResultCard:
            try:
                asked = CanaryRequest(
                    self.robot,
                    candidate,
                    str(plan["incumbent"]),
                    self.config.tasks,
                    self.config.scene,
                    rule,
                    key,
                    self._errand.by,
                )
                return self._engine.try_out(asked, self._ended, advance)
            except TrialStoppedError:
                self._file.note_failure(name)
                raise

        card = self._step(name, run)
        self._episodes += 2 * int(card["n"])
        tried: TriedCandidate = {
            "candidate": card["candidate"], "decision": card["decision"], "n": card["n"],
            "difference": card["difference"], "rule": card["rule"], "trial_id": card["trial_id"],
            "wins": card["counts"]["wins"], "losses": card["counts"]["losses"],
        }  # fmt: skip
        self.rounds[-1].setdefault("canary", []).append(tried)
        return card

    def _swap(self, version: str) -> str:
        if self._client.policy_version != version:
            self._client.swap(version)
        return version

    def _revert(self, version: str) -> str:
        """Back to what ran before `version`."""
        return self._client.rollback() if self._client.policy_version == version else self._client.policy_version

    def _evaluate(self, name: str, version: str) -> Trials:
        def measure(advance: Advance) -> list[tuple[str, int, bool | None]]:
            count = self.config.evaluation
            first = take("loop evaluate", self.config.seed, count).start
            recorded = min(self.config.replayed, count)
            rows: list[EpisodeAnswer] = []
            self._require(version)
            for begin, size in ((0, recorded), (recorded, count - recorded)):
                if size:
                    rows += self._run(first + begin, size, record=begin < recorded)
                    advance(begin + size, count, "start states a task")
            return [(row.task, row.seed, row.success) for row in rows]

        rows = self._step(name, measure)
        self._episodes += len(rows)
        return {(task, seed): won for task, seed, won in rows}

    @property
    def _client(self) -> FlowRobot:
        return self._engine.connect(self.robot, self._errand)

    def _running(self) -> str:
        found = self._reported(bool)
        if not found:
            raise ConfigError(f"{self.robot} does not say which policy it runs; install or publish one first")
        self._engine.require(found)  # before the arm moves: what the trainer lacks cannot be trained
        return found

    def _require(self, version: str) -> None:
        """Evaluations are of the policy in force.

        Raises:
            GymnastError: somebody put another one in force.
        """
        if (found := self._reported(lambda reported: reported == version)) != version:
            raise GymnastError(f"{self.robot} runs {found}, not {version}: put that in force again, then go on")

    def _reported(self, wanted: Callable[[str], bool]) -> str:
        """Return the policy in force, as reported: once it is wanted, or the report of it should have come."""
        client, until = self._client, time.monotonic() + REPORTS_S
        while not wanted(found := client.policy_version) and time.monotonic() < until:
            if self._shows.wait(POLL_S):
                break
        return found

    def _run(
        self, first: int, count: int, *, record: bool, temperature_seed: int = -1, purpose: str = "evaluate"
    ) -> Sequence[EpisodeAnswer]:
        """Run the policy in force from `count` start states per task; greedy with temperature_seed -1."""
        return self._client.evaluate(
            tasks=list(self.config.tasks), seed_start=first, seed_count=count, scene=self.config.scene,
            temperature_seed=temperature_seed, record=record, purpose=purpose, timeout_s=ROBOT_S,
        )  # fmt: skip

    def _step(self, name: str, action: Callable[[Advance], _Result]) -> _Result:
        if name in self._file.steps:
            return cast(_Result, self._file.steps[name])
        if (why := self._ended()) == CLOSING:
            raise ClosingError(f"step {name} waits for the next start")
        if why:
            raise LoopStoppedError(why)
        self._shows.step(name)
        return self._file.step(name, lambda: self._attempts(action))

    def _attempts(self, action: Callable[[Advance], _Result]) -> _Result:
        """Do a step, again where it fails for what may pass: a robot's network, an order that was not taken."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return action(self._shows.advance)
            except (ClosingError, LoopStoppedError, ConfigError, JobEndedError, TrialStoppedError):
                raise
            except GymnastError as error:
                self._shows.advance(0, 0, f"attempt {attempt} of {ATTEMPTS} failed: {error}")
                if attempt == ATTEMPTS or self._shows.wait(AGAIN_S):
                    raise
        raise AssertionError("unreachable")

    def _stop_reason(self, latest: Trials) -> str:
        return stop_reason(self.config.stop, counts(latest), self.rounds, self._episodes, self._file.seconds)

    def _write(self, first: str, before: Trials, latest: Trials, state: str) -> LoopHistory:
        history: LoopHistory = {
            "name": self.config.name, "robot": self.robot, "state": state,
            "base_policy": first, "policy": self.policy, "world_model": self.world_model,
            "judge": self.judge, "rounds": self.rounds, "episodes": self._episodes,
            "seconds": round(self._file.seconds, 1), "before": counts(before), "after": counts(latest),
            "difference": difference(before, latest),
        }  # fmt: skip
        staging = self._folder / "history.partial"
        staging.write_text(json.dumps(history, indent=1))
        staging.replace(self._folder / "history.json")
        return history
