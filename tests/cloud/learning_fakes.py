"""Small synthetic episodes and models for the learning tests: a coloured square that the arm pushes about."""

from __future__ import annotations

import numpy as np
import torch

from cloud_trainer.world_model.compact.model import CompactWorldModel
from cloud_trainer.world_model.compact.network import CompactWorldModelConfig, CompactWorldNetwork
from cloud_trainer.world_model.worlds import CompactWorld
from gymnast_core.policies.compact import ActionBins, CompactNetwork, CompactPolicy, CompactPolicyConfig
from gymnast_core.policies.flow import ActionScale, FlowPolicy
from gymnast_core.policies.flow_network import FlowNetwork, FlowPolicyConfig
from gymnast_core.types import Episode, Outcome

CAMERA = (0.0, -100.0, 0.0, 32.0, -100.0, 0.0, 0.0, 60.0, 0.0, 0.0, 0.0, 1.0)
"""Looks straight down: y to the left, x up, 100 pixels a metre."""


def episode(seed: int, steps: int = 15, *, camera: str = "over_shoulder", size: int = 64) -> Episode:
    """A red square stands somewhere; every action moves a black square; success when they meet."""
    rng = np.random.default_rng(seed)
    target = rng.integers(10, 50, 2)
    frames = np.full((steps + 1, size, size, 3), 120, np.uint8)
    actions = np.zeros((steps, 7), np.float32)
    actions[:, :2] = (target - 30) / 100 / steps + rng.normal(0, 0.002, (steps, 2))
    actions[:, 6] = 1.0
    start = np.array([0.25, 0.0, 0.1, 0.0, 0.0, 0.0, 1.0], np.float32)
    proprio = np.concatenate([start[None], start + np.cumsum(actions, 0) * np.array([1] * 6 + [0], np.float32)])
    for step, frame in enumerate(frames):
        frame[target[0] : target[0] + 6, target[1] : target[1] + 6] = (220, 20, 20)
        row, column = (30 + step * (target - 30) / steps).astype(int)
        frame[row : row + 4, column : column + 4] = 0
    outcome = Outcome.SUCCESS if seed % 2 else Outcome.FAILURE
    return Episode(
        f"fake-{seed}",
        "lift the red cube" if seed % 3 else "close the drawer",
        {camera: frames},
        proprio.astype(np.float32),
        actions,
        np.arange(steps + 1, dtype=np.int64) * 200_000_000,
        outcome,
        "operator:test",
    )


def tiny_policy(seed: int = 0, *, row_by_row: bool = True) -> CompactPolicy:
    """A fresh policy of a few thousand parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CompactNetwork(CompactPolicyConfig(widths=(8, 8, 8), hidden=16, head=8, text_buckets=32, text_dim=8))
    low = np.array([-0.05] * 3 + [-0.02] * 3 + [0.0], np.float32)
    high = np.array([0.05] * 3 + [0.02] * 3 + [1.0], np.float32)
    return CompactPolicy(network, ActionBins(low, high, 256), row_by_row=row_by_row)


def tiny_flow(seed: int = 0, *, row_by_row: bool = True) -> FlowPolicy:
    """A fresh flow policy of a few thousand parameters, its head random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FlowNetwork(FlowPolicyConfig(widths=(8, 8, 8), hidden=16, text_buckets=32, text_dim=8, time_dim=8))
        torch.nn.init.normal_(network.head.weight, std=0.2)
    scale = ActionScale(np.zeros(7, np.float32), np.array([0.02] * 3 + [0.1] * 3 + [0.5], np.float32))
    return FlowPolicy(network, scale, row_by_row=row_by_row)


def tiny_world_model(seed: int = 0) -> CompactWorldModel:
    """A fresh world model of a few thousand parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CompactWorldNetwork(CompactWorldModelConfig(CAMERA, widths=(8, 8, 16), embedding=16))
    return CompactWorldModel(network, np.full((64, 64, 3), 120, np.uint8))


def tiny_world(seed: int = 0) -> CompactWorld:
    """It as a world to practise in."""
    return CompactWorld(tiny_world_model(seed))
