"""What an episode shall be, and how it went."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from gymnast_core.episodes.messages import checked_id
from gymnast_core.evaluation.attempts import Attempt
from gymnast_core.evaluation.purpose import is_blinded
from gymnast_core.json_values import JsonObject
from gymnast_core.practice import PracticeMark

OVER_FORCE, MOTOR_FAULT = "over_force", "motor_fault"
"""How a real arm's episode is cut when it presses too hard, or a motor fails."""


@dataclass(frozen=True)
class EpisodePlan:
    """What one episode shall be.

    Attributes:
        instruction: for the policy.
        task: name for tables.
        seed: start state, and sampling noise together with temperature_seed.
        scene: look of the simulated world.
        temperature_seed: negative is greedy, else seeds the sampling.
        record: write it to the spool.
        purpose: "collect", "evaluate", ...; rides in the metadata.
        ids: first part of the recording's id, where task and seed shall name it: a run that is repeated from the same
            seed then splits its episodes alike. Empty gives an id that was never used.
        attempt: which one it is of those from one start; None where nothing is tried again. All but the first find the
            scene as the one before left it.
        practice: what it is of a practice run; None outside of one.
        resume: name of what it is part of, see OrderBook; rides in the metadata. Empty where nobody goes on with it.
        temperature: of the sampling; None is the policy's own.
    """

    instruction: str
    task: str
    seed: int
    scene: str = "standard"
    temperature_seed: int = -1
    record: bool = True
    purpose: str = "collect"
    ids: str = ""
    attempt: Attempt | None = None
    practice: PracticeMark | None = None
    resume: str = ""
    temperature: float | None = None

    @property
    def keep_scene(self) -> bool:
        """Whether the arm alone goes back to where it started."""
        practised = self.practice is not None and self.practice.continues
        return practised or (self.attempt is not None and self.attempt.index > 0)

    @property
    def is_blinded(self) -> bool:
        """Whether it is a run of a blinded comparison, which declared before who labels."""
        return is_blinded(self.metadata)

    @property
    def metadata(self) -> JsonObject:
        """What the recording keeps of the plan."""
        tried: JsonObject = {} if self.attempt is None else {"attempt": self.attempt.to_json()}
        practised: JsonObject = {} if self.practice is None else {"practice": self.practice.metadata()}
        known: JsonObject = {"resume": self.resume} if self.resume else {}
        return {"task": self.task, "scene": self.scene, "purpose": self.purpose, **tried, **practised, **known}

    def episode_id(self, run: int) -> str:
        """Id of the recording of this start's run, counted from 1; empty where any will do."""
        if not self.ids:
            return ""
        task = re.sub(r"[^A-Za-z0-9]+", "-", self.task)
        return checked_id(f"{self.ids}-{task}-{self.seed}{f'-{run}' if run > 1 else ''}", "episode id")

    def rng(self) -> np.random.Generator | None:
        """Sampling noise of this episode alone; None is greedy."""
        if self.temperature_seed < 0:
            return None
        again = [] if self.attempt is None or self.attempt.index == 0 else [self.attempt.index]
        return np.random.default_rng([self.temperature_seed, self.seed, *again])


@dataclass(frozen=True)
class EpisodeResult:
    """How one episode went; a JSON row of every result.

    Attributes:
        policy: version.
        task: name.
        instruction: as asked.
        seed: start state.
        scene: look.
        success: label; None when nobody labelled it.
        labelled_by: operator, robot or judge, by name.
        steps: actions done.
        episode_id: of the recording, empty when not recorded.
        truncated_reason: empty when it ran to its end, else "estop", "arm_lost", "cancelled", "fault",
            "policy_fault", "link_lost" (a remote policy did not answer in time), OVER_FORCE, MOTOR_FAULT.
        detail: the error's own words.
        interventions: steps at which the arm did something else than the policy asked.
        teleop_steps: steps commanded by a human.
        blame: what the policy did wrong, beyond not succeeding; empty when nothing.
        attempt: which one it is of those from one start; None where nothing is tried again.
        judge: what a judge found of it (gymnast_core.outcome.Judgement.metadata); None where none was asked.
        discarded: the operator asked for it to be forgotten.
        termination: "success_seen" where it ended early because a judge saw success twice in a row, else empty.
    """

    policy: str
    task: str
    instruction: str
    seed: int
    scene: str
    success: bool | None
    labelled_by: str
    steps: int
    episode_id: str
    truncated_reason: str
    detail: str
    interventions: int
    teleop_steps: int
    blame: str = ""
    attempt: Attempt | None = None
    judge: JsonObject | None = None
    discarded: bool = False
    termination: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> EpisodeResult:
        """Return the row that to_json() wrote, also that of an older version.

        Raises:
            TypeError: a field without a default is missing, or an attempt is none.
            ContractError: an attempt is none that its group can have.
        """
        known = {field.name: values[field.name] for field in fields(EpisodeResult) if field.name in values}
        attempt = known.get("attempt")
        return EpisodeResult(**{**known, "attempt": None if attempt is None else Attempt(**attempt)})


def task_and_instruction(name: str) -> tuple[str, str]:
    """A task's name and instruction; anything the simulator does not know is its own name."""
    from gymnast_ros.sim.tasks import RESETS, TASKS

    for task in (*TASKS.values(), *RESETS.values()):
        if name.strip().lower() in (task.name, task.instruction):
            return task.name, task.instruction
    return name, name
