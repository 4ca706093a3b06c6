"""Hours of practice on the real graph, between two hosts, with kills of nodes and of the trainer and cuts of the link.

`gymnast serve` runs in one network namespace, `gymnast up` with the simulated arm (as fast as it is commanded) in the
other, and `gymnast practise` has two skills take turns; a person answers each call at once. At random moments a node or
the trainer is killed (SIGKILL), or the cable is pulled for some seconds. Counted are: episodes that the robot announced
against those the trainer committed, calls and whether they were due, interventions, what the arm did after each kill,
and how soon practice went on. Simulated time is that of the steps at 5 Hz and 4 s home after each episode.

A slice is one run of practice; each is written to the file when it ends, and the same command goes on with the next one
until the hours are full. Needs root (namespaces).

python -m benchmarks.night --policy FOLDER --hours 8 --seconds 900 --json benchmarks/night_cpu2_202611.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.night_parts import TRAINER, is_due, lines_of
from gymnast_core.errors import GymnastError
from gymnast_core.practice import LAID_BY_HAND
from gymnast_ros.processes import RESPAWN_DELAY_S
from gymnast_ros.sim.tasks import RESET_OF
from tests.journeys.hosts import Host, Hosts, Started, two_hosts

NODES = ("command_gate", "rollout", "sim_world", "bridge")
FAULTS = (*NODES, "trainer", "cut")
MOVES = ("command_gate", "rollout", "sim_world")
"""Without these nobody commands the arm."""
STEP_S, HOME_S = 0.2, 4.0
MOST_CUT_S = 15.0
PATIENCE_S, SHIPPED_S = 600.0, 180.0
ROOT = Path(__file__).parents[1]
SUMS = ("episodes", "successes", "interventions", "simulated_h", "committed", "raised", "done_not_committed")


class NotInTimeError(GymnastError):
    """Something did not happen in time; the message names it."""


def await_(ready: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Return what is ready once it is.

    Raises:
        NotInTimeError: it was not within patience_s.
    """
    until_s = time.monotonic() + patience_s
    while not (found := ready()):
        if time.monotonic() > until_s:
            raise NotInTimeError(f"waited {patience_s:.0f} s for {what}")
        time.sleep(0.1)
    return found


