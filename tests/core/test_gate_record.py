"""A gate record is one byte string with one id, and figures that contradict its decision are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from blake3 import blake3

from gymnast_core.errors import CheckpointError
from gymnast_core.records.gate_record import GateRecord
from gymnast_core.records.manifest import canonical_json

RECORD = GateRecord(
    candidate="policy-00", incumbent="policy-ff", simulator="pybullet 3.2.7", seeds=(7, 8, 9, 10), n_pairs=4,
    candidate_successes=3, incumbent_successes=3, violations=0, decision="passed", reason="not worse", margin=0.1,
    made_ns=1_800_000_000_000_000_000, code_version="0.2.0", randomisation={"friction": [0.3, 0.9]},
)  # fmt: skip


def test_it_comes_back_as_it_was_and_its_id_is_of_its_bytes():
    data = RECORD.to_bytes()
    assert GateRecord.from_bytes(data) == RECORD
    assert RECORD.digest == blake3(data).hexdigest()
    assert RECORD.id == f"gate-{RECORD.digest[:16]}" != replace(RECORD, reason="other").id


@pytest.mark.parametrize(
    "changes",
    [
        {"violations": 1},
        {"candidate_successes": 2},
        {"n_pairs": 0, "seeds": (), "candidate_successes": 0, "incumbent_successes": 0},
    ],
)
def test_figures_that_cannot_have_passed_are_refused_as_passed(changes):
    with pytest.raises(CheckpointError, match="says passed, but"):
        replace(RECORD, **changes)
    assert not replace(RECORD, decision="failed", **changes).passed


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decision": "maybe"}, "none of passed, failed"),
        ({"candidate": ""}, "names no candidate"),
        ({"n_pairs": 5}, "lists 4 seeds"),
        ({"candidate_successes": 5}, "more successes"),
        ({"violations": -1}, "at least 0"),
        ({"violations": True}, "at least 0"),
        ({"margin": 1.5}, "between 0 and 1"),
        ({"margin": "0.1"}, "must be a number"),
        ({"seeds": ["a", 1, 2, 3]}, "whole numbers"),
        ({"randomisation": []}, "must be an object"),
    ],
)
def test_values_that_make_no_sense_are_named(changes, said):
    fields = {**vars(RECORD), **changes}
    with pytest.raises(CheckpointError, match=said):
        GateRecord(**fields)
    with pytest.raises(CheckpointError, match=said):
        GateRecord.from_bytes(canonical_json(fields))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", canonical_json({**vars(RECORD), "more": 1})])
def test_what_is_no_record_is_refused(data):
    with pytest.raises(CheckpointError, match="unreadable gate record"):
        GateRecord.from_bytes(data)
