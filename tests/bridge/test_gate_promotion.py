"""A trial that is won lets a checkpoint be promoted to a robot that asks for a gate record, by the same record."""

from __future__ import annotations

import pytest

from gymnast_core.errors import NotTrustedError
from gymnast_core.records.release import Release
from tests.bridge.conftest import make_checkpoint
from tests.bridge.gated_robot import PATIENCE_S, TENANT, record_of, shipped
from tests.bridge.test_bridge import wait_until
from tests.bridge.test_gate import admin, robot
from tests.console.conftest import SteeredEngine

__all__ = ["admin", "robot"]


def test_after_gate_offer_and_a_won_trial_the_robot_runs_what_was_promoted(service, robot, admin, tmp_path):
    service.handlers.flows.take_up(lambda tenant: SteeredEngine())
    with robot() as wx1:
        base = shipped(wx1, tmp_path)
        new = make_checkpoint(tmp_path / "new", 1.0)
        service.gates.book.keep(TENANT, record := record_of(new.id, base))
        service.publisher.publish(TENANT, tmp_path / "new", robots=["nobody"])
        admin.checkpoints.offer(new.id, ["wx-1"])
        wx1.staged(new.id)
        with pytest.raises(NotTrustedError, match="has not won a trial yet"):
            admin.checkpoints.promote(new.id, ["wx-1"])
        trials = service.handlers.flows.trials
        trial_id = trials.start(TENANT, robot="wx-1", candidate=new.id, incumbent=base, tasks=["lift"], by="root")
        wait_until(lambda: next(admin.trials.list()).state == "decided", PATIENCE_S)
        assert trial_id == next(admin.trials.list()).trial_id
        document = admin.checkpoints.promote(new.id, ["wx-1"])
        release = Release.from_bytes(document.payload)
        assert (release.gate.record, release.gate.digest) == (record.id, record.digest)
        wait_until(lambda: wx1.store.state.mandate is not None, PATIENCE_S)
        wx1.store.obey()
        assert wx1.store.current_id() == new.id
        wait_until(lambda: next(admin.robots.list()).gate.how == "passed", PATIENCE_S)