class Lab:
    """Both hosts with everything that runs in them.

    Args:
        hosts: see tests.journeys.hosts.
        folder: of trainer, robot and identities.
        policy: checkpoint that practises.
    """

    def __init__(self, hosts: Hosts, folder: Path, policy: Path) -> None:
        self.hosts, self.folder = hosts, folder
        self._start_trainer()
        for name, role in (("sim-0", "robot"), ("ada", "admin")):
            done = hosts.trainer.run("enroll", name, "--role", role, "--ca", "trainer/ca", cwd=folder)
            if done.returncode:
                raise GymnastError(f"enroll {name}: {done.stdout}{done.stderr}")
        env = {"MUJOCO_GL": "egl"}
        self._up = hosts.robot.start(
            "up", "--robot", "sim", "--name", "sim-0", "--trainer", TRAINER, "--identity", "identities/sim-0",
            "--policy", str(policy), "--orders", env=env, cwd=folder,
        )  # fmt: skip
        self.witnessed, self.answered = folder / "witness.jsonl", folder / "person.jsonl"
        for path in (self.witnessed, self.answered):
            path.unlink(missing_ok=True)
        self._beside(hosts.robot, "witness", str(self.witnessed))
        self._beside(hosts.trainer, "person", str(self.answered), str(folder / "identities" / "ada"))

    def close(self) -> None:
        """End robot and trainer as people do; the hosts end what stands beside."""
        self._up.stop(signal.SIGINT, PATIENCE_S)
        self._trainer.stop(signal.SIGINT, PATIENCE_S)

    def _beside(self, host: Host, *words: str) -> Started:
        env = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        return host.launch(sys.executable, "-m", "benchmarks.night_parts", *words, env=env, cwd=ROOT)

    def _start_trainer(self) -> None:
        listens = self.folder / "port"
        listens.unlink(missing_ok=True)
        port = TRAINER.rpartition(":")[2]
        self._trainer = self.hosts.trainer.start(
            "serve", "--folder", "trainer", "--host", "::", "--port", port, "--name", "trainer.lab", "--no-console",
            "--port-file", "port", cwd=self.folder,
        )  # fmt: skip
        self._trainer.wait_until(listens.is_file, "trainer", PATIENCE_S)

    def practise(self, *words: str) -> dict[str, Any]:
        """Run `gymnast practise` at the robot, again while its graph is not up."""

        def asked() -> dict[str, Any] | None:
            done = self.hosts.robot.run("--json", "practise", *words, cwd=self.folder, timeout_s=PATIENCE_S)
            return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 and done.stdout.strip() else None

        return dict(await_(asked, f"gymnast practise {' '.join(words)}"))

    def state(self) -> dict[str, Any]:
        """Where practice is, as the robot has it on its disk."""
        path = self.folder / "robot" / "practice" / "state.json"
        return dict(json.loads(path.read_text())) if path.exists() else {"number": 0, "state": "ended", "run": ""}

    def done(self) -> int:
        """Episodes that ran to their end."""
        state = self.state()
        return int(state["task"]["episodes"] + state["reset"]["episodes"])

    def fault(self, kind: str, rng: np.random.Generator) -> dict[str, Any]:
        """Do harm and wait until practice goes on; returns what it did."""
        before, at_s, killed_ns = self.done(), time.monotonic(), 0
        if kind == "cut":
            self.hosts.cut()
            time.sleep(float(rng.uniform(2.0, MOST_CUT_S)))
            self.hosts.join()
        elif kind == "trainer":
            self._trainer.stop(signal.SIGKILL)
            time.sleep(float(rng.uniform(0.0, 3.0)))
            self._start_trainer()
        else:
            os.kill(self._pid_of(kind), signal.SIGKILL)
            killed_ns = time.time_ns()
        ended = lambda: self.state()["state"] == "ended" or self.done() > before + 1  # noqa: E731
        await_(ended, f"practice to go on after {kind}")
        row = {"kind": kind, "goes_on_s": round(time.monotonic() - at_s, 2)}
        return {**row, **self._motion(kind, killed_ns)} if kind in MOVES else row

    def _motion(self, killed: str, killed_ns: int) -> dict[str, Any]:
        """What the arm did before a successor of a killed node could be there, by what arm and gate wrote themselves.

        One that the arm ended after the kill may have been commanded before it; a second one is a fault.
        """
        time.sleep(3.0)  # the witness writes twice a second, what it heard half a second before
        steps = [row["step"] for row in lines_of(self.witnessed) if "step" in row]
        after = [row for row in steps if 0 < row["done_ns"] - killed_ns < 0.9e9 * RESPAWN_DELAY_S]
        commanded = "policy_ns" if killed == "rollout" else "gate_ns"
        return {
            "moved_for_s": round(max((row["done_ns"] - killed_ns for row in after), default=0) / 1e9, 3),
            "moved_steps": len(after), "commanded_after": sum(row[commanded] > killed_ns for row in after),
            "command_not_heard": sum(not row[commanded] for row in after),
        }  # fmt: skip

    def _pid_of(self, node: str) -> int:
        def found() -> int:
            pids = subprocess.run(["ip", "netns", "pids", self.hosts.robot.namespace], capture_output=True, text=True)
            for pid in pids.stdout.split():
                words = Path("/proc", pid, "cmdline")
                if words.exists() and f"gymnast_ros.nodes.{node}".encode() in words.read_bytes().split(b"\0"):
                    return int(pid)
            return 0

        return int(await_(found, f"a process of {node}"))

    def committed(self) -> list[dict[str, Any]]:
        """Episodes that the trainer has, whatever their state."""
        with closing(sqlite3.connect(self.folder / "trainer" / "store.db", timeout=30)) as database:
            rows = database.execute("SELECT episode_id, outcome, steps, metadata FROM episodes").fetchall()
        return [{**json.loads(more), "id": name, "outcome": found, "steps": steps} for name, found, steps, more in rows]

    def whole(self, run: str) -> list[dict[str, Any]]:
        """Those of a run that are not cut, by their number."""
        marks = [row["practice"] for row in self.committed() if row.get("practice") and not row.get("truncated_reason")]
        return sorted((mark for mark in marks if mark["run"] == run), key=lambda mark: mark["number"])

    def pending(self) -> int:
        """Recordings that are still on the robot: being written, or waiting to be shipped."""
        spool = self.folder / "robot" / "spool"
        return sum(len(list((spool / state).glob("*.mcap*"))) for state in ("recording", "pending"))


