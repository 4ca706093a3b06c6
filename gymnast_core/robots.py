"""Arms by name: those that Gymnast knows, which Interbotix's driver moves, and those that installed packages add.

A package adds one by a SPEC in the module that its entry point of the group gymnast.arms names, beside the driver.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from gymnast_core.errors import ConfigError
from gymnast_core.extensions import ARMS, extension, installed
from gymnast_core.spec import ROBOT_MODEL, VIPERX_300S, WIDOWX_250S, RobotSpec

ROBOTS: Mapping[str, RobotSpec] = MappingProxyType({spec.name: spec for spec in (WIDOWX_250S, VIPERX_300S)})


def robot_named(name: str) -> RobotSpec:
    """Return the spec of an arm by its model's name.

    Raises:
        ConfigError: nobody here knows it, or the package that adds it has no spec of that name.
    """
    if name in ROBOTS:
        return ROBOTS[name]
    added = installed(ARMS)
    if name not in added:
        known = ", ".join((*ROBOTS, *added))
        raise ConfigError(f"no arm named {name!r}; there are {known}. A package adds one by an entry point of {ARMS}")
    spec = getattr(extension(ARMS, name), "SPEC", None)
    if not isinstance(spec, RobotSpec):
        raise ConfigError(f"{name!r} of {ARMS} is a driver without a SPEC (gymnast_core.spec.RobotSpec), so no arm")
    if spec.name != name:
        raise ConfigError(f"{name!r} of {ARMS} has a SPEC named {spec.name!r}; both names must be the same")
    return spec


def is_known(name: str) -> bool:
    """Whether robot_named() would find an arm."""
    return name in ROBOTS or name in installed(ARMS)


def model_in(metadata: Mapping[str, object]) -> str:
    """Return the model of an episode's arm; of one that is silent, the WidowX 250s."""
    return str(metadata.get(ROBOT_MODEL, WIDOWX_250S.name))


def robot_of(metadata: Mapping[str, object]) -> RobotSpec:
    """Return the spec of an episode's arm.

    Raises:
        ConfigError: nobody here knows it; install the package that adds it.
    """
    return robot_named(model_in(metadata))


def one_arm(models: Iterable[str]) -> str:
    """Return the one model among those of episodes and checkpoints that are used together.

    Raises:
        ConfigError: they are of several arms.
    """
    found = sorted(set(models)) or [WIDOWX_250S.name]
    if len(found) > 1:
        raise ConfigError(f"episodes and checkpoints of several arms: {', '.join(found)}; use those of one arm")
    return found[0]


def arm_of_all(episodes: Iterable[Mapping[str, object]]) -> RobotSpec:
    """Return the one arm of episodes, by their metadata.

    Raises:
        ConfigError: they are of several, or nobody here knows it.
    """
    return robot_named(one_arm(map(model_in, episodes)))


def declared(model: str) -> dict[str, str]:
    """Return what a checkpoint's lineage says of its arm: of a WidowX 250s nothing, as before there were others."""
    return {} if model == WIDOWX_250S.name else {ROBOT_MODEL: model}
