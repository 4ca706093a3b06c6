"""A robot's side of the link for tests of the gate: store, uplink and reports, as the bridge node has them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cloud_trainer.service import Service
from gymnast_core.evaluation.gate import GateTest
from gymnast_core.records.gate_record import GateRecord
from gymnast_core.records.gate_rule import GateRule
from gymnast_core.robot_status import GateNews
from gymnast_core.wire.identity import Identity
from gymnast_ros.uplink import Reporter, RobotNews, RobotStore, Uplink, WeightsNews
from tests.bridge.conftest import make_checkpoint
from tests.bridge.test_bridge import wait_until

REQUIRED, WARN, OFF = GateRule("required"), GateRule("warn"), GateRule("off")
TENANT = "default"
PATIENCE_S = 30.0


def record_of(candidate: str, incumbent: str, **changes) -> GateRecord:
    made = GateRecord(
        candidate=candidate, incumbent=incumbent, simulator="pybullet 3.2.7", seeds=tuple(range(20)), n_pairs=20,
        candidate_successes=15, incumbent_successes=15 if incumbent else 0, violations=0, decision="passed",
        reason="not worse by more than 0.10", margin=0.1, made_ns=1_700_000_000_000_000_000, code_version="0.2.0",
        randomisation={"test": GateTest().to_json()},
    )  # fmt: skip
    return replace(made, **{"made_ns": now_ns(), **changes})


def now_ns() -> int:
    return time.time_ns()


@dataclass
class GatedRobot:
    """A robot's side of the link: store, uplink and reports, as the bridge node has them."""

    service: Service
    identity: Path
    folder: Path
    rule: GateRule = REQUIRED
    name: str = "wx-1"
    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def __enter__(self) -> GatedRobot:
        loaded = Identity.load(self.identity)
        self.store = RobotStore(
            self.folder, robot=self.name, trusted=loaded.trusted_keys(), gate=self.rule, tenant=loaded.peer.tenant
        )
        self.uplink = Uplink(
            self.service.address, self.identity, store=self.store,
            on_event=lambda event: self.events.append((event.kind, dict(event.data))),
        )  # fmt: skip
        self.reporter = Reporter(self.service.address, self.identity, self._news, period_s=0.3)
        self.uplink.start()
        self.reporter.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.reporter.stop()
        self.uplink.stop()

    def _news(self) -> RobotNews:
        state, current = self.store.state, self.store.current_id() or ""
        note = state.gates.get(current)
        gate = GateNews(self.rule.mode, self.rule.overrides, self.rule.max_age_s, **(vars(note) if note else {}))
        weights = WeightsNews(current=current, refused=list(state.failed.items()), held=self.store.held(), gate=gate)
        return RobotNews(state="idle", policy_version=current, weights=weights)

    def heard(self) -> None:
        """Wait until the trainer knows what this robot runs and asks."""
        current = self.store.current_id() or ""
        wait_until(lambda: self.said().get("current") == current and "gate" in self.said(), PATIENCE_S)

    def said(self) -> dict[str, Any]:
        """What the trainer last heard of this robot's checkpoints."""
        report = self.service.robots.find(Identity.load(self.identity).peer.tenant, self.name)
        return {} if report is None else dict(report.status.get("weights", {}))

    def staged(self, checkpoint_id: str) -> None:
        wait_until(lambda: checkpoint_id in self.store.state.staged, PATIENCE_S)

    def refused(self, checkpoint_id: str) -> str:
        """Wait until it is refused; the reason, which the trainer has heard too."""
        wait_until(lambda: checkpoint_id in self.store.state.failed, PATIENCE_S)
        assert checkpoint_id not in self.store.held()
        reason = self.store.state.failed[checkpoint_id]
        tenant = Identity.load(self.identity).peer.tenant
        wait_until(lambda: any(word.checkpoint_id == checkpoint_id and word.word == "refused"
                               for word in self.service.words.of(tenant)), PATIENCE_S)  # fmt: skip
        return reason


def shipped(robot: GatedRobot, tmp_path: Path) -> str:
    """The checkpoint that comes with a robot, which the trainer knows."""
    base = make_checkpoint(tmp_path / f"base-{robot.name}", 0.0)
    robot.store.install(tmp_path / f"base-{robot.name}")
    robot.service.publisher.publish(TENANT, tmp_path / f"base-{robot.name}", robots=["nobody"])
    robot.heard()
    return base.id
