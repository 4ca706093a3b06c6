"""Which policy drives the arm: a checkpoint, the store's current one, or recorded actions; swapped between episodes."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from gymnast_core.errors import ConfigError
from gymnast_core.policies import load_policy
from gymnast_core.policy import Policy
from gymnast_core.types import ActionChunk, Observation

KEPT = 4
"""Loaded policies kept in memory."""


class Store(Protocol):
    """What rollout needs of gymnast_ros.uplink.RobotStore."""

    def current(self) -> Path | None:
        """Checkpoint folder that runs."""
        ...

    def staged(self) -> Path | None:
        """Newest verified checkpoint that was not tried yet."""
        ...

    def swap(self, checkpoint_id: str, *, probation_episodes: int = 0) -> Path:
        """Make a staged one current."""
        ...

    def rollback(self, reason: str) -> Path:
        """Return to the one before."""
        ...


class ReplayPolicy:
    """Plays recorded actions back, open loop, one chunk for the whole episode; then holds."""

    def __init__(self, actions_TA: np.ndarray, version: str) -> None:
        self._actions_TA, self._version = np.asarray(actions_TA, np.float32), version

    @property
    def version(self) -> str:
        """Names the file it came from."""
        return self._version

    @property
    def chunk_length(self) -> int:
        """All of it."""
        return int(self._actions_TA.shape[0])

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """The recorded actions for every row."""
        actions_BKA = np.repeat(self._actions_TA[None], observation.batch_size, axis=0)
        return ActionChunk(actions_BKA, self._version)


class PolicySource:
    """Opens policies by name and keeps the last few loaded.

    Args:
        store: the robot's checkpoints; None where only folders are used.
        default: checkpoint folder used when the store has none.
    """

    def __init__(self, store: Store | None, default: str = "") -> None:
        self._store, self._default = store, default
        self._loaded: OrderedDict[str, Policy] = OrderedDict()

    def open(self, name: str = "") -> Policy:
        """Return a policy.

        Args:
            name: "" for the current one; "staged" for the newest staged; "replay:FILE" for a JSON list of actions
                (T, 7); else a checkpoint folder.

        Raises:
            ConfigError: there is no such policy.
            CheckpointError: the folder is damaged or of the wrong kind.
        """
        if name.startswith("replay:"):
            return self._replay(Path(name.removeprefix("replay:")))
        folder = self._folder(name)
        key = str(folder.resolve())
        if key not in self._loaded:
            self._loaded[key] = load_policy(folder)
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(key)
        return self._loaded[key]

    def _folder(self, name: str) -> Path:
        if name == "staged":
            staged = self._store.staged() if self._store else None
            if staged is None:
                raise ConfigError("no checkpoint is staged; publish one, or name a folder")
            return staged
        if name:
            if not Path(name).is_dir():
                raise ConfigError(f"checkpoint {name!r} is no folder on this machine")
            return Path(name)
        current = self._store.current() if self._store else None
        if current is not None:
            return current
        if self._default:
            return Path(self._default)
        raise ConfigError("no policy: the store has no current checkpoint and the parameter policy is empty")

    @staticmethod
    def _replay(path: Path) -> Policy:
        try:
            actions_TA = np.asarray(json.loads(path.read_text()), np.float32)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot replay {path}: {error}") from error
        if actions_TA.ndim != 2 or actions_TA.shape[1] != 7:
            raise ConfigError(f"{path} must hold a list of 7-number actions, got shape {actions_TA.shape}")
        return ReplayPolicy(actions_TA, f"replay-{path.stem}")
