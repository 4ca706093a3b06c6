"""TFRecord files of tf.train.Example messages, without TensorFlow.

Source: TensorFlow's "TFRecord and tf.train.Example" guide: length (uint64, little-endian), masked CRC-32C of the
length, data, masked CRC-32C of the data; a mask turns right by 15 bits and adds 0xa282ead8. example.proto and
feature.proto of TensorFlow give the messages their field numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from gymnast_core.errors import CorruptError

MAX_RECORD = 1 << 30
"""Bytes of one episode; nobody's is larger, and a damaged length must not fill the memory."""
_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")
FRAME_BYTES = _HEADER.size + _FOOTER.size
"""Of a record beside its data."""
_MASK = 0xA282EAD8

Feature = Sequence[bytes] | npt.NDArray[np.float32] | npt.NDArray[np.int64]


def framed(data: bytes) -> bytes:
    """Return a record as it stands in a file."""
    length = struct.pack("<Q", len(data))
    return length + _FOOTER.pack(_masked(length)) + data + _FOOTER.pack(_masked(data))


def offsets(path: Path) -> list[int]:
    """Return where each record of a file begins.

    Raises:
        CorruptError: the file ends inside a record, or a length is damaged.
    """
    found, at, size = [], 0, path.stat().st_size
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            found.append(at)
            at += _HEADER.size + _length(path, file.read(_HEADER.size), at) + _FOOTER.size
    if at != size:
        raise CorruptError(f"{path} ends inside its record {len(found) - 1}; fetch it again")
    return found


def record(path: Path, at: int) -> bytes:
    """Return the record that begins at a place.

    Raises:
        CorruptError: its checksum does not fit.
    """
    with path.open("rb") as file:
        file.seek(at)
        length = _length(path, file.read(_HEADER.size), at)
        data, check = file.read(length), file.read(_FOOTER.size)
    if len(data) != length or check != _FOOTER.pack(_masked(data)):
        raise CorruptError(f"{path}: the record at {at} is damaged: its checksum does not fit; fetch it again")
    return data


def _length(path: Path, header: bytes, at: int) -> int:
    if len(header) < _HEADER.size:
        raise CorruptError(f"{path} ends inside the record at {at}; fetch it again")
    length, check = _HEADER.unpack(header)
    if check != _masked(header[:8]) or length > MAX_RECORD:
        raise CorruptError(f"{path}: the record at {at} is damaged, or this is no TFRecord file (compressed?)")
    return int(length)


def _masked(data: bytes) -> int:
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def encode_example(features: Mapping[str, Feature]) -> bytes:
    """Return a tf.train.Example; the same features give the same bytes."""
    example = _EXAMPLE()
    for name, values in features.items():
        into = example.features.feature[name]
        if not isinstance(values, np.ndarray):
            into.bytes_list.value.extend(values)
        elif values.dtype == np.float32:
            into.float_list.value.extend(values.ravel().tolist())
        else:
            into.int64_list.value.extend(values.ravel().tolist())
    return bytes(example.SerializeToString(deterministic=True))


def decode_example(data: bytes) -> dict[str, Feature]:
    """Undo encode_example.

    Raises:
        CorruptError: it is none.
    """
    example = _EXAMPLE()
    try:
        example.ParseFromString(data)
    except DecodeError as error:
        raise CorruptError(f"a record of {len(data)} bytes is no tf.train.Example: {error}") from error
    return dict(_values(example))


def _values(example: Any) -> Iterator[tuple[str, Feature]]:
    for name, stored in example.features.feature.items():
        kind = stored.WhichOneof("kind")
        if kind == "float_list":
            yield name, np.array(stored.float_list.value, np.float32)
        elif kind == "int64_list":
            yield name, np.array(stored.int64_list.value, np.int64)
        elif kind == "bytes_list":
            yield name, list(stored.bytes_list.value)


def _example_class() -> Any:
    """The message class; fields are (name, number, type, label), types as descriptor.proto counts them."""
    file = descriptor_pb2.FileDescriptorProto(name="gymnast/tf_example.proto", package="gymnast.tf", syntax="proto3")
    for name, kind in (("BytesList", 12), ("FloatList", 2), ("Int64List", 3)):
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=3)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, value in enumerate(("bytes", "float", "int64"), 1):
        list_of = f".gymnast.tf.{value.capitalize()}List"
        feature.field.add(name=f"{value}_list", number=number, type=11, label=1, type_name=list_of, oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=9, label=1)
    entry.field.add(name="value", number=2, type=11, label=1, type_name=".gymnast.tf.Feature")
    features.field.add(name="feature", number=1, type=11, label=3, type_name=".gymnast.tf.Features.FeatureEntry")
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, type=11, label=1, type_name=".gymnast.tf.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("gymnast.tf.Example"))


_EXAMPLE = _example_class()
