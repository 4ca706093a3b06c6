"""The canary of an adaptation: a blinded trial in its scene, and after a win a look for harm on other tasks."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud_trainer.flows.adaptation_engine import Emit, Stop
from cloud_trainer.flows.arm_trials import run_pairs
from cloud_trainer.flows.arms import FlowRobot
from cloud_trainer.flows.other_tasks import declared, guard_plan, other_tasks
from cloud_trainer.store.episodes import EpisodeCatalogue
from gymnast_core.evaluation.cards import ResultCard
from gymnast_core.evaluation.sequential import SequentialRule
from gymnast_core.evaluation.trial import Trial, has_won
from gymnast_core.evaluation.trial_plan import TrialPlan
from gymnast_core.seeds import take


@dataclass(frozen=True)
class SceneCanary:
    """Tries candidates of adaptations on one robot.

    Attributes:
        catalogue: of the trainer's episodes.
        client: the robot, which holds the candidate.
        rule: declared before the first run.
        guard_pairs: of each other task, after a win; 0 looks at none.
        emit: see Emit.
        stop: see Stop.
    """

    catalogue: EpisodeCatalogue
    client: FlowRobot
    rule: SequentialRule
    guard_pairs: int
    emit: Emit
    stop: Stop

    def run(self, candidate: str, robot: str, request: Mapping[str, Any], folder: Path) -> ResultCard:
        """Run both parts until their rules decide, or go on with them; the card is empty where stop() came first.

        Args:
            candidate: checkpoint id.
            robot: its name.
            request: what the adaptation was asked for.
            folder: of the adaptation; holds the journals of both parts.
        """
        trial, guard = self._declared(candidate, robot, request, folder)
        self.emit("declared", {"max_pairs": trial.plan.rule.max_pairs, **(trial.plan.versions or {})})
        with contextlib.closing(trial), contextlib.closing(guard) if guard else contextlib.nullcontext():
            card = self._part(trial, "scene", request["scene"])
            if guard and has_won(card):
                found = self._part(guard, "other tasks", request["scene"])
                if not found:
                    return {}
                card["guard"] = found
        return card

    def _part(self, part: Trial, name: str, scene: str) -> ResultCard:
        run_pairs(
            part, self.client, self.catalogue, scene=scene, purpose="canary", stop=self.stop,
            on_pair=lambda pair: self.emit("pair", {"pair": pair, "part": name}),
        )  # fmt: skip
        return part.card() if part.decision.final else {}

    def _declared(
        self, candidate: str, robot: str, request: Mapping[str, Any], folder: Path
    ) -> tuple[Trial, Trial | None]:
        """Declare both parts before the first run, or continue them."""
        canary, guard = folder / "canary.jsonl", folder / "guard.jsonl"
        if not canary.exists():
            others = other_tasks(self.catalogue, robot, request["instruction"], request["other_tasks"])
            starts = take("canary", int(request["seed"]), self.rule.max_pairs)
            versions = {name: request[name] for name in ("world_model", "judge", "scene")}
            plan = TrialPlan(
                trial_id=f"canary-{folder.name}", incumbent=request["policy"], candidate=candidate,
                instruction=request["instruction"], rule=self.rule,
                start_seeds=tuple(starts),
                versions={**versions, "other_tasks": declared(others, self.guard_pairs)},
            )  # fmt: skip
            if others and self.guard_pairs and not guard.exists():
                Trial.declare(guard, guard_plan(plan, others, self.guard_pairs), secrets.token_bytes(32)).close()
            Trial.declare(canary, plan, secrets.token_bytes(32)).close()  # the last: where it is, both are
        return Trial.load(canary), Trial.load(guard) if guard.exists() else None
