"""An environment in a process of its own: one that hangs or crashes ends its episode; the next reset restarts it."""

from __future__ import annotations

import json
import logging
import sys

from gymnast_core.errors import EnvLostError, GymnastError
from gymnast_core.foreign.mapping import GymnasiumMapping
from gymnast_core.framed import FramedProcess, ProcessEndedError
from gymnast_core.wire.errors import error_from_wire
from gymnast_core.wire.gymnast.v1 import env_pb2

LOG = logging.getLogger(__name__)
START_S, ANSWER_S = 180.0, 60.0


class EnvHost:
    """Starts, asks and restarts it; one thread at a time.

    Args:
        name: of the Gymnasium environment.
        mapping: what its numbers mean.
        rows: B.
        answer_s: longest wait for an answer; one that takes longer is ended.

    Raises:
        ConfigError: it cannot be made, or the mapping does not fit.
        EnvLostError: its process ended, or hangs, while it started.
    """

    def __init__(self, name: str, mapping: GymnasiumMapping, rows: int, *, answer_s: float = ANSWER_S) -> None:
        words = (name, json.dumps(mapping.to_json()), str(rows))
        self._command = [sys.executable, "-m", "gymnast_core.wire.env_child", *words]
        self._answer_s, self._steps = answer_s, 0
        self._child: FramedProcess | None = None
        self.description = self._start()

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return None if self._child is None else self._child.pid

    def reset(self, request: env_pb2.EnvResetRequest) -> env_pb2.EnvObservation:
        """Begin an episode, in a new process where the old one is gone.

        Raises:
            GymnastError: what the environment refuses; EnvLostError where it ended.
        """
        if self._child is None or not self._child.running:
            self.close()
            if self._start() != self.description:
                raise EnvLostError("the environment was started anew and is another one now; open it again")
        self._steps = 0
        return self._asked(env_pb2.EnvChildRequest(reset=request)).observation

    def step(self, request: env_pb2.EnvStepRequest) -> env_pb2.EnvStepReply:
        """Go on; raises as reset()."""
        if self._child is None:
            raise EnvLostError("the environment's process is gone; reset() starts it anew")
        reply = self._asked(env_pb2.EnvChildRequest(step=request)).step
        self._steps += 1
        return reply

    def close(self) -> None:
        """End the process; safe to call twice."""
        if self._child is not None:
            self._child.close()
        self._child = None

    def _start(self) -> env_pb2.EnvDescription:
        child = FramedProcess(self._command)
        try:
            reply = env_pb2.EnvChildReply.FromString(child.read(START_S))
        except (TimeoutError, ProcessEndedError) as error:
            child.close()
            why = error if isinstance(error, ProcessEndedError) else f"was not ready within {START_S:.0f} s"
            raise EnvLostError(f"the environment's process {why}") from error
        if reply.error:
            child.close()
            raise _of(reply)
        self._child = child
        LOG.info("environment_started pid=%d", child.pid)
        return reply.description

    def _asked(self, request: env_pb2.EnvChildRequest) -> env_pb2.EnvChildReply:
        assert self._child is not None
        try:
            reply = env_pb2.EnvChildReply.FromString(self._child.ask(request.SerializeToString(), self._answer_s))
        except (TimeoutError, ProcessEndedError) as error:
            self.close()
            why = error if isinstance(error, ProcessEndedError) else f"did not answer within {self._answer_s:.0f} s"
            LOG.warning("environment_lost steps=%d why=%s", self._steps, why)
            raise EnvLostError(f"the environment's process {why}, after {self._steps} steps") from error
        if reply.error:
            raise _of(reply)
        return reply


def _of(reply: env_pb2.EnvChildReply) -> GymnastError:
    return error_from_wire(reply.error, reply.message, retry=False)
