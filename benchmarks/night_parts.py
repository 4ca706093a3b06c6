"""What stands beside a night of practice, in its hosts: a witness of the arm's record, and a person who answers calls.

python -m benchmarks.night_parts witness FILE       # on the robot's host
python -m benchmarks.night_parts person FILE IDENTITY   # on the trainer's host
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.node_kills import Witness
from gymnast_client import Trainer
from gymnast_core.errors import GymnastError
from gymnast_core.practice import tries_for

LOOK_S = 0.5
TRAINER = "trainer.lab:50051"


def witness(path: Path) -> None:
    """Write down every motion of the arm and every announced episode, until this process is ended.

    A motion is written a moment after it was heard: its commands, on topics of their own, are here then.
    """
    seen, heard_s, known = Witness(), 0.0, 0
    with path.open("a") as file:
        while True:
            until_s = time.monotonic() - LOOK_S
            steps = [step for step in seen.steps(heard_s) if heard_s < step.at_s < until_s]
            announced = list(seen.announced().values())
            lines = [json.dumps({"step": asdict(step)}) for step in steps if step.moved]
            lines += [json.dumps({"episode": event.get("episode_id", "")}) for event in announced[known:]]
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            heard_s, known = (steps[-1].at_s if steps else heard_s), len(announced)
            seen.forget(heard_s)
            time.sleep(LOOK_S)


def person(path: Path, identity: Path) -> None:
    """Answer every call as soon as it is seen, and write it down, until this process is ended."""
    with path.open("a") as file:
        while True:
            with suppress(GymnastError), Trainer(TRAINER, identity) as there:  # it is away now and then
                while True:
                    for page in there.pages.list():
                        if not page.acknowledged_by:
                            there.pages.acknowledge(page.page_id, "the scene is laid")
                            said = {
                                name: getattr(page, name) for name in ("page_id", "kind", "text", "count", "detail")
                            }
                            file.write(json.dumps(said) + "\n")
                            file.flush()
                    time.sleep(LOOK_S)
            time.sleep(LOOK_S)


def lines_of(path: Path) -> list[dict[str, Any]]:
    """What one of these wrote down so far; a last line that is not whole is left out."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def is_due(page: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]], calls: Sequence[int]) -> bool:
    """Whether a call for a new scene is right by what the trainer has of the run, not by what the robot believes.

    The tries are those since the skill's turn began, or since the last call. Of what reached its goal only that
    counts which passed the turn: the rest had lost it again by its end.

    Args:
        page: as the person saw it.
        episodes: committed ones of the run, whole, by their number: {number, skill}.
        calls: numbers of the episodes of the run's calls before this one.
    """
    before = [row for row in episodes if row["number"] <= page["detail"]["episode"]]
    if not before:
        return False
    skill, since = before[-1]["skill"], max(calls, default=0)
    tries = list(itertools.takewhile(lambda row: row["skill"] == skill and row["number"] > since, reversed(before)))
    passed = sum(
        row["skill"] == skill != after["skill"] and not any(row["number"] <= call < after["number"] for call in calls)
        for row, after in itertools.pairwise(before)
    )
    return len(tries) >= tries_for(passed, sum(row["skill"] == skill for row in before) - len(tries))


def main(words: Sequence[str]) -> None:
    """One of the two."""
    parts: dict[str, Callable[..., None]] = {"witness": witness, "person": person}
    parts[words[0]](*map(Path, words[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])
