"""A policy behind openpi's port, for tests: it waits when told to, and counts how many ask at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from cloud_trainer.service.openpi import OpenpiConfig, OpenpiServer
from gymnast_core.types import ActionChunk, FloatArray, Observation
from gymnast_core.wire.inference import answers
from gymnast_core.wire.openpi.codec import Message
from gymnast_core.wire.openpi.exchange import request
from gymnast_core.wire.openpi.keys import STYLES

LIBERO = STYLES["libero"]


class SeenPolicy:
    """Moves by the mean brightness and by where the arm is."""

    version, chunk_length = "policy-seen", 5

    def __init__(self) -> None:
        self.gate, self.asked = threading.Event(), threading.Event()
        self.gate.set()
        self.mode, self.at_once, self.most = "good", 0, 0

    def act(self, observation: Observation, instruction, *, rng=None) -> ActionChunk:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.asked.set()
        self.gate.wait(60)
        self.at_once -= 1
        if self.mode == "raise":
            raise RuntimeError("out of memory\n  File '/secret/path.py'")
        mean = observation.images["over_shoulder"].reshape(observation.batch_size, -1).mean(1) / 25500
        actions = np.zeros((observation.batch_size, 5, 7), np.float32) + mean[:, None, None].astype(np.float32)
        actions[..., 6] = 1.0
        actions += observation.proprio_BP[:, None] / 100
        return ActionChunk(actions, self.version)


@contextmanager
def served(policy, identity=None, **config) -> Iterator[OpenpiServer]:
    """A server of a policy on a free port of this machine."""
    server = OpenpiServer(
        answers(policy), OpenpiConfig(config.pop("port", 0), config.pop("keys", LIBERO), **config), identity
    )
    server.start()
    try:
        yield server
    finally:
        if hasattr(policy, "gate"):
            policy.gate.set()
        server.stop()


def bright(level: int = 100, side: int = 32) -> dict[str, np.ndarray]:
    """What the camera sees."""
    return {"over_shoulder": np.full((side, side, 3), level, np.uint8)}


def asking(proprio: FloatArray | None = None, **changes: object) -> Message:
    """A request of a libero client; a change to ... leaves a key out."""
    keys = LIBERO.changed(size=0)
    plain = request(keys, bright(), np.zeros(7, np.float32) if proprio is None else proprio, "lift the red cube")
    return {name: value for name, value in {**plain, **changes}.items() if value is not ...}
