"""Every setting of the trainer's service as a flag of `gymnast serve`, made from its settings: none is forgotten.

Each has an environment variable, too, for containers and units: GYMNAST_SERVE_DATABASE_URL, and of a limit
GYMNAST_SERVE_LIMIT_STREAMS. A flag wins over its variable.
"""

from __future__ import annotations

import argparse
import os
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from cloud_trainer.app.settings import Limits, ServiceConfig
from gymnast_core.errors import ConfigError
from gymnast_core.settings import Settings

FLAGS = {"names": "name", "blob_options": "blob-option"}
"""Fields whose flag is given once an item."""
DEFAULTS: dict[str, Path | None] = {"folder": Path("trainer"), "names": None, "blob_options": None}
"""Of flags, where they differ from their fields'."""
_UNITS = {"": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_YES_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_NO_DEFAULT = "database_url", "blob_url", "port_file", "metrics_port", "names", "blob_options", "insecure", "pages"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare a flag for every setting of ServiceConfig, and --limit-... for every one of Limits."""
    for config, prefix in ((ServiceConfig, ""), (Limits, "limit-")):
        group = parser.add_argument_group("limits" if prefix else "service")
        for name, entry in _flat(config).items():
            default = DEFAULTS.get(name, entry.default)
            meaning = (entry.description or "").rstrip(".").replace("%", "%%")
            text = " ".join(f"{meaning[:1].lower()}{meaning[1:]}".split())
            if name not in _NO_DEFAULT:
                text += f" (default: {default})"
            dest = prefix.replace("-", "_") + name
            shape = _shape(name, entry.annotation)
            given = _given(shape, variable_of(dest))
            options = {"dest": dest, "default": default if given is None else given, "help": text}
            group.add_argument(f"--{prefix}{flag_of(name)}", **shape | options)


def config_from(args: argparse.Namespace) -> ServiceConfig:
    """Return the settings that flags of add_arguments() gave.

    Raises:
        ConfigError: a value makes no sense; the message names it.
    """
    limits = Limits(**{name: getattr(args, f"limit_{name}") for name in _flat(Limits)})
    values = {name: getattr(args, name) for name in _flat(ServiceConfig)}
    values |= {"names": tuple(args.names or ()), "blob_options": dict(args.blob_options or ())}
    return ServiceConfig(**values, limits=limits)


def flag_of(field: str) -> str:
    """Return a field's flag, without the dashes before it."""
    return FLAGS.get(field, field.replace("_", "-"))


def variable_of(dest: str) -> str:
    """Return the environment variable of a field, limit_... for one of the limits."""
    return f"GYMNAST_SERVE_{dest.upper()}"


def _given(shape: dict[str, Any], variable: str) -> Any:
    """What a variable says, None where it is not set; argparse reads a text as it reads the flag's.

    Raises:
        ConfigError: no yes and no no, or an item that makes no sense.
    """
    value = os.environ.get(variable, "")
    if not value:
        return None
    if shape["action"] == "store_true":
        if value.lower() not in _YES_NO:
            raise ConfigError(f"{variable} is {value!r}; write one of {', '.join(_YES_NO)}")
        return _YES_NO[value.lower()]
    if shape["action"] != "append":
        return value
    read = shape.get("type", str)
    try:
        return [read(item.strip()) for item in value.split(",") if item.strip()]
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"{variable}: {error}") from error


def _flat(config: type[Settings]) -> dict[str, FieldInfo]:
    """The settings that hold no others."""
    return {name: entry for name, entry in config.model_fields.items() if entry.annotation is not Limits}


def _plain(annotation: Any) -> type:
    """The type of a setting that may be left out, without its bounds."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    kind: type = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return kind


def _shape(name: str, annotation: object) -> dict[str, Any]:
    """How argparse reads a setting."""
    kind = _plain(annotation)
    if kind is bool:
        return {"action": "store_true"}
    if name == "blob_options":
        return {"action": "append", "type": pair, "metavar": "NAME=VALUE|NAME=@FILE"}
    if name == "names":
        return {"action": "append", "metavar": "NAME"}
    readers: dict[type, Callable[[str], object]] = {int: size if name.endswith("_bytes") else int, str: text}
    counts = {int: "BYTES" if name.endswith("_bytes") else "N", float: "SECONDS"}
    return {
        "action": "store",
        "type": readers.get(kind, kind),
        "metavar": counts.get(kind, name.rpartition("_")[2].upper()),
    }


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
