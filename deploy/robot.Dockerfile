# A robot's nodes, from a ROS base image. From the clone: docker build -f deploy/robot.Dockerfile -t gymnast-robot .
# For a real arm, BASE is an image that has Interbotix's workspace, too; run it with --network host --device /dev/ttyDXL.
ARG BASE=ros:jazzy-ros-base
FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv python3-colcon-common-extensions \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /ros2_ws
COPY . src/gymnast_ros
ARG TORCH=--no-torch
RUN . "/opt/ros/$ROS_DISTRO/setup.sh" && src/gymnast_ros/scripts/robot_env.sh $TORCH /opt/gymnast_env \
    && . /opt/gymnast_env/bin/activate && python3 -m colcon build --packages-select gymnast_ros
COPY deploy/robot-entrypoint.sh /usr/local/bin/robot-entrypoint
RUN useradd --create-home --uid 10001 --groups dialout gymnast && install -d -o gymnast /data
USER 10001
WORKDIR /data
VOLUME /data
ENTRYPOINT ["robot-entrypoint"]
CMD ["ros2", "launch", "gymnast_ros", "bridge.launch.py", "robot:=widowx", "folder:=/data/robot"]
