"""The node graph, once: bridge.launch.py and the ROS-less starter (gymnast_ros.bringup) read it; no ROS in here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from gymnast_core.errors import ConfigError
from gymnast_core.records.gate_rule import GateMode
from gymnast_core.robots import ROBOTS as ARMS_OF_INTERBOTIX
from gymnast_core.robots import robot_named
from gymnast_core.settings import Device, Settings
from gymnast_core.spec import BRIDGE_HZ, VIPERX_300S, WIDOWX_250S, RobotSpec
from gymnast_core.wire.address import Address
from gymnast_core.wire.openpi.link import PLAIN, SECURED, OpenpiPlace
from gymnast_ros.processes import ESCALATE_AFTER_S, NodeSpec, ParameterValue
from gymnast_ros.rates import check_rates, chunk_ticks

SIMULATED, WIDOWX = "sim", "widowx"
ROBOTS = (SIMULATED, WIDOWX, VIPERX_300S.name)
"""What can be started: the simulated arm, and real ones of models that Gymnast knows; installed packages add others."""
Chunking = Literal["wait", "real_time"]
CHUNKING = get_args(Chunking)
"""Between policy and arm: nothing, or gymnast_core.policies.chunking."""
REMOTE = "remote:"  # before the address of a policy that a trainer runs
ELSEWHERE = (REMOTE, PLAIN, SECURED)
"""What a policy begins with that runs elsewhere: at a trainer, or at a server of openpi's protocol."""
REAL_TIME: Chunking = "real_time"
CameraDriver = Literal["", "usb_cam", "realsense"]
CAMERAS = get_args(CameraDriver)
LABEL_TIMEOUT_S = 120.0  # that a real arm's operator has to label an episode before the next one
STEP_TIMEOUT_S = 1.5  # in real time an observation comes five times a second; after this the arm is gone
REALTIME_PRIORITY = 20  # SCHED_FIFO of arm and gate: above everything ordinary, below the kernel's own threads


def _address(text: str) -> str:
    if text:
        Address.parse(text)
    return text


