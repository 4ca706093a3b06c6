"""Reads foreign pickles and .pt files without executing them: arrays, tensors and plain containers, nothing else.

The only module of the project that touches pickle. No global of the file is ever imported: a name is looked up in a
fixed table of our own constructors, which cannot be altered from inside the file, or the file is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gymnast_core.errors import CorruptError

_MAX_PICKLE_BYTES = 512 << 20
_NUMERIC_DTYPE = re.compile(r"[biufcSU]\d{1,6}|\?")
_TORCH_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def load_pickle(path: Path) -> Any:
    """Return the arrays and plain containers of a pickle file (BridgeData's obs_dict.pkl and the like).

    Raises:
        CorruptError: it names anything but arrays and containers, is damaged, or is too large.
    """
    if path.stat().st_size > _MAX_PICKLE_BYTES:
        raise CorruptError(f"{path} has {path.stat().st_size} bytes; a pickle above {_MAX_PICKLE_BYTES} is refused")
    return _load(path.read_bytes(), str(path), lambda *_: _refuse_persistent(path))


def load_pt(path: Path) -> Any:
    """Return the tensors and plain containers of a .pt file in torch's zip format.

    Raises:
        CorruptError: not that format, compressed, damaged, or naming anything but tensors and containers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2]: name for name in archive.namelist()}
            if "data.pkl" not in names:
                raise CorruptError(f"{path} holds no data.pkl; only torch's zip format (torch >= 1.6) is read")
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise CorruptError(f"{path} has compressed entries, which torch never writes; refused")
            if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
                raise CorruptError(f"{path} has entries that overlap or are larger than the file; refused")
            if archive.getinfo(names["data.pkl"]).file_size > _MAX_PICKLE_BYTES:
                raise CorruptError(f"{path}: data.pkl is larger than {_MAX_PICKLE_BYTES} bytes; refused")
            if "byteorder" in names and archive.read(names["byteorder"]) != b"little":
                raise CorruptError(f"{path} was written on a big-endian machine; convert it there")
            storages = _Storages(archive, names, str(path))
            return _load(archive.read(names["data.pkl"]), str(path), storages)
    except zipfile.BadZipFile as error:
        raise CorruptError(f"{path} is no zip file; only torch's zip format (torch >= 1.6) is read") from error


def _load(data: bytes, name: str, persistent: Callable[[Any], Any]) -> Any:
    try:
        _check_memo(data, name)
        return _Plain(name)(_Restricted(io.BytesIO(data), name, persistent).load())
    except CorruptError:
        raise
    except Exception as error:  # damaged or hostile bytes raise anything
        raise CorruptError(f"{name} is not a readable pickle of arrays and containers: {error}") from error


def _check_memo(data: bytes, name: str) -> None:
    """Refuse memo numbers no honest pickle has: Python would set aside memory for every number below."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > len(data):
            raise CorruptError(f"{name} numbers a memo entry {argument} in {len(data)} bytes; refused")


class _Allowed:
    """One permitted name; immutable, so that the file cannot change it for later loads."""

    __slots__ = ("_make",)

    _make: Callable[..., Any]

    def __init__(self, make: Callable[..., Any]) -> None:
        object.__setattr__(self, "_make", make)

    def __setattr__(self, name: str, value: object) -> None:
        raise CorruptError(f"the file tries to set {name!r} on a permitted constructor; refused")

    def __call__(self, *args: object) -> Any:
        return self._make(*args)


class _Marker:
    """What may be passed on but neither called nor changed: an array type, a storage type or data, a tensor."""

    __slots__ = ("value",)

    value: Any

    def __init__(self, value: Any) -> None:
        object.__setattr__(self, "value", value)

    def __setattr__(self, name: str, value: object) -> None:
        raise CorruptError(f"the file tries to set {name!r} on what is fixed; refused")


class _DType:
    """numpy.dtype as pickled: a code, then a state with the byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not _NUMERIC_DTYPE.fullmatch(code):
            raise CorruptError(f"array dtype {code!r} is refused; only plain numbers and strings are read")
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
            raise CorruptError(f"array dtype state {state!r} is refused; structured dtypes are not read")
        self.order = state[1]

    def resolved(self) -> np.dtype[Any]:
        order = "" if self.order == "|" else self.order
        return np.dtype(order + self.code)


class _Array:
    """numpy.ndarray as pickled: created empty, then filled by its state."""

    def __init__(self, *_: Any) -> None:
        self.value: np.ndarray[Any, Any] = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        data = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(dtype, _DType) or not isinstance(data, bytes | bytearray):
            raise CorruptError("an array holds Python objects; refused")
        flat = np.frombuffer(data, dtype.resolved())
        self.value = flat.reshape(tuple(int(n) for n in shape), order="F" if fortran else "C").copy()


