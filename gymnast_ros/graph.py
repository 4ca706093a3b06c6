"""The node graph, once: bridge.launch.py and the ROS-less starter (gymnast_ros.bringup) read it; no ROS in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gymnast_core.errors import ConfigError

ROBOTS = ("sim", "widowx")
CHUNKING = ("wait", "real_time")
"""Between policy and arm: nothing, or gymnast_core.policies.chunking."""
REAL_TIME = CHUNKING[1]
CAMERAS = ("", "usb_cam", "realsense")
CAMERA_TOPICS = {"usb_cam": "/image_raw", "realsense": "/camera/camera/color/image_raw"}
EFFORT_LIMIT = tuple(1.7 * value for value in (800.0, 1000.0, 600.0, 600.0, 600.0, 700.0))
"""[mA] Source: rail-berkeley/bridge_data_robot, effort limits with their tolerance."""
RESPAWN_DELAY_S = 1.0
STEP_TIMEOUT_S = 1.5
"""In real time an observation comes five times a second; after this the arm is gone."""
REALTIME_PRIORITY = 20
"""SCHED_FIFO of arm and gate where that is asked for: above everything ordinary, below the kernel's own threads."""
ESCALATE_AFTER_S = {"sim": 5.0, "widowx": 25.0}
"""SIGINT, then SIGTERM after this, then SIGKILL: a real arm needs the time to reach its sleep pose."""


@dataclass(frozen=True)
class NodeSpec:
    """One process of the graph.

    Attributes:
        executable: console script, and module in gymnast_ros.nodes.
        name: node name.
        parameters: of the node.
        namespace: of the arm.
        respawn: start it again when it dies.
        remaps: topic -> topic.
        priority: SCHED_FIFO priority; 0 is ordinary scheduling.
    """

    executable: str
    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    namespace: str = ""
    respawn: bool = True
    remaps: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0

    def ros_arguments(self) -> list[str]:
        """--ros-args as rcl parses them."""
        arguments = ["--ros-args"]
        if self.namespace:
            arguments += ["-r", f"__ns:=/{self.namespace.strip('/')}"]
        for source, target in self.remaps.items():
            arguments += ["-r", f"{source}:={target}"]
        for name, value in self.parameters.items():
            arguments += ["-p", f"{name}:={_yaml(value)}"]
        return arguments


@dataclass(frozen=True)
class ExternalSpec:
    """A launch file of another package.

    Attributes:
        package: ROS package.
        path: below its share folder.
        arguments: launch arguments.
    """

    package: str
    path: str
    arguments: Mapping[str, str]


@dataclass(frozen=True)
class GraphConfig:
    """What to start.

    Attributes:
        robot: "sim" or "widowx".
        folder: spool/, store/, results/ and logs/ live there.
        robot_name: at the trainer and in recordings.
        domain_id: ROS_DOMAIN_ID; None keeps the environment's.
        namespace: for several arms on one network.
        trainer: host:port; empty starts no bridge.
        identity: folder of certificate and keys.
        insecure: no TLS; for tests on one machine.
        policy: checkpoint folder used while the store is empty.
        paced: the simulator runs at 5 Hz of wall-clock time and waits for nobody, as a real arm.
        chunking: "wait" for every chunk of actions, or "real_time": the next is computed while this one executes.
        device: where a large policy runs: auto, cpu, cuda, cuda:N.
        realtime: arm and gate get SCHED_FIFO; the user needs an rtprio limit, see gymnast_ros/nodes/ticker.py.
        trusted_keys: file of keys that may sign releases; empty takes trust.pub of the identity.
        teleop: start the joystick node.
        orders: the trainer's operators may run episodes on this robot, e.g. to adapt it to its scene.
        page: port of the robot's own page, on this machine only; 0 serves none.
        instruction: task the rollout node starts with.
        camera: driver started with a real arm: "", "usb_cam" or "realsense".
        vendor: start Interbotix's own launch file with a real arm.
        parameters: node name -> further parameters.
    """

    folder: Path
    robot: str = "sim"
    robot_name: str = "sim-0"
    domain_id: int | None = None
    namespace: str = ""
    trainer: str = ""
    identity: Path | None = None
    insecure: bool = False
    policy: str = ""
    paced: bool = False
    chunking: str = CHUNKING[0]
    device: str = "auto"
    realtime: bool = False
    trusted_keys: str = ""
    teleop: bool = False
    orders: bool = False
    page: int = 0
    instruction: str = ""
    camera: str = ""
    vendor: bool = True
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        if self.robot not in ROBOTS:
            raise ConfigError(f"robot must be one of {', '.join(ROBOTS)}, got {self.robot!r}")
        if self.domain_id is not None and not 0 <= self.domain_id <= 232:
            raise ConfigError(f"domain_id must be 0..232, got {self.domain_id}")
        if not 0 <= self.page <= 65535:
            raise ConfigError(f"page must be a port, 0..65535, got {self.page}")
        if self.trainer and self.identity is None and not self.insecure:
            raise ConfigError("a trainer needs identity (folder with cert.pem, key.pem, ca.pem), or insecure")
        if self.camera not in CAMERAS:
            raise ConfigError(f"camera must be one of {', '.join(map(repr, CAMERAS))}, got {self.camera!r}")
        if self.camera and self.robot == "sim":
            raise ConfigError("the simulated arm brings its own camera; camera is for robot:=widowx")
        if self.chunking not in CHUNKING:
            raise ConfigError(f"chunking must be one of {', '.join(CHUNKING)}, got {self.chunking!r}")
        if self.chunking == REAL_TIME and self.robot == "sim" and not self.paced:
            raise ConfigError("chunking real_time is for an arm that waits for nobody; add paced to the simulated one")
        if self.paced and self.robot != "sim":
            raise ConfigError("paced is for the simulated arm; the real one always runs in real time")


