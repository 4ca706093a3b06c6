"""Releases and lineages of any size: what is signed reaches every robot, and holds nothing else up."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest

from cloud_trainer.service import ServiceConfig
from cloud_trainer.service.doctor import examine
from cloud_trainer.service.publish import MOST_RELEASE_BYTES
from cloud_trainer.store.protocols import ReleaseRow
from gymnast_client import Trainer
from gymnast_core.errors import CheckpointError
from gymnast_core.records.manifest import canonical_json, read_manifest
from gymnast_core.records.release import Release
from gymnast_core.records.signing import SigningKey
from gymnast_core.wire.codec import crc32c
from gymnast_core.wire.gymnast.v1 import weights_pb2, weights_pb2_grpc
from gymnast_core.wire.identity import Identity
from gymnast_ros.uplink import RobotStore, Uplink
from tests.bridge.conftest import UNGATED, make_checkpoint
from tests.hostile.lab import PATIENCE_S, Lab, error_of, within

EPISODES = 100_000


def trainer(lab: Lab, name: str, role: str) -> Trainer:
    return Trainer(lab.service.address, lab.identity(name, role))


def robot_of(lab: Lab, name: str) -> tuple[Uplink, RobotStore]:
    identity = lab.identity(name, "robot")
    store = RobotStore(lab.folder / name, robot=name, trusted=Identity.load(identity).trusted_keys(), gate=UNGATED)
    return Uplink(lab.service.address, identity, store=store), store


def staged(store: RobotStore, checkpoint_id: str) -> bool:
    return (folder := store.staged()) is not None and folder.name == checkpoint_id


def test_a_lineage_of_100000_episodes_reaches_a_robot_whole_and_the_signature_covers_it(tmp_path):
    episodes = [f"ep-{number:06d}-0123456789abcdef" for number in range(EPISODES)]
    made = make_checkpoint(tmp_path / "made", 1.0, lineage={"stage": "sft", "episodes": episodes})
    with Lab(tmp_path) as lab, trainer(lab, "cluster", "trainer") as there:
        document = there.checkpoints.publish(tmp_path / "made")
        release = Release.from_bytes(document.payload)
        assert len(document.payload) < MOST_RELEASE_BYTES
        assert release.lineage_digest
        uplink, store = robot_of(lab, "wx-1")
        with uplink:
            assert within(60.0, lambda: staged(store, made.id)) < 60.0
        assert read_manifest(store.path(made.id)) == made, "the robot holds every episode's id"
        assert there.checkpoints.manifest(release, tmp_path / "lineage") == made
        assert there.checkpoints.why(made.id)["counts"]["external"] == EPISODES
        with pytest.raises(CheckpointError, match="fetch it again"):
            release.whole_manifest(canonical_json({**made.lineage, "episodes": episodes[1:]}))
        with pytest.raises(CheckpointError, match="fetch it again"):
            release.whole_manifest()
        with trainer(lab, "stranger", "robot") as other:  # names the digest, is not named by the release
            there.checkpoints.publish(tmp_path / "made", robots=("wx-1",))
            assert other.checkpoints.manifest(release, tmp_path / "lineage") == made, "the first one was for everybody"
    assert not [row for row in examine(ServiceConfig(folder=tmp_path / "trainer"), deep=True) if row.state != "ok"]


def oversized(lab: Lab, folder: Path) -> int:
    """Write a release as the version before this check signed it; returns its sequence."""
    manifest = make_checkpoint(folder, 3.0, lineage={"episodes": [f"ep-{n}" + "x" * 40 for n in range(60_000)]})
    key = SigningKey.load(next((lab.folder / "trainer").rglob("release*.key")))

    def sign(sequence: int) -> ReleaseRow:
        release = Release("promotion", sequence, manifest.id, asdict(manifest), "a" * 64, 10, time.time_ns(), 2**62)
        signed = key.sign(release.to_bytes())
        return ReleaseRow("default", sequence, manifest.id, signed.payload, signed.key_id, signed.signature)

    return lab.service.meta.add_release(sign).sequence


def test_an_oversized_release_that_an_older_version_signed_holds_nobody_up_and_is_named(tmp_path, caplog):
    with Lab(tmp_path) as lab:
        sequence = oversized(lab, tmp_path / "old")
        good = make_checkpoint(tmp_path / "good", 2.0)
        lab.service.publisher.publish("default", tmp_path / "good")
        uplink, store = robot_of(lab, "wx-1")
        with caplog.at_level(logging.ERROR), uplink:
            assert within(PATIENCE_S, lambda: staged(store, good.id)) < PATIENCE_S
        assert [row for row in caplog.messages if f"release_passed_over tenant=default sequence={sequence}" in row]
        with trainer(lab, "ana", "operator") as there:
            page = there.checkpoints.releases(limit=1)
            assert [Release.from_bytes(row.payload).checkpoint_id for row in page] == [good.id], "lists go on behind it"
    found = [row for row in examine(ServiceConfig(folder=tmp_path / "trainer")) if row.check == "releases"]
    assert [row.state for row in found] == ["warning"]
    assert f"{sequence} of tenant default" in found[0].what


def test_a_manifest_in_pieces_that_do_not_fit_is_refused_by_name(tmp_path):
    manifest = json.dumps({"kind": "policy"}).encode() * 100
    whole, size = weights_pb2.BlobChunk(offset=0, crc32c=crc32c(manifest), data=manifest), len(manifest)
    gap = weights_pb2.BlobChunk(offset=7, crc32c=crc32c(b"x"), data=b"x")
    flipped = weights_pb2.BlobChunk(offset=0, crc32c=1, data=manifest)
    piece, chunk = (lambda one: weights_pb2.PublishRequest(manifest=one)), weights_pb2.PublishRequest(chunk=whole)
    attacks = {
        "too much": (size - 1, [piece(whole)], "SizeError"),
        "a gap": (size, [piece(gap)], "OffsetError"),
        "nothing": (size, [], "InvalidMessageError"),
        "weights instead": (size, [chunk], "InvalidMessageError"),
        "weights in between": (2 * size, [piece(whole), chunk], "InvalidMessageError"),
        "empty pieces": (size, [piece(weights_pb2.BlobChunk())] * 3, "InvalidMessageError"),
        "a size that nothing has": (1 << 40, [piece(whole)], "TooLargeError"),
        "flipped": (size, [piece(flipped)], "InvalidMessageError"),
        "no manifest": (size, [piece(whole)], "InvalidMessageError"),
    }
    with Lab(tmp_path) as lab, lab.channel(lab.identity("cluster", "trainer")) as channel:
        stub = weights_pb2_grpc.WeightsServiceStub(channel)
        for name, (said, after, error) in attacks.items():
            requests = [weights_pb2.PublishRequest(open=weights_pb2.PublishOpen(manifest_size=said)), *after]
            assert error_of(partial(stub.Publish, iter(requests), timeout=PATIENCE_S)) == error, name
