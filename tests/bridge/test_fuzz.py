"""Bytes near valid ones, and JSON of other shapes, for every message of every service and every file we read back.

Each is parsed or refused by the error its reader promises; nothing else may come out. With tests/core/test_wire
more than 10^5 inputs per run.
"""

import contextlib
import copy
import json
import random

import pytest
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from cloud_trainer.service.config import Limits
from cloud_trainer.service.methods import SERVICES
from cloud_trainer.service.revocation import ISSUED, note_issued, revoke
from cloud_trainer.service.servicers.messages import json_field
from gymnast_client.checkpoints import signed_document
from gymnast_client.download import BlobDownload
from gymnast_core.episodes import Spool
from gymnast_core.episodes.messages import EpisodeEnd, EpisodeHeader
from gymnast_core.errors import CheckpointError, ConfigError, CorruptError, GymnastError
from gymnast_core.records.delta import apply_delta, encode_delta
from gymnast_core.records.gate_rule import GateRule
from gymnast_core.records.manifest import Manifest
from gymnast_core.records.release import check_release
from gymnast_core.records.signing import SignedDocument, SigningKey, TrustedKeys
from gymnast_core.wire.codec import decode_upload
from gymnast_core.wire.gymnast.v1 import policy_pb2
from gymnast_core.wire.identity import Peer, peer_of
from gymnast_core.wire.inference import observation_from
from gymnast_core.wire.revocation import REVOKED, read_revoked
from gymnast_ros.uplink import RobotStore
from tests.bridge.swap_kills import KEY, TRUSTED, stage, weights_of

MESSAGES = sorted(
    {
        message.full_name: message
        for module in SERVICES.values()
        for message in module.DESCRIPTOR.message_types_by_name.values()
    }.items()
)
PER_MESSAGE = 600
PER_DOCUMENT = 2000
PER_FILE = 800
PER_STORE = 200
_ODD = [None, True, False, 0, -1, 1.5, 2**70, 1e400, "", "x", "\0", "../..", [], [[]], {}, {"a": {}}, ["*"], [None]]


