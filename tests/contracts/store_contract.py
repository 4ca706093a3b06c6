"""What every store must do; implementations inherit these classes and give a fixture `store`."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from blake3 import blake3

from cloud_trainer.store.judgements import SqlJudgements
from cloud_trainer.store.protocols import CheckpointRow, EpisodeRow, JobEnd, ReleaseRow, Usage
from cloud_trainer.store.sql_meta import SqlMetaStore
from cloud_trainer.store.sql_queue import PortionRow, QueuePause, QueueRow, StartRow
from gymnast_core.outcome import Judgement
from gymnast_core.types import Outcome
from gymnast_core.wire.errors import IdReusedError, InvalidIdError, NotFoundError


def put(store, folder: Path, data: bytes) -> str:
    digest = blake3(data).hexdigest()
    path = folder / f"source-{digest[:8]}"
    path.write_bytes(data)
    store.put_file(path, digest)
    assert not path.exists()
    return digest


class BlobStoreContract:
    """Inherit and give `store`, empty."""

    def test_what_is_put_can_be_read_whole_and_in_ranges(self, store, tmp_path):
        data = bytes(range(256)) * 40
        digest = put(store, tmp_path, data)
        assert store.has(digest)
        assert store.size(digest) == len(data)
        assert store.read(digest, 0, len(data)) == data
        assert store.read(digest, 300, 7) == data[300:307]
        assert store.read(digest, len(data) - 2, 100) == data[-2:]
        assert store.read(digest, len(data) + 5, 100) == b""
        assert store.local_path(digest).read_bytes() == data

    def test_putting_it_again_changes_nothing(self, store, tmp_path):
        digest = put(store, tmp_path, b"same")
        assert put(store, tmp_path, b"same") == digest
        assert list(store.digests()) == [digest]

    def test_what_is_not_there_is_named(self, store):
        missing = "0" * 64
        assert not store.has(missing)
        for ask in (store.size, store.local_path):
            with pytest.raises(NotFoundError, match=missing):
                ask(missing)

    @pytest.mark.parametrize("bad", ["", "../../etc/passwd", "0" * 63, "A" * 64])
    def test_digests_that_are_none_are_refused(self, store, bad):
        with pytest.raises(InvalidIdError):
            store.has(bad)

    def test_every_blob_is_listed(self, store, tmp_path):
        digests = {put(store, tmp_path, bytes([number]) * 10) for number in range(5)}
        assert set(store.digests()) == digests


def at_once(calls: Sequence[Callable[[], object]]) -> None:
    """Run calls in a thread each."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def episode(episode_id: str, **fields) -> EpisodeRow:
    row = EpisodeRow(0, "default", episode_id, "wx-1", blake3(episode_id.encode()).hexdigest(), 100, 5)
    return replace(row, **fields)


