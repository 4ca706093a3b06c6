"""What the uplink reports: how the link is, and what happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class UplinkEvent:
    """Something the operator may want to see.

    Attributes:
        kind: connected, disconnected, acknowledged, refused, held_back, alarm, staged, release_refused.
        data: JSON values.
    """

    kind: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class UplinkStatus:
    """How the link is.

    Attributes:
        connected: the last attempt to talk to the trainer worked.
        pending: episodes in the spool.
        pending_bytes: their size.
        acknowledged: episodes shipped since the start.
        duplicates: of those, ones the trainer had already.
        refused: episodes set aside since the start.
        sent_bytes: chunk bytes sent since the start.
        staged: id of the staged checkpoint, if any.
        alarm: what an operator must do something about; empty when all is well.
        last_error: the newest failure of the link.
    """

    connected: bool
    pending: int
    pending_bytes: int
    acknowledged: int
    duplicates: int
    refused: int
    sent_bytes: int
    staged: str
    alarm: str
    last_error: str
