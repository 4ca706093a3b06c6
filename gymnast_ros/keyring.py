"""What one start of a robot's graph shares with its own processes and nobody else: key, stop latch, re-arm word.

The starter (`gymnast up`, bridge.launch.py) makes them anew in <folder>/gate, readable by its user alone, and hands
their place down in the environment. No key is ever a parameter or an argument, which everybody could read.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gymnast_core.arm.latch import StopLatch
from gymnast_core.arm.mark import KEY_BYTES, graph_id
from gymnast_core.errors import ConfigError
from gymnast_ros.seat import Seat

if TYPE_CHECKING:  # nodes read what a claim left, and need nothing of what can be started
    from gymnast_ros.graph import GraphConfig

VARIABLE = "GYMNAST_GATE"
KEY_FILE, LATCH_FILE, SEAT_FILE = "key", "latch", "graph"
REARM_FILE, RECOVER_FILE = "rearm", "recover"
"""Of the operator's words: one re-arms the gate, one lets the arm recover from a motor fault; each once."""
DOMAIN_VARIABLE = "ROS_DOMAIN_ID"


def folder_of(robot_folder: Path) -> Path:
    """Return where the graph over this folder keeps its key."""
    return robot_folder / "gate"


@dataclass(frozen=True, eq=False)
class Keyring:
    """Of one graph.

    Attributes:
        folder: where it lies.
        key: of the marks.
        latch: of the emergency stop.
    """

    folder: Path
    key: bytes
    latch: StopLatch

    @classmethod
    def make(cls, folder: Path) -> Keyring:
        """Make a new key and a new latch, for a new start of a graph."""
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        _write_private(folder / KEY_FILE, secrets.token_hex(KEY_BYTES))
        StopLatch.create(folder / LATCH_FILE)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> Keyring:
        """Read what a starter made.

        Raises:
            ConfigError: there is none, or it belongs to another user.
        """
        try:
            owner = (folder / KEY_FILE).stat()
            key = bytes.fromhex((folder / KEY_FILE).read_text())
            latch = StopLatch.attach(folder / LATCH_FILE)
        except (OSError, ValueError) as error:
            raise ConfigError(f"no graph's key in {folder}: {error}; is the robot's graph started, by you?") from error
        if os.geteuid() not in (owner.st_uid, 0) or owner.st_mode & 0o077:
            raise ConfigError(
                f"{folder / KEY_FILE} is user {owner.st_uid}'s, or others may use it; start the graph again"
            )
        if len(key) != KEY_BYTES:
            raise ConfigError(f"{folder / KEY_FILE} holds {len(key)} bytes, not {KEY_BYTES}; start the graph again")
        return cls(folder, key, latch)

    @classmethod
    def of_environment(cls) -> Keyring:
        """Read what this process's starter handed down.

        Raises:
            ConfigError: nothing was; the message names the remedy.
        """
        place = os.environ.get(VARIABLE)
        if not place:
            raise ConfigError(
                f"{VARIABLE} is not set: gate and arm run only with the key of their starter; use `gymnast up` or "
                f"`ros2 launch gymnast_ros bridge.launch.py`, or point {VARIABLE} at the gate folder of a started one"
            )
        return cls.load(Path(place))

    @property
    def graph(self) -> str:
        """Name of this start of the graph."""
        return graph_id(self.key)

    @property
    def made_s(self) -> float:
        """When the graph was started, wall clock."""
        return (self.folder / KEY_FILE).stat().st_mtime

    @property
    def robot(self) -> str:
        """The robot's name, as its starter wrote it down; empty where no starter did."""
        path = self.folder / SEAT_FILE
        return str(json.loads(path.read_text())["robot"]) if path.is_file() else ""

    @property
    def word_path(self) -> Path:
        """File of the word that re-arms the gate once; the user that may read it is the operator."""
        return self.folder / REARM_FILE

    def new_word(self, file: str = REARM_FILE) -> str:
        """Write down another word; the one before is worth nothing any more."""
        word = secrets.token_hex(8)
        _write_private(self.folder / file, word)
        return word


def re_arm_word(folder: Path) -> str:
    """Return the word that re-arms the gate whose folder this is.

    Raises:
        ConfigError: there is none, or this user may not read it.
    """
    return _word(folder / REARM_FILE, "re-arming", "is the gate running?")


def recover_word(folder: Path) -> str:
    """Return the word by which the arm of this graph recovers from a motor fault.

    Raises:
        ConfigError: there is none, or this user may not read it.
    """
    return _word(folder / RECOVER_FILE, "recovering", "does a real arm run?")


def _word(path: Path, what: str, question: str) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"{what} needs the word in {path}: {error.strerror}; {question}") from error


class Claim:
    """One starter's hold on a robot's name in a ROS domain of this machine, and on its folder.

    Args:
        config: of the graph that is about to start.

    Raises:
        ConfigError: another graph holds either; the message names it.
    """

    def __init__(self, config: GraphConfig) -> None:
        self.folder = _own_folder(folder_of(config.folder))
        domain = str(config.domain_id) if config.domain_id is not None else os.environ.get(DOMAIN_VARIABLE, "0")
        arm = config.namespace.strip("/").replace("/", ".") or "arm"
        own = {"robot": config.robot_name, "folder": str(config.folder), "domain": domain, "pid": os.getpid()}
        self._held = contextlib.ExitStack()
        with contextlib.ExitStack() as held:
            held.callback(Seat(domain, arm, own).close)
            held.callback(os.close, _held(self.folder / SEAT_FILE, json.dumps(own)))
            Keyring.make(self.folder)
            self._held = held.pop_all()

    @property
    def environment(self) -> Mapping[str, str]:
        """What every process of the graph needs."""
        return {VARIABLE: str(self.folder)}

    def release(self) -> None:
        """Another graph may start; the kernel does the same when this process ends."""
        self._held.close()


def _own_folder(folder: Path) -> Path:
    """Make the folder of a graph's key where it is missing; whoever could swap it could give the arm a key of his own.

    Raises:
        ConfigError: it is another user's, a link, or everybody on this machine may replace it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        own, around = folder.lstat(), folder.parent.stat()
    except OSError as error:
        raise ConfigError(f"no folder for the graph's key: {error}; choose another --folder") from error
    if not stat.S_ISDIR(own.st_mode) or own.st_uid != os.geteuid():
        what = "a link" if stat.S_ISLNK(own.st_mode) else f"user {own.st_uid}'s"
        raise ConfigError(f"{folder} is not a folder of yours but {what}: remove it, or choose another --folder")
    if around.st_mode & stat.S_IWOTH and not around.st_mode & stat.S_ISVTX:
        raise ConfigError(f"everybody on this machine may write to {folder.parent}: chmod o-w {folder.parent}")
    return folder


def _held(path: Path, own: str) -> int:
    """Lock a file and write its owner into it; returns its descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        words = os.read(descriptor, 4096).decode(errors="replace")
        os.close(descriptor)
        raise ConfigError(
            f"{_name_of(words)} is running already; stop it, or choose another --domain and --folder"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, own.encode(), 0)
    return descriptor


def _name_of(words: str) -> str:
    try:
        other = json.loads(words)
        return (
            f"a graph of robot {other['robot']!r} (domain {other['domain']}, folder {other['folder']}, "
            f"process {other['pid']})"
        )
    except (ValueError, KeyError, TypeError):
        return "another graph of this robot"


def _write_private(path: Path, text: str) -> None:
    """Replace a file by one that only its owner may read."""
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)
