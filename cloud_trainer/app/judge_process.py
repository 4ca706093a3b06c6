"""A judge of real episodes in a process of its own; see ServedProcess."""

from __future__ import annotations

from pathlib import Path

from cloud_trainer.app.served_process import ANSWER_S, ServedProcess
from gymnast_core.errors import GymnastError
from gymnast_core.json_values import texts
from gymnast_core.outcome import Judgement
from gymnast_core.wire.gymnast.v1 import judge_pb2
from gymnast_core.wire.judging import judgement_from


class JudgeProcess:
    """Runs one judge.

    Args:
        source: its checkpoint folder, or a settings file; see cloud_trainer.judge.choice.read_judge.
        answer_s: longest wait for an answer but the first.

    Raises:
        CheckpointError: it is no judge, or altered.
        ConfigError: no judge there, or a setting that does not exist.
    """

    def __init__(self, source: Path, *, answer_s: float = ANSWER_S) -> None:
        self._process = ServedProcess("judge", ["cloud_trainer.judge.worker", str(source)], answer_s=answer_s)

    @property
    def version(self) -> str:
        """Of the judge."""
        return self._process.version

    @property
    def taught_by(self) -> frozenset[str]:
        """Ids of the episodes that its checkpoint names as learned from."""
        return frozenset(texts(self._process.greeting["taught_by"]))

    def judge(self, request: judge_pb2.JudgeRequest) -> Judgement:
        """Return what the judge finds, whether or not it is proven anywhere; what it cannot judge, it abstains from."""
        try:
            reply = judge_pb2.JudgeReply.FromString(self._process.ask(request.SerializeToString()))
        except GymnastError as error:
            return Judgement.abstain(f"the judge failed: {error}", judge=self.version)
        return judgement_from(reply)

    def close(self) -> None:
        """End the process."""
        self._process.close()
