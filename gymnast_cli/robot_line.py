"""What computes behind the page's adaptations: `gymnast serve` makes it from the service's own parts."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from gymnast_cli.connect import json_argument

if TYPE_CHECKING:
    from cloud_trainer.jobs.shelf import Shelf
    from cloud_trainer.service import Service
    from gymnast_cli.scene_engine import SceneEngine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the page's adaptations are like."""
    parser.add_argument(
        "--robot-scene", default="standard", metavar="NAME", help="where robots stand whose adaptation names no scene"
    )
    parser.add_argument(
        "--adapt-config", type=json_argument, default={}, metavar="JSON|@FILE", help="of the page's adaptation jobs"
    )
    parser.add_argument(
        "--canary-pairs", type=int, default=0, metavar="N", help="of the page's canaries, at most (default: the rule's)"
    )
    parser.add_argument(
        "--guard-pairs", type=int, metavar="N",
        help="of each other task, to look for harm after a canary is won (default: the rule's; 0 looks at none)",
    )  # fmt: skip
    parser.add_argument(
        "--price-per-hour", type=float, default=0.0, metavar="MONEY",
        help="of training on this machine; the page then takes budgets in money",
    )  # fmt: skip


def engine_for(service: Service, args: argparse.Namespace, shelf: Shelf, tenant: str) -> SceneEngine:
    """Adapts a tenant's robots that report to this service and take its orders."""
    from cloud_trainer.service import OrderedRobot
    from cloud_trainer.store.tenants import SCENES, tenant_folder
    from gymnast_cli.scene_engine import SceneEngine
    from gymnast_core.evaluation.scene import SceneBook
    from gymnast_core.evaluation.sequential import HarmRule, SequentialRule

    rule = SequentialRule()
    if args.canary_pairs:
        rule = replace(rule, max_pairs=args.canary_pairs, min_pairs=min(args.canary_pairs, rule.min_pairs))
    return SceneEngine(
        connect=lambda name: OrderedRobot(service.orders, service.robots, tenant, name), jobs=service.jobs,
        catalogue=service.episodes_of(tenant), shelf=shelf, tenant=tenant,
        book=SceneBook(tenant_folder(args.folder, tenant) / SCENES),
        scene=args.robot_scene, config=args.adapt_config, rule=rule,
        guard_pairs=HarmRule.pairs if args.guard_pairs is None else args.guard_pairs,
        price_per_hour=args.price_per_hour,
        offer=lambda name, robot: _offer(service, shelf, tenant, name, robot),
    )  # fmt: skip


def _offer(service: Service, shelf: Shelf, tenant: str, checkpoint_id: str, robot: str) -> None:
    service.publisher.publish(tenant, shelf.path(checkpoint_id), robots=[robot])