class MetaStoreContract:
    """Inherit and give `store`, empty."""

    def test_episodes_are_added_once_in_order(self, store):
        assert store.add_episodes([episode("a"), episode("b")]) == ["added", "added"]
        assert store.add_episodes([episode("b"), episode("c"), episode("c")]) == ["duplicate", "added", "duplicate"]
        assert [row.episode_id for row in store.episodes(None)] == ["a", "b", "c"]
        sequences = [row.sequence for row in store.episodes(None)]
        assert sequences == sorted(set(sequences))
        assert [row.episode_id for row in store.episodes(None, after=sequences[1])] == ["c"]
        assert [row.episode_id for row in store.episodes(None, limit=1)] == ["a"]

    def test_same_id_with_another_digest_is_a_conflict_and_changes_nothing(self, store):
        store.add_episodes([episode("a")])
        assert store.add_episodes([episode("a", digest="f" * 64)]) == ["conflict"]
        assert store.episode("default", "a").digest == episode("a").digest

    def test_tenants_do_not_meet(self, store):
        assert store.add_episodes([episode("a"), episode("a", tenant="other", digest="f" * 64)]) == ["added", "added"]
        assert len(store.episodes("other")) == 1
        assert store.episode("third", "a") is None
        assert store.usage("default") == Usage(1, 100)
        assert store.usage("third") == Usage(0, 0)

    def test_usage_counts_what_was_added_alone(self, store):
        store.add_episodes([episode("a", size=7), episode("b", size=5), episode("a", size=7)])
        assert store.usage("default") == Usage(2, 12)

    def test_descriptions_change_identity_does_not(self, store):
        store.add_episodes([episode("a")])
        [row] = store.episodes(None, states=["committed"])
        described = replace(
            row, state="valid", outcome="success", steps=9, metadata={"task": "lift"}, digest="f" * 64, size=1
        )
        before, got = store.change_episode("default", "a", lambda now: described)
        assert before == row
        assert got == store.episode("default", "a")
        assert (got.state, got.outcome, got.steps, got.metadata) == ("valid", "success", 9, {"task": "lift"})
        assert (got.digest, got.size, got.sequence) == (row.digest, row.size, row.sequence)
        assert store.episodes(None, states=["committed"]) == []
        with pytest.raises(NotFoundError):
            store.change_episode("default", "never", lambda now: now)

    def test_changes_at_once_are_all_kept(self, store):
        """Four threads count up the same row: none of the hundred changes overwrites another."""
        store.add_episodes([episode("a")])

        def count():
            for _ in range(25):
                store.change_episode("default", "a", lambda now: replace(now, steps=now.steps + 1))

        at_once([count] * 4)
        assert store.episode("default", "a").steps == 100

    def test_those_that_wait_are_some_of_each_robot(self, store):
        rows = [episode(f"a{number}") for number in range(5)] + [
            episode("b0", robot="wx-2"),
            episode("b1", robot="wx-2"),
        ]
        store.add_episodes([*rows, episode("c0", tenant="other")])
        store.change_episode("default", "a0", lambda now: replace(now, state="valid"))
        assert [row.episode_id for row in store.waiting(2)] == ["a1", "a2", "b0", "b1", "c0"]

    def test_filters(self, store):
        store.add_episodes([episode("a", instruction="lift"), episode("b", robot="wx-2", instruction="push")])
        assert [row.episode_id for row in store.episodes("default", robot="wx-2")] == ["b"]
        assert [row.episode_id for row in store.episodes("default", instruction="lift")] == ["a"]

    def test_release_sequences_rise_and_are_never_reused(self, store):
        def sign(number):
            return ReleaseRow("default", number, "policy-1", b"payload %d" % number, "key", b"signature")

        rows = [store.add_release(sign) for _ in range(3)]
        numbers = [row.sequence for row in rows]
        assert numbers == sorted(set(numbers))
        assert store.releases("default") == rows
        assert store.releases("default", after=numbers[1]) == rows[2:]

    def test_no_release_becomes_visible_behind_a_later_one(self, store):
        """Who follows releases by their number misses none, although four threads publish."""
        seen, stop = [], threading.Event()

        def follow():
            while not stop.is_set() or store.releases("default", after=seen[-1] if seen else 0):
                seen.extend(row.sequence for row in store.releases("default", after=seen[-1] if seen else 0))

        def publish():
            for _ in range(10):
                store.add_release(
                    lambda number: ReleaseRow("default", number, "policy-1", b"payload", "key", b"signature")
                )

        follower = threading.Thread(target=follow)
        follower.start()
        at_once([publish] * 4)
        stop.set()
        follower.join()
        assert seen == [row.sequence for row in store.releases("default")]
        assert len(seen) == 40

    def test_checkpoints_are_registered_once(self, store):
        row = CheckpointRow("default", "policy-1", "policy", b"{}", "a" * 64, 3, 10)
        assert store.add_checkpoint(row)
        assert not store.add_checkpoint(row)
        assert store.add_checkpoint(replace(row, checkpoint_id="policy-2", published_ns=11))
        assert store.checkpoint("default", "policy-1") == row
        assert store.checkpoint("default", "policy-9") is None
        assert [found.checkpoint_id for found in store.checkpoints("default", "policy")] == ["policy-2", "policy-1"]
        with pytest.raises(IdReusedError):
            store.add_checkpoint(replace(row, weights_digest="b" * 64))

    def test_what_is_changed_in_one_transaction_is_changed_whole_or_not_at_all(self, store):
        row = CheckpointRow("default", "policy-1", "policy", b"{}", "a" * 64, 3, 10)
        told = []

        def change(*, fail):
            with store.transaction():
                store.add_episodes([episode("a")])
                store.add_checkpoint(row)
                store.change_episode("default", "a", lambda now: replace(now, steps=7))
                store.after_commit(lambda: told.append(store.episode("default", "a").steps))
                if fail:
                    store.change_episode("default", "never", lambda now: now)

        with pytest.raises(NotFoundError):
            change(fail=True)
        assert (store.episodes(None), store.checkpoints("default"), told) == ([], [], [])
        assert store.usage("default") == Usage(0, 0)
        change(fail=False)
        assert (store.episode("default", "a").steps, store.checkpoint("default", "policy-1"), told) == (7, row, [7])

    def test_checkpoints_releases_and_blobs_of_tenants_do_not_meet(self, store):
        ours = CheckpointRow("default", "policy-1", "policy", b"{}", "a" * 64, 3, 10)
        theirs = replace(ours, tenant="acme", weights_digest="b" * 64)
        assert store.add_checkpoint(ours)
        assert store.add_checkpoint(theirs), "the same id with other weights, of another tenant"
        assert (store.checkpoint("default", "policy-1"), store.checkpoint("acme", "policy-1")) == (ours, theirs)
        assert (store.checkpoints("default"), store.checkpoints("third")) == ([ours], [])
        row = store.add_release(lambda number: ReleaseRow("acme", number, "policy-1", b"p", "key", b"s"))
        assert (store.releases("acme"), store.releases("default")) == ([row], [])
        assert (store.newest_release("acme"), store.newest_release("default")) == (row.sequence, 0)
        store.add_episodes([episode("a", digest="c" * 64), episode("a", tenant="acme", digest="d" * 64)])
        assert store.names_blob("default", "a" * 64)
        assert store.names_blob("default", "c" * 64, "wx-1")
        assert not store.names_blob("default", "c" * 64, "wx-2")
        assert not store.names_blob("default", "a" * 64, "wx-1"), "weights come to robots by releases"
        assert not any(store.names_blob("default", letter * 64) for letter in "bdx")

    def test_writers_at_once_commit_each_episode_once(self, store):
        """Four threads add the same thirty episodes: thirty rows, each counted once."""
        results = []

        def add(offset):
            for number in range(30):
                results.extend(store.add_episodes([episode(f"e{(number + offset * 13) % 30}")]))

        at_once([partial(add, offset) for offset in range(4)])
        assert results.count("added") == 30
        assert results.count("duplicate") == 90
        assert store.usage("default") == Usage(30, 3000)
        assert len({row.sequence for row in store.episodes(None)}) == 30


