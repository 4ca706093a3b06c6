"""The other sides that `bridge.py` measures against, each in a process of its own, and a link with a delay."""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from blake3 import blake3

from cloud_trainer.service import Limits, Service, ServiceConfig
from gymnast_core.episodes.durable import move_durably
from gymnast_core.wire.allocator import keep_freed_memory
from gymnast_core.wire.channel import LOOKAHEAD_BYTES
from gymnast_core.wire.codec import CHUNK_BYTES

SPAWN = multiprocessing.get_context("spawn")
MIB = 1 << 20
_OPTIONS = (
    ("grpc.max_receive_message_length", 4 * MIB),
    ("grpc.max_send_message_length", 4 * MIB),
)
BARE_OPTIONS = (*_OPTIONS, ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES))


def run_service(port_file: str, folder: str, insecure: bool) -> None:
    """The real service."""
    logging.disable(logging.ERROR)
    limits = Limits(episode_bytes=4 << 30, min_free_bytes=1)
    config = ServiceConfig(folder=Path(folder), port_file=Path(port_file), insecure=insecure, limits=limits)
    with Service(config) as service:
        service.validator.stop()  # random bytes are no episodes; validation is after the acknowledgement anyway
        threading.Event().wait()


def run_tcp_sink(port_file: str, folder: str) -> None:
    """The plainest durable receiver: size and name, bytes, BLAKE3, fsync, rename, acknowledgement."""
    listener = socket.create_server(("127.0.0.1", 0))
    Path(port_file).write_text(f"127.0.0.1:{listener.getsockname()[1]}")
    buffer = bytearray(MIB)
    for number in itertools.count():
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while head := connection.recv(8, socket.MSG_WAITALL):
                (left,) = struct.unpack("<Q", head)
                digest = blake3()
                part = Path(folder) / f"{number}.part"
                with part.open("wb") as file:
                    while left:
                        size = connection.recv_into(buffer, min(left, MIB))
                        view = memoryview(buffer)[:size]
                        digest.update(view)
                        file.write(view)
                        left -= size
                    file.flush()
                    os.fsync(file.fileno())
                move_durably(part, Path(folder) / digest.hexdigest())
                connection.sendall(b"ok")


def send_over_tcp(address: str, paths: list[Path]) -> None:
    """Each file with sendfile, waiting for its acknowledgement."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for path in paths:
            link.sendall(struct.pack("<Q", path.stat().st_size))
            with path.open("rb") as file:
                link.sendfile(file)
            if link.recv(2, socket.MSG_WAITALL) != b"ok":
                raise RuntimeError("no acknowledgement")


def _serve_bytes(port_file: str, receive: Callable[[Iterator[bytes], Any], bytes], options: Any) -> None:
    """A gRPC server with one method, which takes a stream of bytes."""
    handler = grpc.stream_unary_rpc_method_handler(receive)
    server = grpc.server(futures.ThreadPoolExecutor(4), options=options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("peer.Transport", {"Send": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    Path(port_file).write_text(f"127.0.0.1:{port}")
    server.wait_for_termination()


def run_lerobot_pattern(port_file: str) -> None:
    """A re-creation of what lerobot 0.6 does: 2 MiB messages, joined in memory, nothing kept, nothing checked."""
    _serve_bytes(port_file, lambda requests, context: b"ok" if len(b"".join(requests)) else b"", _OPTIONS)


def send_like_lerobot(address: str, path: Path) -> None:
    """The whole file in memory, in messages of 2 MiB."""
    data = path.read_bytes()
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        send = channel.stream_unary("/peer.Transport/Send")
        send(data[at : at + 2 * MIB] for at in range(0, len(data), 2 * MIB))


def run_bare_grpc(port_file: str) -> None:
    """A stream that does nothing but move bytes: messages are counted and dropped, nothing is copied or kept."""
    keep_freed_memory()
    _serve_bytes(port_file, lambda requests, context: b"%d" % sum(map(len, requests)), BARE_OPTIONS)


def send_over_bare_grpc(address: str, path: Path) -> None:
    """A file read in our chunks and sent."""
    keep_freed_memory()
    with grpc.insecure_channel(address, options=BARE_OPTIONS) as channel, path.open("rb", buffering=0) as file:
        channel.stream_unary("/peer.Transport/Send")(iter(lambda: file.read(CHUNK_BYTES), b""))


class Other:
    """A process of the other side and its address.

    Args:
        scratch: where its port is told.
        run: gets the file to write "host:port" into, then args.
        args: texts, paths (given as text) and flags.
    """

    def __init__(self, scratch: Path, run: Callable[..., None], *args: object) -> None:
        port_file = scratch / f"port-{time.monotonic_ns()}"
        given = [str(arg) if isinstance(arg, Path) else arg for arg in (port_file, *args)]
        self._process = SPAWN.Process(target=run, args=given, daemon=True)
        self._process.start()
        deadline = time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text()):
            if time.monotonic() > deadline or not self._process.is_alive():
                raise RuntimeError(f"{run.__name__} did not start")
            time.sleep(0.01)
        self.address = port_file.read_text()

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        """Peak resident memory."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
        return 0.0

    def __enter__(self) -> Other:
        """Nothing to do: it runs."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it."""
        self._process.kill()
        self._process.join()


class SlowProxy:
    """A link with a round trip of 50 ms and no other limit."""

    def __init__(self, address: str, one_way_s: float = 0.025) -> None:
        host, _, port = address.rpartition(":")
        self._target, self._delay_s = (host, int(port)), one_way_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(self._target)
            for source, sink in ((client, server), (server, client)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                line: queue.Queue[tuple[float, bytes]] = queue.Queue(4096)
                threading.Thread(target=self._take, args=(source, line), daemon=True).start()
                threading.Thread(target=self._give, args=(sink, line), daemon=True).start()

    def _take(self, source: socket.socket, line: Any) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(256 * 1024):
                line.put((time.perf_counter() + self._delay_s, data))
        line.put((0.0, b""))

    def _give(self, sink: socket.socket, line: Any) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = line.get()
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                if (wait := due - time.perf_counter()) > 0:
                    time.sleep(wait)
                sink.sendall(data)


def run_slow_proxy(port_file: str, address: str) -> None:
    """The link with a delay, in a process of its own so that it takes no turn from either end's interpreter."""
    keep_freed_memory()
    Path(port_file).write_text(SlowProxy(address).address)
    threading.Event().wait()