def graph(config: GraphConfig) -> tuple[NodeSpec, ...]:
    """Our processes of one robot, in starting order; they end in the opposite one."""
    store = {"folder": str(config.folder), "robot_name": config.robot_name, "policy": config.policy}
    rollout = {**store, "auto_label": config.robot == "sim", "bridge_expected": bool(config.trainer)}
    rollout |= {"chunking": config.chunking, "device": config.device, "insecure": config.insecure}
    rollout |= {"identity": str(config.identity)} if config.identity else {}
    if config.instruction:
        rollout["instruction"] = config.instruction
    if config.paced or config.robot != "sim":
        rollout["step_timeout_s"] = STEP_TIMEOUT_S
    specs = [_arm(config), _gate(config), NodeSpec("rollout", "rollout", rollout)]
    if config.trainer:
        link = {"trainer": config.trainer, "identity": str(config.identity) if config.identity else ""}
        trust = {"insecure": config.insecure, "trusted_keys": config.trusted_keys}
        specs.append(NodeSpec("bridge", "bridge", {**store, **link, **trust, "take_orders": config.orders}))
    if config.teleop:
        specs.append(NodeSpec("teleop", "teleop"))
    if config.page:
        own = {"folder": str(config.folder), "robot_name": config.robot_name, "port": config.page}
        specs.append(NodeSpec("page", "page", own))
    return tuple(_finished(spec, config) for spec in specs)


def _arm(config: GraphConfig) -> NodeSpec:
    if config.robot == "sim":
        return NodeSpec("sim_world", "arm", {"paced": config.paced})
    parameters: dict[str, Any] = {"robot_model": "wx250s"}
    if config.camera:
        parameters |= {"camera_topics": [CAMERA_TOPICS[config.camera]]}
    return NodeSpec("widowx_arm", "arm", parameters, respawn=False)


def _gate(config: GraphConfig) -> NodeSpec:
    """Lockstep has no clock to be late on; in real time two missed ticks stop the arm."""
    simulated = config.robot == "sim"
    parameters: dict[str, Any] = {
        "armed_at_start": simulated,
        "deadman_s": 5.0 if simulated and not config.paced else 0.4,
        "record_folder": str(config.folder / "flight"),
    }
    if not simulated:
        parameters |= {"max_change_m": 0.06, "max_change_rad": 0.3, "effort_limit": list(EFFORT_LIMIT)}
        parameters["record_images"] = ["over_shoulder/image_raw"]
    return NodeSpec("command_gate", "command_gate", parameters)


def external(config: GraphConfig) -> tuple[ExternalSpec, ...]:
    """Other people's launch files and nodes that a real arm needs; the ROS-less starter expects them running."""
    if config.robot == "sim":
        return ()
    specs = []
    if config.vendor:
        arguments = {"robot_model": "wx250s", "use_rviz": "false"}
        specs.append(ExternalSpec("interbotix_xsarm_control", "launch/xsarm_control.launch.py", arguments))
    if config.camera == "realsense":
        specs.append(
            ExternalSpec("realsense2_camera", "launch/rs_launch.py", {"rgb_camera.color_profile": "640x480x30"})
        )
    if config.camera == "usb_cam":
        specs.append(ExternalSpec("usb_cam", "launch/camera.launch.py", {}))
    if config.teleop:
        specs.append(ExternalSpec("joy", "launch/joy.launch.py", {}))
    return tuple(specs)


def _finished(spec: NodeSpec, config: GraphConfig) -> NodeSpec:
    parameters = {**spec.parameters, **config.parameters.get(spec.name, {})}
    priority = REALTIME_PRIORITY if config.realtime and spec.name in ("arm", "command_gate") else 0
    return replace(spec, parameters=parameters, namespace=config.namespace, priority=priority)


