"""openpi's port: answers as the policy does, goes on answering pings, and refuses by name what it cannot answer."""

from __future__ import annotations

import argparse
import contextlib
import ssl
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidHandshake, InvalidStatus
from websockets.sync.client import connect

from cloud_trainer.service import enroll
from cloud_trainer.service.enroll import create_authority
from cloud_trainer.service.openpi import CONNECTIONS, OpenpiConfig, OpenpiServer
from gymnast_cli.commands import serve
from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.types import Observation
from gymnast_core.wire.openpi.codec import MAX_BYTES, pack, unpack
from gymnast_core.wire.token import header
from tests.bridge.openpi_parts import LIBERO, SeenPolicy, asking, bright, served

LONG_S = 60.0


@pytest.fixture
def policy():
    return SeenPolicy()


@pytest.fixture
def server(policy):
    with served(policy) as server:
        yield server


def dial(server, **options):
    return connect(server.address, compression=None, max_size=None, open_timeout=LONG_S, **options)


def ask(client, message):
    client.send(pack(message))
    answer = client.recv(timeout=LONG_S)
    assert isinstance(answer, bytes), answer
    return unpack(answer)


def refusal(client, data):
    """The words of a refusal, after which the connection is closed as openpi closes it."""
    client.send(data)
    words = client.recv(timeout=LONG_S)
    assert isinstance(words, str)
    assert "Traceback" not in words
    assert "\n" not in words
    with pytest.raises(ConnectionClosedError) as closed:
        client.recv(timeout=LONG_S)
    assert closed.value.rcvd.code == 1011
    return words


