"""What other installed packages add, by name: policies, judges, datasets and simulated worlds.

A package adds one by an entry point, e.g. in its pyproject.toml:

    [project.entry-points."gymnast.policies"]
    my_policy = "my_policy:MyPolicy"

Names come from checkpoints, settings and jobs; what is imported comes from packages that somebody installed here.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from gymnast_core.errors import ConfigError

POLICIES = "gymnast.policies"
"""architecture of a manifest -> class with a `load(folder)` class method."""
JUDGES = "gymnast.judges"
"""kind of a judge's settings -> called with the other settings by name, returns a Judge."""
DATASETS = "gymnast.datasets"
"""kind of a dataset -> called with (folder, info, size), returns an EpisodeSource; size is pixels a side or None."""
GATES = "gymnast.gates"
"""name of a second simulator -> called without arguments, returns a gymnast_core.evaluation.gate.GateSimulator."""
WORLDS = "gymnast.worlds"
"""name of a simulated world -> called without arguments, returns a gymnast_ros.nodes.sim_world.World."""


def installed(group: str) -> tuple[str, ...]:
    """Names that installed packages add to a group, sorted."""
    return tuple(sorted({entry.name for entry in metadata.entry_points(group=group)}))


def extension(group: str, name: str) -> Any:
    """Import what a package added under a name.

    Raises:
        ConfigError: nobody added it, two packages did, or it cannot be imported.
    """
    found = list(metadata.entry_points(group=group, name=name))
    if len(found) != 1:
        several = f"{len(found)} packages add" if found else "no installed package adds"
        raise ConfigError(f"{several} {name!r} to {group}; there are {list(installed(group))}")
    try:
        return found[0].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{name!r} of {group} is {found[0].value}, which cannot be imported: {error}") from error
