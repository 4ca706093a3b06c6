"""ros2 launch gymnast_ros evaluate.launch.py tasks:=lift,push seed_count:=25: the graph, one evaluation, the end."""

from __future__ import annotations

import sys

from ament_index_python.packages import get_package_share_directory
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
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from gymnast_ros.arguments import ARGUMENTS, EVALUATION_ARGUMENTS, evaluation_command
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
    texts = {
        argument.name: LaunchConfiguration(argument.name).perform(context)
        for argument in (*ARGUMENTS, *EVALUATION_ARGUMENTS)
    }
    bridge = f"{get_package_share_directory('gymnast_ros')}/launch/bridge.launch.py"
    robot = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(bridge),
        launch_arguments=[(argument.name, texts[argument.name]) for argument in ARGUMENTS],
    )
    evaluation = ExecuteProcess(cmd=[sys.executable, *evaluation_command(texts)], output="screen")
    end = RegisterEventHandler(OnProcessExit(target_action=evaluation, on_exit=[EmitEvent(event=Shutdown())]))
    return [robot, evaluation, end]
