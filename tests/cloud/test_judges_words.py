"""What a judge labelled may be learned from; it proves no judge, audits no world model and decides no trial."""

from types import SimpleNamespace

import numpy as np
import pytest

from cloud_trainer.app.jobs import _recorded
from cloud_trainer.flows.arm_trials import _unusable
from cloud_trainer.flows.replay_watch import ReplayWatch
from cloud_trainer.flows.scene_records import SceneRecords
from cloud_trainer.jobs.job import Job, by_people, load_episodes
from cloud_trainer.jobs.runner import Recorded
from cloud_trainer.records.measured import rows_of
from cloud_trainer.service import Service, ServiceConfig
from cloud_trainer.store.protocols import EpisodeRow
from cloud_trainer.world_model.compact.data import clips_of
from gymnast_core.episodes import write_episode
from gymnast_core.jobs import ImproveSpec
from gymnast_core.judge import Verdict
from gymnast_core.orders import EpisodeAnswer
from gymnast_core.types import Episode, Outcome

TASK = "lift the red cube"
PEOPLE = ("operator:ana", "robot:wx-0/operator:sim", "dataset:bridge")
JUDGES = ("judge:j1", "robot:wx-0/judge:j1")


def episode(name, by, outcome=Outcome.SUCCESS):
    rng = np.random.default_rng(0)
    actions = np.zeros((2, 7), np.float32)
    images = {"cam": rng.integers(0, 255, (3, 32, 32, 3), np.uint8)}
    return Episode(name, TASK, images, np.zeros((3, 7), np.float32), actions, np.arange(3) * 200_000_000, outcome, by)


def row(name, by, *, purpose="collect", outcome="success"):
    metadata = {"purpose": purpose, "scene": "bench"}
    return EpisodeRow(0, "default", name, "wx-0", "0" * 64, 1, 0, "valid", "", TASK, outcome, by, 2, "p", metadata)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Service(ServiceConfig(folder=tmp_path_factory.mktemp("words") / "trainer")) as running:
        authors = {f"by-{n}": by for n, by in enumerate((*PEOPLE, *JUDGES))}
        rows = [row(name, by) for name, by in authors.items()]
        rows += [row(f"measured-{name}", by, purpose="evaluate") for name, by in authors.items()]
        running.meta.add_episodes(rows)
        yield running


def test_a_job_is_handed_the_author_of_every_label(service, tmp_path):
    catalogue = SimpleNamespace(all=service.episodes_of("default").all, path=lambda row: tmp_path / row.episode_id)
    entries = list(_recorded(SimpleNamespace(episodes=catalogue), ImproveSpec(policy="p")))
    assert [entry.labelled_by for entry in entries] == [*PEOPLE, *JUDGES], "a policy may learn from a judge's labels"


def test_read_episodes_keep_the_catalogues_author(tmp_path):
    path = write_episode(tmp_path, episode("e1", "operator:sim"), robot="r")
    recorded = [Recorded(path, "failure", "e1", "wx-0", "judge:j1")]
    job = Job(ImproveSpec(policy="p"), {}, recorded, tmp_path, lambda event: None, lambda: False)
    [read] = load_episodes(job, 10, 32)
    assert (read.outcome, read.labelled_by) == (Outcome.FAILURE, "judge:j1")
    assert by_people([read, episode("e2", "operator:ana")])[0].episode_id == "e2"


def test_no_judge_is_taught_or_measured_by_a_judges_labels():
    clips = clips_of([episode(f"e{n}", by) for n, by in enumerate((*PEOPLE, *JUDGES, ""))], 32)
    assert clips.labelled_N.tolist() == [True] * 3 + [False] * 2 + [True], "'' is a file of a dataset, as ever"
    assert clips.outcome_of(3) is Outcome.UNLABELLED


def test_the_ledger_compares_dreams_with_what_people_saw(service):
    seen = []
    watch = ReplayWatch(service.episodes_of(None), service.jobs, service.ledgers.of, lambda tenant, policy: True)
    watch.look()
    (job_id,) = watch.look()
    assert service.jobs.get("default", job_id).spec["episodes"] == ["measured-by-0", "measured-by-1", "measured-by-2"]

    def dreamt(known):
        seen.extend(one.episode_id for one in known)
        return [Verdict(Outcome.SUCCESS, 0.9) for _ in known]

    [found] = rows_of(
        [episode("a", PEOPLE[0]), episode("b", JUDGES[0]), episode("c", JUDGES[1])], dreamt,
        policy="p", world_model="w", judge="j",
    )  # fmt: skip
    assert (seen, found.n) == (["a"], 1)


def test_a_trust_check_of_a_scene_counts_what_people_labelled(service):
    records = SceneRecords(service.episodes_of("default"), "wx-0", "bench", TASK)
    assert [one.episode_id for one in records.labelled()] == ["by-0", "by-1", "by-2"]


@pytest.mark.parametrize(
    ("by", "declared", "why"),
    [
        ("operator:ana", "operator", ""),
        ("judge:j1", "operator", "j1 labelled it, and this trial goes by operator"),
        ("robot:wx-0/judge:j1", "operator", "j1 labelled it, and this trial goes by operator"),
        ("robot:wx-0/judge:j1", "j2", "j1 labelled it, and this trial goes by j2"),
        ("judge:j1", "j1", ""),
    ],
)
def test_a_trial_goes_by_whom_it_declared(by, declared, why):
    answer = EpisodeAnswer(episode_id="e", success=True, labelled_by=by, truncated_reason="", task="lift",
                           instruction=TASK, seed=1)  # fmt: skip
    assert _unusable(answer, declared) == why


def test_a_run_that_nobody_labelled_is_set_aside_and_no_failure():
    answer = EpisodeAnswer(episode_id="e", success=None, labelled_by="", truncated_reason="", task="lift",
                           instruction=TASK, seed=1)  # fmt: skip
    assert _unusable(answer, "operator") == "nobody labelled it"
