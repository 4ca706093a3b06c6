"""A policy in a process of its own: the service needs no torch, and survives what a policy does to its process."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

from cloud_trainer.policy_worker import read_frame, write_frame
from gymnast_core.errors import CheckpointError, ConfigError, GymnastError, PolicyFailedError
from gymnast_core.wire.gymnast.v1 import policy_pb2

LOG = logging.getLogger(__name__)
_ERRORS: dict[str, type[GymnastError]] = {kind.__name__: kind for kind in (CheckpointError, ConfigError)}


class PolicyProcess:
    """Runs one policy; one request at a time, whatever streams they come from.

    Args:
        folder: checkpoint.
        device: see gymnast_core.policies.serve_policy.

    Raises:
        CheckpointError: it is no policy, or altered.
        ConfigError: no such device here.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._folder, self._device = folder, device
        self._lock = threading.Lock()
        self._process = self._started()

    def answer(self, request: policy_pb2.InferRequest) -> policy_pb2.InferReply:
        """Return the reply to a request; a process that died is started again for the next one.

        Raises:
            PolicyFailedError: it died over this one.
        """
        with self._lock:
            if self._process.poll() is not None:
                LOG.warning("policy_restarted version=%s code=%s", self.version, self._process.returncode)
                _end(self._process)
                self._process = self._started()
            try:
                assert self._process.stdin is not None
                write_frame(self._process.stdin, request.SerializeToString())
                reply = self._read(self._process)
            except OSError:
                reply = None
            if reply is None:
                _end(self._process)
                raise PolicyFailedError(
                    f"the process of policy {self.version} ended; the trainer's log has its last words"
                )
        return policy_pb2.InferReply.FromString(reply)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            _end(self._process)

    def _started(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "cloud_trainer.policy_worker", str(self._folder), self._device]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        greeting = json.loads(self._read(process) or b"{}")
        if "version" not in greeting:
            code = _end(process)
            kind = _ERRORS.get(greeting.get("error", ""), GymnastError)
            raise kind(greeting.get("message") or f"the process of policy {self._folder} ended with {code}")
        self.version = str(greeting["version"])
        return process

    @staticmethod
    def _read(process: subprocess.Popen[bytes]) -> bytes | None:
        assert process.stdout is not None
        return read_frame(process.stdout)


def _end(process: subprocess.Popen[bytes]) -> int:
    """End a process that may have ended; returns its exit code."""
    process.kill()
    code = process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what was not read any more
                pipe.close()
    return code
