"""What computes behind a tenant's adaptations, trials and loops, made from the service's own parts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from cloud_trainer.app.settings import Arms
from cloud_trainer.flows.arms import Connect, Errand
from cloud_trainer.flows.gating import Gating
from cloud_trainer.flows.loop_engine import ArmLoopEngine
from cloud_trainer.flows.scene_engine import SceneEngine
from cloud_trainer.flows.trials import Trials
from cloud_trainer.jobs.shelf import Shelf
from cloud_trainer.service import OrderedRobot, Service
from cloud_trainer.store.tenants import SCENES, tenant_folder
from gymnast_core.evaluation.scene_book import SceneBook


def engine_for(
    service: Service, arms: Arms, shelf: Shelf, tenant: str, *, allowed: Collection[str] = ()
) -> SceneEngine:
    """Adapts a tenant's robots that report to this service and take its orders."""
    return SceneEngine(
        connect=_reach(service, tenant), jobs=service.jobs,
        catalogue=service.episodes_of(tenant), shelf=shelf, tenant=tenant,
        work=service.config.folder / "jobs",
        book=SceneBook(tenant_folder(service.config.folder, tenant) / SCENES),
        scene=arms.scene, config=arms.config, rule=arms.rule, guard_pairs=arms.guard_pairs,
        price_per_hour=arms.price_per_hour, gating=_gating(service, shelf, tenant),
        allowed=allowed, begins=partial(service.queues.beginnings.begin, tenant),
    )  # fmt: skip


def loop_engine_for(
    service: Service, shelf: Shelf, tenant: str, trials: Trials, *, allowed: Collection[str] = ()
) -> ArmLoopEngine:
    """Runs the loops of a tenant's robots that report to this service and take its orders."""
    return ArmLoopEngine(
        tenant, _reach(service, tenant), service.jobs, trials, shelf, _gating(service, shelf, tenant),
        partial(service.queues.beginnings.begin, tenant), allowed,
    )  # fmt: skip


def _gating(service: Service, shelf: Shelf, tenant: str) -> Gating:
    """How a tenant's flows bring their candidates to robots."""

    def offer(checkpoint_id: str, robots: Sequence[str]) -> None:
        service.publisher.publish(tenant, shelf.path(checkpoint_id), robots=robots)

    gaps = partial(service.gates.gaps, tenant, warned=True)
    return Gating(tenant, service.jobs, partial(service.gates.asking, tenant), gaps, offer)


def _reach(service: Service, tenant: str) -> Connect:
    def reach(robot: str, errand: Errand) -> OrderedRobot:
        turns = partial(service.queues.turns.turn, tenant, robot, errand)
        return OrderedRobot(service.orders, service.robots, tenant, robot, errand.order, turns)

    return reach
