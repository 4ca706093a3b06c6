"""Services and parameters of test-time training asked for at the robot; gymnast_ros.run.adaptation does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

from rclpy.node import Node
from std_srvs.srv import Trigger

from gymnast_ros.nodes.runtime import Settings
from gymnast_ros.run.adaptation import KIND, AdaptationDesk

MODES = ("", "full", "lora")


def declare(settings: Settings) -> None:
    """The parameters of the service, with their meaning."""
    add = settings.declare
    add("ttt_instruction", "", "test_time_train: what the arm shall do here; a task's name will do")
    add("ttt_scene", "", "test_time_train: name of the scene it stands in; empty is the trainer's usual")
    add("ttt_collect", 40, "test_time_train: real episodes at most, where the trust check asks for them", low=0,
        high=1000)  # fmt: skip
    add("ttt_minutes", 60.0, "test_time_train: the practice is cut off after so long", low=0.01, high=1440.0)
    add("ttt_rollouts", 5000, "test_time_train: budget in imagined rollouts", low=1, high=10**9)
    add("ttt_money", 5.0, "test_time_train: budget in the trainer's currency", low=0.01, high=1e6)
    add("ttt_mode", MODES[0], "test_time_train: the whole policy, or a small adapter; empty is the trainer's usual",
        choices=MODES)  # fmt: skip
    add("ttt_approve", False, "test_time_train: let the candidate onto the arm unasked, for its canary")
    add("ttt_seed", 0, "test_time_train: of everything random", low=0, high=2**53)
    add("ttt_config", "{}", "test_time_train: JSON settings of the training job", check=json_error)
    add("ttt_world_model", "", "test_time_train: checkpoint id; empty is the trainer's newest")
    add("ttt_judge", "", "test_time_train: checkpoint id; empty is the trainer's newest")


def serve(node: Node, desk: AdaptationDesk) -> None:
    """Add the services test_time_train and cancel_test_time_train to the bridge node."""
    for name, answer in ((KIND, desk.call), (f"cancel_{KIND}", desk.cancel)):
        node.create_service(Trigger, f"~/{name}", partial(_answer, answer))


def _answer(do: Callable[[], tuple[bool, str]], _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
    response.success, response.message = do()
    return response


def json_error(value: str) -> str:
    """What is wrong with a parameter that must be a JSON object; empty when nothing is."""
    try:
        return "" if isinstance(json.loads(value), dict) else "must be a JSON object"
    except ValueError as error:
        return f"is not JSON: {error}"
