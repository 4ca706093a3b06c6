"""Real processes under fire: ours lose nothing, a naive pair does, and planted bugs are found."""

import pytest

from tests.faults import mutants
from tests.faults.run import FAULTS, MAX_WIRE_RATIO, Report, run, run_rounds

FAULTS_IN_CI, FAULTS_AT_NIGHT = 100, 400
PROVOKED_BY = {
    "no_fsync": ["power_cut"] * 4,
    "early_acknowledgement": ["kill_trainer", "bit_flip"] * 4,
    "no_integrity": ["bit_flip"] * 6,
    "no_dedupe": ["reset", "kill_trainer"] * 6,
    "acknowledgement_before_catalogue": ["reset"],
    "full_disk_ignored": ["disk_full"] * 3,
    "delete_before_acknowledgement": ["kill_trainer", "bit_flip"] * 4,
    "dropped_when_refused": ["disk_full", "bit_flip"] * 2,
    "broken_link_taken_for_success": ["reset"] * 2,
    "no_spool_fsync": ["power_cut"] * 3,
}


@pytest.mark.parametrize("faults", [FAULTS_IN_CI, pytest.param(FAULTS_AT_NIGHT, marks=pytest.mark.slow)])
def test_a_mixture_of_faults_loses_duplicates_and_corrupts_nothing(faults):
    report = run(faults, seed=2026, patience_s=60)
    assert report.clean, report
    assert sum(report.faults.values()) == faults
    assert set(report.faults) == set(FAULTS), "each kind at least once"
    assert report.enqueued > faults // 2
    assert report.wire_ratio <= MAX_WIRE_RATIO, report


def test_a_naive_uploader_fails_the_same_kind_of_run():
    report = run(["bit_flip", "reset", "power_cut", "disk_full"] * 3, seed=2026, naive=True, patience_s=3, flow_s=0.5)
    assert report.lost or report.duplicated or report.corrupt, report


def test_every_mutant_has_a_provocation():
    assert set(PROVOKED_BY) == {*mutants.SERVER, *mutants.ROBOT}


@pytest.mark.parametrize("mutant", sorted(PROVOKED_BY))
def test_a_planted_bug_is_found(mutant):
    report = run(
        PROVOKED_BY[mutant], seed=7, mutant=mutant, size=128 << 10, between=512 << 10, patience_s=2.5, flow_s=1.0
    )
    assert not report.clean, report


def test_a_long_run_goes_on_where_it_was_stopped(tmp_path):
    log = tmp_path / "log"
    report = run_rounds(1, 5, log)
    assert report.clean
    assert run_rounds(1, 5, log) == report, "the round in the log was made again"


def test_rounds_add_up():
    first = Report({"reset": 2}, enqueued=3, wire_bytes=110, payload_bytes=100, seconds=1.0, drained=True)
    second = Report({"reset": 1, "bit_flip": 1}, 5, 1, wire_bytes=90, payload_bytes=100, seconds=2.0, drained=True)
    total = Report.sum([first, second])
    assert total == Report(
        {"reset": 3, "bit_flip": 1}, 8, 1, wire_ratio=1.0, seconds=3.0, drained=True, wire_bytes=200, payload_bytes=200
    )
    assert not total.clean
