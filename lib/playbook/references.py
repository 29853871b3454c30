"""Foreign keys and sequences against the rows there are. Layer 3: reads only.

PostgreSQL trusts a foreign key that it has validated, and never compares a sequence with its
column. Rows that were loaded with triggers disabled, or copied with their ids, break both unseen.
"""

from __future__ import annotations

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.database import fetch, fetch_value, identifier
from playbook.records import ColumnSequence, ForeignKey, SequenceBehind

__all__ = ["column_sequences", "count_orphans", "foreign_keys", "sequence_behind"]

FOREIGN_KEYS = """
SELECT n.nspname || '.' || c.relname, o.conname, pn.nspname || '.' || p.relname,
       array_agg(a.attname::text ORDER BY k.i), array_agg(pa.attname::text ORDER BY k.i),
       array_agg(opn.nspname::text ORDER BY k.i), array_agg(op.oprname::text ORDER BY k.i),
       o.confmatchtype = 'f', o.convalidated, c.relkind = 'p', p.relkind = 'p'
FROM pg_constraint AS o
JOIN pg_class AS c ON c.oid = o.conrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_class AS p ON p.oid = o.confrelid JOIN pg_namespace AS pn ON pn.oid = p.relnamespace
CROSS JOIN LATERAL unnest(o.conkey, o.confkey, o.conpfeqop)
                   WITH ORDINALITY AS k (child, parent, operator, i)
JOIN pg_attribute AS a ON a.attrelid = o.conrelid AND a.attnum = k.child
JOIN pg_attribute AS pa ON pa.attrelid = o.confrelid AND pa.attnum = k.parent
JOIN pg_operator AS op ON op.oid = k.operator
JOIN pg_namespace AS opn ON opn.oid = op.oprnamespace
WHERE o.contype = 'f' AND o.conparentid = 0
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'playbook')
  AND coalesce(to_jsonb(o) ->> 'conperiod', 'false') = 'false'
GROUP BY o.oid, n.nspname, c.relname, o.conname, pn.nspname, p.relname, o.confmatchtype,
         o.convalidated, c.relkind, p.relkind
ORDER BY 1, 2
"""

SEQUENCES = """
SELECT DISTINCT n.nspname || '.' || c.relname, a.attname::text, sn.nspname || '.' || s.relname,
       q.seqincrement
FROM pg_class AS s
JOIN pg_namespace AS sn ON sn.oid = s.relnamespace
JOIN pg_sequence AS q ON q.seqrelid = s.oid AND NOT q.seqcycle
JOIN (SELECT objid AS sequence, refobjid AS relation, refobjsubid AS number FROM pg_depend
      WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass
        AND deptype IN ('a', 'i') AND refobjsubid > 0
      UNION
      SELECT d.refobjid, f.adrelid, f.adnum FROM pg_attrdef AS f
      JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
      WHERE d.refclassid = 'pg_class'::regclass AND d.deptype = 'n'
     ) AS used ON used.sequence = s.oid
JOIN pg_class AS c ON c.oid = used.relation AND c.relkind IN ('r', 'p') AND NOT c.relispartition
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = used.number AND NOT a.attisdropped
WHERE s.relkind = 'S'
  AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype)
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'playbook')
ORDER BY 1, 2, 3
"""


def foreign_keys(connection: Connection) -> list[ForeignKey]:
    """Return the foreign keys outside PostgreSQL's and the playbook's schemas, sorted.

    Those that partitions take over from their parent are left out, and so are temporal ones
    (PERIOD, from PostgreSQL 18 on), which mean ranges.

    Source: pg_constraint (conpfeqop are the operators that compare the two sides).
    """
    return [
        ForeignKey(
            table, constraint, parent, tuple(columns), tuple(theirs),
            tuple(zip(schemas, operators, strict=True)), full, validated, (whole, parent_whole),
        )
        for table, constraint, parent, columns, theirs, schemas, operators, full, validated,
        whole, parent_whole in fetch(connection, FOREIGN_KEYS)
    ]  # fmt: skip


def count_orphans(connection: Connection, key: ForeignKey) -> int:
    """Return how many rows refer to a parent that is not there.

    Under MATCH FULL a row with some of its columns NULL is one as well; under MATCH SIMPLE it
    refers to nothing.
    """
    child = [sql.SQL("c.{}").format(sql.Identifier(name)) for name in key.columns]
    theirs = [sql.SQL("p.{}").format(sql.Identifier(name)) for name in key.parent_columns]
    equal = [
        sql.SQL("{} OPERATOR({}.{}) {}").format(left, sql.Identifier(schema), sql.SQL(name), right)
        for left, right, (schema, name) in zip(theirs, child, key.operators, strict=True)
    ]
    query = sql.SQL(
        "SELECT count(*) FROM {} AS c WHERE num_nulls({}) = 0 "
        "AND NOT EXISTS (SELECT FROM {} AS p WHERE {})"
    )
    columns = sql.SQL(", ").join(child)
    found = query.format(
        _rows_of(key.table, key.whole[0]), columns,
        _rows_of(key.parent, key.whole[1]), sql.SQL(" AND ").join(equal),
    )  # fmt: skip
    orphans = int(fetch_value(connection, found))
    if key.match_full and len(child) > 1:
        query = sql.SQL("SELECT count(*) FROM {} AS c WHERE num_nulls({}) BETWEEN 1 AND {}")
        partly = query.format(
            _rows_of(key.table, key.whole[0]), columns, sql.Literal(len(child) - 1)
        )
        orphans += int(fetch_value(connection, partly))
    return orphans


def _rows_of(table: str, whole: bool) -> sql.Composable:
    """Return what a foreign key's own check reads: tables that inherit are none of its business."""
    return sql.SQL("{}" if whole else "ONLY {}").format(identifier(table))


def column_sequences(connection: Connection) -> list[ColumnSequence]:
    """Return the sequences that number columns: serial, identity, or named in a default.

    Those that begin again after their last value are left out.

    Source: pg_depend (deptype a: OWNED BY, i: identity, n: the default's), pg_sequence.
    """
    return [ColumnSequence(*row) for row in fetch(connection, SEQUENCES)]


def sequence_behind(connection: Connection, item: ColumnSequence) -> SequenceBehind | None:
    """Return how far a sequence is behind its column, or None if its next value is new."""
    reach = sql.SQL("max" if item.increment > 0 else "min")
    query = sql.SQL(
        "SELECT CASE WHEN is_called THEN last_value + {} ELSE last_value END, "
        "(SELECT {}({}) FROM {}) FROM {}"
    ).format(
        sql.Literal(item.increment), reach, sql.Identifier(item.column), identifier(item.table),
        identifier(item.sequence),
    )  # fmt: skip
    next_value, reached = fetch(connection, query)[0]
    if reached is None or (next_value - reached) * item.increment > 0:
        return None
    return SequenceBehind(item.table, item.column, item.sequence, next_value, int(reached))
