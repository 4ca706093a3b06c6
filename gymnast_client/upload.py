"""One episode file on its way up: offered, sent in chunks within the trainer's credit, acknowledged by digest."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

import grpc

from gymnast_client.link import Link
from gymnast_core.episodes import read_summary
from gymnast_core.episodes.messages import SCHEMA_VERSION
from gymnast_core.episodes.spool import file_digest
from gymnast_core.errors import TransientBridgeError
from gymnast_core.wire.codec import CHUNK_BYTES, Chunk, crc32c, encode_upload
from gymnast_core.wire.errors import error_from_wire
from gymnast_core.wire.gymnast.v1 import trajectories_pb2 as pb

_METHOD = "/gymnast.v1.TrajectoryService/Upload"
_DEADLINE_S = 600.0
_CHANNEL = 1


class FileUpload:
    """One file; a robot's spool has a stream of its own for many at once (gymnast_ros.uplink.upload).

    Args:
        link: to the trainer.
        path: an episode file.
    """

    def __init__(self, link: Link, path: Path) -> None:
        self._link, self._path = link, path
        self._news: queue.SimpleQueue[pb.UploadReply | None] = queue.SimpleQueue()

    def run(self) -> bool:
        """Send it; returns whether the trainer had it already. See EpisodesClient.upload."""
        episode_id, size = read_summary(self._path).header.episode_id, self._path.stat().st_size
        opening = pb.EpisodeOpen(
            channel=_CHANNEL, episode_id=episode_id, size=size, digest=file_digest(self._path),
            schema=SCHEMA_VERSION,
        )  # fmt: skip
        method = self._link.channel().stream_stream(
            _METHOD, request_serializer=encode_upload, response_deserializer=pb.UploadReply.FromString
        )
        call = method(self._requests(opening, size), timeout=_DEADLINE_S)
        try:
            for reply in call:
                kind = reply.WhichOneof("message")
                if kind == "committed":
                    return bool(reply.committed.duplicate)
                if kind == "refused":
                    refused = reply.refused
                    raise error_from_wire(refused.code, refused.message, retry=refused.retry)
                self._news.put(reply)
        except grpc.RpcError as failure:
            raise self._link.failure(failure) from failure
        finally:
            self._news.put(None)
            call.cancel()
        raise TransientBridgeError(f"the trainer closed the stream before it had {episode_id}; send it again")

    def _requests(self, opening: pb.EpisodeOpen, size: int) -> Iterator[pb.UploadRequest | Chunk]:
        yield pb.UploadRequest(open=opening)
        credit, offset = 0, None
        with self._path.open("rb") as file:
            while offset is None or offset < size:
                length = min(CHUNK_BYTES, size - (offset or 0))
                if offset is None or credit < length:
                    reply = self._news.get()
                    if reply is None:
                        return
                    credit += reply.credit.bytes
                    if reply.WhichOneof("message") == "opened":
                        offset = int(reply.opened.offset)
                        file.seek(offset)
                    continue
                data = file.read(length)
                yield Chunk(_CHANNEL, offset, crc32c(data), data)
                credit, offset = credit - len(data), offset + len(data)
        yield pb.UploadRequest(commit=pb.EpisodeCommit(channel=_CHANNEL))
        while self._news.get() is not None:  # the stream stays open until it is answered
            continue
