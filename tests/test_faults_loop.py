"""kill -9 of trainer, bridge node and rollout node in the middle of a small loop loses nothing.

Real processes: `gymnast serve` over mutual TLS, the node graph over Fast DDS. A thread notes every episode that enters
the robot's spool, with the digest the robot gave it; in the end the trainer must have each of them, once, unchanged.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gymnast_client
from cloud_trainer.service import enroll
from gymnast_client import EpisodeView
from gymnast_core.episodes import file_digest
from gymnast_ros.bringup import Graph, GraphConfig
from gymnast_ros.nodes.client import GraphClient
from gymnast_ros.uplink import Identity
from tests.ros.conftest import wait_until

SEED = 7
EPISODES_PER_RUN = 4
VICTIMS = ("trainer", "bridge", "rollout")
DOMAIN = 180 + os.getpid() % 20


class Trainer:
    """`gymnast serve`, which can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, ""
        self._log = folder / "serve.log"
        folder.mkdir()
        self.start()

    def start(self) -> None:
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "gymnast_cli.main", "serve", "--folder", str(self.folder),
                   "--port-file", str(port_file), "--no-console",
                   "--port", self.address.rpartition(":")[2] or "0"]  # fmt: skip
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(lambda: port_file.exists() or self.process.poll() is not None, 60.0, "trainer")
        assert self.process.poll() is None, self._log.read_text()
        self.address = port_file.read_text().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


class SpoolWatch:
    """Notes id and digest of every episode that waits in a spool, as its file name says."""

    def __init__(self, pending: Path) -> None:
        self.seen: dict[str, str] = {}
        self._pending, self._over = pending, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> SpoolWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            with contextlib.suppress(FileNotFoundError):
                for name in os.listdir(self._pending):  # noqa: PTH208  # names alone, as fast as can be
                    episode_id, _, rest = name.partition("~")
                    if rest.endswith(".mcap"):
                        self.seen[episode_id] = rest.removesuffix(".mcap")


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[Trainer]:
    running = Trainer(tmp_path / "trainer")
    yield running
    running.kill()


def evaluate_and_kill(client: GraphClient, first: int, count: int, after: int, kill) -> int:
    """Record `count` episodes, kill somebody once `after` are done; returns how many the robot says it did."""
    client.set("rollout", {"seed_start": first, "seed_count": count})
    run_id = client.call("rollout/evaluate")
    client.wait_for("rollout/status", lambda status: status["run_id"] == run_id and status["done"] >= after, 30.0)
    kill()
    done = [after]

    def over() -> bool:
        status = client.status
        if status.get("run_id") == run_id:
            done.append(int(status["done"]))
        return status.get("state") == "idle" and (done[-1] == count or status.get("run_id") == "")

    wait_until(over, 40.0, "the run's end, or a fresh rollout node")
    return done[-1]


def test_kill_9_in_the_middle_of_a_loop_loses_no_episode(trainer: Trainer, tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    ca = trainer.folder / "ca"
    robot = enroll(ca, "sim-0", "robot", out=tmp_path / "robot-identity")
    operator = enroll(ca, "ada", "operator", out=tmp_path / "operator-identity")
    still = tmp_path / "still.json"
    still.write_text(json.dumps([[0, 0, 0, 0, 0, 0, 1.0]] * 15))
    config = GraphConfig(folder=tmp_path / "robot", domain_id=DOMAIN, trainer=trainer.address, identity=robot)
    pending = config.folder / "spool" / "pending"
    with SpoolWatch(pending) as spool, Graph(config) as graph, GraphClient(domain_id=DOMAIN) as client:
        client.wait_ready(40.0)
        values = {"tasks": ["lift"], "checkpoints": [f"replay:{still}"], "record": True}
        client.set("rollout", values)
        for number, victim in enumerate(rng.permutation(VICTIMS)):
            first, done = 100 * number, 0
            restarts = dict(graph.restarts)

            def kill(victim: str = victim) -> None:
                trainer.kill() if victim == "trainer" else os.kill(graph.pids[victim], signal.SIGKILL)

            after = int(rng.integers(1, EPISODES_PER_RUN))
            done = evaluate_and_kill(client, first, EPISODES_PER_RUN, after, kill)
            if victim == "trainer":
                assert any(pending.iterdir()), "without a trainer the spool keeps what was recorded"
                trainer.start()
            else:
                wait_until(lambda: graph.restarts[victim] == restarts[victim] + 1, 20.0, "respawn")  # noqa: B023
            if done < EPISODES_PER_RUN:
                client.set("rollout", values)
                client.evaluate(
                    tasks=["lift"], seed_start=first + done, seed_count=EPISODES_PER_RUN - done, record=True,
                    checkpoints=values["checkpoints"], timeout_s=60.0,
                )  # fmt: skip
        client.flush(timeout_s=60.0)
        assert list(pending.iterdir()) == []
        assert list((config.folder / "spool" / "refused").iterdir()) == []
        assert sum(graph.restarts.values()) == 2
    check_catalogue(catalogue(trainer, operator), spool.seen, trainer.folder)
    assert trainer.stop() == 0


def catalogue(trainer: Trainer, operator: Path) -> list[EpisodeView]:
    with gymnast_client.Trainer(trainer.address, Identity.load(operator)).episodes as client:
        wait_until(lambda: not client.list(state="committed"), 20.0, "validation")
        return client.list()


def check_catalogue(rows: list[EpisodeView], seen: dict[str, str], folder: Path) -> None:
    at_trainer = {row.episode_id: row.digest for row in rows}
    assert len(at_trainer) == len(rows), "an episode is there twice"
    assert len(seen) >= 2 * EPISODES_PER_RUN
    assert seen.items() <= at_trainer.items(), "an episode is missing, or is not what the robot recorded"
    for row in rows:
        assert file_digest(folder / "blobs" / row.digest[:2] / row.digest) == row.digest
    whole = [row for row in rows if row.steps == 15 and row.outcome == "failure" and row.state == "valid"]
    starts = {row.metadata["seed"] for row in whole}
    assert starts == {100 * run + episode for run in range(3) for episode in range(EPISODES_PER_RUN)}
    cut = [row for row in rows if row not in whole]
    assert len(cut) <= 2, "at most what was running when a process died is cut"
