"""All adaptations of a trainer: begun, found, and gone on with after a restart; one robot's wait behind each other."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

from cloud_trainer.flows.adaptation_engine import AdaptationEngine, SceneRequest
from cloud_trainer.flows.adaptation_view import Stage, View
from cloud_trainer.flows.scene_adaptation import SceneAdaptation
from cloud_trainer.store.protocols import EpisodeRow
from cloud_trainer.store.tenants import tenant_named
from gymnast_core.errors import NotPossibleError, OccupiedError
from gymnast_core.evaluation.purpose import is_blinded
from gymnast_core.wire.errors import NotFoundError

MOST_ON_ROBOT = 20
"""Under way or waiting; each has a thread, and nobody looks at more."""


class Adaptations:
    """All adaptations of a trainer, in folders; unfinished ones go on at start.

    Args:
        root: their folder.
        engine_of: tenant -> what computes for it; None where this trainer cannot adapt; old ones can be looked at.
    """

    def __init__(self, root: Path, engine_of: Callable[[str], AdaptationEngine] | None) -> None:
        self._root, self._engine_of = root, engine_of
        self._lock = threading.Lock()
        self._flows: dict[str, SceneAdaptation] = {}
        root.mkdir(parents=True, exist_ok=True)
        if engine_of is not None:
            for journal in sorted(root.glob("*/journal.jsonl")):
                flow = SceneAdaptation(journal.parent, engine_of(_tenant_of(journal)))
                self._flows[journal.parent.name] = flow
                flow.resume()

    def modes(self, tenant: str) -> tuple[str, ...]:
        """What this trainer can train for a tenant."""
        return () if self._engine_of is None else self._engine_of(tenant).modes

    def price_per_hour(self, tenant: str) -> float:
        """What an hour of training costs here; 0 where nobody counts."""
        return 0.0 if self._engine_of is None else self._engine_of(tenant).price_per_hour

    def start(self, tenant: str, request: SceneRequest, *, by: str, adaptation_id: str = "") -> SceneAdaptation:
        """Begin one; adaptation_id is from new_adaptation_id(), empty makes one.

        Raises:
            OccupiedError: MOST_ON_ROBOT of the robot are not over.
            NotPossibleError: this trainer has no engine.
            ConfigError: what is asked for is not here.
        """
        if self._engine_of is None:
            raise NotPossibleError("this page cannot adapt; a trainer started with `gymnast serve` can")
        with self._lock:
            if len(self.on(tenant, request.robot)) >= MOST_ON_ROBOT:
                raise OccupiedError(
                    f"{MOST_ON_ROBOT} adaptations of {request.robot} are under way or wait; finish or cancel some first"
                )
            flow = SceneAdaptation.start(
                self._root, self._engine_of(tenant), request, by=by, tenant=tenant, adaptation_id=adaptation_id
            )
            self._flows[flow.view.adaptation_id] = flow
            return flow

    def on(self, tenant: str, robot: str) -> list[View]:
        """Return a robot's adaptations that are not over, in the order in which they were asked for."""
        views = [flow.view for flow in reversed(self.of(tenant))]
        return [view for view in views if view.robot == robot and not view.stage.over]

    def blinds(self, row: EpisodeRow) -> bool:
        """Whether an episode may be a run of a canary that is not over: its policy stays hidden."""
        return is_blinded(row.metadata) and any(
            (view.robot, view.tenant, view.stage) == (row.robot, row.tenant, Stage.CANARY)
            for view in (flow.view for flow in list(self._flows.values()))
        )

    def get(self, tenant: str, adaptation_id: str) -> SceneAdaptation:
        """Return one.

        Raises:
            NotFoundError: the tenant has none of this id.
        """
        flow = self._flows.get(adaptation_id)
        if flow is None or flow.view.tenant != tenant:
            raise NotFoundError(f"there is no adaptation {adaptation_id!r}; choose one from the list")
        return flow

    def of(self, tenant: str) -> list[SceneAdaptation]:
        """Return a tenant's, newest first."""
        mine = [flow for flow in list(self._flows.values()) if flow.view.tenant == tenant]
        return sorted(mine, key=lambda flow: -int(flow.view.history[0]["at_ns"]))

    def close(self) -> None:
        """Stop all between two steps."""
        for flow in self._flows.values():
            flow.close()


def _tenant_of(journal: Path) -> str:
    """Whose an adaptation is, by the first line of its journal."""
    with journal.open("rb") as lines:
        first = json.loads(next(iter(lines), b"{}"))
    return tenant_named(first.get("data", {}))
