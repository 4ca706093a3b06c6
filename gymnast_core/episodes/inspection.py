"""Looks into an episode file that anybody may have written: what it holds, or why it cannot be learned from.

Run as `python -m gymnast_core.episodes.inspection` it does so in a process of its own with bounds on memory, time and
what it may touch: one JSON order a line on standard input, one JSON answer a line on standard output. A file that
breaks a parser or a decoder takes nothing else with it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from gymnast_core.bounds import checked_text
from gymnast_core.episodes.reader import EpisodeSummary, check_episode
from gymnast_core.errors import CorruptError, GymnastError
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import Episode, FloatArray

READY = b"ready\n"
MAX_METADATA_CHARACTERS = 64 * 1024
MAX_NAME_CHARACTERS = 256
_MIB = 1 << 20
_SLACK = 1.001
_MOST_PROPRIO_P = np.array([10.0] * 3 + [20.0] * 3 + [2.0], np.float32)
"""Further no arm on a table reaches [m], nor winds its wrist [rad]; a gripper is open at 1."""


@dataclass(frozen=True)
class ActionLimits:
    """What one recorded control step may command: translation [m] and rotation [rad] on each axis; steps a second."""

    translation_m: float
    rotation_rad: float
    control_hz: float = WIDOWX_250S.control_hz


def inspected(path: Path, episode_id: str, limits: ActionLimits) -> dict[str, object]:
    """Return what a catalogue should hold of a file, after everything in it was decoded once.

    Args:
        path: the file.
        episode_id: which episode it was sent as.
        limits: of the arm.

    Returns:
        instruction, outcome, labelled_by, steps, policy_version and metadata (JSON values).

    Raises:
        CorruptError: broken, inconsistent, or holding values no arm can have; the message names the value.
    """
    summary, episode = check_episode(path)
    if summary.header.episode_id != episode_id:
        raise CorruptError(f"the file says it is episode {summary.header.episode_id!r}")
    if summary.header.control_hz != limits.control_hz:
        raise CorruptError(
            f"recorded at {summary.header.control_hz:g} Hz; what learns here has steps of {limits.control_hz:g} Hz, "
            "and an action of another length is another action"
        )
    metadata = {**summary.header.metadata, **summary.end.metadata, "seed": summary.header.seed}
    if summary.end.truncated_reason:
        metadata["truncated_reason"] = summary.end.truncated_reason
    if (size := len(json.dumps(metadata))) > MAX_METADATA_CHARACTERS:
        raise CorruptError(f"metadata of {size} characters; {MAX_METADATA_CHARACTERS} are accepted")
    version = _checked_versions(summary)
    _check_content(episode, limits)
    return {
        "instruction": summary.header.instruction,
        "outcome": summary.end.outcome.value,
        "labelled_by": checked_text(summary.end.labelled_by, "labelled_by", MAX_NAME_CHARACTERS),
        "steps": max(summary.steps, 0),
        "policy_version": version,
        "metadata": metadata,
    }


def _checked_versions(summary: EpisodeSummary) -> str:
    for version in summary.policy_versions:
        checked_text(version, "a policy version", MAX_NAME_CHARACTERS)
    return summary.policy_versions[0] if summary.policy_versions else ""


def _check_content(episode: Episode, limits: ActionLimits) -> None:
    """Hold commands and poses against what an arm can do."""
    if episode.steps < 1:
        raise CorruptError("it has no complete step")
    limits_A = np.array([limits.translation_m] * 3 + [limits.rotation_rad] * 3, np.float32) * _SLACK
    _check_within(episode.actions_TA[:, :6], limits_A, "commands")
    _check_within(episode.proprio_TP, _MOST_PROPRIO_P, "reports")
    gripper_T = episode.actions_TA[:, 6]
    if ((gripper_T < -0.001) | (gripper_T > 1.001)).any():
        raise CorruptError(f"a gripper command is outside 0..1: {gripper_T.min()}..{gripper_T.max()}")


def _check_within(values_TX: FloatArray, limits_X: FloatArray, what: str) -> None:
    beyond = np.argwhere(np.abs(values_TX) > limits_X)
    if len(beyond):
        step, axis = beyond[0]
        raise CorruptError(f"step {step} {what} {values_TX[step, axis]} on axis {axis}, the limit is {limits_X[axis]}")


def answer_to(order: Mapping[str, Any]) -> dict[str, Any]:
    """Do one order: {path, episode_id, translation_m, rotation_rad, control_hz}; returns {found} or {refused}."""
    limits = ActionLimits(float(order["translation_m"]), float(order["rotation_rad"]), float(order["control_hz"]))
    try:
        return {"found": inspected(Path(order["path"]), str(order["episode_id"]), limits)}
    except MemoryError:
        return {"refused": "MemoryError: it needs more memory than a file may"}
    except (GymnastError, OSError) as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    except Exception as error:  # noqa: BLE001  # a bug of ours that this file met: its trouble, not the others'
        return {"refused": f"{type(error).__name__}: {error}"}


def serve(orders: BinaryIO, answers: BinaryIO) -> None:
    """Answer orders until the other side closes; ends after one that went out of memory, which leaves nothing sound."""
    answers.write(READY)
    answers.flush()
    for line in orders:
        order = json.loads(line)
        used_s = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
        resource.setrlimit(resource.RLIMIT_CPU, (used_s + 1 + int(order["cpu_s"]), resource.RLIM_INFINITY))
        answer = answer_to(order)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()
        if str(answer.get("refused", "")).startswith("MemoryError"):
            return


def confine(memory_bytes: int) -> None:
    """Give up what inspecting a file does not need: memory beyond a bound, writing files, core dumps, being spared."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(kind, (0, 0))
    Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out all the same, this process goes first


def main() -> None:
    """Serve on standard input and output; the only argument is how much memory an order may take [MiB]."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends when its parent does, by the end of its input
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    cv2.setNumThreads(0)
    confine(int(sys.argv[1]) * _MIB)
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