class GraphConfig(Settings):
    """What to start."""

    where: ClassVar[str] = "graph"

    folder: Path
    """Holds spool/, store/, results/ and logs/."""
    robot: str = SIMULATED
    """The simulated arm (sim), a real WidowX 250s (widowx), or a real arm by its model's name."""
    robot_model: str = ""
    """Model of the simulated arm; none is the WidowX 250s."""
    robot_name: str = "sim-0"
    """At the trainer and in recordings."""
    domain_id: Annotated[int, Field(ge=0, le=232)] | None = None
    """ROS_DOMAIN_ID; none keeps the environment's."""
    namespace: str = ""
    """For several arms on one network."""
    trainer: Annotated[str, AfterValidator(_address)] = ""
    """As host:port; empty starts no bridge."""
    identity: Path | None = None
    """Folder of certificate and keys."""
    insecure: bool = False
    """No TLS; for tests on one machine."""
    policy: str = ""
    """Checkpoint folder used while the store is empty; or remote:HOST:PORT, openpi://HOST:PORT, openpis://HOST:PORT."""
    openpi: str = ""
    """Style or YAML file of a policy server's keys, see gymnast_core.wire.openpi.link."""
    paced: bool = False
    """The simulator runs at its control rate by wall-clock time and waits for nobody, as a real arm."""
    rate_hz: float = BRIDGE_HZ
    """Control rate of the simulated arm; a step's limits shrink with its duration."""
    menagerie: Path | None = None
    """A copy of MuJoCo Menagerie, whose arm the simulator draws; none draws ours."""
    policy_hz: float = BRIDGE_HZ
    """Rate of the policy's actions: 5 for what a trainer of ours taught; slower ones are cut into the arm's steps."""
    chunking: Chunking = "wait"
    """To wait for every chunk of actions, or real_time: the next is computed while this one executes."""
    device: Device = "auto"
    """Where a large policy runs."""
    realtime: bool = False
    """Arm and gate get SCHED_FIFO; the user needs an rtprio limit, see gymnast_ros/run/ticker.py."""
    trusted_keys: str = ""
    """File of keys that may sign releases; empty takes trust.pub of the identity."""
    teleop: bool = False
    """Start the joystick node."""
    judge: bool = False
    """The trainer's judge labels what nobody else labels, where it is proven there, and may end episodes early."""
    gate: GateMode | None = None
    """What a release must show before this robot takes it in: required is a passed gate record, warn takes it in and
    reports it, off asks for none. None is required on a real arm, and off on the simulated one."""
    orders: bool = False
    """The trainer's operators may run episodes on this robot, e.g. to adapt it to its scene."""
    page: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the robot's own page, on this machine only; 0 serves none."""
    instruction: str = ""
    """Task the rollout node starts with."""
    camera: CameraDriver = ""
    """Driver started with a real arm."""
    vendor: bool = True
    """Start Interbotix's own launch file with a real arm."""
    dry_run: bool = False
    """A real arm's driver is Interbotix's simulation; nothing moves but its numbers."""
    enclaves: Path | None = None
    """SROS2 keystore (`gymnast enclaves`): every process gets an identity, and does what it may alone; none runs
    without."""
    parameters: dict[str, dict[str, ParameterValue]] = Field(default_factory=dict)
    """Node name -> further parameters."""

    @model_validator(mode="after")
    def _can_run(self) -> GraphConfig:
        if self.policy.startswith((PLAIN, SECURED)):
            OpenpiPlace.of(self.policy, self.openpi)
        elif self.openpi:
            raise ConfigError(f"openpi {self.openpi!r} is for a policy at {PLAIN}HOST:PORT, got {self.policy!r}")
        if self.trainer and self.identity is None and not self.insecure:
            raise ConfigError("a trainer needs identity (folder with cert.pem, key.pem, ca.pem), or insecure")
        if self.judge and not self.trainer:
            raise ConfigError("the judge runs at the trainer: --trainer HOST:PORT (launch file: trainer:=HOST:PORT)")
        if self.robot_model and not self.simulated:
            raise ConfigError(f"robot_model is for the simulated arm; a real one is named itself: robot:={self.model}")
        if self.menagerie is not None and self.model != WIDOWX_250S.name:
            raise ConfigError(f"menagerie draws the {WIDOWX_250S.name}, not the {self.model}; leave one of them out")
        if self.camera and self.simulated:
            raise ConfigError("the simulated arm brings its own camera; camera is for robot:=widowx")
        check_rates(self.rate_hz, self.policy_hz, self.spec, simulated=self.simulated)
        if self.chunking == REAL_TIME and self.simulated and not self.paced:
            raise ConfigError("chunking real_time is for an arm that waits for nobody; add paced to the simulated one")
        if self.dry_run and self.simulated:
            raise ConfigError("dry_run is for robot:=widowx: the simulated arm is one already")
        if self.paced and not self.simulated:
            raise ConfigError("paced is for the simulated arm; the real one always runs in real time")
        if self.enclaves is not None and self.camera == "realsense":
            raise ConfigError(
                "with enclaves, start realsense2_camera yourself, in one of its own (ros2 security create_enclave), "
                "and leave camera out"
            )
        return self

    def named_texts(self, node: str, name: str) -> list[str]:
        """Return a parameter of a node that is a list of texts; empty where it was not given.

        Raises:
            ConfigError: it is something else.
        """
        value = self.parameters.get(node, {}).get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"parameter {name} of {node} must be a list of texts, got {value!r}")
        return [str(item) for item in value]

    @property
    def simulated(self) -> bool:
        """Whether nothing but numbers moves."""
        return self.robot == SIMULATED

    @property
    def model(self) -> str:
        """Which arm it is."""
        if self.simulated:
            return self.robot_model or WIDOWX_250S.name
        return WIDOWX_250S.name if self.robot == WIDOWX else self.robot

    @property
    def spec(self) -> RobotSpec:
        """Of the arm.

        Raises:
            ConfigError: nobody here knows it.
        """
        return robot_named(self.model)

    @property
    def escalate_after_s(self) -> float:
        """What a process gets to end by itself."""
        return ESCALATE_AFTER_S["sim" if self.simulated else "real"]

    @property
    def gate_mode(self) -> GateMode:
        """What a release must show here."""
        return self.gate or ("off" if self.simulated else "required")

    @property
    def vendor_name(self) -> str:
        """Namespace of xs_sdk: apart from ours, whose joint_states are others, and from every other arm's."""
        return "_".join([*filter(None, self.namespace.strip("/").split("/")), self.model])

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
        if "record_images" in self.parameters.get("command_gate", {}):
            return self.named_texts("command_gate", "record_images")
        return [] if self.simulated else ["over_shoulder/image_raw"]

    @property
    def table_height_m(self) -> float:
        """Of the gate's parameters: the arm's node holds the same."""
        value = self.parameters.get("command_gate", {}).get("table_height_m", 0.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"parameter table_height_m of command_gate must be a number, got {value!r}")
        return float(value)


def enclave_of(namespace: str, process: str) -> str:
    """Return the SROS2 enclave of a process, or any relative name of the graph, fully qualified."""
    return f"/{namespace.strip('/')}".rstrip("/") + f"/{process}"


