from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cloud_trainer.world_model.dit import restricted_unpickler
from cloud_trainer.world_model.dit.restricted_unpickler import load_pickle, load_pt
from gymnast_core.errors import CorruptError


class Runs:
    """Pickles into a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def write(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_and_containers_come_back(tmp_path: Path, protocol: int) -> None:
    value = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "f": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "nested": [(1, 2.5, None, True), {"x": b"bytes"}, "text"],
        "scalar": np.float64(1.5),
        "empty": np.zeros((0, 7)),
        "ordered": OrderedDict(a=1),
    }
    loaded = load_pickle(write(tmp_path / "a.pkl", value, protocol))
    for key in ("a", "f", "big", "empty"):
        np.testing.assert_array_equal(loaded[key], value[key])
    assert loaded["nested"] == value["nested"]
    assert loaded["scalar"] == 1.5
    assert loaded["ordered"] == {"a": 1}


def test_hostile_pickle_is_refused_before_it_runs(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    with pytest.raises(CorruptError, match=r"names posix\.system"):
        load_pickle(write(tmp_path / "a.pkl", [Runs(f"touch {proof}")]))
    assert not proof.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cbuiltins\neval\n(S'1+1'\ntR.",
        b"cbuiltins\ngetattr\n.",
        b"cnumpy\nload\n.",
        b"ctorch\nload\n.",
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93\x8c\x01O\x85R.",
        b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93}\x8c\x05_make\x8c\x01x\x86b.",
        b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93)R.",
        b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93\x8c\x07f8,(9,)O\x85R.",
        b"\x80\x04\x8c\x01xQ.",
        b"garbage",
        b"",
    ],
)
def test_other_attacks_and_damage_are_refused(tmp_path: Path, opcodes: bytes) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(opcodes)
    with pytest.raises(CorruptError):
        load_pickle(path)


def test_a_file_cannot_change_what_later_files_see(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    # BUILD with slot state: setattr(numpy.dtype's stand-in, "_make", OrderedDict's stand-in)
    path.write_bytes(
        b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93N}\x8c\x05_make\x8c\x0bcollections\x8c\x0bOrderedDict\x93s\x86b."
    )
    with pytest.raises(CorruptError, match="_make"):
        load_pickle(path)
    array = np.arange(3)
    np.testing.assert_array_equal(load_pickle(write(tmp_path / "b.pkl", array)), array)


def test_object_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="dtype 'O"):
        load_pickle(write(tmp_path / "a.pkl", np.array([{"a": 1}], dtype=object)))


def test_checkpoint_tensors_come_back(tmp_path: Path) -> None:
    base = torch.arange(12, dtype=torch.float32)
    content: dict[str, Any] = {
        "model": OrderedDict(w=base.reshape(3, 4), view=base.reshape(3, 4).t()[1:], half=base.to(torch.bfloat16)),
        "ema": {"p": torch.nn.Parameter(torch.ones(2))},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.99)}]},
        "step": 7,
    }
    path = tmp_path / "a.pt"
    torch.save(content, path)
    loaded = load_pt(path)
    for name, value in content["model"].items():
        assert torch.equal(loaded["model"][name], value)
    assert torch.equal(loaded["ema"]["p"], torch.ones(2))
    assert loaded["step"] == 7
    assert loaded["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.99)


def test_hostile_checkpoint_is_refused_before_it_runs(tmp_path: Path) -> None:
    proof, path = tmp_path / "ran", tmp_path / "a.pt"
    torch.save({"model": {"w": torch.ones(2)}, "x": Runs(f"touch {proof}")}, path)
    with pytest.raises(CorruptError, match=r"posix\.system"):
        load_pt(path)
    assert not proof.exists()


def rewritten(source: Path, target: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            if (data := change(name, old.read(name))) is not None:
                new.writestr(name, data)
    return target


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.arange(100.0)}, path)
    cut = rewritten(path, tmp_path / "cut.pt", lambda name, data: data[:8] if name.endswith("data/0") else data)
    with pytest.raises(CorruptError, match="2 of 100 elements"):
        load_pt(cut)
    lost = rewritten(path, tmp_path / "lost.pt", lambda name, data: None if name.endswith("data/0") else data)
    with pytest.raises(CorruptError, match="unknown storage"):
        load_pt(lost)
    bomb = rewritten(path, tmp_path / "bomb.pt", lambda name, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(CorruptError, match="compressed"):
        load_pt(bomb)
    (tmp_path / "old.pt").write_bytes(b"not a zip")
    with pytest.raises(CorruptError, match="no zip file"):
        load_pt(tmp_path / "old.pt")


def test_tensors_cannot_reach_outside_their_storage() -> None:
    storage = restricted_unpickler._Marker(torch.zeros(4))
    with pytest.raises(CorruptError, match="reaches element 4"):
        restricted_unpickler._tensor(storage, 2, (3,), (1,))
    with pytest.raises(CorruptError, match="negative"):
        restricted_unpickler._tensor(storage, -1, (1,), (1,))
    with pytest.raises(CorruptError, match="without a storage"):
        restricted_unpickler._tensor("storage", 0, (1,), (1,))
    with pytest.raises(CorruptError, match="1000000000000 elements on a storage of 4"):
        restricted_unpickler._tensor(storage, 0, (10**12,), (0,))


def test_a_few_bytes_cannot_ask_for_much_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")  # memo entry 2**31 - 1: Python 3.11 would clear 34 GB
    with pytest.raises(CorruptError, match="memo entry 2147483647"):
        load_pickle(path)
    path.write_bytes(b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x00.")  # a bytearray of 2**56 - 1 bytes
    with pytest.raises(CorruptError):
        load_pickle(path)
    laughs: list[Any] = ["ha"]
    for _ in range(200):
        laughs = [laughs, laughs]  # 200 lists, 2**200 ways through them
    path = write(path, laughs)
    assert len(load_pickle(path)) == 2
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(CorruptError, match="contains itself"):
        load_pickle(write(path, circle))


@pytest.mark.parametrize("state", [(0, 0, (10**9,), (0,)), (0, 0, (10**12,), (1,))])
def test_a_tensor_cannot_be_altered_by_the_file(tmp_path: Path, state: Any) -> None:
    torch.save({"w": torch.zeros(4)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old:
        name = next(n for n in old.namelist() if n.endswith("data.pkl"))
        # BUILD on the finished tensor: Tensor.__setstate__ would call set_() with the file's sizes
        pickled = old.read(name)
    built = pickled[:-2] + pickle.dumps(state, 2)[2:-1] + b"b" + pickled[-2:]
    assert pickled.endswith(b"s."), "SETITEM of the one tensor, STOP"
    hostile = rewritten(tmp_path / "a.pt", tmp_path / "b.pt", lambda n, data: built if n == name else data)
    with pytest.raises(CorruptError):
        load_pt(hostile)


def test_entries_larger_than_the_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.arange(100.0)}, path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = next(i for i in archive.infolist() if i.filename.endswith("data/0"))
    place = data.rindex(info.filename.encode()) - 46 + 20  # sizes in the central directory
    data[place : place + 8] = (2**31).to_bytes(4, "little") * 2
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptError, match="overlap or are larger"):
        load_pt(path)


def test_a_permitted_name_is_no_data(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(b"cnumpy\ndtype\n.")
    with pytest.raises(CorruptError, match="type or a function"):
        load_pickle(path)