@dataclass(frozen=True)
class Argument:
    """One argument of bridge.launch.py.

    Attributes:
        name: as in robot:=sim.
        default: as text.
        description: shown by `ros2 launch --show-args`.
        choices: allowed texts; empty allows any.
    """

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()


FLAG = ("true", "false")
ARGUMENTS = (
    Argument("robot", "sim", "the simulated arm, or a real WidowX 250s", ROBOTS),
    Argument("folder", "robot", "spool, checkpoints, results and flight records"),
    Argument("name", "sim-0", "robot name, as in its certificate"),
    Argument("namespace", "", "of every node, for several arms on one network"),
    Argument("domain", "", "ROS_DOMAIN_ID; empty keeps the environment's"),
    Argument("trainer", "", "host:port; empty runs without a bridge"),
    Argument("identity", "", "folder with cert.pem, key.pem and ca.pem from `gymnast enroll`"),
    Argument("insecure", "false", "no TLS to the trainer; on one machine only", FLAG),
    Argument("policy", "", "checkpoint folder, or remote:HOST:PORT; empty takes the one last in force"),
    Argument("instruction", "", "task the rollout node starts with"),
    Argument("camera", "", "camera driver to start with a real arm", ("", "usb_cam", "realsense")),
    Argument("vendor", "true", "start Interbotix's xsarm_control with a real arm", FLAG),
    Argument("paced", "false", "simulated arm at 5 Hz of wall-clock time; late commands are holds", FLAG),
    Argument("chunking", CHUNKING[0], "real_time computes the next chunk of actions while this one executes", CHUNKING),
    Argument("device", "auto", "where a large policy runs: auto, cpu, cuda, cuda:N"),
    Argument("realtime", "false", "arm and gate with SCHED_FIFO; needs an rtprio limit for this user", FLAG),
    Argument("teleop", "false", "start the joystick node", FLAG),
    Argument("orders", "false", "the trainer's operators may run episodes on this robot", FLAG),
    Argument("page", "", "port of the robot's own page, on this machine only, e.g. 8081; empty serves none"),
)


def config_from(texts: Mapping[str, str]) -> GraphConfig:
    """Turn launch arguments into a GraphConfig.

    Raises:
        ConfigError: an unknown argument, or a value that is not allowed; the message names it.
    """
    known = {argument.name: argument for argument in ARGUMENTS}
    unknown = sorted(set(texts) - set(known))
    if unknown:
        raise ConfigError(f"unknown arguments {unknown}; there are {sorted(known)}")
    values = {name: texts.get(name, argument.default) for name, argument in known.items()}
    for name, argument in known.items():
        if argument.choices and values[name] not in argument.choices:
            raise ConfigError(f"{name}:={values[name]!r} is not one of {', '.join(map(repr, argument.choices))}")
    for name in ("domain", "page"):
        if values[name] and not values[name].isdigit():
            raise ConfigError(f"{name}:={values[name]!r} is not a number")
    return GraphConfig(
        folder=Path(values["folder"]).absolute(),
        robot=values["robot"],
        robot_name=values["name"],
        domain_id=int(values["domain"]) if values["domain"] else None,
        namespace=values["namespace"],
        trainer=values["trainer"],
        identity=Path(values["identity"]) if values["identity"] else None,
        insecure=values["insecure"] == "true",
        policy=values["policy"],
        paced=values["paced"] == "true",
        chunking=values["chunking"],
        device=values["device"],
        realtime=values["realtime"] == "true",
        teleop=values["teleop"] == "true",
        orders=values["orders"] == "true",
        page=int(values["page"] or 0),
        instruction=values["instruction"],
        camera=values["camera"],
        vendor=values["vendor"] == "true",
    )


def _yaml(value: Any) -> str:
    """A parameter value as rcl reads it on the command line; strings are quoted, or 1e5 would be a number."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_yaml(item) for item in value) + "]"
    return f"'{value}'" if isinstance(value, str) else str(value)


EVALUATION_ARGUMENTS = (
    Argument("tasks", "lift,push,put,drawer", "task names or instructions, comma-separated"),
    Argument("seed_start", "2000000", "first start state"),
    Argument("seed_count", "25", "start states per task"),
    Argument("checkpoints", "", "ids or folders to compare, comma-separated; empty is the one in force"),
    Argument("scene", "standard", "look of the simulated world"),
    Argument("json", "", "file for the result"),
)


def evaluation_command(texts: Mapping[str, str]) -> list[str]:
    """Arguments of the Python process that evaluates a running graph; see gymnast_ros.nodes.evaluate_once."""
    command = ["-m", "gymnast_ros.nodes.evaluate_once"]
    for argument in EVALUATION_ARGUMENTS:
        value = texts.get(argument.name, argument.default)
        if value:
            command += [f"--{argument.name.replace('_', '-')}", value]
    if texts.get("namespace"):
        command += ["--namespace", texts["namespace"]]
    return command
