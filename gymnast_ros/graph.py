"""The node graph, once: bridge.launch.py and the ROS-less starter (gymnast_ros.bringup) read it; no ROS in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gymnast_core.errors import ConfigError
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.wire.address import Address
from gymnast_ros.processes import ExternalSpec, NodeSpec

ROBOTS = ("sim", "widowx")
CHUNKING = ("wait", "real_time")
"""Between policy and arm: nothing, or gymnast_core.policies.chunking."""
REMOTE = "remote:"
"""Before the address of a policy that runs elsewhere."""
REAL_TIME = CHUNKING[1]
CAMERAS = ("", "usb_cam", "realsense")
ROBOT_MODEL = "wx250s"
RESPAWN_DELAY_S = 1.0
LABEL_TIMEOUT_S = 120.0
"""How long a real arm's operator has to label an episode before the next one."""
STEP_TIMEOUT_S = 1.5
"""In real time an observation comes five times a second; after this the arm is gone."""
REALTIME_PRIORITY = 20
"""SCHED_FIFO of arm and gate where that is asked for: above everything ordinary, below the kernel's own threads."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl", "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4",
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
}  # fmt: skip
"""Of every process, where the user has set nothing else.

Nobody outside this machine joins the robot's DDS domain unless the user sets ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET.

Two torch threads on a busy machine are several times slower than one. UDPv4 is Fast DDS without shared memory, which is
known to stop delivering after a reader was killed (kill -9, out of memory): eProsima/Fast-DDS issues 5469 and 5053.
"""
ESCALATE_AFTER_S = {"sim": 5.0, "widowx": 25.0}
"""SIGINT, then SIGTERM after this, then SIGKILL: a real arm needs the time to reach its sleep pose."""

REFUSED = 78
"""Exit code of a node that may not run here; it is not started again (EX_CONFIG of sysexits.h)."""
SECURITY = "ROS_SECURITY_ENABLE"
"""Environment of ROS 2: \"true\" where DDS has to ask every participant for its certificate."""
STARTER, RESPAWNED = "GYMNAST_STARTER", "GYMNAST_RESPAWNED"
"""Environment of our processes: pid of the launch or starter without which they end, and whether they are respawned."""


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
        realtime: arm and gate get SCHED_FIFO; the user needs an rtprio limit, see gymnast_ros/run/ticker.py.
        trusted_keys: file of keys that may sign releases; empty takes trust.pub of the identity.
        teleop: start the joystick node.
        orders: the trainer's operators may run episodes on this robot, e.g. to adapt it to its scene.
        page: port of the robot's own page, on this machine only; 0 serves none.
        instruction: task the rollout node starts with.
        camera: driver started with a real arm: "", "usb_cam" or "realsense".
        vendor: start Interbotix's own launch file with a real arm.
        dry_run: a real arm's driver is Interbotix's simulation; nothing moves but its numbers.
        enclaves: SROS2 keystore (`gymnast enclaves`): every process gets an identity, and does what it may alone; None
            runs without.
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
    dry_run: bool = False
    enclaves: Path | None = None
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        if self.robot not in ROBOTS:
            raise ConfigError(f"robot must be one of {', '.join(ROBOTS)}, got {self.robot!r}")
        if self.domain_id is not None and not 0 <= self.domain_id <= 232:
            raise ConfigError(f"domain_id must be 0..232, got {self.domain_id}")
        if not 0 <= self.page <= 65535:
            raise ConfigError(f"page must be a port, 0..65535, got {self.page}")
        if self.trainer:
            Address.parse(self.trainer)
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
        if self.dry_run and self.robot == "sim":
            raise ConfigError("dry_run is for robot:=widowx: the simulated arm is one already")
        if self.paced and self.robot != "sim":
            raise ConfigError("paced is for the simulated arm; the real one always runs in real time")
        if self.enclaves is not None and self.camera == "realsense":
            raise ConfigError(
                "with enclaves, start realsense2_camera yourself, in one of its own (ros2 security create_enclave), "
                "and leave camera out"
            )

    @property
    def vendor_name(self) -> str:
        """Namespace of xs_sdk: apart from ours, whose joint_states are others, and from every other arm's."""
        return "_".join([*filter(None, self.namespace.strip("/").split("/")), ROBOT_MODEL])

    @property
    def camera_topic(self) -> str:
        """Where the started camera's pictures are; RealSense's colour topic where none is started."""
        prefix = f"/{self.namespace.strip('/')}".rstrip("/")
        if self.camera == "usb_cam":
            return f"{prefix}/usb_cam/image_raw"
        if not self.camera:
            prefix = ""
        return f"{prefix or '/camera'}/camera/color/image_raw"

    @property
    def recorded_images(self) -> list[str]:
        """What the gate hears of cameras, for its flight records."""
        default = [] if self.robot == "sim" else ["over_shoulder/image_raw"]
        return list(self.parameters.get("command_gate", {}).get("record_images", default))


