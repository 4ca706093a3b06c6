"""`gymnast up`: the robot side's nodes without a ROS installation."""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec

from rich.console import Console

from gymnast_cli.connect import IDENTITY_VARIABLE, TRAINER_VARIABLE
from gymnast_core.errors import ConfigError
from gymnast_ros.arguments import ARGUMENTS, FLAG, check_files, config_from

FROM_ENVIRONMENT = {"trainer": TRAINER_VARIABLE, "identity": IDENTITY_VARIABLE}
"""Arguments that a variable gives where nobody names them, as for every other command."""
OURS = tuple(argument for argument in ARGUMENTS if argument.name != "vendor")
"""What bridge.launch.py takes, but for the vendor's own launch file, which needs a ROS installation."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; the same names, values and defaults as bridge.launch.py."""
    for argument in OURS:
        variable = FROM_ENVIRONMENT.get(argument.name, "")
        default = os.environ.get(variable, "") or argument.default
        shown = f"${variable}" if variable else argument.default
        if argument.choices == FLAG:
            parser.add_argument(f"--{argument.name.replace('_', '-')}", action="store_true", help=argument.description)
        else:
            parser.add_argument(
                f"--{argument.name.replace('_', '-')}",
                default=default,
                choices=argument.choices or None,
                help=argument.description + (f" (default: {shown})" if shown else ""),
            )


def run(args: argparse.Namespace, console: Console) -> int:
    """Start the graph and stay until Ctrl-C."""
    from gymnast_ros.bringup import up

    texts = {argument.name: getattr(args, argument.name) for argument in OURS}
    config = config_from(
        {name: str(value).lower() if value in (True, False) else value for name, value in texts.items()}
    )
    check_files(config)
    if config.page:
        if find_spec("fastapi") is None:
            raise ConfigError("the page needs a web server; pip install 'gymnast_ros[page]'")
        console.print(f"page at http://127.0.0.1:{config.page}; its token is in {config.folder / 'page' / 'token'}")
    console.print(
        f"starting the {config.robot} graph in domain {args.domain or os.environ.get('ROS_DOMAIN_ID') or 0}; "
        f"logs in {config.folder / 'logs'}; Ctrl-C stops it"
    )
    return up(config, lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
