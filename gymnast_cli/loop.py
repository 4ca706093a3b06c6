"""The loop, unattended: collect, refine, audit, train, canary, promote, again; every finished step is remembered."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnast_cli.jobs import JobEndedError, follow
from gymnast_cli.loop_canary import Canary, TrialStoppedError
from gymnast_cli.stages import Advance, Stages, shown
from gymnast_core.errors import ConfigError, NotTrustedError
from gymnast_core.evaluation.results import Trials, counts, difference
from gymnast_core.evaluation.sequential import SequentialRule
from gymnast_core.evaluation.trial import has_won
from gymnast_core.loop_config import LoopConfig
from gymnast_core.seeds import take

if TYPE_CHECKING:
    from gymnast_ros.nodes.client import GraphClient
    from gymnast_ros.uplink import JobsClient

SEEDS_PER_ROUND = 500
FLUSH_S = 120.0
"""How long episodes may take up."""


class StepFile:
    """Results of finished steps in one file that is replaced, never half written.

    Args:
        path: of the file.
        config: of the loop; a file of another loop is refused.

    Raises:
        ConfigError: the file belongs to other settings.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self._path = path
        self._state: dict[str, Any] = {
            "config": dict(config),
            "steps": {},
            "seconds": 0.0,
            "failed": {},
            "id": os.urandom(4).hex(),
        }
        if path.exists():
            self._state = json.loads(path.read_text())
            fixed = [name for name in config if name not in ("rounds", "stop")]
            changed = sorted(name for name in fixed if config[name] != self._state["config"].get(name))
            if changed:
                raise ConfigError(f"{path} was begun with other {changed}; change them back or name another folder")
            self._state["config"] = dict(config)
        self._save()

    @property
    def id(self) -> str:
        """Of this loop; job keys are made from it."""
        return str(self._state["id"])

    @property
    def seconds(self) -> float:
        """Spent in steps, over all restarts."""
        return float(self._state["seconds"])

    @property
    def steps(self) -> Mapping[str, Any]:
        """Name -> result of every finished step."""
        return dict(self._state["steps"])

    def step(self, name: str, action: Callable[[], Any]) -> Any:
        """Return the step's result; run it only if it is not finished yet."""
        if name not in self._state["steps"]:
            started = time.monotonic()
            result = action()
            self._state["seconds"] += time.monotonic() - started
            self._state["steps"][name] = result
            self._save()
        return self._state["steps"][name]

    def failures(self, name: str) -> int:
        """How often a step has failed for good; its next attempt is a new one."""
        return int(self._state["failed"].get(name, 0))

    def note_failure(self, name: str) -> None:
        """Remember that a step has to be begun anew."""
        self._state["failed"][name] = self.failures(name) + 1
        self._save()

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        staging = self._path.with_suffix(".partial")
        with staging.open("w") as file:
            json.dump(self._state, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(self._path)


KEPT_OF_JOB = ("audit", "world_model", "judge", "judge_trust", "imagined_reward")


class Loop:
    """One loop on one started robot.

    Args:
        config: what to do.
        client: of the robot.
        jobs: of its trainer.
        canary: tries candidates on the robot, blinded.
        folder_of: checkpoint id -> folder on the robot's machine.
        stages: shows progress.
    """

    def __init__(
        self, config: LoopConfig, client: GraphClient, jobs: JobsClient, canary: Canary,
        folder_of: Callable[[str], str], stages: Stages,
    ) -> None:  # fmt: skip
        self.config, self._client, self._jobs, self._folder_of, self._stages = config, client, jobs, folder_of, stages
        self._trials = canary
        self._file = StepFile(config.folder / "state.json", config.to_json())
        self.policy = ""
        self.world_model, self.judge = config.world_model, config.judge
        self.rounds: list[dict[str, Any]] = []
        self._episodes = 0

    def run(self) -> dict[str, Any]:
        """Go round until a stop condition holds; returns the history, which is also in folder/history.json."""
        self.policy = self._file.step("start", lambda: self._client.policy_version)
        if not self.policy:
            raise ConfigError("the robot does not say which policy it runs; install or publish one first")
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
        row: dict[str, Any] = {"round": number, "policy": self.policy, "before": counts(latest)}
        self.rounds.append(row)
        self._collect(number)
        job = self._step(f"{number}/train", lambda advance: self._train(number, advance))
        row["refused"] = job.get("refused", "")
        if not job["candidates"]:
            return latest
        self.world_model, self.judge = job["world_model"], job["judge"]
        row |= {name: job[name] for name in KEPT_OF_JOB if name in job}
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
                result = self._client.evaluate(
                    tasks=list(self.config.tasks), seed_start=start, seed_count=size, scene=self.config.scene,
                    temperature_seed=start, record=True, purpose="collect", timeout_s=3600,
                    progress=lambda status: advance(*shown(status)),
                )  # fmt: skip
                return len(result["episodes"])

            self._episodes += int(self._step(f"{number}/collect/{done}", record))
        self._step(f"{number}/ship", lambda advance: self._client.flush(timeout_s=FLUSH_S))

    def _train(self, number: int, advance: Advance) -> dict[str, Any]:
        """Refine, audit, practise. A refusal is a result: the next round brings more episodes.

        After a kill of this process the same job is followed again; after a failure of the job a new one is begun.
        """
        config = {**self.config.job, "grpo_iterations": self.config.at("grpo_iterations", number)}
        spec = {"policy": self.policy, "world_model": self.world_model, "judge": self.judge,
                "seed": self.config.seed * 100 + number, "config": config,
                "offer_to": [self._client.robot_name]}  # fmt: skip
        key = f"loop-{self._file.id}-{number}-{self._file.failures(f'{number}/train')}"
        try:
            return follow(self._jobs, "improve", spec, key=key, advance=advance)
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

        def declare(advance: Advance) -> dict[str, Any]:
            return {"incumbent": self.policy, "candidates": order, "rule": self.config.rule(len(order)).to_json()}

        plan = self._step(f"{number}/canary/declare", declare)
        for candidate in plan["candidates"]:
            if has_won(self._trial(number, plan, candidate)):
                return str(candidate)
        return self.policy

    def _trial(self, number: int, plan: Mapping[str, Any], candidate: str) -> dict[str, Any]:
        """Try one candidate until the declared rule decides; returns the result card."""
        name, rule = f"{number}/canary/{candidate}", SequentialRule(**plan["rule"])
        key = f"loop-{self._file.id}-{name}-{self._file.failures(name)}"

        def run(advance: Advance) -> dict[str, Any]:
            try:
                return self._trials.run(candidate, plan["incumbent"], rule, key, advance)
            except TrialStoppedError:
                self._file.note_failure(name)
                raise

        card = self._step(name, run)
        self._episodes += 2 * int(card["n"])
        shown = {name: card[name] for name in ("candidate", "decision", "n", "difference", "rule", "trial_id")}
        counted = {name: card["counts"][name] for name in ("wins", "losses")}
        self.rounds[-1].setdefault("canary", []).append({**shown, **counted})
        return dict(card)

    def _swap(self, version: str) -> str:
        if self._client.policy_version != version:
            self._client.swap(checkpoint_id=version)
        return version

    def _revert(self, version: str) -> str:
        """Back to what ran before `version`."""
        return self._client.rollback() if self._client.policy_version == version else self._client.policy_version

    def _evaluate(self, name: str, version: str) -> Trials:
        def measure(advance: Advance) -> list[list[Any]]:
            count = self.config.evaluation
            first = take("loop evaluate", self.config.seed, count).start
            recorded = min(self.config.replayed, count)
            rows: list[Mapping[str, Any]] = []
            for begin, size in ((0, recorded), (recorded, count - recorded)):
                if size:
                    rows += self._run([version], first + begin, size, advance, record=begin < recorded)["episodes"]
            return [[row["task"], row["seed"], row["success"]] for row in rows]

        rows = self._step(name, measure)
        self._episodes += len(rows)
        return {(task, seed): won for task, seed, won in rows}

    def _run(
        self, versions: Sequence[str], first: int, count: int, advance: Advance, *, record: bool = False
    ) -> dict[str, Any]:
        return self._client.evaluate(
            tasks=list(self.config.tasks), seed_start=first, seed_count=count, scene=self.config.scene,
            record=record, checkpoints=[self._folder_of(version) for version in versions], timeout_s=3600,
            progress=lambda status: advance(*shown(status)),
        )  # fmt: skip

    def _step(self, name: str, action: Callable[[Advance], Any]) -> Any:
        if name in self._file.steps:
            return self._file.steps[name]
        with self._stages.stage(name) as advance:
            return self._file.step(name, lambda: action(advance))

    def _stop_reason(self, latest: Trials) -> str:
        stop, total = self.config.stop, counts(latest)
        if total["n"] and total["successes"] / total["n"] >= stop.success:
            return f"success {total['successes']}/{total['n']} reached the goal of {stop.success:.0%}"
        if _last(self.rounds, stop.refusals, lambda row: bool(row["refused"])):
            return f"the audit refused {stop.refusals} rounds in a row: {self.rounds[-1]['refused']}"
        if _last(self.rounds, stop.patience, lambda row: not row["refused"] and not _gained(row)):
            return f"no gain in {stop.patience} rounds"
        if self._episodes >= stop.episodes:
            return f"{self._episodes} of {stop.episodes} budgeted episodes used"
        if self._file.seconds >= stop.wall_s:
            return f"{self._file.seconds:.0f} of {stop.wall_s:.0f} budgeted seconds used"
        return ""

    def _write(self, first: str, before: Trials, latest: Trials, state: str) -> dict[str, Any]:
        history = {
            "state": state, "base_policy": first, "policy": self.policy, "world_model": self.world_model,
            "judge": self.judge, "rounds": self.rounds, "episodes": self._episodes,
            "seconds": round(self._file.seconds, 1), "before": counts(before), "after": counts(latest),
            "difference": difference(before, latest),
        }  # fmt: skip
        staging = self.config.folder / "history.partial"
        staging.write_text(json.dumps(history, indent=1))
        staging.replace(self.config.folder / "history.json")
        return history


def _last(rows: Sequence[Mapping[str, Any]], n: int, holds: Callable[[Mapping[str, Any]], bool]) -> bool:
    return len(rows) >= n and all(holds(row) for row in rows[-n:])


def _gained(row: Mapping[str, Any]) -> bool:
    return bool(row.get("promoted")) and float(row["difference"]["mean"]) > 0
