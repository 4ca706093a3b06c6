"""A gate as a job: pairs in a second simulator until its rule decides, and the record that a release is signed with.

Every pair is kept as it ends, so a job that was killed goes on with the next one and makes the same decision.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from cloud_trainer.jobs.job import Job
from cloud_trainer.progress import CancelledError, ProgressEvent
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.gate import GateFinding, GateSimulator, run_gate
from gymnast_core.evaluation.gate_tally import KINDS, GateAttempt, GatePair, GateTally
from gymnast_core.evaluation.statistics import PairCounts
from gymnast_core.extensions import GATES, extension
from gymnast_core.jobs import GateResult, GateSpec
from gymnast_core.json_values import JsonObject
from gymnast_core.policies import serve_policy
from gymnast_core.records.gate_record import GateRecord
from gymnast_core.records.manifest import read_manifest
from gymnast_core.robots import one_arm, robot_named
from gymnast_core.seeds import take
from gymnast_core.spec import WIDOWX_250S, RobotSpec

PAIRS = "pairs.jsonl"


def release_gate(job: Job[GateSpec]) -> GateResult:
    """Hold a policy against the running one and return the record, passed or failed.

    Raises:
        ConfigError: no such simulator is installed here, it has no such arm, or the policies are of two arms.
        CheckpointError: a checkpoint is no policy.
        CancelledError: asked to stop; the job folder has every pair so far.
    """
    test = job.spec.config.test()
    robot = robot_named(one_arm(read_manifest(folder).robot_model for folder in job.checkpoints.values()))
    simulator = _simulator(job.spec.config.simulator, robot)
    candidate = serve_policy(job.checkpoints["policy"])
    incumbent = serve_policy(job.checkpoints["incumbent"]) if job.spec.incumbent else None
    file = job.folder / PAIRS

    def keep(pair: GatePair) -> None:
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(_as_json(pair)) + "\n")

    def goes_on(tally: GateTally) -> None:
        if job.cancelled():
            raise CancelledError(f"stopped after {tally.n} pairs; the same job goes on from there")
        if tally.n % 5 == 0:
            job.progress(ProgressEvent("gate", tally.n, test.max_pairs, _metrics(tally)))

    try:
        finding, pairs = run_gate(
            simulator, candidate, incumbent, test, take("gate", job.spec.seed, test.max_pairs),
            pairs=_kept(file, test.max_pairs), keep=keep, goes_on=goes_on,
        )  # fmt: skip
    finally:
        simulator.close()
    job.progress(ProgressEvent("gate", len(pairs), len(pairs), _metrics(GateTally(pairs))))
    return GateResult(record=dict(asdict(_record(job, simulator, finding, pairs))), folder=str(job.folder))


def _simulator(name: str, robot: RobotSpec) -> GateSimulator:
    """The second simulator, with this arm: one that knows the WidowX alone is called without arguments."""
    make: Callable[..., GateSimulator] = extension(GATES, name)
    if robot is WIDOWX_250S:
        return make()
    if "robot" not in inspect.signature(make).parameters:
        raise ConfigError(f"simulator {name!r} has a {WIDOWX_250S.name} alone, and the policy is for a {robot.name}")
    return make(robot=robot)


def _record(
    job: Job[GateSpec], simulator: GateSimulator, finding: GateFinding, pairs: Sequence[GatePair]
) -> GateRecord:
    tally = GateTally(pairs)
    counts = tally.success
    left: JsonObject = {str(kind): _both(tally.left(kind)) for kind in KINDS}
    names = {role: read_manifest(job.checkpoints[role]).id for role in job.spec.checkpoints}
    return GateRecord(
        candidate=names["policy"], incumbent=names.get("incumbent", ""), simulator=simulator.name,
        seeds=tuple(pair.seed for pair in pairs), n_pairs=len(pairs), candidate_successes=counts.wins + counts.both,
        incumbent_successes=counts.losses + counts.both, violations=finding.violations,
        decision="passed" if finding.decision == "passed" else "failed", reason=finding.reason,
        margin=job.spec.config.margin, made_ns=time.time_ns(), code_version=version("gymnast_ros"),
        randomisation={
            **simulator.randomisation, "test": job.spec.config.test().to_json(), "left_the_envelope": left,
        },
    )  # fmt: skip


def _both(counts: PairCounts) -> list[int]:
    """Starts of the candidate and of the incumbent."""
    return [counts.wins + counts.both, counts.losses + counts.both]


def _metrics(tally: GateTally) -> dict[str, float]:
    mine, theirs = (done / max(tally.n, 1) for done in _both(tally.success))
    excess = {kind: tally.left(kind).wins - tally.left(kind).losses for kind in KINDS}
    return {"candidate": mine, "incumbent": theirs, **{f"{kind}_excess": float(more) for kind, more in excess.items()}}


def _as_json(pair: GatePair) -> dict[str, object]:
    attempts = {"candidate": pair.candidate, "incumbent": pair.incumbent}
    shown = {
        name: None if each is None else {"succeeded": each.succeeded, "violations": sorted(each.violations)}
        for name, each in attempts.items()
    }
    return {"task": pair.task, "seed": pair.seed, **shown}


def _kept(file: Path, most: int) -> list[GatePair]:
    """Pairs of a run that was interrupted; a line that was cut off by the end is run again."""
    if not file.is_file():
        return []
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return [_from_json(json.loads(line)) for line in lines[:most]]


def _from_json(row: dict[str, object]) -> GatePair:
    def attempt(name: str) -> GateAttempt | None:
        each = row[name]
        if not isinstance(each, dict):
            return None
        return GateAttempt(bool(each["succeeded"]), frozenset(kind for kind in KINDS if kind in each["violations"]))

    candidate = attempt("candidate")
    assert candidate is not None, f"a pair without its candidate: {row}"
    return GatePair(str(row["task"]), int(str(row["seed"])), candidate, attempt("incumbent"))
