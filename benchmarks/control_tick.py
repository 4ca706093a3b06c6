"""Regularity of the control tick over real DDS, with cameras, recorder and a busy uplink beside it.

A real-time arm ticks at the given rate; the real gate and rollout processes answer it. Measured at the arm: the time
between the commands it executes, and from the capture of a frame to the command that answers it.

python -m benchmarks.control_tick --rates 5 50 --seconds 60 --json benchmarks/control_tick.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measured_arm import CAMERAS, jitter_share, still_target
from gymnast_core.episodes import Spool, write_episode
from gymnast_core.errors import StaleCommandError
from gymnast_core.types import Episode
from gymnast_ros.keyring import VARIABLE, Keyring
from gymnast_ros.processes import ENVIRONMENT

ALLOWED_JITTER = 0.10
"""p99 of |interval - period| / period."""
CAMERA_HZ = 30.0


def run_arm(rate_hz: float, seconds: float) -> dict[str, Any]:
    """The measuring arm: real-time ticks, synthetic frames, everything else real."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from benchmarks.ticking_arm import TickingArm

    rclpy.init()
    arm = TickingArm(rate_hz, max_steps=int(rate_hz * seconds))
    executor = SingleThreadedExecutor()
    executor.add_node(arm)
    deadline = time.monotonic() + seconds + 60.0
    while not arm.finished.is_set() and time.monotonic() < deadline:
        arm.ask()
        executor.spin_once(timeout_sec=0.05)
    arm.stop()
    result = arm.result()
    executor.shutdown()
    arm.destroy_node()
    rclpy.try_shutdown()
    return result


def run_floor(rate_hz: float, seconds: float) -> dict[str, Any]:
    """The same ticker with nothing around it: how well this machine keeps time for anybody at this moment."""
    from gymnast_ros.run.ticker import Ticker

    ticks_ns: list[int] = []
    ticker = Ticker(round(1e9 / rate_hz), lambda: ticks_ns.append(time.monotonic_ns())).start()
    time.sleep(seconds)
    ticker.close()
    return {"jitter_share": jitter_share(ticks_ns, 1e9 / rate_hz)}


def run_cameras() -> None:
    """Publishes one 640x480 and two 256x256 cameras at 30 Hz until it is told to stop."""
    import rclpy
    from rclpy.node import Node
    from sensor_msgs.msg import Image

    from gymnast_ros.nodes import messages, topics

    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    rclpy.init()
    node = Node("bench_cameras")
    rng = np.random.default_rng(0)
    frames = [
        (node.create_publisher(Image, f"{name}/raw", topics.STREAM), name, rng.integers(0, 256, shape, np.uint8))
        for name, shape in ((name, (height, width, 3)) for name, width, height in CAMERAS)
    ]
    due_s = time.monotonic()
    while not stopping.is_set():
        for publisher, name, frame in frames:
            publisher.publish(messages.to_image(frame, time.time_ns(), name))
        due_s += 1.0 / CAMERA_HZ
        stopping.wait(max(0.0, due_s - time.monotonic()))
    node.destroy_node()
    rclpy.try_shutdown()


def saturate(folder: Path, stopping: threading.Event) -> None:
    """A trainer on this machine and an uplink that always has an episode to ship."""
    from cloud_trainer.service import Service, ServiceConfig
    from gymnast_ros.uplink import Uplink

    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (61, 256, 256, 3), np.uint8)
    target, _ = still_target()
    proprio = np.repeat(target.proprio_P[None], 61, axis=0)
    spool = Spool(folder / "ballast")
    with (
        Service(ServiceConfig(folder=folder / "trainer", insecure=True)) as service,
        Uplink(service.address, None, spool=spool, insecure=True),
    ):
        number = 0
        while not stopping.is_set():
            if len(spool.entries()) < 3:
                episode = Episode(
                    f"ballast-{number}", "nothing", {"wide": images}, proprio, np.zeros((60, 7), np.float32),
                    np.arange(61, dtype=np.int64) * 200_000_000, policy_versions=("none",) * 60,
                )  # fmt: skip
                spool.enqueue(
                    write_episode(spool.recording_folder / f"ballast-{number}.mcap", episode, robot="ballast")
                )
                number += 1
            stopping.wait(0.05)


