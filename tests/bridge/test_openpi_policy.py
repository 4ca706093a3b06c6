"""A policy at openpi's protocol: the same answers as beside the arm, silence means hold, and nothing is believed."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from cloud_trainer.service import enroll
from cloud_trainer.service.enroll import create_authority
from gymnast_core.errors import ConfigError, ContractError, GymnastError, PolicyFailedError
from gymnast_core.types import Observation
from gymnast_core.wire.errors import LinkLostError, NotAuthenticatedError
from gymnast_core.wire.openpi.codec import pack
from gymnast_core.wire.openpi.keys import STYLES
from gymnast_core.wire.openpi.link import OpenpiPlace
from gymnast_ros.run.policy_source import PolicySource
from gymnast_ros.uplink.openpi import MAX_REPLY_BYTES, OpenpiPolicy
from tests.bridge.openpi_parts import SeenPolicy, served

LONG_S = 60.0
GOOD = {"actions": np.full((5, 7), 0.25)}


def observe(rows=1, side=32, level=60):
    images = np.stack([np.full((side, side, 3), level + 50 * row, np.uint8) for row in range(rows)])
    return Observation(
        {"over_shoulder": images}, np.arange(rows * 7, dtype=np.float32).reshape(rows, 7), np.arange(rows)
    )


@contextlib.contextmanager
def reached(address, keys="", deadline_s=LONG_S, secured=False):
    host = address.partition("://")[2]
    place = OpenpiPlace.of(f"openpi{'s' if secured else ''}://{host}", keys)
    with contextlib.closing(OpenpiPolicy(place, deadline_s=deadline_s)) as policy:
        yield policy


@pytest.fixture
def settings(tmp_path):
    """Writes a file of settings."""

    def write(text):
        path = tmp_path / "openpi.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def policy():
    return SeenPolicy()


@pytest.mark.parametrize("style", STYLES)
def test_it_acts_like_the_local_one_with_the_keys_of_every_style(policy, style):
    with served(policy, keys=STYLES[style]) as server, reached(server.address, style) as remote:
        assert remote.chunk_length == 5
        assert remote.version.startswith("openpi-127-0-0-1-")
        for rows in (1, 2):
            got, local = (asked.act(observe(rows), ["lift"] * rows) for asked in (remote, policy))
            np.testing.assert_allclose(got.actions_BKA[..., :6], local.actions_BKA[..., :6], atol=2e-3)
            assert got.policy_version == remote.version
        with pytest.raises(ContractError):
            remote.act(observe(2), ["lift"])


def test_a_shorter_horizon_cuts_the_chunk_and_a_longer_one_is_refused(policy, settings):
    with served(policy) as server:
        with reached(server.address, settings("horizon: 3")) as remote:
            assert remote.act(observe(), ["lift"]).actions_BKA.shape == (1, 3, 7)
        with (
            reached(server.address, settings("horizon: 8")) as remote,
            pytest.raises(PolicyFailedError, match="5 actions; 8"),
        ):
            remote.act(observe(), ["lift"])


def test_the_version_follows_what_the_server_says_of_itself(policy):
    other = SeenPolicy()
    other.version = "policy-other"
    versions = []
    for serving in (policy, other, policy):
        with served(serving) as server, reached(server.address) as remote:
            versions.append(remote.version.rpartition("-")[2])
    assert versions[0] == versions[2] != versions[1]


def test_silence_is_an_error_within_the_deadline_and_never_an_old_answer(policy):
    with served(policy) as server, reached(server.address) as remote:
        policy.gate.clear()
        remote._deadline_s = 0.2
        with pytest.raises(LinkLostError, match="holds"):
            remote.act(observe(), ["lift"])
        policy.gate.set()
        remote._deadline_s = LONG_S
        assert remote.act(observe(level=250), ["lift"]).actions_BKA[0, 0, 0] == pytest.approx(250 / 25500, abs=2e-3)


def test_it_dials_again_when_the_server_comes_back(policy):
    with served(policy) as server:
        port = int(server.address.rpartition(":")[2])
        remote = OpenpiPolicy(OpenpiPlace.of(f"openpi://127.0.0.1:{port}", ""), deadline_s=0.3)
    try:
        for _ in range(2):
            with pytest.raises(LinkLostError, match="the arm holds"):
                remote.act(observe(), ["lift"])
        with served(policy, port=port):
            remote._deadline_s = LONG_S
            assert remote.act(observe(), ["lift"]).actions_BKA.shape == (1, 5, 7)
    finally:
        remote.close()
    with pytest.raises(LinkLostError, match="closed"):
        remote.act(observe(), ["lift"])


@contextlib.contextmanager
def stub(*answers, greeting=None):
    """A server of ours that sends what it likes: one answer after the other, the last for ever."""
    left = itertools.chain(answers, itertools.repeat(answers[-1] if answers else None))

    def converse(connection):
        with contextlib.suppress(ConnectionClosed):
            connection.send(pack({}) if greeting is None else greeting)
            for _ in connection:
                answer = next(left)
                for part in answer if isinstance(answer, list) else [answer]:
                    connection.send(part)

    with serve(converse, "127.0.0.1", 0, compression=None, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join(LONG_S)


TRACEBACK = 'Traceback (most recent call last):\n  File "/home/lab/serve.py", line 3\nKeyError: "secret"'


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (TRACEBACK, "characters that are not shown, look at its log"),
        ("Traceback: /home/lab", "not shown"),
        ("ValueError: 8 joints", "it says 'ValueError: 8 joints'"),
        ("bell \x07 \x1b[2J", r"it says 'bell \\x07 \\x1b"),
        (b"\xc1", "not a msgpack message"),
        (pack({"action": np.zeros((5, 7))}), "got nothing"),
        (pack({"actions": np.zeros((5, 8))}), r"\(5, 8\) float64"),
        (pack({"actions": np.zeros((5, 7), int)}), "int64"),
        (pack({"actions": np.full((5, 7), np.nan)}), "not finite"),
        (pack({"actions": np.zeros((2, 7))}), "2 actions; 5"),
        (pack({"actions": [[0.0] * 7] * 5}), "got list"),
        (b"\x81\xa7actions\x84\xc4\x0b__ndarray__\xc3", "not a msgpack"),
    ],
)
def test_an_answer_that_is_none_is_named_and_the_next_one_is_taken(answer, words):
    with stub(pack(GOOD), answer, pack(GOOD)) as address, reached(address) as remote:
        with pytest.raises(PolicyFailedError, match=words) as refused:
            remote.act(observe(), ["lift"])
        assert "/home/lab" not in str(refused.value)
        np.testing.assert_array_equal(remote.act(observe(), ["lift"]).actions_BKA, 0.25 * np.ones((1, 5, 7)))


def test_an_answer_beyond_the_most_ends_the_connection():
    large = pack({"actions": np.zeros((MAX_REPLY_BYTES // 8, 1))})
    with stub(pack(GOOD), large, pack(GOOD)) as address, reached(address) as remote:
        with pytest.raises(LinkLostError, match="broke"):
            remote.act(observe(), ["lift"])
        assert remote.act(observe(), ["lift"]).actions_BKA.shape == (1, 5, 7)


def test_an_answer_that_nobody_asked_for_answers_nothing():
    double = [pack(GOOD), pack({"actions": np.full((5, 7), 0.75)})]
    with stub(double) as address, reached(address) as remote:
        assert remote._line._client.ping().wait(LONG_S)  # and behind it the second one has come
        with pytest.raises(PolicyFailedError, match="nobody asked for"):
            remote.act(observe(), ["lift"])
        np.testing.assert_array_equal(remote.act(observe(), ["lift"]).actions_BKA[..., :6], 0.25 * np.ones((1, 5, 6)))


@pytest.mark.parametrize("greeting", ["hello", b"\xc1", pack({"x": 1}) + b"x"])
def test_what_does_not_greet_like_openpi_is_named(greeting):
    with stub(greeting=greeting) as address, pytest.raises(PolicyFailedError, match="does not greet"), reached(address):
        pass


@contextlib.contextmanager
def raw(answer):
    """A server that answers anything with the same bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def converse():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                connection.settimeout(LONG_S)
                connection.recv(65536)
                connection.sendall(answer)
                with connection:
                    while connection.recv(65536):
                        pass

        thread = threading.Thread(target=converse, daemon=True)
        thread.start()
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
    thread.join(LONG_S)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", NotAuthenticatedError, "401.*token"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", LinkLostError, "200"),
        (
            b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: ws://127.0.0.1:9/\r\n\r\n",
            LinkLostError,
            "redirect|302",
        ),
        (b"SSH-2.0\r\n", LinkLostError, "reached"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 10_000, LinkLostError, "reached"),
    ],
)
def test_what_is_no_websocket_is_named(answer, kind, words):
    with raw(answer) as address, pytest.raises(kind, match=words), reached(address):
        pass


