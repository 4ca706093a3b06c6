"""What of a job is checked while whoever asks for it still waits for the answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from cloud_trainer.jobs.shelf import Shelf
from cloud_trainer.store.episodes import EpisodeCatalogue
from cloud_trainer.store.tenants import PerTenant
from gymnast_core.errors import ConfigError
from gymnast_core.jobs import kind_of
from gymnast_core.wire.errors import NotFoundError, NotPermittedError

CHECKPOINTS = {"policy": "policy", "world_model": "world_model", "judge": "judge", "candidate": "policy"}
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
    """Return if everything that a job names by id is here, and nothing else is named.

    Args:
        shelves: of every tenant's checkpoints.
        episodes_of: catalogue of a tenant.
        tenant: whose job it is.
        kind: of the job.
        spec: of the job.
        allowed: those of gymnast_core.job.REACHES that whoever started this trainer allowed.

    Raises:
        NotFoundError: a checkpoint or an episode is not here; the message names it.
        ConfigError: the kind is unknown, or no policy is named.
        NotPermittedError: the configuration reaches out of the trainer in a way that was not allowed.
    """
    kind_of(kind)
    if not spec.get("policy"):
        raise ConfigError(f"job {kind} needs a checkpoint id for policy; add it to its spec (`gymnast weights list`)")
    _check_reach(spec.get("config", {}), allowed)
    shelf = shelves.of(tenant)
    for role, made in CHECKPOINTS.items():
        if (name := spec.get(role)) and not shelf.holds(str(name), made):
            raise NotFoundError(
                f"{role} {str(name)[:80]!r}: this trainer has no such {made.replace('_', ' ')}; it has "
                f"{', '.join(shelf.ids(made)) or 'none'} (more: gymnast serve --import FOLDER)"
            )
    catalogue = episodes_of(tenant)
    named = [*(spec.get("episodes") or ()), *(spec.get("checked") or ())]
    if missing := [str(name) for name in named if catalogue.find(str(name)) is None]:
        raise NotFoundError(f"episodes {', '.join(missing[:3])} are not at this trainer, or not valid")


def _check_reach(config: Any, allowed: Collection[str]) -> None:
    """Refuse a configuration that names hosts, folders, variables or code of the trainer's machine."""
    if not isinstance(config, Mapping):
        raise ConfigError(f"config must be an object of settings, got {str(config)[:80]!r}")
    novel = config.get("novel") or {}
    if not isinstance(novel, Mapping):
        raise ConfigError(f"config.novel must be an object of settings, got {str(novel)[:80]!r}")
    edits = novel.get("edits") or ()
    plugs = [str(name) for name in (edits if isinstance(edits, (list, tuple)) else [edits]) if ":" in str(name)]
    for reach, where, value in (
        ("judges", "config.judge", config.get("judge")),
        ("judges", "config.novel.endpoint", novel.get("endpoint")),
        ("plug-ins", "config.novel.edits", plugs),
        ("ray", "config.ray", config.get("ray")),
    ):
        if value and reach not in allowed:
            raise NotPermittedError(
                f"{where} {str(value)[:80]} would use what this trainer's machine reaches; whoever runs the trainer "
                f"can allow it to everybody who may submit jobs: gymnast serve --jobs-may {reach}"
            )
