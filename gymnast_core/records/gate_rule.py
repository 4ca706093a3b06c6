"""What a robot asks of a release before it takes it in: a gate record that fits, or an administrator's signed override.

The trainer asks the same question beforehand, so that it gates what a robot would refuse.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from blake3 import blake3

from gymnast_core.bounds import checked_text
from gymnast_core.errors import CheckpointError, ConfigError, CorruptError
from gymnast_core.evaluation.gate import GateTest
from gymnast_core.json_values import number
from gymnast_core.records.gate_record import MOST_GATE_BYTES, GateRecord
from gymnast_core.text import is_digest

GateMode = Literal["required", "warn", "off"]
GATE_MODES: tuple[GateMode, ...] = ("required", "warn", "off")
HowGated = Literal["passed", "override", "ran", "warned", "off"]
HOW_GATED: tuple[HowGated, ...] = ("passed", "override", "ran", "warned", "off")
DAY_S = 86_400.0
MAX_AGE_DAYS = 30.0
MOST_REASON = 1000
"""Characters of an override's reason."""
_SECOND_NS = 1_000_000_000
_NOT_MORE = ("margin", "alpha", "ceiling")
_NOT_LESS = ("alpha_violations", "doubt", "floor", "min_pairs", "max_pairs")
"""Settings of the usual rule that a record's may exceed in neither direction: that would pass more."""


class NotGatedError(CheckpointError):
    """A release came without a gate record that this robot accepts."""


@dataclass(frozen=True)
class GateSeal:
    """A gate record as a release names it; the record itself is a blob.

    Attributes:
        record: its id.
        digest: hex BLAKE3 of its canonical JSON.
        size: bytes of that.
        tenant: whose trainer keeps it.
    """

    record: str
    digest: str
    size: int
    tenant: str

    def __post_init__(self) -> None:
        """Check what was read."""
        texts = (self.record, self.digest, self.tenant)
        if not all(isinstance(text, str) and 0 < len(text) <= 256 for text in texts):
            raise CorruptError(f"a gate record is named by id, digest and tenant, got {str(texts)[:120]}")
        if not is_digest(self.digest):
            raise CorruptError(f"{self.digest[:80]!r} is no digest")  # it names a file on the robot
        if type(self.size) is not int or not 0 < self.size <= MOST_GATE_BYTES:
            raise CorruptError(f"a gate record of {self.size!r} bytes; at most {MOST_GATE_BYTES} are accepted")


@dataclass(frozen=True)
class GateOverride:
    """An administrator's word in place of a passed gate, signed as part of the release.

    Attributes:
        by: name in the certificate or login.
        role: as there.
        reason: why.
        found: what the gate had said by then: a failed record's reason, or that none was run.
    """

    by: str
    role: str
    reason: str
    found: str

    def __post_init__(self) -> None:
        """Check what was read."""
        for name in ("by", "role", "reason", "found"):
            checked_text(getattr(self, name), f"{name} of an override", MOST_REASON)
        if not self.by or not self.reason.strip():
            raise CorruptError("an override must name who and why")


@dataclass(frozen=True)
class GateRule:
    """A robot's setting.

    Attributes:
        mode: "required" refuses what has no fitting record; "warn" takes it in and reports it; "off" asks for none.
        overrides: whether an administrator's signed override stands in for a record.
        max_age_s: an older record no longer counts.

    Raises:
        ConfigError: a mode that does not exist, or an age that is none.
    """

    mode: GateMode = "required"
    overrides: bool = True
    max_age_s: float = MAX_AGE_DAYS * DAY_S

    def __post_init__(self) -> None:
        """Check the values."""
        if self.mode not in GATE_MODES:
            raise ConfigError(f"gate {self.mode!r} is none of {', '.join(GATE_MODES)}; the default is required")
        if not self.max_age_s > 0:
            raise ConfigError(f"a gate record's greatest age must be above 0 s, got {self.max_age_s}")


REQUIRED = GateRule()
"""What a robot asks unless somebody set it otherwise."""


@dataclass(frozen=True)
class GateNote:
    """How a checkpoint came past the gate, as the robot keeps and reports it.

    Attributes:
        how: "passed" with a record; "override" by an administrator; "ran": ordered back to what had been in force
            here; "warned" and "off" without one, by the robot's own setting.
        record: id of the record; empty without one.
        by: of an override.
        reason: of an override; or what was wrong, of what was only warned of.
    """

    how: HowGated
    record: str = ""
    by: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        """Check what was read."""
        if self.how not in HOW_GATED or not all(isinstance(one, str) for one in (self.record, self.by, self.reason)):
            raise TypeError(f"no note of a gate: {self!r}")


@dataclass(frozen=True)
class Gated:
    """What a release says for itself at the gate.

    Attributes:
        checkpoint_id: what it releases.
        kind: release, promotion or rollback.
        seal: the record it names; None without one.
        override: in its place; None without one.
        published_ns: wall clock of the trainer.
    """

    checkpoint_id: str
    kind: str
    seal: GateSeal | None
    override: GateOverride | None
    published_ns: int


@dataclass(frozen=True)
class RunsHere:
    """What a robot runs.

    Attributes:
        current: in force; empty where nothing is.
        before: what the one in force succeeded or was made from: its ancestors by the manifests that are here, and
            what was in force here before it.
        ran: ids that were in force here and were not turned down afterwards, or came with the robot.
        tenant: of the robot's certificate; empty without one.
    """

    current: str
    before: Collection[str] = ()
    ran: Collection[str] = ()
    tenant: str = ""


