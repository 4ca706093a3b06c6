"""What the provenance graph asks a database, in the words of SQLite and of PostgreSQL; all is of one :tenant."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import sqlalchemy as sa

NODE = "id, kind, payload"
HASHED = "parents, id, kind, payload, roles, parent_links, link"


class GraphSql(NamedTuple):
    """The statements; each gives rows of what its name says.

    Attributes:
        links: (id, seq, link) of the :names that are recorded.
        node: NODE of :id.
        shape: what Ancestry.add takes, of at most :most records after :after.
        newest: (id, NODE of the newest record that names it as :role) of the :names that are recorded.
        counts: (id, how many records name it as :role) of the :names that any does.
        by_role: NODE of the records that name :id as :role, oldest first.
        affected: NODE of everything made from :id, oldest first.
        taints: (seq, NODE, NODE) of everything retracted and its retraction.
        changed: (seq, NODE, NODE) of every label that a newer one of another outcome follows, and the newest.
        dense: (seq, *columns) between :low and :high, newest first.
        chosen: (seq, *columns) of the :seqs, newest first.
    """

    links: sa.TextClause
    node: sa.TextClause
    shape: sa.TextClause
    newest: sa.TextClause
    counts: sa.TextClause
    by_role: sa.TextClause
    affected: sa.TextClause
    taints: sa.TextClause
    changed: sa.TextClause
    dense: str
    chosen: str
    json_node: str

    def between(self, columns: str) -> sa.TextClause:
        """See dense."""
        return sa.text(self.dense.format(columns))

    def among(self, columns: str) -> sa.TextClause:
        """See chosen."""
        return sa.text(self.chosen.format(columns))


_MINE = "FROM records WHERE tenant = :tenant"
_BELOW = "below.id, below.kind, below.payload"
_AFFECTED = f"""
WITH RECURSIVE down(seq) AS (
  SELECT seq {_MINE} AND id = :id
  UNION SELECT edge.child FROM down JOIN record_edges AS edge ON edge.tenant = :tenant AND edge.parent = down.seq
  WHERE edge.role != 'retracts')
SELECT {NODE} {_MINE} AND seq IN (SELECT seq FROM down) AND id != :id ORDER BY seq
"""
_BY_ROLE = f"""
SELECT {_BELOW} FROM records AS above
JOIN record_edges AS edge ON edge.tenant = above.tenant AND edge.parent = above.seq AND edge.role = :role
JOIN records AS below ON below.tenant = above.tenant AND below.seq = edge.child
WHERE above.tenant = :tenant AND above.id = :id ORDER BY below.seq
"""
_NEWEST = f"""
SELECT above.id, {_BELOW} FROM records AS above
LEFT JOIN records AS below ON below.tenant = above.tenant AND below.seq = (
  SELECT MAX(child) FROM record_edges WHERE tenant = above.tenant AND parent = above.seq AND role = :role)
WHERE above.tenant = :tenant AND above.id IN ({{names}})
"""
_COUNTS = """
SELECT above.id, COUNT(edge.child) FROM records AS above
JOIN record_edges AS edge ON edge.tenant = above.tenant AND edge.parent = above.seq AND edge.role = :role
WHERE above.tenant = :tenant AND above.id IN ({names}) GROUP BY above.id
"""
_TAINTS = """
SELECT what.seq, what.id, what.kind, what.payload, how.id, how.kind, how.payload FROM record_edges AS edge
JOIN records AS how ON how.tenant = edge.tenant AND how.seq = edge.child AND how.kind = 'retraction'
JOIN records AS what ON what.tenant = edge.tenant AND what.seq = edge.parent
WHERE edge.tenant = :tenant AND edge.role = 'retracts' ORDER BY how.seq
"""
_CHANGED = """
SELECT used.seq, used.id, used.kind, used.payload, late.id, late.kind, late.payload
FROM (SELECT parent, MAX(child) AS newest, MIN(child) AS oldest FROM record_edges
      WHERE tenant = :tenant AND role = 'labels' GROUP BY parent) AS labelled
JOIN records AS late ON late.tenant = :tenant AND late.seq = labelled.newest
JOIN record_edges AS edge ON edge.tenant = :tenant AND edge.parent = labelled.parent AND edge.role = 'labels'
  AND edge.child != labelled.newest
JOIN records AS used ON used.tenant = :tenant AND used.seq = edge.child
WHERE labelled.newest != labelled.oldest AND {used} != {late}
ORDER BY late.seq
"""


@cache
def graph_sql(*, sqlite: bool) -> GraphSql:
    """Return the statements for one kind of database: they differ in JSON alone."""
    if sqlite:
        names, seqs = "SELECT value FROM json_each(:names)", "SELECT value FROM json_each(:seqs)"
        outcome, quote = "json_extract({}.payload, '$.outcome')", "json_quote({})"
    else:
        texts = "FROM json_array_elements_text(CAST(:{} AS json)) AS t(value)"
        names = f"SELECT t.value {texts.format('names')}"
        seqs = f"SELECT CAST(t.value AS bigint) {texts.format('seqs')}"
        outcome, quote = "CAST({}.payload AS json) ->> 'outcome'", "CAST(to_json({}) AS text)"
    head = f"SELECT seq, {{}} {_MINE}"
    return GraphSql(
        links=sa.text(f"SELECT id, seq, link {_MINE} AND id IN ({names})"),
        node=sa.text(f"SELECT {NODE} {_MINE} AND id = :id"),
        shape=sa.text(f"SELECT seq, kind, parents, roles {_MINE} AND seq > :after ORDER BY seq LIMIT :most"),
        newest=sa.text(_NEWEST.format(names=names)),
        counts=sa.text(_COUNTS.format(names=names)),
        by_role=sa.text(_BY_ROLE),
        affected=sa.text(_AFFECTED),
        taints=sa.text(_TAINTS),
        changed=sa.text(_CHANGED.format(used=outcome.format("used"), late=outcome.format("late"))),
        dense=f"{head} AND seq BETWEEN :low AND :high ORDER BY seq DESC",
        chosen=f"{head} AND seq IN ({seqs}) ORDER BY seq DESC",
        json_node=f"""'{{"id"\\:' || {quote.format("id")} || ',"kind"\\:' || {quote.format("kind")}"""
        """ || ',"payload"\\:' || payload || '}'""",
    )
