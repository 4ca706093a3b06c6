"""A robot's policies, in a process of their own: one that hangs, crashes or eats the memory ends that process alone.

Whoever asks waits by a deadline. Then the process is ended and the next question starts another, which loads again what
is asked: the episode at hand has failed by its policy, the rollout has not.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from gymnast_core.errors import CheckpointError, ConfigError, PolicyFailedError, ShapeError
from gymnast_core.framed import FramedProcess, ProcessEndedError
from gymnast_core.policy import Committed
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import ActionChunk, Observation
from gymnast_ros.run import policy_wire as wire
from gymnast_ros.shadow import StageLimits

LOG = logging.getLogger(__name__)
ANSWER_S = 20.0
"""A policy that has not answered by then hangs; its checkpoint was found fast enough before it was let onto the arm."""


@dataclass(frozen=True)
class _Held:
    """What the child holds: a checkpoint's id, K, whether it can plan on from what is committed, its temperature."""

    version: str
    chunk_length: int
    continues: bool
    temperature: float | None


class PolicyHost:
    """Loads and asks policies in one child process; threads may share it, one question at a time.

    Args:
        device: see gymnast_core.policies.serve_policy.
        limits: how long starting and loading may take.

    Attributes:
        answer_s: longest wait for a policy's answer.
    """

    def __init__(self, device: str = "auto", *, limits: StageLimits | None = None, answer_s: float = ANSWER_S) -> None:
        self._device, self._limits = device, limits or StageLimits()
        self.answer_s = answer_s
        self._lock = threading.Lock()
        self._child: FramedProcess | None = None
        self._held: dict[str, _Held] = {}
        self._users: Counter[str] = Counter()
        self._gone: SimpleQueue[str] = SimpleQueue()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return None if self._child is None else self._child.pid

    def load(self, folder: Path) -> HostedPolicy:
        """Load a checkpoint and return its policy; it stays loaded as long as somebody holds that.

        Raises:
            CheckpointError: it is no policy, altered, or ends the process, or hangs, where it is loaded.
            ConfigError: there is no such device here.
        """
        key = str(folder)
        with self._lock:
            held = self._loaded(key)
            self._users[key] += 1
        policy = HostedPolicy(self, key, held)
        weakref.finalize(policy, self._gone.put, key)  # in whatever thread, with whatever lock held: a queue takes it
        return policy

    def act(
        self, key: str, observation: Observation, instruction: Sequence[str], rng: np.random.Generator | None,
        committed: Committed | None = None, temperature: float | None = None,
    ) -> ActionChunk:  # fmt: skip
        """Ask one of them; a temperature of None is its own.

        Raises:
            PolicyFailedError: it raised, did not answer in time, ended its process, or its answer is no action.
            CheckpointError: it had to be loaded again, and could not be.
        """
        with self._lock:
            held = self._loaded(key)
            version = held.version
            cameras = [str(name) for name in observation.images]
            asked = {"act": key, "cameras": cameras, "instruction": list(instruction), "rng": wire.state_of(rng),
                     "temperature": held.temperature if temperature is None else temperature}  # fmt: skip
            arrays = {**wire.arrays_of(observation), **wire.arrays_of_committed(committed)}
            try:
                words, answered = self._ask(asked, self.answer_s, arrays)
            except TimeoutError:
                raise PolicyFailedError(f"policy {version} did not answer within {self.answer_s:.0f} s") from None
            except (ProcessEndedError, ValueError) as error:
                raise PolicyFailedError(f"policy {version} ended its process, which {error}") from error
        if "error" in words:
            raise PolicyFailedError(f"policy {version} raised {words['message']}")
        if rng is not None:
            rng.bit_generator.state = words["rng"]
        try:
            return wire.chunk_of(answered, str(words["version"]))
        except (KeyError, ShapeError) as error:
            raise PolicyFailedError(f"policy {version} answered with no action: {error}") from error

    def close(self) -> None:
        """End the process, also in the middle of an answer; nothing is loaded any more."""
        self._closed = True
        while not self._lock.acquire(timeout=0.1):
            if (child := self._child) is not None:
                child.end()
        try:
            self._end()
        finally:
            self._lock.release()

    def _loaded(self, key: str) -> _Held:
        """Have the child hold a checkpoint; returns what it is."""
        if self._child is not None and not self._child.running:
            self._end()
        if key in self._held:
            return self._held[key]
        name, size = _about(Path(key))
        wait_s = sum(self._limits.of(stage, size)[0] for stage in ("", "imported"))
        try:
            words, _ = self._ask({"load": key, "device": self._device}, wait_s)
        except TimeoutError:
            raise CheckpointError(f"{name} does not load within {wait_s:.0f} s") from None
        except (ProcessEndedError, ValueError) as error:
            raise CheckpointError(f"{name} cannot be loaded: its process {error}") from error
        if "error" in words:
            kind = ConfigError if words["error"] == ConfigError.__name__ else CheckpointError
            raise kind(str(words["message"]))
        self._held[key] = _Held(
            str(words["version"]), int(words["chunk_length"]), words["continues"] is True, words["temperature"]
        )
        return self._held[key]

    def _ask(
        self, words: Mapping[str, Any], wait_s: float, arrays: wire.Arrays | None = None
    ) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Ask the child; one that does not answer well is ended."""
        if self._closed:
            raise ProcessEndedError("was ended with the rollout")
        if self._child is None:
            self._child = FramedProcess([sys.executable, "-m", "gymnast_ros.run.policy_child"])
        message = wire.packed({**words, "drop": self._unused()}, arrays)
        try:
            return wire.unpacked(self._child.ask(message, wait_s))
        except (TimeoutError, ProcessEndedError, ValueError) as error:
            LOG.warning("policy_process_ended error=%s", error or "no answer in time")
            self._end()
            raise

    def _unused(self) -> list[str]:
        """Return what nobody holds any more."""
        with contextlib.suppress(Empty):
            while True:
                self._users[self._gone.get_nowait()] -= 1
        unused = [key for key in self._held if not self._users[key]]
        for key in unused:
            del self._held[key]
        return unused

    def _end(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child = None
        self._held.clear()


class HostedPolicy:
    """A policy in the host's process, with everything else of the contract here.

    Args:
        host: where it runs.
        key: its folder.
        held: what it is.
    """

    def __init__(self, host: PolicyHost, key: str, held: _Held) -> None:
        self._host, self._key, self._held = host, key, held

    @property
    def version(self) -> str:
        """Id of the checkpoint."""
        return self._held.version

    @property
    def chunk_length(self) -> int:
        """K."""
        return self._held.chunk_length

    @property
    def continues(self) -> bool:
        """Whether it can plan on from what is committed."""
        return self._held.continues

    @property
    def temperature(self) -> float | None:
        """What it samples at unless another one is asked for; None where it cannot be given any."""
        return self._held.temperature

    def act_at(
        self, temperature: float, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator
    ) -> ActionChunk:
        """See TemperedPolicy; raises as PolicyHost.act()."""
        return self._host.act(self._key, observation, instruction, rng, temperature=temperature)

    def act_after(self, committed: Committed, observation: Observation, instruction: Sequence[str]) -> ActionChunk:
        """See ContinuingPolicy; raises as PolicyHost.act()."""
        return self._host.act(self._key, observation, instruction, None, committed)

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """See Policy; raises as PolicyHost.act()."""
        return self._host.act(self._key, observation, instruction, rng)


def _about(folder: Path) -> tuple[str, int]:
    """Id and size of a checkpoint, for limits and words; the loader says what is wrong with it."""
    with contextlib.suppress(CheckpointError):
        manifest = read_manifest(folder)
        return manifest.id, manifest.weights_bytes
    return folder.name, 0
