"""What other installed packages add, by name; `gymnast plugins` lists it.

A package adds one by an entry point, e.g. in its pyproject.toml:

    [project.entry-points."gymnast.policies"]
    my_policy = "my_policy:MyPolicy"

Names come from checkpoints, settings and jobs; what is imported comes from packages that somebody installed here.
"""

from __future__ import annotations

from dataclasses import dataclass
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
"""name of a second simulator -> called without arguments, or with robot, the RobotSpec of an arm but the WidowX 250s;
returns a gymnast_core.evaluation.gate.GateSimulator."""
WORLDS = "gymnast.worlds"
"""name of a simulated world -> called without arguments, returns a gymnast_ros.nodes.sim_world.World."""


WORLD_MODELS = "gymnast.world_models"
"""architecture of a manifest -> class with a `load(folder, config)` class method, which returns a
cloud_trainer.world_model.worlds.World; to be trained on it has `refine(parent, episodes, how, out, clips)`, too."""
ARMS = "gymnast.arms"
"""model of an arm -> module with connect(model, name) and disconnect(), see gymnast_ros.drivers.contract, and with
SPEC, the gymnast_core.spec.RobotSpec of that name; without one it is a driver of an arm that Gymnast knows."""
NOTIFIERS = "gymnast.notifiers"
"""way of a receiver of calls -> called with the receiver's other settings by name, returns what is called with each
message (a mapping, as a webhook gets it) and raises where it could not be delivered."""
GROUPS = (ARMS, DATASETS, GATES, JUDGES, NOTIFIERS, POLICIES, WORLD_MODELS, WORLDS)


@dataclass(frozen=True)
class Plugin:
    """What one package adds under one name.

    Attributes:
        group: one of GROUPS.
        name: its name there.
        value: what is imported, MODULE:NAME.
        package: the distribution that adds it.
        version: of that distribution.
    """

    group: str
    name: str
    value: str
    package: str
    version: str


def plugins() -> list[Plugin]:
    """Everything that installed packages add, by group and name; nothing is imported."""
    found = [(group, entry) for group in GROUPS for entry in metadata.entry_points(group=group)]
    made = [Plugin(group, one.name, one.value, *_package(one)) for group, one in found]
    return sorted(made, key=lambda one: (one.group, one.name, one.package))


def _package(entry: metadata.EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist is not None else ("", "")


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
    except Exception as error:  # somebody else's module may raise anything
        reason = f"{error}" if isinstance(error, (ImportError, AttributeError)) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"{name!r} of {group} is {found[0].value}, which cannot be imported: {reason}") from error
