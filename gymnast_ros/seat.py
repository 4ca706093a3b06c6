"""One graph of a robot in a ROS domain: its starter holds a name that the kernel keeps, not a file others can plant.

The name is an abstract socket's: of this network namespace, as DDS on one machine is; of all its users; gone with the
process. Its holder's process and user are the kernel's word (SO_PEERCRED), what it runs is the holder's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import socket
import struct
import threading
from collections.abc import Mapping
from typing import Any

from gymnast_core.errors import ConfigError

PREFIX = "\0gymnast-graph-"
_ANSWER_S = 2.0
_MOST_ARM = 40
"""A socket's name has 107 bytes."""
_CREDENTIALS = struct.Struct("3i")


class Seat:
    """Held from its making until close(), or the end of this process.

    Args:
        domain: ROS_DOMAIN_ID.
        arm: namespace of the graph.
        own: what another starter gets to read: {robot, domain, folder, pid}.

    Raises:
        ConfigError: somebody holds it; the message names the process and its user.
    """

    def __init__(self, domain: str, arm: str, own: Mapping[str, Any]) -> None:
        short = arm if len(arm) <= _MOST_ARM else hashlib.sha256(arm.encode()).hexdigest()[:_MOST_ARM]
        name = f"{PREFIX}{domain}-{short}"
        self._words = json.dumps(dict(own)).encode()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(name)
        except OSError as error:
            self._socket.close()
            raise ConfigError(f"{_holder(name)}; stop it, or choose another --domain and --folder") from error
        self._socket.listen(8)
        self._thread = threading.Thread(target=self._answer, name="seat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Another graph may start."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept()
        self._thread.join()  # as long as it is in there, the name is held
        self._socket.close()

    def _answer(self) -> None:
        while True:
            try:
                asking, _ = self._socket.accept()
            except OSError:
                return
            with asking, contextlib.suppress(OSError):
                asking.settimeout(_ANSWER_S)
                asking.sendall(self._words)


def _holder(name: str) -> str:
    """Say who holds a name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(_ANSWER_S)
        try:
            asking.connect(name)
        except OSError:
            return (
                f"a program that is no graph holds the name of this robot's ({name[1:]}); "
                f"`ss -xae | grep {name[1:]}` shows its user, and to root its process"
            )
        pid, uid, _ = _CREDENTIALS.unpack(asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(asking.recv(4096))
            robot, domain, folder = (str(found[key])[:200] for key in ("robot", "domain", "folder"))
            what = f"a graph of robot {robot!r} (domain {domain!r}, folder {folder!r}, process {pid})"
            return f"{what}{_of(uid)} is running already"
    return f"process {pid}{_of(uid)} holds the name of this robot's graph and does not answer"


def _of(uid: int) -> str:
    if uid == os.geteuid():
        return ""
    with contextlib.suppress(KeyError):
        return f" of user {pwd.getpwuid(uid).pw_name}"
    return f" of user {uid}"