def graph(config: GraphConfig) -> tuple[NodeSpec, ...]:
    """Our processes of one robot, in starting order; they end in the opposite one."""
    robot = {"robot_name": config.robot_name, "robot_model": config.model, "folder": str(config.folder)}
    store = {**robot, "policy": config.policy}
    rollout: dict[str, ParameterValue] = {**store, "auto_label": config.simulated}
    rollout |= {"bridge_expected": bool(config.trainer), "trainer": config.trainer}
    rollout |= {"chunking": config.chunking, "device": config.device, "insecure": config.insecure}
    rollout |= {"identity": str(config.identity)} if config.identity else {}
    rollout |= {"openpi": config.openpi} if config.openpi else {}
    rollout |= {"policy_hz": config.policy_hz, **chunk_ticks(config.rate_hz, config.spec)}
    rollout |= {"judge_labels": config.judge}
    if config.instruction:
        rollout["instruction"] = config.instruction
    if config.paced or not config.simulated:
        rollout["step_timeout_s"] = STEP_TIMEOUT_S
    if not config.simulated:
        rollout["label_timeout_s"] = LABEL_TIMEOUT_S
    specs = [_arm(config), _gate(config), NodeSpec("rollout", "rollout", rollout)]
    if config.trainer:
        link = {"trainer": config.trainer, "identity": str(config.identity) if config.identity else ""}
        link |= {"policy": ""} if config.policy.startswith(ELSEWHERE) else {}  # nothing to install
        given: dict[str, ParameterValue] = {**store, **link, "take_orders": config.orders, "device": config.device}
        given |= {"insecure": config.insecure, "trusted_keys": config.trusted_keys, "gate": config.gate_mode}
        specs.append(NodeSpec("bridge", "bridge", given))
    if config.teleop:
        specs.append(NodeSpec("teleop", "teleop", {"robot_model": config.model}))
    if config.page:
        specs.append(NodeSpec("page", "page", {**robot, "port": config.page}))
    return tuple(finished(spec, config) for spec in specs)


def _arm(config: GraphConfig) -> NodeSpec:
    parameters: dict[str, ParameterValue] = {"robot_model": config.model, "table_height_m": config.table_height_m}
    if config.simulated:
        parameters |= {"rate_hz": config.rate_hz, "paced": config.paced, "menagerie": str(config.menagerie or "")}
        return NodeSpec("sim_world", "arm", parameters)
    parameters |= {"robot_name": config.vendor_name}
    if config.model not in ARMS_OF_INTERBOTIX:
        parameters["vendor"] = config.model
    parameters |= {"lock_file": str(lock_file(config)), "dry_run": config.dry_run}
    if config.camera:
        # both drivers offer reliable; without, a frame of many datagrams rarely arrives whole
        parameters |= {"camera_topics": [config.camera_topic], "camera_reliability": "reliable"}
    return NodeSpec("widowx_arm", "arm", parameters, respawn=False)


def lock_file(config: GraphConfig) -> Path:
    """Held by the arm's process while it lives."""
    return config.folder / "arm.lock"


def _gate(config: GraphConfig) -> NodeSpec:
    """Lockstep has no clock to be late on; in real time two missed ticks stop the arm."""
    simulated = config.simulated
    parameters: dict[str, ParameterValue] = {
        "robot_model": config.model,
        "armed_at_start": simulated,
        "rate_hz": config.rate_hz,
        "deadman_s": 5.0 if simulated and not config.paced else 0.4,
        "record_folder": str(config.folder / "flight"),
    }
    if not simulated:
        parameters |= {
            "max_change_m": 0.06,
            "max_change_rad": 0.3,
            "effort_limit": [0.0] if config.dry_run else list(config.spec.max_effort),
        }
        parameters["record_images"] = config.recorded_images
    return NodeSpec("command_gate", "command_gate", parameters)


def finished(spec: NodeSpec, config: GraphConfig) -> NodeSpec:
    """Return a process with what the user set of it, and what all of this graph have."""
    parameters = {**spec.parameters, **config.parameters.get(spec.name, {})}
    if (named := parameters.get("robot_model", config.model)) != config.model:
        raise ConfigError(f"parameters of {spec.name} are for a {named}, and the arm is a {config.model}: mend them")
    priority = REALTIME_PRIORITY if config.realtime and spec.name in ("arm", "command_gate") else 0
    enclave = "" if config.enclaves is None else enclave_of(config.namespace, spec.name)
    return replace(spec, parameters=parameters, namespace=config.namespace, priority=priority, enclave=enclave)
