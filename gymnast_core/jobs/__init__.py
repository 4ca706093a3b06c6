"""Jobs of the trainer, typed: what each kind is asked for with (a spec), and what it leaves behind (a result).

A spec travels as its kind and JSON; each reader checks it against the registry. Nothing here computes.
"""

from typing import TYPE_CHECKING

from gymnast_core.lazy import parts

if TYPE_CHECKING:
    from gymnast_core.jobs.adapt import AdaptResult, AdaptSettings, AdaptSpec
    from gymnast_core.jobs.distil import DistilResult, DistilSettings, DistilSpec
    from gymnast_core.jobs.gate import GateResult, GateSettings, GateSpec
    from gymnast_core.jobs.imitate import ImitateResult, ImitateSettings, ImitateSpec
    from gymnast_core.jobs.improve import ImproveResult, ImproveSettings, ImproveSpec
    from gymnast_core.jobs.plan import PlanResult, PlanSpec
    from gymnast_core.jobs.registry import KINDS, Kind, kind_of, kinds_of, spec_of
    from gymnast_core.jobs.replay import ReplayResult, ReplaySpec
    from gymnast_core.jobs.scene import PreviewResult, PreviewSpec, TrustResult, TrustSpec
    from gymnast_core.jobs.spec import Candidate, JobResult, JobSpec, TrainingResult, TrainingSpec

__all__ = [
    "KINDS", "AdaptResult", "AdaptSettings", "AdaptSpec", "Candidate", "DistilResult", "DistilSettings", "DistilSpec",
    "GateResult", "GateSettings", "GateSpec", "ImitateResult", "ImitateSettings", "ImitateSpec", "ImproveResult",
    "ImproveSettings", "ImproveSpec", "JobResult", "JobSpec", "Kind", "PlanResult", "PlanSpec", "PreviewResult",
    "PreviewSpec", "ReplayResult",
    "ReplaySpec", "TrainingResult", "TrainingSpec", "TrustResult", "TrustSpec", "kind_of", "kinds_of", "spec_of",
]  # fmt: skip

__getattr__ = parts(
    __name__,
    {
        "adapt": ("AdaptResult", "AdaptSettings", "AdaptSpec"),
        "distil": ("DistilResult", "DistilSettings", "DistilSpec"),
        "gate": ("GateResult", "GateSettings", "GateSpec"),
        "imitate": ("ImitateResult", "ImitateSettings", "ImitateSpec"),
        "improve": ("ImproveResult", "ImproveSettings", "ImproveSpec"),
        "plan": ("PlanResult", "PlanSpec"),
        "registry": ("KINDS", "Kind", "kind_of", "kinds_of", "spec_of"),
        "replay": ("ReplayResult", "ReplaySpec"),
        "scene": ("PreviewResult", "PreviewSpec", "TrustResult", "TrustSpec"),
        "spec": ("Candidate", "JobResult", "JobSpec", "TrainingResult", "TrainingSpec"),
    },
)
