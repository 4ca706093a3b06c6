"""Manifests and labels become a graph that explains a checkpoint down to who labelled what."""

import json
from contextlib import closing

import pytest

from cloud_trainer.records.graph import ProvenanceGraph
from cloud_trainer.records.provenance import (
    episode_record,
    explain,
    label_record,
    record_checkpoint,
    record_dataset,
)
from cloud_trainer.store.database import Database
from gymnast_core.records.lineage import ProvenanceError
from gymnast_core.records.manifest import Manifest


@pytest.fixture
def graph(database_url):
    with closing(Database(database_url)) as database:
        yield ProvenanceGraph(database)


def record_episode(graph, name, **fields):
    graph.add(episode_record(graph, name, **fields))


def record_label(graph, name, **fields):
    record = label_record(graph, name, number=len(graph.affected_by_role(name, "labels")), **fields)
    graph.add(record)
    return record.id


def manifest(kind, parents=(), **lineage):
    return Manifest(kind, f"compact_{kind}", {"width": 64}, "0" * 64, 10, tuple(parents), lineage=lineage)


def make_policy(graph):
    base, judge = manifest("policy", stage="sft", seed=1), manifest("judge", stage="judge")
    for known in (base, judge):
        record_checkpoint(graph, known)
    for number in range(3):
        facts = {"robot": "bridge-1", "seed": number, "policy_versions": [base.id]}
        record_episode(graph, f"ep-{number}", digest=f"{number:064x}", facts=facts)
    record_label(graph, "ep-0", outcome="success", by="operator:ana")
    record_label(graph, "ep-1", outcome="failure", by=f"judge:{judge.id}", evidence={"votes": [0, 0, 1]})
    world_model = manifest("world_model", stage="refine", episodes=["ep-0", "ep-1", "ep-2"])
    record_checkpoint(graph, world_model)
    policy = manifest(
        "policy", [base.id], stage="grpo", code_version="0.1.0", world_model=world_model.id, judge=judge.id,
        audit={"agreement": 0.85}, starts=["ep-2"],
    )  # fmt: skip
    record_checkpoint(graph, policy)
    return base, judge, world_model, policy


def test_a_checkpoint_is_explained_down_to_labels_and_who_gave_them(graph):
    base, judge, world_model, policy = make_policy(graph)
    answer = explain(graph, policy.id, verify=True)
    assert answer["counts"] == {
        "policy": 1, "world_model": 1, "judge": 1, "audit": 1, "dataset": 2, "episode": 3, "label": 2,
    }  # fmt: skip
    assert answer["labels_by"] == {"operator:ana": 1, f"judge:{judge.id}": 1}
    assert {row["id"] for row in answer["checkpoints"]} == {base.id, judge.id, world_model.id}
    assert answer["made_from"]["lineage"]["code_version"] == "0.1.0"
    assert answer["audits"][0]["agreement"] == 0.85
    assert (answer["retracted"], answer["changed_labels"], answer["damage"]) == ([], [], [])


def test_the_whole_graph_is_returned_as_json(graph):
    policy = make_policy(graph)[-1]
    whole = json.loads(graph.why_json(policy.id))
    assert whole["nodes"][0]["id"] == policy.id
    named = {(whole["nodes"][c]["id"], role, whole["nodes"][p]["id"]) for c, role, p in whole["edges"]}
    assert named == set(graph.why(policy.id).edges())
    assert [node["payload"] for node in whole["nodes"]] == [node.payload for node in graph.why(policy.id).nodes]


def test_a_label_corrected_after_training_shows_in_the_explanation(graph):
    policy = make_policy(graph)[-1]
    record_label(graph, "ep-1", outcome="success", by="operator:bea")
    (changed,) = explain(graph, policy.id)["changed_labels"]
    assert (changed["was"], changed["is"], changed["by"]) == ("failure", "success", "operator:bea")


def test_a_label_given_back_and_forth_keeps_its_whole_history(graph):
    make_policy(graph)
    ids = [record_label(graph, "ep-0", outcome=outcome, by="operator:ana") for outcome in ("failure", "success")]
    assert len(set(ids)) == 2
    assert len(graph.affected_by_role("ep-0", "labels")) == 3


def test_a_retracted_episode_blocks_every_checkpoint_above_it(graph):
    base, _, world_model, policy = make_policy(graph)
    touched = {node.id for node in graph.retract("ep-2", reason="gripper was broken", by="operator:ana", at_ns=1)}
    assert {world_model.id, policy.id} <= touched
    with pytest.raises(ProvenanceError, match="gripper was broken"):
        graph.check_promotable(policy.id)
    graph.check_promotable(base.id)
    assert explain(graph, policy.id)["retracted"][0]["id"] == "ep-2"


def test_datasets_are_the_same_record_when_they_hold_the_same_labels(graph):
    make_policy(graph)
    first = record_dataset(graph, ["ep-0", "ep-1"])
    assert record_dataset(graph, ["ep-1", "ep-0"]) == first
    record_label(graph, "ep-0", outcome="failure", by="operator:ana")
    assert record_dataset(graph, ["ep-0", "ep-1"]) != first


def test_parents_made_elsewhere_are_shown_as_the_end_of_the_trail(graph):
    made = manifest("policy", ["policy-from-another-lab"], episodes=[{"id": "ep-x", "digest": "d"}])
    record_checkpoint(graph, made)
    (external,) = graph.above(made.id, "external")
    assert external.id == "policy-from-another-lab"
    assert graph.get("ep-x").payload["digest"] == "d"


def test_episodes_given_with_their_labels_are_recorded_with_them(graph):
    entry = {"id": "ep-x", "digest": "d", "outcome": "success", "labelled_by": "operator:sim"}
    record_checkpoint(graph, manifest("judge", episodes=[entry]))
    (label,) = graph.affected_by_role("ep-x", "labels")
    assert (label.payload["outcome"], label.payload["by"]) == ("success", "operator:sim")
