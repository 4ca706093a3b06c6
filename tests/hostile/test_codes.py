"""One-time codes under attack: by their own holders, by guessers, by somebody in between, by two at once."""

from __future__ import annotations

import datetime as dt
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from cloud_trainer.service import Service, ServiceConfig, enroll, make_code, revoke, withdraw_codes
from cloud_trainer.service.auth import ACTION_OF
from gymnast_client import Trainer
from gymnast_core.errors import ConfigError
from gymnast_core.wire.channel import domain_error
from gymnast_core.wire.code import Code
from gymnast_core.wire.errors import NotAuthenticatedError, NotPermittedError, RevokedError
from gymnast_core.wire.gymnast.v1 import enroll_pb2
from gymnast_core.wire.identity import peer_of
from gymnast_ros.uplink import fetch_identity

METHOD = "/gymnast.v1.EnrollService/Enroll"
GUESSES = 200


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Service(ServiceConfig(folder=tmp_path_factory.mktemp("trainer"))) as running:
        yield running


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(issuer: x509.Name, signer, public, *, subject="x", uri="", authority=False) -> x509.Certificate:
    now = dt.datetime.now(dt.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    if uri:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(signer, hashes.SHA256())


def call(service, method: str, key, *chain: x509.Certificate):
    """Call a method with a certificate of one's own making; returns the answer or the error's name."""
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem = b"".join(link.public_bytes(Encoding.PEM) for link in chain)
    credentials = grpc.ssl_channel_credentials((service.authority / "ca.pem").read_bytes(), private, pem)
    with grpc.secure_channel(service.address, credentials) as channel:
        ask = channel.stream_stream(method, request_serializer=bytes, response_deserializer=bytes)
        try:
            return next(iter(ask(iter([b""]), timeout=20)), b"")
        except grpc.RpcError as failure:
            return type(domain_error(failure)).__name__


def test_a_codes_holder_is_who_the_code_names_whatever_its_certificate_claims(service):
    code, key = Code.parse(make_code(service.authority, "wx-1", "robot")), new_key()
    claims = certificate(code.subject(), code.key(), key.public_key(), uri="gymnast://default/admin/root")
    for method in ACTION_OF:
        answer = call(service, method, key, claims)
        assert (answer if method != METHOD else "") in (
            "NotPermittedError",
            "RejectedBridgeError",
            "UnsupportedError",
            "",
        ), method
    reply = enroll_pb2.EnrollReply.FromString(call(service, METHOD, key, claims))
    assert (peer_of(reply.certificate).role, peer_of(reply.certificate).name) == ("robot", "wx-1")


def test_a_codes_key_signs_for_no_authority_but_its_own(service):
    code, key = Code.parse(make_code(service.authority, "wx-1", "robot")), new_key()
    ca = x509.load_pem_x509_certificate((service.authority / "ca.pem").read_bytes())
    as_ours = certificate(ca.subject, code.key(), key.public_key(), uri="gymnast://default/admin/root")
    assert call(service, METHOD, key, as_ours) == "TransientBridgeError"
    middle = new_key()
    between = certificate(code.subject(), code.key(), middle.public_key(), subject="middle", authority=True)
    below = certificate(name("middle"), middle, key.public_key(), uri="gymnast://default/admin/root")
    assert call(service, METHOD, key, below, between) in ("TransientBridgeError", "NotPermittedError")
    assert call(service, "/gymnast.v1.JobService/List", key, below, between) != b""


def test_guesses_get_no_connection_and_close_no_code(service, tmp_path):
    true = make_code(service.authority, "wx-2", "robot")
    pin = Code.parse(true).pin

    def guess(number: int) -> str:
        code, key = Code(number, pin), new_key()
        return call(service, METHOD, key, code.introduce(key.public_key()))

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(guess, range(GUESSES))) == {"TransientBridgeError"}
    assert fetch_identity(service.address, true, tmp_path / "id").peer.name == "wx-2"


