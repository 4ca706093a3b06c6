"""Where an adaptation is: the sum of its journal's entries, as pages and callers see it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cloud_trainer.store.tenants import tenant_named

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
    options: dict[str, Any] = field(default_factory=dict)
    known_adapters: list[str] = field(default_factory=list)
    trust: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, Any] = field(default_factory=dict)
    mode: str = ""
    job: str = ""
    iterations: list[dict[str, Any]] = field(default_factory=list)
    candidate: str = ""
    ended_by: str = ""
    forgetting: dict[str, Any] = field(default_factory=dict)
    declared: dict[str, Any] = field(default_factory=dict)
    canary: list[dict[str, Any]] = field(default_factory=list)
    card: dict[str, Any] = field(default_factory=dict)
    decided_by: str = ""
    cancel_requested: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rollouts(self) -> int:
        """Imagined rollouts so far."""
        return sum(int(row.get("rollouts", 0)) for row in self.iterations)

    def apply(self, kind: str, data: Mapping[str, Any]) -> None:
        """Take one entry of the journal in."""
        rest = {key: value for key, value in data.items() if key not in ("at_ns", "by")}
        if kind == "started":
            self.adaptation_id, self.robot = str(data["id"]), str(data["robot"])
            self.instruction, self.started_by = str(data["instruction"]), str(data["by"])
            self.scene, self.tenant = str(data.get("scene", "")), tenant_named(data)
            self.options = {name: data[name] for name in OPTIONS if name in data}
        elif kind == "captured":
            self.scene, self.known_adapters = str(data.get("scene", "")), list(data.get("known_adapters", []))
        elif kind == "trust":
            self.trust, self.reason = dict(rest), str(data["reason"])
            self.stage = Stage.READY if data["ok"] else Stage.REFUSED
        elif kind == "collecting":
            self.stage, self.reason = Stage.CAPTURED, ""
        elif kind == "training":
            self.stage, self.budget, self.mode = Stage.TRAINING, dict(data["budget"]), str(data["mode"])
        elif kind == "reused":
            self.stage, self.candidate, self.reason = Stage.CHECKING, str(data["candidate"]), ""
        elif kind == "job":
            self.job = str(data["job"])
        elif kind == "iteration":
            self.iterations.append(dict(rest))
        elif kind == "trained":
            self.stage, self.candidate, self.ended_by = Stage.CHECKING, str(data["candidate"]), str(data["ended_by"])
        elif kind == "forgetting":
            self.forgetting = dict(rest)
        elif kind == "previewed":
            self.stage = Stage.PREVIEW
        elif kind == "approved":
            self.stage, self.decided_by = Stage.CANARY, str(data["by"])
        elif kind == "declared":
            self.declared = dict(rest)
        elif kind == "pair":
            self.canary.append(dict(rest))
        elif kind == "cancel_requested":
            self.cancel_requested = True
        elif kind in ("kept", "reverted", "rejected", "cancelled", "failed"):
            self.stage = Stage.REVERTED if kind == "rejected" else Stage(kind)
            self.card = dict(data.get("card", {}))
            self.reason = str(data.get("reason", "rejected by the operator" if kind == "rejected" else ""))
        self.revision += kind not in ("job", "iteration", "declared", "pair")
        self.history.append({"kind": kind, "at_ns": data.get("at_ns", 0), "by": data.get("by", "")})
