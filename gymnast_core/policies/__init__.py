"""Policies by the architecture their manifest names; torch is imported only when one is loaded."""

from __future__ import annotations

import importlib
from pathlib import Path

from gymnast_core.errors import CheckpointError
from gymnast_core.manifest import read_manifest
from gymnast_core.policy import Policy

ARCHITECTURES = {
    "compact_policy": "gymnast_core.policies.compact:CompactPolicy",
    "openvla": "gymnast_core.policies.openvla.policy:OpenVLAPolicy",
    "lora": "gymnast_core.policies.adapter:AdaptedPolicy",
}
"""architecture of a manifest -> module:class with a `load(folder)` class method."""


def load_policy(folder: Path) -> Policy:
    """Load the policy of a checkpoint folder, whatever its architecture.

    Raises:
        CheckpointError: not a policy, altered, or of an architecture this version does not know.
    """
    manifest = read_manifest(folder)
    if manifest.kind != "policy":
        raise CheckpointError(f"{folder} holds a {manifest.kind}, not a policy")
    if manifest.architecture not in ARCHITECTURES:
        raise CheckpointError(f"architecture {manifest.architecture!r} is not one of {sorted(ARCHITECTURES)}; upgrade?")
    module, name = ARCHITECTURES[manifest.architecture].split(":")
    policy: Policy = getattr(importlib.import_module(module), name).load(folder)
    return policy
