#!/bin/bash
# Sources what a robot's nodes need, then runs the command.
set -e
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /opt/gymnast_env/bin/activate
source /ros2_ws/install/setup.bash
exec "$@"
