"""An environment that runs elsewhere is one more Env: the same contract, and what happens when it goes away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_trainer.service import enroll, revoke
from gymnast_core.episodes import read_episode, read_summary
from gymnast_core.errors import ConfigError, EnvLostError, OccupiedError, TransientBridgeError
from gymnast_core.foreign.check import check_env
from gymnast_core.foreign.collect import RandomPolicy, collect_episodes
from gymnast_core.foreign.mapping import GymnasiumMapping
from gymnast_core.types import Outcome
from gymnast_core.wire import env_server
from gymnast_core.wire.env_client import RemoteEnv
from gymnast_core.wire.env_host import EnvHost
from gymnast_core.wire.env_server import EnvServer
from gymnast_core.wire.errors import NotPermittedError, RevokedError
from gymnast_core.wire.gymnast.v1 import env_pb2
from gymnast_core.wire.identity import Identity
from gymnast_core.wire.peers import CertifiedAccess
from gymnast_core.wire.revocation import Revocations, RevokedFile
from tests.contracts.env_contract import EnvContract
from tests.core.test_gymnasium_env import TOY
from tests.core.toy_gymnasium import MAPPING
from tests.journeys.hosts import GYMNAST, Started

TASK = MAPPING["instruction"]
STILL = np.zeros((1, 7), np.float32)


class Served:
    """The toy, served on a socket of this test's own."""

    def __init__(self, folder: Path, rows: int = 1, answer_s: float = 60.0, **make: Any) -> None:
        (folder / "own").mkdir(mode=0o700)
        self.host = EnvHost(TOY, GymnasiumMapping(**{**MAPPING, "make": make}), rows, answer_s=answer_s)
        self.server = EnvServer(self.host, f"unix:{folder}/own/socket")

    def close(self) -> None:
        self.server.close()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("three"), rows=3)
    yield served
    served.close()


class TestRemoteEnv(EnvContract):
    instruction = TASK

    @pytest.fixture(autouse=True)
    def _served(self, three: Served) -> None:
        self.address = three.server.address

    def make_env(self) -> RemoteEnv:
        return RemoteEnv(self.address)


def test_a_killed_environment_ends_its_episode_with_the_reason_and_the_next_one_begins(tmp_path: Path) -> None:
    served = Served(tmp_path)
    env = RemoteEnv(served.server.address)
    before = env.reset(TASK, seed=1).proprio_BP
    env.step(STILL)
    assert served.host.pid is not None
    os.kill(served.host.pid, signal.SIGKILL)
    with pytest.raises(EnvLostError, match=r"was killed, .* after 1 steps"):
        env.step(STILL)
    np.testing.assert_array_equal(env.reset(TASK, seed=1).proprio_BP, before)
    served.close()
    with pytest.raises(EnvLostError, match="server is not there"):
        env.step(STILL)
    env.close()


def test_what_is_recorded_is_labelled_by_the_environment_and_says_why_it_ended(tmp_path: Path) -> None:
    served = Served(tmp_path, fault="exits", after=6)
    env = RemoteEnv(served.server.address)
    found = collect_episodes(env, RandomPolicy(env.spec.robot), tmp_path / "out", range(2))
    env.close()
    served.close()
    assert [one.success for one in found] == [None, None]
    assert "ended with code 7" in found[0].reason
    summary = read_summary(found[1].file)
    assert (summary.steps, summary.end.truncated_reason) == (3, "env_lost")
    assert "ended with code 7" in summary.end.metadata["reason"]


def test_one_that_hangs_is_ended(tmp_path: Path) -> None:
    served = Served(tmp_path, answer_s=1.0, fault="hangs", after=1)
    env = RemoteEnv(served.server.address)
    env.reset(TASK, seed=0)
    with pytest.raises(EnvLostError, match="did not answer within 1 s"):
        env.step(STILL)
    env.close()
    served.close()


