"""Policies by the architecture their manifest names; torch is imported only when one is loaded."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from gymnast_core.errors import CheckpointError, GymnastError
from gymnast_core.extensions import POLICIES, extension, installed
from gymnast_core.policy import Policy
from gymnast_core.records.manifest import read_manifest

ARCHITECTURES = {
    "compact_policy": "gymnast_core.policies.compact:CompactPolicy",
    "compact_history": "gymnast_core.policies.history:HistoryPolicy",
    "compact_flow": "gymnast_core.policies.flow:FlowPolicy",
    "openvla": "gymnast_core.policies.openvla.policy:OpenVLAPolicy",
    "pi0": "gymnast_core.policies.pi0.policy:Pi0Policy",
    "lora": "gymnast_core.policies.adapter:AdaptedPolicy",
}
"""architecture of a manifest -> module:class with a `load(folder)` class method; installed packages add others."""


def load_policy(folder: Path) -> Policy:
    """Load the policy of a checkpoint folder, whatever its architecture.

    Raises:
        CheckpointError: not a policy, altered, of an architecture this version does not know, or not what that
            architecture writes.
    """
    manifest = read_manifest(folder)
    if manifest.kind != "policy":
        raise CheckpointError(f"{folder} holds a {manifest.kind}, not a policy")
    kind = architecture(manifest.architecture)
    try:
        policy: Policy = kind.load(folder)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, GymnastError):
            raise
        raise CheckpointError(
            f"{manifest.id} in {folder} is no {manifest.architecture} ({type(error).__name__}: {error}); make it anew"
        ) from error
    return policy


@runtime_checkable
class Servable(Protocol):
    """A policy that is worth moving to an accelerator."""

    def served_on(self, device: str) -> Policy:
        """Return it on a device, in the precision and compiled as that device likes."""
        ...


def serve_policy(folder: Path, *, device: str = "auto") -> Policy:
    """Load a policy to act with, where that is fast.

    Args:
        folder: of any architecture.
        device: of a large policy: "auto" takes a GPU if there is one and else leaves the weights as stored; cpu, cuda,
            cuda:N. A policy that answers in milliseconds stays on the CPU.

    Raises:
        CheckpointError: see load_policy.
        ConfigError: no such device here.
    """
    policy = load_policy(folder)
    return policy.served_on(device) if isinstance(policy, Servable) else policy


def architecture(name: str) -> Any:
    """The class of an architecture; imports what it needs, which takes seconds.

    Raises:
        CheckpointError: one that neither this version nor an installed package knows.
        ConfigError: a package adds it, but it cannot be imported.
    """
    if name not in ARCHITECTURES:
        others = installed(POLICIES)
        if name in others:
            return extension(POLICIES, name)
        known = sorted((*ARCHITECTURES, *others))
        remedy = "upgrade, or install the package that adds it"
        raise CheckpointError(f"architecture {name!r} is not one of {known}; {remedy}")
    module, kind = ARCHITECTURES[name].split(":")
    return getattr(importlib.import_module(module), kind)
