"""No release reaches an arm without a gate record: from outside, a trainer and robots over gRPC with mutual TLS."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import sqlalchemy as sa
from blake3 import blake3

from cloud_trainer.service import Service
from cloud_trainer.store.protocols import ReleaseRow
from cloud_trainer.store.tables import RECORDS
from gymnast_client import Trainer
from gymnast_client.download import BlobDownload
from gymnast_client.link import Link
from gymnast_core.errors import CheckpointError, ConfigError, NotTrustedError
from gymnast_core.records.gate_record import GateRecord
from gymnast_core.records.gate_rule import GateOverride, GateRule, GateSeal
from gymnast_core.records.release import Release
from gymnast_core.records.signing import SignedDocument, SigningKey
from gymnast_core.wire.errors import NotFoundError, NotPermittedError
from gymnast_core.wire.gymnast.v1 import robots_pb2, robots_pb2_grpc, weights_pb2, weights_pb2_grpc
from gymnast_core.wire.identity import Identity
from tests.bridge.conftest import make_checkpoint
from tests.bridge.gated_robot import OFF, PATIENCE_S, REQUIRED, TENANT, WARN, GatedRobot, now_ns, record_of, shipped
from tests.bridge.test_bridge import wait_until


@pytest.fixture
def robot(service, identities, tmp_path) -> Callable[..., GatedRobot]:
    def make(rule: GateRule = REQUIRED, name: str = "wx-1", tenant: str = TENANT) -> GatedRobot:
        return GatedRobot(service, identities(name, "robot", tenant), tmp_path / "robots" / name, rule, name)

    return make


@pytest.fixture
def admin(service, identities):
    with Trainer(service.address, identities("root", "admin")) as there:
        yield there


def test_promoted_with_a_record_and_refused_without_one(service, robot, admin, tmp_path):
    with robot() as wx1:
        base = shipped(wx1, tmp_path)
        new = make_checkpoint(tmp_path / "new", 1.0)
        with pytest.raises(
            NotTrustedError, match=rf"wx-1 \(runs {base}\) requires a gate record.*gymnast operate offer"
        ):
            admin.checkpoints.publish(tmp_path / "new")
        service.publisher.publish(TENANT, tmp_path / "new")  # as a trainer that does not look would
        assert "without a gate record, which this robot requires" in wx1.refused(new.id)
        service.gates.book.keep(TENANT, record := record_of(new.id, base))
        document = admin.checkpoints.offer(new.id, ["wx-1"])
        wx1.staged(new.id)
        release = Release.from_bytes(document.payload)
        assert (release.gate.record, release.gate.digest) == (record.id, record.digest)
        assert wx1.store.state.gates[new.id].how == "passed"
        kept = wx1.store.path(new.id) / "gate.json"
        assert GateRecord.from_bytes(kept.read_bytes()) == record, "the record travels with it"
        wx1.store.swap(new.id)
        wait_until(lambda: next(admin.robots.list()).gate.how == "passed", PATIENCE_S)
        assert next(admin.robots.list()).gate.record == record.id
    above = admin.checkpoints.why(record.id)
    assert {row["id"] for row in above["checkpoints"]} == {new.id, base}, "candidate and incumbent are its parents"
    assert [row.id for row in admin.checkpoints.gates(new.id)] == [record.id]


def test_an_older_setting_is_not_a_way_in(service, robot, admin, tmp_path):
    """Staged while the gate was off, the robot restarted with it: what never ran is turned down, what runs stays."""
    first, second = make_checkpoint(tmp_path / "first", 1.0), make_checkpoint(tmp_path / "second", 2.0)
    with robot(OFF) as loose:
        base = shipped(loose, tmp_path)
        for name in ("first", "second"):
            admin.checkpoints.publish(tmp_path / name)
        loose.staged(second.id)
        loose.store.swap(first.id)
    with robot(REQUIRED) as strict:
        assert strict.store.current_id() == first.id
        assert strict.store.staged() is None
        assert "with the gate off" in strict.refused(second.id)
        strict.heard()
        with pytest.raises(ConfigError, match="the way back to what ran on a robot needs none"):
            admin.checkpoints.roll_back(base, robots=["wx-1"], reason="worse", override_reason="now, please")
        assert admin.checkpoints.roll_back(base, robots=["wx-1"], reason="the new one is worse")
        wait_until(lambda: strict.store.state.mandate is not None, PATIENCE_S)
        strict.store.obey()
        assert strict.store.current_id() == base, "going back to what ran here waits for no simulator"
        other = make_checkpoint(tmp_path / "other", 3.0)
        service.publisher.publish(TENANT, tmp_path / "other", robots=["nobody"])
        admin.checkpoints.roll_back(other.id, robots=["wx-1"], reason="it ran on another robot")
        assert "without a gate record" in strict.refused(other.id)
        signed = admin.checkpoints.roll_back(other.id, robots=["wx-1"], reason="again", override_reason="I know it")
        assert Release.from_bytes(signed.payload).override is not None, "there it is needed"


def signed_by_hand(service: Service, folder: Path, key: SigningKey | None = None, **changes) -> None:
    """A release as somebody with the trainer's disk (and its key, unless another is given) could write it."""
    release, _ = service.publisher.publish(TENANT, folder, robots=["nobody"])

    def sign(sequence: int) -> ReleaseRow:
        made = replace(release, sequence=sequence, robots=("wx-1",), **changes)
        signed = (key or service.publisher._key).sign(made.to_bytes())
        return ReleaseRow(TENANT, sequence, release.checkpoint_id, signed.payload, signed.key_id, signed.signature)

    with service.meta.transaction():
        service.meta.add_release(sign)
        service.meta.after_commit(lambda: service.publisher._released(TENANT))


