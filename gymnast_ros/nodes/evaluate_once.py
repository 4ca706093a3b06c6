"""One evaluation on a running graph, as evaluate.launch.py starts it: a table on the screen, a file if asked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gymnast_core.errors import GymnastError
from gymnast_ros.nodes.client import GraphClient
from gymnast_ros.run.evaluation import write_result


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate and print; returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=_listed, required=True)
    parser.add_argument("--seed-start", type=int, default=2_000_000)
    parser.add_argument("--seed-count", type=int, default=25)
    parser.add_argument("--checkpoints", type=_listed, default=[])
    parser.add_argument("--scene", default="standard")
    parser.add_argument("--retry", type=int, default=0)
    parser.add_argument("--retry-judge", default="")
    parser.add_argument("--namespace", default="")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    try:
        with GraphClient(namespace=args.namespace, local_only=False) as client:
            client.wait_ready(60.0)
            result = client.evaluate(
                tasks=args.tasks,
                seed_start=args.seed_start,
                seed_count=args.seed_count,
                checkpoints=args.checkpoints,
                scene=args.scene,
                record=True,
                retry={"max": args.retry, "judge": args.retry_judge} if args.retry else None,
                timeout_s=3600.0,
            )
    except GymnastError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    for version, counts in result["policies"].items():
        tasks = ", ".join(f"{task} {row['successes']}/{row['n']}" for task, row in counts["tasks"].items())
        unlabelled = f", {counts['unlabelled']} not labelled" if counts["unlabelled"] else ""
        sys.stdout.write(f"{version}: {counts['successes']}/{counts['n']} ({tasks}{unlabelled})\n")
    for version, figures in result.get("retried", {}).items():
        first, last = (f"{figures[name]['k']}/{figures[name]['n']}" for name in ("pass_1", "pass_n"))
        sys.stdout.write(f"{version} tried again: {first} at first, {last} within {figures['of']} attempts\n")
    if args.json:
        write_result(args.json, result)
    return 0


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


if __name__ == "__main__":
    raise SystemExit(main())
