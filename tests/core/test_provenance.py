"""Provenance: complete answers, retraction and taint, every changed byte named. Times are of this process alone."""

import sqlite3
import time

import pytest

from gymnast_core.records.lineage import Damage, Record
from gymnast_core.records.provenance import ProvenanceError, ProvenanceGraph

CHECKPOINT = "policy-new"


def label(number, outcome, episode, by="operator:ana"):
    return Record(f"label-{number}", "label", {"outcome": outcome, "by": by}, (("labels", episode),))


def fill(graph, episodes=3):
    """base policy -> episodes -> labels -> dataset -> world model -> audit -> new policy."""
    graph.add(Record("policy-base", "policy", {"code": "abc1"}))
    graph.add_many(
        Record(f"ep-{i}", "episode", {"digest": f"{i:064x}"}, (("acted_by", "policy-base"),)) for i in range(episodes)
    )
    graph.add_many(label(i, "success" if i % 2 else "failure", f"ep-{i}") for i in range(episodes))
    graph.add(Record("dataset-1", "dataset", {"n": episodes}, tuple(("holds", f"label-{i}") for i in range(episodes))))
    graph.add(Record("wm-1", "world_model", {}, (("trained_on", "dataset-1"),)))
    graph.add(Record("audit-1", "audit", {"agreement": 0.85}, (("of", "wm-1"),)))
    parents = (("parent", "policy-base"), ("dreamt_in", "wm-1"), ("audit", "audit-1"))
    graph.add(Record(CHECKPOINT, "policy", {"code": "def2"}, parents))
    graph.add(Record("policy-other", "policy", {}, (("parent", "policy-base"),)))


@pytest.fixture
def graph(tmp_path):
    graph = ProvenanceGraph(tmp_path / "provenance.db")
    fill(graph)
    yield graph
    graph.close()


def test_why_returns_every_ancestor_and_nothing_else(graph):
    lineage = graph.why(CHECKPOINT)
    assert lineage.root.id == CHECKPOINT
    expected = {CHECKPOINT, "policy-base", "wm-1", "audit-1", "dataset-1"}
    expected |= {f"{kind}-{i}" for kind in ("ep", "label") for i in range(3)}
    assert {node.id for node in lineage.nodes} == expected
    assert len(lineage.nodes) == len(expected)
    assert lineage.of_kind("audit")[0].payload == {"agreement": 0.85}
    assert set(lineage.edges()) == {
        (CHECKPOINT, "parent", "policy-base"),
        (CHECKPOINT, "dreamt_in", "wm-1"),
        (CHECKPOINT, "audit", "audit-1"),
        ("audit-1", "of", "wm-1"),
        ("wm-1", "trained_on", "dataset-1"),
        *((("dataset-1", "holds", f"label-{i}")) for i in range(3)),
        *(((f"label-{i}", "labels", f"ep-{i}")) for i in range(3)),
        *(((f"ep-{i}", "acted_by", "policy-base")) for i in range(3)),
    }


def test_records_survive_reopening_and_a_second_identical_write(graph, tmp_path):
    graph.close()
    again = ProvenanceGraph(tmp_path / "provenance.db")
    fill(again)
    assert len(again.why(CHECKPOINT).nodes) == 11
    assert again.verify() == []
    again.close()


def test_an_id_is_never_reused_for_something_else(graph):
    with pytest.raises(ProvenanceError, match="never reused"):
        graph.add(Record("ep-1", "episode", {"digest": "other"}, (("acted_by", "policy-base"),)))


def test_unknown_parents_and_ids_are_refused_and_nothing_is_half_written(graph):
    with pytest.raises(ProvenanceError, match="ghost"):
        graph.add_many([Record("fine", "episode", {}), Record("bad", "label", {}, (("labels", "ghost"),))])
    assert "fine" not in graph
    for ask in (graph.why, graph.affected, graph.taints, graph.verify):
        with pytest.raises(ProvenanceError, match="not recorded"):
            ask("ghost")


def test_retraction_lists_what_it_touched_and_blocks_only_that(graph):
    touched = graph.retract("ep-1", reason="camera was knocked over", by="operator:ana", at_ns=5)
    assert [node.id for node in touched] == ["label-1", "dataset-1", "wm-1", "audit-1", CHECKPOINT]
    with pytest.raises(ProvenanceError, match="ep-1, retracted by operator:ana: camera was knocked over"):
        graph.check_promotable(CHECKPOINT)
    graph.check_promotable("policy-other")
    graph.check_promotable("policy-base")


