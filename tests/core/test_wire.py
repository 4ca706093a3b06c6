"""The wire: stubs are generated, and the hand-made chunk messages are the protobuf ones."""

import contextlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gymnast_core.episodes import EpisodeEnd, EpisodeHeader, encoding
from gymnast_core.episodes import messages as m
from gymnast_core.episodes.cdr import CdrReader, CdrWriter
from gymnast_core.episodes.reader import iterate_messages
from gymnast_core.errors import CheckpointError, CorruptError
from gymnast_core.pictures import jpeg_size
from gymnast_core.records.manifest import Manifest
from gymnast_core.records.release import Release
from gymnast_core.records.signing import SignedDocument
from gymnast_core.records.weights import check_safetensors
from gymnast_core.wire import generate
from gymnast_core.wire.codec import Chunk, crc32c, decode_blob, decode_upload, encode_blob, encode_upload
from gymnast_core.wire.gymnast.v1 import trajectories_pb2, weights_pb2
from gymnast_core.wire.identity import Peer, peer_of

FEW = settings(max_examples=60, deadline=None)
VOLUME = 8000
"""Seeded edits per parser: 13 parsers make 10^5 in CI."""


def test_stubs_are_what_the_proto_files_give(tmp_path):
    committed = Path(generate.__file__).parent
    written = generate.generate(tmp_path)
    protos = list((Path(generate.__file__).parents[2] / "proto/gymnast/v1").glob("*.proto"))
    assert len(written) == 4 * len(protos)
    for path in written:
        assert path.read_text() == (committed / path.relative_to(tmp_path)).read_text(), f"regenerate {path.name}"


def test_crc32c_of_the_check_string():
    """RFC 3720 appendix B.4 and every CRC catalogue: "123456789" gives 0xE3069283."""
    assert crc32c(b"123456789") == 0xE3069283


CHUNKS = st.builds(
    Chunk,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=300),
)


@settings(max_examples=200, deadline=None)
@given(CHUNKS)
def test_hand_made_chunks_are_protobuf_in_both_directions(chunk):
    message = trajectories_pb2.UploadRequest.FromString(encode_upload(chunk)).chunk
    assert (message.channel, message.offset, message.crc32c, message.data) == (
        chunk.channel, chunk.offset, chunk.crc32c, chunk.data,
    )  # fmt: skip
    assert decode_upload(trajectories_pb2.UploadRequest(chunk=message).SerializeToString()) == chunk
    blob = weights_pb2.BlobChunk.FromString(encode_blob(chunk))
    assert (blob.offset, blob.crc32c, blob.data) == (chunk.offset, chunk.crc32c, chunk.data)
    assert decode_blob(blob.SerializeToString()) == Chunk(0, chunk.offset, chunk.crc32c, chunk.data)


def mutated(draw_from: bytes):
    """Bytes near a valid message: cut, with bytes replaced, or something after it."""
    return st.builds(
        lambda cut, edits, tail: _edit(draw_from[:cut], edits) + tail,
        st.integers(0, len(draw_from)),
        st.lists(st.tuples(st.integers(0, max(len(draw_from) - 1, 0)), st.integers(0, 255)), max_size=4),
        st.binary(max_size=8),
    )


def _edit(data: bytes, edits) -> bytes:
    changed = bytearray(data)
    for position, value in edits:
        if position < len(changed):
            changed[position] = value
    return bytes(changed)


HEADER = EpisodeHeader("ep", "go", "r", 0, ("cam",)).to_json().encode()
RELEASE = b'{"kind":"release","sequence":1,"checkpoint_id":"x","manifest":{},"robots":["*"],"deltas":[]}'
SAFETENSORS = (
    (64).to_bytes(8, "little") + b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}' + b" " * 11 + b"data"
)
PARSERS = {
    "upload": (decode_upload, encode_upload(Chunk(1, 2, 3, b"abc")), CorruptError),
    "open": (decode_upload, b"\x0a\x06\x08\x01\x12\x02ep", CorruptError),
    "blob": (decode_blob, encode_blob(Chunk(0, 2, 3, b"abc")), CorruptError),
    "header": (lambda data: EpisodeHeader.from_json(data.decode("utf-8", "replace")), HEADER, CorruptError),
    "end": (
        lambda data: EpisodeEnd.from_json(data.decode("utf-8", "replace")),
        EpisodeEnd().to_json().encode(), CorruptError,
    ),
    "named": (
        lambda data: encoding.decode_named(data, m.ACTION_NAMES),
        encoding.encode_named(5, m.ACTION_NAMES, [0.0] * 7),
        CorruptError,
    ),
    "image": (encoding.decode_image, encoding.encode_image(5, "cam", b"\xff\xd8jpeg"), CorruptError),
    "string": (lambda data: CdrReader(data).strings(), CdrWriter().strings(["a", "bc"]).done(), CorruptError),
    "jpeg": (jpeg_size, b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08\x00\x10\x00\x10\x03", CorruptError),
    "manifest": (Manifest.from_bytes, Manifest("policy", "a", {}, "0", 1).to_bytes(), CheckpointError),
    "release": (Release.from_bytes, RELEASE, CheckpointError),
    "document": (SignedDocument.from_json, SignedDocument(b"x", "k", b"s").to_json(), CheckpointError),
    "safetensors": (lambda data: check_safetensors(memoryview(data)), SAFETENSORS, CheckpointError),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(PARSERS))
def test_no_bytes_crash_a_parser(what):
    """Anything near a valid message is parsed or refused by name: hypothesis seeks shapes, seeded edits give mass."""
    parse, valid, refusal = PARSERS[what]

    def attempt(data):
        with contextlib.suppress(refusal):
            parse(data)

    FEW(given(st.one_of(st.binary(max_size=200), mutated(valid)))(attempt))()
    chance = random.Random(2026)
    for _ in range(VOLUME):
        data = bytearray(valid[: chance.randrange(len(valid) + 1)] if chance.random() < 0.3 else valid)
        for _ in range(chance.randrange(4)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        attempt(bytes(data))


def test_no_file_crashes_the_episode_reader(tmp_path):
    """Seeded edits of a real file: read, or refused as corrupt."""
    import numpy as np

    from gymnast_core.episodes import write_episode
    from gymnast_core.types import Episode

    episode = Episode("x", "go", {}, np.zeros((3, 7), np.float32), np.zeros((2, 7), np.float32), np.arange(3))
    valid = write_episode(tmp_path, episode, robot="r").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "fuzz.mcap"
    refused = 0
    for _ in range(1500):
        data = bytearray(valid[: int(rng.integers(1, len(valid) + 1))])
        for position in rng.integers(0, len(data), int(rng.integers(0, 4))):
            data[position] = int(rng.integers(256))
        path.write_bytes(data)
        try:
            for topic, _, message in iterate_messages(path):
                assert isinstance(topic, str)
                assert isinstance(message, bytes)
        except CorruptError:
            refused += 1
    assert refused > 500


@pytest.mark.parametrize("uri", ["", "gymnast://", "gymnast://a/b", "gymnast://a/pilot/c", "spiffe://a/robot/c"])
def test_names_that_are_none_of_ours_are_nobody(uri):
    assert Peer.from_uri(uri) is None
    assert peer_of(uri.encode()) is None
