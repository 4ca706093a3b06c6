"""Gate: hold a policy against the running one in a second simulator, before any arm gets it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from gymnast_core.evaluation.gate import GateTest
from gymnast_core.jobs.spec import JobResult, PolicySpec, Urgency
from gymnast_core.settings import Count, Settings, Texts

_Open = Annotated[float, Field(gt=0, lt=1)]


class GateSettings(Settings):
    """How a gate decides; the rule is gymnast_core.evaluation.gate.GateTest."""

    where: ClassVar[str] = "gate"

    simulator: str = "bullet"
    """Name in the entry points gymnast.gates."""
    margin: _Open = GateTest.margin
    """Success rate that the candidate may at most be worse by."""
    alpha: _Open = GateTest.alpha
    """Largest chance that one that is worse by more passes."""
    alpha_violations: _Open = GateTest.alpha_violations
    """Largest chance that one that leaves the envelope no more often than the incumbent is failed for it."""
    doubt: _Open = GateTest.doubt
    """No pass while the candidate left the envelope more often and chance alone does so more seldom than this."""
    floor: _Open = GateTest.floor
    """Success rate that it must exceed, whatever the incumbent's."""
    ceiling: _Open = GateTest.ceiling
    """Share of starts in which a first policy may leave the envelope, by kind."""
    min_pairs: Count = GateTest.min_pairs
    """No pass before this many pairs."""
    max_pairs: Annotated[int, Field(ge=1, le=5000)] = GateTest.max_pairs
    """What is not passed by then is failed."""

    @model_validator(mode="after")
    def _makes_a_test(self) -> GateSettings:
        self.test()
        return self

    def test(self) -> GateTest:
        """Return the rule."""
        return GateTest(**{name: value for name, value in self.model_dump().items() if name != "simulator"})


class GateSpec(PolicySpec):
    """Hold a policy against the one that runs, in a second simulator."""

    kind: ClassVar[str] = "gate"
    summary: ClassVar[str] = "hold a policy against the running one in a second simulator"
    urgency: ClassVar[Urgency] = "interactive"

    incumbent: str = ""
    """Checkpoint that runs on the arm; empty holds a first policy against floors."""
    offer_to: Texts = ()
    """Robots that the policy is offered to once it has passed."""
    config: GateSettings = Field(default_factory=GateSettings)
    """How it is decided."""

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """See JobSpec."""
        return ("policy", "incumbent") if self.incumbent else ("policy",)


class GateResult(JobResult):
    """What a gate leaves behind; a candidate that failed is a result, no failed job."""

    record: Mapping[str, object] = Field(default_factory=dict)
    """Fields of gymnast_core.records.gate_record.GateRecord."""