def one_slice(lab: Lab, number: int, args: argparse.Namespace, until_s: float) -> dict[str, Any]:
    """Practise one pair with faults to the end of its episodes, or of the time; returns what came of it."""
    began_s, rng = time.monotonic(), np.random.default_rng([args.seed, number])
    task = args.tasks[number % len(args.tasks)]
    lab.practise(
        "--task", task, "--reset", RESET_OF[task], "--hours", "100", "--episodes", str(args.episodes),
        "--seed", str(number), "--sample", str(args.sample), "--detach",
        "--resume", f"night-{args.seed}-{number}-{os.getpid()}",
    )  # fmt: skip
    run = await_(lambda: lab.state() if lab.state()["state"] != "ended" else None, "practice to begin")["run"]
    faults: list[dict[str, Any]] = []
    order: list[str] = []
    over = lambda: lab.state()["state"] == "ended" or time.monotonic() > until_s  # noqa: E731
    while not over():
        order = order or [str(kind) for kind in rng.permutation(FAULTS)]
        wanted = lab.state()["number"] + int(rng.integers(3, args.every))
        await_(lambda wanted=wanted: over() or lab.state()["number"] >= wanted, "episodes", PATIENCE_S * args.every)
        if not over():
            time.sleep(float(rng.uniform(0.0, 0.5)))
            faults.append(lab.fault(order.pop(), rng))
            print(faults[-1], file=sys.stderr, flush=True)
    if lab.state()["state"] != "ended":
        lab.practise("--stop")
        await_(lambda: lab.state()["state"] == "ended", "the end of practice")
    wall_s = round(time.monotonic() - began_s)
    return {"task": task, "reset": RESET_OF[task], "sample": args.sample, "wall_s": wall_s, **figures(lab, run, faults)}


