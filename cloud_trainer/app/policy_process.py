"""A policy in a process of its own: the service needs no torch, and survives what a policy does to its process."""

from __future__ import annotations

import json
import logging
import sys
import threading
from pathlib import Path

from gymnast_core.errors import CheckpointError, ConfigError, GymnastError, PolicyFailedError
from gymnast_core.framed import FramedProcess, ProcessEndedError
from gymnast_core.wire.gymnast.v1 import policy_pb2

LOG = logging.getLogger(__name__)
_ERRORS: dict[str, type[GymnastError]] = {kind.__name__: kind for kind in (CheckpointError, ConfigError)}
LOAD_S = 1200.0
"""Longest wait until a policy is loaded; tens of gigabytes come from a disk."""
FIRST_S, ANSWER_S = 300.0, 20.0
"""Longest wait for the first answer, which may compile, and for every other one; robots themselves wait less."""


class PolicyProcess:
    """Runs one policy; one request at a time, whatever streams they come from.

    Args:
        folder: checkpoint.
        device: see gymnast_core.policies.serve_policy.
        answer_s: longest wait for an answer but the first.

    Attributes:
        version: of the policy.

    Raises:
        CheckpointError: it is no policy, or altered.
        ConfigError: no such device here.
    """

    def __init__(self, folder: Path, device: str, *, answer_s: float = ANSWER_S) -> None:
        self._folder, self._device, self._answer_s = folder, device, answer_s
        self._lock = threading.Lock()
        self.version, self._wait_s = "", FIRST_S
        self._process = self._started()

    def answer(self, request: policy_pb2.InferRequest) -> policy_pb2.InferReply:
        """Return the reply to a request; a process that ended is started again for the next one.

        Raises:
            PolicyFailedError: it ended over this one, or hung and was ended.
        """
        with self._lock:
            if not self._process.running:
                LOG.warning("policy_restarted version=%s", self.version)
                self._process.close()
                self._process = self._started()
            try:
                reply = self._process.ask(request.SerializeToString(), self._wait_s)
            except TimeoutError:
                self._process.end()
                raise PolicyFailedError(
                    f"policy {self.version} did not answer within {self._wait_s:.0f} s; it is started again"
                ) from None
            except ProcessEndedError as error:
                self._process.end()
                raise PolicyFailedError(f"the process of policy {self.version} ended: it {error}") from error
            if request.instructions:  # a greeting computes nothing
                self._wait_s = self._answer_s
        return policy_pb2.InferReply.FromString(reply)

    def close(self) -> None:
        """End the process."""
        self._process.end()
        with self._lock:
            self._process.close()

    def _started(self) -> FramedProcess:
        process = FramedProcess([sys.executable, "-m", "cloud_trainer.policy_worker", str(self._folder), self._device])
        self._wait_s = max(FIRST_S, self._answer_s)
        try:
            greeting = json.loads(process.read(LOAD_S))
        except (TimeoutError, ProcessEndedError) as error:
            process.close()
            how = "was not there in time" if isinstance(error, TimeoutError) else str(error)
            raise GymnastError(f"the process of policy {self._folder} {how}") from error
        if "version" not in greeting:
            process.close()
            raise _ERRORS.get(greeting["error"], GymnastError)(greeting["message"])
        self.version = str(greeting["version"])
        return process
