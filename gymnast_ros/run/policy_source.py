"""Which policy drives the arm: a checkpoint, the store's current one, or recorded actions; swapped between episodes."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from gymnast_core.errors import BridgeError, CheckpointError, ConfigError, PolicyFailedError
from gymnast_core.policy import Policy
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import ActionChunk, Observation
from gymnast_core.wire.openpi.link import OpenpiPlace
from gymnast_ros.graph import ELSEWHERE, REMOTE
from gymnast_ros.run.policy_host import PolicyHost
from gymnast_ros.run.ports import Values
from gymnast_ros.run.scene_policy import ScenePolicy
from gymnast_ros.shadow import ShadowBook
from gymnast_ros.uplink.scene_adapters import SceneAdapter, SceneAdapters

LOG = logging.getLogger(__name__)

KEPT = 4
"""Loaded policies kept in memory."""


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

    The store (gymnast_ros.uplink.RobotStore) belongs to the bridge node; its folder may be read at any time.

    Args:
        store: the robot's store folder.
        default: checkpoint folder used while the store has no current one.
        host: where checkpoints run; None opens none, e.g. in a test of the others.
        dial: reaches a policy that runs elsewhere, by its whole name; None knows none.
        book: of this robot's shadow checks; a checkpoint that has not passed one is checked before it is opened.
            None opens anything.
        report: gets what is worth knowing, in words.
    """

    def __init__(
        self, store: Path, default: str = "", *, host: PolicyHost | None = None,
        dial: Callable[[str], Policy] | None = None, book: ShadowBook | None = None,
        report: Callable[[str], None] = LOG.info,
    ) -> None:  # fmt: skip
        self._store, self._default, self._host, self._dial = store, default, host, dial
        self._book, self._report = book, report
        self._adapters, self._attached = SceneAdapters(store), ""
        self._loaded: OrderedDict[str, Policy] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        """Id of the checkpoint in force; empty when there is none, or a remote one has not answered yet."""
        if self._default.startswith(ELSEWHERE):
            reached = self._loaded.get(self._default)
            return "" if reached is None else reached.version
        try:
            return read_manifest(self._folder("")).id
        except (ConfigError, CheckpointError):
            return ""

    def warm_up(self) -> None:
        """Load the policy in force (importing torch takes seconds), so that its first episode need not wait.

        A remote one is greeted, so that its version is known before it acts.
        """
        # open() says again what is wrong
        with contextlib.suppress(ConfigError, CheckpointError, BridgeError, PolicyFailedError):
            self.open("")

    def open(self, name: str = "") -> Policy:
        """Return a policy.

        Args:
            name: "" for the one in force; an id in the robot's store; a checkpoint folder; "replay:FILE" for a JSON
                list of actions (T, 7); "remote:HOST:PORT" for the one that trainer runs (gymnast serve --policy); or
                "openpi://HOST:PORT", "openpis://HOST:PORT" for a server of openpi's protocol.

        Raises:
            ConfigError: there is no such policy.
            LinkLostError: nobody answers there.
            CheckpointError: the folder is damaged or of the wrong kind, or failed its shadow check on this robot.
        """
        if name.startswith("replay:"):
            return _replay(Path(name.removeprefix("replay:")))
        remote = next((given for given in (name, self._default if not name else "") if given.startswith(ELSEWHERE)), "")
        key = remote or str(self._folder(name).resolve())
        base = self._opened(key, remote)
        if name or remote or not (adapters := self._adapters.of(Path(key).name)):
            return base
        return ScenePolicy(base, adapters, partial(self._attach, base))

    def _attach(self, base: Policy, adapter: SceneAdapter | None) -> Policy:
        """The policy of the scene that was recognised; the base where there is none, or it cannot be opened."""
        policy, why = base, ""
        if adapter is not None:
            try:
                policy = self._opened(str((self._store / "checkpoints" / adapter.checkpoint_id).resolve()), "")
            except (CheckpointError, ConfigError) as error:
                why = f"; {adapter.checkpoint_id} of scene {adapter.scene!r} cannot be opened: {error}"
        attached = "" if policy is base or adapter is None else adapter.checkpoint_id
        if why or attached != self._attached:
            scene = f": scene {adapter.scene!r} is recognised" if attached and adapter is not None else why
            self._report(f"{policy.version} drives{scene}")
        self._attached = attached
        return policy

    def _opened(self, key: str, remote: str) -> Policy:
        if self._book is not None and not remote and key not in self._loaded:
            self._book.require(Path(key))
        with self._lock:
            if not remote:
                self._loaded[key] = self._hosted(Path(key))  # one whose process was ended is loaded again here
            elif key not in self._loaded:
                self._loaded[key] = self._reach(remote)
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)
            self._loaded.move_to_end(key)
            return self._loaded[key]

    def _hosted(self, folder: Path) -> Policy:
        if self._host is None:
            raise ConfigError(f"no process to load {folder} in; name a remote policy or recorded actions")
        return self._host.load(folder)

    def _reach(self, name: str) -> Policy:
        if self._dial is None:
            raise ConfigError(f"no way to reach {name!r} from here; name a checkpoint")
        return self._dial(name)

    def _folder(self, name: str) -> Path:
        if name:
            held = self._store / "checkpoints" / name
            folder = held if "/" not in name and held.is_dir() else Path(name)
            if not folder.is_dir():
                raise ConfigError(f"checkpoint {name!r} is neither in this robot's store nor a folder on this machine")
            return folder
        current = self._store / "current"
        if current.is_dir():
            return current
        if self._default:
            return Path(self._default)
        raise ConfigError("no policy: the store has no current checkpoint and the parameter policy is empty")


def dial(settings: Values, name: str) -> Policy:
    """Reach the policy that a trainer, or a server of openpi's protocol, runs for us."""
    deadline_s = settings["remote_deadline_s"]
    if not name.startswith(REMOTE):
        from gymnast_ros.uplink.openpi import OpenpiPolicy

        return OpenpiPolicy(OpenpiPlace.of(name, settings["openpi"]), deadline_s=deadline_s)
    from gymnast_ros.uplink import RemotePolicy

    identity = Path(settings["identity"]) if settings["identity"] else None
    return RemotePolicy(name.removeprefix(REMOTE), identity, deadline_s=deadline_s, insecure=settings["insecure"])


def _replay(path: Path) -> Policy:
    try:
        actions_TA = np.asarray(json.loads(path.read_text()), np.float32)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot replay {path}: {error}") from error
    if actions_TA.ndim != 2 or actions_TA.shape[1] != 7:
        raise ConfigError(f"{path} must hold a list of 7-number actions, got shape {actions_TA.shape}")
    return ReplayPolicy(actions_TA, f"replay-{path.stem}")
