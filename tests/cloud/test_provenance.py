"""Provenance: complete answers, retraction and taint, every changed byte named. Times are of this process alone."""

import re
import time
from contextlib import closing
from functools import partial

import pytest

from cloud_trainer.records.graph import ProvenanceGraph
from cloud_trainer.records.graph_check import damage_in
from cloud_trainer.store.database import Database
from gymnast_core.records.lineage import Damage, ProvenanceError, Record
from tests.contracts.store_contract import at_once

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
def database(database_url):
    with closing(Database(database_url)) as made:
        yield made


@pytest.fixture
def graph(database):
    graph = ProvenanceGraph(database)
    fill(graph)
    return graph


def test_why_returns_every_ancestor_and_nothing_else(graph):
    lineage = graph.why(CHECKPOINT)
    assert lineage.root.id == CHECKPOINT
    expected = {CHECKPOINT, "policy-base", "wm-1", "audit-1", "dataset-1"}
    expected |= {f"{kind}-{i}" for kind in ("ep", "label") for i in range(3)}
    assert {node.id for node in lineage.nodes} == expected
    assert len(lineage.nodes) == len(expected)
    assert next(node for node in lineage.nodes if node.kind == "audit").payload == {"agreement": 0.85}
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


def whole(database, tenant="default"):
    with database.transaction() as connection:
        return damage_in(connection, tenant)


def test_records_survive_reopening_and_a_second_identical_write(graph, database):
    again = ProvenanceGraph(database)
    fill(again)
    assert len(again.why(CHECKPOINT).nodes) == 11
    assert whole(database) == []


def test_tenants_graphs_do_not_meet(graph, database):
    other = ProvenanceGraph(database, "acme")
    assert CHECKPOINT not in other
    fill(other, 2)
    assert len(other.why(CHECKPOINT).nodes) == 9
    assert len(graph.why(CHECKPOINT).nodes) == 11
    graph.retract("ep-1", reason="x", by="a", at_ns=5)
    other.check_promotable(CHECKPOINT)
    assert other.affected_by_role("ep-1", "retracts") == []
    assert (whole(database), whole(database, "acme")) == ([], [])


def test_what_was_read_in_a_transaction_that_came_to_nothing_is_forgotten(graph, database):
    def add(outcome, *, fail):
        with database.transaction():
            graph.add_many([label(50, outcome, "ep-0"), Record("policy-late", "policy", {}, (("on", "label-50"),))])
            assert [node.id for node in graph.why("policy-late").nodes][:2] == ["policy-late", "label-50"]
            if fail:
                graph.get("ghost")

    with pytest.raises(ProvenanceError, match="ghost"):
        add("failure", fail=True)
    assert "policy-late" not in graph
    graph.add(Record("policy-alone", "policy", {}))  # under the number that label-50 had
    assert [node.id for node in graph.why("policy-alone").nodes] == ["policy-alone"]
    add("success", fail=False)
    assert graph.verify("policy-late") == []
    assert whole(database) == []


def test_writers_at_once_keep_one_chain(graph, database):
    def write(offset):
        for number in range(15):
            graph.add(label(100 * offset + number, "success", f"ep-{number % 3}"))

    at_once([partial(write, offset) for offset in range(2, 6)])
    assert whole(database) == []
    assert sum(len(graph.affected_by_role(f"ep-{n}", "labels")) for n in range(3)) == 63


def test_an_id_is_never_reused_for_something_else(graph):
    with pytest.raises(ProvenanceError, match="never reused"):
        graph.add(Record("ep-1", "episode", {"digest": "other"}, (("acted_by", "policy-base"),)))


def test_unknown_parents_and_ids_are_refused_and_nothing_is_half_written(graph):
    with pytest.raises(ProvenanceError, match="ghost"):
        graph.add_many([Record("fine", "episode", {}), Record("bad", "label", {}, (("labels", "ghost"),))])
    assert "fine" not in graph
    for ask in (graph.why, graph.why_json, graph.affected, graph.taints, graph.verify, graph.counts_above):
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
    (only,) = graph.affected_by_role("ep-1", "retracts")
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
    "payload of an episode": ("UPDATE records SET payload = '{\"digest\":\"0\"}' WHERE id = 'ep-1'", "ep-1"),
    "one letter of a label": (
        "UPDATE records SET payload = replace(payload, 'success', 'succexs') WHERE id = 'label-1'",
        "label-1",
    ),
    "kind": ("UPDATE records SET kind = 'dataset' WHERE id = 'audit-1'", "audit-1"),
    "hash": ("UPDATE records SET link = zeroblob(32) WHERE id = 'ep-2'", "ep-2"),
    "parents": ("UPDATE records SET parent_links = zeroblob(32) WHERE id = 'label-2'", "label-2"),
    "role": ("UPDATE records SET roles = x'01' WHERE id = 'wm-1'", "wm-1"),
    "number of a parent": ("UPDATE records SET parents = x'ff00000000000000' WHERE id = 'label-2'", WRONG),
    "removed, the newest": ("DELETE FROM records WHERE id = 'policy-other'", None),
    "removed": ("DELETE FROM records WHERE id = 'ep-0'", "record 2, a parent of label-0,"),
}


@pytest.mark.parametrize(("statement", "named"), CHANGES.values(), ids=CHANGES.keys())
def test_a_change_anywhere_below_a_checkpoint_is_named(graph, database, statement, named):
    with database.transaction() as connection:
        if connection.dialect.name == "postgresql":
            statement = re.sub("x'(.*)'", r"'\\x\1'", statement.replace("zeroblob(32)", f"x'{'00' * 32}'"))
        assert connection.exec_driver_sql(statement).rowcount == 1
    assert named is None or named in {damage.id for damage in graph.verify(CHECKPOINT)}
    assert whole(database) != []


def test_a_record_replaced_together_with_its_hash_is_named_by_its_children(graph, database):
    other = ProvenanceGraph(database, "forger")
    other.add(Record("policy-base", "policy", {"code": "abc1"}))
    other.add(Record("ep-1", "episode", {"digest": "forged"}, (("acted_by", "policy-base"),)))
    forged = "(SELECT {} FROM records AS other WHERE other.tenant = 'forger' AND other.id = 'ep-1')"
    payload, link = forged.format("payload"), forged.format("link")
    with database.transaction() as connection:
        connection.exec_driver_sql(
            f"UPDATE records SET payload = {payload}, link = {link} WHERE tenant = 'default' AND id = 'ep-1'"
        )
    assert Damage("ep-1", "was replaced after label-1 was made from it") in graph.verify(CHECKPOINT)


def test_an_untouched_graph_verifies(graph, database):
    assert whole(database) == []
    assert graph.verify(CHECKPOINT) == []


def build_large(folder, episodes):
    graph = ProvenanceGraph(Database(f"sqlite:///{folder / 'store.db'}"))
    fill(graph, episodes)
    return graph


def test_why_is_complete_and_quick_at_ten_thousand_episodes(tmp_path):
    graph = build_large(tmp_path, 10_000)
    started = time.process_time()
    lineage = graph.why(CHECKPOINT)
    assert time.process_time() - started < 1.0
    assert len(lineage.nodes) == 20_005
    assert len(lineage.roles_E) == 30_005


@pytest.mark.slow
def test_why_is_complete_and_quick_at_a_hundred_thousand_episodes(tmp_path):
    graph = build_large(tmp_path, 100_000)
    best = 9.9
    for _ in range(3):
        started = time.process_time()
        assert len(graph.why(CHECKPOINT).nodes) == 200_005
        best = min(best, time.process_time() - started)
    assert best < 1.0
