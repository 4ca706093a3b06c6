"""How many datagrams of a robot's own graph are dropped, by how much its DDS sockets may hold.

Each run has a network of its own (unshare, as root), so that the kernel's counters are this graph's alone: `gymnast up`
with the simulated arm, and episodes by `gymnast collect`. Sizes take turns; `usual` is what Linux gives who asks for
nothing, `capped` what it grants of 2 MB where net.core.rmem_max is the usual 212,992 bytes. The same command goes on
where the file ends.

python -m benchmarks.socket_buffers --runs 5 --episodes 40 --json benchmarks/socket_buffers.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gymnast_core.shipped import shipped_checkpoints
from gymnast_ros.processes import PROFILES
from gymnast_ros.sockets import PROFILE, RECEIVE_BUFFER_BYTES

GYMNAST = Path(sys.executable).parent / "gymnast"
ASKED_BYTES = {"usual": 106_496, "capped": 212_992, "ours": RECEIVE_BUFFER_BYTES}
"""Linux grants twice of what is asked for."""
PATIENCE_S = 300.0


def udp_counters() -> dict[str, int]:
    """The kernel's, of this network."""
    names, values = (
        line.split()[1:] for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Udp:")
    )
    return dict(zip(names, map(int, values), strict=True))


def granted() -> int:
    """The largest receive buffer of a socket in this network [bytes]."""
    said = subprocess.run(["ss", "-uamn"], capture_output=True, text=True, check=True).stdout
    return max(int(word.split(",rb")[1].split(",")[0]) for word in said.split() if ",rb" in word)


def drive(size: str, episodes: int, seed: int, domain_id: int) -> dict[str, object]:
    """One run, inside its own network."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profile = folder / "profile.xml"
        profile.write_text(PROFILE.read_text().replace(str(RECEIVE_BUFFER_BYTES), str(ASKED_BYTES[size])))
        values = os.environ | {PROFILES: str(profile), "ROS_DOMAIN_ID": str(domain_id)}
        robot = [str(GYMNAST), "up", "--robot", "sim", "--name", "sim-0", "--policy", shipped_checkpoints() / "policy"]
        with (folder / "up.log").open("wb") as log:
            up = subprocess.Popen(robot, cwd=folder, env=values, stdout=log, stderr=log)
            try:
                words = ["--json", "collect", "--tasks", "lift,push", "--count", str(episodes // 2), "--sample", "-1",
                         "--seed-start", str(seed), "--keep-local", "--timeout-s", str(PATIENCE_S)]  # fmt: skip
                began = time.monotonic()
                done = subprocess.run([GYMNAST, *words], cwd=folder, env=values, capture_output=True, text=True,
                                      timeout=2 * PATIENCE_S)  # fmt: skip
                took_s, counters, largest = time.monotonic() - began, udp_counters(), granted()
            finally:
                up.send_signal(signal.SIGINT)
                up.wait(60.0)
        if done.returncode not in (0, 1):
            raise SystemExit(done.stdout + done.stderr + (folder / "up.log").read_text()[-3000:])
        said = json.loads(done.stdout.splitlines()[-1])
    return {
        "size": size, "granted_bytes": largest, "episodes": said["episodes"], "complete": said["complete"],
        "datagrams": counters["InDatagrams"], "dropped": counters["RcvbufErrors"], "seconds": round(took_s, 1),
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5, help="of each size")
    parser.add_argument("--episodes", type=int, default=40, help="of a run")
    parser.add_argument("--sizes", nargs="+", default=list(ASKED_BYTES), choices=list(ASKED_BYTES))
    parser.add_argument("--seed", type=int, default=900_000, help="first start state")
    parser.add_argument("--inside", metavar="SIZE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        print(json.dumps(drive(args.inside, args.episodes, args.seed, 91)))
        return
    rows: list[dict[str, object]] = json.loads(args.json.read_text()) if args.json.exists() else []
    for number in range(args.runs):
        for size in args.sizes:
            if sum(row["size"] == size for row in rows) > number:
                continue
            words = ["--inside", size, "--episodes", str(args.episodes), "--seed", str(args.seed + 1000 * number)]
            command = ["unshare", "-n", sys.executable, "-m", "benchmarks.socket_buffers", "--json", "-", *words]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr[-4000:])
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            args.json.write_text(json.dumps(rows, indent=1) + "\n")
            print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
