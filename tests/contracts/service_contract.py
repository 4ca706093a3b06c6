"""What a trainer does from upload to promotion, over mutual TLS and its page; inherited once for every database."""

from __future__ import annotations

import json

import pytest

from cloud_trainer.records.graph_check import damage_in
from cloud_trainer.service.doctor import examine
from gymnast_client import Trainer
from gymnast_core.episodes import Spool
from gymnast_core.errors import GymnastError
from gymnast_core.types import Outcome
from gymnast_core.wire.errors import NotFoundError
from gymnast_ros.uplink import Uplink
from tests.bridge.conftest import fill, make_checkpoint
from tests.hostile.lab import Lab


class ServiceContract:
    """Inherit and give `database_url`, of an empty database; None is the folder's own."""

    @pytest.fixture
    def lab(self, tmp_path, database_url):
        with Lab(tmp_path, {"database_url": database_url}) as lab:
            yield lab

    def asking(self, lab: Lab, *who: str) -> Trainer:
        return Trainer(lab.service.address, lab.identity(*who))

    def upload(self, lab: Lab, prefix: str, count: int) -> list[str]:
        spool = Spool(lab.folder / f"spool-{prefix}")
        ids = fill(spool, count, prefix)
        with Uplink(lab.service.address, lab.identity("wx-1", "robot"), spool=spool) as uplink:
            assert uplink.flush(60)
        assert lab.service.episodes.settle(60)
        return ids

    def shelve(self, lab: Lab, value: float, **fields: object) -> str:
        """A checkpoint that a job left on the trainer's shelf."""
        shelf = lab.folder / "trainer" / "checkpoints"
        made = make_checkpoint(shelf / ".new", value, **fields)
        (shelf / ".new").rename(shelf / made.id)
        lab.service.trails.of("default").shelved(made)
        return str(made.id)

    def test_an_episode_comes_in_is_labelled_and_withdrawn(self, lab):
        ids = self.upload(lab, "ep", 4)
        with self.asking(lab, "ada", "operator") as trainer:
            ada = trainer.episodes
            assert [row.state for row in ada.list()] == ["valid"] * 4
            for outcome in (Outcome.FAILURE, Outcome.SUCCESS):
                assert ada.label(ids[0], outcome).outcome == outcome.value
            assert ada.retract(ids[1], "the arm was bumped") == []
            with pytest.raises(NotFoundError, match="ep-none"):
                ada.label("ep-none", Outcome.SUCCESS)
            assert (ada.get(ids[1]).state, ada.get(ids[0]).labelled_by) == ("quarantined", "operator:ada")
        trail = lab.service.trails.of("default")
        given = [node.payload["outcome"] for node in trail.graph.affected_by_role(ids[0], "labels")]
        assert given == ["failure", "success"]
        assert [node.payload["reason"] for node in trail.graph.affected_by_role(ids[1], "retracts")] == [
            "the arm was bumped"
        ]
        assert [entry.kind for entry in trail.log.entries] == ["label", "label", "retract"]
        assert trail.log.entries[1].data["was"] == "failure"

    def test_a_checkpoint_is_published_explained_rolled_back_and_blocked(self, lab, tmp_path):
        ids, root = self.upload(lab, "ep", 3), lab.identity("root", "admin")
        with self.asking(lab, "ada", "operator") as trainer:
            ada = trainer.episodes
            ada.label(ids[0], Outcome.SUCCESS)
            world = self.shelve(lab, 2.0, kind="world_model", lineage={"stage": "refine", "episodes": ids[:2]})
            made = make_checkpoint(tmp_path / "made", 1.0, lineage={"stage": "grpo", "world_model": world})
            with Trainer(lab.service.address, root) as admin:
                weights = admin.checkpoints
                weights.publish(tmp_path / "made")
                answer = weights.why(made.id, verify=True)
                assert answer["counts"] == {"world_model": 1, "dataset": 1, "label": 1, "episode": 2}
                assert (answer["labels_by"], answer["damage"]) == ({"operator:ada": 1}, [])
                whole = json.loads(weights.lineage_json(made.id))
                assert {node["id"] for node in whole["nodes"]} >= {made.id, world, ids[0], ids[1]}
                weights.roll_back(made.id, reason="it was better")
                assert [row.sequence for row in lab.service.meta.releases("default")] == [1, 2]
                ada.label(ids[0], Outcome.FAILURE)
                [changed] = weights.why(made.id)["changed_labels"]
                assert (changed["was"], changed["is"]) == ("success", "failure")
                assert {one.id for one in ada.retract(ids[0], "dark")} >= {world, made.id}
                assert weights.why(made.id)["retracted"][0]["id"] == ids[0]
        refused = lab.page("POST", f"/checkpoints/{made.id}/promote", identity=root, form={})
        assert refused.status >= 400
        assert "retracted by operator:ada: dark" in refused.text
        kinds = [entry.kind for entry in lab.service.trails.of("default").log.entries]
        assert kinds == ["label", "publish", "roll back", "label", "retract"]

    def test_a_checkpoint_that_has_won_is_promoted_on_the_page(self, lab):
        name, root = self.shelve(lab, 1.0), lab.identity("root", "admin")
        refused = lab.page("POST", f"/checkpoints/{name}/promote", identity=root, form={})
        assert refused.status == 412
        lab.service.handlers.flows.has_won = lambda tenant, checkpoint_id: True
        answer = lab.page("POST", f"/checkpoints/{name}/promote", identity=root, form={})
        assert answer.status == 200, answer.text
        [release] = lab.service.meta.releases("default")
        assert json.loads(release.payload)["kind"] == "promotion"
        assert lab.service.meta.checkpoint("default", name) is not None
        assert [entry.kind for entry in lab.service.trails.of("default").log.entries] == ["promote"]

    def test_jobs_are_submitted_worked_on_and_cancelled(self, lab):
        with self.asking(lab, "ana", "operator") as ana, self.asking(lab, "gpu", "trainer") as gpu:
            jobs, trainer = ana.jobs, gpu.jobs
            first, second = (jobs.submit("improve", {"policy": "policy-1"}, key=key) for key in ("a", "b"))
            assert jobs.submit("improve", {"policy": "policy-1"}, key="a").job_id == first.job_id
            claimed = trainer.claim(["improve"])
            assert claimed.job_id == first.job_id
            trainer.report(first.job_id, events=[("progress", {"step": 1})])
            trainer.report(first.job_id, state="done", result={"candidates": []})
            assert [event.kind for event in jobs.watch(first.job_id)] == ["state", "state", "progress", "state"]
            assert jobs.cancel(second.job_id).state == "cancelled"
            assert {job.state for job in jobs.list()} == {"done", "cancelled"}
        entries = lab.service.trails.of("default").log.entries
        assert [(entry.kind, entry.data["by"]) for entry in entries] == [("submit", "ana")] * 2 + [("cancel", "ana")]

    def test_tenants_share_ids_and_nothing_else(self, lab):
        self.upload(lab, "ep", 1)
        with self.asking(lab, "zoe", "operator", "acme") as zoe, pytest.raises(NotFoundError):
            zoe.episodes.retract("ep-0", "not mine")
        assert lab.service.trails.of("acme").log.entries == ()
        assert "ep-0" not in lab.service.trails.of("acme").graph

    def test_what_was_done_is_there_after_a_restart_and_the_doctor_finds_no_fault(self, tmp_path, database_url):
        with Lab(tmp_path, {"database_url": database_url}) as lab:
            ids, root = self.upload(lab, "ep", 2), lab.identity("root", "admin")
            name = self.shelve(lab, 1.0, lineage={"episodes": ids})
            with self.asking(lab, "ada", "operator") as trainer:
                ada = trainer.episodes
                ada.label(ids[0], Outcome.SUCCESS)
            assert lab.page("POST", f"/checkpoints/{name}/publish", identity=root, form={}).status == 200
            head, config = lab.service.trails.of("default").log.head, lab.service.config
        faults = [found for found in examine(config, deep=True) if found.state == "fault"]
        assert faults == []
        with Lab(tmp_path, {"database_url": database_url}) as lab:
            trail = lab.service.trails.of("default")
            assert trail.log.head == head
            assert trail.explain(name, verify=True)["counts"] == {"dataset": 1, "episode": 2}
            with lab.service._database.transaction() as connection:
                assert damage_in(connection, "default") == []
            with pytest.raises(GymnastError):
                trail.explain("policy-none")