def test_one_driver_at_a_time(three: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    first = RemoteEnv(three.server.address)
    with pytest.raises(OccupiedError, match="somebody else drives"):
        RemoteEnv(three.server.address)
    monkeypatch.setattr(env_server, "SILENT_S", 0.0)
    second = RemoteEnv(three.server.address)
    with pytest.raises(OccupiedError, match="left to another driver"):
        first.reset(TASK, seed=0)
    first.close()
    second.close()


def test_over_the_network_certificates_decide(tmp_path: Path) -> None:
    made = (("sim", "server", "default"), ("ana", "operator", "default"), ("bob", "operator", "elsewhere"))
    ids = {
        name: Identity.load(
            enroll(tmp_path / "ca", name, role, out=tmp_path / name, tenant=tenant, hosts=["localhost"])
        )
        for name, role, tenant in made
    }
    host = EnvHost(TOY, GymnasiumMapping(**MAPPING), 1)
    with pytest.raises(ConfigError, match="give an identity"):
        EnvServer(host, "localhost:0")
    server = EnvServer(host, "localhost:0", CertifiedAccess(ids["sim"], Revocations(RevokedFile(tmp_path / "ca"))))
    env = RemoteEnv(server.address, ids["ana"])
    assert all(one.kept is not False for one in check_env(env, env.instruction))
    env.close()
    with pytest.raises(NotPermittedError, match="drive this environment"):
        RemoteEnv(server.address, ids["bob"])
    with pytest.raises(ConfigError, match="identity is needed"):
        RemoteEnv(server.address)
    env = RemoteEnv(server.address, ids["ana"])
    revoke(tmp_path / "ca", "ana")

    def drive() -> None:
        for _ in range(10_000):  # until the list was read again
            env.reset(env.instruction, seed=0)

    with pytest.raises(RevokedError, match="was revoked"):
        drive()
    server.close()


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[RemoteEnv, threading.Event]]:
    """An environment on the network whose reset lasts until it is let go, and what is set once it began."""
    ids = {
        name: Identity.load(enroll(tmp_path / "ca", name, role, out=tmp_path / name, hosts=["localhost"]))
        for name, role in (("sim", "server"), ("ana", "operator"))
    }
    host, began, let_go = EnvHost(TOY, GymnasiumMapping(**MAPPING), 1), threading.Event(), threading.Event()
    reset = host.reset

    def slow(request: env_pb2.EnvResetRequest) -> env_pb2.EnvObservation:
        began.set()
        let_go.wait(20.0)
        return reset(request)

    host.reset = slow  # type: ignore[method-assign]
    access = CertifiedAccess(ids["sim"], Revocations(RevokedFile(tmp_path / "ca")))
    server = EnvServer(host, "localhost:0", access)
    env = RemoteEnv(server.address, ids["ana"])
    yield env, began
    let_go.set()
    env.close()
    server.close()


def test_a_call_that_a_revocation_cuts_off_says_so(held: tuple[RemoteEnv, threading.Event], tmp_path: Path) -> None:
    env, began = held

    def take_back() -> None:
        began.wait(20.0)
        revoke(tmp_path / "ca", "ana")

    threading.Thread(target=take_back).start()
    with pytest.raises(RevokedError, match="was revoked"):
        env.reset(env.instruction, seed=0)


def test_a_call_that_ends_with_our_own_channel_is_no_revocation(held: tuple[RemoteEnv, threading.Event]) -> None:
    env, began = held

    def hang_up() -> None:
        began.wait(20.0)
        env._channel.close()

    threading.Thread(target=hang_up).start()
    with pytest.raises(TransientBridgeError, match="CANCELLED"):
        env.reset(env.instruction, seed=0)
    env._open = False


def test_a_socket_where_others_can_enter_and_a_wrong_mapping_are_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    host = EnvHost(TOY, GymnasiumMapping(**MAPPING), 1)
    with pytest.raises(ConfigError, match="others can enter"):
        EnvServer(host, f"unix:{tmp_path}/socket")
    host.close()
    with pytest.raises(ConfigError, match="needs 7 numbers, got 1"):
        EnvHost(TOY, GymnasiumMapping(**{**MAPPING, "proprioception": [0]}), 1)


def test_a_user_serves_checks_and_collects(tmp_path: Path) -> None:
    """`gymnast env`, each command as a user types it."""
    (tmp_path / "toy.json").write_text(json.dumps(MAPPING))
    where = f"unix:{tmp_path}/run/socket"
    serve = [GYMNAST, "env", "serve", "--gymnasium", TOY, "--mapping", tmp_path / "toy.json", "--listen", where]
    with (tmp_path / "serve.log").open("wb") as log:
        started = Started(subprocess.Popen(serve, stdout=log, stderr=subprocess.STDOUT), tmp_path / "serve.log")
    try:
        started.wait_for("is served at", 120.0)
        done = subprocess.run([GYMNAST, "--json", "env", "check", where], capture_output=True, text=True, check=True)
        rows = {row["what"]: row["found"] for row in json.loads(done.stdout)["findings"]}
        assert rows["displacement along y"] == "commanded 0.125 m, moved 0.125 m"
        out = ("--out", tmp_path / "episodes", "--count", "2")
        command = [GYMNAST, "env", "collect", where, "--policy", "random", *out]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "2 episodes in" in done.stdout
    finally:
        started.stop()
    (episode, _) = (read_episode(path) for path in sorted((tmp_path / "episodes").glob("*.mcap")))
    assert (episode.instruction, episode.steps, episode.labelled_by) == (TASK, 5, "operator:env")
    assert episode.outcome in (Outcome.SUCCESS, Outcome.FAILURE)
