"""Every kind of job, written once: the service checks what is submitted by it, command line and pages list it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gymnast_core.errors import ConfigError
from gymnast_core.jobs.adapt import AdaptResult, AdaptSpec
from gymnast_core.jobs.distil import DistilResult, DistilSpec
from gymnast_core.jobs.gate import GateResult, GateSpec
from gymnast_core.jobs.imitate import ImitateResult, ImitateSpec
from gymnast_core.jobs.improve import ImproveResult, ImproveSpec
from gymnast_core.jobs.plan import PlanResult, PlanSpec
from gymnast_core.jobs.replay import ReplayResult, ReplaySpec
from gymnast_core.jobs.scene import PreviewResult, PreviewSpec, TrustResult, TrustSpec
from gymnast_core.jobs.spec import JobResult, JobSpec, Urgency
from gymnast_core.settings import did_you_mean


@dataclass(frozen=True)
class Kind:
    """A kind of job.

    Attributes:
        spec: what it is asked for with.
        result: what it leaves behind.
    """

    spec: type[JobSpec]
    result: type[JobResult]


KINDS: Mapping[str, Kind] = {
    kind.spec.kind: kind
    for kind in (
        Kind(ImproveSpec, ImproveResult),
        Kind(ImitateSpec, ImitateResult),
        Kind(AdaptSpec, AdaptResult),
        Kind(ReplaySpec, ReplayResult),
        Kind(TrustSpec, TrustResult),
        Kind(PreviewSpec, PreviewResult),
        Kind(GateSpec, GateResult),
        Kind(DistilSpec, DistilResult),
        Kind(PlanSpec, PlanResult),
    )
}


def kind_of(name: str) -> Kind:
    """Return a kind by its name.

    Raises:
        ConfigError: there is none.
    """
    if name not in KINDS:
        raise ConfigError(f"job kind {name[:40]!r} is not one of {', '.join(KINDS)}{did_you_mean(name[:40], KINDS)}")
    return KINDS[name]


def spec_of(kind: str, values: Mapping[str, Any]) -> JobSpec:
    """Return a job's spec from its JSON values, checked.

    Raises:
        ConfigError: the kind is unknown, a setting does not exist, or a value is not allowed; the message names kind,
            setting, value and what is allowed.
    """
    model = kind_of(kind).spec
    try:
        return model.model_validate(values)
    except ConfigError as error:
        raise ConfigError(f"job {kind}: {error}") from error


def kinds_of(*urgencies: Urgency) -> tuple[str, ...]:
    """Return the kinds of these urgencies."""
    return tuple(name for name, kind in KINDS.items() if kind.spec.urgency in urgencies)
