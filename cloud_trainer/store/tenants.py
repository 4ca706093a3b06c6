"""Where a tenant's files are: the default tenant's in the trainer's folder, another one's in a folder of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from gymnast_core.episodes.messages import checked_id
from gymnast_core.errors import ConfigError

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


def tenant_named(written: Mapping[str, object]) -> str:
    """Return the tenant that something written down names; what names none was written before there were tenants."""
    return str(written.get("tenant", DEFAULT_TENANT))


def closed_folder(folder: Path) -> None:
    """Make a trainer's folder, or close one to everybody else on this machine: it holds every tenant's data.

    Raises:
        ConfigError: it is another user's.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    mode = folder.stat().st_mode
    if mode & 0o007:  # made by somebody in passing, e.g. by `gymnast enroll` for the authority below it
        try:
            folder.chmod(mode & 0o770)
        except OSError as error:
            raise ConfigError(f"everybody on this machine can look into {folder}: chmod o= {folder}") from error


def tenant_folder(folder: Path, tenant: str) -> Path:
    """Return the folder of one tenant's files.

    Args:
        folder: of the trainer.
        tenant: as in a certificate.

    Raises:
        ContractError: no tenant is called so.
    """
    return folder if tenant == DEFAULT_TENANT else folder / "tenants" / checked_id(tenant, "tenant")
