"""Recorded data of any kind at a desk, without a service: opened, looked over once and read whole."""

from __future__ import annotations

from collections.abc import Sequence

from cloud_trainer.world_model.data.check import Checked, check
from cloud_trainer.world_model.data.described import DatasetConfig, build_source
from cloud_trainer.world_model.data.lag import ConventionError
from cloud_trainer.world_model.data.source import EpisodeSource, iterate, of_arm
from cloud_trainer.world_model.data.worldgym import MEASURED_LAG
from gymnast_core.errors import ConfigError
from gymnast_core.types import Episode

__all__ = [
    "Checked",
    "DatasetConfig",
    "assumed_lag",
    "measured_lags",
    "open_dataset",
    "recorded",
]


def open_dataset(config: DatasetConfig) -> EpisodeSource:
    """Return the reader of a dataset; nothing is read but what says how many episodes there are.

    Raises:
        ConfigError: there is none.
    """
    source = build_source(config)
    if not len(source):
        raise ConfigError(f"no {config.kind} episodes in {config.folder}; is --kind right?")
    return source


def measured_lags(config: DatasetConfig, *, skip_broken: bool) -> Checked:
    """Read a dataset once: which episodes can be read, and their lag.

    Raises:
        CorruptError: something is broken that shall not be skipped.
        ConfigError: there is none.
        ConventionError: nothing moves in any of them.
    """
    found = check(open_dataset(config))
    found.kept(skip_broken=skip_broken)
    if not found.lags:
        raise ConventionError(f"none of {len(found.readable)} episodes has 12 steps with motion; nothing to measure")
    return found


def assumed_lag(config: DatasetConfig) -> int | str:
    """Return the lag a dataset is read with: a number, or how it is found."""
    if config.lag is not None:
        return config.lag
    if config.kind == "bridge_raw":
        return "by date"
    return MEASURED_LAG if config.kind == "worldgym" else 0


def recorded(configs: Sequence[DatasetConfig], *, skip_broken: bool) -> list[Episode]:
    """Read every episode of some datasets.

    Raises:
        CorruptError: something is broken that shall not be skipped.
        ConfigError: there is none.
    """
    sources = [open_dataset(config) for config in configs]
    if skip_broken:
        sources = [check(source, measure=False).kept(skip_broken=True) for source in sources]
    return [of_arm(episode, source.info) for source in sources for episode in iterate(source)]
