"""What a robot asks of a release: the exact rule, case by case, without any link."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gymnast_core.errors import ConfigError, CorruptError
from gymnast_core.evaluation.gate import GateTest
from gymnast_core.records.gate_record import GateRecord
from gymnast_core.records.gate_rule import (
    DAY_S,
    Gated,
    GateNote,
    GateOverride,
    GateRule,
    GateSeal,
    NotGatedError,
    RunsHere,
    note_of,
    still_good,
)

NOW = 1_900_000_000_000_000_000
HERE = RunsHere("policy-now", {"policy-old"}, {"policy-now", "policy-old", "policy-first"}, "lab")
RECORD = GateRecord(
    candidate="policy-new", incumbent="policy-now", simulator="pybullet 3.2.7", seeds=tuple(range(20)), n_pairs=20,
    candidate_successes=15, incumbent_successes=15, violations=0, decision="passed", reason="not worse", margin=0.1,
    made_ns=NOW - 10_000, code_version="0.2.0", randomisation={"test": GateTest().to_json()},
)  # fmt: skip
WORD = GateOverride("root", "admin", "the simulator cannot show the new gripper", "no gate was run")


def seal_of(record_: GateRecord, **changes) -> GateSeal:
    return replace(GateSeal(record_.id, record_.digest, len(record_.to_bytes()), "lab"), **changes)


def gated(record: GateRecord | None = RECORD, **changes) -> Gated:
    return replace(Gated("policy-new", "release", record and seal_of(record), None, NOW - 5_000), **changes)


def note(
    record: GateRecord | None = RECORD, rule: GateRule | None = None, here: RunsHere = HERE, **changes
) -> GateNote:
    data = None if record is None else record.to_bytes()
    return note_of(rule or GateRule(), gated(record, **changes), data, here, NOW)


@pytest.mark.parametrize("incumbent", ["policy-now", "policy-old"])
def test_a_record_against_what_runs_here_or_an_ancestor_of_it_passes(incumbent):
    record = replace(RECORD, incumbent=incumbent)
    assert note(record) == GateNote("passed", record.id)


def test_a_first_policy_is_held_against_none_only_where_none_is_in_force():
    first = replace(RECORD, incumbent="", incumbent_successes=0)
    assert note(first, here=RunsHere("", tenant="lab")).how == "passed"
    with pytest.raises(NotGatedError, match="made against no other policy; this robot runs policy-now"):
        note(first)


REFUSED = {
    "of another candidate": (replace(RECORD, candidate="policy-other"), {}, "is of policy-other, not of policy-new"),
    "against a stranger": (replace(RECORD, incumbent="policy-x"), {}, "no successor of that: gate it against"),
    "failed": (replace(RECORD, decision="failed", reason="it oscillates"), {}, "says failed: it oscillates"),
    "of another tenant": (RECORD, {"seal": seal_of(RECORD, tenant="rivals")}, "is of tenant 'rivals'"),
    "under another id": (RECORD, {"seal": seal_of(RECORD, record="gate-00")}, "is not gate-00"),
    "with another digest": (RECORD, {"seal": seal_of(RECORD, digest="0" * 64)}, "which its release names"),
    "not fetched": (None, {"seal": seal_of(RECORD)}, "which its release names"),
    "too old": (replace(RECORD, made_ns=NOW - int(31 * DAY_S * 1e9)), {}, "31.0 days old, this robot accepts 30.0"),
    "made after its release": (RECORD, {"published_ns": NOW - 20_000}, "made after the release"),
    "by a weaker rule": (
        replace(RECORD, randomisation={"test": GateTest(min_pairs=1).to_json()}),
        {},
        "by a weaker rule than the usual",
    ),
    "by no rule": (replace(RECORD, randomisation={"test": {"luck": 1}}), {}, "by a weaker rule than the usual"),
    "none": (None, {}, "without a gate record, which this robot requires"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_by_name_warned_of_or_ignored(name):
    record, changes, said = REFUSED[name]
    with pytest.raises(NotGatedError, match=said):
        note(record, **changes)
    warned = note(record, GateRule("warn"), **changes)
    assert warned.how == "warned"
    assert note(record, GateRule("off"), **changes).how == "off"


@pytest.mark.parametrize("name", REFUSED)
def test_an_administrators_word_stands_in_where_the_robot_allows_it(name):
    record, changes, _ = REFUSED[name]
    by_word = note(record, **changes, override=WORD)
    assert (by_word.how, by_word.by, by_word.reason) == ("override", "root", WORD.reason)
    with pytest.raises(NotGatedError):
        note(record, GateRule(overrides=False), **changes, override=WORD)
    with pytest.raises(NotGatedError, match="came by an override, which this robot does not accept"):
        note(None, GateRule(overrides=False), override=WORD)


def test_a_passed_record_needs_no_override_and_shows_none():
    assert note(override=WORD).how == "passed"


def test_going_back_to_what_ran_here_needs_no_record_and_to_anything_else_does():
    for name in ("policy-old", "policy-first", "policy-now"):
        assert note(None, checkpoint_id=name, kind="rollback").how == "ran"
    with pytest.raises(NotGatedError):
        note(None, checkpoint_id="policy-elsewhere", kind="rollback")
    for kind in ("release", "promotion"):
        with pytest.raises(NotGatedError):
            note(None, checkpoint_id="policy-old", kind=kind)
        assert note(None, checkpoint_id="policy-now", kind=kind).how == "ran", "nothing changes on the arm"


def test_what_was_taken_in_under_a_looser_setting_is_asked_again():
    strict, notes = GateRule(), {how: GateNote(how) for how in ("passed", "override", "warned", "off")}
    assert not still_good(strict, notes["passed"], "policy-new", HERE)
    assert not still_good(strict, notes["override"], "policy-new", HERE)
    assert "by an override" in still_good(GateRule(overrides=False), notes["override"], "policy-new", HERE)
    assert "with the gate off" in still_good(strict, notes["off"], "policy-new", HERE)
    assert "with a warning" in still_good(strict, notes["warned"], "policy-new", HERE)
    assert "before this robot asked" in still_good(strict, None, "policy-new", HERE)
    assert not still_good(strict, None, "policy-now", HERE), "what drives is not taken out of force"
    assert not still_good(strict, None, "policy-old", HERE), "a way back stays open"
    assert not still_good(GateRule("warn"), None, "policy-new", HERE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GateRule("maybe"),  # type: ignore[arg-type]
        lambda: GateRule(max_age_s=0.0),
        lambda: GateRule(max_age_s=float("nan")),
    ],
)
def test_a_setting_that_is_none_is_refused(make):
    with pytest.raises(ConfigError):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: seal_of(RECORD, digest="../../etc/passwd".ljust(64, "x")),
        lambda: seal_of(RECORD, digest=7),
        lambda: seal_of(RECORD, size=1 << 40),
        lambda: seal_of(RECORD, size=True),
        lambda: seal_of(RECORD, tenant=""),
        lambda: replace(WORD, by=""),
        lambda: replace(WORD, reason="  "),
        lambda: replace(WORD, reason="x" * 5000),
        lambda: replace(WORD, role=None),
    ],
)
def test_seals_and_overrides_that_make_no_sense_are_refused(make):
    with pytest.raises(CorruptError):
        make()