def enclave_of(namespace: str, process: str) -> str:
    """Return the SROS2 enclave of a process, or any relative name of the graph, fully qualified."""
    return f"/{namespace.strip('/')}".rstrip("/") + f"/{process}"


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
    if config.robot != "sim":
        rollout["label_timeout_s"] = LABEL_TIMEOUT_S
    specs = [_arm(config), _gate(config), NodeSpec("rollout", "rollout", rollout)]
    if config.trainer:
        link = {"trainer": config.trainer, "identity": str(config.identity) if config.identity else ""}
        link |= {"policy": ""} if config.policy.startswith(REMOTE) else {}  # it stays where it is: nothing to install
        trust = {"insecure": config.insecure, "trusted_keys": config.trusted_keys}
        given = {**store, **link, **trust, "take_orders": config.orders, "device": config.device}
        specs.append(NodeSpec("bridge", "bridge", given))
    if config.teleop:
        specs.append(NodeSpec("teleop", "teleop"))
    if config.page:
        own = {"folder": str(config.folder), "robot_name": config.robot_name, "port": config.page}
        specs.append(NodeSpec("page", "page", own))
    return tuple(_finished(spec, config) for spec in specs)


def _arm(config: GraphConfig) -> NodeSpec:
    table = {"table_height_m": float(config.parameters.get("command_gate", {}).get("table_height_m", 0.0))}
    if config.robot == "sim":
        return NodeSpec("sim_world", "arm", {"paced": config.paced, **table})
    parameters: dict[str, Any] = {"robot_model": ROBOT_MODEL, "robot_name": config.vendor_name, **table}
    parameters |= {"lock_file": str(_lock_file(config)), "dry_run": config.dry_run}
    if config.camera:
        # both drivers offer reliable; without, a frame of many datagrams rarely arrives whole
        parameters |= {"camera_topics": [config.camera_topic], "camera_reliability": "reliable"}
    return NodeSpec("widowx_arm", "arm", parameters, respawn=False)


def _lock_file(config: GraphConfig) -> Path:
    """Held by the arm's process while it lives."""
    return config.folder / "arm.lock"


def _gate(config: GraphConfig) -> NodeSpec:
    """Lockstep has no clock to be late on; in real time two missed ticks stop the arm."""
    simulated = config.robot == "sim"
    parameters: dict[str, Any] = {
        "armed_at_start": simulated,
        "deadman_s": 5.0 if simulated and not config.paced else 0.4,
        "record_folder": str(config.folder / "flight"),
    }
    if not simulated:
        parameters |= {
            "max_change_m": 0.06,
            "max_change_rad": 0.3,
            "effort_limit": [0.0] if config.dry_run else list(WIDOWX_250S.max_effort),
        }
        parameters["record_images"] = config.recorded_images
    return NodeSpec("command_gate", "command_gate", parameters)


def external(config: GraphConfig) -> tuple[ExternalSpec, ...]:
    """Other people's launch files that a real arm needs; the ROS-less starter expects them running."""
    if config.robot == "sim":
        return ()
    specs = []
    if config.vendor:
        arguments = {"robot_model": ROBOT_MODEL, "robot_name": config.vendor_name, "use_rviz": "false"}
        arguments |= {"use_sim": "true"} if config.dry_run else {}
        specs.append(
            ExternalSpec("interbotix_xsarm_control", "launch/xsarm_control.launch.py", arguments, _lock_file(config))
        )
    if config.camera == "realsense":
        arguments = {
            "camera_namespace": config.namespace.strip("/") or "camera", "camera_name": "camera",
            "rgb_camera.color_profile": "640x480x30",
        }  # fmt: skip
        specs.append(ExternalSpec("realsense2_camera", "launch/rs_launch.py", arguments))
    return tuple(specs)


def devices(config: GraphConfig) -> tuple[NodeSpec, ...]:
    """Other people's nodes for what is plugged in; the ROS-less starter expects them running."""
    specs = []
    if config.camera == "usb_cam":
        picture = {"image_width": 640, "image_height": 480, "framerate": 30.0, "pixel_format": "yuyv2rgb"}
        remaps = {"image_raw": "usb_cam/image_raw"}
        specs.append(NodeSpec("usb_cam_node_exe", "usb_cam", picture, remaps=remaps, package="usb_cam"))
    if config.teleop:
        specs.append(NodeSpec("joy_node", "joy", package="joy"))
    return tuple(_finished(spec, config) for spec in specs)


def _finished(spec: NodeSpec, config: GraphConfig) -> NodeSpec:
    parameters = {**spec.parameters, **config.parameters.get(spec.name, {})}
    priority = REALTIME_PRIORITY if config.realtime and spec.name in ("arm", "command_gate") else 0
    enclave = "" if config.enclaves is None else enclave_of(config.namespace, spec.name)
    return replace(spec, parameters=parameters, namespace=config.namespace, priority=priority, enclave=enclave)
