"""Fetches blobs: several ranges in flight, resumable, believed only when the digest fits."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from blake3 import blake3

from gymnast_client.link import Link
from gymnast_core.episodes.durable import FULL_ERRNOS, move_durably
from gymnast_core.errors import CorruptError, DiskFullError, TransientBridgeError
from gymnast_core.wire.codec import decode_blob
from gymnast_core.wire.gymnast.v1 import weights_pb2

LOG = logging.getLogger(__name__)
METHOD = "/gymnast.v1.WeightsService/Fetch"
RANGE_BYTES = 64 * 1024 * 1024
RANGES_IN_FLIGHT = 2
_RANGE_DEADLINE_S = 120.0
_HASH_BYTES = 1024 * 1024


class BlobDownload:
    """One blob on its way to a file.

    Args:
        link: the channel.
        digest: hex BLAKE3 of the whole.
        size: bytes.
        target: where it goes once verified; <target>.part and <target>.ranges keep what is there until then.
        stopped: asks whether to end.
        range_bytes: size of one range.
        in_flight: ranges fetched at once.
    """

    def __init__(
        self,
        link: Link,
        digest: str,
        size: int,
        target: Path,
        *,
        stopped: Callable[[], bool] = lambda: False,
        range_bytes: int = RANGE_BYTES,
        in_flight: int = RANGES_IN_FLIGHT,
    ) -> None:
        self._link, self._digest, self._size, self._target = link, digest, size, target
        self._stopped, self._range_bytes, self._in_flight = stopped, range_bytes, in_flight
        self._part = target.with_name(target.name + ".part")
        self._ranges = target.with_name(target.name + ".ranges")
        self._lock = threading.Lock()
        self.fetched_bytes = 0

    def run(self) -> Path:
        """Fetch what is missing, verify, and give the file its name.

        Raises:
            TransientBridgeError: the link broke; run again to go on with the missing ranges.
            RejectedBridgeError: the trainer refused.
            CorruptError: all bytes are there and the digest is another one; they are thrown away.
            DiskFullError: no space.
        """
        self._target.parent.mkdir(parents=True, exist_ok=True)
        done = self._done_before()
        descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, self._size)
            found = self._fetch_all(descriptor, done)
            os.fsync(descriptor)
        except OSError as error:
            if error.errno in FULL_ERRNOS:
                raise DiskFullError(f"no space for {self._size} bytes of {self._target}; free some") from error
            raise
        finally:
            os.close(descriptor)
        self._verify(found)
        move_durably(self._part, self._target)
        self._ranges.unlink(missing_ok=True)
        return self._target

    def _fetch_all(self, descriptor: int, done: set[int]) -> str:
        """Fetch what is missing and hash each range as soon as all before it are there; returns the digest."""
        digest = blake3()
        starts = range(0, self._size, self._range_bytes)
        with ThreadPoolExecutor(self._in_flight, thread_name_prefix="fetch") as pool:
            tasks = {start: pool.submit(self._fetch, descriptor, start, done) for start in starts if start not in done}
            try:
                for start in starts:
                    if start in tasks:
                        tasks[start].result()
                    for at in range(start, min(start + self._range_bytes, self._size), _HASH_BYTES):
                        digest.update(os.pread(descriptor, min(_HASH_BYTES, start + self._range_bytes - at), at))
            except BaseException:
                for task in tasks.values():
                    task.cancel()
                raise
        return digest.hexdigest()

    def _done_before(self) -> set[int]:
        """Ranges a former attempt has finished; none where its notes do not fit this download."""
        try:
            notes = json.loads(self._ranges.read_bytes())
            fits = notes["digest"] == self._digest and notes["range_bytes"] == self._range_bytes
            if fits and self._part.stat().st_size == self._size:
                return {int(start) for start in notes["done"]} & set(range(0, self._size, self._range_bytes))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            LOG.debug("download_starts_afresh digest=%s", self._digest)
        return set()

    def _fetch(self, descriptor: int, start: int, done: set[int]) -> None:
        length = min(self._range_bytes, self._size - start)
        method = self._link.channel().unary_stream(
            METHOD, request_serializer=weights_pb2.FetchRequest.SerializeToString, response_deserializer=bytes
        )
        request = weights_pb2.FetchRequest(digest=self._digest, offset=start, length=length)
        at = start
        try:
            for data in method(request, timeout=_RANGE_DEADLINE_S):
                if self._stopped():
                    raise TransientBridgeError("stopped")
                chunk = decode_blob(data)
                if chunk.offset != at or at + len(chunk.data) > start + length:
                    raise TransientBridgeError(f"a chunk at {chunk.offset} came where {at} was due")
                chunk.check()
                os.pwrite(descriptor, chunk.data, at)
                at += len(chunk.data)
        except grpc.RpcError as failure:
            raise self._link.failure(failure) from failure
        except CorruptError as error:
            raise TransientBridgeError(str(error)) from error
        if at != start + length:
            raise TransientBridgeError(f"range {start} ended after {at - start} of {length} bytes")
        os.fdatasync(descriptor)
        with self._lock:
            self.fetched_bytes += length
            done.add(start)
            notes = {"digest": self._digest, "range_bytes": self._range_bytes, "done": sorted(done)}
            fresh = self._ranges.with_suffix(".fresh")
            fresh.write_text(json.dumps(notes))  # not flushed: notes that are lost cost a range, the digest decides
            fresh.replace(self._ranges)

    def _verify(self, found: str) -> None:
        if found != self._digest:
            self._part.unlink()
            self._ranges.unlink(missing_ok=True)
            raise CorruptError(f"blob {self._digest} arrived as {found}; it was thrown away")
