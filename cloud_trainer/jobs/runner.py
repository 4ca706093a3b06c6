"""Runs one job of the service in a process of its own, so that training can neither stall nor crash the service.

The service process holds the stores and the sockets; the worker process holds torch. They meet in a job folder:
spec.json in, checkpoints and JSON lines out. A killed service finds the folder again and the worker resumes from it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from cloud_trainer.jobs.memory import MemoryWatch, memory_of_machine
from cloud_trainer.progress import CancelledError
from gymnast_core.errors import ConfigError, GymnastError, NotTrustedError
from gymnast_core.jobs import JobResult, JobSpec, kind_of
from gymnast_core.json_values import JsonObject

ENDS: Mapping[str, type[GymnastError]] = {
    "refused": NotTrustedError,
    "cancelled": CancelledError,
    "misconfigured": ConfigError,
}
"""How a worker may end without a result, and the error that its reason is here."""

MOST_REPLAYED = 120
"""Episodes of one replay job: about five CPU seconds."""
CANCEL_NAME = "cancel"
"""A file of this name in the job folder asks the worker to stop after its current iteration."""


class JobFailedError(GymnastError):
    """The worker of a job ended without a result."""


@dataclass(frozen=True)
class Recorded:
    """One committed episode: its file, and the catalogue's label, which may correct the file's.

    Attributes:
        path: the MCAP file.
        outcome: success, failure, abstain or unlabelled.
        episode_id: of it.
        robot: the name in the certificate that sent it, whatever the file says; empty where nobody sent it.
        labelled_by: author of the label; what a judge labelled may be learned from, and measures nothing.
    """

    path: Path
    outcome: str
    episode_id: str = ""
    robot: str = ""
    labelled_by: str = ""


@dataclass(frozen=True)
class JobInputs:
    """What a job needs from the stores, as files.

    Attributes:
        job_id: names the job folder.
        spec: what was asked for.
        episodes: every valid episode of the tenant, oldest first.
        checkpoint: id -> folder.
        newest: kind -> folder, for a world model or judge that the spec leaves to the trainer.
    """

    job_id: str
    spec: JobSpec
    episodes: tuple[Recorded, ...]
    checkpoint: Callable[[str], Path]
    newest: Callable[[str], Path] | None = None


def run_in_process(
    inputs: JobInputs,
    folder: Path,
    *,
    emit: Callable[[str, JsonObject], None],
    cancelled: Callable[[], bool],
    threads: int = 1,
    memory_bytes: int | None = None,
) -> JobResult:
    """Run a job to its end in a worker process and return its result.

    Args:
        inputs: what to do, and with what.
        folder: the jobs folder; the job works in folder/job_id and finds its own state there after a crash.
        emit: called with every progress line (kind, data).
        cancelled: asked once a second and on every line; then the worker is asked to stop.
        threads: torch threads of the worker.
        memory_bytes: that the worker's processes may use together; None is half of what this machine has.

    Raises:
        ConfigError: the job cannot run with what it has.
        NotTrustedError: an audit or calibration refused the training; the message says which bound.
        CancelledError: somebody asked it to stop; the job folder has everything up to the last whole iteration.
        JobMemoryError: it used more than memory_bytes, and was ended.
        JobFailedError: the worker died; the message ends with its last words.
    """
    work = folder / inputs.job_id
    work.mkdir(parents=True, exist_ok=True)
    (work / CANCEL_NAME).unlink(missing_ok=True)
    _write_spec(inputs, work)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (work / "worker.log").open("ab") as log:
        command = [sys.executable, "-m", "cloud_trainer.jobs.worker", str(work)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)
        try:
            with MemoryWatch(process.pid, memory_bytes or memory_of_machine() // 2) as watch:
                result = _relay(process, work, emit, cancelled, watch)
                return kind_of(inputs.spec.kind).result.model_validate(result)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _checkpoint(inputs: JobInputs, work: Path, kind: str) -> str:
    """Folder of a checkpoint: the named one, else what this job began with, else the trainer's newest."""
    named: str = getattr(inputs.spec, kind)
    if named:
        return str(inputs.checkpoint(named))
    if inputs.newest is None:
        raise ConfigError(f"job {inputs.spec.kind} needs a checkpoint id for {kind}; add it to its spec")
    begun = work / "spec.json"
    if begun.is_file():
        return str(json.loads(begun.read_text())["checkpoints"][kind])
    return str(inputs.newest(kind))


def _write_spec(inputs: JobInputs, work: Path) -> None:
    folders = {name: _checkpoint(inputs, work, name) for name in inputs.spec.checkpoints}
    document = {
        "kind": inputs.spec.kind,
        "spec": inputs.spec.to_json(),
        "checkpoints": folders,
        "episodes": [{**asdict(entry), "path": str(entry.path)} for entry in inputs.episodes],
    }
    staging = work / "spec.json.partial"
    staging.write_text(json.dumps(document, indent=1, sort_keys=True))
    staging.rename(work / "spec.json")


def _relay(
    process: subprocess.Popen[bytes],
    work: Path,
    emit: Callable[[str, JsonObject], None],
    cancelled: Callable[[], bool],
    watch: MemoryWatch,
) -> JsonObject:
    """Pass the worker's lines on until it ends; returns its result line."""
    assert process.stdout is not None
    over = threading.Event()
    watcher = threading.Thread(target=_watch_cancel, args=(work, cancelled, over), name="job-cancel", daemon=True)
    watcher.start()
    result: JsonObject | None = None
    ended: GymnastError | None = None
    try:
        for kind, data in _lines(process.stdout):
            if kind == "result":
                result = data
            elif kind in ENDS:
                ended = ENDS[kind](str(data["reason"]))
            emit(kind, data)
    finally:
        over.set()
        watcher.join()
    code = process.wait()
    watch.check()
    if ended is not None:
        raise ended
    if result is None:
        tail = (work / "worker.log").read_text(errors="replace").strip().splitlines()[-1:]
        said = " ".join(tail) or ("ended from outside, as where memory runs out" if code == -9 else "no output")
        raise JobFailedError(f"worker ended with code {code}: {said}; see {work}/worker.log")
    return result


def _watch_cancel(work: Path, cancelled: Callable[[], bool], over: threading.Event) -> None:
    while not over.wait(0.5):
        if cancelled():
            (work / CANCEL_NAME).touch()
            return


def _lines(stream: IO[bytes]) -> Iterator[tuple[str, JsonObject]]:
    for line in stream:
        document = json.loads(line)
        yield document.pop("event"), document
