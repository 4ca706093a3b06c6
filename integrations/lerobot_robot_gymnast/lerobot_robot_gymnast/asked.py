"""The port where the arm's rollout asks for its next action: openpi's protocol, msgpack of plain numbers, no pickle."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State
from websockets.sync.server import Server, ServerConnection, serve

LOG = logging.getLogger(__name__)
HOST = "127.0.0.1"
MAX_BYTES = 16 << 20
_DTYPE = re.compile(r"\|u1|<f[48]")
STATE, TASK = "state", "task"
WIDTH = 7


class ArmNotAskingError(ConnectionError):
    """The arm waits for no action: no episode runs, or it gave up waiting. Nothing was sent to it."""


@dataclass(frozen=True)
class Question:
    """What the arm sees now; it waits for one action.

    Attributes:
        frames: camera -> (H, W, 3) uint8 RGB.
        state_P: (7,) x y z [m], roll pitch yaw [rad], gripper (1 open).
        task: what to do.
        connection: who waits.
    """

    frames: dict[str, npt.NDArray[np.uint8]]
    state_P: npt.NDArray[np.float32]
    task: str
    connection: ServerConnection

    @property
    def waits(self) -> bool:
        """Whether whoever asked is still there: the arm hangs up where an answer is late, and holds."""
        return self.connection.protocol.state is State.OPEN


class AskedPort:
    """Holds the newest question of an arm until it is answered.

    Args:
        port: of this machine; 0 is any.
        frames: camera -> (height, width) of its picture.

    Raises:
        OSError: somebody else has the port.
    """

    def __init__(self, port: int, frames: Mapping[str, tuple[int, int]]) -> None:
        self._frames = frames
        self._change = threading.Condition()
        self._question: Question | None = None
        self._connection: ServerConnection | None = None
        self._server: Server = serve(
            self._answer, HOST, port, compression=None, max_size=MAX_BYTES, ping_interval=None, logger=LOG
        )
        self.port = int(self._server.socket.getsockname()[1])
        threading.Thread(target=self._server.serve_forever, name="asked-port", daemon=True).start()

    def question(self, wait_s: float) -> Question:
        """Return what is asked now; the same one until it was answered.

        Raises:
            ArmNotAskingError: nothing was asked in time.
        """
        until = time.monotonic() + wait_s
        with self._change:
            while self._question is None or not self._question.waits:
                self._question = None
                if not self._change.wait(min(0.1, max(0.0, until - time.monotonic()))) and time.monotonic() >= until:
                    raise ArmNotAskingError(
                        f"no arm asked at {HOST}:{self.port} within {wait_s} s: is it started with --policy "
                        f"openpi://{HOST}:{self.port}, armed, and an episode begun (gymnast collect)?"
                    )
            return self._question

    def send(self, action_A: npt.NDArray[np.float32]) -> None:
        """Answer the question.

        Raises:
            ArmNotAskingError: nobody waits for it.
        """
        with self._change:
            question, self._question = self._question, None
        if question is None:
            raise ArmNotAskingError("the arm waits for no action: one observation, one action")
        try:
            question.connection.send(msgpack.packb({"actions": action_A[None]}, default=_packed))
        except ConnectionClosed:
            raise ArmNotAskingError(
                "the action was too late: the arm hung up and holds (parameter remote_deadline_s of its rollout)"
            ) from None

    def close(self) -> None:
        """Hang up and listen no longer; an arm that asks holds."""
        self._server.shutdown()
        with self._change:
            self._question, connection = None, self._connection
        if connection is not None:
            connection.close()

    def _answer(self, connection: ServerConnection) -> None:
        with self._change:
            self._connection = connection
        connection.send(msgpack.packb({"name": "lerobot"}))
        for data in connection:
            try:
                question = self._read(data, connection)
            except (ValueError, TypeError, KeyError, msgpack.exceptions.UnpackException) as error:
                LOG.warning("question_refused error=%s", error)
                connection.send(f"{type(error).__name__}: {error}".replace("\n", " ")[:300])
                return
            with self._change:
                self._question = question
                self._change.notify_all()

    def _read(self, data: str | bytes, connection: ServerConnection) -> Question:
        if isinstance(data, str):
            raise ValueError("a question is a msgpack map, got text")
        message = msgpack.unpackb(data, object_hook=_array)
        wanted = {*self._frames, STATE, TASK}
        if not isinstance(message, dict) or set(message) != wanted:
            got = sorted(map(str, message)) if isinstance(message, dict) else type(message).__name__
            raise ValueError(f"a question has {sorted(wanted)}, got {got}")
        for name, size in self._frames.items():
            _check(name, message[name], (*size, 3), "u")
        _check(STATE, message[STATE], (WIDTH,), "f")
        if not isinstance(message[TASK], str):
            raise ValueError(f"{TASK} must be a text")
        frames = {name: message[name] for name in self._frames}
        return Question(frames, message[STATE].astype(np.float32), message[TASK], connection)


def _check(name: str, value: object, shape: tuple[int, ...], kind: str) -> None:
    if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype.kind != kind:
        got = f"{value.shape} {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise ValueError(f"{name} must be {shape} {'uint8' if kind == 'u' else 'floats'}, got {got}")
    if kind == "f" and not np.isfinite(value).all():
        raise ValueError(f"{name} is not finite")


def _array(entries: dict[Any, Any]) -> Any:
    if b"__ndarray__" not in entries:
        return entries
    dtype = entries[b"dtype"]
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):
        raise ValueError(f"arrays are uint8 or floats, not {dtype!r:.40}")
    return np.frombuffer(entries[b"data"], dtype).reshape(entries[b"shape"]).copy()  # torch wants it writable


def _packed(value: object) -> object:
    assert isinstance(value, np.ndarray)  # nothing else is sent
    shape, dtype = value.shape, value.dtype.str
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": dtype, b"shape": shape}
