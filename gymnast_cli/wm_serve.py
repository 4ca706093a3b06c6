"""`gymnast wm serve`: a world model for others' harnesses, by WorldArena's HTTP JSON API, or for ours by gRPC."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from gymnast_cli.connect import emit
from gymnast_cli.revoked import access_of, add_revoked_arguments
from gymnast_cli.wm_lab import Subparsers
from gymnast_core.errors import ConfigError
from gymnast_core.wire.identity import Identity


def add_arguments(actions: Subparsers) -> None:
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
                       "FOLDER/server of a trainer on its machine, else of `gymnast enroll --role server`")  # fmt: skip
    serve.add_argument("--grpc", metavar="HOST:PORT", help="serve our own client instead (gymnast_client.worlds), by "
                       "mutual TLS with --identity, whose tenant may ask; port 0 takes a free one")  # fmt: skip
    add_revoked_arguments(serve)
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
    from cloud_trainer.jobs.desk.serving import PredictLimits, served_typed, served_world
    from gymnast_core.jobs.practice import DreamConfig

    stop, dream = stop_signals(), DreamConfig(steps=args.steps, device=args.device)
    limits = PredictLimits(horizon=args.horizon, batch=args.batch, concurrency=args.concurrency, timeout_s=args.timeout)
    if args.grpc is not None:
        typed, version = served_typed(
            args.world_model, limits, dream, where=args.grpc, access=access_of(args, _identity(args))
        )
        return _until(stop.wait, args, console, typed.stop, {"address": typed.address, "model_version": version})
    server, version = served_world(
        args.world_model, limits, dream, host=args.host, port=args.port, token=args.token, identity=args.identity
    )
    return _until(stop.wait, args, console, server.stop, {"address": server.start(), "model_version": version})


def _identity(args: argparse.Namespace) -> Identity:
    if args.token is not None:
        raise ConfigError("--token is of the HTTP API; with --grpc certificates decide who may ask")
    if args.identity is None:
        raise ConfigError(
            "--grpc needs --identity FOLDER, a server's certificate: FOLDER/server of a trainer on its machine, else "
            "made by `gymnast enroll NAME --role server --host NAME-OR-ADDRESS`"
        )
    return Identity.load(args.identity)


def _until(
    wait: Callable[[], object],
    args: argparse.Namespace,
    console: Console,
    end: Callable[[], None],
    found: dict[str, str],
) -> int:
    """Say where it is served, and serve until asked to stop."""
    try:
        emit(args, console, found, f"{found['model_version']} is served at {found['address']}; Ctrl-C stops it")
        sys.stdout.flush()
        if args.port_file is not None:
            args.port_file.write_text(found["address"])
        wait()
    finally:
        end()
    return 0
