"""The table that `benchmarks/bridge.py` fills."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_MIB = 1 << 20


@dataclass
class Figure:
    """One line."""

    name: str
    value: float
    goal: str = ""
    unit: str = "x"
    note: str = ""
    met: bool | None = None


@dataclass
class Table:
    """Where things are, how large they are, and what was found.

    Attributes:
        folder: everything is made in here.
        scale: of every size; the goals are stated for 1.
        repeats: how often each thing is measured.
        figures: so far.
    """

    folder: Path
    scale: float
    repeats: int
    figures: list[Figure] = field(default_factory=list)

    def head(self, text: str) -> None:
        """Begin a part."""
        sys.stdout.write(f"{text}\n")

    def add(self, name: str, value: float, goal: float | None = None, *, unit: str = "x", note: str = "") -> None:
        """Note a figure; a goal is a lower bound, or an upper one of seconds."""
        most = unit == "s"
        met = None if goal is None else (value <= goal if most else value >= goal)
        text = "" if goal is None else f"{'<=' if most else '>='} {goal}"
        self.figures.append(Figure(name, value, text, unit, note, met))
        sys.stdout.write(f"  {name:<66} {value:9.3f} {unit}  {note}\n")
        sys.stdout.flush()

    def best(self, measure: Callable[[], float]) -> float:
        """The quickest of a few: load by others only ever adds."""
        return min(measure() for _ in range(self.repeats))

    def bytes(self, mebibytes: float) -> int:
        """A size, scaled."""
        return max(int(mebibytes * self.scale), 1) * _MIB

    def conclude(self, file: Path | None) -> None:
        """Print everything once more, with what was met, and write it for machines."""
        missed = [figure.name for figure in self.figures if figure.met is False]
        sys.stdout.write(f"\n{'figure':<68}{'value':>10}  {'goal':>12}\n")
        for figure in self.figures:
            verdict = {None: "", True: "met", False: "MISSED"}[figure.met]
            value = f"{figure.value:10.3f} {figure.unit:5}"
            sys.stdout.write(f"{figure.name:<68}{value} {figure.goal:>8} {verdict} {figure.note}\n")
        load = os.getloadavg()[0]
        sys.stdout.write(f"{len(missed)} goals missed; load average {load:.1f} on {os.cpu_count()} cores\n")
        if file:
            told = {"scale": self.scale, "load": load, "cores": os.cpu_count(), "missed": missed}
            file.write_text(json.dumps({**told, "figures": [vars(figure) for figure in self.figures]}, indent=1))
