"""What an episode shall be, and how it went."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gymnast_core.episodes.messages import checked_id


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
    """

    instruction: str
    task: str
    seed: int
    scene: str = "standard"
    temperature_seed: int = -1
    record: bool = True
    purpose: str = "collect"
    ids: str = ""

    def episode_id(self, attempt: int) -> str:
        """Id of the recording of this attempt, counted from 1; empty where any will do."""
        if not self.ids:
            return ""
        task = re.sub(r"[^A-Za-z0-9]+", "-", self.task)
        return checked_id(f"{self.ids}-{task}-{self.seed}{f'-{attempt}' if attempt > 1 else ''}", "episode id")

    def rng(self) -> np.random.Generator | None:
        """Sampling noise of this episode alone; None is greedy."""
        if self.temperature_seed < 0:
            return None
        return np.random.default_rng([self.temperature_seed, self.seed])


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
            "policy_fault", "link_lost" (a remote policy did not answer in time).
        detail: the error's own words.
        interventions: steps at which the arm did something else than the policy asked.
        teleop_steps: steps commanded by a human.
        blame: what the policy did wrong, beyond not succeeding; empty when nothing.
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

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)