def status_of(server, path="/", **headers):
    try:
        place = server.address.replace("ws", "http", 1) + path
        with urllib.request.urlopen(urllib.request.Request(place, headers=headers), timeout=LONG_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_it_greets_and_answers_as_the_policy_does(server, policy):
    proprio = np.arange(7, dtype=np.float32)
    with dial(server) as client:
        hello = unpack(client.recv(timeout=LONG_S))
        assert (hello["policy_version"], hello["chunk_length"]) == ("policy-seen", 5)
        first, second = (ask(client, asking(proprio)) for _ in range(2))
    frames = {name: frame[None] for name, frame in bright().items()}
    local = policy.act(Observation(frames, proprio[None], np.zeros(1, np.int64)), ["lift the red cube"])
    np.testing.assert_allclose(first["actions"], local.actions_BKA[0], atol=1e-4)
    np.testing.assert_array_equal(first["actions"], second["actions"])
    assert set(first) == {"actions", "policy_timing", "server_timing"}  # a chunk broker takes row k of every array
    assert set(first["server_timing"]) == {"infer_ms"}
    assert second["server_timing"]["prev_total_ms"] > 0


def test_pings_and_the_health_page_are_answered_while_the_policy_computes(server, policy):
    policy.gate.clear()
    with dial(server) as busy, dial(server) as other:
        assert busy.recv(timeout=LONG_S)
        assert other.recv(timeout=LONG_S)
        busy.send(pack(asking()))
        assert policy.asked.wait(LONG_S)
        assert busy.ping().wait(LONG_S)
        assert other.ping().wait(LONG_S)
        assert status_of(server, "/healthz") == (200, b"OK\n")
        assert not policy.gate.is_set()
        policy.gate.set()
        assert "actions" in unpack(busy.recv(timeout=LONG_S))


def test_one_request_at_a_time_reaches_the_policy_and_each_gets_its_own_answer(server, policy):
    def episode(number):
        with dial(server) as client:
            client.recv(timeout=LONG_S)
            wanted = asking(np.full(7, number, np.float32))
            return [ask(client, wanted)["actions"][0, 1] for _ in range(4)]

    with ThreadPoolExecutor(4) as clients:
        found = list(clients.map(episode, range(4)))
    assert policy.most == 1
    for number, values in enumerate(found):
        np.testing.assert_allclose(values, 100 / 25500 + number / 100, atol=1e-3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            pack(asking(**{"observation/image": np.zeros((3, 8, 8), np.uint8)})),
            r"InvalidMessageError: observation/image must be",
        ),
        (pack(asking(prompt=...)), "lacks 'prompt'"),
        (b"\x93\x01\x02\x03", "a map of names to values, got list"),
        (b"\xc1", "not a msgpack message"),
        ("hello", "one binary message, got a text"),
        (b"", "not a msgpack message"),
        (pack(asking(**{"observation/state": np.full(8, np.inf)})), "not within 100"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name_and_the_next_client_is_served(server, data, words):
    with dial(server) as client:
        client.recv(timeout=LONG_S)
        assert words in refusal(client, data)
    with dial(server) as client:
        client.recv(timeout=LONG_S)
        assert ask(client, asking())["actions"].shape == (5, 7)


def test_a_policy_that_raises_is_named_on_one_line(server, policy):
    policy.mode = "raise"
    with dial(server) as client:
        client.recv(timeout=LONG_S)
        assert refusal(client, pack(asking())).startswith("PolicyFailedError: policy policy-seen raised RuntimeError")


def test_a_fault_of_the_server_shows_nothing_of_itself(policy):
    def broken(request):
        if request.instructions:
            raise KeyError("/secret/path")
        return type("Hello", (), {"error": "", "policy_version": "policy-1", "chunk_length": 5})()

    server = OpenpiServer(broken, OpenpiConfig(0, LIBERO))
    server.start()
    try:
        with dial(server) as client:
            client.recv(timeout=LONG_S)
            words = refusal(client, pack(asking()))
    finally:
        server.stop()
    assert words.startswith("ServerFaultError")
    assert "secret" not in words


def test_a_message_beyond_the_most_ends_the_connection_alone(server):
    with dial(server) as client:
        client.recv(timeout=LONG_S)
        with contextlib.suppress(ConnectionClosedError):  # it may be closed before all is sent
            client.send(b"\0" * (MAX_BYTES + 1))
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(timeout=LONG_S)
    assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
    with dial(server) as client:
        assert client.recv(timeout=LONG_S)


def test_pages_of_other_sites_and_crowds_are_not_admitted(server):
    with pytest.raises(InvalidStatus) as refused, dial(server, origin="https://evil.example"):
        pass
    assert refused.value.response.status_code == 403
    with contextlib.ExitStack() as clients:
        for _ in range(CONNECTIONS):
            clients.enter_context(dial(server))
        with pytest.raises(InvalidStatus) as refused, dial(server):
            pass
        assert refused.value.response.status_code == 503
        assert status_of(server, "/healthz")[0] == 200


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.write_text("t" * 32)
    return path


def test_on_the_network_it_speaks_tls_and_asks_for_the_token(policy, tmp_path, token):
    create_authority(tmp_path / "ca")
    identity = enroll(tmp_path / "ca", "trainer", "server", out=tmp_path / "server", hosts=["localhost", "127.0.0.1"])
    context = ssl.create_default_context(cafile=identity / "ca.pem")
    with served(policy, identity, host="0.0.0.0", token=token) as server:
        assert server.address.startswith("wss://")
        place = f"wss://127.0.0.1:{server.address.rpartition(':')[2]}"
        for shown in ("", header("u" * 32), "t" * 32):
            with pytest.raises(InvalidStatus) as refused, secured(place, context, shown):
                pass
            assert refused.value.response.status_code == 401
        with secured(place, context, header("t" * 32)) as client:
            client.recv(timeout=LONG_S)
            assert ask(client, asking())["actions"].shape == (5, 7)
        with pytest.raises((InvalidHandshake, OSError, EOFError)), connect(place.replace("wss", "ws")):
            pass


def secured(place, context, shown):
    return connect(place, ssl=context, additional_headers={"Authorization": shown}, open_timeout=LONG_S)


def test_a_network_is_not_served_without_a_token_or_without_tls(policy, token):
    with pytest.raises(ConfigError, match=r"host 0\.0\.0\.0: .*without a token; .*--openpi-token"):
        OpenpiConfig(0, LIBERO, host="0.0.0.0")
    with pytest.raises(ConfigError, match="without TLS; leave out --insecure"):
        OpenpiServer(lambda request: None, OpenpiConfig(0, LIBERO, host="0.0.0.0", token=token))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--openpi-port", "0"], "name it with --policy"),
        (["--openpi-port", "70000", "--policy", "p"], "0..65535"),
        (["--openpi-port", "0", "--policy", "p", "--openpi-host", "::"], "--openpi-token"),
        (["--openpi-port", "0", "--policy", "p", "--openpi-keys", "franka"], "'franka' is neither a style"),
    ],
)
def test_flags_that_make_no_sense_are_named_before_anything_starts(flags, words, tmp_path):
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    with pytest.raises(ConfigError, match=words):
        serve.app_config(parser.parse_args(["--folder", str(tmp_path), *flags]))


def test_a_token_file_that_is_none_and_a_taken_port_are_named(policy, server, tmp_path):
    with pytest.raises(ConfigError, match="token file"):
        OpenpiServer(lambda request: None, OpenpiConfig(0, LIBERO, token=tmp_path / "none"))
    with pytest.raises(GymnastError, match="taken"), served(SeenPolicy(), port=int(server.address.rpartition(":")[2])):
        pass


def test_it_stops_while_clients_are_connected_and_one_waits(policy):
    policy.gate.clear()
    with served(policy) as server, dial(server) as client:
        client.recv(timeout=LONG_S)
        client.send(pack(asking()))
        assert policy.asked.wait(LONG_S)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        policy.gate.set()
        stopping.join(LONG_S)
        assert not stopping.is_alive()
        with pytest.raises(ConnectionRefusedError), dial(server):
            pass
