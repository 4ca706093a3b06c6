"""Maps of arrays, texts and numbers as msgpack, the way openpi packs numpy; what comes in is bounded and of few kinds.

An array is a map with the byte keys __ndarray__, data, dtype and shape; a numpy scalar one with __npgeneric__, data and
dtype. Only booleans, whole numbers and floats are arrays here: nothing that could name an object or a class.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgpack
import numpy as np
import numpy.typing as npt

from gymnast_core.errors import ContractError
from gymnast_core.wire.errors import InvalidMessageError, TooLargeError

Array: TypeAlias = "npt.NDArray[Any]"
Value: TypeAlias = (
    "bool | int | float | str | bytes | Array | np.generic | Sequence[Value] | Mapping[str, Value] | None"
)
Message: TypeAlias = "Mapping[str, Value]"

MAX_BYTES = 16 << 20
"""Of one message: three camera images of 1280 x 720 and something to spare."""
MAX_ENTRIES, MAX_ITEMS = 64, 4096
"""Of one map and of one list; texts and plain numbers are few, what is long is an array."""
MAX_PARTS = 256
"""Maps and lists of one message, whatever lies in what: unpacked, each takes many times its bytes."""
MAX_AXES = 8
_DTYPE = re.compile(r"[<>|][biuf][1248]")
_ARRAY_KEYS, _SCALAR_KEYS = {b"__ndarray__", b"data", b"dtype", b"shape"}, {b"__npgeneric__", b"data", b"dtype"}


def pack(message: Message) -> bytes:
    """Return a message's bytes.

    Raises:
        ContractError: something in it is no value of this protocol.
    """
    try:
        return bytes(msgpack.packb(message, default=_packed))
    except (TypeError, ValueError, OverflowError) as error:
        raise ContractError(f"not packed: {error}") from error


def unpack(data: bytes, *, limit: int = MAX_BYTES) -> dict[str, Value]:
    """Return the message that bytes hold; arrays are read-only and in this machine's byte order.

    Args:
        data: one message.
        limit: of its bytes.

    Raises:
        InvalidMessageError: not a map of texts to values of this protocol.
        TooLargeError: more bytes or more parts than are accepted.
    """
    if len(data) > limit:
        raise TooLargeError(f"a message of {len(data)} bytes; {limit} are accepted")
    parts = _Parts()
    try:
        message = msgpack.unpackb(
            data, object_hook=parts.of_map, list_hook=parts.of_list, ext_hook=_no_extension, use_list=True,
            max_str_len=limit, max_bin_len=limit, max_array_len=MAX_ITEMS, max_map_len=MAX_ENTRIES, max_ext_len=0,
        )  # fmt: skip
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise InvalidMessageError(f"not a msgpack message of openpi: {_short(error)}") from error
    if not isinstance(message, dict):
        raise InvalidMessageError(f"a message is a map of names to values, got {type(message).__name__}")
    return message


def _packed(value: object) -> object:
    """For what msgpack does not know itself."""
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"{type(value).__name__} is no value of openpi's protocol")
    if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
        raise TypeError(f"an array of {value.dtype} is no value of openpi's protocol; use booleans, integers or floats")
    if isinstance(value, np.ndarray):
        shape, dtype = value.shape, value.dtype.str
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": dtype, b"shape": shape}
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}


class _Parts:
    """Counts maps and lists as they are completed, innermost first, and turns maps into what they stand for."""

    def __init__(self) -> None:
        self._count = 0

    def of_list(self, items: list[Value]) -> list[Value]:
        self._add()
        return items

    def of_map(self, entries: dict[str | bytes, Any]) -> Value:
        self._add()
        if b"__ndarray__" in entries:
            return _array(entries)
        if b"__npgeneric__" in entries:
            return _scalar(entries)
        if odd := [key for key in entries if not isinstance(key, str)]:
            raise InvalidMessageError(f"names are texts, got {_short(odd[0])}")
        return entries  # type: ignore[return-value]  # every key is a text

    def _add(self) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise TooLargeError(f"a message of more than {MAX_PARTS} maps and lists")


def _array(entries: Mapping[str | bytes, Any]) -> Array:
    _check(entries, _ARRAY_KEYS)
    dtype, shape, data = _dtype(entries[b"dtype"]), entries[b"shape"], entries[b"data"]
    if not isinstance(shape, list) or len(shape) > MAX_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise InvalidMessageError(f"an array's shape is at most {MAX_AXES} lengths, got {_short(shape)}")
    size = math.prod(shape) * dtype.itemsize
    if not isinstance(data, bytes) or len(data) != size:
        got = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
        raise InvalidMessageError(f"an array of {_short(shape)} {dtype} has {size} bytes, got {got}")
    if dtype.kind == "b":  # any byte but 0 is true, and only 0 and 1 are booleans to numpy
        return np.ndarray(shape, np.uint8, data).astype(bool)
    return np.ndarray(shape, dtype, data).astype(dtype.newbyteorder("="), copy=False)


def _scalar(entries: Mapping[str | bytes, Any]) -> np.generic:
    _check(entries, _SCALAR_KEYS)
    dtype, value = _dtype(entries[b"dtype"]), entries[b"data"]
    kinds: dict[str, tuple[type, ...]] = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float)}
    fits = type(value) in kinds[dtype.kind]
    if fits and dtype.kind in "iu":
        fits = np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
    if fits and dtype.kind == "f":
        fits = not math.isfinite(value) or abs(value) <= float(np.finfo(dtype).max)
    if not fits:
        raise InvalidMessageError(f"{_short(value)} is no {dtype}")
    number: np.generic = dtype.newbyteorder("=").type(value)
    return number


def _check(entries: Mapping[str | bytes, Any], keys: set[bytes]) -> None:
    if set(entries) != keys:
        raise InvalidMessageError(f"an array or number has {sorted(keys)}, got {_short(sorted(map(repr, entries)))}")


def _dtype(text: object) -> np.dtype[Any]:
    try:
        if isinstance(text, str) and _DTYPE.fullmatch(text):
            return np.dtype(text)
    except TypeError:
        pass  # one like <f1
    raise InvalidMessageError(f"arrays are booleans, integers or floats of at most 8 bytes, not {_short(text)}")


def _no_extension(code: int, data: bytes) -> Value:
    raise InvalidMessageError(f"msgpack's extension type {code} is no value of openpi's protocol")


def _short(value: object) -> str:
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