def _from_buffer(raw: object, dtype: object, shape: object, order: object) -> _Array:
    """An array as numpy writes it at protocol 5."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", bytes(raw) if isinstance(raw, bytes | bytearray) else raw))
    return array


def _scalar(dtype: Any, raw: Any) -> Any:
    if not isinstance(dtype, _DType):
        raise CorruptError(f"a scalar of type {dtype!r} is refused")
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(data, dtype.resolved())[0]


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """_codecs.encode, as Python 2 byte strings are pickled."""
    if encoding != "latin1" or not isinstance(text, str):
        raise CorruptError(f"_codecs.encode of {type(text).__name__} to {encoding!r} is refused")
    return text.encode("latin1")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Marker:
    data = storage.value if isinstance(storage, _Marker) else None
    if not isinstance(data, torch.Tensor) or len(size) != len(stride):
        raise CorruptError("a tensor without a storage is refused")
    if min((*size, *stride, offset), default=0) < 0:
        raise CorruptError(f"tensor size {size}, stride {stride}, offset {offset}: negative values are refused")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= data.numel():
        raise CorruptError(f"a tensor reaches element {last} of a storage of {data.numel()}; refused")
    if math.prod(size) > data.numel():
        raise CorruptError(f"a tensor of {math.prod(size)} elements on a storage of {data.numel()} is refused")
    return _Marker(torch.as_strided(data, tuple(size), tuple(stride), offset).clone())


_ALLOWED: dict[tuple[str, str], _Allowed | _Marker] = {
    ("collections", "OrderedDict"): _Allowed(OrderedDict),
    ("_codecs", "encode"): _Allowed(_encode),
    ("numpy", "dtype"): _Allowed(_DType),
    ("numpy", "ndarray"): _Marker("ndarray"),
    ("torch._utils", "_rebuild_tensor_v2"): _Allowed(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Allowed(lambda tensor, *_: tensor),
    **{("torch", name): _Marker(dtype) for name, dtype in _TORCH_DTYPES.items()},
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED[_module, "_reconstruct"] = _Allowed(_Array)
    _ALLOWED[_module, "scalar"] = _Allowed(_scalar)
for _module in ("numpy.core.numeric", "numpy._core.numeric"):
    _ALLOWED[_module, "_frombuffer"] = _Allowed(_from_buffer)
for _module in ("builtins", "__builtin__"):
    _ALLOWED[_module, "bytes"] = _Allowed(lambda: b"")  # empty bytes at protocol 2


class _Restricted(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, name: str, persistent: Callable[[Any], Any]) -> None:
        super().__init__(file, encoding="latin1")
        self._name, self._persistent = name, persistent

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise CorruptError(
                f"{self._name} names {module}.{name}; only arrays, tensors and plain containers are read, "
                "so it was refused before anything ran"
            )
        return _ALLOWED[module, name]

    def persistent_load(self, pid: object) -> Any:
        return self._persistent(pid)


class _Storages:
    """Raw tensor data of a .pt archive, each read once."""

    def __init__(self, archive: zipfile.ZipFile, names: dict[str, str], path: str) -> None:
        self._archive, self._names, self._path = archive, names, path
        self._read: dict[str, _Marker] = {}

    def __call__(self, pid: Any) -> _Marker:
        kind, marker, key, _, count = pid
        if kind != "storage" or not isinstance(marker, _Marker) or f"data/{key}" not in self._names:
            raise CorruptError(f"{self._path} refers to an unknown storage {key!r}; the file is damaged")
        if key not in self._read:
            data = bytearray(self._archive.read(self._names[f"data/{key}"]))
            tensor = torch.frombuffer(data, dtype=marker.value) if data else torch.zeros(0, dtype=marker.value)
            if tensor.numel() < int(count):
                raise CorruptError(f"{self._path}: storage {key} has {tensor.numel()} of {count} elements")
            self._read[key] = _Marker(tensor)
        return self._read[key]


def _refuse_persistent(path: Path) -> Any:
    raise CorruptError(f"{path} has external references, which a plain pickle must not have; refused")


class _Plain:
    """Replaces our placeholders by what they hold, through dicts, lists and tuples, each object once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._done: dict[int, Any] = {}
        self._open: set[int] = set()

    def __call__(self, value: object) -> Any:
        if isinstance(value, _Array):
            return value.value
        if isinstance(value, _DType):
            return value.resolved()
        if isinstance(value, _Marker) and isinstance(value.value, torch.Tensor):
            return value.value
        if isinstance(value, _Allowed | _Marker):
            raise CorruptError(f"{self._name} holds a type or a function where data belongs; refused")
        return self._container(value) if isinstance(value, dict | list | tuple) else value

    def _container(self, value: Any) -> Any:
        """Shared parts stay shared: a small file can refer to them more often than memory could copy them."""
        key = id(value)
        if key in self._open:
            raise CorruptError(f"{self._name} holds a container that contains itself; refused")
        if key not in self._done:
            self._open.add(key)
            if isinstance(value, dict):
                self._done[key] = {self(name): self(item) for name, item in value.items()}
            else:
                made = [self(item) for item in value]
                self._done[key] = made if isinstance(value, list) else tuple(made)
            self._open.discard(key)
        return self._done[key]
