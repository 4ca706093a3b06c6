"""What the product defines, the product uses: a mechanism needs a caller on a user's path, tests are none."""

from pathlib import Path

from vulture import Vulture

ROOT = Path(__file__).parents[1]
PRODUCT = ("gymnast_core", "gymnast_client", "gymnast_ros", "cloud_trainer", "gymnast_cli", "launch", "setup.py")
GENERATED = "*/wire/gymnast/*"
REGISTERING = ["@model_validator", "@field_validator", "@field_serializer", "@*.get", "@*.post", "@*.exception_handler"]
"""Decorators that hand a function to pydantic or FastAPI, which call it."""
KINDS = {"function", "method", "property", "class", "import"}
"""Not variables and attributes: fields of dataclasses are read as JSON and by templates, which vulture does not see."""


def unused_names() -> dict[str, str]:
    """Name -> where it is defined."""
    found = Vulture(ignore_decorators=REGISTERING)
    found.scavenge([str(ROOT / top) for top in PRODUCT if (ROOT / top).exists()], exclude=[GENERATED])
    rows = [row for row in found.get_unused_code() if row.typ in KINDS]
    return {row.name: f"{Path(row.filename).relative_to(ROOT)}:{row.first_lineno} {row.typ}" for row in rows}


def allowed_names() -> dict[str, str]:
    """Name -> reason."""
    lines = (Path(__file__).parent / "unused_allowed.txt").read_text().splitlines()
    split = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert all(len(parts) == 2 for parts in split), "every line needs a reason"
    return {name: reason for name, reason in split}


def test_every_definition_has_a_caller_in_the_product():
    unused, allowed = unused_names(), allowed_names()
    rows = [f"{where} {name}" for name, where in unused.items() if name not in allowed]
    assert not rows, "wire them, delete them, or list in unused_allowed.txt what a framework calls"
    assert not set(allowed) - set(unused), f"used or gone, drop their lines: {sorted(set(allowed) - set(unused))}"
