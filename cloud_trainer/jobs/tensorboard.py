"""Curves of jobs as TensorBoard's event files, one folder a job, from the events that a trainer keeps of them.

A job that is resumed, a trainer that starts again and a second `gymnast jobs watch` report steps that are in the files
already. They are read back first, and no step of a curve is written twice.
"""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_trainer.world_model.data.tf_records import FRAME_BYTES, record
from gymnast_core.errors import ConfigError, CorruptError
from gymnast_core.job import JobEvent, progress_of

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter

_STRANGE = re.compile(r"[^\w.\- ]")
_MOST_CHARACTERS = 100
_MOST_STEP, _MOST_VALUE = 1 << 62, sys.float_info.max


class JobCurves:
    """The curves of one job. One thread at a time.

    Args:
        folder: of all jobs, what `tensorboard --logdir` is given.
        job_id: whose.

    Raises:
        ConfigError: tensorboardX is not installed, or the folder cannot be written.
    """

    def __init__(self, folder: Path, job_id: str) -> None:
        self._folder = folder / _plain(job_id)
        self._messages = self.check(self._folder)
        self._writer: EventsWriter | None = None
        self._last = dict(self._written())

    @staticmethod
    def check(folder: Path) -> tuple[Any, Any]:
        """Make a folder of curves, and return the messages that its files consist of; raises as __init__()."""
        try:
            from tensorboardX.proto import event_pb2, summary_pb2
        except ImportError as error:
            raise ConfigError(f"{error}: pip install 'gymnast_ros[tensorboard]'") from error
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"curves cannot be written to {folder}: {error.strerror}") from error
        return event_pb2, summary_pb2

    def add(self, event: JobEvent) -> bool:
        """Write the curves' points of an event; returns whether there was one that is new.

        Args:
            event: of the job, any kind; a training machine may have reported anything.
        """
        progress: Any = progress_of(event)
        metrics, step, stage = (progress.get(name) for name in ("metrics", "step", "stage"))
        if not isinstance(metrics, dict) or not _is_step(step) or not isinstance(stage, str):
            return False
        named = {f"{_plain(stage)}/{_plain(name)}": value for name, value in metrics.items() if _is_number(value)}
        fresh = {tag: value for tag, value in named.items() if step > self._last.get(tag, -1)}
        if not fresh:
            return False
        event_pb2, summary_pb2 = self._messages
        values = [summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in fresh.items()]
        if self._writer is None:
            from tensorboardX.event_file_writer import EventsWriter

            number = len(list(self._folder.iterdir()))
            suffix = (
                f".{number:06d}.{secrets.token_hex(4)}"  # the time in a name counts seconds: no two alike, in order
            )
            self._writer = EventsWriter(str(self._folder / "events"), suffix)
        self._writer.write_event(
            event_pb2.Event(wall_time=event.time_ns / 1e9, step=step, summary=summary_pb2.Summary(value=values))
        )
        self._last |= dict.fromkeys(fresh, step)
        return True

    def flush(self) -> None:
        """Have everything that was added in its file."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.close()

    def _written(self) -> Iterator[tuple[str, int]]:
        """(curve, step) of every point in the files, in the order in which they were written."""
        event_pb2, _ = self._messages
        for path in sorted(self._folder.glob("*tfevents*")):
            at, size = 0, path.stat().st_size
            while at < size:
                try:
                    data = record(path, at)
                except CorruptError:
                    break  # where a kill cut it; readers stop here, too
                at += FRAME_BYTES + len(data)
                event = event_pb2.Event.FromString(data)
                for value in event.summary.value:
                    yield value.tag, event.step


def _plain(name: str) -> str:
    """A name that is one part of a path and of a tag."""
    return _STRANGE.sub("_", name)[:_MOST_CHARACTERS].strip(". ") or "_"


def _is_number(value: object) -> bool:
    """Whether a curve can have it as a point; JSON has whole numbers that no float holds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _MOST_VALUE


def _is_step(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_STEP