def figures(lab: Lab, run: str, faults: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare what robot, witness, trainer and person say of a run that has ended."""
    announced = {row["episode"] for row in lines_of(lab.witnessed) if row.get("episode")}
    state, done = lab.state(), lab.done()
    try:
        await_(lambda: lab.pending() == 0 and len(lab.whole(run)) >= done, "the recordings to be shipped", SHIPPED_S)
    except NotInTimeError as error:
        print(f"{error}; {lab.pending()} stay on the robot", file=sys.stderr)
    rows, whole = lab.committed(), lab.whole(run)
    mine = [row for row in rows if (row.get("practice") or {}).get("run") == run]
    pages = [page for page in lines_of(lab.answered) if page["detail"].get("practice") == run]
    called = [page["detail"].get("episode", 0) for page in pages]
    laid = [(page, called[:n]) for n, page in enumerate(pages) if page["kind"] in LAID_BY_HAND]
    steps = sum(row["steps"] for row in mine)
    return {
        "episodes": done, "cut": state["cut"],
        "successes": state["task"]["successes"] + state["reset"]["successes"], "interventions": state["interventions"],
        "committed": len(mine), "committed_whole": len(whole), "announced": len(announced),
        "announced_not_committed": sorted(announced - {row["id"] for row in rows}),
        "done_not_committed": max(0, done - len(whole)),
        "simulated_h": round((steps * STEP_S + len(mine) * HOME_S) / 3600, 3),
        "pages": dict(Counter(page["kind"] for page in pages)), "raised": state["pages"],
        "not_due": [page["text"] for page, calls in laid if not is_due(page, whole, calls)], "faults": faults,
    }  # fmt: skip


def table(slices: Sequence[dict[str, Any]]) -> str:
    """All slices in a few lines."""
    total = {name: sum(row[name] for row in slices) for name in SUMS}
    faults = [fault for row in slices for fault in row["faults"]]
    lost = total["done_not_committed"] + sum(len(row["announced_not_committed"]) for row in slices)
    done, not_due = max(1, total["episodes"]), sum(len(row["not_due"]) for row in slices)
    lines = [
        f"{total['simulated_h']:.2f} simulated hours, {total['episodes']} episodes, {total['committed']} committed",
        f"{lost} lost; success {total['successes'] / done:.0%}; {total['interventions']} interventions "
        f"({100 * total['interventions'] / done:.1f} per 100), {total['raised']} calls, {not_due} not due",
    ]
    for kind in FAULTS:
        hit = [fault for fault in faults if fault["kind"] == kind]
        if hit:
            moved = _moved(hit) if kind in MOVES else ""
            took = [row["goes_on_s"] for row in hit]
            went_on = f"practice went on after {np.median(took):.1f} s (most {max(took):.1f})"
            lines.append(f"{kind}: {len(hit)}, {went_on}{moved}")
    return "\n".join(lines)


def _moved(faults: Sequence[dict[str, Any]]) -> str:
    """What the arm did after kills of a node."""
    steps, within_s = (max(row[name] for row in faults) for name in ("moved_steps", "moved_for_s"))
    after, unheard = (sum(row[name] for row in faults) for name in ("commanded_after", "command_not_heard"))
    return f", {steps} motions ended within {within_s:.2f} s at most, {after} commanded after it, {unheard} not heard"


def main() -> int:
    """Go on with the night; exit code 1 where an episode was lost, a call was not due, or an arm moved on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, required=True, help="knows both skills of each pair")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=8.0, help="simulated, over all slices")
    parser.add_argument("--seconds", type=float, default=3600.0, help="of this call, once all is up; then run it again")
    parser.add_argument("--tasks", nargs="+", default=["drawer", "put"], choices=sorted(RESET_OF))
    parser.add_argument("--episodes", type=int, default=100, help="of a slice")
    parser.add_argument("--every", type=int, default=15, help="a fault after 3 to so many episodes")
    parser.add_argument("--sample", type=int, default=-1, help="seed of exploration; -1: greedy")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    slices: list[dict[str, Any]] = json.loads(args.json.read_text()) if args.json.exists() else []
    with tempfile.TemporaryDirectory(prefix="gymnast-night-") as name, two_hosts(Path(name)) as hosts:
        lab = Lab(hosts, Path(name), args.policy.resolve())
        until_s = time.monotonic() + args.seconds
        try:
            while time.monotonic() < until_s and sum(row["simulated_h"] for row in slices) < args.hours:
                row = one_slice(lab, len(slices), args, until_s)
                if row["committed"]:  # else the time was over before the graph was up
                    slices.append(row)
                    args.json.write_text(json.dumps(slices, indent=1))
                    print(table(slices[-1:]), flush=True)
        finally:
            lab.close()
    print(table(slices))
    wrong = any(row["announced_not_committed"] or row["done_not_committed"] or row["not_due"] for row in slices)
    kills = [fault for row in slices for fault in row["faults"] if fault["kind"] in MOVES]
    return int(wrong or any(fault["commanded_after"] or fault["moved_steps"] > 1 for fault in kills))


if __name__ == "__main__":
    raise SystemExit(main())
