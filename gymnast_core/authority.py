"""Who may do what: one table of actions, asked by the wire and by every page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from gymnast_core.wire.errors import NotPermittedError

ROLES = ("robot", "trainer", "operator", "admin")
"""Of callers; a server is none."""

_EVERYBODY = frozenset(ROLES)
_LAB = frozenset({"trainer", "operator", "admin"})
_PEOPLE = frozenset({"operator", "admin"})
_ROBOTS = frozenset({"robot", "admin"})
_MACHINES = frozenset({"trainer", "admin"})
_ADMIN = frozenset({"admin"})

MAY: Mapping[str, frozenset[str]] = {
    "look": _LAB,
    "follow": _EVERYBODY,
    "log in": _LAB,
    "stop": _LAB,
    "re-arm": _PEOPLE,
    "recover": _PEOPLE,
    "label": _PEOPLE,
    "retract": _PEOPLE,
    "adapt": _PEOPLE,
    "adapt its own": _PEOPLE | {"robot"},
    "try": _PEOPLE,
    "loop": _PEOPLE,
    "acknowledge": _PEOPLE,
    "test pages": _PEOPLE,
    "queue": _PEOPLE,
    "cancel": _PEOPLE,
    "cancel its own": _PEOPLE | {"robot"},
    "submit": _EVERYBODY,
    "work": _MACHINES,
    "deliver weights": _MACHINES,
    "publish": _ADMIN,
    "gate": _PEOPLE,
    "override the gate": _ADMIN,
    "promote": _ADMIN,
    "roll back": _ADMIN,
    "upload": _ROBOTS,
    "report": _ROBOTS,
    "infer": _ROBOTS,
    "judge": _ROBOTS,
    "inspect": _ADMIN,
    "enroll": frozenset({"newcomer"}),  # a one-time code in place of an identity
}
"""Action -> roles that may do it; anything else is refused."""


class Who(Protocol):
    """Somebody who is known: a certificate's Peer or a page's User."""

    @property
    def name(self) -> str:
        """As in the certificate or token."""
        ...

    @property
    def role(self) -> str:
        """One of ROLES."""
        ...

    @property
    def tenant(self) -> str:
        """Whose data."""
        ...


_Somebody = TypeVar("_Somebody", bound=Who)


def may(who: Who, action: str) -> bool:
    """Whether a role allows an action."""
    return who.role in MAY.get(action, frozenset())


def authorise(who: _Somebody | None, action: str) -> _Somebody:
    """Return the caller if its role allows the action.

    Raises:
        NotPermittedError: nobody, an unlisted action, or another role is needed; the message names those that may.
    """
    if who is None:
        raise NotPermittedError("the certificate names no gymnast identity; get one with `gymnast enroll`")
    if not may(who, action):
        allowed = ", ".join(role for role in ROLES if role in MAY.get(action, frozenset()))
        raise NotPermittedError(f"{who.name!r} ({who.role}) may not {action}; who may: {allowed or 'nobody'}")
    return who
