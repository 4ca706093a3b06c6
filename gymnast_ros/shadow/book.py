"""Which checkpoints may move this arm: what passed its shadow check is written down, anything else is checked first."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from gymnast_core.episodes.durable import write_durably
from gymnast_core.errors import CheckpointError
from gymnast_core.records.manifest import read_manifest
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_ros.shadow.check import ShadowReport
from gymnast_ros.shadow.observations import has_recordings

LOG = logging.getLogger(__name__)
_BYTES_PER_S = 50e6


class RefusedCheckpointError(CheckpointError):
    """A checkpoint failed its shadow check; the message has the reason."""


@dataclass(frozen=True)
class StageLimits:
    """How long each stage of a check may take [s]; a large checkpoint gets more for loading and its first call.

    Attributes:
        import_s: until the libraries are there.
        load_s: until the weights are.
        first_s: the first answer, which may compile.
        answer_s: every other one.
    """

    import_s: float = 120.0
    load_s: float = 30.0
    first_s: float = 30.0
    answer_s: float = 15.0

    def of(self, stage: str, size: int) -> tuple[float, str]:
        """Return how long to wait after a stage was reported, and for what."""
        more_s = size / _BYTES_PER_S
        return {
            "": (self.import_s, "its process does not start"),
            "imported": (self.load_s + more_s, "it does not load"),
            "loaded": (self.first_s + more_s, "it hangs: no answer"),
            "asked 0": (self.first_s + more_s, "it hangs: no answer"),
        }.get(stage, (self.answer_s, "it hangs: no answer"))

    def total_s(self, size: int) -> int:
        """Return after how long nothing can be under way any more."""
        return int(self.import_s + self.load_s + self.first_s + 60 * self.answer_s + 2 * size / _BYTES_PER_S)


class ShadowBook:
    """The checks of one robot, in a folder that its bridge and its rollout node share.

    Args:
        folder: of the robot; shadow/ and recent/ are in it.
        robot: which arm it is.
        device: where a large policy is loaded, as the rollout node would.
        max_latency_s: longest typical call; 0 is one control step per action of a chunk.
        patience: see Patience.
    """

    def __init__(
        self, folder: Path, robot: RobotSpec = WIDOWX_250S, *, device: str = "auto", max_latency_s: float = 0.0,
        patience: StageLimits | None = None,
    ) -> None:  # fmt: skip
        self._robot = robot
        self._folder, self.recent = folder / "shadow", folder / "recent"
        self._device, self._max_latency_s = device, max_latency_s
        self._patience = patience or StageLimits()
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def passed(self, checkpoint_id: str) -> bool:
        """Whether it passed on recorded observations, or on neutral ones while there are no others."""
        report = self.report(checkpoint_id)
        return report is not None and (report.recorded or not has_recordings(self.recent))

    def report(self, checkpoint_id: str) -> ShadowReport | None:
        """Return what its last passed check found; None when there was none."""
        try:
            fields = json.loads(self._path(checkpoint_id).read_bytes())
            return ShadowReport(**fields)
        except (OSError, ValueError, TypeError):
            return None

    def require(self, checkpoint: Path) -> None:
        """Return if this checkpoint may move the arm; checks it if nobody did.

        Raises:
            RefusedCheckpointError: it may not.
            CheckpointError: it is no checkpoint.
        """
        manifest = read_manifest(checkpoint)
        name, misfit = manifest.id, manifest.misfit(self._robot.name)
        report = ShadowReport(misfit) if misfit or self.passed(name) else self.check(checkpoint)
        if report.reason:
            raise RefusedCheckpointError(f"{name} failed its check on this robot: {report.reason}")

    def check(self, checkpoint: Path) -> ShadowReport:
        """Load it in a process of its own, ask it about recorded observations, and write down a pass.

        One check at a time on a robot; a second caller waits and finds the answer.

        Raises:
            CheckpointError: it is no checkpoint.
        """
        manifest = read_manifest(checkpoint)
        if misfit := manifest.misfit(self._robot.name):
            return ShadowReport(misfit)
        with self._turn():
            known = self.report(manifest.id) if self.passed(manifest.id) else None
            if known is not None:
                return known
            report = self._watched(checkpoint, manifest.weights_bytes)
            LOG.info("shadow_checked checkpoint=%s %s", manifest.id, asdict(report))
            if not report.reason:
                write_durably(self._path(manifest.id), json.dumps(asdict(report)).encode())
            return report

    def close(self) -> None:
        """End a check that is under way."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()

    def _path(self, checkpoint_id: str) -> Path:
        return self._folder / f"{checkpoint_id}.json"

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _watched(self, checkpoint: Path, size: int) -> ShadowReport:
        """Run the child; a stage that takes too long, or a child that dies, is the checkpoint's fault."""
        command = [
            sys.executable, "-m", "gymnast_ros.shadow.child", str(checkpoint.resolve()), str(self.recent),
            "--robot-model", self._robot.name, "--device", self._device, "--max-latency-s", str(self._max_latency_s),
            "--most-s", str(self._patience.total_s(size)),
        ]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            self._process = process
            try:
                assert process.stdout is not None
                return self._follow(process, _lines(process.stdout), size)
            finally:
                process.kill()
                self._process = None

    def _follow(self, process: subprocess.Popen[str], lines: queue.SimpleQueue[str], size: int) -> ShadowReport:
        stage, recorded = "", has_recordings(self.recent)
        while True:
            limit_s, what = self._patience.of(stage, size)
            try:
                line = lines.get(timeout=limit_s)
            except queue.Empty:
                return ShadowReport(f"{what} within {limit_s:.0f} s", recorded=recorded)
            if not line:
                how = "was ended with the node" if self._closed else _how_it_ended(process.wait())
                return ShadowReport(f"its process {how}", recorded=recorded)
            fields: dict[str, Any] = json.loads(line)
            stage = str(fields.pop("stage"))
            if stage == "report":
                return ShadowReport(**fields)
            stage = f"asked {fields['index']}" if stage == "asked" else stage


def _lines(stream: IO[str]) -> queue.SimpleQueue[str]:
    """Lines as they come, then an empty one."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        with contextlib.suppress(ValueError):  # closed under us
            for line in stream:
                lines.put(line)
        lines.put("")

    threading.Thread(target=read, name="shadow-lines", daemon=True).start()
    return lines


def _how_it_ended(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed, most likely for want of memory"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}; see the node's log"
