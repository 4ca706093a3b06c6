"""Provenance whose parts come in any order, and under the ids of others: nothing hides what was withdrawn."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_trainer.records.graph import ProvenanceGraph
from cloud_trainer.records.graph_check import damage_in
from cloud_trainer.records.provenance import explain, record_checkpoint
from cloud_trainer.records.recorder import Recorder
from cloud_trainer.service import Service, ServiceConfig
from cloud_trainer.service.doctor import examine
from cloud_trainer.store.database import Database
from cloud_trainer.store.protocols import CheckpointRow, EpisodeRow
from cloud_trainer.store.sql_meta import SqlMetaStore
from gymnast_client import Trainer
from gymnast_core.errors import NotTrustedError
from gymnast_core.records.lineage import LABELS, ProvenanceError, Record
from gymnast_core.records.manifest import Manifest
from gymnast_core.wire.identity import Peer
from tests.bridge.conftest import make_checkpoint
from tests.hostile.lab import Lab

ADMIN = Peer("ada", "admin", "default")


def manifest(number: int, kind: str = "policy", **fields: object) -> Manifest:
    return Manifest(kind, "toy", {"number": number}, "a" * 64, 10, **fields)  # type: ignore[arg-type]


def episode(name: str) -> EpisodeRow:
    digest = name.encode().hex().ljust(64, "0")[:64]
    return EpisodeRow(0, "default", name, "wx-1", digest, 1, 0, "valid", steps=3, policy_version="p")


def family(choose: random.Random) -> list[Manifest | EpisodeRow]:
    """Episodes and checkpoints, of which each names some that are before it."""
    made: list[Manifest] = []
    names = [f"ep-{number}" for number in range(3)]
    for number in range(5):
        older = [one.id for one in made]
        lineage: dict[str, object] = {"episodes": choose.sample(names, choose.randint(1, 3))}
        worlds = [one.id for one in made if one.kind == "world_model"]
        if worlds and choose.random() < 0.7:
            lineage |= {"world_model": choose.choice(worlds), "audit": {"agreement": 0.5}}
        parents = tuple(choose.sample(older, min(len(older), choose.randint(0, 2))))
        made.append(manifest(number, choose.choice(["policy", "world_model"]), parents=parents, lineage=lineage))
    return [*made, *map(episode, names)]


def answers(folder: Path, things: list[Manifest | EpisodeRow]) -> dict[str, object]:
    """What is known of each thing once all have come in this order, with one episode withdrawn."""
    with closing(Database(f"sqlite:///{folder / 'store.db'}")) as database:
        recorder = Recorder(database)
        meta = SqlMetaStore(database, recorder)
        for thing in things:
            if isinstance(thing, EpisodeRow):
                meta.add_episodes([thing])
            else:
                recorder.checkpoint("default", thing)
        graph = recorder.graph("default")
        graph.retract("ep-0", reason="x", by="a", at_ns=5)
        found: dict[str, object] = {}
        for name in sorted(thing.episode_id if isinstance(thing, EpisodeRow) else thing.id for thing in things):
            lineage = graph.why(name)
            assert lineage.root.id == name
            assert graph.verify(name) == []
            found[name] = {
                "nodes": sorted(lineage.nodes),
                "edges": sorted(lineage.edges()),
                "counts": graph.counts_above(name),
                "affected": sorted(node.id for node in graph.affected(name) if node.kind != "retraction"),
                "taints": [what.id for what, _ in graph.taints(name)],
            }
        with database.transaction() as connection:
            assert damage_in(connection, "default") == []
        return found


@given(st.randoms(use_true_random=False))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_graph_is_the_same_in_whatever_order_its_parts_come(tmp_path_factory, choose):
    things = family(choose)
    mixed = list(things)
    choose.shuffle(mixed)
    in_order, shuffled = (answers(tmp_path_factory.mktemp("graph"), some) for some in (things[5:] + things[:5], mixed))
    assert shuffled == in_order


def test_a_parent_that_is_delivered_after_its_child_is_found_by_whoever_asks_why(tmp_path):
    base = make_checkpoint(tmp_path / "base", 1.0, lineage={"episodes": ["ep-1"]})
    child = make_checkpoint(tmp_path / "child", 2.0, parents=(base.id,))
    with Lab(tmp_path) as lab, Trainer(lab.service.address, lab.identity("cluster", "trainer")) as there:
        there.checkpoints.publish(tmp_path / "child")
        assert {"id": base.id, "kind": "external"} in there.checkpoints.why(child.id)["checkpoints"]
        there.checkpoints.publish(tmp_path / "base")
        why = there.checkpoints.why(child.id, verify=True)
        assert {"id": base.id, "kind": "policy"} in why["checkpoints"]
        assert why["counts"] == {"policy": 1, "dataset": 1, "external": 1}
        assert why["damage"] == []
        lab.service.meta.add_episodes([episode("ep-1")])
        lab.service.handlers.episodes.retract(ADMIN, "ep-1", "the camera was covered")
        assert [row["id"] for row in there.checkpoints.why(child.id)["retracted"]] == ["ep-1"]
        with pytest.raises(NotTrustedError, match="the camera was covered"):
            lab.service.handlers.checkpoints.offer(ADMIN, child.id)
    found = [row for row in examine(ServiceConfig(folder=tmp_path / "trainer")) if row.check == "graph"]
    assert [row.state for row in found] == ["ok"]


def test_a_label_of_a_placeholder_is_a_label_of_the_episode_that_comes(tmp_path):
    with closing(Database(f"sqlite:///{tmp_path / 'store.db'}")) as database:
        graph = ProvenanceGraph(database)
        entries = [{"id": "ep-1", "outcome": "success", "labelled_by": "operator:ana"}, "ep-2"]
        made = manifest(1, lineage={"episodes": [entries[0] | {"digest": "a" * 64}, entries[1]]})
        record_checkpoint(graph, made)
        graph.add(Record("ep-2", "episode", {"digest": "b" * 64}))
        assert graph.counts_by_role(["ep-1", "ep-2"], LABELS) == {"ep-1": 1}
        assert graph.kinds(["ep-2"]) == {"ep-2": "episode"}
        graph.add(Record("label-1", "label", {"outcome": "failure", "by": "operator:ben"}, ((LABELS, "ep-1"),)))
        assert [new.id for _, new in graph.changed_labels(made.id)] == ["label-1"]
        assert explain(graph, made.id, verify=True)["damage"] == []
        with pytest.raises(ProvenanceError, match="other content"):
            graph.add(Record("ep-2", "episode", {"digest": "c" * 64}))


def squat(service: Service, name: str) -> None:
    """Leave an episode under a record's id, as a robot could until ids were checked on their way in."""
    service.meta.add_episodes([episode(name)])


