"""A PostgreSQL server of one's own from the distribution's packages, for the store tests and the benchmark."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa


class PostgresMissingError(Exception):
    """It cannot run here; says what to install."""


@contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[str]:
    """Start a server in a temporary folder; gives its SQLAlchemy URL.

    Args:
        durable: commits are flushed, as in earnest; without, tests are quicker.

    Raises:
        PostgresMissingError: not installed, or only root is there to run it.
        RuntimeError: it did not start.
    """
    found = [binary.parent for binary in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    if not found:
        raise PostgresMissingError("PostgreSQL is not installed: apt-get install postgresql")
    who = _account()
    folder = Path(tempfile.mkdtemp(prefix="gymnast-pg-"))
    if who:
        shutil.chown(folder, who["user"], who["group"])
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **who}
    make = ("initdb", "-D", folder / "data", "-A", "trust", "-U", "gymnast", "-E", "UTF8", "--no-sync")
    subprocess.run([found[-1] / make[0], *make[1:]], check=True, **quiet)
    run = ("postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-h", "127.0.0.1")
    settings = ("-c", f"fsync={'on' if durable else 'off'}", "-c", "max_connections=40")
    server = subprocess.Popen([found[-1] / run[0], *run[1:], *settings], **quiet)
    try:
        yield _when_up(f"postgresql+psycopg://gymnast@127.0.0.1:{port}/postgres", server)
    finally:
        server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown: SIGTERM waits for clients
        server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def database_of_ones_own(server_url: str) -> Iterator[str]:
    """Make an empty database on a server; gives its URL, and drops it at the end."""
    name, outside = f"db_{secrets.token_hex(6)}", sa.create_engine(server_url, isolation_level="AUTOCOMMIT")
    try:
        with outside.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield f"{server_url.rpartition('/')[0]}/{name}"
        with outside.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        outside.dispose()


def _account() -> dict[str, Any]:
    """Whom to run it as: it refuses to be root."""
    if os.getuid() != 0:
        return {}
    try:
        account = pwd.getpwnam("postgres")
    except KeyError:
        raise PostgresMissingError("PostgreSQL refuses to run as root and there is no user postgres") from None
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _when_up(url: str, server: subprocess.Popen[bytes]) -> str:
    deadline, engine = time.monotonic() + 30, sa.create_engine(url)
    while True:
        try:
            engine.connect().close()
            engine.dispose()
            return url
        except sa.exc.OperationalError as error:
            if time.monotonic() > deadline or server.poll() is not None:
                raise RuntimeError("PostgreSQL did not start") from error
            time.sleep(0.1)
