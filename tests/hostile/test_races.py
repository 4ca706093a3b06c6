"""Two people act on one thing at once: whatever was acknowledged is still so afterwards, on SQLite and PostgreSQL."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloud_trainer.service import Service, ServiceConfig, enroll
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_client import Trainer
from gymnast_core.episodes import Spool
from gymnast_core.errors import GymnastError
from gymnast_core.types import Outcome
from gymnast_ros.uplink import Uplink
from tests.bridge.conftest import fill, make_checkpoint
from tests.hostile.lab import Lab
from tests.hostile.registry import Tally, attack
from tests.postgres import PostgresMissingError, postgres_server

TIMEOUT_S = 60.0
Act = Callable[[str], Any]


class Duel:
    """A service with real TLS, and two people (and a trainer) with clients and threads of their own.

    Args:
        folder: empty.
        database_url: None is SQLite.
    """

    def __init__(self, folder: Path, database_url: str | None) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self.service = self._stack.enter_context(Service(ServiceConfig(folder=folder / "t", database_url=database_url)))
        self.ada, self.bea = (self._client(name, "operator").episodes for name in ("ada", "bea"))
        self.jobs, self.trainer = self._client("ada", "operator").jobs, self._client("tr", "trainer").jobs
        self.weights = [self._client(name, "admin").checkpoints for name in ("root", "toor")]

    def identity(self, name: str, role: str) -> Path:
        """An enrolled identity's folder."""
        return enroll(self.folder / "t" / "ca", name, role, out=self.folder / "ids" / f"{name}-{role}")

    def _client(self, name: str, role: str) -> Trainer:
        return self._stack.enter_context(Trainer(self.service.address, self.identity(name, role)))

    def upload(self, count: int, prefix: str, **options: Any) -> list[str]:
        """Commit episodes as a robot does; validation goes on meanwhile."""
        spool = Spool(self.folder / prefix)
        ids = fill(spool, count, prefix, **options)
        with Uplink(self.service.address, self.identity("wx-1", "robot"), spool=spool) as uplink:
            assert uplink.flush(TIMEOUT_S)
        return ids

    def close(self) -> None:
        self._stack.close()


@contextmanager
def duel(folder: Path, database_url: str | None) -> Iterator[Duel]:
    made = Duel(folder, database_url)
    try:
        yield made
    finally:
        made.close()


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Run calls at the same moment; returns their results, a GymnastError where that was the answer."""
    gate, answers = threading.Barrier(len(calls)), [None] * len(calls)

    def run(number: int, call: Callable[[], Any]) -> None:
        gate.wait(TIMEOUT_S)
        try:
            answers[number] = call()
        except GymnastError as error:
            answers[number] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    return answers


def acknowledged(answers: Sequence[Any]) -> int:
    return sum(not isinstance(answer, GymnastError) for answer in answers)


def episode_acts(duel: Duel) -> dict[str, Act]:
    """What two people may do to an episode; the second of each kind is another person's."""
    return {
        "ada says success": lambda name: duel.ada.label(name, Outcome.SUCCESS),
        "bea says failure": lambda name: duel.bea.label(name, Outcome.FAILURE),
        "ada withdraws": lambda name: duel.ada.retract(name, "bumped"),
        "bea withdraws": lambda name: duel.bea.retract(name, "dark"),
    }


def lost_of_episode(duel: Duel, name: str, acts: Sequence[str]) -> int:
    """How many of these acknowledged actions a row, the graph or the log shows no more."""
    row = duel.ada.get(name)
    lost = int(row.state != ("quarantined" if any("withdraws" in act for act in acts) else "valid"))
    lost += any("withdraws" in act for act in acts) and not row.reason.startswith("retracted by ")
    labels = {("success", "operator:ada") if "ada" in act else ("failure", "operator:bea")
              for act in acts if "says" in act}  # fmt: skip
    lost += bool(labels) and (row.outcome, row.labelled_by) not in labels
    written = [node.payload for node in duel.service.trails.of("default").graph.affected_by_role(name, "labels")]
    lost += len(labels - {(label["outcome"], label["by"]) for label in written})
    lost += bool(labels) and (written[-1]["outcome"], written[-1]["by"]) != (row.outcome, row.labelled_by)
    entries = [entry for entry in duel.service.trails.of("default").log.entries if entry.data.get("episode") == name]
    return int(lost + max(0, len(acts) - len(entries)))


