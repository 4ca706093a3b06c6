"""Packages that import a part when it is first asked for: a process that needs one part does not start with all."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping


def parts(package: str, names: Mapping[str, tuple[str, ...]]) -> Callable[[str], object]:
    """Return the `__getattr__` of a package (PEP 562); type checkers read its imports under TYPE_CHECKING.

    Args:
        package: its `__name__`.
        names: what each of its modules contributes, by the module's name within the package.
    """
    homes = {name: module for module, found in names.items() for name in found}

    def __getattr__(name: str) -> object:  # noqa: N807  # the package's
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__
