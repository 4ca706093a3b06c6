"""The gate record: what an independent simulator found of a candidate, before anybody offers it to an arm.

A job of kind `gate` makes it (paired starts, candidate beside incumbent, randomised physics); the trainer keeps it in
the graph of provenance; a signed release names it by digest, and the robot reads it before it stages the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from blake3 import blake3

from gymnast_core.bounds import checked_text, parsed_object
from gymnast_core.errors import CheckpointError, CorruptError
from gymnast_core.json_values import JsonObject
from gymnast_core.records.manifest import canonical_json

GateDecision = Literal["passed", "failed"]
MOST_GATE_BYTES = 256 << 10
"""Of a record; one of a thousand seeds has about 12 KiB."""
_MOST_CHARACTERS = 4096
_ID_HEX = 16


@dataclass(frozen=True)
class GateRecord:
    """One gate, decided. Immutable; its id and digest are those of its canonical JSON.

    Attributes:
        candidate: id of the checkpoint that was tried.
        incumbent: id of the one it was held against; "" for a first policy, which is held against none.
        simulator: engine and version, e.g. "pybullet 3.2.7".
        seeds: of the paired starts, in the order they were run; both policies ran every one.
        n_pairs: how many that were; a sequential rule may stop before the most that was allowed.
        candidate_successes: of n_pairs.
        incumbent_successes: of n_pairs; 0 without an incumbent.
        violations: of the envelope, by the candidate, over all pairs.
        decision: "passed" or "failed".
        reason: why, in words.
        margin: success rate that the candidate may at most be worse by, 0..1.
        randomisation: what was varied and how far, JSON values.
        made_ns: wall clock, when it was decided.
        code_version: of the program that ran it.

    Raises:
        CheckpointError: a value that makes no sense, or a decision that the figures contradict.
    """

    candidate: str
    incumbent: str
    simulator: str
    seeds: tuple[int, ...]
    n_pairs: int
    candidate_successes: int
    incumbent_successes: int
    violations: int
    decision: GateDecision
    reason: str
    margin: float
    made_ns: int
    code_version: str
    randomisation: JsonObject = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every value, and the decision against the figures."""
        try:
            self._check_values()
        except (CorruptError, TypeError) as error:
            raise CheckpointError(f"gate record of {str(self.candidate)[:80]!r}: {error}") from error
        if self.passed and (why := self._contradiction()):
            raise CheckpointError(
                f"gate record of {self.candidate!r} says passed, but {why}; it was not made by a gate"
            )

    def _check_values(self) -> None:
        for name in ("candidate", "incumbent", "simulator", "reason", "code_version"):
            checked_text(getattr(self, name), name, _MOST_CHARACTERS)
        if not self.candidate or not self.simulator:
            raise CorruptError("it names no candidate or no simulator")
        if self.decision not in get_args(GateDecision):
            raise CorruptError(f"decision {self.decision!r} is none of {', '.join(get_args(GateDecision))}")
        counts = ("n_pairs", "candidate_successes", "incumbent_successes", "violations", "made_ns")
        for name, value in ((name, getattr(self, name)) for name in counts):
            if type(value) is not int or value < 0:
                raise CorruptError(f"{name} must be a whole number of at least 0, got {value!r}")
        if not all(type(seed) is int for seed in self.seeds) or len(self.seeds) != self.n_pairs:
            raise CorruptError(f"it lists {len(self.seeds)} seeds, which must be {self.n_pairs} whole numbers")
        if max(self.candidate_successes, self.incumbent_successes) > self.n_pairs:
            raise CorruptError(f"more successes than its {self.n_pairs} pairs")
        if not isinstance(self.margin, (int, float)) or isinstance(self.margin, bool):
            raise CorruptError(f"margin must be a number, got {self.margin!r}")
        if not (math.isfinite(self.margin) and 0 <= self.margin <= 1):
            raise CorruptError(f"margin must be between 0 and 1, got {self.margin}")
        if not isinstance(self.randomisation, Mapping):
            raise CorruptError(f"randomisation must be an object, got {type(self.randomisation).__name__}")

    def _contradiction(self) -> str:
        """Why these figures cannot have passed; empty where they may have."""
        if not self.n_pairs:
            return "no pair was run"
        if self.violations:
            return f"the candidate left the envelope {self.violations} times"
        worse = (self.incumbent_successes - self.candidate_successes) / self.n_pairs
        if worse > self.margin + 1e-9:
            return f"the candidate is worse by {worse:.3f}, {self.margin:.3f} is allowed"
        return ""

    @property
    def passed(self) -> bool:
        """Whether the candidate may go to an arm."""
        return self.decision == "passed"

    @property
    def digest(self) -> str:
        """Hex BLAKE3 of to_bytes(): its address as a blob, and what a release signs."""
        return blake3(self.to_bytes()).hexdigest()

    @property
    def id(self) -> str:
        """Its name in the graph: "gate-" and the first 16 hex digits of the digest."""
        return f"gate-{self.digest[:_ID_HEX]}"

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(asdict(self))

    @staticmethod
    def of(values: object) -> GateRecord:
        """Return the record of JSON values, e.g. of a job's result; raises as from_bytes()."""
        return GateRecord.from_bytes(canonical_json(values))

    @staticmethod
    def from_bytes(data: bytes) -> GateRecord:
        """Parse and check to_bytes().

        Raises:
            CheckpointError: something else, or values that make no sense.
        """
        try:
            fields = parsed_object(data.decode(), "gate record", MOST_GATE_BYTES)
            return GateRecord(**{**fields, "seeds": tuple(fields["seeds"])})
        except (UnicodeDecodeError, TypeError, KeyError, CorruptError) as error:
            raise CheckpointError(f"unreadable gate record: {error}") from error


@dataclass(frozen=True)
class GateRun:
    """A gate that runs, or waits for a worker.

    Attributes:
        job_id: of its job.
        incumbent: what the candidate is held against; empty for a first policy.
        robots: that run that.
    """

    job_id: str
    incumbent: str
    robots: tuple[str, ...]