class JobStoreContract:
    """Inherit and give `store`, empty."""

    def test_same_key_is_the_same_job_and_another_spec_is_refused(self, store):
        job = store.submit("default", "train", {"b": 1, "a": 2}, "key", "ada")
        assert store.submit("default", "train", {"a": 2, "b": 1}, "key", "bob").job_id == job.job_id
        assert store.submit("other", "train", {}, "key", "eve").job_id != job.job_id
        with pytest.raises(IdReusedError):
            store.submit("default", "train", {"a": 3}, "key", "ada")
        assert job.state == "waiting"

    def test_jobs_are_claimed_oldest_first_and_once(self, store):
        first = store.submit("default", "a", {}, "1", "ada")
        second = store.submit("default", "b", {}, "2", "ada")
        assert store.claim(None, "w1", ["b"]).job_id == second.job_id
        assert store.claim(None, "w2").job_id == first.job_id
        assert store.claim(None, "w3") is None
        assert store.get("default", first.job_id).attempts == 1

    def test_jobs_that_somebody_waits_for_go_first_and_background_ones_last(self, store):
        replay, train, improve, adapt = (
            store.submit("default", kind, {}, kind, "ada") for kind in ("replay", "train", "improve", "adapt")
        )
        claimed = [store.claim(None, "w").job_id for _ in range(4)]
        assert claimed == [job.job_id for job in (adapt, train, improve, replay)]

    def test_many_workers_never_share_a_job(self, store):
        for number in range(12):
            store.submit("default", "a", {}, str(number), "ada")
        claimed = []

        def work(name):
            while (job := store.claim(None, name)) is not None:
                claimed.append(job.job_id)

        at_once([partial(work, f"w{number}") for number in range(4)])
        assert len(claimed) == len(set(claimed)) == 12

    def test_events_are_numbered_and_replayable(self, store):
        job = store.submit("default", "a", {}, "1", "ada")
        assert store.append("default", job.job_id, "progress", {"share": 0.5}) == 2
        assert [event.sequence for event in store.events("default", job.job_id)] == [1, 2]
        [event] = store.events("default", job.job_id, after=1)
        assert (event.kind, event.data) == ("progress", {"share": 0.5})
        with pytest.raises(NotFoundError):
            store.append("default", "job-none", "progress", {})

    def test_cancelling_each_state(self, store):
        waiting = store.submit("default", "a", {}, "1", "ada")
        assert store.request_cancel("default", waiting.job_id).state == "cancelled"
        running = store.submit("default", "a", {}, "2", "ada")
        store.claim(None, "w")
        asked = store.request_cancel("default", running.job_id)
        assert (asked.state, asked.cancel_requested) == ("running", True)
        done = store.finish("default", running.job_id, "done", {"x": 1})
        assert store.request_cancel("default", running.job_id) == done
        with pytest.raises(NotFoundError):
            store.request_cancel("other", running.job_id)

    def test_an_ended_job_stays_as_it_is(self, store):
        job = store.submit("default", "a", {}, "1", "ada")
        store.claim(None, "w")
        store.finish("default", job.job_id, "done", {"x": 1})
        again = store.finish("default", job.job_id, "failed", {}, "too late")
        assert (again.state, again.result) == ("done", {"x": 1})
        assert [event.kind for event in store.events("default", job.job_id)] == ["state", "state", "state"]

    def test_lost_jobs_go_back_and_fail_after_enough_attempts(self, store):
        job = store.submit("default", "a", {}, "1", "ada")
        for attempt in (1, 2):
            assert store.claim(None, "local-1").attempts == attempt
            [moved] = store.requeue_lost(max_attempts=3, worker="local")
            assert moved.state == "waiting"
        store.claim(None, "local-1")
        [moved] = store.requeue_lost(max_attempts=3, worker="local")
        assert moved.state == "failed"
        assert "3 times" in moved.error
        assert store.get("default", job.job_id).state == "failed"

    def test_a_kept_lease_is_not_lost_and_a_lost_one_cannot_be_renewed(self, store):
        job = store.submit("default", "a", {}, "1", "ada")
        store.claim(None, "w", lease_s=60)
        assert store.requeue_lost() == []
        assert store.renew("default", job.job_id, "w")
        assert not store.renew("default", job.job_id, "somebody else")
        store.renew("default", job.job_id, "w", lease_s=-1)
        assert [row.job_id for row in store.requeue_lost()] == [job.job_id]
        assert not store.renew("default", job.job_id, "w")

    def test_who_lost_a_job_cannot_end_it_for_its_next_worker(self, store):
        job = store.submit("default", "a", {}, "1", "ada")
        store.claim(None, "slow", lease_s=-1)
        store.requeue_lost()
        store.claim(None, "quick")
        assert store.finish("default", job.job_id, "failed", {}, "too late", worker="slow").state == "running"
        with pytest.raises(NotFoundError, match="slow"):
            store.report("default", job.job_id, "slow", [("progress", {})], JobEnd("failed"))
        assert store.report("default", job.job_id, "quick", [("progress", {"step": 1})]).state == "running"
        done = store.report("default", job.job_id, "quick", [("progress", {"step": 2})], JobEnd("done", {"x": 1}))
        assert (done.state, done.result) == ("done", {"x": 1})
        kinds = [event.kind for event in store.events("default", job.job_id)]
        assert kinds == ["state"] * 4 + ["progress", "progress", "state"]

    def test_an_acknowledged_cancellation_is_not_undone_by_the_end_of_the_work(self, store):
        job = store.submit("default", "a", {}, "1", "ada")
        store.claim(None, "w")
        store.request_cancel("default", job.job_id)
        ended = store.finish("default", job.job_id, "done", {"x": 1}, worker="w")
        assert (ended.state, ended.result) == ("cancelled", {"x": 1})

    def test_a_job_that_ends_while_lost_ones_go_back_stays_ended(self, store):
        """An end, a lost lease and a claim at once: what was acknowledged as done is never run again."""
        for number in range(20):
            job = store.submit("default", "a", {}, str(number), "ada")
            store.claim(None, "w", lease_s=-1)
            ends = []

            def end(job_id=job.job_id, ends=ends):
                ends.append(store.finish("default", job_id, "done", worker="w").state)

            at_once([end, store.requeue_lost, partial(store.claim, None, "other")])
            if ends == ["done"]:
                assert store.get("default", job.job_id).state == "done"
            else:
                store.finish("default", job.job_id, "failed")

    def test_nobody_reaches_another_tenants_job(self, store):
        job = store.submit("acme", "a", {}, "1", "eve")
        assert store.claim("default", "w") is None
        assert store.claim("acme", "w").job_id == job.job_id
        reached = (
            lambda: store.get("default", job.job_id),
            lambda: store.append("default", job.job_id, "progress", {}),
            lambda: store.request_cancel("default", job.job_id),
            lambda: store.finish("default", job.job_id, "done"),
            lambda: store.report("default", job.job_id, "w", []),
        )
        for reach in reached:
            with pytest.raises(NotFoundError):
                reach()
        assert store.events("default", job.job_id) == []
        assert not store.renew("default", job.job_id, "w")
        assert store.find("default", "1") is None
        assert len(store.events("acme", job.job_id)) == 2

    def test_listing_is_newest_first_and_per_tenant(self, store):
        jobs = [store.submit("default", "a", {}, str(number), "ada").job_id for number in range(3)]
        store.submit("other", "a", {}, "x", "eve")
        assert [row.job_id for row in store.list("default")] == jobs[::-1]
        assert len(store.list(None)) == 4
        assert store.list("default", state="done") == []