def seal_of(record_: GateRecord, data: bytes = b"", **changes) -> GateSeal:
    whole = data or record_.to_bytes()
    return replace(GateSeal(record_.id, blake3(whole).hexdigest(), len(whole), TENANT), **changes)


def attacks(base: str, new: str) -> dict[str, tuple[bytes, GateSeal, str]]:
    """Name -> bytes of the record at the trainer, what the release says of it, what the robot says."""
    good, seal = record_of(new, base), seal_of
    failed = record_of(new, base, decision="failed", reason="it races", candidate_successes=2)
    renamed = failed.to_bytes().replace(b'"decision":"failed"', b'"decision":"passed"')
    better = good.to_bytes().replace(b'"candidate_successes":15', b'"candidate_successes":19')
    other, old = record_of("policy-other", base), record_of(new, base, made_ns=now_ns() - 40 * 86_400 * 10**9)
    stranger, nowhere = record_of(new, "policy-x"), record_of(new, base, reason="nowhere")
    return {
        "replayed for another candidate": (other.to_bytes(), seal(other), "is of policy-other"),
        "edited": (better, seal(good), "which its release names"),
        "edited, sealed anew, under its old id": (better, seal(good, better), "is not"),
        "failed": (failed.to_bytes(), seal(failed), "says failed: it races"),
        "failed and renamed as passed": (renamed, seal(failed, renamed), "says passed, but"),
        "expired": (old.to_bytes(), seal(old), "40.0 days old"),
        "of another tenant": (good.to_bytes(), seal(good, tenant="rivals"), "is of tenant 'rivals'"),
        "of no blob": (b"", seal(nowhere), "which its release names"),
        "no record": (b"[]", seal(good, b"[]"), "unreadable gate record"),
        "against a stranger": (stranger.to_bytes(), seal(stranger), "gate it against what this robot runs"),
    }  # fmt: skip


def test_forged_records_are_refused_by_name_and_hold_nothing_up(service, robot, tmp_path):
    with robot() as wx1:
        base = shipped(wx1, tmp_path)
        for number, name in enumerate(attacks(base, "policy-x")):
            folder = tmp_path / f"attack-{number}"
            new = make_checkpoint(folder, 10.0 + number)
            data, seal, said = attacks(base, new.id)[name]
            if data:
                service.publisher._stored_blob("gate", data)
            signed_by_hand(service, folder, gate=seal)
            assert said in wx1.refused(new.id), name
        stranger = make_checkpoint(tmp_path / "stranger", 99.0)
        record = record_of(stranger.id, base)
        signed_by_hand(service, tmp_path / "stranger", SigningKey.generate(), gate=seal_of(record))
        wait_until(lambda: any(data.get("error") == "NotSignedError" for _, data in wx1.events), PATIENCE_S)
        good = make_checkpoint(tmp_path / "good", 100.0)
        service.gates.book.keep(TENANT, record_of(good.id, base))
        service.publisher.publish(TENANT, tmp_path / "good", robots=["wx-1"])
        wx1.staged(good.id)
        assert wx1.store.held() == sorted([base, good.id])


