"""What robots report, which checkpoints they say they run, and whether one may be ordered about now."""

from __future__ import annotations

from cloud_trainer.flows.queue_dispatch import QueueDispatch
from cloud_trainer.records.trail import Trails
from cloud_trainer.service.in_force import InForce, RobotInForce
from cloud_trainer.service.orders import RobotOrders
from cloud_trainer.service.robots import RobotBoard, RobotReport
from cloud_trainer.service.words import RobotWords
from cloud_trainer.store.protocols import MetaStore
from gymnast_core.authority import Who, authorise
from gymnast_core.errors import NotPossibleError
from gymnast_core.orders import Order, OrderNews
from gymnast_core.robot_status import RobotStatus, WeightsStatus

REPORT_STALE_S = 15.0
PICTURE_STALE_S = 30.0
"""A slow link carries a picture every 22 s at worst; what is older is not what a robot sees now."""


class RobotHandlers:
    """See the module.

    Args:
        board: newest reports.
        orders: what robots are asked to do.
        words: what they said of their checkpoints.
        meta: the catalogue of releases.
        queue: gives robots what people asked for.
        trails: where actions are written down.
    """

    def __init__(
        self, board: RobotBoard, orders: RobotOrders, words: RobotWords, meta: MetaStore, queue: QueueDispatch,
        trails: Trails,
    ) -> None:  # fmt: skip
        self.board, self._orders, self.words, self._meta, self._queue = board, orders, words, meta, queue
        self._trails = trails
        self._mandates = InForce(meta)

    def report(
        self, who: Who, status: RobotStatus, frame: bytes, news: OrderNews | None, *, takes_orders: bool
    ) -> Order | None:
        """Note what a robot reports; returns what it shall be doing, None where it takes no orders.

        Raises:
            BusyError: it reports too often.
        """
        authorise(who, "report")
        self.board.post(who, status, frame)
        if weights := status.get("weights"):
            self.words.heard(who, weights)
        self._orders.drops.heard(who, status)
        self._queue.seen(who, status)
        order = self._orders.heard(who, news) or self._queue.heard(who, news, status)
        return order if takes_orders else None

    def dropping(self, who: Who) -> list[str]:
        """Return the adapters that this robot shall detach."""
        return self._orders.drops.of(who)

    def drop_adapter(self, who: Who, name: str, checkpoint_id: str) -> None:
        """Have a robot's base drive again where an adapter did; returns once the robot says that it does.

        Raises:
            NotPossibleError: it has no such adapter, or does not answer.
        """
        authorise(who, "adapt")
        report = self.find(who, name)
        known = [one["checkpoint_id"] for one in report.status.get("weights", WeightsStatus()).get("adapters", [])]
        if checkpoint_id not in known:
            raise NotPossibleError(
                f"{checkpoint_id[:80]!r} is no adapter of {name}; it has {', '.join(known) or 'none'}"
            )
        if report.age_s() > REPORT_STALE_S:
            raise NotPossibleError(f"{name} has been silent for {report.age_s():.0f} s; drop it once it reports again")
        self._orders.drops.drop(who.tenant, name, checkpoint_id)
        with self._trails.of(who.tenant).committing(who, "drop adapter", {"robot": name, "checkpoint": checkpoint_id}):
            pass  # it was done; there is nothing else to commit

    def all(self, who: Who) -> list[RobotReport]:
        """Return the newest report of every robot of the tenant, by name."""
        authorise(who, "look")
        return self.board.of_tenant(who.tenant)

    def find(self, who: Who, name: str) -> RobotReport:
        """Return one robot's.

        Raises:
            NotPossibleError: it never reported.
        """
        report = self.board.find(who.tenant, name)
        if report is None:
            raise NotPossibleError(f"robot {name!r} has not reported here; is its bridge running and enrolled?")
        return report

    def frame(self, who: Who, name: str) -> RobotReport:
        """Return the report whose frame is the newest image of a robot; raises as find()."""
        authorise(who, "look")
        return self.find(who, name)

    def sees(self, who: Who, name: str) -> bytes:
        """Return the JPEG or WebP of what a robot sees now.

        Raises:
            NotPossibleError: it never reported, shows no picture, or its newest one is old.
        """
        report = self.frame(who, name)
        if not report.frame:
            raise NotPossibleError(f"{name} shows no picture; start its camera, or plan from an episode")
        if (age_s := report.frame_age_s()) > PICTURE_STALE_S:
            raise NotPossibleError(
                f"the newest picture of {name} is {age_s:.0f} s old; look after its camera and its link, or plan "
                "from an episode"
            )
        return report.frame

    def seeing(self, who: Who) -> list[str]:
        """Return the names of the robots that show what they see now."""
        return [row.robot for row in self.all(who) if row.frame and row.frame_age_s() <= PICTURE_STALE_S]

    def in_force(self, who: Who) -> list[RobotInForce]:
        """Return which checkpoint each robot of the tenant runs, was ordered to run, or turned down, by name."""
        authorise(who, "look")
        return self._mandates.robots(who.tenant, self.words.of(who.tenant), self.board.of_tenant(who.tenant))

    def known(self, tenant: str) -> set[str]:
        """Return the names of robots that reported, also those away since this process began."""
        words = {word.robot for word in self.words.of(tenant)}
        return words | {report.robot for report in self.board.of_tenant(tenant)}

    def ready(self, who: Who, name: str) -> RobotReport:
        """Return the report of a robot that may be ordered about.

        Raises:
            NotPossibleError: it may not, or nobody knows whether it is there.
        """
        report = self.find(who, name)
        if report.status.get("estop"):
            raise NotPossibleError(f"{name} is stopped by its e-stop; re-arm it at the robot, then start again")
        if report.status.get("takes_orders") is False:
            raise NotPossibleError(
                f"{name} takes no orders; start it with `gymnast up --orders` (orders:=true): its episodes and its "
                "canary are ordered from here"
            )
        if report.age_s() > REPORT_STALE_S:
            raise NotPossibleError(f"{name} has been silent for {report.age_s():.0f} s; wait until it reports again")
        return report

    def reporting(self, who: Who) -> list[str]:
        """Return the names of the robots that report now."""
        return [report.robot for report in self.all(who) if report.age_s() <= REPORT_STALE_S]

    def paused(self, who: Who, name: str) -> str:
        """Return what holds up whatever runs on a robot's arm; empty when nothing does."""
        report = self.board.find(who.tenant, name)
        if report is None or not report.status.get("estop"):
            return ""
        return f"{name} is stopped ({report.status.get('estop_reason') or 'e-stop'}); it goes on when it is re-armed"
