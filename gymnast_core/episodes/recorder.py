"""Records what a rollout does, as an observer of the loop, without ever making the loop wait for a disk."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gymnast_core.episodes.messages import Annotation, EpisodeEnd, EpisodeHeader, new_episode_id
from gymnast_core.episodes.writer import JPEG_QUALITY, EpisodeWriter
from gymnast_core.errors import ContractError, DiskFullError, StorageError
from gymnast_core.types import ActionChunk, ByteArray, FloatArray, Observation, Outcome, StepResult

FLUSH_S = 0.5
"""What a killed recorder loses at most; quick episodes of a simulator fill whole chunks instead."""

_Write = Callable[[EpisodeWriter], None]


class _Recording:
    """One episode: a queue of writes and the thread that does them."""

    def __init__(self, writer: EpisodeWriter, episode_id: str) -> None:
        self.writer = writer
        self.episode_id = episode_id
        self.steps = 0
        self.stamp_ns = 0
        self._flushed_s = -math.inf  # the first observation goes out at once
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"record-{episode_id}", daemon=True)
        self._thread.start()

    def put(self, write: _Write) -> None:
        self._queue.put(write)

    def flush_when_due(self) -> None:
        """After a complete observation."""
        if time.monotonic() - self._flushed_s > FLUSH_S:
            self._flushed_s = time.monotonic()
            self.put(EpisodeWriter.flush)

    def drain(self, timeout_s: float) -> None:
        """Wait until everything is written."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            full = self.writer.disk_full
            self.writer.stop_waiting()
            self._thread.join()
            if full:
                raise DiskFullError(
                    f"disk full for {timeout_s} s; {self.writer.path} keeps what fitted: free some space"
                )
        if self._error is not None:
            raise StorageError(f"recording {self.episode_id} failed: {self._error}") from self._error

    def _run(self) -> None:
        while (write := self._queue.get()) is not None:
            try:
                write(self.writer)
            except (OSError, StorageError, ContractError) as error:
                self._error = error
                return


def _add_image(file: EpisodeWriter, *, camera: str, stamp_ns: int, frame: ByteArray, taken_ns: int) -> None:
    file.add_image(camera, stamp_ns, frame, taken_ns)