def test_an_episode_that_bears_the_id_of_a_record_hides_nothing_and_is_named(tmp_path):
    members = ["ep-1", "ep-2"]
    made = [make_checkpoint(tmp_path / f"c{number}", number, lineage={"episodes": members}) for number in (1.0, 2.0)]
    with closing(Database("sqlite://")) as scratch:
        graph = ProvenanceGraph(scratch)
        record_checkpoint(graph, made[0])
        [dataset] = graph.above(made[0].id, "dataset")
    with Lab(tmp_path) as lab, Trainer(lab.service.address, lab.identity("cluster", "trainer")) as there:
        for name in (dataset.id, made[1].id):
            squat(lab.service, name)
        lab.service.meta.add_episodes(list(map(episode, members)))
        there.checkpoints.publish(tmp_path / "c1.0")
        assert there.checkpoints.why(made[0].id)["counts"] == {"dataset": 1, "episode": 2}
        lab.service.handlers.episodes.retract(ADMIN, "ep-1", "spilled")
        with pytest.raises(NotTrustedError, match="spilled"):
            lab.service.handlers.checkpoints.offer(ADMIN, made[0].id)
        with pytest.raises(ProvenanceError, match="is recorded as kind episode"):
            there.checkpoints.publish(tmp_path / "c2.0")
    found = [row for row in examine(ServiceConfig(folder=tmp_path / "trainer")) if row.check == "graph"]
    assert [row.state for row in found] == ["ok", "warning"]
    assert all(name in found[1].what for name in (dataset.id, made[1].id))


@pytest.mark.parametrize(
    ("lineage", "parents"),
    [({"episodes": ["policy-0123456789abcdef"]}, ()), ({}, ("ep-1",)), ({"world_model": "ep-1"}, ()),
     ({"policy": "dataset-1"}, ())],
)  # fmt: skip
def test_a_manifest_that_takes_a_record_for_what_it_is_not_is_refused_by_name(tmp_path, lineage, parents):
    make_checkpoint(tmp_path / "made", 1.0, lineage=lineage, parents=parents)
    with Lab(tmp_path) as lab, Trainer(lab.service.address, lab.identity("cluster", "trainer")) as there:
        graph = lab.service.trails.of("default").graph
        graph.add_many(
            [Record("ep-1", "episode", {}), Record("dataset-1", "dataset", {}, (("holds", "ep-1"),)),
             Record("policy-0123456789abcdef", "policy", {})]
        )  # fmt: skip
        with pytest.raises(ProvenanceError, match="recorded as kind"):
            there.checkpoints.publish(tmp_path / "made")
        assert lab.service.meta.releases("default") == []


def test_what_an_older_version_left_a_placeholder_for_is_recorded_at_the_next_start(tmp_path):
    base = manifest(1)
    child = manifest(2, parents=(base.id,), lineage={"episodes": ["ep-9"]})
    config = ServiceConfig(folder=tmp_path / "trainer")
    with Service(config) as service:
        record_checkpoint(service.trails.of("default").graph, child)
    with closing(Database(f"sqlite:///{config.folder / 'store.db'}")) as database:
        meta = SqlMetaStore(database)  # without a witness: that version took the placeholder for the record
        meta.add_checkpoint(CheckpointRow("default", base.id, "policy", base.to_bytes(), "a" * 64, 10, 1))
        meta.add_episodes([episode("ep-9")])
    with Service(config) as service:
        kinds = service.trails.of("default").graph.kinds([base.id, "ep-9"])
    assert kinds == {base.id: "policy", "ep-9": "episode"}
