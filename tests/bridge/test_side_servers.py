"""A server beside the trainer refuses certificates that were taken back, too."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_trainer.service import Service, enroll, revoke
from gymnast_cli.main import main
from gymnast_cli.revoked import access_of
from gymnast_client.worlds import WorldClient, WorldSample
from gymnast_core.errors import ConfigError, CorruptError, GymnastError, TransientBridgeError
from gymnast_core.wire.errors import NotPermittedError, RevokedError, ServerFaultError
from gymnast_core.wire.gymnast.v1 import worlds_pb2
from gymnast_core.wire.identity import Identity, names_in
from gymnast_core.wire.peers import CertifiedAccess
from gymnast_core.wire.revocation import REVOKED, Revocations, RevokedFile
from gymnast_core.wire.world_server import WorldServer

Issue = Callable[..., Path]


class Endless:
    """Computes until nobody waits any more."""

    def __init__(self) -> None:
        self.begun = threading.Event()

    def describe(self) -> worlds_pb2.WorldDescription:
        return worlds_pb2.WorldDescription(
            model_version="endless", image_size=8, horizon=4, batch=1, concurrency=1, request_bytes=1 << 20
        )

    def predict(
        self, request: worlds_pb2.WorldPredictRequest, waiting: Callable[[], bool]
    ) -> worlds_pb2.WorldPredictReply:
        self.begun.set()
        while waiting():
            pass
        return worlds_pb2.WorldPredictReply()


def flags(**given: object) -> argparse.Namespace:
    return argparse.Namespace(**{"ca": None, "trainer": "", "trainer_identity": None, **given})


@pytest.fixture(params=["beside", "elsewhere"])
def access(request: pytest.FixtureRequest, service: Service, identities: Issue, tmp_path: Path) -> CertifiedAccess:
    """Of a world's server: beside the trainer's folder, and on a machine that has to ask."""
    sim = enroll(service.authority, "sim", "server", out=tmp_path / "far" / "sim", hosts=["localhost"])
    asked = {"trainer": service.address, "trainer_identity": identities("wm", "trainer")}
    found = {"ca": service.authority} if request.param == "beside" else asked
    return access_of(flags(**found), Identity.load(sim))


@pytest.fixture
def world(access: CertifiedAccess) -> Iterator[tuple[WorldServer, Endless]]:
    predictions = Endless()
    server = WorldServer(predictions, "localhost:0", access)
    yield server, predictions
    server.stop()


def test_a_revoked_certificate_is_refused_and_what_it_had_begun_ends(
    world: tuple[WorldServer, Endless], service: Service, identities: Issue
) -> None:
    server, predictions = world
    ana, bea = (WorldClient(server.address, identities(name, "operator")) for name in ("ana", "bea"))
    ana.describe()
    ended: list[GymnastError] = []

    def predict() -> None:
        try:
            ana.predict([WorldSample(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 7), np.float32),
                                     np.zeros((1, 7), np.float32), seed=0)])  # fmt: skip
        except GymnastError as error:
            ended.append(error)

    asking = threading.Thread(target=predict)
    asking.start()
    assert predictions.begun.wait(60)
    revoke(service.authority, "ana")
    asking.join(60)
    assert ended, "its frames never come"
    with pytest.raises(RevokedError, match="was revoked"):
        ana.describe()
    bea.describe()
    for client in (ana, bea):
        client.close()


def test_a_list_that_cannot_be_read_is_trusted_for_a_time_and_then_nobody_is_let_in(
    service: Service, identities: Issue
) -> None:
    pem = Identity.load(identities("ana", "operator")).certificate
    known = RevokedFile(service.authority)

    def away() -> Mapping[str, str]:
        raise TransientBridgeError("trainer.lab:1 is not reached")

    assert Revocations(known, trusted_s=3600.0).peer(pem) is not None
    with pytest.raises(ServerFaultError, match=r"more than 60 s \(trainer.lab:1 is not reached\)"):
        Revocations(away, trusted_s=60.0).peer(pem)
    (service.authority / REVOKED).write_text("[1, 2")
    with pytest.raises(CorruptError, match="restore it"):
        known()
    with pytest.raises(FileNotFoundError):
        RevokedFile(service.authority / "gone")()


def test_a_server_starts_only_where_the_list_can_be_had(
    service: Service, identities: Issue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GYMNAST_TRAINER", raising=False)
    sim = Identity.load(enroll(service.authority, "sim", "server", out=tmp_path / "far" / "sim", hosts=["localhost"]))
    other = enroll(tmp_path / "other", "sim", "server", out=tmp_path / "theirs", hosts=["localhost"]).parent / "other"
    robot, foreign = identities("wx-1", "robot"), identities("eve", "trainer", "elsewhere")
    for given, said in (
        ({}, "give --ca FOLDER"),
        ({"ca": service.authority, "trainer": service.address}, "give one"),
        ({"ca": tmp_path}, "no folder of a certificate authority"),
        ({"ca": other}, "another authority"),
        ({"trainer": service.address}, "give --trainer-identity"),
        ({"trainer": service.address, "trainer_identity": foreign}, "another tenant"),
    ):
        with pytest.raises(ConfigError, match=said):
            access_of(flags(**given), sim)
    with pytest.raises(NotPermittedError, match="who may: trainer"):
        access_of(flags(trainer=service.address, trainer_identity=robot), sim)
    own = Identity.load(service.config.folder / "server")  # the trainer's own has its list beside it
    assert access_of(flags(), own).identity is own


def test_the_list_of_a_tenant_comes_whole_and_without_others(service: Service, identities: Issue) -> None:
    from gymnast_client import Trainer

    for number in range(3):
        identities(f"wx-{number}", "robot")
        revoke(service.authority, f"wx-{number}")
    identities("eve", "operator", "elsewhere")
    revoke(service.authority, "eve", tenant="elsewhere")
    known = RevokedFile(service.authority)()
    with Trainer(service.address, identities("ana", "operator")) as trainer:
        mine: frozenset[str] = frozenset()
        while len(mine) < 3:
            mine = trainer.revoked()
    assert {known[serial] for serial in mine} == {f"gymnast://default/robot/wx-{number}" for number in range(3)}


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, Any]:
    code = main(["--json", *map(str, words)])
    return code, json.loads(capsys.readouterr().out)


def test_a_server_on_another_machine_fetches_a_certificate_of_its_own(
    service: Service, identities: Issue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ("enroll", "gpu-box", "--role", "server", "--ca", service.authority)
    for wrong, said in (((), "--host NAME or ADDRESS"), (("--host", "0.0.0.0"), "every address")):
        for coded in ((), ("--code",)):
            code, answer = told(capsys, *made, *wrong, *coded)
            assert (code, said in answer["message"]) == (2, True), answer
    code, answer = told(capsys, "enroll", "wx-1", "--ca", service.authority, "--host", "gpu.lab")
    assert (code, "--host is of --role server" in answer["message"]) == (2, True)
    code, answer = told(capsys, *made, "--host", "localhost", "--host", "gpu.lab", "--code")
    far = tmp_path / "far" / "gpu-box"
    fetched = told(capsys, "enroll", "--remote", service.address, "--code", answer["code"], "--out", far)
    assert (fetched[0], fetched[1]["role"]) == (0, "server")
    own = Identity.load(far)
    assert names_in(own.certificate) == ["localhost", "gpu.lab"]
    asked = flags(trainer=service.address, trainer_identity=identities("wm", "trainer"))
    server = WorldServer(Endless(), "localhost:0", access_of(asked, own))
    client = WorldClient(server.address, identities("ana", "operator"))
    client.describe()
    client.close()
    server.stop()


def test_a_server_with_a_callers_certificate_does_not_start(
    service: Service, identities: Issue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ana = identities("ana", "operator")
    mapping = tmp_path / "none.toml"
    mapping.write_text("")
    serve = ("serve", "--identity", ana, "--ca", service.authority)
    for words in (
        ("env", *serve, "--listen", "localhost:0", "--gymnasium", "No/Such-v0", "--mapping", mapping),
        ("wm", *serve, tmp_path / "no-world", "--grpc", "localhost:0"),
    ):
        code, answer = told(capsys, *words)
        assert code == 2, answer
        assert "is the certificate of operator ana, which no caller takes for a server's" in answer["message"]
        assert "gymnast enroll NAME --role server --host NAME-OR-ADDRESS" in answer["message"]
    with pytest.raises(ConfigError, match="which no caller takes for a server's"):
        WorldServer(Endless(), "localhost:0", access_of(flags(ca=service.authority), Identity.load(ana)))
