"""Ships spooled episodes over one stream, many at once, each resumable; deletes only what was acknowledged."""

from __future__ import annotations

import collections
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc

from gymnast_client.link import Link
from gymnast_client.waits import Waits
from gymnast_core.episodes.messages import SCHEMA_VERSION
from gymnast_core.episodes.spool import Spool, SpoolEntry, file_digest
from gymnast_core.errors import GymnastError
from gymnast_core.wire.codec import CHUNK_BYTES, Chunk, crc32c, encode_upload
from gymnast_core.wire.errors import error_from_wire
from gymnast_core.wire.gymnast.v1 import trajectories_pb2 as pb

LOG = logging.getLogger(__name__)
METHOD = "/gymnast.v1.TrajectoryService/Upload"
IN_FLIGHT = 48
_IDLE_CLOSE_S = 5.0
_SCAN_S = 0.05
_SILENCE_S = 30.0


@dataclass
class _Sending:
    """One episode on the stream."""

    entry: SpoolEntry
    channel: int
    descriptor: int = -1
    offset: int | None = None  # of the next chunk; unknown until the trainer has reported what it holds
    committed: bool = False


class UploadStream:
    """One life of the stream: from connecting until it breaks or there is nothing to send.

    Args:
        link: the channel.
        spool: what to send.
        held_back: episode ids to leave alone for now (their turn comes after a wait).
        first_time: asks whether an episode is offered for the first time ever: the trainer holds none of it, so its
            bytes follow at once and a far link costs one round trip less. Where that was wrong the trainer refuses
            the first chunk and the episode is offered again, the usual way.
        acknowledged: called when an episode is safe with the trainer; takes it out of the spool.
        refused: called when the trainer refuses one.
        stopped: asks whether to end.
        in_flight: episodes open at once.
        chunk_bytes: less than the default loses less on a link that often breaks.
        idle_close_s: the stream ends when there was nothing to send for so long.
    """

    def __init__(
        self,
        link: Link,
        spool: Spool,
        *,
        held_back: Callable[[], set[str]],
        first_time: Callable[[SpoolEntry], bool],
        acknowledged: Callable[[SpoolEntry, bool], None],
        refused: Callable[[SpoolEntry, GymnastError, bool], None],
        stopped: Callable[[], bool],
        in_flight: int = IN_FLIGHT,
        chunk_bytes: int = CHUNK_BYTES,
        idle_close_s: float = _IDLE_CLOSE_S,
    ) -> None:
        self._link, self._spool, self._held_back = link, spool, held_back
        self._first_time = first_time
        self._acknowledged, self._refused, self._stopped = acknowledged, refused, stopped
        self._in_flight, self._chunk_bytes, self._idle_close_s = in_flight, chunk_bytes, idle_close_s
        self._changed = threading.Condition()
        self._sending: dict[int, _Sending] = {}
        self._credit = 0
        self._next_channel = 1
        self._over = False
        self._waiting: collections.deque[SpoolEntry] = collections.deque()
        self._scan_at = 0.0
        self._last_reply = time.monotonic()
        self.sent_bytes = 0

    def run(self) -> None:
        """Send until there is nothing left or the stream breaks.

        Raises:
            TransientBridgeError: the stream broke; what was sent stays with the trainer, run another one.
            RejectedBridgeError: the trainer does not want this stream at all.
        """
        method = self._link.channel().stream_stream(
            METHOD, request_serializer=encode_upload, response_deserializer=pb.UploadReply.FromString
        )
        call = method(self._requests())
        watch = threading.Thread(target=self._watch, args=(call,), name="upload-watch", daemon=True)
        watch.start()
        try:
            for reply in call:
                self._handle(reply)
        except grpc.RpcError as failure:
            raise self._link.failure(failure) from failure
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()
            call.cancel()
            watch.join()
            for sending in self._sending.values():
                self._close(sending)

    def look(self) -> None:
        """There is a new episode in the spool."""
        with self._changed:
            self._scan_at = 0.0
            self._changed.notify_all()

    def _watch(self, call: grpc.RpcContext) -> None:
        """Cancel a stream on which the trainer owes an answer for too long, or that must end."""
        with self._changed:
            while not self._over:
                self._changed.wait(0.5)
                silent = time.monotonic() - self._last_reply > _SILENCE_S
                if self._stopped() or (self._sending and silent):
                    call.cancel()
                    return

    def _requests(self) -> Iterator[pb.UploadRequest | Chunk]:
        """What to send next, as long as there is something; runs in gRPC's thread."""
        idle_since = time.monotonic()
        while True:
            with self._changed:
                if self._over or self._stopped():
                    return
                message = self._next_open() or self._next_chunk()
                if message is None:
                    if not self._sending and time.monotonic() - idle_since > self._idle_close_s:
                        return
                    self._changed.wait(_SCAN_S)
                    continue
                idle_since = time.monotonic()
            yield message

    def _next_open(self) -> pb.UploadRequest | None:
        if len(self._sending) >= self._in_flight:
            return None
        if not self._waiting and time.monotonic() >= self._scan_at:
            self._scan_at = time.monotonic() + _SCAN_S  # a look at the folder costs a stat per episode
            busy = {sending.entry.episode_id for sending in self._sending.values()} | self._held_back()
            self._waiting.extend(entry for entry in self._spool.entries() if entry.episode_id not in busy)
        while self._waiting:
            entry = self._waiting.popleft()
            if entry.path.exists():
                sending = _Sending(entry, self._next_channel, offset=0 if self._first_time(entry) else None)
                self._sending[sending.channel] = sending
                self._next_channel += 1
                self._last_reply = time.monotonic()
                return pb.UploadRequest(
                    open=pb.EpisodeOpen(
                        channel=sending.channel,
                        episode_id=entry.episode_id,
                        size=entry.size,
                        digest=entry.digest,
                        schema=SCHEMA_VERSION,
                        enqueued_ns=entry.enqueued_ns,
                    )
                )
        return None

    def _next_chunk(self) -> pb.UploadRequest | Chunk | None:
        for sending in list(self._sending.values()):
            if sending.offset is None or sending.committed:
                continue
            left = sending.entry.size - sending.offset
            if left <= 0:
                sending.committed = True
                return pb.UploadRequest(commit=pb.EpisodeCommit(channel=sending.channel))
            if self._credit < min(self._chunk_bytes, left):
                continue
            data = self._read(sending, min(self._chunk_bytes, left))
            if data is None:
                continue
            chunk = Chunk(sending.channel, sending.offset, crc32c(data), data)
            sending.offset += len(data)
            self._credit -= len(data)
            self.sent_bytes += len(data)
            return chunk
        return None

    def _read(self, sending: _Sending, size: int) -> bytes | None:
        """The next bytes; an episode that left the spool meanwhile (drop_oldest) is forgotten."""
        assert sending.offset is not None  # asked only after the trainer has answered
        try:
            if sending.descriptor < 0:
                sending.descriptor = os.open(sending.entry.path, os.O_RDONLY | os.O_CLOEXEC)
            data = os.pread(sending.descriptor, size, sending.offset)
        except FileNotFoundError:
            data = b""
        if data:
            return data
        LOG.warning("episode_left_the_spool episode=%s", sending.entry.episode_id)
        self._close(self._sending.pop(sending.channel))
        return None

    def _handle(self, reply: pb.UploadReply) -> None:
        kind = reply.WhichOneof("message")
        with self._changed:
            self._last_reply = time.monotonic()
            if kind == "credit":
                self._credit += reply.credit.bytes
            elif kind == "opened" and (sending := self._sending.get(reply.opened.channel)) is not None:
                sending.offset = reply.opened.offset if sending.offset is None else sending.offset
            self._changed.notify_all()
        if kind == "committed":
            self._done(reply.committed)
        elif kind == "refused":
            self._fail(reply.refused)

    def _done(self, done: pb.EpisodeCommitted) -> None:
        with self._changed:
            sending = self._sending.get(done.channel)
        if sending is None or sending.entry.episode_id != done.episode_id:
            LOG.error("acknowledgement_of_something_else channel=%d episode=%s", done.channel, done.episode_id)
            return
        self._acknowledged(sending.entry, bool(done.duplicate))
        self._drop(done.channel)

    def _fail(self, refusal: pb.EpisodeRefused) -> None:
        with self._changed:
            sending = self._sending.get(refusal.channel)
        if sending is None:
            return
        error = error_from_wire(refusal.code, refusal.message, retry=refusal.retry)
        retry = refusal.retry
        if refusal.code == "DigestError" and file_digest(sending.entry.path) != sending.entry.digest:
            retry = False  # it is this disk that changed the bytes; sending them again cannot help
        self._refused(sending.entry, error, retry)
        self._drop(refusal.channel)

    def _drop(self, channel: int) -> None:
        with self._changed:
            if (sending := self._sending.pop(channel, None)) is not None:
                self._close(sending)
            self._changed.notify_all()

    def _close(self, sending: _Sending) -> None:
        if sending.descriptor >= 0:
            os.close(sending.descriptor)
            sending.descriptor = -1


class HoldBack:
    """Episodes whose turn comes after a wait, because the trainer could not take them just now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}
        self._waits: dict[str, Waits] = {}

    def add(self, episode_id: str) -> float:
        """Hold one back for a while, longer each time; returns the seconds."""
        with self._lock:
            wait_s = self._waits.setdefault(episode_id, Waits(longest_s=30.0)).next_s()
            self._until[episode_id] = time.monotonic() + wait_s
            return wait_s

    def forget(self, episode_id: str) -> None:
        """It is through."""
        with self._lock:
            self._until.pop(episode_id, None)
            self._waits.pop(episode_id, None)

    def now(self) -> set[str]:
        """Those that wait at this moment."""
        clock = time.monotonic()
        with self._lock:
            return {episode_id for episode_id, until in self._until.items() if until > clock}
