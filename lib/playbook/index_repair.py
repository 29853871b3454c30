"""Indexes that are not valid, what keeps them from it, and the SQL that mends them. Layer 3: reads.

A concurrent build that failed leaves an index that slows every write and serves no query. Building
it again needs no lock that stops writers; a partitioned index becomes valid by those of its
partitions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.database import fetch, identifier
from playbook.repairs import BrokenIndex

__all__ = ["drop_statements", "rebuild_statements", "reindex_statements", "read_broken_indexes"]

EXAMPLES = 3
COUNT_AT_MOST = "30s"
"""How long a table is searched for rows that break a unique index."""

BROKEN = """
SELECT n.nspname || '.' || t.relname, n.nspname || '.' || c.relname,
       pg_get_indexdef(i.indexrelid), c.relkind::text, i.indisunique,
       coalesce((SELECT o.conname FROM pg_constraint AS o WHERE o.conindid = i.indexrelid
                 AND o.contype IN ('p', 'u', 'x') LIMIT 1), ''),
       coalesce((SELECT min(p.pid) FROM pg_stat_progress_create_index AS p
                 WHERE p.index_relid = i.indexrelid OR p.relid = t.oid), 0),
       c.relname ~ '_cc(new|old)[0-9]*$', i.indexrelid::bigint
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_class AS t ON t.oid = i.indrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT i.indisvalid AND n.nspname !~ '^pg_' ORDER BY 1, 2
"""
KEYS = """
SELECT (SELECT array_agg(pg_get_indexdef(i.indexrelid, k, true) ORDER BY k)
        FROM generate_series(1, i.indnkeyatts) AS k),
       coalesce(pg_get_expr(i.indpred, i.indrelid, true), 'true'),
       coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false)
FROM pg_index AS i WHERE i.indexrelid = %s
"""
PARTITIONS = """
SELECT pn.nspname || '.' || p.relname,
       (SELECT xn.nspname || '.' || x.relname
        FROM pg_inherits AS a JOIN pg_class AS x ON x.oid = a.inhrelid
        JOIN pg_namespace AS xn ON xn.oid = x.relnamespace
        JOIN pg_index AS xi ON xi.indexrelid = x.oid
        WHERE a.inhparent = %(index)s AND xi.indrelid = p.oid)
