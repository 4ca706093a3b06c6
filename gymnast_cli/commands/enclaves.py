"""`gymnast enclaves`: an SROS2 keystore for a robot's graph, so that DDS itself asks who may publish and listen."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rich.console import Console

from gymnast_cli.connect import emit
from gymnast_core.errors import ConfigError
from gymnast_ros.arguments import ARGUMENTS, config_from
from gymnast_ros.enclaves import ENCLAVE, make_keystore, security_environment
from gymnast_ros.keyring import DOMAIN_VARIABLE

TAKEN = ("robot", "namespace", "domain", "camera", "parameters")
"""What of `gymnast up` decides which processes there are, and what their topics are called."""
NOT_FOR_LONG_DAYS = 31
"""Whoever makes identities for less would be warned at once that they end soon."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", type=Path, help="of the keystore; made when missing, brought up to date otherwise")
    for argument in ARGUMENTS:
        if argument.name in TAKEN:
            text = argument.description + (f" (default: {argument.default})" if argument.default else "")
            parser.add_argument(
                f"--{argument.name}", default=argument.default, choices=argument.choices or None, help=text
            )
    parser.add_argument("--days", type=int, default=365, help="validity of identities and permissions (default: 365)")


def run(args: argparse.Namespace, console: Console) -> int:
    """Write authority, identities and signed permissions; a second time what is still good stays.

    Raises:
        ConfigError: a value makes no sense, or ROS 2 is missing.
    """
    try:
        from gymnast_ros.nodes.access import OPERATOR, access_of
    except ImportError as error:
        raise ConfigError(
            f"{error}: ROS 2 is missing; source its setup.bash, or pip install 'gymnast_ros[ros]'"
        ) from error
    if args.days < NOT_FOR_LONG_DAYS:
        raise ConfigError(f"--days must be at least {NOT_FOR_LONG_DAYS}, got {args.days}")
    config = config_from({name: getattr(args, name) for name in TAKEN})
    domain = config.domain_id if config.domain_id is not None else int(os.environ.get(DOMAIN_VARIABLE, "0"))
    graph = access_of(config)
    fresh = make_keystore(args.folder, graph, domain=domain, days=args.days)
    enclaves = [access.enclave for access in graph]
    operator = next(name for name in enclaves if name.endswith(f"/{OPERATOR}"))
    environment = security_environment(args.folder) | {ENCLAVE: operator}
    emit(
        args, console,
        {"folder": str(args.folder), "domain": domain, "enclaves": enclaves, "fresh": fresh, "shell": environment},
        f"{args.folder}: {len(enclaves)} enclaves for domain {domain}, {len(fresh)} with new keys. "
        f"Start the robot with --enclaves {args.folder}; for your own commands in another terminal:\n"
        + "\n".join(f"export {name}={value}" for name, value in environment.items()),
    )  # fmt: skip
    return 0
