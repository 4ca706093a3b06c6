"""Later attempts of a retry count nowhere: training, a scene's records, the ledger, and a job that names episodes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from cloud_trainer.app.jobs import _recorded
from cloud_trainer.flows.replay_watch import ReplayWatch
from cloud_trainer.flows.scene_records import SceneRecords
from cloud_trainer.jobs.shelf import Shelves
from cloud_trainer.jobs.submission import check_submission
from cloud_trainer.service import Service, ServiceConfig
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_core.episodes.spool import file_digest
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.attempts import Attempt
from gymnast_core.jobs import ImproveSpec
from tests.bridge.conftest import make_checkpoint

TASK = "lift the red cube"
PURPOSES = ("collect", "ttt", "evaluate")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A trainer that has, of each purpose, an episode of its own, and the three attempts of a group."""
    folder: Path = tmp_path_factory.mktemp("trainer")
    rows, file = [], folder / "an episode's file"
    file.write_text("nobody reads it here")
    digest = file_digest(file)
    for purpose in PURPOSES:
        tries = [None, *(Attempt(f"g-{purpose}", index, 3).to_json() for index in range(3))]
        for number, attempt in enumerate(tries):
            metadata = {"purpose": purpose, "scene": "bench", **({} if attempt is None else {"attempt": attempt})}
            rows.append(
                EpisodeRow(
                    0, "default", f"{purpose}-{number}", "wx-0", digest, 1, 0, "valid", "", TASK,
                    "success" if number == 3 else "failure", "operator:me", 15, "policy-1", metadata,
                )
            )  # fmt: skip
    with Service(ServiceConfig(folder=folder, insecure=True)) as running:
        running.blobs.put_file(file, digest)
        running.meta.add_episodes(rows)
        yield running


def test_a_job_learns_from_first_attempts(service) -> None:
    context = SimpleNamespace(episodes=service.episodes_of("default"))
    names = {entry.episode_id for entry in _recorded(context, ImproveSpec(policy="policy-1"))}
    assert names == {"collect-0", "collect-1", "ttt-0", "ttt-1"}


def test_a_scene_is_counted_by_first_attempts(service) -> None:
    """By its successes, too: the one of the third attempt is none."""
    records = SceneRecords(service.episodes_of("default"), "wx-0", "bench", TASK)
    assert {row.episode_id for row in records.labelled()} == {"collect-0", "collect-1", "ttt-0", "ttt-1"}
    assert {row.outcome for row in records.to_look_at(100)} == {"failure"}


def test_the_ledger_gets_first_attempts(service) -> None:
    catalogue = service.episodes_of(None)
    watch = ReplayWatch(catalogue, service.jobs, service.ledgers.of, lambda tenant, policy: True)
    watch.look()
    (job_id,) = watch.look()
    assert service.jobs.get("default", job_id).spec["episodes"] == ["evaluate-0", "evaluate-1"]


def test_a_job_that_names_a_later_attempt_is_refused(service, tmp_path) -> None:
    shelves = Shelves(tmp_path)
    make_checkpoint(tmp_path / "policy", kind="policy")
    policy = shelves.of("default").add(tmp_path / "policy").id
    check = partial(check_submission, shelves, service.episodes_of, "default", "replay")
    check({"policy": policy, "episodes": ["evaluate-0", "evaluate-1"]})
    with pytest.raises(ConfigError, match="episodes evaluate-3 were tried again after a judged failure"):
        check({"policy": policy, "episodes": ["evaluate-1", "evaluate-3"]})
