"""A policy in a process of its own, for robots without a GPU; see ServedProcess."""

from __future__ import annotations

from pathlib import Path

from cloud_trainer.app.served_process import ANSWER_S, ServedProcess
from gymnast_core.wire.gymnast.v1 import policy_pb2


class PolicyProcess:
    """Runs one policy.

    Args:
        chosen: checkpoint folder, or the settings file of a plan policy.
        device: see gymnast_core.policies.serve_policy.
        answer_s: longest wait for an answer but the first.

    Raises:
        CheckpointError: it is no policy, or altered.
        ConfigError: no such device here.
    """

    def __init__(self, chosen: Path, device: str, *, answer_s: float = ANSWER_S) -> None:
        command = ["cloud_trainer.policy_worker", str(chosen), device]
        if chosen.is_file():
            command = ["cloud_trainer.practice.plan_worker", str(chosen)]
        self._process = ServedProcess("policy", command, answer_s=answer_s)

    @property
    def version(self) -> str:
        """Of the policy."""
        return self._process.version

    def answer(self, request: policy_pb2.InferRequest) -> policy_pb2.InferReply:
        """Return the reply to a request.

        Raises:
            PolicyFailedError: the process ended over this one, or hung and was ended; it is started again.
        """
        reply = self._process.ask(request.SerializeToString(), computes=bool(request.instructions))
        return policy_pb2.InferReply.FromString(reply)

    def close(self) -> None:
        """End the process."""
        self._process.close()
