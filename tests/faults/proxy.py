"""A TCP proxy between robot and trainer that can be told to misbehave."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

_BUFFER = 64 * 1024


class FaultProxy:
    """Forwards loopback connections to a port; counts bytes, flips bits, resets connections."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._flips = 0
        self._flowing = threading.Event()
        self._flowing.set()
        self.forwarded = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def flip(self) -> None:
        """Invert one bit of the next full buffer on its way up."""
        with self._lock:
            self._flips += 1

    def reset(self) -> None:
        """Break every connection with a TCP reset."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def freeze(self) -> None:
        """From now on nothing passes, and neither side is told: a cable that was pulled."""
        self._flowing.clear()

    def close(self) -> None:
        """Stop listening and break what is left."""
        self._listener.close()
        self.reset()
        self._flowing.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            with self._lock:
                self._pairs.append((client, server))
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        buffer = bytearray(_BUFFER)
        view = memoryview(buffer)
        with contextlib.suppress(OSError):
            while size := source.recv_into(buffer):
                if up:
                    with self._lock:
                        if self._flips and size > _BUFFER // 4:
                            self._flips -= 1
                            buffer[size // 2] ^= 0x10
                        self.forwarded += size
                self._flowing.wait()
                sink.sendall(view[:size])
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
