"""Strangers at openpi's port: changed bytes, half frames, silence; an honest client is served all the while."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from cloud_trainer.service import openpi
from cloud_trainer.service.openpi import CONNECTIONS
from gymnast_core.wire.openpi.codec import pack, unpack
from tests.bridge.openpi_parts import SeenPolicy, asking, served
from tests.hostile.registry import Tally, attack

LONG_S = 60.0
HEADS = (b"", b"GET", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01", b"POST / HTTP/1.1\r\n\r\n", b"\0" * 70_000,
         b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000)  # fmt: skip


def changed(data: bytes, rng: random.Random) -> bytes:
    """One of the ways in which bytes are no good: some differ, some lack, some are too many."""
    kind, at = rng.randrange(3), rng.randrange(len(data))
    if kind == 0:
        heads = [at, *(rng.randrange(min(len(data), 200)) for _ in range(3))]
        other = bytearray(data)
        for place in heads:
            other[place] = rng.randrange(256)
        return bytes(other)
    return data[:at] if kind == 1 else data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]


def answer_to(address: str, data: bytes) -> str:
    """What came back: "" for a closed connection, the words of a refusal, or "actions"."""
    with contextlib.suppress(ConnectionClosed), connect(address, compression=None, max_size=None) as client:
        client.recv(timeout=LONG_S)
        client.send(data)
        answer = client.recv(timeout=LONG_S)
        return answer if isinstance(answer, str) else ",".join(unpack(answer))
    return ""


@attack("changed messages and half connections to openpi's port")
def strangers(folder: Path, size: int) -> Tally:
    rng, good = random.Random(0), pack(asking(np.arange(7, dtype=np.float32)))
    attempts = accepted = lost = 0
    with served(SeenPolicy()) as server, contextlib.ExitStack() as open_ones:
        host, _, port = server.address.removeprefix("ws://").rpartition(":")
        with connect(server.address, compression=None) as honest:
            honest.recv(timeout=LONG_S)
            for number in range(size):
                silent = open_ones.enter_context(socket.create_connection((host, int(port))))
                with contextlib.suppress(OSError):
                    silent.sendall(HEADS[number % len(HEADS)])
                found = answer_to(server.address, changed(good, rng))
                attempts, accepted = attempts + 2, accepted + ("actions" in found)
                lost += "Traceback" in found or "ServerFault" in found
                honest.send(good)
                lost += "actions" not in unpack(honest.recv(timeout=LONG_S))
    return Tally(attempts, accepted, lost)


def test_silent_clients_keep_no_place_that_somebody_else_needs(monkeypatch):
    with served(SeenPolicy()) as server, contextlib.ExitStack() as silent:
        clients = [silent.enter_context(connect(server.address, compression=None)) for _ in range(CONNECTIONS)]
        for client in clients:
            client.recv(timeout=LONG_S)
        with pytest.raises(InvalidStatus, match="503"), connect(server.address):
            pass
        monkeypatch.setattr(openpi, "SILENT_S", 0.0)
        with connect(server.address, compression=None) as honest:
            honest.recv(timeout=LONG_S)
            honest.send(pack(asking(np.arange(7, dtype=np.float32))))
            assert "actions" in unpack(honest.recv(timeout=LONG_S))
        with pytest.raises(ConnectionClosed, match="others wait"):
            clients[0].recv(timeout=LONG_S)


def test_no_stranger_takes_the_port_from_an_honest_client(tmp_path):
    tally = strangers(tmp_path, 30)
    assert (tally.attempts, tally.lost) == (60, 0)
    assert tally.accepted < 30  # a changed pixel is a good request
