"""Where a tenant's files are: the default tenant's in the trainer's folder, another one's in a folder of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from gymnast_core.episodes.messages import checked_id

DEFAULT_TENANT = "default"
"""Whose everything is that names no tenant, and that was stored before there were tenants."""
SCENES = Path("console/scenes.json")
CHECKPOINTS = Path("checkpoints")
"""Of one tenant, inside its folder."""


_Kept = TypeVar("_Kept")


class PerTenant(Generic[_Kept]):
    """One of a kind for every tenant, made when it is first asked for. Threads may share it.

    Args:
        make: gets the tenant.
    """

    def __init__(self, make: Callable[[str], _Kept]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._kept: dict[str, _Kept] = {}

    def of(self, tenant: str) -> _Kept:
        """Return one tenant's."""
        with self._lock:
            if tenant not in self._kept:
                self._kept[tenant] = self._make(tenant)
            return self._kept[tenant]

    def made(self) -> list[_Kept]:
        """Return those that were asked for so far."""
        with self._lock:
            return list(self._kept.values())


def tenant_named(written: Mapping[str, Any]) -> str:
    """Return the tenant that something written down names; what names none was written before there were tenants."""
    return str(written.get("tenant", DEFAULT_TENANT))


def tenant_folder(folder: Path, tenant: str) -> Path:
    """Return the folder of one tenant's files.

    Args:
        folder: of the trainer.
        tenant: as in a certificate.

    Raises:
        ContractError: no tenant is called so.
    """
    return folder if tenant == DEFAULT_TENANT else folder / "tenants" / checked_id(tenant, "tenant")
