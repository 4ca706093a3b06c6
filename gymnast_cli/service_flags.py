"""Every setting of the trainer's service as a flag of `gymnast serve`, made from its dataclasses: none is forgotten."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from cloud_trainer.service.config import Limits, ServiceConfig

FLAGS = {"names": "name", "blob_options": "blob-option"}
"""Fields whose flag is given once an item."""
DEFAULTS: dict[str, Any] = {"folder": Path("trainer"), "names": None, "blob_options": None}
"""Of flags, where they differ from their fields'."""
_UNITS = {"": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_NO_DEFAULT = "database_url", "blob_url", "port_file", "metrics_port", "names", "blob_options", "insecure"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare a flag for every field of ServiceConfig, and --limit-... for every field of Limits."""
    for config, prefix in ((ServiceConfig, ""), (Limits, "limit-")):
        help_of, hints = described(config), get_type_hints(config)
        group = parser.add_argument_group("limits" if prefix else "service")
        for entry in _flat(config):
            default = DEFAULTS.get(entry.name, entry.default)
            text = help_of[entry.name].replace("%", "%%")
            if entry.name not in _NO_DEFAULT:
                text += f" (default: {default})"
            options = {"dest": prefix.replace("-", "_") + entry.name, "default": default, "help": text}
            group.add_argument(f"--{prefix}{flag_of(entry.name)}", **_shape(entry.name, hints[entry.name]) | options)


def config_from(args: argparse.Namespace) -> ServiceConfig:
    """Return the settings that flags of add_arguments() gave.

    Raises:
        ConfigError: a value makes no sense; the message names it.
    """
    limits = Limits(**{entry.name: getattr(args, f"limit_{entry.name}") for entry in _flat(Limits)})
    values = {entry.name: getattr(args, entry.name) for entry in _flat(ServiceConfig)}
    values |= {"names": tuple(args.names or ()), "blob_options": dict(args.blob_options or ())}
    return ServiceConfig(**values, limits=limits)


def flag_of(field: str) -> str:
    """Return a field's flag, without the dashes before it."""
    return FLAGS.get(field, field.replace("_", "-"))


def described(config: type) -> dict[str, str]:
    """Return what a dataclass's docstring says of each of its fields."""
    _, _, attributes = (inspect.getdoc(config) or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    for name, text in re.findall(r"^    (\w+): ((?:.*\n?)(?:^     +.*\n?)*)", attributes, re.MULTILINE):
        found[name] = " ".join(text.split()).rstrip(".")
    return found


def _flat(config: type) -> Iterator[dataclasses.Field[Any]]:
    """The fields that are no dataclass themselves."""
    hints = get_type_hints(config)
    return (entry for entry in dataclasses.fields(config) if not dataclasses.is_dataclass(hints[entry.name]))


def _shape(name: str, hint: Any) -> dict[str, Any]:
    """How argparse reads a field."""
    if hint is bool:
        return {"action": "store_true"}
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if name == "blob_options":
        return {"action": "append", "type": pair, "metavar": "NAME=VALUE|NAME=@FILE"}
    if name == "names":
        return {"action": "append", "metavar": "NAME"}
    readers: dict[Any, Callable[[str], Any]] = {int: size if name.endswith("_bytes") else int, str: text}
    counts = {int: "BYTES" if name.endswith("_bytes") else "N", float: "SECONDS"}
    return {"type": readers.get(hint, hint), "metavar": counts.get(hint, name.rpartition("_")[2].upper())}


def size(value: str) -> int:
    """Read a number of bytes: 1048576, 512MiB, 2TiB."""
    found = re.fullmatch(r"(\d{1,18})\s*(|[KMGT]iB)", value.strip(), re.IGNORECASE | re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError(f"{value!r} is no number of bytes; write e.g. 1048576, 512MiB or 2TiB")
    return int(found[1]) * _UNITS[found[2].upper()]


def text(value: str) -> str:
    """Read a text, or the file named by @FILE: a password in it is then in no list of processes."""
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text().strip()
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{value[1:]!r} cannot be read: {error}") from error


def pair(value: str) -> tuple[str, str]:
    """Read NAME=VALUE, or NAME=@FILE."""
    name, equals, rest = value.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{name!r} lacks a value; write NAME=VALUE, e.g. region=eu-central-1")
    return name, text(rest)
