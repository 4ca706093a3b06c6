"""The flight recorder keeps a window and writes files that ROS tools open."""

from __future__ import annotations

import json

import cv2
import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from gymnast_core.arm.cameras import CameraLimits, CameraWatch, Frame
from gymnast_core.arm.flight import FlightRecorder, Named
from gymnast_core.errors import StaleCommandError

SECOND = 1_000_000_000


def test_only_the_window_is_kept_and_ros_tools_read_it(tmp_path) -> None:
    recorder = FlightRecorder(tmp_path, window_ns=3 * SECOND)
    for second in range(10):
        recorder.note("command_gate/report", second * SECOND, {"second": second})
    recorder.note("command/arm", 9 * SECOND, Named(("dx", "gripper"), (0.01, 1.0)))
    recorder.note("over_shoulder/image_raw", 9 * SECOND, np.full((8, 8, 3), 200, np.uint8))
    path = recorder.write("flight-estop")
    store = get_typestore(Stores.ROS2_JAZZY)
    with AnyReader([path], default_typestore=store) as bag:
        found = [
            (connection.topic, stamp_ns, bag.deserialize(data, connection.msgtype))
            for connection, stamp_ns, data in bag.messages()
        ]
    reports = [json.loads(message.data) for topic, _, message in found if topic == "/command_gate/report"]
    assert [report["second"] for report in reports] == [6, 7, 8, 9]
    (told,) = (message for topic, _, message in found if topic == "/command/arm")
    assert (told.name, told.position.tolist()) == (["dx", "gripper"], [0.01, 1.0])
    (picture,) = (message for topic, _, message in found if topic == "/over_shoulder/image_raw/compressed")
    assert cv2.imdecode(picture.data, cv2.IMREAD_COLOR).shape == (8, 8, 3)
    assert [stamp_ns for _, stamp_ns, _ in found] == sorted(stamp_ns for _, stamp_ns, _ in found)
    assert not list(tmp_path.glob("*.partial"))


def test_old_records_make_room(tmp_path) -> None:
    recorder = FlightRecorder(tmp_path, keep_files=2)
    recorder.note("decision", 0, {})
    for _ in range(4):
        recorder.write("flight")
    assert len(list(tmp_path.glob("*.mcap"))) == 2


def frame(value: int, stamp_ns: int) -> Frame:
    return Frame(np.full((4, 4, 3), value, np.uint8), stamp_ns)


def problem(watch: CameraWatch, now_ns: int) -> str:
    try:
        watch.newest(now_ns)
    except StaleCommandError as error:
        return str(error)
    return ""


def test_camera_that_is_silent_late_frozen_or_out_of_step_is_named() -> None:
    watch = CameraWatch(("left", "right"), CameraLimits(SECOND // 2, SECOND, SECOND // 10))
    assert "'left' has sent nothing" in problem(watch, 0)
    watch.put("left", frame(1, SECOND))
    watch.put("right", frame(1, SECOND + SECOND // 20))
    assert problem(watch, SECOND + SECOND // 10) == ""
    assert "'left' has sent nothing for 0.60 s" in problem(watch, SECOND + 6 * SECOND // 10)
    watch.put("left", frame(2, 2 * SECOND + SECOND // 5))
    watch.put("right", frame(1, 2 * SECOND + SECOND // 5))
    assert "'right' shows the same picture for 1.1 s" in problem(watch, 2 * SECOND + SECOND // 5)
    watch.put("right", frame(3, 2 * SECOND))
    assert "200 ms apart" in problem(watch, 2 * SECOND + SECOND // 5)