def edited(valid: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, something cut off, something doubled."""
    data = bytearray(valid[: chance.randrange(len(valid) + 1)] if chance.random() < 0.3 else valid)
    for _ in range(chance.randrange(5)):
        if data:
            data[chance.randrange(len(data))] = chance.randrange(256)
    if chance.random() < 0.1:
        data += data[: chance.randrange(len(data) + 1)]
    return bytes(data)


def reshaped(valid, chance: random.Random):
    """The same JSON value with something somewhere replaced, removed or added."""
    value = copy.deepcopy(valid)
    for _ in range(chance.randrange(1, 3)):
        spot, key = None, None
        inner = value
        while isinstance(inner, (dict, list)) and inner and chance.random() < 0.8:
            spot, key = inner, chance.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
            inner = inner[key]
        odd = copy.deepcopy(chance.choice(_ODD))
        if spot is None:
            return odd
        if chance.random() < 0.15:
            del spot[key]
        elif chance.random() < 0.1 and isinstance(spot, dict):
            spot["unheard"] = odd
        else:
            spot[key] = odd
    return value


def filled(descriptor, depth: int = 0):
    """A message with something in every field."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if field.message_type is not None:
            if depth > 3:
                continue
            inner = filled(field.message_type, depth + 1)
            target = getattr(message, field.name)
            if field.message_type.GetOptions().map_entry:
                target["ab"] = inner.value
            elif field.is_repeated:
                target.append(inner)
            else:
                target.CopyFrom(inner)
            continue
        value = {field.CPPTYPE_STRING: b"ab" if field.type == field.TYPE_BYTES else "ab", field.CPPTYPE_BOOL: True}
        one = value.get(field.cpp_type, 3)
        getattr(message, field.name).append(one) if field.is_repeated else setattr(message, field.name, one)
    return message


@pytest.mark.parametrize(("name", "descriptor"), MESSAGES, ids=[name for name, _ in MESSAGES])
def test_every_message_is_parsed_or_refused(name, descriptor):
    kind, chance = GetMessageClass(descriptor), random.Random(name)
    valid = filled(descriptor).SerializeToString()
    for _ in range(PER_MESSAGE):
        data = edited(valid, chance)
        with contextlib.suppress(DecodeError):
            kind.FromString(data)
        with contextlib.suppress(CorruptError):
            decode_upload(data)


def test_any_observation_is_decoded_or_refused():
    chance = random.Random(1)
    request = policy_pb2.InferRequest(
        instructions=["go"], proprio=[0.0] * 7, time_ns=[1], cameras=[policy_pb2.Camera(name="c", jpeg=[_jpeg()])]
    )
    valid = request.SerializeToString()
    refused = 0
    for _ in range(PER_MESSAGE):
        with contextlib.suppress(DecodeError):
            found = policy_pb2.InferRequest.FromString(edited(valid, chance))
            try:
                observation_from(found)
            except GymnastError:
                refused += 1
    assert refused > PER_MESSAGE // 10


def _jpeg() -> bytes:
    import numpy as np

    from gymnast_core.episodes.writer import encode_jpeg

    return encode_jpeg(np.zeros((8, 8, 3), np.uint8))


def _release() -> dict:
    manifest = Manifest("policy", "toy", {"number": 1}, "0" * 64, 4, parents=("policy-1",), lineage={"episodes": ["e"]})
    return {
        "kind": "release", "sequence": 5, "checkpoint_id": manifest.id, "manifest": json.loads(manifest.to_bytes()),
        "weights_digest": "0" * 64, "weights_size": 4, "published_ns": 0, "expires_ns": 2**62, "robots": ["*"],
        "deltas": [{"base_id": "policy-1", "digest": "0" * 64, "size": 3}], "reason": "",
    }  # fmt: skip


def _check_release(data: bytes) -> None:
    """As a robot does, of a document that a trusted key did sign."""
    check_release(KEY.sign(data), TRUSTED, robot="wx-1", action_space="bridge_delta_ee_7", highest=1, now_ns=0)


DOCUMENTS = {
    "release": (_check_release, _release(), CheckpointError),
    "manifest": (Manifest.from_bytes, _release()["manifest"], CheckpointError),
    "signed document": (
        SignedDocument.from_json, json.loads(KEY.sign(b"{}").to_json()), CheckpointError,
    ),
    "episode header": (
        lambda data: EpisodeHeader.from_json(data.decode()),
        json.loads(EpisodeHeader("ep", "go", "r", 0, ("cam",)).to_json()), CorruptError,
    ),
    "episode end": (
        lambda data: EpisodeEnd.from_json(data.decode()), json.loads(EpisodeEnd().to_json()), CorruptError,
    ),
    "field of a message": (
        lambda data: json_field(data.decode(), Limits()), {"spec": {"robot": "wx-1", "list": [1, 2]}}, GymnastError,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(DOCUMENTS))
def test_json_of_any_shape_is_understood_or_refused(what):
    read, valid, refusal = DOCUMENTS[what]
    chance, refused = random.Random(what), 0
    for number in range(PER_DOCUMENT):
        data = json.dumps(reshaped(valid, chance)).encode()
        if number % 50 == 0:
            data = chance.choice([b"[" * 100_000, b'{"a":' * 50_000, b"1" * 5000, b"NaN", b'"\\ud800"'])
        try:
            read(data)
        except refusal:
            refused += 1
    assert refused > PER_DOCUMENT // 20


def test_any_state_of_a_robots_store_is_recovered_or_refused(tmp_path):
    """state.json, `current` and a manifest, changed on the disk; a store opens whole or says what is broken."""
    store = RobotStore(tmp_path / "robot", robot="wx-1", trusted=TRUSTED, gate=GateRule("off"))
    for number in (1, 2):
        store.swap(stage(store, number), probation_episodes=2)
    state, chance, refused = tmp_path / "robot" / "state.json", random.Random(3), 0
    valid = state.read_bytes()
    for number in range(PER_STORE):
        whole = json.dumps(reshaped(json.loads(valid), chance)).encode()
        state.write_bytes(whole if number % 2 else edited(valid, chance))
        try:
            RobotStore(tmp_path / "robot", robot="wx-1", trusted=TRUSTED, gate=GateRule("off"))
        except (CorruptError, CheckpointError):
            refused += 1
    assert refused > PER_STORE // 20


def test_any_notes_of_a_download_start_it_afresh_at_worst(tmp_path):
    valid = json.dumps({"digest": "0" * 64, "range_bytes": 4, "done": [0, 4]}).encode()
    download, chance = BlobDownload(None, "0" * 64, 8, tmp_path / "w", range_bytes=4), random.Random(4)
    (tmp_path / "w.part").write_bytes(bytes(8))
    for number in range(PER_FILE):
        whole = json.dumps(reshaped(json.loads(valid), chance)).encode()
        (tmp_path / "w.ranges").write_bytes(whole if number % 2 else edited(valid, chance))
        assert download._done_before() <= {0, 4}


def test_any_list_of_certificates_is_read_or_refused(tmp_path):
    note_issued(tmp_path, 77, Peer("wx-1", "robot", "default"))
    revoke(tmp_path, "wx-1")
    chance = random.Random(5)
    files = {name: (tmp_path / name).read_bytes() for name in (ISSUED, REVOKED)}
    for name, valid in files.items():
        for number in range(PER_FILE // 10):
            whole = json.dumps(reshaped(json.loads(valid), chance)).encode()
            (tmp_path / name).write_bytes(whole if number % 2 else edited(valid, chance))
            with contextlib.suppress(CorruptError, ConfigError):
                read_revoked(tmp_path)
                revoke(tmp_path, "wx-1")
            (tmp_path / REVOKED).write_bytes(files[REVOKED])


def test_any_keys_and_certificates_are_read_or_refused(tmp_path):
    chance, path = random.Random(6), tmp_path / "trust.pub"
    valid = SigningKey.generate().public_bytes().hex().encode() + b"\n"
    for _ in range(PER_FILE // 5):
        path.write_bytes(edited(valid, chance))
        with contextlib.suppress(ConfigError):
            TrustedKeys.load(path)
        assert peer_of(edited(b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", chance)) is None


def test_any_delta_gives_bytes_or_is_refused():
    base, new = weights_of(1), weights_of(2)
    valid, chance = encode_delta(base, new), random.Random(7)
    for _ in range(PER_FILE):
        with contextlib.suppress(CorruptError):
            assert len(apply_delta(base, edited(valid, chance), len(new))) == len(new)


def test_any_file_name_in_a_spool_is_an_entry_or_passed_over(tmp_path):
    spool, chance = Spool(tmp_path / "spool", min_free_bytes=1), random.Random(8)
    valid = b"ep-1~" + b"0" * 64 + b".mcap"
    for _ in range(300):
        name = edited(valid, chance).replace(b"/", b"_").replace(b"\0", b"_")
        if name.strip(b".") and len(name) < 200:
            (tmp_path / "spool" / "pending" / name.decode("utf-8", "surrogateescape")).write_bytes(b"x")
    for entry in spool.entries():
        assert entry.size == 1


def test_signatures_that_are_none_are_refused():
    chance, document = random.Random(9), KEY.sign(json.dumps(_release()).encode())
    for _ in range(PER_FILE):
        parts = [edited(part, chance) for part in (document.payload, document.key_id.encode(), document.signature)]
        forged = SignedDocument(parts[0], parts[1].decode("utf-8", "replace"), parts[2])
        if forged != document:
            with pytest.raises(CheckpointError):
                check_release(forged, TRUSTED, robot="wx-1", action_space="bridge_delta_ee_7", highest=0, now_ns=0)
    assert signed_document(document) == document