def test_a_record_that_was_edited_on_the_trainers_disk_is_refused_and_holds_nothing_up(service, robot, tmp_path):
    with robot() as wx1:
        base = shipped(wx1, tmp_path)
        new, good = make_checkpoint(tmp_path / "new", 1.0), make_checkpoint(tmp_path / "good", 2.0)
        record = record_of(new.id, base)
        digest = service.publisher._stored_blob("gate", record.to_bytes())
        service.blobs.local_path(digest).write_bytes(record.to_bytes().replace(b'"margin":0.1', b'"margin":0.9'))
        signed_by_hand(service, tmp_path / "new", gate=seal_of(record))
        assert "which its release names" in wx1.refused(new.id)
        signed_by_hand(service, tmp_path / "good", override=GateOverride("root", "admin", "after that", "none was run"))
        wx1.staged(good.id)


def test_an_override_names_who_and_why_and_is_an_administrators_alone(service, robot, admin, identities, tmp_path):
    why = "PyBullet cannot show the new gripper pads"
    with robot() as wx1:
        shipped(wx1, tmp_path)
        new = make_checkpoint(tmp_path / "new", 1.0)
        with Trainer(service.address, identities("gpu", "trainer")) as machine:
            with pytest.raises(NotPermittedError, match="override the gate"):
                machine.checkpoints.publish(tmp_path / "new", override_reason=why)
            with pytest.raises(NotTrustedError, match="taken in, and is not offered"):
                machine.checkpoints.publish(tmp_path / "new")
        with pytest.raises(NotTrustedError, match="is not released: wx-1"):
            admin.checkpoints.offer(new.id, ["wx-1"], override_reason="   ")
        document = admin.checkpoints.offer(new.id, ["wx-1"], override_reason=why)
        signed = Release.from_bytes(document.payload).override
        assert signed == GateOverride("root", "admin", why, "no gate was run")
        wx1.staged(new.id)
        wx1.store.swap(new.id)
        wait_until(lambda: next(admin.robots.list()).gate.how == "override", PATIENCE_S)
        shown = next(admin.robots.list()).gate
        assert (shown.by, shown.reason) == ("root", why)
    entry = next(row for row in admin.log.entries() if row.action == "publish")
    assert entry.data["override"] == why
    with robot(GateRule(overrides=False), "wx-2") as wx2:
        shipped(wx2, tmp_path)
        admin.checkpoints.offer(new.id, ["wx-2"], override_reason=why)
        assert "came by an override, which this robot does not accept" in wx2.refused(new.id)


def test_a_record_of_another_tenant_opens_nothing(service, robot, admin, identities, tmp_path):
    with robot() as wx1:
        base = shipped(wx1, tmp_path)
        new = make_checkpoint(tmp_path / "new", 1.0)
        service.publisher.publish("rivals", tmp_path / "new", robots=["nobody"])
        service.publisher.publish(TENANT, tmp_path / "new", robots=["nobody"])
        service.gates.book.keep("rivals", record_of(new.id, base))
        with pytest.raises(NotTrustedError, match="requires a gate record"):
            admin.checkpoints.offer(new.id, ["wx-1"])
        assert admin.checkpoints.gates(new.id) == []
        release, _ = service.publisher.publish("rivals", tmp_path / "new", robots=["wx-1"])
        link = Link(service.address, wx1.identity)
        stolen = BlobDownload(link, release.gate.digest, release.gate.size, tmp_path / "stolen")
        with pytest.raises(NotFoundError):
            stolen.run()
        link.close()


def test_a_record_that_was_altered_in_the_database_no_longer_counts(service, robot, admin, tmp_path):
    with robot() as wx1:
        base = shipped(wx1, tmp_path)
        new = make_checkpoint(tmp_path / "new", 1.0)
        service.publisher.publish(TENANT, tmp_path / "new", robots=["nobody"])
        failed = record_of(new.id, base, decision="failed", reason="it races")
        service.gates.book.keep(TENANT, failed)
        with service._database.transaction() as connection:
            row = connection.execute(sa.select(RECORDS).where(RECORDS.c.id == failed.id)).one()
            edited = row.payload.replace('"decision":"failed"', '"decision":"passed"')
            connection.execute(sa.update(RECORDS).where(RECORDS.c.id == failed.id).values(payload=edited))
        assert admin.checkpoints.gates(new.id) == []
        with pytest.raises(NotTrustedError):
            admin.checkpoints.offer(new.id, ["wx-1"])


