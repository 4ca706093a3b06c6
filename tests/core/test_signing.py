"""Releases: only what a trusted key signed, newer than before, in time, and for this robot."""

import json
from dataclasses import asdict, replace

import pytest

from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.records.manifest import Manifest
from gymnast_core.records.release import DowngradeError, ExpiredError, NotForThisRobotError, Release, check_release
from gymnast_core.records.signing import NotSignedError, SignedDocument, SigningKey, TrustedKeys

MANIFEST = Manifest("policy", "toy", {"width": 3}, "0" * 64, 10)
RELEASE = Release("release", 5, MANIFEST.id, asdict(MANIFEST), "a" * 64, 10, 1000, 2000, ("wx-1",))
KEY = SigningKey.generate()
TRUSTED = TrustedKeys([KEY.public_bytes()])


def check(release=RELEASE, *, key=KEY, highest=4, now_ns=1500, robot="wx-1", space="bridge_delta_ee_7"):
    return check_release(
        key.sign(release.to_bytes()), TRUSTED, robot=robot, action_space=space, highest=highest, now_ns=now_ns
    )


def test_signed_release_comes_back_whole():
    back = check()
    assert back.checkpoint_id == MANIFEST.id
    assert back.robots == ("wx-1",)
    assert SignedDocument.from_json(KEY.sign(RELEASE.to_bytes()).to_json()) == KEY.sign(RELEASE.to_bytes())


def test_foreign_key_and_every_changed_byte_are_refused():
    with pytest.raises(NotSignedError, match="not trusted"):
        check(key=SigningKey.generate())
    document = KEY.sign(RELEASE.to_bytes())
    for position in range(len(document.payload)):
        changed = bytearray(document.payload)
        changed[position] ^= 1
        with pytest.raises(NotSignedError):
            TRUSTED.verify(replace(document, payload=bytes(changed)))
    for position in range(64):
        changed = bytearray(document.signature)
        changed[position] ^= 1
        with pytest.raises(NotSignedError):
            TRUSTED.verify(replace(document, signature=bytes(changed)))


def test_expired_downgraded_and_misdirected_releases_are_refused():
    with pytest.raises(ExpiredError, match="clock"):
        check(now_ns=2001)
    for highest in (5, 6):
        with pytest.raises(DowngradeError, match="signed rollback"):
            check(highest=highest)
    with pytest.raises(NotForThisRobotError, match="wx-2"):
        check(robot="wx-2")
    with pytest.raises(NotForThisRobotError, match="joint_positions"):
        check(space="joint_positions")


def test_every_robot_means_every_robot():
    assert check(replace(RELEASE, robots=("*",)), robot="wx-77").sequence == 5


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint_id": "policy-0000000000000000"},
        {"kind": "surprise"},
        {"sequence": -1},
        {"sequence": "5"},
        {"manifest": {"kind": "virus"}},
        {"deltas": [{"base_id": "x"}]},
        {"robots": None},
        {"unknown": 1},
    ],
)
def test_well_signed_nonsense_is_refused(change):
    payload = json.dumps({**json.loads(RELEASE.to_bytes()), **change}).encode()
    with pytest.raises(CheckpointError):
        check_release(
            KEY.sign(payload), TRUSTED, robot="wx-1", action_space="bridge_delta_ee_7", highest=0, now_ns=1500
        )


def test_keys_round_trip_through_files(tmp_path):
    KEY.save(tmp_path / "release.key")
    assert SigningKey.load(tmp_path / "release.key").key_id == KEY.key_id
    (tmp_path / "trust.pub").write_text(KEY.public_bytes().hex() + "\n")
    assert TrustedKeys.load(tmp_path / "trust.pub").verify(KEY.sign(b"x")) == b"x"
    for content in ("", "zz", "00" * 31):
        (tmp_path / "bad.pub").write_text(content)
        with pytest.raises(ConfigError):
            TrustedKeys.load(tmp_path / "bad.pub")
    with pytest.raises(ConfigError):
        SigningKey.load(tmp_path / "missing")