def test_a_checkpoint_made_later_from_tainted_data_is_blocked_too(graph):
    graph.retract("ep-1", reason="wrong robot", by="operator:ana", at_ns=5)
    graph.add(Record("policy-child", "policy", {}, (("parent", CHECKPOINT),)))
    assert [(what.id, how.kind) for what, how in graph.taints("policy-child")] == [("ep-1", "retraction")]


def test_retracting_twice_adds_nothing_and_a_retraction_stays(graph):
    graph.retract("ep-1", reason="x", by="a", at_ns=5)
    graph.retract("ep-1", reason="x", by="a", at_ns=5)
    (only,) = graph.of_kind("retraction")
    with pytest.raises(ProvenanceError, match="it stays"):
        graph.retract(only.id, reason="undo", by="a", at_ns=6)


def test_a_label_changed_after_training_is_found(graph):
    assert graph.changed_labels(CHECKPOINT) == []
    graph.add(label(90, "success", "ep-1", by="operator:bea"))  # same outcome as before: nothing changes
    assert graph.changed_labels(CHECKPOINT) == []
    graph.add(label(91, "failure", "ep-1", by="operator:bea"))
    ((used, newest),) = graph.changed_labels(CHECKPOINT)
    assert (used.id, newest.id, newest.payload["by"]) == ("label-1", "label-91", "operator:bea")
    assert graph.changed_labels("policy-other") == []


WRONG = "record 255, a parent of label-2,"
CHANGES = {
    "payload of an episode": ("UPDATE record SET payload = '{\"digest\":\"0\"}' WHERE id = 'ep-1'", "ep-1"),
    "one letter of a label": (
        "UPDATE record SET payload = replace(payload, 'success', 'succexs') WHERE id = 'label-1'",
        "label-1",
    ),
    "kind": ("UPDATE record SET kind = 'dataset' WHERE id = 'audit-1'", "audit-1"),
    "hash": ("UPDATE record SET link = zeroblob(32) WHERE id = 'ep-2'", "ep-2"),
    "parents": ("UPDATE record SET parent_links = zeroblob(32) WHERE id = 'label-2'", "label-2"),
    "role": ("UPDATE record SET roles = x'01' WHERE id = 'wm-1'", "wm-1"),
    "number of a parent": ("UPDATE record SET parents = x'ff00000000000000' WHERE id = 'label-2'", WRONG),
    "removed": ("DELETE FROM record WHERE id = 'ep-0'", "record 2, a parent of label-0,"),
}


@pytest.mark.parametrize(("statement", "named"), CHANGES.values(), ids=CHANGES.keys())
def test_a_change_anywhere_below_a_checkpoint_is_named(graph, tmp_path, statement, named):
    with sqlite3.connect(tmp_path / "provenance.db") as database:
        assert database.execute(statement).rowcount == 1
    database.close()
    assert named in {damage.id for damage in graph.verify(CHECKPOINT)}
    assert graph.verify() != []


def test_a_record_replaced_together_with_its_hash_is_named_by_its_children(graph, tmp_path):
    other = ProvenanceGraph(tmp_path / "other.db")
    other.add(Record("policy-base", "policy", {"code": "abc1"}))
    other.add(Record("ep-1", "episode", {"digest": "forged"}, (("acted_by", "policy-base"),)))
    with sqlite3.connect(tmp_path / "other.db") as source:
        payload, link = source.execute("SELECT payload, link FROM record WHERE id = 'ep-1'").fetchone()
    source.close()
    other.close()
    with sqlite3.connect(tmp_path / "provenance.db") as database:
        database.execute("UPDATE record SET payload = ?, link = ? WHERE id = 'ep-1'", (payload, link))
    database.close()
    assert Damage("ep-1", "was replaced after label-1 was made from it") in graph.verify(CHECKPOINT)


def test_an_untouched_graph_verifies(graph):
    assert graph.verify() == []
    assert graph.verify(CHECKPOINT) == []


def build_large(path, episodes):
    graph = ProvenanceGraph(path)
    fill(graph, episodes)
    return graph


def test_why_is_complete_and_quick_at_ten_thousand_episodes(tmp_path):
    graph = build_large(tmp_path / "large.db", 10_000)
    started = time.process_time()
    lineage = graph.why(CHECKPOINT)
    assert time.process_time() - started < 1.0
    assert len(lineage.nodes) == 20_005
    assert len(lineage.roles_E) == 30_005
    graph.close()


@pytest.mark.slow
def test_why_is_complete_and_quick_at_a_hundred_thousand_episodes(tmp_path):
    graph = build_large(tmp_path / "large.db", 100_000)
    best = 9.9
    for _ in range(3):
        started = time.process_time()
        assert len(graph.why(CHECKPOINT).nodes) == 200_005
        best = min(best, time.process_time() - started)
    assert best < 1.0
    graph.close()
