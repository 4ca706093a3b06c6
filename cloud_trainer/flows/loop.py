"""The loop, unattended: collect, refine, audit, train, canary, promote, again; every finished step is remembered."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypedDict, TypeVar, cast

from cloud_trainer.flows.adaptation_engine import Ended
from cloud_trainer.flows.arms import Errand, FlowRobot
from cloud_trainer.flows.loop_episodes import LoopEpisodes
from cloud_trainer.flows.loop_fleet import Fleet
from cloud_trainer.flows.loop_parts import (
    AGAIN_S,
    ATTEMPTS,
    Advance,
    CanaryRequest,
    LoopEngine,
    LoopStoppedError,
    Shows,
    TrainedRound,
    TrialStoppedError,
    go_on,
)
from cloud_trainer.flows.loop_state import StepFile, stop_reason
from cloud_trainer.progress import ClosingError
from gymnast_core.errors import ConfigError, GymnastError, JobEndedError, NotTrustedError
from gymnast_core.evaluation.cards import ResultCard
from gymnast_core.evaluation.results import Trials, counts, difference
from gymnast_core.evaluation.sequential import SequentialRule
from gymnast_core.evaluation.trial import has_won
from gymnast_core.jobs import ImproveSpec
from gymnast_core.loop_config import LoopConfig
from gymnast_core.loop_history import LoopHistory, LoopRound, TriedCandidate

REACH_S = 600.0
"""How long a loop that is over waits for robots that are away, so that all run what it ends with."""

KEPT_OF_JOB = ("audit", "world_model", "judge", "judge_trust", "sight", "imagined_reward")


_Result = TypeVar("_Result")


class CanaryPlan(TypedDict):
    """What is written down before a round's first canary."""

    incumbent: str
    candidates: list[str]
    rule: dict[str, float]


