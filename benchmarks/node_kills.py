"""Kills nodes of a running robot at random moments of simulated episodes and watches what the arm does.

The graph is the real one (arm, gate, rollout, bridge, teleop and a trainer), the arm is the simulated one in real time.
Whether it held is read from its own record, arm/executed. For every kill: how long after it the arm still moved, when
the graph ran again, whether the episode was marked; and at the end, whether the trainer has every finished episode.
A hundred kills take a quarter of an hour; with --seconds a run ends earlier, and the same command goes on where the
file ends.

python -m benchmarks.node_kills --kills 100 --seconds 240 --json benchmarks/node_kills.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.episodes import read_summary
from gymnast_core.errors import GymnastError
from gymnast_ros.bringup import Graph, GraphConfig
from gymnast_ros.processes import RESPAWN_DELAY_S
from gymnast_ros.run.requests import Evaluate

VICTIMS = ("command_gate", "rollout", "arm", "bridge", "teleop")
HOLDS = ("command_gate", "rollout", "arm")
"""Without these nobody commands the arm; the others may go without its noticing."""
TICK_S = 0.2
MINUTE_NS = 60 * 10**9
TRANSPORT_S = 0.1
"""What a message may take to this process on a busy machine."""
RECOVERY_S = 10.0
STEPS = 15
PATIENCE_S = 300.0
SUMS = ("announced", "stored", "unreadable", "gave_up")


class NotInTimeError(GymnastError):
    """Something did not happen in time; the message names it."""


@dataclass(frozen=True)
class Step:
    """One line of the arm's record.

    Attributes:
        at_s: when it was heard, monotonic.
        source: who commanded; empty after a reset.
        moved: whether the arm was told to move.
        done_ns: when the arm's process wrote it, its wall clock.
        gate_ns: when the gate's process sent the command for it; 0 where that was not heard.
        policy_ns: when the rollout's process sent the command that the gate decided on; likewise.
    """

    at_s: float
    source: str
    moved: bool
    done_ns: int
    gate_ns: int = 0
    policy_ns: int = 0


@dataclass(frozen=True)
class Kill:
    """What one kill did.

    Attributes:
        node: which.
        moved_for_s: time from the kill to the end of the last motion before the node's successor came, both by the
            arm's clock; 0 is none.
        moved_steps: motions that ended in that time; one may have been commanded before.
        held: no motion after the next tick (always true for nodes that the arm does not need).
        recovered_s: time until a policy moved the arm again.
    """

    node: str
    moved_for_s: float
    moved_steps: int
    held: bool
    recovered_s: float


class Witness:
    """Hears the arm's record and the rollout's announcements in a thread of its own."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.node import Node
        from sensor_msgs.msg import JointState
        from std_msgs.msg import String

        from gymnast_ros.nodes import topics
        from gymnast_ros.nodes.runtime import Spinner

        rclpy.init()
        self._lock = threading.Lock()
        self._steps: list[Step] = []
        self._announced: dict[str, dict[str, Any]] = {}
        self._stamps_ns: list[int] = []
        self._sent_ns: dict[str, dict[int, int]] = {topics.ARM_COMMAND: {}, topics.POLICY_COMMAND: {}}
        node = Node("witness")
        for topic in self._sent_ns:
            node.create_subscription(JointState, topic, self._hear_command(topic), topics.STREAM)
        node.create_subscription(JointState, topics.EXECUTED, self._on_step, topics.STREAM)
        node.create_subscription(String, topics.EPISODE, self._on_episode, topics.JOB_EVENTS)
        self._spinner = Spinner(node)

    def steps(self, since_s: float = 0.0) -> list[Step]:
        """The record from then on."""
        with self._lock:
            found = zip(self._steps, self._stamps_ns, strict=True)
            return [self._commanded(step, stamp_ns) for step, stamp_ns in found if step.at_s >= since_s]

    def forget(self, until_s: float) -> None:
        """Drop the record of before."""
        with self._lock:
            kept = [pair for pair in zip(self._steps, self._stamps_ns, strict=True) if pair[0].at_s >= until_s]
            self._steps, self._stamps_ns = [step for step, _ in kept], [stamp_ns for _, stamp_ns in kept]
            for sent_ns in self._sent_ns.values():
                for stamp_ns in [one for one in sent_ns if self._stamps_ns and one < min(self._stamps_ns) - MINUTE_NS]:
                    del sent_ns[stamp_ns]

    def announced(self) -> dict[str, dict[str, Any]]:
        """Every episode the rollout node told of, by its run name."""
        with self._lock:
            return dict(self._announced)

    def amid_an_episode(self) -> bool:
        """A policy moved the arm just now, and the episode is neither young nor nearly over."""
        steps = self.steps()
        since_reset = next((number for number, step in enumerate(reversed(steps)) if not step.source), 0)
        fresh = bool(steps) and time.monotonic() - steps[-1].at_s < 1.5 * TICK_S
        return fresh and steps[-1].source == "policy" and 2 <= since_reset <= STEPS - 3

    def close(self) -> None:
        """Leave the graph."""
        import rclpy

        self._spinner.close()
        rclpy.try_shutdown()

    def _on_step(self, message: Any, info: dict[str, int]) -> None:
        moved = any(message.position[:6])
        with self._lock:
            self._steps.append(Step(time.monotonic(), message.header.frame_id, moved, info["source_timestamp"]))
            self._stamps_ns.append(_stamp_ns(message))

    def _hear_command(self, topic: str) -> Callable[[Any, dict[str, int]], None]:
        def hear(message: Any, info: dict[str, int]) -> None:
            with self._lock:
                self._sent_ns[topic][_stamp_ns(message)] = info["source_timestamp"]

        return hear

    def _commanded(self, step: Step, stamp_ns: int) -> Step:
        """With the commands that answered the observation before it."""
        from gymnast_ros.nodes import topics

        gate_ns, policy_ns = (
            self._sent_ns[topic].get(stamp_ns - round(TICK_S * 1e9), 0)
            for topic in (topics.ARM_COMMAND, topics.POLICY_COMMAND)
        )
        return replace(step, gate_ns=gate_ns, policy_ns=policy_ns)

    def _on_episode(self, message: Any) -> None:
        event = json.loads(message.data)
        with self._lock:
            self._announced[event["run"]] = event


