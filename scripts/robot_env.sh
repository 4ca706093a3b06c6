#!/bin/sh
# Makes the Python environment of a robot beside a ROS 2 installation, and checks it.
#
#   source /opt/ros/jazzy/setup.bash          # or another distribution's
#   scripts/robot_env.sh ~/gymnast_env        # --no-torch: for a robot whose policy runs at the trainer
#
# The environment sees the system's packages (rclpy, the vendor's), its own come first: the distribution's protobuf and
# grpcio are older than our stubs need. `python3 -m colcon build` from inside it makes executables that run in it.
set -eu

torch=torch==2.13.0
if [ "${1:-}" = --no-torch ]; then
  torch=
  shift
fi
if [ $# -ne 1 ]; then
  echo "usage: $0 [--no-torch] FOLDER" >&2
  exit 2
fi
ours=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)

python3 -m venv --system-site-packages "$1"
touch "$1/COLCON_IGNORE"
# shellcheck disable=SC2086
"$1/bin/python" -m pip install --disable-pip-version-check --requirement "$ours/config/robot_requirements.txt" $torch
PYTHONPATH="$ours${PYTHONPATH:+:$PYTHONPATH}" "$1/bin/python" "$ours/scripts/check_robot_env.py"