def race_on_episodes(duel: Duel, rounds: int, *, validating: bool) -> Tally:
    """Every pair of actions on episodes that are valid, or that are being validated."""
    acts = episode_acts(duel)
    pairs = list(itertools.combinations(acts, 2))
    prefix = "fresh" if validating else "old"
    ids = duel.upload(rounds * len(pairs), prefix, **({"steps": 30, "side": 96} if validating else {}))
    if not validating:
        assert duel.service.episodes.settle(TIMEOUT_S)
    accepted, done = 0, []
    for name, pair in zip(ids, itertools.cycle(pairs), strict=False):
        answers = at_once(*(lambda act=act, name=name: acts[act](name) for act in pair))
        accepted += acknowledged(answers)
        done.append((name, [act for act, answer in zip(pair, answers, strict=True)
                            if not isinstance(answer, GymnastError)]))  # fmt: skip
    assert duel.service.episodes.settle(TIMEOUT_S)
    return Tally(2 * len(ids), accepted, sum(lost_of_episode(duel, name, kept) for name, kept in done))


def race_on_jobs(duel: Duel, rounds: int) -> Tally:
    """Every pair of what may happen to a job that a trainer has in hand."""
    acts: dict[str, Act] = {
        "cancel": lambda job: duel.jobs.cancel(job),
        "tell": lambda job: duel.trainer.report(job, [("progress", {"step": 1})]),
        "done": lambda job: duel.trainer.report(job, [("progress", {"step": 2})], state="done", result={"x": 1}),
        "failed": lambda job: duel.trainer.report(job, state="failed", error="out of memory"),
    }
    total = Tally(0, 0, 0)
    for number, pair in enumerate(itertools.cycle(itertools.combinations(acts, 2))):
        if number == rounds * 6:
            return total
        job = duel.jobs.submit("train", {"n": number}, f"race-{number}").job_id
        assert duel.trainer.claim().job_id == job
        answers = dict(zip(pair, at_once(*(lambda act=act, job=job: acts[act](job) for act in pair)), strict=True))
        total += Tally(2, acknowledged(list(answers.values())), lost_of_job(duel, job, answers))
        duel.service.jobs.finish("default", job, "failed", {}, "the next one")
    raise AssertionError


def lost_of_job(duel: Duel, job: str, answers: dict[str, Any]) -> int:
    said = {act: answer for act, answer in answers.items() if not isinstance(answer, GymnastError)}
    row, events = duel.jobs.get(job), [event.data for event in duel.service.jobs.events("default", job)]
    lost = sum(said.get(act) is not None and {"step": step} not in events for act, step in (("tell", 1), ("done", 2)))
    ends = {said[act].state for act in ("done", "failed") if act in said}
    lost += bool(ends) and row.state not in ends
    lost += "cancel" in said and row.state == "done" and said["cancel"].state != "done"
    lost += "done" in said and said["done"].result == {"x": 1} and dict(row.result) != {"x": 1}
    lost += len([event for event in events if event.get("state") in ("done", "failed", "cancelled")]) > 1
    return int(lost)


