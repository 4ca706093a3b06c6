"""What every process of a graph publishes, hears, serves and calls: what its SROS2 enclave allows, and nothing more.

tests/ros/test_enclaves.py holds a running graph against it, in both directions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gymnast_ros.drivers.interbotix import NODE_NAME as VENDOR_NODE
from gymnast_ros.enclaves import Access
from gymnast_ros.graph import GraphConfig, enclave_of
from gymnast_ros.nodes import topics
from gymnast_ros.run.requests import BRIDGE, ROLLOUT

OPERATOR = "operator"
"""Enclave of the operator's commands: `gymnast collect`, `ros2 service call`, ..."""
EVERYBODY = ("/rosout", "/parameter_events")
"""Published by every node of rclpy."""
OF_A_NODE = (
    "describe_parameters", "get_parameter_types", "get_parameters", "get_type_description", "list_parameters",
    "set_parameters", "set_parameters_atomically",
)  # fmt: skip
"""Services of every node of rclpy that has parameters."""
OF_A_LIFECYCLE = (
    "change_state", "get_state", "get_available_states", "get_available_transitions", "get_transition_graph",
)  # fmt: skip
DESCRIBES_TYPES = "get_type_description"
ROLLOUT_SERVICES = (
    "run_episode", "evaluate", "cancel", "label", "annotate", "label_success", "label_failure", "discard",
)  # fmt: skip
BRIDGE_SERVICES = (
    "submit_job", "swap", "test_time_train", "rollback", "cancel_test_time_train", "cancel_job", "flush",
)  # fmt: skip
STATES = (
    topics.ROLLOUT_STATUS, topics.ROLLOUT_RESULT, topics.POLICY_VERSION, topics.BRIDGE_STATUS, topics.BRIDGE_RESULT,
    topics.GATE_STATUS,
)  # fmt: skip
WATCHED = (topics.GATE_STATUS, topics.ROLLOUT_STATUS, topics.POLICY_VERSION, topics.BRIDGE_STATUS, topics.DESCRIPTION)
"""Of gymnast_ros.nodes.watch."""
VENDOR_TOPICS = ("commands/joint_group", "commands/joint_single", "commands/joint_trajectory")
VENDOR_SERVICES = (
    "set_operating_modes", "set_motor_pid_gains", "set_motor_registers", "get_motor_registers", "get_robot_info",
    "torque_enable", "reboot_motors",
)  # fmt: skip
"""Of xs_sdk, as interbotix_xs_modules uses them in the arm's process."""


@dataclass(frozen=True)
class _Names:
    """Makes names of one graph fully qualified."""

    namespace: str

    def of(self, names: Iterable[str]) -> frozenset[str]:
        return frozenset(name if name.startswith("/") else enclave_of(self.namespace, name) for name in names)

    def enclave(self, process: str) -> str:
        return enclave_of(self.namespace, process)

    def access(
        self, enclave: str, *nodes: str, publish: Iterable[str] = (), subscribe: Iterable[str] = (),
        serve: Iterable[str] = (), call: Iterable[str] = (),
    ) -> Access:  # fmt: skip
        """Of a process with these nodes, each with parameters."""
        offered = [*serve, *(f"{node}/{service}" for node in nodes for service in OF_A_NODE)]
        return Access(enclave, self.of([*EVERYBODY, *publish]), self.of(subscribe), self.of(offered), self.of(call))


def access_of(config: GraphConfig) -> tuple[Access, ...]:
    """Return what each of our processes, the vendor's, the drivers of devices, and the operator may do."""
    names = _Names(config.namespace)
    cameras = config.named_texts("arm", "cameras") or ["over_shoulder"]
    images = [topics.image_topic(camera) for camera in cameras]
    parts = {
        "arm": _arm(names, config, images), "command_gate": _gate(names, config), "rollout": _rollout(names, images),
        "bridge": _bridge(names, images), "teleop": _teleop(names), "page": _page(names, images),
        OPERATOR: _operator(names),
    }  # fmt: skip
    if config.robot != "sim":
        parts |= _devices(config)
    parts["joy"] = names.access(
        enclave_of(config.namespace, "joy"), "joy", publish=[topics.JOY], subscribe=["joy/set_feedback"]
    )
    return tuple(parts.values())


def _arm(names: _Names, config: GraphConfig, images: list[str]) -> Access:
    says = [topics.DESCRIPTION, topics.EXECUTED, topics.TARGET, topics.JOINT_STATES, topics.PROPRIOCEPTION]
    says += [topics.DIAGNOSTICS, *images]
    if config.robot == "sim":
        return names.access(
            names.enclave("arm"), topics.ARM_NODE, publish=[*says, topics.TRUTH, topics.CLOCK],
            subscribe=[topics.ARM_COMMAND], serve=[topics.RESET],
        )  # fmt: skip
    vendor = f"/{config.vendor_name}"
    cameras = config.named_texts("arm", "camera_topics") or [config.camera_topic]
    lifecycle = [f"{topics.ARM_NODE}/{service}" for service in OF_A_LIFECYCLE]
    says += [topics.NOTES, f"{topics.ARM_NODE}/transition_event", *(f"{vendor}/{name}" for name in VENDOR_TOPICS)]
    return names.access(
        names.enclave("arm"), topics.ARM_NODE, VENDOR_NODE, publish=says,
        subscribe=[topics.ARM_COMMAND, topics.GATE_STATUS, *cameras, f"{vendor}/{topics.JOINT_STATES}"],
        serve=[topics.RESET, topics.RECOVER, *lifecycle, f"arm_cameras/{DESCRIBES_TYPES}"],
        call=[f"{vendor}/{name}" for name in VENDOR_SERVICES],
    )  # fmt: skip


