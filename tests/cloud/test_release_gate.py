"""A gate as a job: in a process of its own, resumed after a kill, cancelled, and what its record says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud_trainer.jobs.job import Job
from cloud_trainer.jobs.release_gate import PAIRS, release_gate
from cloud_trainer.jobs.runner import JobInputs, run_in_process
from cloud_trainer.progress import CancelledError, ProgressEvent
from gymnast_core.errors import ConfigError
from gymnast_core.jobs import GateResult, GateSettings, GateSpec, spec_of
from gymnast_core.records.gate_record import GateRecord
from gymnast_core.records.manifest import read_manifest

pytest.importorskip("pybullet", reason="PyBullet has no wheel for this Python; its extra, gate, would build it")

POLICY = Path(__file__).parents[2] / "checkpoints" / "policy"
QUICK = {"margin": 0.9, "min_pairs": 4, "max_pairs": 8}
"""Alike policies pass after four pairs."""


def spec(**changes: object) -> GateSpec:
    name = read_manifest(POLICY).id
    made = spec_of("gate", {"policy": name, "incumbent": name, "config": QUICK, **changes})
    assert isinstance(made, GateSpec)
    return made


def job(
    folder: Path, asked: GateSpec, *, cancelled: Callable[[], bool] = lambda: False, events: list[ProgressEvent]
) -> Job[GateSpec]:
    folder.mkdir(exist_ok=True)
    places = {name: POLICY for name in asked.checkpoints}
    return Job(asked, places, (), folder, events.append, cancelled)


def record_of(result: GateResult) -> GateRecord:
    return GateRecord.from_bytes(json.dumps(dict(result.record)).encode())


def test_a_worker_process_makes_a_record_that_passes(tmp_path: Path):
    events: list[tuple[str, dict[str, object]]] = []
    inputs = JobInputs("gate-1", spec(), (), lambda name: POLICY)
    result = run_in_process(
        inputs, tmp_path, emit=lambda kind, data: events.append((kind, dict(data))), cancelled=lambda: False
    )
    assert isinstance(result, GateResult)
    record = record_of(result)
    assert record.passed
    assert record.candidate == record.incumbent == read_manifest(POLICY).id
    assert (record.n_pairs, record.violations, record.seeds[0]) == (4, 0, 2_990_000)
    assert record.simulator.startswith("pybullet ")
    assert record.randomisation["latency_steps"] == [0, 2]
    assert [kind for kind, _ in events][-1] == "result"
    assert any(kind == "progress" and data["total"] == 8 for kind, data in events)


def test_a_gate_that_was_cancelled_goes_on_and_decides_alike(tmp_path: Path):
    whole = release_gate(job(tmp_path / "whole", spec(), events=[]))
    folder, asked = tmp_path / "cut", iter([False, False, True])
    with pytest.raises(CancelledError, match="after 2 pairs"):
        release_gate(job(folder, spec(), cancelled=lambda: next(asked), events=[]))
    with (folder / PAIRS).open("a") as stream:
        stream.write('{"task": "lift the red c')  # a kill in the middle of a line
    rest = release_gate(job(folder, spec(), events=[]))
    when = {"made_ns": 0}
    assert {**rest.record, **when} == {**whole.record, **when}
    assert len((folder / PAIRS).read_text().splitlines()) == 4


def test_a_first_policy_has_no_incumbent(tmp_path: Path):
    first = spec(incumbent="", config={"min_pairs": 1, "max_pairs": 2, "floor": 0.999})
    record = record_of(release_gate(job(tmp_path / "first", first, events=[])))
    assert (record.incumbent, record.decision, record.incumbent_successes) == ("", "failed", 0)


def test_an_unknown_simulator_names_those_there_are(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"adds 'hammer' to gymnast.gates; there are \['bullet'"):
        release_gate(job(tmp_path / "x", spec(config={"simulator": "hammer"}), events=[]))


def test_settings_that_make_no_test_are_refused_where_they_are_given():
    with pytest.raises(ConfigError, match="min_pairs <= max_pairs"):
        GateSettings(min_pairs=20, max_pairs=10)
