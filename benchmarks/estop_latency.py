"""How long an emergency stop takes, from the call to its answer, while nothing else goes on and under floods.

A robot is started as `gymnast up` does; another process calls the service, or publishes True on the topic. Of that it
measures when the stop is latched, in the memory that gate and arm share: from then on nothing moves; and when the
gate's own word of it comes back, which the stop itself does not wait for. Floods come from a third process: commands
that bear no mark on command/policy, and large messages. The service's own time is what counts; discovery is over
before the first call.

python -m benchmarks.estop_latency --calls 100 --json benchmarks/estop_latency.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.arm.latch import StopLatch
from gymnast_ros.bringup import Graph, GraphConfig
from gymnast_ros.keyring import Keyring, folder_of
from gymnast_ros.nodes import messages, topics

ALLOWED_MS = {"idle": 200.0, "commands": 500.0, "large": 500.0}
"""99th percentile of the service, and of the topic until the stop is latched, by what goes on beside it."""
KINDS = ("idle", "commands", "large")


def flood(kind: str, domain_id: int, stopping: Any) -> None:
    """Publish as fast as this process can, until the end."""
    import rclpy
    from rclpy.node import Node
    from sensor_msgs.msg import JointState

    rclpy.init(domain_id=domain_id)
    node = Node("flood")
    message = messages.to_named(topics.ACTION_NAMES, [0.0] * 7, 0, "policy")
    if kind == "large":
        message = JointState(name=["x" * 50] * 20_000, position=[0.0] * 20_000)
    publishers = [node.create_publisher(JointState, topic, topics.STREAM) for topic in
                  (topics.POLICY_COMMAND, topics.TELEOP_COMMAND, topics.TARGET)]  # fmt: skip
    while not stopping.is_set():
        for publisher in publishers:
            publisher.publish(message)
    node.destroy_node()
    rclpy.try_shutdown()


def measure(kind: str, calls: int, domain_id: int) -> dict[str, Any]:
    """Latencies of the service and of the topic, each stop released before the next."""
    from gymnast_ros.nodes.client import GraphClient

    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    spawn = multiprocessing.get_context("spawn")
    stopping = spawn.Event()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Graph(GraphConfig(folder=folder, domain_id=domain_id)):
            flooding = spawn.Process(target=flood, args=(kind, domain_id, stopping)) if kind != "idle" else None
            with GraphClient(domain_id=domain_id, folder=folder) as client:
                client.wait_ready(60.0)
                client.estop()
                client.re_arm()
                if flooding is not None:
                    flooding.start()
                    time.sleep(3.0)  # until it has found the gate
                button = Button(domain_id)
                latch = Keyring.load(folder_of(folder)).latch
                service_ms, latched_ms, topic_ms = [], [], []
                try:
                    for _ in range(calls):
                        started_s = time.monotonic()
                        client.estop()
                        service_ms.append((time.monotonic() - started_s) * 1e3)
                        client.re_arm()
                        latched, told = _by_topic(client, button, latch)
                        latched_ms.append(latched)
                        topic_ms.append(told)
                        client.re_arm()
                finally:
                    button.close()
                    stopping.set()
                    if flooding is not None:
                        flooding.join(10.0)
    shares = {"service_ms": service_ms, "latched_ms": latched_ms, "topic_ms": topic_ms}
    return {"kind": kind, "calls": calls, **{name: _shares(values) for name, values in shares.items()}}


class Button:
    """A stop button on the topic."""

    def __init__(self, domain_id: int) -> None:
        import rclpy
        from rclpy.node import Node
        from std_msgs.msg import Bool

        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain_id)
        self._node, self._message = Node("button", context=self._context), Bool(data=True)
        self._publisher = self._node.create_publisher(Bool, topics.ESTOP_TOPIC, topics.STREAM)
        while not self._publisher.get_subscription_count():
            time.sleep(0.05)

    def press(self) -> None:
        """Say True once."""
        self._publisher.publish(self._message)

    def close(self) -> None:
        """Leave the domain."""
        self._node.destroy_node()
        self._context.try_shutdown()


def _by_topic(client: Any, button: Button, latch: StopLatch) -> tuple[float, float]:
    """From True on the topic to the latched stop, and to the gate's own word of it [ms]."""
    client.wait_for(topics.GATE_STATUS, lambda status: status["state"] == "armed", 20.0)
    started_s = time.monotonic()
    button.press()
    while not latch.stopped and time.monotonic() - started_s < 20.0:
        time.sleep(0.0005)
    latched_s = time.monotonic()
    client.wait_for(topics.GATE_STATUS, lambda status: status["state"] == "estop", 20.0)
    return (latched_s - started_s) * 1e3, (time.monotonic() - started_s) * 1e3


def _shares(values_ms: Sequence[float]) -> dict[str, float]:
    return {name: round(float(np.percentile(values_ms, share)), 1) for name, share in
            (("p50", 50), ("p99", 99), ("max", 100))}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; exit code 1 where a 99th percentile is above what is allowed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--domain", type=int, default=98)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    rows = [measure(kind, args.calls, args.domain) for kind in args.kinds]
    for row in rows:
        sys.stdout.write(
            f"{row['kind']:>9}  service {row['service_ms']}  latched {row['latched_ms']}  topic {row['topic_ms']}\n"
        )
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "allowed_p99_ms": ALLOWED_MS}, indent=1, sort_keys=True))
    kept = [row[name]["p99"] <= ALLOWED_MS[row["kind"]] for row in rows for name in ("service_ms", "latched_ms")]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    raise SystemExit(main())
