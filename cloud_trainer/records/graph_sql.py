"""What the provenance graph asks a database, in the words of SQLite and of PostgreSQL; all is of one :tenant.

SQLite keeps tables that are joined by CROSS JOIN in the order in which they are written; left to itself it takes
"tenant = ..." for a condition that few rows meet, and reads every record for one.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import sqlalchemy as sa

NODE = "id, kind, payload"
HASHED = "parents, id, kind, payload, roles, parent_links, link"


class GraphSql(NamedTuple):
    """The statements; each gives rows of what its name says.

    Attributes:
        links: (id, seq, link, kind) of the :names that are recorded.
        node: NODE of :id.
        shape: what Ancestry.add takes, of at most :most records after :after.
        replaced: (seq, number of what replaced it) of placeholders that a record between :after and :last replaced.
        newest: (id, NODE of the newest record that names it as :role) of the :names that are recorded.
        counts: (id, how many records name it as :role) of the :names that any does.
        by_role: NODE of the records that name :id as :role, oldest first.
        affected: NODE of everything made from :id, oldest first.
        retractions: (number of what is retracted, as int64 bytes, NODE) of every retraction, oldest first.
        changed: (seq, NODE, NODE) of every label that a newer one of another outcome follows, and the newest.
        dense: (seq, *columns) between :low and :high, newest first.
        chosen: (seq, *columns) of the :seqs, newest first.
    """

    links: sa.TextClause
    node: sa.TextClause
    shape: sa.TextClause
    replaced: sa.TextClause
    newest: sa.TextClause
    counts: sa.TextClause
    by_role: sa.TextClause
    affected: sa.TextClause
    retractions: sa.TextClause
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
_LIVE = f"{_MINE} AND replaced_by IS NULL"
"""By id: of a placeholder and what replaced it, the latter."""
_BELOW = "below.id, below.kind, below.payload"
_AFFECTED = f"""
WITH RECURSIVE down(seq) AS (
  SELECT seq {_LIVE} AND id = :id
  UNION SELECT edge.child FROM down JOIN record_edges AS edge ON edge.tenant = :tenant AND edge.parent = down.seq
  WHERE edge.role != 'retracts')
SELECT {NODE} {_MINE} AND seq IN (SELECT seq FROM down) AND id != :id ORDER BY seq
"""
_BY_ROLE = f"""
SELECT {_BELOW} FROM records AS above CROSS JOIN record_edges AS edge CROSS JOIN records AS below
WHERE above.tenant = :tenant AND above.id = :id AND above.replaced_by IS NULL
  AND edge.tenant = :tenant AND edge.parent = above.seq AND edge.role = :role
  AND below.tenant = :tenant AND below.seq = edge.child ORDER BY below.seq
"""
_NEWEST = f"""
SELECT above.id, {_BELOW} FROM records AS above
LEFT JOIN records AS below ON below.tenant = above.tenant AND below.seq = (
  SELECT MAX(child) FROM record_edges WHERE tenant = above.tenant AND parent = above.seq AND role = :role)
WHERE above.tenant = :tenant AND above.replaced_by IS NULL AND above.id IN ({{names}})
"""
_COUNTS = """
SELECT above.id, COUNT(edge.child) FROM records AS above
JOIN record_edges AS edge ON edge.tenant = above.tenant AND edge.parent = above.seq AND edge.role = :role
WHERE above.tenant = :tenant AND above.replaced_by IS NULL AND above.id IN ({names}) GROUP BY above.id
"""
_RETRACTIONS = f"SELECT parents, {NODE} {_MINE} AND kind = 'retraction' ORDER BY seq"
_CHANGED = """
SELECT used.seq, used.id, used.kind, used.payload, late.id, late.kind, late.payload
FROM (SELECT parent, MAX(child) AS newest FROM record_edges WHERE tenant = :tenant AND role = 'labels'
      GROUP BY parent HAVING MAX(child) != MIN(child)) AS labelled
CROSS JOIN records AS late CROSS JOIN record_edges AS edge CROSS JOIN records AS used
WHERE late.tenant = :tenant AND late.seq = labelled.newest
  AND edge.tenant = :tenant AND edge.parent = labelled.parent AND edge.role = 'labels' AND edge.child != labelled.newest
  AND used.tenant = :tenant AND used.seq = edge.child AND {used} != {late}
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
        links=sa.text(f"SELECT id, seq, link, kind {_LIVE} AND id IN ({names})"),
        node=sa.text(f"SELECT {NODE} {_LIVE} AND id = :id"),
        shape=sa.text(f"SELECT seq, kind, parents, roles {_MINE} AND seq > :after ORDER BY seq LIMIT :most"),
        replaced=sa.text(f"SELECT seq, replaced_by {_MINE} AND replaced_by > :after AND replaced_by <= :last"),
        newest=sa.text(_NEWEST.format(names=names)),
        counts=sa.text(_COUNTS.format(names=names)),
        by_role=sa.text(_BY_ROLE),
        affected=sa.text(_AFFECTED),
        retractions=sa.text(_RETRACTIONS),
        changed=sa.text(_CHANGED.format(used=outcome.format("used"), late=outcome.format("late"))),
        dense=f"{head} AND seq BETWEEN :low AND :high ORDER BY seq DESC",
        chosen=f"{head} AND seq IN ({seqs}) ORDER BY seq DESC",
        json_node=f"""'{{"id"\\:' || {quote.format("id")} || ',"kind"\\:' || {quote.format("kind")}"""
        """ || ',"payload"\\:' || payload || '}'""",
    )