class EpisodeRecorder:
    """An Observer (gymnast_core.rollout) that writes every episode of a batch of one to an MCAP file.

    Args:
        folder: where files go; a Spool's recording_folder where they are to be shipped.
        robot: which arm.
        metadata: JSON values put into every header: robot configuration, code version.
        control_hz: control rate.
        jpeg_quality: of the recorded frames; the policy runs on the uncompressed ones.
        finish_timeout_s: how long finish() waits for a slow or full disk.
    """

    def __init__(
        self,
        folder: Path,
        *,
        robot: str,
        metadata: Mapping[str, Any] | None = None,
        control_hz: float = 5.0,
        jpeg_quality: int = JPEG_QUALITY,
        finish_timeout_s: float = 30.0,
    ) -> None:
        self._folder = folder
        self._robot = robot
        self._metadata = dict(metadata or {})
        self._control_hz = control_hz
        self._quality = jpeg_quality
        self._finish_timeout_s = finish_timeout_s
        self._next: dict[str, Any] = {}
        self._joints: tuple[Sequence[float], Sequence[float]] | None = None
        self._captured_ns: dict[str, int] = {}
        self._recording: _Recording | None = None

    @property
    def episode_id(self) -> str | None:
        """The episode being recorded, if any."""
        return self._recording.episode_id if self._recording else None

    @property
    def steps(self) -> int:
        """Steps of the episode being recorded."""
        return self._recording.steps if self._recording else 0

    @property
    def disk_full(self) -> bool:
        """True while the disk is full and the recording waits in memory: report it."""
        return self._recording is not None and self._recording.writer.disk_full

    def begin(
        self, *, metadata: Mapping[str, Any] | None = None, seed: int | None = None, episode_id: str | None = None,
        control_hz: float | None = None,
    ) -> None:  # fmt: skip
        """Say what the next reset starts; optional.

        Args:
            metadata: JSON values of this episode alone: task, scene, evaluation.
            seed: of the start state.
            episode_id: a new one when None.
            control_hz: control rate of this episode and those after it; as before when None.
        """
        self._control_hz = self._control_hz if control_hz is None else control_hz
        self._next = {"metadata": dict(metadata or {}), "seed": seed, "episode_id": episode_id}

    def note_joints(self, position_rad: Sequence[float], velocity_rad_s: Sequence[float] = ()) -> None:
        """Record these joints with the next observation."""
        self._joints = (tuple(position_rad), tuple(velocity_rad_s))

    def note_captured(self, captured_ns: Mapping[str, int]) -> None:
        """Record when each camera took its frame of the next observation; else it is the observation's stamp."""
        self._captured_ns = dict(captured_ns)

    def on_reset(self, instructions: Sequence[str], observation: Observation) -> None:
        """Start a file. A recording still open is kept as truncated.

        Raises:
            ContractError: the batch is not of size one.
        """
        if observation.batch_size != 1 or len(instructions) != 1:
            raise ContractError(f"the recorder keeps one arm, got a batch of {observation.batch_size}")
        if self._recording is not None:
            self.abandon("superseded")
        planned, self._next = self._next, {}
        header = EpisodeHeader(
            episode_id=planned.get("episode_id") or new_episode_id(),
            instruction=instructions[0],
            robot=self._robot,
            created_ns=time.time_ns(),
            cameras=tuple(observation.images),
            control_hz=self._control_hz,
            seed=planned.get("seed"),
            metadata={**self._metadata, **planned.get("metadata", {})},
        )
        writer = EpisodeWriter(self._folder, header, jpeg_quality=self._quality)
        self._recording = _Recording(writer, header.episode_id)
        stamp_ns = int(observation.time_ns_B[0])
        self._recording.put(lambda file: file.begin(stamp_ns))
        self._put_observation(self._recording, observation)

    def on_step(self, action_BA: FloatArray, result: StepResult, chunk: ActionChunk, index: int) -> None:
        """Append one action and the observation after it.

        Raises:
            ContractError: no reset was seen.
        """
        recording = self._open_recording()
        stamp_ns, version = recording.stamp_ns, chunk.policy_version
        commanded_A, requested_A = result.commanded_BA[0].copy(), action_BA[0].copy()
        recording.put(lambda file: file.add_action(stamp_ns, commanded_A, requested_A, version))
        recording.steps += 1
        self._put_observation(recording, result.observation)

    def annotate(self, text: str, by: str) -> None:
        """Note something at the newest observation; may be called from any thread.

        Raises:
            ContractError: nothing is being recorded, or the text is empty or too long.
        """
        recording = self._open_recording()
        note = Annotation(recording.stamp_ns, recording.steps, text, by)
        recording.put(lambda file: file.add_annotation(note))

    def finish(
        self,
        outcome: Outcome = Outcome.UNLABELLED,
        labelled_by: str = "",
        *,
        truncated_reason: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Path:
        """Label the episode, make it durable, and return its file.

        Args:
            outcome: label; UNLABELLED leaves it to the operator or the judge.
            labelled_by: "operator:<name>" or "judge:<id>".
            truncated_reason: why it did not run to its end: "cancelled", "estop".
            metadata: JSON values learned on the way: gate counts.

        Raises:
            ContractError: nothing is being recorded.
            DiskFullError: no space for finish_timeout_s; what was written stays as a partial file.
            StorageError: the disk failed.
        """
        recording = self._open_recording()
        end = EpisodeEnd(outcome, labelled_by, truncated_reason, dict(metadata or {}))
        finished: list[Path] = []
        recording.put(lambda file: finished.append(file.finish(end)))
        self._recording = None
        try:
            recording.drain(self._finish_timeout_s)
        finally:
            recording.writer.close()
        return finished[0]

    def abandon(self, reason: str) -> Path | None:
        """End the recording early and keep it, marked truncated; None when nothing was being recorded."""
        return self.finish(truncated_reason=reason) if self._recording else None

    def _open_recording(self) -> _Recording:
        if self._recording is None:
            raise ContractError("nothing is being recorded; the recorder must see on_reset first")
        return self._recording

    def _put_observation(self, recording: _Recording, observation: Observation) -> None:
        stamp_ns = recording.stamp_ns = int(observation.time_ns_B[0])
        proprio_P = np.array(observation.proprio_BP[0], np.float32)
        joints, self._joints = self._joints, None
        captured_ns, self._captured_ns = self._captured_ns, {}
        for camera in observation.images:
            image_HWC = np.array(observation.images[camera][0])
            taken_ns = captured_ns.get(camera, stamp_ns)
            recording.put(partial(_add_image, camera=camera, stamp_ns=stamp_ns, frame=image_HWC, taken_ns=taken_ns))
        recording.put(lambda file: file.add_proprio(stamp_ns, proprio_P))
        if joints is not None:
            recording.put(lambda file: file.add_joints(stamp_ns, *joints))
        recording.flush_when_due()
