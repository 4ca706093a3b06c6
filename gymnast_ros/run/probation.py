"""Watches every episode's verdict: on probation a checkpoint that misbehaves is rolled back at once.

A candidate that misbehaves in a trial, before it is in force, is turned down by name like one that fails its check.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from gymnast_core.errors import GymnastError
from gymnast_ros.run.ports import Log
from gymnast_ros.uplink import RobotStore


class ProbationWatch:
    """Takes the verdict of every episode the rollout node finishes and lets the store count it."""

    def __init__(self, store: RobotStore, log: Log) -> None:
        self._store, self._log = store, log
        self.ran, self.ran_ns = "", 0
        """Policy of the newest episode, and when it ended (wall clock); "" before the first."""

    def status(self) -> dict[str, Any]:
        """For bridge/status: the running probation, and why checkpoints were rolled back or turned down."""
        state = self._store.state
        probation = None if state.probation is None else asdict(state.probation)
        if probation is not None:
            del probation["counted"]
        return {"probation": probation, "failed": dict(state.failed), "ran": self.ran, "ran_ns": self.ran_ns}

    def on_episode(self, event: Mapping[str, Any]) -> None:
        """Count one of rollout/episode (gymnast_ros.run.conduct.EpisodeEvents)."""
        policy, reason = event["policy"], event["reason"]
        if event["steps"]:
            self.ran, self.ran_ns = policy, time.time_ns()
        if event["bad"] and policy in self._store.state.staged:
            self._store.reject(policy, reason)
            self._log.warning(f"turned_down policy={policy} reason={reason}")
        if not (event["good"] or event["bad"]):
            return
        count = self._store.on_episode if policy == self._store.current_id() else partial(
            self._store.scenes.on_episode, policy
        )  # fmt: skip
        try:
            kept = count(good=event["good"], reason=reason, run=event["run"])
        except GymnastError as error:
            self._log.error(f"rollback failed policy={policy} error={error}")
            return
        if not kept:
            self._log.warning(f"taken_back policy={policy} reason={reason}")
