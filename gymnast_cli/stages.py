"""Where in the loop we are: stages with their time and peak memory, shown live and kept for result.json."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from gymnast_cli.terminal import styled
from gymnast_core.text import one_line

Advance = Callable[[int, int, str], None]
"""(done, total, note): what a stage reports while it runs."""


@dataclass(frozen=True)
class StageRecord:
    """One finished stage.

    Attributes:
        name: what it did.
        seconds: wall time.
        peak_memory_bytes: largest resident memory of this process and all its children, sampled twice a second.
    """

    name: str
    seconds: float
    peak_memory_bytes: int


class Stages:
    """Runs named stages one after the other on one screen; without a terminal, prints a line now and then.

    Args:
        console: where to.
        line_every_s: seconds between those lines.
    """

    def __init__(self, console: Console, *, line_every_s: float = 30.0) -> None:
        self.console, self.line_every_s = console, line_every_s
        self.records: list[StageRecord] = []
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Stages:
        """Start the live display."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the live display."""
        self._progress.stop()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Advance]:
        """Time one stage; yields the function that reports its progress."""
        name = one_line(name)
        bar = self._progress.add_task(name, total=None, note="")
        latest = (0, 0, "")

        def advance(done: int, total: int, note: str) -> None:
            nonlocal latest
            note = one_line(note)
            latest = (done, total, note)
            self._progress.update(bar, completed=done, total=total or None, note=note)

        def line() -> None:
            done, total, note = latest
            count = f"{done}/{total}" if total else str(done or "")
            self.console.print(
                f"... {name:<44} {time.monotonic() - started:7.1f} s {count:>9}  {note}", highlight=False
            )

        started = time.monotonic()
        with MemoryPeak() as memory, Every(self.line_every_s, line, on=not self.console.is_terminal):
            try:
                yield advance
            finally:
                self._progress.remove_task(bar)
        record = StageRecord(name, round(time.monotonic() - started, 2), memory.peak_bytes)
        self.records.append(record)
        gibibytes = record.peak_memory_bytes / 2**30
        self.console.print(
            styled("green", "done", f" {name:<44} {record.seconds:7.1f} s {gibibytes:5.1f} GiB  {latest[2]}"),
            highlight=False,
        )

    def as_json(self) -> list[dict[str, object]]:
        """The finished stages as JSON values."""
        return [asdict(record) for record in self.records]


class Every:
    """Calls a function at an interval, on a thread, while the context is open.

    Args:
        interval_s: seconds between calls; the first comes after one.
        call: must not raise.
        on: False calls nothing.
    """

    def __init__(self, interval_s: float, call: Callable[[], None], *, on: bool = True) -> None:
        self._interval_s, self._call, self._on = interval_s, call, on
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="every", daemon=True)

    def __enter__(self) -> Every:
        """Start."""
        if self._on:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; no call is under way afterwards."""
        self._over.set()
        if self._on:
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._interval_s):
            self._call()


class MemoryPeak(Every):
    """Samples the resident memory of this process and its children."""

    def __init__(self, interval_s: float = 0.5) -> None:
        self.peak_bytes = 0
        super().__init__(interval_s, self._sample)

    def __enter__(self) -> MemoryPeak:
        """Start sampling."""
        self._sample()
        super().__enter__()
        return self

    def _sample(self) -> None:
        me = psutil.Process()
        total = 0
        for process in (me, *me.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        self.peak_bytes = max(self.peak_bytes, total)


def shown(status: Mapping[str, Any]) -> tuple[int, int, str]:
    """A rollout/status as (done, total, note) for a progress bar."""
    done, total, won = (int(status.get(name, 0)) for name in ("done", "total", "successes"))
    paused = f"paused: {status.get('message', '')}" if status.get("state") == "paused" else ""
    return done, total, paused or won_of(won, done)


def ended(rows: Sequence[Mapping[str, Any]], advance: Advance) -> None:
    """Advance to the end: the robot's last status may have come before its last episode."""
    advance(len(rows), len(rows), won_of(sum(row["success"] is True for row in rows), len(rows)))


def won_of(won: int, done: int) -> str:
    """The note of episodes that were run."""
    return f"success {won}/{done}" if done else ""
