"""Everything that only a GPU can show, in at most eight minutes: `make gpu-check`.

    python -m benchmarks.gpu_check --json runs/gpu_check.json      # on a machine with a CUDA GPU
    python -m benchmarks.gpu_check --tiny                          # the same code on the CPU, with toy sizes

Each part (benchmarks/gpu_parts.py) runs in a process of its own, so that a crash or a full memory ends that part alone
and memory peaks are its own. A part writes a figure as soon as it is measured: what the budget cuts off is named, what
was measured before stays. Weights are random at full size: speed and memory do not depend on their values.
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
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

LIMITS_S = {
    "machine": 60, "tests": 120, "policies": 120, "world_model": 200, "grpo": 150, "fsdp": 90, "decode": 60,
}  # fmt: skip
"""The parts in their order, and the longest each may take."""
BUDGET_S = 480.0


@dataclass(frozen=True)
class Part:
    """How a part ended.

    Attributes:
        name: of LIMITS_S.
        state: done, failed, cut (its time or the budget was over) or left_out (no time to begin).
        seconds: it took.
        figures: {what, value, unit, note} each, as far as it came.
        error: the end of what a failed part printed.
    """

    name: str
    state: str
    seconds: float
    figures: tuple[dict[str, Any], ...] = ()
    error: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts and write what they measured; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(LIMITS_S), choices=list(LIMITS_S), help="(default: all)")
    parser.add_argument(
        "--budget", type=float, default=BUDGET_S, metavar="S", help="of all parts (default %(default)g)"
    )
    parser.add_argument("--tiny", action="store_true", help="toy sizes on the CPU: does every line run?")
    parser.add_argument("--json", type=Path, help="write the figures here, after every part")
    args = parser.parse_args(arguments)
    if not args.tiny and (why := no_gpu()):
        print(f"{why}; try the same code on the CPU with --tiny", file=sys.stderr)
        return 2
    begun, parts = time.monotonic(), []
    for name in args.parts:
        left = args.budget - (time.monotonic() - begun)
        parts.append(run(name, min(left, LIMITS_S[name]), tiny=args.tiny))
        show(parts[-1])
        if args.json:
            write(args.json, parts, tiny=args.tiny)
    return int(any(part.state == "failed" for part in parts))


def no_gpu() -> str:
    """Return why nothing can be measured here, or nothing."""
    import torch

    return "" if torch.cuda.is_available() else f"no CUDA GPU: torch {torch.__version__} sees none"


def run(name: str, limit_s: float, *, tiny: bool) -> Part:
    """Run a part in a process of its own."""
    if limit_s < 1:
        return Part(name, "left_out", 0.0)
    with tempfile.TemporaryDirectory() as scratch:
        lines, log = Path(scratch) / "figures.jsonl", Path(scratch) / "log"
        lines.touch()
        command = [sys.executable, "-m", "benchmarks.gpu_parts", name, "--into", str(lines), *(["--tiny"] * tiny)]
        begun = time.monotonic()
        with log.open("w") as told:
            process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                state = "done" if process.wait(limit_s) == 0 else "failed"
            except subprocess.TimeoutExpired:
                state = "cut"
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        figures = tuple(json.loads(line) for line in lines.read_text().splitlines() if line.endswith("}"))
        error = "" if state == "done" else log.read_text(errors="replace")[-3000:]
    return Part(name, state, time.monotonic() - begun, figures, error)


def show(part: Part) -> None:
    """Print a part."""
    print(f"\n{part.name}: {part.state}, {part.seconds:.0f} s")
    for figure in part.figures:
        print(f"  {figure['what']:58s} {figure['value']:>12.4g} {figure['unit']:10s} {figure['note']}")
    if part.error:
        print(part.error, file=sys.stderr)
    sys.stdout.flush()


def write(path: Path, parts: Sequence[Part], *, tiny: bool) -> None:
    """Write all parts so far."""
    told = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "tiny": tiny,
        "parts": [vars(part) | {"figures": list(part.figures)} for part in parts],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
