"""Every parameter of the bridge node, with its meaning and range, and the requests that its services make of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from gymnast_core.errors import ConfigError
from gymnast_core.records.gate_rule import GATE_MODES, MAX_AGE_DAYS
from gymnast_ros.nodes.request_parameters import declare_argument
from gymnast_ros.nodes.rollout_parameters import declare_max_latency
from gymnast_ros.nodes.settings import NodeSettings, declare_robot
from gymnast_ros.run.codec import checked
from gymnast_ros.run.requests import CancelJob, CancelTrainHere, Flush, Request, Rollback, SubmitJob, Swap, TrainHere

PROBATION_EPISODES = 3
MODES = ("", "full", "lora")
HERE = tuple(TrainHere.model_fields)
"""Arguments of test_time_train; the parameter of each bears the prefix ttt_."""


def declare(settings: NodeSettings) -> None:
    """Declare them."""
    add, argument = settings.declare, partial(declare_argument, settings)
    declare_robot(settings)
    add("folder", "runs/robot", "spool/ and store/ live here", read_only=True)
    add("robot_name", "sim-0", "this robot's name at the trainer", read_only=True)
    add("trainer", "127.0.0.1:50051", "host:port", read_only=True)
    add("identity", "", "folder with cert.pem, key.pem, ca.pem", read_only=True)
    add("insecure", False, "no TLS; tests on one machine", read_only=True)
    add("trusted_keys", "", "file or folder of keys that may sign releases", read_only=True)
    add("policy", "", "checkpoint folder installed when the store is empty", read_only=True)
    add("probation_episodes", PROBATION_EPISODES, "good episodes a checkpoint needs here before it is trusted", low=0,
        high=10_000, read_only=True)  # fmt: skip
    add("gate", GATE_MODES[0], "what a release must show: required (a passed gate record), warn or off",
        choices=GATE_MODES, read_only=True)  # fmt: skip
    add("gate_overrides", True, "an administrator's signed override stands in for a gate record", read_only=True)
    add("gate_days", MAX_AGE_DAYS, "an older gate record does not count", low=0.01, high=3650.0, read_only=True)
    argument(Swap, "checkpoint_id", "", name="swap_to")
    add("swap_probation_episodes", -1, "swap: instead of probation_episodes, for this swap alone; -1 keeps that",
        low=-1, high=10_000)  # fmt: skip
    add("device", "auto", "where a large checkpoint is checked, as on the rollout node", read_only=True)
    declare_max_latency(settings)
    add("take_orders", False, "the trainer's operators may run episodes on this robot", read_only=True)
    add("open_services", False, "anybody on the domain may call the services that act in the robot's name",
        read_only=True)  # fmt: skip
    add("job", "{}", "submit_job: JSON {kind, spec, key}", check=_job_error)
    add("job_id", "", "cancel_job: which one")
    add("report_period_s", 1.0, "how often the trainer hears how the robot is", low=0.3, high=3600.0, read_only=True)
    argument(Flush, "timeout_s", 120.0, name="flush_timeout_s")
    argument(TrainHere, "instruction", "", name="ttt_instruction")
    for name in HERE[1:]:
        default = "{}" if name == "config" else TrainHere.model_fields[name].default
        argument(TrainHere, name, default, name=f"ttt_{name}", choices=MODES if name == "mode" else (),
                 check=json_error if name == "config" else None)  # fmt: skip


def requests_from(settings: NodeSettings) -> Mapping[str, Callable[[], Request]]:
    """Return service -> what makes its request of the node's parameters."""

    def job() -> Request:
        wanted = json.loads(settings["job"])
        if not wanted:
            raise ConfigError("the parameter job is empty; set it to JSON {kind, spec, key}")
        return checked(SubmitJob, wanted)

    def swap() -> Request:
        asked = settings["swap_probation_episodes"]
        values = {"checkpoint_id": settings["swap_to"], "probation_episodes": None if asked < 0 else asked}
        return checked(Swap, values)

    def here() -> Request:
        values: dict[str, Any] = {name: settings[f"ttt_{name}"] for name in HERE}
        return checked(TrainHere, {**values, "config": json.loads(values["config"])})

    return {
        "submit_job": job,
        "swap": swap,
        "test_time_train": here,
        "rollback": Rollback,
        "cancel_test_time_train": CancelTrainHere,
        "cancel_job": lambda: checked(CancelJob, {"job_id": settings["job_id"]}),
        "flush": lambda: checked(Flush, {"timeout_s": settings["flush_timeout_s"]}),
    }


def json_error(value: str) -> str:
    """What is wrong with a parameter that must be a JSON object; empty when nothing is."""
    try:
        return "" if isinstance(json.loads(value), dict) else "must be a JSON object"
    except ValueError as error:
        return f"is not JSON: {error}"


def _job_error(value: str) -> str:
    if wrong := json_error(value):
        return wrong
    job = json.loads(value)
    missing = [name for name in ("kind", "spec", "key") if name not in job] if job else []
    return f"lacks {missing}" if missing else ""
