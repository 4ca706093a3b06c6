"""A judge of real episodes that runs on the trainer's machine, and is proven there or abstains."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from gymnast_client.link import Link
from gymnast_core.errors import GymnastError
from gymnast_core.outcome import Judgement
from gymnast_core.types import ByteArray
from gymnast_core.wire.gymnast.v1 import judge_pb2_grpc
from gymnast_core.wire.identity import Identity
from gymnast_core.wire.judging import judgement_from, request_of

LOG = logging.getLogger(__name__)
DEADLINE_S = 20.0


class RemoteJudge:
    """An OutcomeJudge (gymnast_core.outcome) behind JudgeService. Threads may share it.

    Nothing that happens on the way is an error: an episode that cannot be judged stays unlabelled.

    Args:
        address: host:port.
        identity: identity folder; its tenant's labels prove the judge.
        deadline_s: longest wait for an answer.
        insecure: no TLS.

    Raises:
        ConfigError: the address is none, or the folder holds no identity.
    """

    def __init__(
        self, address: str, identity: Path | Identity | None, *, deadline_s: float = DEADLINE_S, insecure: bool = False
    ) -> None:
        self._address, self._deadline_s = address, deadline_s
        self._link = Link(address, identity, insecure=insecure)

    def judge(self, frames: Mapping[str, ByteArray], instruction: str, *, scene: str = "") -> Judgement:
        """See OutcomeJudge."""
        try:
            reply = self._link.once(
                lambda channel: judge_pb2_grpc.JudgeServiceStub(channel).Judge,
                request_of(frames, instruction, scene),
                timeout_s=self._deadline_s,
            )
        except GymnastError as error:
            LOG.warning("not_judged trainer=%s error=%s", self._address, error)
            return Judgement.abstain(f"the judge at {self._address} was not reached: {error}"[:500])
        return judgement_from(reply)

    def close(self) -> None:
        """Hang up; safe to call twice."""
        self._link.close()
