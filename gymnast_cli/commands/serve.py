"""`gymnast serve`: the trainer."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--folder", type=Path, default=Path("trainer"), help="everything the trainer keeps")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--port-file", type=Path, help="where to write the port once it listens")
    parser.add_argument("--import", dest="imports", type=Path, action="append", default=[], metavar="CHECKPOINT",
                        help="checkpoint folder to know from the start; may be repeated")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="torch threads of a training job (default 1)")
    parser.add_argument(
        "--insecure", action="store_true", help="no TLS and no identities: for a closed test bench only"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    from cloud_trainer.jobs.runner import JobInputs, run_in_process
    from cloud_trainer.service import JobContext, Service, ServiceConfig, serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = ServiceConfig(
        folder=args.folder, host=args.host, port=args.port, port_file=args.port_file, insecure=args.insecure
    )

    def runner(context: JobContext) -> Mapping[str, Any]:
        inputs = JobInputs(
            context.job.job_id, context.job.kind, context.job.spec, context.episode_paths(), context.checkpoint
        )
        result = run_in_process(
            inputs, args.folder / "jobs", emit=context.emit, cancelled=context.cancelled, threads=args.threads
        )
        for folder in result["register"]:
            context.register(Path(folder))
        for candidate in result["candidates"]:
            context.publish(Path(candidate["folder"]))
        return result

    def ready(service: Service) -> None:
        for checkpoint in args.imports:
            service.register(checkpoint)

    return serve(config, runner, ready=ready)