class JudgementsContract:
    """Implementations give `database`: an empty one."""

    def test_what_judges_found_beside_what_people_labelled(self, database):
        meta, judgements = SqlMetaStore(database), SqlJudgements(database)
        place = {"task": "lift", "scene": "bench", "held_out": True}
        won, open_ = Judgement(Outcome.SUCCESS, 0.9, 3, "j1", "saw it"), Judgement.abstain("in its band", judge="j1")
        for name, label, by in (
            ("right", "success", "robot:r/operator:ana"), ("wrong", "failure", "operator:ana"),
            ("own", "success", "robot:r/judge:j1"), ("waits", "unlabelled", ""), ("other", "success", "operator:eve"),
        ):  # fmt: skip
            tenant = "acme" if name == "other" else "default"
            row = EpisodeRow(0, tenant, name, "r", name, 1, 0, "valid", "", "lift", label, by, 3, "p", {})
            meta.add_episodes([row])
            assert judgements.add(tenant, name, open_ if name == "waits" else won, **place)
        assert not judgements.add("default", "right", open_, **place), "what was found first stands"
        counts = {(one.label, one.n) for one in judgements.counts("default", judge="j1", task="lift", scene="bench")}
        assert counts == {(Outcome.SUCCESS, 1), (Outcome.FAILURE, 1)}, (
            "neither its own label nor another tenant's counts"
        )
        evidence = judgements.evidence("default", judge="j1", task="lift", scene="bench")
        assert [(one.episode_id, one.labelled_by) for one in evidence] == [
            ("right", "robot:r/operator:ana"), ("wrong", "operator:ana"),
        ]  # fmt: skip
        waiting = judgements.doubtful("default", before=0, limit=9)
        assert [(one.episode_id, one.judgements[0].outcome) for one in waiting] == [
            ("waits", Outcome.ABSTAIN), ("wrong", Outcome.SUCCESS),
        ]  # fmt: skip
        assert [one.episode_id for one in judgements.doubtful("default", before=waiting[0].sequence, limit=9)] == [
            "wrong"
        ]
        judgements.settle("default", "wrong", "operator:ana")
        assert [one.episode_id for one in judgements.doubtful("default", before=0, limit=9)] == ["waits"]
        assert judgements.known("default", "j1", ["right", "other"]) == {"right"}
        assert judgements.count("default") == 4
        assert math.isnan(judgements.of("default", "waits")[0].score)