def race_on_checkpoints(duel: Duel, rounds: int) -> Tally:
    """Two publications, a roll back and a withdrawal at once: every release stays, every withdrawal shows."""
    ids, total = duel.upload(rounds, "seen"), Tally(0, 0, 0)
    assert duel.service.episodes.settle(TIMEOUT_S)
    first, second = duel.weights
    base = make_checkpoint(duel.folder / "base", -1.0)
    first.publish(duel.folder / "base")
    for number, name in enumerate(ids):
        folder = duel.folder / f"made-{number}"
        made = make_checkpoint(folder, float(number), lineage={"episodes": [name]})
        calls = [lambda folder=folder: first.publish(folder), lambda folder=folder: second.publish(folder)]
        calls.append(lambda: second.roll_back(base.id, reason="it drops things"))
        calls.append(lambda name=name: duel.ada.retract(name, "bumped"))
        answers = at_once(*calls)
        signed = [answer.payload for answer in answers[:3] if not isinstance(answer, GymnastError)]
        there = [release.payload for release in first.releases(limit=500)]
        lost = sum(payload not in there for payload in signed) + (len(set(signed)) != len(signed))
        lost += [gone["by"] for gone in first.why(made.id)["retracted"]] != ["operator:ada"]
        total += Tally(4, acknowledged(answers), lost)
    return total


def all_races(folder: Path, rounds: int, database_url: str | None) -> Tally:
    with duel(folder, database_url) as made:
        return (
            race_on_episodes(made, rounds, validating=True)
            + race_on_episodes(made, rounds, validating=False)
            + race_on_jobs(made, rounds)
            + race_on_checkpoints(made, rounds)
        )


@attack("races on SQLite")
def races_on_sqlite(folder: Path, size: int) -> Tally:
    return all_races(folder, -(-size // 6), None)


@attack("races on PostgreSQL")
def races_on_postgres(folder: Path, size: int) -> Tally:
    with postgres_server() as url:
        return all_races(folder, -(-size // 6), url)


@pytest.mark.parametrize("races", [races_on_sqlite, races_on_postgres])
def test_no_acknowledged_action_is_lost_in_a_race_of_any_two(tmp_path, races):
    try:
        tally = races(tmp_path, 30)
    except PostgresMissingError as error:
        pytest.skip(str(error))
    assert tally.lost == 0, tally
    assert tally.accepted > tally.attempts * 0.75


def test_sixty_withdrawals_beside_a_label_stay_withdrawn(tmp_path):
    """18 of 60 became valid again, and six labels were gone, when each wrote back the whole row it had read."""
    with duel(tmp_path, None) as made:
        acts = episode_acts(made)
        pair = ("ada says success", "bea withdraws")
        ids = made.upload(60, "ep")
        assert made.service.episodes.settle(TIMEOUT_S)
        for name in ids:
            answers = at_once(*(lambda act=act, name=name: acts[act](name) for act in pair))
            assert acknowledged(answers) == 2
        assert sum(lost_of_episode(made, name, pair) for name in ids) == 0


def test_what_is_withdrawn_while_it_is_being_promoted_is_not_promoted(tmp_path, monkeypatch):
    """The check and the release are one transaction: nobody withdraws an episode between them."""
    with Lab(tmp_path) as lab:
        lab.service.meta.add_episodes([EpisodeRow(0, "default", "ep-1", "wx-1", "0" * 64, 10, 1, state="valid")])
        shelf = tmp_path / "trainer" / "checkpoints"
        name = make_checkpoint(shelf / "new", 1.0, lineage={"episodes": ["ep-1"]}).id
        (shelf / "new").rename(shelf / name)
        root, ada = lab.identity("root", "admin"), lab.identity("ada", "operator")
        publish = lab.service.publisher.publish

        def withdrawn_meanwhile(*args, **options):
            with Trainer(lab.service.address, ada).episodes as episodes:
                assert [one.id for one in episodes.retract("ep-1", "dark") if one.kind == "policy"] == [name]
            return publish(*args, **options)

        monkeypatch.setattr(lab.service.publisher, "publish", withdrawn_meanwhile)
        answer = lab.page("POST", f"/checkpoints/{name}/publish", identity=root, form={})
        assert "retracted by operator:ada: dark" in answer.text
        assert lab.service.meta.releases("default") == []
        assert [entry.kind for entry in lab.service.trails.of("default").log.entries] == [
            "retract", "publish", "publish: failed",
        ]  # fmt: skip
