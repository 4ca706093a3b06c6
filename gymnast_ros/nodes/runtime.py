"""How every node process starts, reports, and ends."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String

from gymnast_core.errors import ConfigError, GymnastError
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.ears import dropped, note_drop
from gymnast_ros.nodes.marked import MarkedJson
from gymnast_ros.processes import REFUSED, RESPAWNED, SECURITY
from gymnast_ros.run.ending import Ending

LOG = logging.getLogger(__name__)

INTERRUPTED = 130
STALLED_S = 5.0
"""Without a control tick for so long, a node is ended; what it commanded holds long before."""
STALLED_EXIT = 70
BACK_OFF_S = 30.0
"""Between two tries of a node whose settings are wrong."""


class LatchedJson:
    """A latched status topic: publishes a JSON object when it differs from the last one.

    Args:
        node: publishes.
        topic: its name.
        keyring: marks it; None does not.
    """

    def __init__(self, node: Node, topic: str, keyring: Keyring | None = None) -> None:
        self._publish: Callable[[Mapping[str, object]], None]
        if keyring is None:
            plain = node.create_publisher(String, topic, topics.LATCHED)
            self._publish = lambda value: plain.publish(messages.to_json(value))
        else:
            self._publish = MarkedJson(node, keyring, topic, topics.LATCHED).publish
        self._last: dict[str, Any] | None = None

    def publish(self, value: Mapping[str, object]) -> None:
        """Publish if it changed."""
        if dict(value) != self._last:
            self._last = dict(value)
            self._publish(value)


def own_name(name: str) -> dict[str, object]:
    """Arguments of a process's further nodes, so that `-r __node:=NAME` of the process renames its first node only.

    A rule of the node itself comes before those of the process (rcl's order, rcl_remap_name).
    """
    return {"node_name": name, "cli_args": ["--ros-args", "-r", f"__node:={name}"]}


Health = tuple[int, str, Mapping[str, object]]
"""Level (0 fine, 1 look at it, 2 broken), words, values."""


class Diagnostics:
    """Publishes on /diagnostics once a second.

    Args:
        node: whose name the status bears.
        hardware_id: what it is about.
        read: health of the node.
        parts: health of parts of the hardware, by name, each a status of its own.
    """

    def __init__(
        self,
        node: Node,
        hardware_id: str,
        read: Callable[[], Health],
        parts: Callable[[], Mapping[str, Health]] = dict,
    ) -> None:
        self._node, self._hardware_id, self._read, self._parts = node, hardware_id, read, parts
        self._publisher = node.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, topics.STREAM)
        self._timer = node.create_timer(
            1.0, self._publish, clock=rclpy.clock.Clock(clock_type=rclpy.clock.ClockType.STEADY_TIME)
        )

    def _publish(self) -> None:
        name = self._node.get_fully_qualified_name()
        level, words, values = self._read()
        lost = {f"dropped {topic}": count for topic, count in dropped(self._node).items()}
        array = DiagnosticArray(status=[self._status(name, (level, words, {**values, **lost}))])
        array.status += [self._status(f"{name}/{part}", health) for part, health in self._parts().items()]
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)

    def _status(self, name: str, health: Health) -> DiagnosticStatus:
        level, message, values = health
        pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        return DiagnosticStatus(
            level=bytes([level]), name=name, message=message, hardware_id=self._hardware_id, values=pairs
        )


class NodeFailedError(GymnastError):
    """The node cannot go on; its process ends, and its starter reports that."""


def spin_once(executor: Executor, node: Node, timeout_s: float = 0.1) -> None:
    """Let one callback run; what it raises is counted, reported and survived.

    Raises:
        NodeFailedError: a callback ends the node on purpose.
        ExternalShutdownException: rclpy is down.
    """
    try:
        executor.spin_once(timeout_sec=timeout_s)
    except (NodeFailedError, ExternalShutdownException):
        raise
    except Exception as error:
        LOG.exception("callback_failed node=%s", node.get_name())
        note_drop(node, "callback", error)


def run(make: Callable[[], Node], *, also: Callable[[Node], Sequence[Node]] = lambda node: ()) -> int:
    """Run one node process until it has to end; returns its exit code.

    Args:
        make: builds the node after rclpy.init.
        also: further nodes that get an executor and a thread of their own (an e-stop must not queue).

    The signal handlers are ours (Ending), because with rclpy's the context is already invalid when an arm node still
    has to command a hold. A node with a method stop() finishes its work in it while rclpy still works, and may return
    the exit code; one with closed() is called when rclpy does not work any more.
    """
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    ending = Ending()
    try:
        node = make()
    except KeyboardInterrupt:
        Spinner.close_all()
        rclpy.try_shutdown()
        return INTERRUPTED
    except GymnastError as error:
        return _refused(error, ending)
    except RCLError as error:
        if os.environ.get(SECURITY) != "true":
            raise
        return _without_security(error)
    except Exception:
        Spinner.close_all()
        raise
    ending.interrupts = False
    threads = [Spinner(other) for other in also(node)]
    if hasattr(node, "stalled_s"):
        threading.Thread(target=_watch_tick, args=(node, ending), name="watchdog", daemon=True).start()
    code = 0
    try:
        code = _spin(node, ending)
    finally:
        stop = getattr(node, "stop", None)
        if stop is not None:
            code = stop() or code
        for thread in threads:
            thread.close()
        Spinner.close_all()
        node.destroy_node()
        rclpy.try_shutdown()
        closed = getattr(node, "closed", None)
        if closed is not None:
            closed()
    return code


def _spin(node: Node, ending: Ending) -> int:
    """Serve the node until the process has to end; returns the exit code."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not ending.due() and rclpy.ok():
            spin_once(executor, node)
    except ExternalShutdownException:
        return 0
    except NodeFailedError as error:
        node.get_logger().fatal(str(error))
        return 1
    finally:
        executor.shutdown(timeout_sec=1.0)  # a service that still waits for something does not keep the process
    return 0


def _watch_tick(node: Node, ending: Ending) -> None:
    """End a process whose control tick has stopped, for its starter to start it again; nothing else would."""
    while not ending.due():
        if node.stalled_s > STALLED_S:
            node.get_logger().fatal(f"no control tick for {node.stalled_s:.1f} s: this process is ended")
            os._exit(STALLED_EXIT)
        ending.wait(1.0)


def _without_security(error: RCLError) -> int:
    """DDS security was asked for and the node cannot have it: another try would end the same."""
    get_logger("gymnast").fatal(f"{SECURITY} is true, and this node cannot be made: {error}")
    Spinner.close_all()
    rclpy.try_shutdown()
    return REFUSED


def _refused(error: GymnastError, ending: Ending) -> int:
    """The node cannot be built: one line; a starter that restarts it at once would get it again every second."""
    log = get_logger("gymnast")
    log.fatal(str(error))
    ending.interrupts = False  # from here on somebody asks
    Spinner.close_all()
    if os.environ.get(RESPAWNED):
        log.fatal(f"this is tried again in {BACK_OFF_S:.0f} s; correct it and start again")
        ending.wait(BACK_OFF_S)
    rclpy.try_shutdown()
    return 2 if isinstance(error, ConfigError) else 1


class Spinner:
    """A node with an executor in a thread of its own."""

    _open: ClassVar[list[Spinner]] = []

    def __init__(self, node: Node) -> None:
        self._open.append(self)
        self._node = node
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, name=node.get_name(), daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        try:
            while not self._closing.is_set():
                spin_once(self._executor, self._node)
        except ExternalShutdownException:
            return

    def close(self) -> None:
        """Join the thread before the node goes; an unjoined one aborts the process. Safe to call twice."""
        if self not in self._open:
            return
        self._open.remove(self)
        self._closing.set()
        self._thread.join(5.0)
        self._executor.shutdown()
        self._node.destroy_node()

    @classmethod
    def close_all(cls) -> None:
        """Join whatever still spins, e.g. what a node had begun whose constructor then failed.

        A thread that is inside rclpy when the process ends is "terminate called without an active exception".
        """
        for spinner in list(cls._open):
            spinner.close()
