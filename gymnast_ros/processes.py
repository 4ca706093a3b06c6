"""One process of a robot's graph, as a launch file and the ROS-less starter start it; no ROS in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gymnast_ros.sockets import PROFILE

ParameterValue = bool | int | float | str | list[bool] | list[int] | list[float] | list[str]
"""Of a ROS parameter."""
RESPAWN_DELAY_S = 1.0
TRANSPORTS, PROFILES = "FASTDDS_BUILTIN_TRANSPORTS", "FASTRTPS_DEFAULT_PROFILES_FILE"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl", TRANSPORTS: "UDPv4", PROFILES: str(PROFILE),
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
}  # fmt: skip
"""Of every process, where the user has set nothing else.

Nobody outside this machine joins the robot's DDS domain unless the user sets ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET.

Two torch threads on a busy machine are several times slower than one. UDPv4 is Fast DDS without shared memory, which is
known to stop delivering after a reader was killed (kill -9, out of memory): eProsima/Fast-DDS issues 5469 and 5053. The
profile says the same, and gives the sockets room, which no variable does for UDPv4.
"""
ESCALATE_AFTER_S = {"sim": 5.0, "real": 25.0}
"""SIGINT, then SIGTERM after this, then SIGKILL: a real arm needs the time to reach its sleep pose."""

REFUSED = 78
"""Exit code of a node that may not run here; it is not started again (EX_CONFIG of sysexits.h)."""
SECURITY = "ROS_SECURITY_ENABLE"
"""Environment of ROS 2: \"true\" where DDS has to ask every participant for its certificate."""
RESPAWNED = "GYMNAST_RESPAWNED"
"""Environment of our processes: whether they are respawned."""


def environment(users: Mapping[str, str]) -> dict[str, str]:
    """Return ENVIRONMENT with what the user has set; our profile would overrule another choice of transports.

    Args:
        users: the environment of whoever starts the graph.
    """
    ours = dict(ENVIRONMENT)
    if users.get(TRANSPORTS, ours[TRANSPORTS]) != ours[TRANSPORTS]:
        del ours[PROFILES]
    return {name: users.get(name, value) for name, value in ours.items()}


@dataclass(frozen=True)
class NodeSpec:
    """One process of the graph.

    Attributes:
        executable: console script, and module in gymnast_ros.nodes where it is ours.
        name: of the first node of the process, which the executable gives itself.
        parameters: of the node.
        namespace: of the arm.
        respawn: start it again when it dies.
        remaps: topic -> topic.
        priority: SCHED_FIFO priority; 0 is ordinary scheduling.
        package: whose executable it is.
        enclave: of SROS2; empty runs without.
    """

    executable: str
    name: str
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    namespace: str = ""
    respawn: bool = True
    remaps: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    package: str = "gymnast_ros"
    enclave: str = ""

    def ros_arguments(self) -> list[str]:
        """--ros-args as rcl parses them."""
        arguments = ["--ros-args"]
        if self.namespace:
            arguments += ["-r", f"__ns:=/{self.namespace.strip('/')}"]
        if self.enclave:
            arguments += ["--enclave", self.enclave]
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
        outlives: file that is held by the process that it has to outlive; None ends it with all others.
    """

    package: str
    path: str
    arguments: Mapping[str, str]
    outlives: Path | None = None

    def keeper_arguments(self) -> list[str]:
        """Of the Python process that runs it until nobody holds the file any more; see gymnast_ros.drivers.keeper."""
        launch = ["ros2", "launch", self.package, Path(self.path).name]
        given = [f"{name}:={value}" for name, value in self.arguments.items()]
        return ["-m", "gymnast_ros.drivers.keeper", "--lock", str(self.outlives), "--", *launch, *given]


def _yaml(value: ParameterValue | bool | float | str) -> str:
    """A parameter value as rcl reads it on the command line; strings are quoted, or 1e5 would be a number."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_yaml(item) for item in value) + "]"
    return f"'{value}'" if isinstance(value, str) else str(value)
