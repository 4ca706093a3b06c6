"""What an adaptation reports of its parts, as JSON in its journal and on the wire: of the trainer, read by all.

Each is empty until its part is done.
"""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import TypedDict

from gymnast_core.json_values import JsonObject, JsonValue


class AdaptationOptions(TypedDict, total=False):
    """What was asked for when it began, beside robot, instruction and scene; absent where nothing was."""

    world_model: str
    judge: str
    seed: int
    config: JsonObject
    other_tasks: list[str]


class TrustFigures(TypedDict, total=False):
    """Whether the world model may be believed in a scene."""

    ok: bool
    reason: str
    figures: Mapping[str, JsonValue]
    """What was measured, by name."""


class BudgetFigures(TypedDict, total=False):
    """What practice may cost."""

    seconds: float
    rollouts: int
    money: float
    price_per_hour: float


PracticeIteration = Mapping[str, float]
"""Numbers of one iteration by name: iteration, imagined_reward, rollouts and the practice's own."""


class ForgettingFigures(TypedDict, total=False):
    """Imagined success on other tasks, before and after; see gymnast_core.jobs.spec.Remembered."""

    before: float
    after: float
    n: int
    most: float
    bound: float
    sight: float
    ok: bool


class CanaryPair(TypedDict, total=False):
    """A pair of the canary, blinded: its number, and the part it belongs to."""

    pair: int
    part: str


class Moment(TypedDict):
    """Something that happened to an adaptation."""

    kind: str
    at_ns: int
    by: str


class CapturedScene(TypedDict):
    """A scene that was looked at."""

    scene: str
    known_adapters: list[str]


DeclaredCanary = JsonObject
"""max_pairs, and what the canary's plan names of its versions."""