def test_nobody_there_is_named():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"ws://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(LinkLostError, match="is it running there"), reached(address):
        pass


def test_a_server_that_does_not_read_ends_at_the_deadline(settings):
    stop = threading.Event()

    def converse(connection):
        connection.send(pack({}))
        connection.recv_events_thread_stopped = stop.wait(LONG_S)

    with serve(converse, "127.0.0.1", 0, compression=None, max_size=None, max_queue=1) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        with reached(address, settings("horizon: 5\nsize: 0"), deadline_s=0.5) as remote:
            began = time.monotonic()
            for _ in range(3):
                with pytest.raises(LinkLostError):
                    remote.act(observe(side=1500), ["lift"])  # 13 MB: more than the system's buffers hold
            assert time.monotonic() - began < LONG_S
        stop.set()
        server.shutdown()


def test_a_tls_server_is_held_against_its_authority_and_gets_the_token(policy, settings, tmp_path):
    create_authority(tmp_path / "ca")
    identity = enroll(tmp_path / "ca", "trainer", "server", out=tmp_path / "server", hosts=["127.0.0.1"])
    token = tmp_path / "token"
    token.write_text("t" * 32)
    known = f"authority: {identity / 'ca.pem'}\n"
    with served(policy, identity, token=token) as server:
        with reached(server.address, settings(f"{known}token: {token}"), secured=True) as remote:
            assert remote.act(observe(), ["lift"]).actions_BKA.shape == (1, 5, 7)
        for text, words in (("style: libero", "certificate of"), (known, "401.*token")):
            with (
                pytest.raises(NotAuthenticatedError, match=words),
                reached(server.address, settings(text), secured=True),
            ):
                pass


