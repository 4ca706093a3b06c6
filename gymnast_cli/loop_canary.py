"""The loop's canary: the trainer's own blinded trial, begun and followed as an operator would."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gymnast_cli.commands.operate import trial_of
from gymnast_cli.stages import Advance
from gymnast_core.errors import GymnastError
from gymnast_core.evaluation.sequential import SequentialRule

if TYPE_CHECKING:
    from gymnast_ros.uplink import ConsoleClient

POLL_S = 0.5


class TrialStoppedError(GymnastError):
    """A canary ended without a decision; the message says why."""


@dataclass(frozen=True)
class Canary:
    """Blinded trials on one robot.

    Attributes:
        page: of the trainer, which orders the runs, keeps their order secret and leaves the card.
        robot: its name at the trainer.
        tasks: that take turns, pair by pair.
        scene: where it stands.
    """

    page: ConsoleClient
    robot: str
    tasks: Sequence[str]
    scene: str

    def run(self, candidate: str, incumbent: str, rule: SequentialRule, key: str, advance: Advance) -> dict[str, Any]:
        """Try a candidate until the declared rule decides; returns the result card.

        Args:
            candidate: checkpoint id, offered to the robot.
            incumbent: checkpoint id.
            rule: declared before the first run.
            key: the same key follows the trial that it began, e.g. after a restart.
            advance: told every finished pair.

        Raises:
            TrialStoppedError: it was stopped, or the arm could not go on.
        """
        form = {
            "robot": self.robot, "tasks": json.dumps(list(self.tasks)), "against": incumbent, "scene": self.scene,
            "rule": json.dumps(rule.to_json()), "key": key,
        }  # fmt: skip
        self.page.post(f"/checkpoints/{candidate}/try", form)
        while (view := trial_of(self.page, key))["state"] == "running":
            advance(int(view["pairs_done"]), int(view["max_pairs"]), "pairs")
            time.sleep(POLL_S)
        if not view["card"]:
            raise TrialStoppedError(f"trial {view['trial_id']} of {candidate} was not decided: {view['reason']}")
        return dict(view["card"])
