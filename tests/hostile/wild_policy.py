"""A policy that does to its process what its instruction says, after it has passed every check as an honest one.

It is installed for processes that get its folder in PYTHONPATH, by an entry point, as a package of somebody else's is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from gymnast_core.records.manifest import read_manifest, write_checkpoint
from gymnast_core.types import ActionChunk

NAME = "wild_policy"
HANGS = ("loop", "hold the interpreter", "sleep for ten minutes", "read the pipe")
ENDS = ("exit", "crash", "be killed")
FAILS = ("raise", "raise odd", "answer nothing", "answer none", "answer nan", "answer text", "answer flat")
GOOD = ("print", "lift")


class WildPolicy:
    """See the module."""

    def __init__(self, version: str, does: dict[str, str]) -> None:
        self.version, self.chunk_length, self._does = version, 2, does

    @classmethod
    def load(cls, folder: Path) -> WildPolicy:
        manifest = read_manifest(folder)
        _do(str(manifest.config.get("at_load", "")))
        return cls(manifest.id, dict(manifest.config.get("does", {})))

    def act(self, observation: Any, instruction: Any, *, rng: Any = None) -> Any:
        what = self._does.get(instruction[0], instruction[0])
        actions = np.zeros((1, 2, 7), np.float32)
        _do(what)
        if what == "answer nothing":
            return ActionChunk(actions[:, :0], self.version)
        if what == "answer none":
            return None
        if what == "answer nan":
            return ActionChunk(actions * np.nan, self.version)
        if what == "answer text":
            return ActionChunk(actions, "x", {"words": np.array(["a"])})
        if what == "answer flat":
            return ActionChunk(actions[0], self.version)
        return ActionChunk(actions, self.version)


def _do(what: str) -> None:
    if what == "loop":
        while True:
            pass
    elif what == "hold the interpreter":
        ctypes.PyDLL(None).sleep(600)
    elif what == "sleep for ten minutes":
        time.sleep(600)
    elif what == "read the pipe":
        sys.stdin.buffer.read()
    elif what == "exit":
        os._exit(0)
    elif what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "be killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "print":
        os.write(1, b"\xff" * 1000)
    elif what == "raise":
        raise RuntimeError("no " * 100_000)
    elif what == "raise odd":
        raise SystemExit(3)


def install(folder: Path) -> Path:
    """Make the package; returns what PYTHONPATH has to name."""
    info = folder / "wild-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wild\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[gymnast.policies]\n{NAME} = {__name__}:{WildPolicy.__name__}\n")
    return folder


def checkpoint(folder: Path, at_load: str = "", **does: str) -> Path:
    """Write a checkpoint of it.

    Args:
        folder: of the checkpoint.
        at_load: what it does when it is loaded.
        does: what it does instead of what it is told, by instruction with _ for blanks.
    """
    told = {name.replace("_", " "): what for name, what in does.items()}
    weights = save({"nothing": np.zeros(1, np.float32)})
    write_checkpoint(folder, weights, kind="policy", architecture=NAME, config={"at_load": at_load, "does": told})
    return folder