def test_of_many_who_come_with_one_code_exactly_one_gets_the_identity(service, tmp_path):
    code = make_code(service.authority, "wx-3", "robot")
    together, got, refused = threading.Barrier(8), [], []

    def fetch(number: int) -> None:
        together.wait()
        try:
            got.append(fetch_identity(service.address, code, tmp_path / str(number)))
        except NotPermittedError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)
    assert "used already, by another key" in refused[0]
    assert [path.name for path in tmp_path.iterdir()] == [got[0].folder.name], "who gets nothing writes nothing"


def test_a_code_ends_with_its_minutes_its_withdrawal_and_its_names_revocation(service, tmp_path):
    short = make_code(service.authority, "wx-4", "robot", minutes=0.001)
    time.sleep(0.1)
    with pytest.raises(NotAuthenticatedError, match="does not know this code"):
        fetch_identity(service.address, short, tmp_path / "late")
    withdrawn = make_code(service.authority, "wx-4", "robot")
    assert withdraw_codes(service.authority, "wx-4") == 1
    with pytest.raises(NotAuthenticatedError, match="does not know this code"):
        fetch_identity(service.address, withdrawn, tmp_path / "withdrawn")
    used = fetch_identity(service.address, make_code(service.authority, "wx-4", "operator"), tmp_path / "used")
    with Trainer(service.address, used).jobs as jobs:
        assert jobs.list() == []
        revoke(service.authority, "wx-4")
        time.sleep(1.0)  # what is promised: within a second
        with pytest.raises(RevokedError, match="was revoked"):
            jobs.list()


def test_somebody_in_between_gets_no_secret_and_gives_no_identity(service, tmp_path):
    """Another trainer, or a forger with names as good as ours, answers in place of the one that made the code."""
    code = make_code(service.authority, "wx-5", "robot")
    with Service(ServiceConfig(folder=tmp_path / "forger")) as forger:
        with pytest.raises(NotAuthenticatedError, match="does not know this code"):
            fetch_identity(forger.address, code, tmp_path / "id")
        taken = Code.parse(make_code(forger.authority, "wx-5", "robot"))
        forged = Code(taken.secret, Code.parse(code).pin).text()  # he even has a code of this secret open
        with pytest.raises(NotAuthenticatedError, match="somebody in between; nothing was written"):
            fetch_identity(forger.address, forged, tmp_path / "id")
    assert not (tmp_path / "id").exists()
    assert fetch_identity(service.address, code, tmp_path / "id").peer.name == "wx-5"


def test_a_robots_certificate_serves_nobody_as_a_trainer(service, tmp_path):
    """Somebody with an identity of ours stands in between: its authority is the pinned one, its role is not."""
    robot = enroll(service.authority, "thief", "robot", out=tmp_path / "thief")
    code = make_code(service.authority, "wx-6", "robot")
    answers = grpc.method_handlers_generic_handler(
        "gymnast.v1.EnrollService",
        {"Enroll": grpc.unary_unary_rpc_method_handler(lambda request, context: (robot / "cert.pem").read_bytes())},
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((answers,))
    pair = ((robot / "key.pem").read_bytes(), (robot / "cert.pem").read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials((pair,)))
    server.start()
    with pytest.raises(NotAuthenticatedError):
        fetch_identity(f"127.0.0.1:{port}", code, tmp_path / "id")
    server.stop(0)
    assert not (tmp_path / "id").exists()


@pytest.mark.parametrize("text", ["", "A" * 39, "A" * 41, "U" * 40, "é" * 40, "\0" * 40, "0" * 10_000])
def test_what_is_no_code_is_refused_and_not_repeated(text):
    with pytest.raises(ConfigError, match="copy it whole") as refused:
        Code.parse(text)
    assert not text or text not in str(refused.value)


def test_nothing_on_the_trainers_disk_opens_a_connection(service, tmp_path):
    code = make_code(service.authority, "wx-7", "robot")
    secret = "".join(code.split("-")[:4])
    for path in Path(service.authority).rglob("*"):
        if path.is_file():
            assert secret not in path.read_text(errors="replace").replace("-", "")
    assert {path.stat().st_mode & 0o077 for path in (service.authority / "codes").iterdir()} == {0}
