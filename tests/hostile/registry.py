"""The attacks by kind: tests run each at a small size, `python -m benchmarks.hostile` at any and prints the table.

A module test_<kind>.py writes its attack once, as a function of a folder and a size, and puts @attack("...") over it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tests.hostile


@dataclass(frozen=True)
class Tally:
    """What came of some attempts.

    Attributes:
        attempts: how often something was tried.
        accepted: how often it was let in: inputs that passed for good ones, actions that were acknowledged.
        lost: what others lost by it: acknowledged actions undone, honest inputs refused, calls left waiting.
    """

    attempts: int
    accepted: int
    lost: int

    def __add__(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(self.attempts + other.attempts, self.accepted + other.accepted, self.lost + other.lost)


Attack = Callable[[Path, int], Tally]
"""Gets an empty folder and a size, about the number of attempts."""

ATTACKS: dict[str, Attack] = {}


def attack(kind: str) -> Callable[[Attack], Attack]:
    """Register an attack under what the table shall call it."""

    def register(function: Attack) -> Attack:
        assert kind not in ATTACKS, f"two attacks are called {kind!r}"
        ATTACKS[kind] = function
        return function

    return register


def every_attack() -> dict[str, Attack]:
    """Import each module of this folder and return what they registered, in order of their names."""
    for module in sorted(pkgutil.iter_modules(tests.hostile.__path__), key=lambda found: found.name):
        if module.name.startswith("test_"):
            importlib.import_module(f"tests.hostile.{module.name}")
    return dict(ATTACKS)
