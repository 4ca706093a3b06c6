"""Where in the loop we are: stages with their time and peak memory, shown live and kept for result.json."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
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
    """Runs named stages one after the other on one screen."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.records: list[StageRecord] = []
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
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
        bar = self._progress.add_task(name, total=None, note="")
        note_of = {"note": ""}

        def advance(done: int, total: int, note: str) -> None:
            note_of["note"] = note
            self._progress.update(bar, completed=done, total=total or None, note=note)

        started = time.monotonic()
        with MemoryPeak() as memory:
            try:
                yield advance
            finally:
                self._progress.remove_task(bar)
        record = StageRecord(name, round(time.monotonic() - started, 2), memory.peak_bytes)
        self.records.append(record)
        gibibytes = record.peak_memory_bytes / 2**30
        self.console.print(
            f"[green]done[/] {name:<44} {record.seconds:7.1f} s {gibibytes:5.1f} GiB  {note_of['note']}",
            highlight=False,
        )

    def as_json(self) -> list[dict[str, Any]]:
        """The finished stages as JSON values."""
        return [asdict(record) for record in self.records]


class MemoryPeak:
    """Samples the resident memory of this process and its children on a thread."""

    def __init__(self, interval_s: float = 0.5) -> None:
        self.peak_bytes = 0
        self._interval_s = interval_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory-peak", daemon=True)

    def __enter__(self) -> MemoryPeak:
        """Start sampling."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sampling."""
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        me = psutil.Process()
        while True:
            total = 0
            for process in (me, *me.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
            self.peak_bytes = max(self.peak_bytes, total)
            if self._over.wait(self._interval_s):
                return


def shown(status: Mapping[str, Any]) -> tuple[int, int, str]:
    """A rollout/status as (done, total, note) for a progress bar."""
    done, total, won = (int(status.get(name, 0)) for name in ("done", "total", "successes"))
    return done, total, f"success {won}/{done}" if done else ""
