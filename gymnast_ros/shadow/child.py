"""The process in which a checkpoint is tried: python -m gymnast_ros.shadow.child, started by ShadowBook alone.

It is loaded here beside the running policy, which is in another process and never waits: whatever the candidate does
(hang, use up the memory, crash the interpreter) ends this process and nothing else. One JSON line a stage goes to
standard output, so that the parent knows what it waits for; SIGALRM ends a process whose parent is gone.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from gymnast_core.records.manifest import read_manifest
from gymnast_core.robots import robot_named
from gymnast_ros.shadow.check import ShadowReport, shadow_check
from gymnast_ros.shadow.observations import neutral_observation, recorded_observations

NICE = 5
"""The running policy goes first."""


def main() -> int:
    """Load, ask, report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("recent", type=Path)
    parser.add_argument("--robot-model", required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--max-latency-s", type=float, default=0.0)
    parser.add_argument("--most-s", type=int, required=True)
    args = parser.parse_args()
    signal.alarm(args.most_s)
    os.nice(NICE)
    with os.fdopen(os.dup(1), "w", buffering=1) as out:
        os.dup2(2, 1)  # what libraries print is no part of the answer
        _print(out, stage="report", **asdict(_checked(args, out)))
    return 0


def _checked(args: argparse.Namespace, out: IO[str]) -> ShadowReport:
    from gymnast_core.policies import architecture, serve_policy

    manifest = read_manifest(args.checkpoint)
    recorded = recorded_observations(args.recent)
    try:
        architecture(manifest.architecture)  # imports torch
        _print(out, stage="imported")
        policy = serve_policy(args.checkpoint, device=args.device)
    except Exception as error:  # noqa: BLE001  # whatever keeps it from loading, it must not run
        return ShadowReport(f"it does not load: {type(error).__name__}: {error}", recorded=bool(recorded))
    _print(out, stage="loaded")
    report = shadow_check(
        policy, recorded or [neutral_observation(str(manifest.config.get("camera") or ""))],
        spec=robot_named(args.robot_model), max_latency_s=args.max_latency_s,
        asking=lambda index: _print(out, stage="asked", index=index),
    )  # fmt: skip
    return replace(report, recorded=bool(recorded))


def _print(out: IO[str], **values: object) -> None:
    fields: Mapping[str, Any] = values
    out.write(json.dumps(fields) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