class Loop:
    """One loop.

    Args:
        folder: its own; state.json and history.json.
        config: what to do.
        robots: their names.
        person: whoever began it, or took it up again.
        engine: see LoopEngine.
        ended: see Ended; looked at between steps, and in those that last.
        shows: where progress is seen.

    Raises:
        ConfigError: the folder is of a loop with other settings.
    """

    def __init__(
        self, folder: Path, config: LoopConfig, robots: Sequence[str], person: str, engine: LoopEngine, *,
        ended: Ended, shows: Shows,
    ) -> None:  # fmt: skip
        self.config, self.robots, self._engine, self._ended, self._shows = config, robots, engine, ended, shows
        self._errand = Errand(person, "loop", config.name, f"gymnast loop stop {config.name}")
        self._folder = folder
        self._file = StepFile(folder / "state.json", config.to_json())
        self._fleet = Fleet(robots, self._connect, self._file, ended, shows)
        self.policy = self._first = ""
        self.world_model, self.judge = config.world_model, config.judge
        self.rounds: list[LoopRound] = []
        self._episodes = LoopEpisodes(config, self._fleet, self._file, ended, shows)

    def run(self) -> LoopHistory:
        """Go round until a stop condition holds; returns the history, which is also in folder/history.json.

        Raises:
            ClosingError: this process ends.
            LoopStoppedError: somebody stopped it.
            GymnastError: a step failed for good; the next run() goes on with it.
        """
        self._shows.step("queue")
        self._engine.begin(self.robots, self._errand, self._ended, self._shows.advance)
        self.policy = self._first = self._once("start", self._running)
        before, _ = self._episodes.evaluate("0/evaluate", self._first)
        latest, reason = before, ""
        for number in range(1, self.config.rounds + 1):
            reason = self._stop_reason(latest)
            if reason:
                break
            latest = self._round(number, latest)
            self._write(before, latest, "running")
        reason = reason or self._stop_reason(latest) or "all rounds done"
        self._shows.step("reach")
        behind = self._fleet.settle(self.policy, REACH_S)
        return self._write(before, latest, reason, behind)

    def _round(self, number: int, latest: Trials) -> Trials:
        row: LoopRound = {"round": number, "policy": self.policy, "before": counts(latest)}
        self.rounds.append(row)
        row["collected"] = recorded = self._episodes.collect(number, self.policy)
        self._once(f"{number}/ship", lambda: self._fleet.flush(recorded))
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
        self._once(f"{number}/swap", lambda: self._fleet.swap(chosen, previous))
        after, evaluated = self._episodes.evaluate(f"{number}/evaluate", chosen)
        row |= {"after": counts(after), "evaluated": evaluated, "difference": difference(latest, after)}
        if row["difference"]["high"] < 0:
            self._once(f"{number}/revert", lambda: self._fleet.revert(chosen, previous))
            row |= {"promoted": False, "policy": previous}
            self.policy = previous
            return latest
        return after

    def _train(self, number: int, advance: Advance) -> TrainedRound:
        """Refine, audit, practise. A refusal is a result: the next round brings more episodes.

        After a restart the same job is followed again; after a failure of the job a new one is begun.
        """
        config = self.config.job.changed(grpo_iterations=self.config.at("grpo_iterations", number))
        asking = self._engine.asking(self.robots)
        at_once = tuple(name for name in self.robots if name not in asking)
        spec = ImproveSpec(
            policy=self._first if self.config.restart else self.policy,
            world_model=self.world_model, judge=self.judge,
            seed=self.config.seed * 100 + number, offer_to=at_once, config=config,
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
            if self._passes(number, candidate) and has_won(self._trial(number, plan, candidate)):
                return str(candidate)
        return self.policy

    def _passes(self, number: int, candidate: str) -> bool:
        """Whether a candidate may go to the robots that ask for a gate record, which then have it offered."""
        name = f"{number}/gate/{candidate}"
        if name not in self._file.steps and not (asking := self._engine.asking(self.robots)):
            return True
        key = f"loop-{self._file.id}-{name}-{self._file.failures(name)}"

        def admitted(advance: Advance) -> str:
            try:
                return self._engine.admit(candidate, asking, key, self._errand.by, self._ended, advance)
            except JobEndedError:
                self._file.note_failure(name)
                raise

        why = self._step(name, admitted)
        self.rounds[-1].setdefault("gate", []).append({"candidate": candidate, "refused": why})
        return not why

    def _trial(self, number: int, plan: CanaryPlan, candidate: str) -> ResultCard:
        """Try one candidate until the declared rule decides; returns the result card."""
        name = f"{number}/canary/{candidate}"
        card = self._step(name, lambda advance: self._tried(name, plan, candidate, advance))
        self._episodes.count += 2 * int(card["n"])
        tried: TriedCandidate = {
            "candidate": card["candidate"], "decision": card["decision"], "n": card["n"],
            "difference": card["difference"], "rule": card["rule"], "trial_id": card["trial_id"],
            "wins": card["counts"]["wins"], "losses": card["counts"]["losses"],
        }  # fmt: skip
        self.rounds[-1].setdefault("canary", []).append(tried)
        return card

    def _tried(self, name: str, plan: CanaryPlan, candidate: str, advance: Advance) -> ResultCard:
        """One candidate on one robot; on another one, from the beginning, where that falls away."""
        rule = SequentialRule.from_json(plan["rule"])
        while True:
            failed = self._file.failures(name)
            robot = self._file.step(f"{name}/robot/{failed}", lambda: self._one_robot())
            asked = CanaryRequest(
                robot, candidate, str(plan["incumbent"]), self.config.tasks, self.config.scene, rule,
                f"loop-{self._file.id}-{name}-{failed}", self._errand.by,
            )  # fmt: skip
            try:
                return self._engine.try_out(asked, self._ended, advance)
            except TrialStoppedError:
                self._file.note_failure(name)
                others = [other for name, other in self._fleet.robots().items() if name != robot and not other.unable]
                if self._ended() or not self._connect(robot).unable or not others:
                    raise

    def _one_robot(self) -> str:
        """The robot of a trial: the first that takes orders."""
        return self.robots[0] if len(self.robots) == 1 else next(iter(self._fleet.able()))

    def _connect(self, robot: str) -> FlowRobot:
        return self._engine.connect(robot, self._errand)

    def _running(self) -> str:
        found = self._fleet.running()
        self._engine.require(found)  # before an arm moves: what the trainer lacks cannot be trained
        return found

    def _step(self, name: str, action: Callable[[Advance], _Result]) -> _Result:
        return self._once(name, lambda: self._attempts(action))

    def _once(self, name: str, action: Callable[[], _Result]) -> _Result:
        """Do a step that is not done yet."""
        if name not in self._file.steps:
            go_on(self._ended, name)
            self._shows.step(name)
        return self._file.step(name, action)

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
        return stop_reason(self.config.stop, counts(latest), self.rounds, self._episodes.count, self._file.seconds)

    def _write(
        self, before: Trials, latest: Trials, state: str, behind: Mapping[str, str] = MappingProxyType({})
    ) -> LoopHistory:
        history: LoopHistory = {
            "name": self.config.name, "robots": list(self.robots), "state": state, "behind": dict(behind),
            "base_policy": self._first, "policy": self.policy, "world_model": self.world_model,
            "judge": self.judge, "rounds": self.rounds, "episodes": self._episodes.count,
            "seconds": round(self._file.seconds, 1), "before": counts(before), "after": counts(latest),
            "difference": difference(before, latest),
        }  # fmt: skip
        staging = self._folder / "history.partial"
        staging.write_text(json.dumps(history, indent=1))
        staging.replace(self._folder / "history.json")
        return history
