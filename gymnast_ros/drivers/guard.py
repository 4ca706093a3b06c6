"""The vendor's robot behind one door: whatever a call raises becomes a fault with a name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from gymnast_core.errors import GymnastError, SafetyError
from gymnast_ros.drivers.contract import VENDOR_API, Call, VendorRobot, check_vendor


class VendorFailedError(SafetyError):
    """A call of the vendor's package raised; its driver has probably gone."""


def guarded(robot: VendorRobot) -> VendorRobot:
    """Return the same robot with VENDOR_API as its only methods, each raising VendorFailedError where it raises.

    The package ends a call on a service that does not answer with an AttributeError on None, and may raise anything.

    Raises:
        ContractError: it lacks something we call.
    """
    check_vendor(robot)
    parts: dict[str, SimpleNamespace] = {}
    for call in VENDOR_API:
        method = getattr(getattr(robot, call.part), call.name)
        setattr(parts.setdefault(call.part, SimpleNamespace()), call.name, _named(call, method))
    return cast("VendorRobot", SimpleNamespace(**parts))


def _named(call: Call, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(**arguments: Any) -> Any:
        try:
            return method(**arguments)
        except GymnastError:
            raise
        except Exception as error:
            raise VendorFailedError(
                f"{call.part}.{call.name}{_short(arguments)} of interbotix_xs_modules failed ({error!r}); "
                "does xs_sdk still run?"
            ) from error

    return run


def _short(arguments: dict[str, object]) -> str:
    named = (str(arguments[name]) for name in ("name", "reg") if name in arguments)
    return f"({', '.join(named)})"
