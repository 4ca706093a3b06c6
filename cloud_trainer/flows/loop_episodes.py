"""The real episodes of a loop: collected for training, and evaluated from the same start states every round."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from cloud_trainer.flows.adaptation_engine import Ended
from cloud_trainer.flows.loop_fleet import Fleet
from cloud_trainer.flows.loop_parts import Shows, go_on
from cloud_trainer.flows.loop_shares import DoneShare, EpisodeShare, Row, ShareOut
from cloud_trainer.flows.loop_state import StepFile
from gymnast_core.evaluation.results import Trials
from gymnast_core.loop_config import LoopConfig
from gymnast_core.practice import PracticeAsked
from gymnast_core.seeds import take

SEEDS_PER_ROUND = 500


class LoopEpisodes:
    """Runs a loop's episodes in shares, each once.

    Args:
        config: of the loop.
        fleet: its robots.
        file: where finished shares are remembered.
        ended: see Ended.
        shows: where progress is seen.

    Attributes:
        count: real episodes so far.
    """

    def __init__(self, config: LoopConfig, fleet: Fleet, file: StepFile, ended: Ended, shows: Shows) -> None:
        self._config, self._fleet, self._file, self._ended, self._shows = config, fleet, file, ended, shows
        self.count = 0

    def collect(self, number: int, policy: str) -> dict[str, int]:
        """Record the episodes of a round; returns how many of which robot."""
        count, title = self._config.at("collect", number), f"{number}/collect"
        first = take("loop collect", self._config.seed, count, after=(number - 1) * SEEDS_PER_ROUND).start
        laid_out = tuple(task for task in self._config.tasks if task not in self._config.practise)
        shares = [
            replace(share, temperature_seed=share.first, purpose="collect", tasks=laid_out)
            for share in (self._shares(title, first, 0, count, record=True) if laid_out else ())
        ]
        shares += [self._practised(title, task, reset, count, first) for task, reset in self._config.practise.items()]
        by = _by_robot(self._share_out(title, policy, shares))
        self.count += sum(by.values())
        return by

    def _practised(self, title: str, task: str, reset: str, count: int, first: int) -> EpisodeShare:
        """A pair in turns: about as many episodes of each as of a task that is laid out."""
        config = self._config
        name = f"{title}/practise/{re.sub(r'[^A-Za-z0-9]+', '-', task)[:24]}"
        asked = PracticeAsked(
            task=task, reset=reset, hours=config.practise_hours, episodes=2 * count, tries=config.practise_tries,
            scene=config.scene, sample=first, seed=first % 1_000_000,
            resume=f"loop-{self._file.id}-{name.replace('/', '-')}"[:64],
        )  # fmt: skip
        return EpisodeShare(name, (task,), config.scene, first, count, True, "practise", practice=asked)

    def evaluate(self, name: str, policy: str) -> tuple[Trials, dict[str, int]]:
        """Return success from the start states of every evaluation, and how many episodes are of which robot."""
        if (kept := self._file.steps.get(name)) is not None:  # a loop of 0.1 kept an evaluation whole
            rows, by = cast(list[Row], kept), {self._fleet.names[0]: len(cast(list[Row], kept))}
        else:
            count = self._config.evaluation
            first, recorded = take("loop evaluate", self._config.seed, count).start, min(self._config.replayed, count)
            shares = [
                replace(share, whole=True)
                for share in (
                    *self._shares(name, first, 0, recorded, record=True),
                    *self._shares(name, first, recorded, count, record=False),
                )
            ]
            done = self._share_out(name, policy, self._on_the_same_arms(shares))
            rows, by = [row for share in done for row in share["rows"]], _by_robot(done)
        self.count += len(rows)
        return {(task, seed): won for task, seed, won in rows}, by

    def _on_the_same_arms(self, shares: Sequence[EpisodeShare]) -> list[EpisodeShare]:
        """Every share prefers the robot that ran these start states first, so that pairs are of one arm."""
        ran = {share.name: self._file.steps.get(f"0/{share.name.partition('/')[2]}") for share in shares}
        first = [cast(DoneShare, kept)["robot"] if kept else "" for kept in ran.values()]
        turn = [self._fleet.names[number % len(self._fleet.names)] for number in range(len(shares))]
        return [replace(share, prefers=one or other) for share, one, other in zip(shares, first, turn, strict=True)]

    def _shares(self, title: str, first: int, begin: int, end: int, *, record: bool) -> list[EpisodeShare]:
        """Cut start states begin to end, counted from the first, so that all robots have about as many."""
        size, robots = self._config.piece, len(self._fleet.names)
        if robots > 1:
            turns = math.ceil((end - begin) / (size * robots))
            size = max(1, math.ceil((end - begin) / max(1, turns * robots)))
        return [
            EpisodeShare(
                f"{title}/{at}", self._config.tasks, self._config.scene, first + at, min(size, end - at), record,
                "evaluate",
            )
            for at in range(begin, end, size)
        ]  # fmt: skip

    def _share_out(self, title: str, policy: str, shares: Sequence[EpisodeShare]) -> list[DoneShare]:
        """Have those done that are not done yet; a restart repeats at most what the robots were at."""
        if left := [share for share in shares if share.name not in self._file.steps]:
            go_on(self._ended, title)
            self._shows.step(title)
            self._file.mark()

            def keep(share: EpisodeShare, done: DoneShare) -> None:
                self._file.keep(share.name, done)

            ShareOut(self._fleet, policy, left, keep, self._ended, self._shows).run()
        kept = self._file.steps
        return [self._read(kept[share.name]) for share in shares]

    def _read(self, kept: object) -> DoneShare:
        """A share as it was remembered; a loop of 0.1 has one robot, and of what it recorded the number alone."""
        if isinstance(kept, int):
            return {"robot": self._fleet.names[0], "episodes": kept, "rows": []}
        return cast(DoneShare, kept)


def _by_robot(shares: Sequence[DoneShare]) -> dict[str, int]:
    """Robot -> how many episodes it ran."""
    by: Counter[str] = Counter()
    for share in shares:
        by[share["robot"]] += share["episodes"]
    return dict(by)
