"""Looks over a trainer's folder: what is damaged, lost, about to expire or to run out, and what to do about it.

Nothing that is kept is changed. The database is looked into only while no trainer runs: SQLite may lose a log that two
connections reset (cloud_trainer.store.database).
"""

from __future__ import annotations

import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from cloud_trainer.records.before import left_behind
from cloud_trainer.service.config import ServiceConfig
from cloud_trainer.service.doctor_database import BACKUP, database_findings
from cloud_trainer.service.enroll import days_left
from cloud_trainer.service.lock import FolderLock, holder
from gymnast_core.episodes.messages import checked_id
from gymnast_core.errors import ConfigError, ContractError, OccupiedError
from gymnast_core.finding import Finding, State

_SOON_DAYS = 30.0
_WEEK_S = 7 * 86_400
_OWN = "look where it comes from, and move it out of the folder"


def examine(config: ServiceConfig, *, deep: bool = False) -> Iterator[Finding]:
    """Yield what is found, check by check.

    Args:
        config: of the trainer; only its folder, database, blobs and limits are used.
        deep: read every blob and compare it with its name; takes as long as reading them all.

    Raises:
        ConfigError: the folder is not there, or no trainer's.
        OccupiedError: a trainer runs on it, so that deep cannot be done.
    """
    folder = config.folder
    if not (folder / "ca").is_dir() and not (folder / "store.db").is_file():
        raise ConfigError(f"{folder} is no trainer's folder; name the one given to `gymnast serve --folder`")
    yield from _disk(config)
    yield from _certificates(folder)
    yield from _strange(folder)
    try:
        lock = FolderLock(folder)
    except ConfigError:
        found = f"one runs on {folder}{holder(folder)}, so its database, blobs and graph were not examined"
        remedy = "stop it (Ctrl-C), and run doctor again"
        yield Finding("trainer", "warning", found, remedy)
        if deep:
            raise OccupiedError(
                f"no stored file was read: a trainer runs on {folder}{holder(folder)}; {remedy}"
            ) from None
        return
    try:
        yield from database_findings(config, deep=deep)
        yield from _left_behind(folder)
        yield from _staging(folder)
    finally:
        lock.release()


def _disk(config: ServiceConfig) -> Iterator[Finding]:
    free, least = shutil.disk_usage(config.folder).free, config.limits.min_free_bytes
    short = free < 4 * least
    remedy = f"free some: below {least} bytes episodes are refused (they wait on the robots)" if short else ""
    yield Finding("disk", "fault" if free < least else "warning" if short else "ok", f"{free} bytes are free", remedy)


def _certificates(folder: Path) -> Iterator[Finding]:
    renewals = {"ca/ca.pem": "make a new authority and enroll everybody anew before that day",
                "server/cert.pem": "restart the trainer, which renews it"}  # fmt: skip
    for name, remedy in renewals.items():
        try:
            left = days_left(_plain_bytes(folder / name))
        except FileNotFoundError:
            lost = name.startswith("ca/") or (folder / "server").is_dir()
            yield Finding("certificates", "fault" if lost else "ok", f"{name} is not there", BACKUP if lost else "")
            continue
        except (ValueError, OSError) as error:
            yield Finding("certificates", "fault", f"{name} cannot be read: {error}", BACKUP)
            continue
        state: State = "fault" if left <= 0 else "warning" if left < _SOON_DAYS else "ok"
        said = f"expires in {left:.0f} days" if left > 0 else f"expired {-left:.0f} days ago"
        yield Finding("certificates", state, f"{name} {said}", "" if state == "ok" else remedy)
    for path in sorted((folder / "server").glob("*.pem")) if (folder / "server").is_dir() else []:
        if path.name == "ca.pem" and (folder / "ca" / "ca.pem").is_file() and not _same(path, folder / "ca" / "ca.pem"):
            yield Finding("certificates", "fault", f"{path} is of another authority than ca/ca.pem", BACKUP)


def _same(one: Path, other: Path) -> bool:
    try:
        first, second = (x509.load_pem_x509_certificate(_plain_bytes(path)) for path in (one, other))
    except (ValueError, OSError):
        return False
    return first == second


def _plain_bytes(path: Path) -> bytes:
    """Read a file; a pipe in its place would never end.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it is no plain file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is no plain file")
    return path.read_bytes()


def _strange(folder: Path) -> Iterator[Finding]:
    """What lies where a trainer keeps its files and is none of its own: links, pipes, folders of no tenant's name."""
    wanted = [folder / name for name in ("lock", "store.db", "ca", "server", "tenants", "console")]
    tenants = sorted((folder / "tenants").glob("*")) if (folder / "tenants").is_dir() else []
    homes = [path / "before-0.2" for path in (folder, *tenants)]
    for path in (*wanted, *tenants, *homes, *sorted((folder / "server").glob("*.pem"))):
        if path.is_symlink():
            yield Finding("folder", "fault", f"{path} is a link; it leads out of the trainer's folder", _OWN)
        elif path.exists() and not path.is_file() and not path.is_dir():
            yield Finding("folder", "fault", f"{path} is neither a file nor a folder", _OWN)
    for path in tenants:
        try:
            checked_id(path.name, "tenant")
        except ContractError:
            yield Finding("folder", "warning", f"{path} is the folder of no tenant: none is called so", _OWN)


def _left_behind(folder: Path) -> Iterator[Finding]:
    """Files of the version before, which the next start takes into the database."""
    for path, damage in left_behind(folder):
        if damage:
            yield Finding("before", "fault", damage, f"keep {path.relative_to(folder)}, {BACKUP}")
        else:
            what = f"{path.relative_to(folder)} is of the version before"
            yield Finding("before", "warning", what, "back it up; the next start takes it into the database")


def _staging(folder: Path) -> Iterator[Finding]:
    old = [path for path in (folder / "staging").rglob("*") if path.is_file()
           and time.time() - path.stat().st_mtime > _WEEK_S]  # fmt: skip
    size = sum(path.stat().st_size for path in old)
    if old:
        yield Finding("staging", "warning", f"{len(old)} uploads of {size} bytes stopped over a week ago",
                      "delete them if those robots are gone for good; others go on where they stopped")  # fmt: skip
