"""What of a job is checked while whoever asks for it still waits for the answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from cloud_trainer.jobs.shelf import Shelf
from cloud_trainer.store.episodes import EpisodeCatalogue
from cloud_trainer.store.tenants import PerTenant
from cloud_trainer.world_model.capabilities import declared_by, require_dream, require_plans, require_practice
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.evaluation.attempts import is_first_attempt
from gymnast_core.jobs import JobSpec, spec_of
from gymnast_core.jobs.practice import DreamConfig
from gymnast_core.records.manifest import read_manifest
from gymnast_core.wire.errors import NotFoundError, NotPermittedError

CHECKPOINTS = {
    "policy": "policy", "world_model": "world_model", "judge": "judge", "candidate": "policy", "incumbent": "policy",
    "planner": "world_model",
}  # fmt: skip
"""Settings of a spec that name a checkpoint, and its kind."""


def check_submission(
    shelves: PerTenant[Shelf],
    episodes_of: Callable[[str | None], EpisodeCatalogue],
    tenant: str,
    kind: str,
    spec: Mapping[str, Any],
    *,
    allowed: Collection[str] = (),
) -> None:
    """Return if a job is asked for as its kind can be, and everything that it names by id is here and nothing else.

    Args:
        shelves: of every tenant's checkpoints.
        episodes_of: catalogue of a tenant.
        tenant: the job's tenant.
        kind: of the job.
        spec: of the job.
        allowed: those of gymnast_core.job.REACHES that whoever started this trainer allowed.

    Raises:
        NotFoundError: a checkpoint or an episode is not here; the message names it.
        ConfigError: the kind is unknown, a setting does not exist or is not allowed, or an episode is a later attempt;
            or the world model takes no actions, cannot be seeded, or does not heed a setting of the dream; or the
            planner takes no words.
        NotPermittedError: the configuration reaches out of the trainer in a way that was not allowed.
    """
    asked = spec_of(kind, spec)
    check_spec_reach(asked, allowed)
    shelf = shelves.of(tenant)
    for role, made in CHECKPOINTS.items():
        if (name := getattr(asked, role, "")) and not shelf.holds(name, made):
            raise NotFoundError(
                f"{role} {name[:80]!r}: this trainer has no such {made.replace('_', ' ')}; it has "
                f"{', '.join(shelf.ids(made)) or 'none'} (more: gymnast serve --import FOLDER)"
            )
        if name and made == "world_model":
            manifest = read_manifest(shelf.path(name))
            require_plans(manifest) if role == "planner" else require_practice(declared_by(manifest), name)
    if (dream := getattr(getattr(asked, "config", None), "dream", None)) is not None:
        check_dream(dream, shelf, getattr(asked, "world_model", ""))
    catalogue = episodes_of(tenant)
    named = {name: catalogue.find(name) for name in asked.named_episodes}
    if missing := [name for name, row in named.items() if row is None]:
        raise NotFoundError(f"episodes {', '.join(missing[:3])} are not at this trainer, or not valid")
    if again := [name for name, row in named.items() if row is not None and not is_first_attempt(row.metadata)]:
        raise ConfigError(
            f"episodes {', '.join(again[:3])} were tried again after a judged failure; name first attempts alone"
        )


def check_dream(dream: DreamConfig, shelf: Shelf, world_model: str) -> None:
    """Return if a world model, the default where none is named, heeds the settings of a dream.

    Raises:
        ConfigError: it does not, or the trainer does not have it.
    """
    with contextlib.suppress(CheckpointError):  # there is none yet; the job says so when it begins
        require_dream(read_manifest(shelf.path(world_model) if world_model else shelf.newest("world_model")), dream)


def check_spec_reach(spec: JobSpec, allowed: Collection[str], *, given: Mapping[str, object] | None = None) -> None:
    """Refuse a job that reaches out of the trainer; see check_reach().

    Raises:
        NotPermittedError: something was not allowed; the message names it.
    """
    if (config := spec.model_dump(mode="json").get("config")) is not None:
        check_reach(config, allowed, given=given)


def check_reach(config: Any, allowed: Collection[str], *, given: Mapping[str, Any] | None = None) -> None:
    """Refuse a configuration that names hosts, folders, variables or code of the trainer's machine.

    Args:
        config: of a job, an adaptation or a loop, by whichever door it came.
        allowed: those of gymnast_core.job.REACHES that whoever started this trainer allowed.
        given: settings of the starter's own; what is named there stands.

    Raises:
        NotPermittedError: something was not allowed; the message names it.
        ConfigError: it is no object.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"config must be an object of settings, got {str(config)[:80]!r}")
    novel = config.get("novel") or {}
    if not isinstance(novel, Mapping):
        raise ConfigError(f"config.novel must be an object of settings, got {str(novel)[:80]!r}")
    own = given or {}
    own_novel = own.get("novel") or {}
    for reach, where, value, starters in (
        ("judges", "config.judge", config.get("judge"), own.get("judge")),
        ("judges", "config.novel.endpoint", novel.get("endpoint"), own_novel.get("endpoint")),
        ("plug-ins", "config.novel.edits", _plugs(novel), _plugs(own_novel)),
        ("ray", "config.ray", config.get("ray"), own.get("ray")),
    ):
        if value and value != starters and reach not in allowed:
            raise NotPermittedError(
                f"{where} {str(value)[:80]} would use what this trainer's machine reaches; whoever runs the trainer "
                f"can allow it to everybody who may submit jobs: gymnast serve --jobs-may {reach}"
            )


def _plugs(novel: Mapping[str, object]) -> list[str]:
    """Edits of scenes that are code: package.module:Factory."""
    edits = novel.get("edits") or ()
    return [str(name) for name in (edits if isinstance(edits, (list, tuple)) else [edits]) if ":" in str(name)]
