"""What a loop remembers of its finished steps, so that a restart repeats none of them; and when that is enough."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict, TypeVar, cast

from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.cards import SuccessCount
from gymnast_core.json_values import JsonObject, JsonValue
from gymnast_core.loop_config import LoopConfig, StopRule
from gymnast_core.loop_history import LoopRound

CHANGEABLE = ("rounds", "stop")
"""Settings that may differ when a loop goes on."""


_Result = TypeVar("_Result")


class _State(TypedDict):
    """The file."""

    config: dict[str, JsonValue]
    steps: dict[str, object]
    seconds: float
    failed: dict[str, int]
    id: str
    reached: dict[str, str]


class StepFile:
    """Results of finished steps in one file that is replaced, never half written.

    Args:
        path: of the file.
        config: of the loop; a file of another loop is refused.

    Raises:
        ConfigError: the file belongs to other settings.
    """

    def __init__(self, path: Path, config: JsonObject) -> None:
        self._path = path
        self._state: _State = {
            "config": dict(config),
            "steps": {},
            "seconds": 0.0,
            "failed": {},
            "id": os.urandom(4).hex(),
            "reached": {},
        }
        self._marked_s = time.monotonic()
        if path.exists():
            self._state |= json.loads(path.read_text())
            before = LoopConfig.model_validate(
                self._state["config"]
            ).to_json()  # of an older trainer: as it reads today
            fixed = [name for name in config if name not in CHANGEABLE]
            changed = sorted(name for name in fixed if config[name] != before.get(name))
            if changed:
                raise ConfigError(
                    f"loop {config.get('name')} was begun with other {changed}; change them back or choose another name"
                )
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
    def steps(self) -> Mapping[str, object]:
        """Name -> result of every finished step."""
        return dict(self._state["steps"])

    def step(self, name: str, action: Callable[[], _Result]) -> _Result:
        """Return the step's result; run it only if it is not finished yet."""
        if name not in self._state["steps"]:
            started = time.monotonic()
            result = action()
            self._state["seconds"] += time.monotonic() - started
            self._state["steps"][name] = result
            self._save()
        return cast(_Result, self._state["steps"][name])

    def mark(self) -> None:
        """From now on time counts for what keep() is given next."""
        self._marked_s = time.monotonic()

    def keep(self, name: str, result: object) -> None:
        """Remember a step that was done beside others; the time since the last one, or mark(), is counted once."""
        now_s = time.monotonic()
        self._state["seconds"] += now_s - self._marked_s
        self._marked_s = now_s
        self._state["steps"][name] = result
        self._save()

    @property
    def reached(self) -> Mapping[str, str]:
        """Robot -> checkpoint that this loop last saw or put in force on it."""
        return dict(self._state["reached"])

    def note_reached(self, robot: str, checkpoint_id: str) -> None:
        """Remember what a robot runs."""
        if self._state["reached"].get(robot) != checkpoint_id:
            self._state["reached"][robot] = checkpoint_id
            self._save()

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


def stop_reason(stop: StopRule, total: SuccessCount, rounds: Sequence[LoopRound], episodes: int, seconds: float) -> str:
    """Return why a loop ends here; empty to go on.

    Args:
        stop: when to.
        total: of the newest evaluation: {n, successes}.
        rounds: finished ones: {refused, promoted, difference}.
        episodes: real ones so far.
        seconds: spent in steps so far.
    """
    if total["n"] and total["successes"] / total["n"] >= stop.success:
        return f"success {total['successes']}/{total['n']} reached the goal of {stop.success:.0%}"
    if _last(rounds, stop.refusals, lambda row: bool(row["refused"])):
        return f"the audit refused {stop.refusals} rounds in a row: {rounds[-1]['refused']}"
    if _last(rounds, stop.patience, lambda row: not row["refused"] and not _gained(row)):
        return f"no gain in {stop.patience} rounds"
    if episodes >= stop.episodes:
        return f"{episodes} of {stop.episodes} budgeted episodes used"
    if seconds >= stop.wall_s:
        return f"{seconds:.0f} of {stop.wall_s:.0f} budgeted seconds used"
    return ""


def _last(rows: Sequence[LoopRound], n: int, holds: Callable[[LoopRound], bool]) -> bool:
    return len(rows) >= n and all(holds(row) for row in rows[-n:])


def _gained(row: LoopRound) -> bool:
    return bool(row.get("promoted")) and float(row["difference"]["mean"]) > 0
