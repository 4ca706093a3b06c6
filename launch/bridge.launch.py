"""ros2 launch gymnast_ros bridge.launch.py robot:=sim|widowx|vx300s ...; the graph itself is gymnast_ros/graph.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from gymnast_core.lifeline import STARTER
from gymnast_ros.arguments import ARGUMENTS, check_files, check_known, config_from
from gymnast_ros.enclaves import ENCLAVE, security_environment
from gymnast_ros.graph import GraphConfig, enclave_of, graph
from gymnast_ros.keyring import Claim
from gymnast_ros.processes import (
    ESCALATE_AFTER_S,
    REFUSED,
    RESPAWN_DELAY_S,
    RESPAWNED,
    ExternalSpec,
    NodeSpec,
    environment,
)
from gymnast_ros.sockets import examine_sockets
from gymnast_ros.vendors import devices, external
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

CLAIMS: list[Claim] = []
"""Held until the launch process ends."""


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, then start what they describe."""
    declared = [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default,
            description=argument.description,
            choices=list(argument.choices) or None,
        )
        for argument in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Check the arguments and return the actions."""
    check_known(getattr(context, "argv", None) or (), sys.argv, "bridge.launch.py", ARGUMENTS)
    config = config_from({argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS})
    actions: list[LaunchDescriptionEntity] = [
        SetEnvironmentVariable(name, value) for name, value in environment(os.environ).items()
    ]
    sockets = examine_sockets()
    if sockets is not None and sockets.remedy:
        actions.append(LogInfo(msg=f"{sockets.what} -> {sockets.remedy}"))
    check_files(config)
    claim = Claim(config)
    CLAIMS.append(claim)
    actions += [SetEnvironmentVariable(name, value) for name, value in claim.environment.items()]
    if config.domain_id is not None:
        actions.append(SetEnvironmentVariable("ROS_DOMAIN_ID", str(config.domain_id)))
    actions.append(SetEnvironmentVariable(STARTER, str(os.getpid())))
    if config.enclaves is not None:
        security = security_environment(config.enclaves)
        actions += [SetEnvironmentVariable(name, value) for name, value in security.items()]
    actions += [_keep(spec, config) if spec.outlives else _include(spec) for spec in external(config)]
    for spec in (*devices(config), *graph(config)):
        node = _node(spec, config)
        actions.append(node)
        on_exit = refused if spec.respawn else ended
        actions.append(RegisterEventHandler(OnProcessExit(target_action=node, on_exit=on_exit)))
    return actions


def ended(event: ProcessExited, _: LaunchContext) -> None:
    """A node that is not started again ended; only an exception makes `ros2 launch` return something else than 0."""
    if event.returncode:
        raise RuntimeError(
            f"the arm's node ended with code {event.returncode}: the arm may stand unsupervised, with torque"
        )


def refused(event: ProcessExited, _: LaunchContext) -> None:
    """A node that is started again ended; one that may not run here would end again and again, so the launch ends."""
    if event.returncode == REFUSED:
        raise RuntimeError(f"{event.process_name} may not run here; its last line in the log says why")


def _node(spec: NodeSpec, config: GraphConfig) -> Node:
    """One process. It gets no name=: that is `-r __node:=NAME`, which renames every node of the process."""
    return Node(
        package=spec.package,
        executable=spec.executable,
        namespace=spec.namespace,
        parameters=[dict(spec.parameters)],
        remappings=list(spec.remaps.items()),
        ros_arguments=["--enclave", spec.enclave] if spec.enclave else None,
        prefix=f"chrt --fifo {spec.priority}" if spec.priority else None,
        respawn=spec.respawn,
        respawn_delay=RESPAWN_DELAY_S,
        additional_env={RESPAWNED: "1"} if spec.respawn else None,
        sigterm_timeout=str(config.escalate_after_s),
        sigkill_timeout=str(config.escalate_after_s),
        output="both",
    )


def _keep(spec: ExternalSpec, config: GraphConfig) -> ExecuteProcess:
    """A driver that no Ctrl-C reaches, and that ends after the arm's process: its keeper outlives every timeout."""
    patience = str(3 * ESCALATE_AFTER_S["real"])
    own = {} if config.enclaves is None else {ENCLAVE: enclave_of(config.namespace, "vendor")}
    return ExecuteProcess(
        cmd=[sys.executable, *spec.keeper_arguments()], output="screen", sigterm_timeout=patience, sigkill_timeout="30",
        additional_env=own or None,
    )  # fmt: skip


def _include(spec: ExternalSpec) -> IncludeLaunchDescription:
    path = Path(get_package_share_directory(spec.package)) / spec.path
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(path)), launch_arguments=list(spec.arguments.items())
    )
