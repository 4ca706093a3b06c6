"""TrajectoryService: episodes come in, are listed, labelled and withdrawn."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Iterator

import grpc

from cloud_trainer.service.config import Limits
from cloud_trainer.service.handlers import EpisodeHandlers
from cloud_trainer.service.ingest import Ingest
from cloud_trainer.service.servicers.messages import MOST_CHARACTERS, bounded, fitting, page_size
from cloud_trainer.service.session import UploadSession
from cloud_trainer.service.stopping import Stopping
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_core.errors import GymnastError
from gymnast_core.wire.codec import Chunk
from gymnast_core.wire.errors import IdleStreamError, NotFoundError
from gymnast_core.wire.gymnast.v1 import trajectories_pb2
from gymnast_core.wire.identity import Peer

LOG = logging.getLogger(__name__)
_POLL_S = 0.2
_DRAIN_S = 20.0
_BACKLOG = 256
_FIELDS = (
    "sequence", "episode_id", "robot", "digest", "size", "state", "reason", "instruction", "outcome", "labelled_by",
    "steps", "policy_version", "received_ns",
)  # fmt: skip

_Sent = trajectories_pb2.UploadRequest | Chunk | GymnastError
"""What the deserializer makes of a message: chunks go the short way, and one that it cannot read is an error."""
_Replies = queue.SimpleQueue[trajectories_pb2.UploadReply | GymnastError | None]


class TrajectoryServicer:
    """Episodes."""

    def __init__(self, ingest: Ingest, episodes: EpisodeHandlers, limits: Limits, stopping: Stopping) -> None:
        self._ingest, self._episodes, self._limits, self._stopping = ingest, episodes, limits, stopping

    def Upload(
        self, requests: Iterator[_Sent], peer: Peer, context: grpc.ServicerContext
    ) -> Iterator[trajectories_pb2.UploadReply]:
        """A reader thread feeds the session; this generator sends what it answers."""
        self._stopping.check()
        replies: _Replies = queue.SimpleQueue()
        session = UploadSession(self._ingest, peer, replies.put)
        reader = threading.Thread(target=self._read, args=(requests, session, replies, context), daemon=True)
        reader.start()  # it ends with the call, whose messages it reads
        yield from self._answer(session, replies)

    def _read(
        self, requests: Iterator[_Sent], session: UploadSession, replies: _Replies, context: grpc.ServicerContext
    ) -> None:
        try:
            for request in requests:
                if not self._has_room(replies, context):
                    context.cancel()  # which also frees the thread that waits to send
                    return
                session.handle(request)
        except GymnastError as error:
            replies.put(error)
        except Exception as error:  # noqa: BLE001  # gRPC's own, when the peer goes away
            LOG.info("upload_stream_ended reason=%s", type(error).__name__)
        finally:
            session.finish(_DRAIN_S)
            replies.put(None)

    def _has_room(self, replies: _Replies, context: grpc.ServicerContext) -> bool:
        """Wait for a peer that does not read what it is answered; False when it has not for too long."""
        until = time.monotonic() + self._limits.idle_stream_s
        while replies.qsize() > _BACKLOG:
            if time.monotonic() > until or not context.is_active():
                return False
            time.sleep(_POLL_S / 10)
        return True

    def _answer(self, session: UploadSession, replies: _Replies) -> Iterator[trajectories_pb2.UploadReply]:
        while True:
            try:
                reply = replies.get(timeout=1.0)
            except queue.Empty:
                self._stopping.check()
                if time.monotonic() - session.last_message > self._limits.idle_stream_s:
                    idle_s = self._limits.idle_stream_s
                    raise IdleStreamError(f"nothing came for {idle_s} s; open the stream again") from None
                continue
            if reply is None:
                return
            if isinstance(reply, GymnastError):
                raise reply
            yield reply

    def ListEpisodes(
        self, request: trajectories_pb2.ListEpisodesRequest, peer: Peer, context: grpc.ServicerContext
    ) -> trajectories_pb2.ListEpisodesReply:
        """A page, or the one that is named."""
        return trajectories_pb2.ListEpisodesReply(
            episodes=fitting(_episode(row) for row in self._listed(request, peer))
        )

    def _listed(self, request: trajectories_pb2.ListEpisodesRequest, peer: Peer) -> list[EpisodeRow]:
        limit = page_size(request.limit)
        if request.episode_id:
            try:
                return [self._episodes.find(peer, request.episode_id)]
            except NotFoundError:
                return []
        only = {"state": request.state, "robot": request.robot}
        if not (request.newest_first or request.outcome or request.text):
            return self._episodes.page(peer, after=request.after_sequence, limit=limit, **only)
        text = "".join(bounded("characters of a text", request.text, MOST_CHARACTERS))
        return self._episodes.newest(
            peer, before=request.before_sequence, limit=limit, outcome=request.outcome, text=text, **only
        )

    def LabelEpisode(
        self, request: trajectories_pb2.LabelEpisodeRequest, peer: Peer, context: grpc.ServicerContext
    ) -> trajectories_pb2.Episode:
        """Set a label; its author comes from the certificate."""
        return _episode(self._episodes.label(peer, request.episode_id, request.outcome).row)

    def RetractEpisode(
        self, request: trajectories_pb2.RetractEpisodeRequest, peer: Peer, context: grpc.ServicerContext
    ) -> trajectories_pb2.RetractEpisodeReply:
        """Withdraw one; the author comes from the certificate."""
        bounded("characters of a reason", request.reason, MOST_CHARACTERS)
        touched = self._episodes.retract(peer, request.episode_id, request.reason)
        made = [trajectories_pb2.MadeFrom(id=node.id, kind=node.kind) for node in touched]
        return trajectories_pb2.RetractEpisodeReply(touched=made)


def _episode(row: EpisodeRow) -> trajectories_pb2.Episode:
    fields = {name: getattr(row, name) for name in _FIELDS}
    return trajectories_pb2.Episode(**fields, metadata_json=json.dumps(dict(row.metadata)))
