"""A real service on loopback with identities of its own, for every bridge test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from cloud_trainer.service import Service, ServiceConfig, enroll
from gymnast_core.episodes import Spool, write_episode
from gymnast_core.records.gate_rule import GateRule
from gymnast_core.records.manifest import write_checkpoint
from gymnast_core.types import Episode, Outcome

UNGATED = GateRule("off")
"""For tests of something else than the gate."""


def make_episode(folder: Path, episode_id: str, *, steps: int = 3, side: int = 32, seed: int = 0, **fields) -> Path:
    """A small valid episode file."""
    rng = np.random.default_rng(seed)
    images = {"cam": rng.integers(0, 255, (steps + 1, side, side, 3), dtype=np.uint8)}
    actions = rng.uniform(-0.04, 0.04, (steps, 7)).astype(np.float32)
    actions[:, 6] = 1.0
    episode = Episode(
        episode_id, "lift the red cube", images, np.zeros((steps + 1, 7), np.float32), actions,
        np.arange(steps + 1) * 200_000_000, fields.pop("outcome", Outcome.UNLABELLED), policy_versions=["p"] * steps,
        **fields,
    )  # fmt: skip
    return write_episode(folder, episode, robot="wx250s")


def fill(spool: Spool, count: int, prefix: str = "ep", **options) -> list[str]:
    """Enqueue some episodes and return their ids."""
    ids = [f"{prefix}-{number}" for number in range(count)]
    for number, episode_id in enumerate(ids):
        spool.enqueue(make_episode(spool.recording_folder, episode_id, seed=number, **options))
    return ids


def make_checkpoint(folder: Path, value: float = 0.0, *, size: int = 1000, kind: str = "policy", **fields):
    """A small real checkpoint folder; returns its manifest."""
    weights = save({"layer.weight": np.full(size, value, np.float32), "layer.bias": np.arange(4, dtype=np.float32)})
    return write_checkpoint(folder, weights, kind=kind, architecture="toy", config={"value": value}, **fields)


@pytest.fixture
def identities(tmp_path):
    """Folder of an identity per role, all of one authority (the service's own)."""

    def issue(name: str, role: str, tenant: str = "default") -> Path:
        return enroll(tmp_path / "trainer" / "ca", name, role, out=tmp_path / "ids" / name, tenant=tenant)

    return issue


@pytest.fixture
def service(tmp_path):
    """A running service with mutual TLS."""
    with Service(ServiceConfig(folder=tmp_path / "trainer")) as running:
        yield running
