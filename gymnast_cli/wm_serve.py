"""`gymnast wm serve`: a world model for others' harnesses, by WorldArena's HTTP JSON API."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from gymnast_cli.connect import emit


def add_arguments(actions: Any) -> None:
    """Declare the action."""
    serve = actions.add_parser("serve", help="answer others' harnesses: WorldArena's HTTP JSON API, version 1.0")
    serve.add_argument("world_model", type=Path, metavar="FOLDER", help="checkpoint to serve")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone; others "
                       "need --identity and --token)")  # fmt: skip
    serve.add_argument("--port", type=int, default=8700, metavar="N", help="0 takes a free one (default %(default)s)")
    serve.add_argument("--port-file", type=Path, metavar="FILE", help="write the address here once it listens")
    serve.add_argument("--token", type=Path, metavar="FILE", help="callers show the token in this file: Authorization: "
                       "Bearer TOKEN")  # fmt: skip
    serve.add_argument("--identity", type=Path, metavar="FOLDER", help="serve TLS by this server certificate: "
                       "FOLDER/server of a trainer, reached under the names of its --name")  # fmt: skip
    serve.add_argument("--horizon", type=int, default=15, metavar="N", help="actions of a sample, at most: as far as "
                       "the model was audited (default %(default)s)")  # fmt: skip
    serve.add_argument("--batch", type=int, default=8, metavar="N", help="samples of a request (default %(default)s)")
    serve.add_argument("--concurrency", type=int, default=1, metavar="N", help="requests at once (default %(default)s)")
    serve.add_argument("--timeout", type=float, default=600.0, metavar="S", help="of a request (default %(default)g)")
    serve.add_argument("--steps", type=int, help="denoising steps per frame of a DiT (default: as distilled, else 10)")
    serve.add_argument("--device", default="auto", help="of a DiT: auto, cpu, cuda, cuda:N (default %(default)s)")


def serve(args: argparse.Namespace, console: Console) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    from cloud_trainer.app import stop_signals
    from cloud_trainer.jobs.desk.serving import PredictLimits, served_world
    from gymnast_core.jobs.practice import DreamConfig

    stop = stop_signals()
    limits = PredictLimits(horizon=args.horizon, batch=args.batch, concurrency=args.concurrency, timeout_s=args.timeout)
    server, version = served_world(
        args.world_model, limits, DreamConfig(steps=args.steps, device=args.device), host=args.host, port=args.port,
        token=args.token, identity=args.identity,
    )  # fmt: skip
    address = server.start()
    try:
        found = {"address": address, "model_version": version}
        emit(args, console, found, f"{version} is served at {address}/v1/capabilities; Ctrl-C stops it")
        sys.stdout.flush()
        if args.port_file is not None:
            args.port_file.write_text(address)
        stop.wait()
    finally:
        server.stop()
    return 0
