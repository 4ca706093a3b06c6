"""What of a job is checked while whoever asks for it still waits for the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cloud_trainer.jobs.runner import KINDS
from cloud_trainer.jobs.shelf import Shelf
from cloud_trainer.store.episodes import EpisodeCatalogue
from cloud_trainer.store.tenants import PerTenant
from gymnast_core.errors import ConfigError
from gymnast_core.wire.errors import NotFoundError

CHECKPOINTS = ("policy", "world_model", "judge")


def check_submission(
    shelves: PerTenant[Shelf],
    episodes_of: Callable[[str | None], EpisodeCatalogue],
    tenant: str,
    kind: str,
    spec: Mapping[str, Any],
) -> None:
    """Return if everything that a job names by id is here.

    Args:
        shelves: of every tenant's checkpoints.
        episodes_of: catalogue of a tenant.
        tenant: whose job it is.
        kind: of the job.
        spec: of the job.

    Raises:
        NotFoundError: a checkpoint or an episode is not here; the message names it.
        ConfigError: the kind is unknown, or no policy is named.
    """
    if kind not in KINDS:
        raise ConfigError(f"job kind {kind[:40]!r} is not one of {', '.join(KINDS)}")
    if not spec.get("policy"):
        raise ConfigError(f"job {kind} needs a checkpoint id for policy; add it to its spec (`gymnast weights list`)")
    shelf = shelves.of(tenant)
    for role in CHECKPOINTS:
        if (name := spec.get(role)) and not shelf.holds(str(name), role):
            raise NotFoundError(
                f"{role} {str(name)[:80]!r}: this trainer has no such {role.replace('_', ' ')}; it has "
                f"{', '.join(shelf.ids(role)) or 'none'} (more: gymnast serve --import FOLDER)"
            )
    catalogue = episodes_of(tenant)
    named = [*(spec.get("episodes") or ()), *(spec.get("checked") or ())]
    if missing := [str(name) for name in named if catalogue.find(str(name)) is None]:
        raise NotFoundError(f"episodes {', '.join(missing[:3])} are not at this trainer, or not valid")