def note_of(rule: GateRule, release: Gated, record: bytes | None, there: RunsHere, now_ns: int) -> GateNote:
    """Return how a release passes this robot's gate.

    The exact rule, where a record is asked for: the signed release names it by digest; it is of this candidate, of the
    robot's tenant, and says passed with figures that agree; it was made against the checkpoint in force here, one
    that this succeeded here, or an ancestor of it (against none only where none is in force); before the release, and
    not longer than max_age_s ago. Going back to what was in force here needs none: it proved itself on this very arm,
    and a way back must not wait for a simulator. Nor does what is in force already.

    Args:
        rule: of the robot.
        release: whose signature was verified.
        record: the blob that its seal names; None where it was not fetched.
        there: what the robot runs.
        now_ns: the robot's wall clock.

    Raises:
        NotGatedError: the robot refuses it; the message says what is missing and what helps.
    """
    name = release.checkpoint_id
    proved = name == there.current or (release.kind == "rollback" and name in there.ran)
    if rule.mode == "off":
        return GateNote("ran") if proved else GateNote("off", release.seal.record if release.seal else "")
    try:
        return GateNote("passed", _checked(rule, release, record, there, now_ns).id)
    except NotGatedError as error:
        if proved:
            return GateNote("ran")
        if release.override is not None and rule.overrides:
            return GateNote("override", by=release.override.by, reason=release.override.reason)
        if rule.mode == "warn":
            return GateNote("warned", release.seal.record if release.seal else "", reason=str(error))
        raise


def _checked(rule: GateRule, release: Gated, data: bytes | None, there: RunsHere, now_ns: int) -> GateRecord:
    """The record of a release, which fits."""
    name, seal = release.checkpoint_id, release.seal
    if seal is None:
        refused = " by an override, which this robot does not accept," if release.override is not None else ""
        raise NotGatedError(
            f"release of {name} came{refused} without a gate record, which this robot requires; have its trainer gate "
            "it (gymnast operate gate), update a trainer from before gates, or set gate on this robot"
        )
    if data is None or blake3(data).hexdigest() != seal.digest:
        raise NotGatedError(f"the gate record of {name} is not {seal.digest[:16]}..., which its release names")
    try:
        record = GateRecord.from_bytes(data)
    except CheckpointError as error:
        raise NotGatedError(str(error)) from error
    if wrong := misfit(record, seal, name, there) or _untimely(rule, record, release, now_ns):
        raise NotGatedError(f"gate record {record.id} {wrong}")
    return record


def misfit(record: GateRecord, seal: GateSeal, candidate: str, there: RunsHere) -> str:
    """What is wrong with a record for a candidate on a robot, whatever its age; empty when nothing is."""
    if record.id != seal.record:
        return f"is not {seal.record}, which the release names"
    if record.candidate != candidate:
        return f"is of {record.candidate}, not of {candidate}"
    if there.tenant and seal.tenant != there.tenant:
        return f"is of tenant {seal.tenant!r}, this robot is of {there.tenant!r}"
    if not record.passed:
        return f"says failed: {record.reason}"
    if by_weaker_rule(record):
        return "was decided by a weaker rule than the usual one (its job's config); gate it again without that"
    if there.current and record.incumbent not in (there.current, *there.before):
        against = record.incumbent or "no other policy"
        return (
            f"was made against {against}; this robot runs {there.current}, which is no successor of that: "
            "gate it against what this robot runs"
        )
    return ""


def by_weaker_rule(record: GateRecord) -> bool:
    """Whether a gate was decided by a rule that passes more than the usual one: whoever may submit jobs chooses it."""
    asked, usual = record.randomisation.get("test"), GateTest().to_json()
    if not isinstance(asked, Mapping) or set(asked) != {*_NOT_MORE, *_NOT_LESS}:
        return True
    try:
        own = {name: number(value) for name, value in asked.items()}
        below = all(own[name] <= number(usual[name]) for name in _NOT_MORE)
        return not (below and all(own[name] >= number(usual[name]) for name in _NOT_LESS))
    except CorruptError:
        return True


def _untimely(rule: GateRule, record: GateRecord, release: Gated, now_ns: int) -> str:
    age_s = (now_ns - record.made_ns) / _SECOND_NS
    if record.made_ns > release.published_ns:
        return "was made after the release that names it"
    if age_s > rule.max_age_s:
        return (
            f"is {age_s / DAY_S:.1f} days old, this robot accepts {rule.max_age_s / DAY_S:.1f}: gate it again, or set "
            "this robot's clock"
        )
    return ""


def still_good(rule: GateRule, note: GateNote | None, checkpoint_id: str, there: RunsHere) -> str:
    """Why what lies here, taken in earlier, must not come into force under this rule; empty when it may.

    A robot that was restarted with a stricter setting, or updated from a version without gates, asks again.
    """
    if rule.mode != "required" or checkpoint_id == there.current or checkpoint_id in there.ran:
        return ""
    if note is None:
        return "it was taken in before this robot asked for gate records; have it released again"
    if note.how == "passed" or (note.how == "override" and rule.overrides):
        return ""
    said = {"override": "by an override", "warned": "with a warning", "off": "with the gate off"}
    return f"it was taken in {said.get(note.how, 'without a gate record')}; have it released again with a gate record"