class QueueStoreContract:
    """Inherit and give `store`, empty."""

    def row(self, entry_id: str = "entry-1", **fields) -> QueueRow:
        usual = QueueRow(
            entry_id, "default", entry_id, "evaluation", "", "lift from 3 starts", ("wx-1", "wx-2"),
            {"tasks": ["lift"], "seed_start": 2**53 - 9, "seed_count": 3}, 5, 0, "ana", total=3, created_ns=1,
            since_ns=1,
        )  # fmt: skip
        return replace(usual, **fields)

    def test_an_entry_comes_back_as_it_was_and_its_key_adds_no_second_one(self, store):
        first = store.add(self.row())
        assert first == self.row(place=first.place)
        assert store.add(self.row("entry-2", key="entry-1")) == first
        second = store.add(self.row("entry-2"))
        assert second.place > first.place
        assert store.open_entries() == [first, second]
        ended = replace(first, state="done", result={"all": {"n": 3}}, done=3, ended_ns=9, paused=False)
        store.save(ended, replace(second, paused=True, reason="paused by ana"))
        assert store.open_entries() == [replace(second, paused=True, reason="paused by ana")]
        assert store.ended_entries("default", 10) == [ended]
        assert store.find("default", entry_id="entry-1") == store.find("default", key="entry-1") == ended
        assert store.find("acme", entry_id="entry-1") is None
        assert store.ended_entries("acme", 10) == []

    def test_two_tenants_may_use_one_key(self, store):
        store.add(self.row("entry-1", key="nightly"))
        other = store.add(self.row("entry-2", key="nightly", tenant="acme"))
        assert other.entry_id == "entry-2"

    def test_an_episode_is_noted_once_and_the_first_one_stays(self, store):
        store.add(self.row())
        rows = [StartRow("lift", seed, "wx-1", won, f"ep-{seed}", "", "", 5) for seed, won in ((2, None), (1, True))]
        store.note("entry-1", rows)
        store.note("entry-1", [replace(rows[0], success=False, robot="wx-2"), replace(rows[0], seed=3)])
        assert store.starts("entry-1") == [rows[1], rows[0], replace(rows[0], seed=3)]
        assert store.starts("entry-2") == []

    def test_a_robot_has_one_portion_in_hand(self, store):
        portions = [
            PortionRow(f"portion-{n}", "default", robot, "entry-1", n, "evaluate", {"seed_start": n}, 7)
            for n, robot in ((1, "wx-1"), (2, "wx-1"), (3, "wx-2"))
        ]
        for portion in portions:
            store.give(portion)
        store.give(replace(portions[2], attempt=4))
        assert sorted(store.portions(), key=lambda one: one.robot) == [portions[1], replace(portions[2], attempt=4)]
        store.take_back("default", "wx-1")
        assert [one.robot for one in store.portions()] == ["wx-2"]

    def test_a_robots_queue_rests_until_it_is_resumed(self, store):
        store.pause(QueuePause("default", "wx-1", "ana", "", 1))
        store.pause(QueuePause("default", "wx-1", "bea", "a new table", 2))
        assert store.pauses() == [QueuePause("default", "wx-1", "bea", "a new table", 2)]
        store.resume("acme", "wx-1")
        assert len(store.pauses()) == 1
        store.resume("default", "wx-1")
        assert store.pauses() == []

    def test_the_oldest_ended_entries_are_forgotten_with_their_episodes(self, store):
        for number in range(5):
            store.add(self.row(f"entry-{number}"))
            store.note(f"entry-{number}", [StartRow("lift", 1, "wx-1", True, "", "", "", 5)])
            if number < 4:
                store.save(self.row(f"entry-{number}", state="cancelled", ended_ns=10 + number))
        store.forget("default", 2)
        assert [row.entry_id for row in store.ended_entries("default", 10)] == ["entry-3", "entry-2"]
        assert [len(store.starts(f"entry-{number}")) for number in range(5)] == [0, 0, 1, 1, 1]

    def test_what_is_undone_leaves_nothing(self, store):
        def fail() -> None:
            with store.transaction():
                store.add(self.row())
                store.give(PortionRow("portion-1", "default", "wx-1", "entry-1", 1, "evaluate", {}, 7))
                raise ValueError("on purpose")

        with pytest.raises(ValueError, match="on purpose"):
            fail()
        assert (store.open_entries(), store.portions()) == ([], [])
