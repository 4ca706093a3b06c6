"""The process that judges real episodes: JudgeRequests in, JudgeReplies out (gymnast_core.framed).

The first frame out is JSON: {version}, or {error, message} where the judge cannot be loaded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from cloud_trainer.judge.choice import read_judge
from gymnast_core.errors import GymnastError
from gymnast_core.framed import frames, read_frame, write_frame
from gymnast_core.judge import Judge
from gymnast_core.outcome import Judgement
from gymnast_core.records.manifest import MANIFEST_NAME, read_manifest
from gymnast_core.types import ByteArray, Outcome, RolloutBatch
from gymnast_core.wire.gymnast.v1 import judge_pb2
from gymnast_core.wire.judging import frames_from, reply_of

NOT_LOOKED = ("outage", "error")
"""What a judge's evidence names an abstention for that says nothing about the episode: it may be asked again."""


def judgement_of(judge: Judge, request: judge_pb2.JudgeRequest) -> Judgement:
    """Judge the first camera's frames; whatever the judge raises, or cannot be read, is an abstention."""
    try:
        frames_THWC = next(iter(frames_from(request).values()))
        [verdict] = judge.judge(_as_rollout(frames_THWC, request))
    except Exception as error:  # noqa: BLE001  # whatever it is, the episode stays unlabelled, and this process goes on
        return Judgement.abstain(f"not judged: {type(error).__name__}: {error}"[:500], judge=judge.version)
    frame, evidence = int(request.frame_steps[-1]), dict(verdict.evidence)
    if verdict.outcome not in (Outcome.SUCCESS, Outcome.FAILURE):
        why = str(evidence.get("abstained") or "the score is in the band that it does not decide in")
        looked = -1 if why in NOT_LOOKED else frame
        return Judgement.abstain(why, judge=judge.version, score=float(verdict.score), frame=looked)
    return Judgement(verdict.outcome, float(verdict.score), frame, judge.version, f"score {verdict.score:.3f}")


def taught_by(source: Path) -> list[str]:
    """Return the episodes that a checkpoint names as learned from; a judge of a settings file names none."""
    if not (source / MANIFEST_NAME).is_file():
        return []
    lineage = read_manifest(source).lineage
    entries = [entry for key in ("episodes", "recorded", "imagined", "choosing") for entry in lineage.get(key) or ()]
    return sorted({str(entry["id"] if isinstance(entry, dict) else entry) for entry in entries})


def _as_rollout(frames_THWC: ByteArray, request: judge_pb2.JudgeRequest) -> RolloutBatch:
    """One row, of which a judge sees pictures and words; what was done between them is not sent."""
    steps_F = np.array(request.frame_steps, np.int64)
    nothing, group = np.zeros((1, int(steps_F[-1]), 7), np.float32), np.zeros(1, np.int64)
    frames_BFHWC = frames_THWC[None]
    return RolloutBatch([request.instruction], steps_F, frames_BFHWC, nothing, nothing, steps_F[-1:], "recorded", group)


def main(source: Path) -> int:
    """Answer until the other end is closed; returns the exit code."""
    stdin, out = frames()
    try:
        judge = read_judge(source)
    except GymnastError as error:
        write_frame(out, json.dumps({"error": type(error).__name__, "message": f"{error}"}).encode())
        return 1
    write_frame(out, json.dumps({"version": judge.version, "taught_by": taught_by(source)}).encode())
    while (data := read_frame(stdin)) is not None:
        request = judge_pb2.JudgeRequest.FromString(data)
        write_frame(out, reply_of(judgement_of(judge, request)).SerializeToString())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
