"""The two processes under fire, and a naive pair of them as a control."""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import threading
import time
from pathlib import Path

import numpy as np

from cloud_trainer.service import Limits, Service, ServiceConfig
from gymnast_core.episodes import Spool
from gymnast_core.episodes.durable import write_durably
from gymnast_ros.uplink import Uplink
from gymnast_ros.uplink.upload import UploadStream
from tests.faults import mutants
from tests.faults.disk import FragileDisk

LEDGER, STOP, SCRAMBLE, DRAINED = "ledger", "stop", "scramble", "drained"
_AHEAD = 12


def run_trainer(folder: str, control: str, port: int, mutant: str) -> None:
    """The real service, on a fragile disk."""
    logging.disable(logging.ERROR)
    disk = FragileDisk(Path(control), "journal")
    disk.install(lying_fsync=mutant == "no_fsync")
    if mutant in mutants.SERVER:
        mutants.SERVER[mutant]()
    limits = Limits(window_bytes=128 << 10, min_free_bytes=1)
    with Service(ServiceConfig(folder=Path(folder), port=port, insecure=True, limits=limits)):
        threading.Event().wait()


def run_robot(folder: str, control: str, address: str, mutant: str, seed: int, size: int, total: int) -> None:
    """Enqueues episodes, tells the ledger, ships them; duplicates and reorders messages on demand."""
    logging.disable(logging.ERROR)
    disk = FragileDisk(Path(control), "journal")
    disk.install(lying_fsync=mutant == "no_spool_fsync")
    if mutant in mutants.ROBOT:
        mutants.ROBOT[mutant]()
    _scramble_on_demand(Path(control), seed)
    spool = Spool(Path(folder), min_free_bytes=1)
    spool.recover()
    with Uplink(address, None, insecure=True, spool=spool, chunk_bytes=32 << 10) as uplink:
        _produce(spool, Path(control), seed, size, total)
        while not uplink.flush(0.5):
            continue
        (Path(control) / DRAINED).touch()
        threading.Event().wait()


def _produce(spool: Spool, control: Path, seed: int, size: int, total: int) -> None:
    """Make episodes, each from its own seed, and note them in the ledger once they are safe in the spool."""
    ledger = os.open(control / LEDGER, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    known = {line.split()[0] for line in (control / LEDGER).read_text().splitlines()}
    known |= {entry.episode_id for entry in spool.entries()}
    for number in range(total):
        episode_id = f"ep-{seed}-{number}"
        if episode_id in known:
            continue
        while len(spool.entries()) >= _AHEAD and not (control / STOP).exists():
            time.sleep(0.005)
        if (control / STOP).exists():
            return
        rng = np.random.default_rng([seed, number])
        path = spool.recording_folder / f"{episode_id}.mcap"
        write_durably(path, rng.bytes(int(rng.integers(size // 2, size * 3 // 2))))  # as a recorder's finish() does
        entry = spool.enqueue(path)
        os.write(ledger, f"{episode_id} {entry.digest} {entry.size}\n".encode())


def _scramble_on_demand(control: Path, seed: int) -> None:
    """While the switch is set: repeat one message, or swap two."""
    chance = random.Random(seed)
    original = UploadStream._requests

    def requests(self):
        held = None
        for message in original(self):
            if held is not None:
                yield message
                yield held
                held = None
            elif (control / SCRAMBLE).exists():
                (control / SCRAMBLE).unlink(missing_ok=True)
                if chance.random() < 0.5:
                    yield message
                    yield message
                else:
                    held = message
            else:
                yield message
        if held is not None:
            yield held

    UploadStream._requests = requests


def run_naive_trainer(folder: str, control: str, port: int, mutant: str) -> None:
    """What one writes in an afternoon: a length, the bytes, a row, OK."""
    FragileDisk(Path(control), "journal").install()
    target = Path(folder) / "naive"
    target.mkdir(parents=True, exist_ok=True)
    listener = socket.create_server(("127.0.0.1", port))

    def receive(connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            while line := stream.readline():
                try:
                    header = json.loads(line)
                    data = stream.read(int(header["size"]))
                    (target / header["id"].replace("/", "_")).write_bytes(data)
                except (ValueError, OSError, KeyError, TypeError):
                    return
                with (Path(folder) / "rows").open("a") as rows:
                    rows.write(f"{header['id']}\n")
                stream.write(b"OK\n")
                stream.flush()

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=receive, args=(connection,), daemon=True).start()


def run_naive_robot(folder: str, control: str, address: str, mutant: str, seed: int, size: int, total: int) -> None:
    """Sends each file in one go, again after an error, and deletes it at OK."""
    FragileDisk(Path(control), "journal").install()
    spool = Spool(Path(folder), min_free_bytes=1)
    spool.recover()
    producer = threading.Thread(target=_produce, args=(spool, Path(control), seed, size, total), daemon=True)
    producer.start()
    host, port = address.split(":")
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=2) as link, link.makefile("rwb") as stream:
                while True:
                    for entry in spool.entries():
                        data = entry.path.read_bytes()
                        stream.write(json.dumps({"id": entry.episode_id, "size": len(data)}).encode() + b"\n" + data)
                        stream.flush()
                        if stream.readline() != b"OK\n":
                            raise OSError("refused")
                        spool.remove(entry)
                    if not producer.is_alive() and not spool.entries():
                        (Path(control) / DRAINED).touch()
                    time.sleep(0.01)
        except (OSError, ValueError):
            time.sleep(0.05)
