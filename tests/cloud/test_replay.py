"""Every real evaluation is dreamt again, by itself, and never learned from."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest
import torch

from cloud_trainer.flows.replay_watch import ReplayWatch, record_rows
from cloud_trainer.jobs.job import Job
from cloud_trainer.jobs.replay import replay
from cloud_trainer.jobs.runner import Recorded
from cloud_trainer.judge.learned import JudgeConfig, JudgeNetwork, LearnedJudge
from cloud_trainer.judge.thresholds import Thresholds
from cloud_trainer.progress import never, silent
from cloud_trainer.records.ledger import CalibrationLedger
from cloud_trainer.store.database import Database
from cloud_trainer.store.protocols import EpisodeRow
from cloud_trainer.store.sql_jobs import SqlJobStore
from gymnast_core.episodes import write_episode
from gymnast_core.evaluation.purpose import is_measurement
from gymnast_core.jobs import ReplayResult, ReplaySpec
from gymnast_core.policies.processor import use_threads
from gymnast_core.types import Outcome
from tests.cloud.learning_fakes import episode, tiny_policy, tiny_world_model


@pytest.fixture(scope="module")
def job_of(tmp_path_factory):
    """A replay job over eight evaluation episodes."""
    use_threads()
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("replay")
    tiny_world_model().save(folder / "world_model")
    tiny_policy().save(folder / "policy")
    LearnedJudge(JudgeNetwork(JudgeConfig(widths=(4, 4, 4), hidden=8))).save(
        folder / "judge", thresholds=Thresholds(0.5, 0.5)
    )
    files = [write_episode(folder, episode(seed), robot="sim-0") for seed in range(8)]
    recorded = [Recorded(path, episode(seed).outcome.value) for seed, path in enumerate(files)]
    checkpoints = {name: folder / name for name in ("policy", "world_model", "judge")}
    return lambda work: Job(ReplaySpec(policy="p"), checkpoints, recorded, work, silent, never)


def test_a_replay_compares_every_evaluated_start_with_its_dream_once(job_of, tmp_path):
    result = replay(job_of(tmp_path))
    assert sum(row.both + row.real_only for row in result.ledger) == 4  # odd seeds really succeeded
    assert sorted(name for row in result.ledger for name in row.episodes) == [f"fake-{n}" for n in range(8)]
    assert replay(job_of(tmp_path)).ledger == result.ledger
    with closing(Database(f"sqlite:///{tmp_path / 'store.db'}")) as database:
        ledger, page = CalibrationLedger(database), CalibrationLedger(database)
        assert record_rows(ledger, result) == len(result.ledger)
        assert record_rows(ledger, result) == 0, "a job that is run again writes nothing twice"
        assert page.calibration().n == 8, "an open page sees what the trainer wrote"
        assert record_rows(ledger, ReplayResult()) == 0


class Catalogue:
    """Rows in order of arrival."""

    def __init__(self) -> None:
        self.rows: list[EpisodeRow] = []

    def all(self, *, after=0, states=("valid",)):
        return [row for row in self.rows if row.sequence > after and row.state in states]

    def again(self, row):
        return self.rows[row.sequence - 1]

    def change(self, name, **changed):
        (row,) = (row for row in self.rows if row.episode_id == name)
        self.rows[row.sequence - 1] = replace(row, **changed)

    def arrive(self, name, purpose, *, policy="policy-1", outcome=Outcome.SUCCESS, state="valid"):
        row = EpisodeRow(len(self.rows) + 1, "default", name, "sim-0", "d", 1, 0, state)
        self.rows.append(replace(row, outcome=outcome.value, policy_version=policy, metadata={"purpose": purpose}))


@pytest.fixture
def database(tmp_path):
    with closing(Database(f"sqlite:///{tmp_path / 'store.db'}")) as made:
        yield made


@pytest.fixture
def jobs(database):
    return SqlJobStore(database)


@pytest.fixture
def ledger(database):
    return CalibrationLedger(database)


def watch_over(catalogue, jobs, ledger) -> ReplayWatch:
    return ReplayWatch(catalogue, jobs, lambda tenant: ledger, lambda tenant, policy: policy == "policy-1")


def test_an_evaluation_is_replayed_when_it_is_over_and_nothing_else_is_to_do(jobs, ledger):
    catalogue = Catalogue()
    watch = watch_over(catalogue, jobs, ledger)
    catalogue.arrive("ep-1", "evaluate")
    catalogue.arrive("ep-2", "collect")
    catalogue.arrive("ep-3", "evaluate", policy="policy-of-somebody-else")
    catalogue.arrive("ep-4", "evaluate", outcome=Outcome.UNLABELLED)
    assert watch.look() == []
    catalogue.arrive("ep-5", "canary")
    assert watch.look() == [], "it is still growing"
    training = jobs.submit("default", "improve", {}, "k", "me")
    assert watch.look() == [], "training goes first"
    jobs.finish("default", training.job_id, "cancelled")
    (job_id,) = watch.look()
    job = jobs.get("default", job_id)
    assert (job.kind, job.spec["policy"], job.spec["episodes"]) == ("replay", "policy-1", ["ep-1", "ep-5"])
    jobs.finish("default", job_id, "done")
    assert watch.look() == []


def test_what_the_ledger_holds_is_not_replayed_after_a_restart(jobs, ledger):
    row = {"task": "lift", "policy": "policy-1", "world_model": "w", "judge": "j", "both": 1, "real_only": 0,
           "imagined_only": 0, "neither": 0, "abstained": 0, "episodes": ["ep-1"]}  # fmt: skip
    record_rows(ledger, ReplayResult.model_validate({"ledger": [row]}))
    catalogue = Catalogue()
    catalogue.arrive("ep-1", "evaluate")
    catalogue.arrive("ep-2", "evaluate")
    watch = watch_over(catalogue, jobs, ledger)
    watch.look()
    (job_id,) = watch.look()
    assert jobs.get("default", job_id).spec["episodes"] == ["ep-2"]


def settled(watch) -> list[str]:
    watch.look()
    return watch.look()


def test_an_evaluation_that_cannot_be_replayed_yet_is_when_it_can(jobs, ledger):
    catalogue, held, blind = Catalogue(), {"policy-1"}, {"ep-blind"}
    watch = ReplayWatch(
        catalogue, jobs, lambda tenant: ledger, lambda tenant, policy: policy in held,
        lambda row: row.episode_id in blind,
    )  # fmt: skip
    catalogue.arrive("ep-later", "evaluate", outcome=Outcome.UNLABELLED)
    catalogue.arrive("ep-unheld", "evaluate", policy="policy-2")
    catalogue.arrive("ep-blind", "trial")
    catalogue.arrive("ep-unread", "evaluate", state="committed")
    catalogue.arrive("ep-last", "evaluate")
    assert settled(watch) == []

    def replayed() -> list[str]:
        (job_id,) = settled(watch)
        jobs.finish("default", job_id, "done")
        return jobs.get("default", job_id).spec["episodes"]

    catalogue.change("ep-unread", state="valid")
    assert replayed() == ["ep-last", "ep-unread"]
    catalogue.change("ep-later", outcome="failure")
    assert replayed() == ["ep-later"]
    held.add("policy-2")
    assert replayed() == ["ep-unheld"]
    blind.clear()
    assert replayed() == ["ep-blind"]
    assert settled(watch) == []


def test_episodes_that_measure_are_told_from_those_that_teach():
    measure = ("evaluate", "canary", "trial", "evaluation", "something of my own")
    assert all(is_measurement({"purpose": name}) for name in measure)
    assert not any(is_measurement({"purpose": name}) for name in ("collect", "ttt"))
    assert not is_measurement({})