def _gate(names: _Names, config: GraphConfig) -> Access:
    """The only process that may command the arm, re-arm it, or report that it is armed."""
    heard = [topics.TARGET, topics.POLICY_COMMAND, topics.TELEOP_COMMAND, topics.TAKE_OVER, topics.GATE_STATUS]
    recorded = config.recorded_images
    return names.access(
        names.enclave("command_gate"), topics.GATE_NODE, "command_gate_estop",
        publish=[topics.ARM_COMMAND, topics.GATE_REPORT, topics.GATE_STATUS, topics.DIAGNOSTICS],
        subscribe=[*heard, topics.ESTOP_TOPIC, *recorded], serve=[topics.ESTOP, topics.RE_ARM],
    )  # fmt: skip


def _rollout(names: _Names, images: list[str]) -> Access:
    heard = [topics.GATE_STATUS, topics.DESCRIPTION, topics.PROPRIOCEPTION, topics.JOINT_STATES, topics.EXECUTED]
    says = [topics.ROLLOUT_STATUS, topics.ROLLOUT_RESULT, topics.POLICY_VERSION, topics.EPISODE, topics.DIAGNOSTICS]
    return names.access(
        names.enclave(ROLLOUT), ROLLOUT, publish=[*says, topics.POLICY_COMMAND, topics.answer_topic(ROLLOUT)],
        subscribe=[*heard, topics.TRUTH, topics.NOTES, topics.request_topic(ROLLOUT), *images],
        serve=[*(f"{ROLLOUT}/{name}" for name in ROLLOUT_SERVICES), f"rollout_env/{DESCRIBES_TYPES}"],
        call=[topics.RESET, topics.parameters_service(topics.ARM_NODE)],
    )  # fmt: skip


def _bridge(names: _Names, images: list[str]) -> Access:
    """It does what the trainer orders through a client of its own, which may neither re-arm nor recover."""
    says = [topics.BRIDGE_STATUS, topics.BRIDGE_RESULT, topics.JOBS, topics.DIAGNOSTICS, topics.answer_topic(BRIDGE)]
    asks = [topics.request_topic(ROLLOUT), topics.request_topic(BRIDGE)]
    answers = [topics.answer_topic(ROLLOUT), topics.answer_topic(BRIDGE)]
    return names.access(
        names.enclave(BRIDGE), BRIDGE, publish=[*says, *asks],
        subscribe=[*WATCHED, *STATES, topics.EPISODE, topics.request_topic(BRIDGE), *answers, *images],
        serve=[f"{BRIDGE}/{name}" for name in BRIDGE_SERVICES], call=[topics.CANCEL, topics.RESET],
    )  # fmt: skip


def _teleop(names: _Names) -> Access:
    called = [
        topics.ESTOP,
        topics.RUN_EPISODE,
        topics.LABEL_SUCCESS,
        topics.LABEL_FAILURE,
        topics.DISCARD,
        topics.ANNOTATE,
    ]
    return names.access(
        names.enclave("teleop"), "teleop",
        publish=[topics.TELEOP_COMMAND, topics.TAKE_OVER, topics.DIAGNOSTICS],
        subscribe=[topics.JOY, topics.TARGET], call=[*called, topics.parameters_service(topics.GATE_NODE)],
    )  # fmt: skip


def _page(names: _Names, images: list[str]) -> Access:
    set_of = [topics.parameters_service(node) for node in (topics.GATE_NODE, topics.ARM_NODE)]
    return names.access(
        names.enclave("page"), "page", publish=[topics.request_topic(ROLLOUT)],
        subscribe=[*WATCHED, topics.DIAGNOSTICS, topics.answer_topic(ROLLOUT), *images],
        call=[topics.ESTOP, topics.RECOVER, *set_of],
    )  # fmt: skip


def _operator(names: _Names) -> Access:
    """A person's commands: look at everything, stop, ask, re-arm with the word; command no arm."""
    nodes = (topics.ARM_NODE, topics.GATE_NODE, ROLLOUT, BRIDGE)
    asked = [f"{node}/{service}" for node in nodes for service in OF_A_NODE]
    asked += [f"{topics.ARM_NODE}/{service}" for service in OF_A_LIFECYCLE]
    asked += [f"{ROLLOUT}/{name}" for name in ROLLOUT_SERVICES] + [f"{BRIDGE}/{name}" for name in BRIDGE_SERVICES]
    own = names.access(
        names.enclave(OPERATOR),
        publish=[topics.ESTOP_TOPIC, topics.JOY, topics.request_topic(ROLLOUT), topics.request_topic(BRIDGE)],
        call=[*asked, topics.ESTOP, topics.RESET, topics.RECOVER],
    )  # fmt: skip
    itself = frozenset(f"/*/{service}" for service in OF_A_NODE) | {f"/{DESCRIBES_TYPES}"}
    return Access(own.enclave, own.publish, frozenset({"/*"}), own.serve, own.call | itself)


def _devices(config: GraphConfig) -> dict[str, Access]:
    """Other people's programs, which are not looked into: what lies below their own names."""
    vendor = f"/{config.vendor_name}"
    below, cameras = frozenset({f"{vendor}/*"}), frozenset({"/*image_raw*", "/*camera_info", "/*image_rect*"})
    everybody, tf = frozenset(EVERYBODY), frozenset({"/tf", "/tf_static"})
    camera = frozenset({"/*usb_cam/*"})
    return {
        "vendor": Access(enclave_of(config.namespace, "vendor"), everybody | below | tf, below | tf, below, below),
        "usb_cam": Access(
            enclave_of(config.namespace, "usb_cam"), everybody | cameras, frozenset(), camera, frozenset()
        ),
    }
