"""Where an adaptation is: the sum of its journal's entries, as pages and callers see it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import cast

from cloud_trainer.store.tenants import tenant_named
from gymnast_core.adaptations import (
    AdaptationOptions,
    BudgetFigures,
    CanaryPair,
    DeclaredCanary,
    ForgettingFigures,
    Moment,
    PracticeIteration,
    TrustFigures,
)
from gymnast_core.evaluation.cards import ResultCard
from gymnast_core.json_values import JsonObject, texts, whole

OPTIONS = ("world_model", "judge", "seed", "config", "other_tasks")
"""Of what was asked for when it began, see SceneRequest; absent where nothing was."""


class Stage(str, enum.Enum):
    """Where an adaptation is."""

    CAPTURED = "captured"
    REFUSED = "refused"
    READY = "ready"
    TRAINING = "training"
    CHECKING = "checking"
    PREVIEW = "preview"
    CANARY = "canary"
    KEPT = "kept"
    REVERTED = "reverted"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self in (Stage.KEPT, Stage.REVERTED, Stage.CANCELLED, Stage.FAILED)

    @property
    def busy(self) -> bool:
        """Whether the machine works and the operator waits."""
        return self in (Stage.CAPTURED, Stage.TRAINING, Stage.CHECKING, Stage.CANARY)


@dataclass
class View:
    """The state of an adaptation as pages and callers see it."""

    adaptation_id: str
    robot: str
    instruction: str
    started_by: str
    stage: Stage = Stage.CAPTURED
    revision: int = 0
    reason: str = ""
    scene: str = ""
    tenant: str = ""
    options: AdaptationOptions = field(default_factory=AdaptationOptions)
    known_adapters: list[str] = field(default_factory=list)
    trust: TrustFigures = field(default_factory=TrustFigures)
    budget: BudgetFigures = field(default_factory=BudgetFigures)
    mode: str = ""
    job: str = ""
    iterations: list[PracticeIteration] = field(default_factory=list)
    candidate: str = ""
    ended_by: str = ""
    forgetting: ForgettingFigures = field(default_factory=ForgettingFigures)
    gate: str = ""
    """How far the gate before the canary is, in words; empty where the robot asks for none."""
    declared: DeclaredCanary = field(default_factory=dict)
    canary: list[CanaryPair] = field(default_factory=list)
    card: ResultCard = field(default_factory=ResultCard)
    decided_by: str = ""
    cancel_requested: bool = False
    history: list[Moment] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        """Whether it waits, before its first step, for others that change what its robot runs."""
        return self.stage is Stage.CAPTURED and bool(self.reason)

    @property
    def rollouts(self) -> int:
        """Imagined rollouts so far."""
        return sum(int(row.get("rollouts", 0)) for row in self.iterations)

    @property
    def pairs_left(self) -> int:
        """Of the canary here, at most."""
        here = sum(pair.get("part") != "other tasks" for pair in self.canary)
        return max(0, whole(self.declared.get("max_pairs", 0)) - here)

    def apply(self, kind: str, data: JsonObject) -> None:
        """Take one entry of the journal in."""
        rest = {key: value for key, value in data.items() if key not in ("at_ns", "by")}
        if kind == "started":
            self.adaptation_id, self.robot = str(data["id"]), str(data["robot"])
            self.instruction, self.started_by = str(data["instruction"]), str(data["by"])
            self.scene, self.tenant = str(data.get("scene", "")), tenant_named(data)
            self.options = cast(AdaptationOptions, {name: data[name] for name in OPTIONS if name in data})
        elif kind == "waits":
            self.reason = str(data["reason"])
        elif kind == "captured":
            self.reason = ""
            self.scene, self.known_adapters = str(data.get("scene", "")), texts(data.get("known_adapters", []))
        elif kind == "trust":
            self.trust, self.reason = cast(TrustFigures, rest), str(data["reason"])
            self.stage = Stage.READY if data["ok"] else Stage.REFUSED
        elif kind == "collecting":
            self.stage, self.reason = Stage.CAPTURED, ""
        elif kind == "training":
            self.stage, self.budget, self.mode = Stage.TRAINING, cast(BudgetFigures, data["budget"]), str(data["mode"])
        elif kind == "reused":
            self.stage, self.candidate, self.reason = Stage.CHECKING, str(data["candidate"]), ""
        elif kind == "job":
            self.job = str(data["job"])
        elif kind == "iteration":
            self.iterations.append(cast(PracticeIteration, rest))
        elif kind == "trained":
            self.stage, self.candidate, self.ended_by = Stage.CHECKING, str(data["candidate"]), str(data["ended_by"])
        elif kind == "forgetting":
            self.forgetting = cast(ForgettingFigures, rest)
        elif kind == "previewed":
            self.stage = Stage.PREVIEW
        elif kind == "approved":
            self.stage, self.decided_by = Stage.CANARY, str(data["by"])
        elif kind == "gate":
            self.gate = f"{data['done']} of {data['total']} pairs"
        elif kind == "declared":
            self.declared = rest
        elif kind == "pair":
            self.canary.append(cast(CanaryPair, rest))
        elif kind == "cancel_requested":
            self.cancel_requested = True
        elif kind in ("kept", "reverted", "rejected", "cancelled", "failed"):
            self.stage = Stage.REVERTED if kind == "rejected" else Stage(kind)
            self.card = cast(ResultCard, data.get("card", {}))
            self.reason = str(data.get("reason", "rejected by the operator" if kind == "rejected" else ""))
        self.revision += kind not in ("waits", "job", "iteration", "gate", "declared", "pair")
        self.history.append({"kind": kind, "at_ns": whole(data.get("at_ns", 0)), "by": str(data.get("by", ""))})