def measure(rate_hz: float, seconds: float, domain_id: int, *, load: bool, priority: int = 0) -> dict[str, Any]:
    """One rate: gate and rollout as processes, the arm here, the load beside."""
    os.environ |= {
        "ROS_DOMAIN_ID": str(domain_id),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        **ENVIRONMENT,
    }
    with tempfile.TemporaryDirectory() as name:
        folder, stopping = Path(name), threading.Event()
        os.environ[VARIABLE] = str(Keyring.make(folder / "gate").folder)
        steps = int(rate_hz * seconds)
        actions = np.tile([0, 0, 0, 0, 0, 0, 1.0], (steps, 1)).tolist()
        (folder / "still.json").write_text(json.dumps(actions))
        nodes = {
            "command_gate": ["armed_at_start:=true"],
            "rollout": [
                f"folder:='{folder / 'robot'}'", f"checkpoint:='replay:{folder / 'still.json'}'", "record:=true",
            ],
        }  # fmt: skip
        children = []
        for node, values in nodes.items():
            command = [sys.executable, "-m", f"gymnast_ros.nodes.{node}", "--ros-args", *_parameters(values)]
            children.append(subprocess.Popen(command))
            _prefer(children[-1].pid, priority if node == "command_gate" else 0)
        uplink = threading.Thread(target=saturate, args=(folder, stopping))
        if load:
            children.append(subprocess.Popen([sys.executable, "-m", "benchmarks.control_tick", "--cameras"]))
            uplink.start()
        try:
            result = _measured(rate_hz, seconds, priority)
        finally:
            stopping.set()
            for child in children:
                child.terminate()
            for child in children:
                child.wait(20.0)
            if load:
                uplink.join(30.0)
    return {**result, "rate_hz": rate_hz, "load": load, "priority": priority}


def _parameters(values: Sequence[str]) -> list[str]:
    return [part for value in values for part in ("-p", value)]


def _measured(rate_hz: float, seconds: float, priority: int) -> dict[str, Any]:
    """The arm in a process of its own, so that this one's threads do not disturb it; the bare timer beside it."""
    numbers = [str(rate_hz), str(seconds)]
    command = [sys.executable, "-m", "benchmarks.control_tick"]
    floor = subprocess.Popen([*command, "--floor", *numbers], stdout=subprocess.PIPE, text=True)
    arm = subprocess.Popen([*command, "--arm", *numbers], stdout=subprocess.PIPE, text=True)
    for child in (floor, arm):
        _prefer(child.pid, priority)
    results: list[dict[str, Any]] = []
    for child in (arm, floor):
        printed, _ = child.communicate(timeout=seconds + 120.0)
        if child.returncode or not printed:
            raise StaleCommandError("the measured process did not finish: see its error above, or the load")
        results.append(json.loads(printed.splitlines()[-1]))
    return {**results[0], "floor_jitter_share": results[1]["jitter_share"]}


def _prefer(pid: int, priority: int) -> None:
    """Real-time scheduling for what must keep time, where that is allowed."""
    if priority:
        from gymnast_ros.run.ticker import prefer

        problem = prefer(pid, priority)
        if problem:
            print(problem, file=sys.stderr)


def table(results: Sequence[dict[str, Any]]) -> str:
    """Rows for people."""
    head = (
        f"{'rate':>6} {'load':>5} {'fifo':>5} {'steps':>6} {'late':>5} {'jitter p50':>10} {'p99':>7} {'floor p99':>9}"
    )
    lines = [f"{head} {'capture to command p50':>23} {'p99':>9}"]
    for row in results:
        jitter, latency, floor = row["jitter_share"], row["capture_to_command_ms"], row["floor_jitter_share"]
        lines.append(
            f"{row['rate_hz']:>4.0f}Hz {'yes' if row['load'] else 'no':>5} {row['priority']:>5} {row['steps']:>6} "
            f"{row['late_steps']:>5} {jitter['p50']:>10.1%} {jitter['p99']:>7.1%} {floor['p99']:>9.1%} "
            f"{latency['p50']:>20.1f} ms {latency['p99']:>6.1f} ms"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; exit code 1 if the jitter is above what is allowed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=float, nargs="+", default=[5.0, 50.0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--domain", type=int, default=96)
    parser.add_argument("--no-load", action="store_true", help="no cameras, no uplink")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--priority", type=int, default=0, help="SCHED_FIFO priority of arm and gate; 0 is none")
    parser.add_argument("--floor", type=float, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--arm", type=float, nargs=2, metavar=("HZ", "SECONDS"), help=argparse.SUPPRESS)
    parser.add_argument("--cameras", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.cameras:
        run_cameras()
        return 0
    if args.arm:
        print(json.dumps(run_arm(*args.arm)))
        return 0
    if args.floor:
        print(json.dumps(run_floor(*args.floor)))
        return 0
    results = [
        measure(rate, args.seconds, args.domain, load=not args.no_load, priority=args.priority) for rate in args.rates
    ]
    print(table(results))
    if args.json:
        args.json.write_text(json.dumps({"rows": results, "allowed_jitter": ALLOWED_JITTER}, indent=1, sort_keys=True))
    return 0 if all(row["jitter_share"]["p99"] <= ALLOWED_JITTER for row in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
