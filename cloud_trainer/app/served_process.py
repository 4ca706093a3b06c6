"""A model in a process of its own: the service needs no torch, and survives what a model does to its process."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Mapping, Sequence

from gymnast_core.errors import CheckpointError, ConfigError, GymnastError, PolicyFailedError
from gymnast_core.framed import FramedProcess, ProcessEndedError
from gymnast_core.json_values import JsonObject

LOG = logging.getLogger(__name__)
_ERRORS: Mapping[str, type[GymnastError]] = {kind.__name__: kind for kind in (CheckpointError, ConfigError)}
LOAD_S = 1200.0
"""Longest wait until a model is loaded; tens of gigabytes come from a disk."""
FIRST_S, ANSWER_S = 300.0, 20.0
"""Longest wait for the first answer, which may compile, and for every other one; robots themselves wait less."""


class ServedProcess:
    """One model's process; one request at a time, whatever streams they come from.

    Its first frame is JSON: {version}, or {error, message} where the model cannot be loaded.

    Args:
        what: "policy" or "judge", for messages.
        command: module of the process and its arguments.
        answer_s: longest wait for an answer but the first.

    Attributes:
        version: of the model.
        greeting: all that its process says of it, JSON values.

    Raises:
        CheckpointError: it is no such model, or altered.
        ConfigError: a setting of it makes no sense here.
    """

    def __init__(self, what: str, command: Sequence[str], *, answer_s: float = ANSWER_S) -> None:
        self._what, self._command, self._answer_s = what, list(command), answer_s
        self._lock = threading.Lock()
        self.version, self._wait_s = "", FIRST_S
        self.greeting: JsonObject = {}
        self._process = self._started()

    @property
    def pid(self) -> int:
        """Of the process that answers now."""
        return self._process.pid

    def ask(self, request: bytes, *, computes: bool = True) -> bytes:
        """Return the reply to a request; a process that ended is started again for the next one.

        Args:
            request: a frame.
            computes: whether it is more than a greeting, so that the first answer's patience is used up.

        Raises:
            PolicyFailedError: it ended over this one, or hung and was ended.
        """
        with self._lock:
            if not self._process.running:
                LOG.warning("%s_restarted version=%s", self._what, self.version)
                self._process.close()
                self._process = self._started()
            try:
                reply = self._process.ask(request, self._wait_s)
            except TimeoutError:
                self._process.end()
                raise PolicyFailedError(
                    f"{self._what} {self.version} did not answer within {self._wait_s:.0f} s; it is started again"
                ) from None
            except ProcessEndedError as error:
                self._process.end()
                raise PolicyFailedError(f"the process of {self._what} {self.version} ended: it {error}") from error
            if computes:
                self._wait_s = self._answer_s
        return reply

    def close(self) -> None:
        """End the process."""
        self._process.end()
        with self._lock:
            self._process.close()

    def _started(self) -> FramedProcess:
        process = FramedProcess([sys.executable, "-m", *self._command])
        self._wait_s = max(FIRST_S, self._answer_s)
        try:
            greeting = json.loads(process.read(LOAD_S))
        except (TimeoutError, ProcessEndedError) as error:
            process.close()
            how = "was not there in time" if isinstance(error, TimeoutError) else str(error)
            raise GymnastError(f"the process of {self._what} {self._command[1]} {how}") from error
        if "version" not in greeting:
            process.close()
            raise _ERRORS.get(greeting["error"], GymnastError)(greeting["message"])
        self.version, self.greeting = str(greeting["version"]), greeting
        return process
