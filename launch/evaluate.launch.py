"""ros2 launch gymnast_ros evaluate.launch.py tasks:=lift,push seed_count:=25: the graph, one evaluation, the end."""

from __future__ import annotations

import sys
from pathlib import Path

from ament_index_python.packages import get_package_prefix, get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from gymnast_ros.arguments import ARGUMENTS, EVALUATION_ARGUMENTS, check_known, evaluation_command
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity


def generate_launch_description() -> LaunchDescription:
    """Declare both sets of arguments, then start."""
    declared = [
        DeclareLaunchArgument(argument.name, default_value=argument.default, description=argument.description)
        for argument in (*ARGUMENTS, *EVALUATION_ARGUMENTS)
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The graph, and one process that evaluates and then ends everything."""
    given = getattr(context, "argv", None) or ()
    check_known(given, sys.argv, "evaluate.launch.py", (*ARGUMENTS, *EVALUATION_ARGUMENTS))
    texts = {
        argument.name: LaunchConfiguration(argument.name).perform(context)
        for argument in (*ARGUMENTS, *EVALUATION_ARGUMENTS)
    }
    bridge = f"{get_package_share_directory('gymnast_ros')}/launch/bridge.launch.py"
    robot = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(bridge),
        launch_arguments=[(argument.name, texts[argument.name]) for argument in ARGUMENTS],
    )
    program = Path(get_package_prefix("gymnast_ros")) / "lib" / "gymnast_ros" / "evaluate_once"
    evaluation = ExecuteProcess(cmd=[str(program), *evaluation_command(texts)], output="screen")
    end = RegisterEventHandler(OnProcessExit(target_action=evaluation, on_exit=finish))
    return [robot, evaluation, end]


def finish(event: ProcessExited, _: LaunchContext) -> list[LaunchDescriptionEntity]:
    """End everything; only an exception makes `ros2 launch` return something else than 0."""
    if event.returncode:
        raise RuntimeError(f"the evaluation ended with code {event.returncode}; its reason stands above")
    return [EmitEvent(event=Shutdown())]
