"""One upload stream: turns messages into calls on Ingest and results into replies."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from cloud_trainer.service.ingest import Ingest, Opening
from cloud_trainer.service.receiving import Receiving
from cloud_trainer.store.protocols import AddResult
from gymnast_core.errors import GymnastError
from gymnast_core.wire.codec import Chunk
from gymnast_core.wire.errors import BusyError, CreditError, InvalidMessageError, ServerFaultError, wire_error
from gymnast_core.wire.gymnast.v1 import trajectories_pb2 as pb
from gymnast_core.wire.identity import Peer

LOG = logging.getLogger(__name__)
_FATAL = ("CreditError", "InvalidMessageError")
_GRANTS = 8
"""Credit is given back in eighths of the window: each grant wakes both sides."""
_ECHO, _TEXT = 64, 500
"""Longest id and reason sent back: what waits to be sent, and the log, must not grow with what came."""


class Credit:
    """The byte-credit window of one stream.

    Args:
        window: bytes that may be under way at once.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self._left = window
        self._owed = 0
        self._lock = threading.Lock()

    def spend(self, size: int) -> None:
        """A chunk has come.

        Raises:
            CreditError: more than was granted.
        """
        with self._lock:
            if size > self._left:
                raise CreditError(f"a chunk of {size} bytes came with {self._left} bytes of credit left")
            self._left -= size

    def earn(self, size: int) -> int:
        """A chunk is written; returns the credit to grant now, 0 for not yet."""
        with self._lock:
            self._owed += size
            if self._owed < self.window // _GRANTS:
                return 0
            granted, self._owed = self._owed, 0
            self._left += granted
            return granted


class UploadSession:
    """State of one stream.

    Args:
        ingest: the receiving side.
        peer: the sender; nothing in a message can change it.
        reply: takes each reply, from any thread.
    """

    def __init__(self, ingest: Ingest, peer: Peer, reply: Callable[[pb.UploadReply], None]) -> None:
        self._ingest, self._peer, self._reply = ingest, peer, reply
        self._episodes: dict[int, Receiving] = {}
        self._pending: set[Future[AddResult]] = set()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._credit = Credit(ingest.limits.window_bytes)
        self.last_message = time.monotonic()
        reply(pb.UploadReply(credit=pb.Credit(bytes=ingest.limits.window_bytes)))

    def handle(self, request: pb.UploadRequest | Chunk | GymnastError) -> None:
        """Act on one message.

        Raises:
            CreditError, InvalidMessageError: the stream cannot go on.
        """
        self.last_message = time.monotonic()
        if isinstance(request, GymnastError):
            raise request
        if isinstance(request, Chunk):
            self._chunk(request)
        elif request.WhichOneof("message") == "open":
            self._guard(request.open.channel, request.open.episode_id, lambda: self._open(request.open))
        elif request.WhichOneof("message") == "commit":
            self._guard(request.commit.channel, "", lambda: self._commit(request.commit.channel))
        else:
            raise InvalidMessageError("an UploadRequest without open, chunk or commit")

    def finish(self, timeout_s: float) -> None:
        """Wait for commits under way, then let go of everything."""
        with self._idle:
            self._idle.wait_for(lambda: not self._pending, timeout_s)
            episodes, self._episodes = list(self._episodes.values()), {}
        for receiving in episodes:
            self._ingest.release(receiving)

    def _open(self, opening: pb.EpisodeOpen) -> None:
        channel = opening.channel
        with self._lock:
            if channel in self._episodes:
                raise InvalidMessageError(f"channel {channel} is in use on this stream")
            if (busy := len(self._episodes) + len(self._pending)) >= self._ingest.limits.episodes_per_stream:
                raise BusyError(f"{busy} episodes are open or being committed on this stream; wait for some")
        asked = Opening(opening.episode_id, opening.size, opening.digest, opening.schema)
        receiving = self._ingest.open(self._peer, asked)
        if receiving is None:
            self._committed(channel, opening.episode_id, duplicate=True)
            return
        with self._lock:
            self._episodes[channel] = receiving
        self._reply(pb.UploadReply(opened=pb.EpisodeOpened(channel=channel, offset=receiving.offset)))

    def _chunk(self, chunk: Chunk) -> None:
        self._credit.spend(len(chunk.data))
        receiving = self._episodes.get(chunk.channel)
        if receiving is not None:  # else it was refused while this chunk was on its way
            self._guard(chunk.channel, receiving.row.episode_id, lambda: receiving.write(chunk))
        if granted := self._credit.earn(len(chunk.data)):
            self._reply(pb.UploadReply(credit=pb.Credit(bytes=granted)))

    def _commit(self, channel: int) -> None:
        with self._lock:
            receiving = self._episodes.pop(channel, None)
        if receiving is None:
            return  # it was refused while the commit was on its way
        try:
            future = self._ingest.commit(receiving)
        except GymnastError:
            self._ingest.release(receiving)
            raise
        with self._lock:
            self._pending.add(future)
        future.add_done_callback(lambda done: self._commit_done(channel, receiving, done))

    def _commit_done(self, channel: int, receiving: Receiving, done: Future[AddResult]) -> None:
        def answer() -> None:
            self._committed(channel, receiving.row.episode_id, duplicate=done.result() == "duplicate")

        self._guard(channel, receiving.row.episode_id, answer)
        self._ingest.release(receiving)
        with self._idle:
            self._pending.discard(done)
            self._idle.notify_all()

    def _committed(self, channel: int, episode_id: str, *, duplicate: bool) -> None:
        done = pb.EpisodeCommitted(channel=channel, episode_id=episode_id, duplicate=duplicate)
        self._reply(pb.UploadReply(committed=done))

    def _guard(self, channel: int, episode_id: str, act: Callable[[], None]) -> None:
        """Refuse one episode where it fails; the others on the stream go on."""
        try:
            act()
        except (GymnastError, OSError) as failure:
            error = failure if isinstance(failure, GymnastError) else ServerFaultError("the service's disk failed")
            name, _, retry = wire_error(error)
            if name in _FATAL:
                raise
            episode_id, reason = episode_id[:_ECHO], str(error)[:_TEXT]
            LOG.warning(
                "episode_refused peer=%s episode=%s error=%s detail=%s", self._peer.name, episode_id, name, reason
            )
            with self._lock:
                receiving = self._episodes.pop(channel, None)
            if receiving is not None:
                self._ingest.release(receiving)
            refused = pb.EpisodeRefused(channel=channel, episode_id=episode_id, code=name, message=reason, retry=retry)
            self._reply(pb.UploadReply(refused=refused))