def test_robots_that_warn_or_ask_nothing_take_it_in_and_say_so(service, robot, admin, tmp_path):
    new = make_checkpoint(tmp_path / "new", 1.0)
    with robot(WARN, "wx-1") as warns, robot(OFF, "wx-2") as asks_nothing:
        for one in (warns, asks_nothing):
            shipped(one, tmp_path)
        admin.checkpoints.publish(tmp_path / "new")
        for one in (warns, asks_nothing):
            one.staged(new.id)
        assert warns.store.state.gates[new.id].how == "warned"
        assert asks_nothing.store.state.gates[new.id].how == "off"
        assert [data["gate"] for kind, data in warns.events if kind == "staged"] == ["warned"]


# one minor version apart


class OldRobot:
    """A robot of 0.1: what it sends was recorded, and how it reads releases is here as it was then."""

    FIELDS = frozenset({
        "kind", "sequence", "checkpoint_id", "manifest", "weights_digest", "weights_size", "published_ns",
        "expires_ns", "robots", "deltas", "reason", "lineage_digest", "lineage_size",
    })  # fmt: skip

    def __init__(self, service: Service, identity: Path) -> None:
        loaded = Identity.load(identity)
        credentials = grpc.ssl_channel_credentials(loaded.authority, loaded.key, loaded.certificate)
        self.channel, self.trusted = grpc.secure_channel(service.address, credentials), loaded.trusted_keys()

    def report(self) -> None:
        news = robots_pb2.RobotReport(state="idle", policy_version="policy-old")
        robots_pb2_grpc.RobotServiceStub(self.channel).Report(news, timeout=PATIENCE_S)

    def releases(self, count: int) -> list[dict[str, object]]:
        call = weights_pb2_grpc.WeightsServiceStub(self.channel).Watch(weights_pb2.WatchRequest(), timeout=PATIENCE_S)
        found = [self._read(next(call)) for _ in range(count)]
        call.cancel()
        return found

    def _read(self, message: weights_pb2.SignedRelease) -> dict[str, object]:
        payload = self.trusted.verify(SignedDocument(message.payload, message.key_id, message.signature))
        fields = json.loads(payload)
        assert set(fields) <= self.FIELDS, "0.1 answers any other field with: unreadable release"
        return fields


def test_a_robot_of_before_gates_reads_every_release_without_its_record(service, identities, admin, tmp_path):
    new = make_checkpoint(tmp_path / "new", 1.0)
    service.gates.book.keep(TENANT, record_of(new.id, ""))
    old = OldRobot(service, identities("wx-old", "robot"))
    old.report()
    signed = admin.checkpoints.publish(tmp_path / "new")
    with pytest.raises(ConfigError, match=r"no robot .* asks for a gate record that it has not; release it without"):
        admin.checkpoints.offer(new.id, override_reason="only old robots here")
    word = GateOverride("root", "admin", "one that is away may ask", "no gate was run")
    _, overridden = service.publisher.publish(TENANT, tmp_path / "new", override=word)
    assert Release.from_bytes(signed.payload).gate is not None
    assert Release.from_bytes(overridden.payload).override is not None
    assert [row["sequence"] for row in old.releases(2)] == [
        Release.from_bytes(one.payload).sequence for one in (signed, overridden)
    ]
    [view] = admin.robots.list()
    assert view.gate.mode == "", "the trainer knows that it checks none"


def test_a_trainer_of_before_gates_is_named_by_a_robot_that_asks_for_them(service, robot, tmp_path):
    """Its releases have no gate; the robot says what to do: update the trainer, or set this robot otherwise."""
    with robot() as wx1:
        shipped(wx1, tmp_path)
        new = make_checkpoint(tmp_path / "new", 1.0)
        signed_by_hand(service, tmp_path / "new", gate=None)
        reason = wx1.refused(new.id)
    assert "update a trainer from before gates" in reason
    assert "set gate on this robot" in reason
    state = json.loads((wx1.folder / "state.json").read_bytes())
    del state["gates"]
    (wx1.folder / "state.json").write_text(json.dumps(state))
    with robot() as again:
        assert again.store.current_id() is not None, "a robot's own state from before gates opens"


def test_a_release_with_a_field_that_is_no_gate_is_refused():
    release = Release("release", 1, "policy-1", {}, "a" * 64, 1, 0, 2**62)
    nobody = {"by": "", "role": "", "reason": "", "found": ""}
    for changes in ({"gate": {"record": "x"}}, {"gate": []}, {"override": nobody}, {"override": 7}):
        payload = json.dumps({**json.loads(release.to_bytes()), **changes}).encode()
        with pytest.raises(CheckpointError, match="unreadable release"):
            Release.from_bytes(payload)