@pytest.mark.parametrize(
    ("url", "text", "words"),
    [
        ("openpi://gpu.lab:8000", "", "without TLS.*openpis://"),
        ("openpi://10.0.0.5:8000", "style: droid", "unprotected: true"),
        ("openpi://gpu.lab:8000", "unprotected: true\ntoken: {token}", "token would be read"),
        ("openpi://gpu.lab", "", "no port"),
        ("openpis://127.0.0.1:8000", "authority: {token}", "no PEM file"),
        ("openpis://127.0.0.1:8000", "token: /none", "cannot be read"),
        ("openpi://http://x:1", "", "is a URL"),
        ("openpi://127.0.0.1:8000", "horizon: -1", "horizon"),
    ],
)
def test_a_place_that_makes_no_sense_is_named(settings, tmp_path, url, text, words):
    token = tmp_path / "token"
    token.write_text("t" * 32)
    with pytest.raises(ConfigError, match=words):
        OpenpiPlace.of(url, settings(text.format(token=token)) if text else "")


def test_the_network_is_crossed_openly_where_the_file_says_so(settings):
    place = OpenpiPlace.of("openpi://[fd00::5]:8000", settings("unprotected: true"))
    assert (str(place), place.uri, place.name) == (
        "openpi://[fd00::5]:8000",
        "ws://[fd00::5]:8000",
        "openpi-fd00-5-8000",
    )


def test_a_robot_opens_it_by_name_and_knows_its_version_before_it_acts(policy, tmp_path):
    def dial(name):
        return OpenpiPolicy(OpenpiPlace.of(name, ""), deadline_s=LONG_S)

    with served(policy) as server:
        source = PolicySource(tmp_path, server.address.replace("ws", "openpi"), dial=dial)
        assert source.version == ""
        source.warm_up()
        assert source.version.startswith("openpi-127-0-0-1-")
        source.open("").close()
    gone = PolicySource(tmp_path, server.address.replace("ws", "openpi"), dial=dial)
    gone.warm_up()
    assert gone.version == ""
    with pytest.raises(GymnastError, match="cannot be reached"):
        gone.open("")