def _stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


class Range:
    """A robot with a trainer, running episodes without end."""

    def __init__(self, folder: Path, domain_id: int, seed: int) -> None:
        from cloud_trainer.service import Service, ServiceConfig
        from gymnast_ros.nodes.client import GraphClient

        os.environ |= {"ROS_DOMAIN_ID": str(domain_id), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        self.folder, self.rng = folder, np.random.default_rng(seed)
        self.gave_up = 0
        back_and_forth = [[0.0, 0.01 * (-1) ** step, 0.0, 0.0, 0.0, 0.0, 1.0] for step in range(STEPS)]
        (folder / "moves.json").write_text(json.dumps(back_and_forth))
        self.service = Service(ServiceConfig(folder=folder / "trainer", insecure=True))
        self.service.start()
        config = GraphConfig(
            folder=folder / "robot", domain_id=domain_id, trainer=self.service.address, insecure=True, paced=True,
            teleop=True,
        )  # fmt: skip
        self.graph = Graph(config).start()
        self.witness = Witness()
        self.client = GraphClient(domain_id=domain_id)

    def run(self) -> None:
        """Have episodes run until somebody ends them."""
        self.client.wait_ready(PATIENCE_S)
        moves = f"replay:{self.folder / 'moves.json'}"
        self.client.ask(Evaluate(tasks=("lift",), seed_start=0, seed_count=100_000, record=True, checkpoints=(moves,)))

    def kill(self, node: str) -> Kill:
        """Kill one node in the middle of an episode and wait until the robot works again."""
        await_(self.witness.amid_an_episode, "an episode")
        until_s = time.monotonic() + float(self.rng.uniform(0.0, 2.0))
        while time.monotonic() < until_s or not self.witness.amid_an_episode():
            time.sleep(0.002)
        restarts, killed_s = self.graph.restarts[node], time.monotonic()
        os.kill(self.graph.pids[node], signal.SIGKILL)
        killed_ns = time.time_ns()
        await_(lambda: time.monotonic() > killed_s + 0.9 * RESPAWN_DELAY_S, "its successor")
        moved_s = [(step.done_ns - killed_ns) / 1e9 for step in self.witness.steps(killed_s) if step.moved]
        moved_s = [seconds for seconds in moved_s if seconds > 0]
        moved_for_s = max(moved_s, default=0.0)
        await_(lambda: self.graph.restarts[node] > restarts, f"{node} to be started again")
        if node == "rollout":
            self._ask_again(killed_s)
        started_s = time.monotonic() if node in HOLDS else killed_s
        await_(lambda: self._works_again(started_s), "a policy to move it")
        recovered_s = next(step.at_s for step in self.witness.steps(started_s) if step.source == "policy") - killed_s
        held = node not in HOLDS or moved_for_s <= TICK_S + TRANSPORT_S
        return Kill(node, moved_for_s, len(moved_s), held, recovered_s)

    def _works_again(self, started_s: float) -> bool:
        """A policy moved the arm since then; an evaluation that gave up (its arm was lost too often) is begun anew."""
        if self.client.status.get("state") == "idle":
            self.gave_up += 1
            self.run()
        return any(step.source == "policy" for step in self.witness.steps(started_s))

    def _ask_again(self, killed_s: float) -> None:
        """The rollout's successor knows of no evaluation."""
        idle = lambda status: status.get("state") == "idle" and status["run_id"] == ""  # noqa: E731
        await_(lambda: idle(self.client.status), "the rollout node's successor")
        self.run()

    def finish(self) -> dict[str, Any]:
        """End the run, ship everything, and compare what was told with what the trainer has."""
        self.client.cancel()
        await_(lambda: self.client.status.get("state") == "idle", "the end of the run")
        self.client.flush(PATIENCE_S)
        announced = {event["episode_id"] for event in self.witness.announced().values() if event["episode_id"]}
        await_(lambda: announced <= set(self._stored()), "the trainer to commit them", raises=False)
        stored = self._stored()
        reasons = Counter(read_summary(path).end.truncated_reason for path in stored.values())
        unreadable = list((self.folder / "robot" / "spool").rglob("unreadable/*"))
        return {
            "announced": len(announced), "stored": len(stored), "lost": sorted(announced - set(stored)),
            "truncated": {reason: count for reason, count in reasons.items() if reason},
            "unreadable": len(unreadable), "gave_up": self.gave_up,
        }  # fmt: skip

    def last_words(self) -> str:
        """What every node said last."""
        tails = [(path.name, path.read_text().splitlines()[-8:]) for path in sorted(self.graph.logs.glob("*.log"))]
        return "\n".join(f"{name}: {line}" for name, lines in tails for line in lines)

    def close(self) -> None:
        """End every process."""
        self.client.close()
        self.witness.close()
        self.graph.stop()
        self.service.stop()

    def _stored(self) -> dict[str, Path]:
        with closing(sqlite3.connect(self.folder / "trainer" / "store.db")) as database:
            rows = database.execute("SELECT episode_id, digest FROM episodes").fetchall()
        return {name: self.folder / "trainer" / "blobs" / digest[:2] / digest for name, digest in rows}


def await_(ready: Callable[[], bool], what: str, *, raises: bool = True) -> None:
    """Wait for a condition.

    Raises:
        NotInTimeError: not within PATIENCE_S.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        if time.monotonic() > deadline:
            if raises:
                raise NotInTimeError(f"waited {PATIENCE_S:.0f} s for {what}")
            return
        time.sleep(0.01)


@contextmanager
def _range(domain_id: int, seed: int) -> Iterator[Range]:
    with tempfile.TemporaryDirectory(prefix="gymnast-kills-") as name:
        field = Range(Path(name), domain_id, seed)
        try:
            field.run()
            yield field
        finally:
            field.close()


def order_of(kills: int, seed: int) -> list[str]:
    """Every node equally often, in random order."""
    names = [VICTIMS[number % len(VICTIMS)] for number in range(kills)]
    return [str(name) for name in np.random.default_rng(seed).permutation(names)]


def measure(order: Sequence[str], *, seed: int, domain_id: int, seconds: float = 3600.0) -> dict[str, Any]:
    """Kill these nodes one after the other, as many as so many seconds allow; returns figures and rows."""
    until_s, rows, broken = time.monotonic() + seconds, [], ""
    with _range(domain_id, seed) as field:
        for node in order:
            if time.monotonic() > until_s:
                break
            try:
                rows.append(field.kill(node))
            except NotInTimeError as error:
                broken = f"after killing {node}: {error}"
                rows.append(Kill(node, 0.0, 0, True, PATIENCE_S))
                print(f"{broken}\n{field.last_words()}", file=sys.stderr, flush=True)
                break
            print(f"{len(rows)}/{len(order)} {rows[-1]}", file=sys.stderr, flush=True)
        result = field.finish()
    return {**result, "kills": [asdict(row) for row in rows], "broken": [broken] if broken else []}


def joined(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """Both runs' rows and sums, and what follows from them."""
    rows = [*earlier.get("kills", []), *later["kills"]]
    truncated = Counter(earlier.get("truncated", {})) + Counter(later["truncated"])
    sums = {name: earlier.get(name, 0) + later[name] for name in SUMS}
    cut = sum(row["node"] in HOLDS for row in rows)
    marked = sum(truncated.get(reason, 0) for reason in ("arm_lost", "crash")) + sums["unreadable"]
    return {
        **sums, "kills": rows, "truncated": dict(truncated),
        "lost": [*earlier.get("lost", []), *later["lost"]], "broken": [*earlier.get("broken", []), *later["broken"]],
        "unmarked": max(0, cut - marked), "not_held": sum(not row["held"] for row in rows),
        "slow": sum(row["recovered_s"] > RECOVERY_S for row in rows),
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Rows for people."""
    lines = [f"{'node':>13} {'kills':>5} {'held':>9} {'moved after, max':>16} {'running again p50':>17} {'max':>6}"]
    for node in VICTIMS:
        rows = [row for row in result["kills"] if row["node"] == node]
        if rows:
            recovered = [row["recovered_s"] for row in rows]
            moved = f"{max(row['moved_for_s'] for row in rows):>13.2f} s" if node in HOLDS else f"{'goes on':>15}"
            lines.append(
                f"{node:>13} {len(rows):>5} {sum(row['held'] for row in rows):>4} of {len(rows):<2} {moved:>16} "
                f"{float(np.median(recovered)):>15.1f} s {max(recovered):>4.1f} s"
            )
    lines.append(
        f"{result['stored']} episodes at the trainer of {result['announced']} announced, {len(result['lost'])} lost; "
        f"cut and marked: {result['truncated']}, unmarked {result['unmarked']}"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, print; exit code 1 if the arm moved on, an episode was lost or unmarked, or recovery took too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--domain", type=int, default=95)
    parser.add_argument("--seconds", type=float, default=3600.0, help="no kill begins after this; run again to go on")
    parser.add_argument("--json", type=Path, help="result; what it already holds is not done again")
    args = parser.parse_args(arguments)
    earlier = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    done = len(earlier.get("kills", []))
    rest = order_of(args.kills, args.seed)[done:]
    result = joined(earlier, measure(rest, seed=args.seed + done, domain_id=args.domain, seconds=args.seconds))
    print(table(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1, sort_keys=True))
    return 1 if any(result[name] for name in ("not_held", "slow", "lost", "unmarked", "broken")) else 0


if __name__ == "__main__":
    raise SystemExit(main())