FROM pg_index AS i JOIN pg_inherits AS h ON h.inhparent = i.indrelid
JOIN pg_class AS p ON p.oid = h.inhrelid JOIN pg_namespace AS pn ON pn.oid = p.relnamespace
WHERE i.indexrelid = %(index)s ORDER BY 1
"""


def read_broken_indexes(connection: Connection) -> tuple[BrokenIndex, ...]:
    """Return the indexes that are not valid, sorted by table and name.

    Of a unique one, values that more than one row has are looked for, for up to `COUNT_AT_MOST`.

    Source: pg_index.indisvalid, pg_stat_progress_create_index.
    """
    return tuple(_broken(connection, *row) for row in fetch(connection, BROKEN))


def _broken(
    connection: Connection,
    table: str,
    index: str,
    definition: str,
    relkind: str,
    is_unique: bool,
    constraint: str,
    builder_pid: int,
    is_copy: bool,
    oid: int,
) -> BrokenIndex:
    kind = "partitioned" if relkind == "I" else "copy" if is_copy else "index"
    parts = fetch(connection, PARTITIONS, {"index": oid}) if kind == "partitioned" else []
    look = is_unique and not is_copy
    return BrokenIndex(
        table=table,
        index=index,
        definition=definition,
        kind=kind,
        is_unique=is_unique,
        constraint=constraint,
        builder_pid=builder_pid,
        duplicates=_duplicates(connection, table, oid) if look else (),
        missing=tuple(part for part, own in parts if not own),
        attached=tuple(own for _, own in parts if own),
    )


def _duplicates(connection: Connection, table: str, oid: int) -> tuple[str, ...]:
    """Return some values that more than one row has; NULLs are equal only where the index says so.

    The expressions are the server's own text of the index.
    """
    ((keys, predicate, nulls_equal),) = fetch(connection, KEYS, (oid,))
    columns = sql.SQL(", ").join(sql.SQL(f"({key.replace('%', '%%')})") for key in keys)
    present = sql.SQL("true") if nulls_equal else sql.SQL(" AND ").join(
        sql.SQL(f"({key.replace('%', '%%')}) IS NOT NULL") for key in keys
    )  # fmt: skip
    query = sql.SQL(
        "SELECT count(*), {columns} FROM {table} WHERE ({predicate}) AND {present} "
        "GROUP BY {columns} HAVING count(*) > 1 ORDER BY 1 DESC, {columns} LIMIT %s"
    ).format(
        columns=columns,
        table=identifier(table),
        predicate=sql.SQL(predicate.replace("%", "%%")),
        present=present,
    )
    fetch(connection, "SELECT set_config('statement_timeout', %s, false)", (COUNT_AT_MOST,))
    rows = fetch(connection, query, (EXAMPLES,))
    fetch(connection, "SELECT set_config('statement_timeout', '0', false)")
    return tuple(
        f"{', '.join(f'{key} = {value!r}' for key, value in zip(keys, values, strict=True))} "
        f"in {number} rows"
        for number, *values in rows
    )


def reindex_statements(connection: Connection, indexes: Sequence[BrokenIndex]) -> tuple[str, ...]:
    """Return the statements that build indexes again, concurrently; partitions' before parents'."""
    plain = [one for one in indexes if one.kind == "index"]
    steps: list[sql.Composable] = [
        sql.SQL("REINDEX INDEX CONCURRENTLY {}").format(identifier(one.index)) for one in plain
    ]
    for parent in (one for one in indexes if one.kind == "partitioned"):
        steps += _attach(connection, parent)
    return tuple(f"{step.as_string(connection)};" for step in steps)


def _attach(connection: Connection, parent: BrokenIndex) -> list[sql.Composable]:
    """Return the statements that give each partition its index, and attach it to the parent's."""
    schema = parent.index.split(".", 1)[0]
    attach = sql.SQL("ALTER INDEX {} ATTACH PARTITION {}")
    steps: list[sql.Composable] = []
    for partition in parent.missing:
        name = _index_name(partition, parent.index)
        text = _on_partition(connection, parent.definition, name, partition)
        steps.append(sql.SQL(text.replace("{", "{{").replace("}", "}}")))
        own = sql.Identifier(partition.split(".", 1)[0], name)
        steps.append(attach.format(identifier(parent.index), own))
    if not parent.missing and parent.attached:
        # Attaching one again makes the server look at all of them.
        last = identifier(parent.attached[-1])
        steps.append(attach.format(sql.Identifier(schema, parent.index.split(".", 1)[1]), last))
    return steps


def _index_name(partition: str, index: str) -> str:
    table, name = (one.split(".", 1)[1] for one in (partition, index))
    return f"{table}_{name}"[:63]


def _on_partition(connection: Connection, definition: str, name: str, partition: str) -> str:
    """Return a partitioned index's definition for one of its partitions, concurrently."""
    named = sql.Identifier(name).as_string(connection)
    table = identifier(partition).as_string(connection)
    return re.sub(
        r"^(CREATE (?:UNIQUE )?INDEX) .+? ON (?:ONLY )?.+? USING ",
        lambda found: f"{found[1]} CONCURRENTLY {named} ON {table} USING ",
        definition,
        count=1,
    )


def drop_statements(connection: Connection, indexes: Sequence[BrokenIndex]) -> tuple[str, ...]:
    """Return the statements that drop indexes, concurrently where that can be."""
    return tuple(
        f"{_drop(one).format(identifier(one.index)).as_string(connection)};" for one in indexes
    )


def _drop(index: BrokenIndex) -> sql.SQL:
    concurrently = "" if index.kind == "partitioned" else "CONCURRENTLY "
    return sql.SQL(f"DROP INDEX {concurrently}{{}}")


def rebuild_statements(connection: Connection, indexes: Sequence[BrokenIndex]) -> tuple[str, ...]:
    """Return the statements that drop plain indexes and build them by their definitions."""
    steps = []
    for one in indexes:
        steps += [*drop_statements(connection, (one,)), build_statement(one)]
    return tuple(steps)


def build_statement(index: BrokenIndex) -> str:
    """Return the statement that builds an index by its definition, concurrently."""
    return re.sub(r"^(CREATE (?:UNIQUE )?INDEX) ", r"\1 CONCURRENTLY ", index.definition) + ";"
