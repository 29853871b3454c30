"""One function per question to PostgreSQL's catalogs. Layer 3: reads only.

User tables are ordinary and partitioned tables outside PostgreSQL's own schemas and the
playbook's, without partitions (their parent stands for them) and without what extensions own.
Checked on PostgreSQL 15, 16 and 18.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg2.errors
from psycopg2.extensions import connection as Connection

from playbook.database import fetch, fetch_value
from playbook.locks import conflicting
from playbook.records import (
    Blocker,
    InvalidIndex,
    TableSize,
    TableStorage,
    UnvalidatedConstraint,
)

__all__ = [
    "HISTORY_SCHEMA",
    "Activity",
    "TableColumns",
    "activity",
    "blockers_of",
    "count_large_objects",
    "droppable_schemas",
    "generated_columns",
    "freeze_ages",
    "holders",
    "installed_extensions",
    "invalid_indexes",
    "may_create_schema",
    "missing_privileges",
    "needed_roles",
    "old_snapshots",
    "open_transactions",
    "parents_first",
    "partition_columns",
    "partition_parents",
    "prepared_transactions",
    "progress_of",
    "relation_exists",
    "search_path",
    "sequence_columns",
    "standbys",
    "stored_bytes",
    "stored_in",
    "table_columns",
    "table_names",
    "table_sizes",
    "table_storage",
    "unreadable_tables",
    "unvalidated_constraints",
    "vacuums",
]

HISTORY_SCHEMA = "playbook"
"""Where the playbook keeps its own history table."""

TableColumns = dict[str, list[tuple[str, str, bool, bool]]]
"""Per ``schema.table``: (column, type, not null, part of the primary key), in order."""

_USER_TABLES = """
    SELECT c.oid, n.nspname AS schema, c.relname AS name, c.reltuples, c.relkind
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
      AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'playbook')
      AND NOT EXISTS (SELECT FROM pg_depend AS d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                        AND d.deptype = 'e')
"""

TABLE_SIZES = f"""
SELECT schema, name, reltuples::bigint,
       CASE relkind WHEN 'p' THEN
         (SELECT sum(pg_table_size(t.relid)) FROM pg_partition_tree(oid) AS t)
         ELSE pg_table_size(oid) END::bigint,
       CASE relkind WHEN 'p' THEN
         (SELECT sum(pg_indexes_size(t.relid)) FROM pg_partition_tree(oid) AS t)
         ELSE pg_indexes_size(oid) END::bigint
FROM ({_USER_TABLES}) AS tables ORDER BY 1, 2
"""

SIZES_WITHOUT_LOCKS = f"""
SELECT schema, name, reltuples::bigint,
       (SELECT sum(c.relpages) FROM pg_class AS c
        WHERE c.oid = tables.oid OR c.oid IN (SELECT relid FROM pg_partition_tree(tables.oid))
       )::bigint * current_setting('block_size')::bigint,
       (SELECT coalesce(sum(c.relpages), 0) FROM pg_index AS i
        JOIN pg_class AS c ON c.oid = i.indexrelid
        WHERE i.indrelid = tables.oid)::bigint * current_setting('block_size')::bigint
FROM ({_USER_TABLES}) AS tables ORDER BY 1, 2
"""

TABLE_STORAGE = f"""
SELECT schema || '.' || name, coalesce(sum(pg_table_size(part)), 0)::bigint,
       coalesce(sum(pg_relation_filenode(part)::bigint), 0)::bigint, heirs
FROM (SELECT schema, name,
             CASE relkind WHEN 'p' THEN leaf.relid ELSE tables.oid END AS part,
             relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = oid) AS heirs
      FROM ({_USER_TABLES}) AS tables
      LEFT JOIN LATERAL pg_partition_tree(tables.oid) AS leaf
        ON relkind = 'p' AND leaf.isleaf) AS parts
GROUP BY 1, 4 ORDER BY 1
"""

STORED_IN = f"""
WITH RECURSIVE below (name, oid) AS (
    -- Looked up, not cast: a cast fails in a schema that this role may not use.
    SELECT wanted, c.oid FROM unnest(%s::text[]) AS wanted
    JOIN pg_namespace AS n ON n.nspname = split_part(wanted, '.', 1)
    JOIN pg_class AS c ON c.relnamespace = n.oid
     AND c.relname = substr(wanted, strpos(wanted, '.') + 1)
    UNION
    SELECT below.name, found.oid
    FROM below CROSS JOIN LATERAL (
        SELECT inhparent AS oid FROM pg_inherits WHERE inhrelid = below.oid
        UNION ALL
        SELECT d.refobjid FROM pg_rewrite AS r JOIN pg_depend AS d
          ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
         AND d.refclassid = 'pg_class'::regclass
        WHERE r.ev_class = below.oid AND d.refobjid <> below.oid
    ) AS found
)
SELECT DISTINCT tables.schema || '.' || tables.name
FROM below JOIN ({_USER_TABLES}) AS tables USING (oid) ORDER BY 1
"""

_COLUMNS = """
SELECT tables.schema || '.' || tables.name, a.attname, format_type(a.atttypid, a.atttypmod),
       a.attnotnull AND NOT EXISTS (
           SELECT FROM pg_constraint AS o WHERE o.conrelid = a.attrelid AND o.contype = 'n'
               AND a.attnum = ANY (o.conkey) AND (o.connoinherit OR NOT o.convalidated)),
       coalesce(a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]), false)
FROM ({}) AS tables
JOIN pg_attribute AS a ON a.attrelid = tables.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_index AS i ON i.indrelid = tables.oid AND i.indisprimary
ORDER BY 1, a.attnum
"""
"""From PostgreSQL 18 on rows, or children's, may be NULL in spite of NOT NULL."""

UNREADABLE = f"""
SELECT schema || '.' || name FROM ({_USER_TABLES}) AS tables
WHERE NOT has_table_privilege(oid, 'SELECT')
   OR NOT has_schema_privilege((SELECT relnamespace FROM pg_class AS c WHERE c.oid = tables.oid),
                               'USAGE')
ORDER BY 1
"""

UNVALIDATED = """
SELECT n.nspname || '.' || c.relname, o.conname, pg_get_constraintdef(o.oid)
FROM pg_constraint AS o JOIN pg_class AS c ON c.oid = o.conrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT o.convalidated ORDER BY 1, 2
"""

INVALID_INDEXES = """
SELECT n.nspname || '.' || t.relname, n.nspname || '.' || c.relname, pg_get_indexdef(i.indexrelid)
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_class AS t ON t.oid = i.indrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT i.indisvalid AND c.relkind = 'i' ORDER BY 1, 2
"""

_SESSION = """
SELECT a.pid, coalesce(a.usename, '?'), coalesce(a.application_name, ''), coalesce(a.state, '?'),
       coalesce(left(regexp_replace(a.query, '\\s+', ' ', 'g'), 120), ''),
       coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float,
       coalesce(extract(epoch FROM clock_timestamp() - a.state_change), 0)::float,
       coalesce((SELECT array_agg(DISTINCT n.nspname || '.' || c.relname
                                  ORDER BY n.nspname || '.' || c.relname)
                 FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
                 JOIN pg_namespace AS n ON n.oid = c.relnamespace
                 WHERE l.pid = a.pid AND l.granted AND c.relkind IN ('r', 'p', 'm')
                   AND n.nspname !~ '^pg_'), '{}'),
       -- Without pg_monitor, a role sees of others' sessions neither age nor state, but locks.
       CASE WHEN a.xact_start IS NULL THEN
         (SELECT min(l.virtualtransaction) FROM pg_locks AS l WHERE l.pid = a.pid AND l.granted)
       END
FROM pg_stat_activity AS a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
"""

OPEN_TRANSACTIONS = f"""{_SESSION}
  AND a.xact_start IS NOT NULL AND a.backend_type = 'client backend'
  AND clock_timestamp() - a.xact_start > make_interval(secs => %s)
ORDER BY a.xact_start
"""

HOLDERS = f"""{_SESSION}
  AND a.usesysid IS NOT NULL  -- autovacuum has no user; what a session is not all may see
  AND EXISTS (SELECT FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
              JOIN pg_namespace AS n ON n.oid = c.relnamespace
              JOIN unnest(%s::text[], %s::text[]) AS wanted (name, mode)
                ON wanted.name = n.nspname || '.' || c.relname AND wanted.mode = l.mode
              WHERE l.pid = a.pid AND l.granted)
ORDER BY a.xact_start
"""

BLOCKERS = f"{_SESSION}  AND a.pid = ANY (pg_blocking_pids(%s)) ORDER BY a.xact_start"

ACTIVITY = """
SELECT coalesce(state, '?'), coalesce(regexp_replace(query, '\\s+', ' ', 'g'), ''),
       extract(epoch FROM clock_timestamp()
               - CASE state WHEN 'active' THEN query_start ELSE state_change END)::float,
       coalesce(wait_event_type = 'Lock', false)
FROM pg_stat_activity WHERE pid = %s
"""

PROGRESS = (
    """
    SELECT 'building an index: ' || phase
           || CASE WHEN lockers_total > 0
                   THEN ', ' || lockers_done || ' of ' || lockers_total || ' sessions awaited'
                   ELSE '' END
           || coalesce(', held up by pid ' || nullif(current_locker_pid, 0), ''),
           CASE WHEN blocks_total > 0 THEN 100.0 * blocks_done / blocks_total
                WHEN tuples_total > 0 THEN 100.0 * tuples_done / tuples_total END
    FROM pg_stat_progress_create_index WHERE pid = %s
    """,
    """
    SELECT 'rewriting the table: ' || phase,
           100.0 * heap_blks_scanned / nullif(heap_blks_total, 0)
    FROM pg_stat_progress_cluster WHERE pid = %s
    """,
    """
    SELECT 'copied ' || tuples_processed || ' rows',
           100.0 * bytes_processed / nullif(bytes_total, 0)
    FROM pg_stat_progress_copy WHERE pid = %s
    """,
)
"""A line and how much of its phase is done in per cent (NULL: not known), where there is one.

Source: PostgreSQL's documentation, "Progress Reporting"; COPY's from 14 on.
"""

OLD_SNAPSHOTS = f"""{_SESSION}
  AND a.backend_xmin IS NOT NULL AND a.backend_type NOT IN ('autovacuum worker', 'parallel worker')
  AND clock_timestamp() - a.xact_start > make_interval(secs => %s)
  AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum AS v WHERE v.pid = a.pid)
  AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index AS i
                  WHERE i.pid = a.pid AND i.command LIKE '%%CONCURRENTLY')
ORDER BY a.xact_start
"""

PREPARED = """
SELECT p.gid, p.owner::text, extract(epoch FROM clock_timestamp() - p.prepared)::float,
       coalesce((SELECT array_agg(DISTINCT wanted.name ORDER BY wanted.name)
                 FROM pg_locks AS own JOIN pg_locks AS l USING (virtualtransaction)
                 JOIN pg_class AS c ON c.oid = l.relation
                 JOIN pg_namespace AS n ON n.oid = c.relnamespace
                 JOIN unnest(%s::text[], %s::text[]) AS wanted (name, mode)
                   ON wanted.name = n.nspname || '.' || c.relname AND wanted.mode = l.mode
                 WHERE own.locktype = 'transactionid' AND own.transactionid = p.transaction
                   AND own.granted AND own.pid IS NULL AND l.pid IS NULL
                   AND l.database = (SELECT oid FROM pg_database
                                     WHERE datname = current_database())), '{}')
FROM pg_prepared_xacts AS p WHERE p.database = current_database() ORDER BY p.prepared
"""

FREEZE_AGES = """
SELECT tables.name, max(greatest(
         age(c.relfrozenxid)::float / least(current_setting('autovacuum_freeze_max_age')::float,
           (SELECT o.option_value::float FROM pg_options_to_table(c.reloptions) AS o
            WHERE o.option_name = 'autovacuum_freeze_max_age')),
         mxid_age(c.relminmxid) / current_setting('autovacuum_multixact_freeze_max_age')::float))
FROM (SELECT c.oid, n.nspname || '.' || c.relname AS name
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace) AS tables
JOIN pg_class AS c ON c.oid = tables.oid
  OR c.oid IN (SELECT relid FROM pg_partition_tree(tables.oid))
WHERE tables.name = ANY (%s) AND c.relkind IN ('r', 'm') GROUP BY 1 ORDER BY 1
"""

MISSING_PRIVILEGES = f"""
SELECT 'schema ' || nspname || ': CREATE' FROM pg_namespace
WHERE nspname = current_schema() AND NOT has_schema_privilege(oid, 'CREATE')
UNION ALL
SELECT 'table ' || schema || '.' || name || ': owner is '
       || pg_get_userbyid((SELECT relowner FROM pg_class AS o WHERE o.oid = tables.oid))
FROM ({_USER_TABLES}) AS tables
WHERE NOT pg_has_role((SELECT relowner FROM pg_class AS o WHERE o.oid = tables.oid), 'USAGE')
ORDER BY 1
"""


def table_names(connection: Connection) -> list[str]:
    """Return the user tables as ``schema.table``, sorted."""
    rows = fetch(connection, f"SELECT schema || '.' || name FROM ({_USER_TABLES}) AS t ORDER BY 1")
    return [row[0] for row in rows]


def table_sizes(connection: Connection) -> list[TableSize]:
    """Return the size of each user table with its partitions, sorted by name.

    Where somebody holds a table exclusively, the sizes are what the last VACUUM or ANALYZE saw:
    measuring would wait for its lock.
    """
    fetch(connection, "SELECT set_config('lock_timeout', '500ms', false)")
    try:
        rows = fetch(connection, TABLE_SIZES)
    except psycopg2.errors.LockNotAvailable:
        rows = fetch(connection, SIZES_WITHOUT_LOCKS)
    return [
        TableSize(schema, table, int(number), heap, indexes, heap + indexes)
        for schema, table, number, heap, indexes in rows
        if heap is not None and indexes is not None  # else somebody dropped it meanwhile
    ]


def table_columns(connection: Connection) -> TableColumns:
    """Return the columns of every user table, in attribute order."""
    found: TableColumns = {name: [] for name in table_names(connection)}
    for table, column, type_, not_null, key in fetch(connection, _COLUMNS.format(_USER_TABLES)):
        # Of a table that somebody made since the names were read nothing was asked.
        found.get(table, []).append((column, type_, not_null, key))
    return found


def table_storage(connection: Connection) -> dict[str, TableStorage]:
    """Return where each user table's rows are, by ``schema.table``; partitions as their parent.

    Source: pg_table_size(), pg_relation_filenode(), pg_partition_tree(), pg_inherits.
    """
    rows = fetch(connection, TABLE_STORAGE)
    return {name: TableStorage(size, int(file), heirs) for name, size, file, heirs in rows}


def stored_in(connection: Connection, names: Sequence[str]) -> list[str]:
    """Return the user tables in which rows of some relations are: partitions' parents, and views'.

    Args:
        names: tables, partitions or views, ``schema.name``; one that does not exist gives nothing.
    """
    return [row[0] for row in fetch(connection, STORED_IN, (list(names),))]


def partition_columns(connection: Connection) -> TableColumns:
    """Return the columns of every partition, in attribute order; its parent has them as well."""
    found: TableColumns = {}
    partitions = _USER_TABLES.replace("NOT c.relispartition", "c.relispartition")
    for table, column, type_, not_null, key in fetch(connection, _COLUMNS.format(partitions)):
        found.setdefault(table, []).append((column, type_, not_null, key))
    return found


def partition_parents(connection: Connection) -> dict[str, str]:
    """Return the table of which each partition directly is one, both as ``schema.table``."""
    query = """
        SELECT n.nspname || '.' || c.relname, pn.nspname || '.' || p.relname
        FROM pg_inherits AS i
        JOIN pg_class AS c ON c.oid = i.inhrelid AND c.relispartition AND c.relkind IN ('r', 'p')
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_class AS p ON p.oid = i.inhparent JOIN pg_namespace AS pn ON pn.oid = p.relnamespace
        ORDER BY 1
    """
    return {partition: parent for partition, parent in fetch(connection, query)}


def search_path(connection: Connection) -> list[str]:
    """Return the schemas in which this session looks for a name without one."""
    return list(fetch_value(connection, "SELECT current_schemas(false)::text[]"))


def stored_bytes(connection: Connection, table: str) -> int:
    """Return the size of a table (``schema.table``) with its partitions, without indexes."""
    query = """
        SELECT coalesce(nullif((SELECT sum(pg_table_size(t.relid))
                                FROM pg_partition_tree(c.oid) AS t), 0), pg_table_size(c.oid))
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname || '.' || c.relname = %s
    """
    return int(fetch_value(connection, query, (table,)))


def unreadable_tables(connection: Connection) -> list[str]:
    """Return the user tables that this role may not SELECT from, sorted."""
    return [row[0] for row in fetch(connection, UNREADABLE)]


def unvalidated_constraints(connection: Connection) -> list[UnvalidatedConstraint]:
    """Return constraints added NOT VALID and never validated.

    Source: pg_constraint.convalidated.
    """
    return [UnvalidatedConstraint(*row) for row in fetch(connection, UNVALIDATED)]


def invalid_indexes(connection: Connection) -> list[InvalidIndex]:
    """Return indexes that no query uses: leftovers of CREATE INDEX CONCURRENTLY.

    Source: pg_index.indisvalid; a build that is still running shows up as well.
    """
    return [InvalidIndex(*row) for row in fetch(connection, INVALID_INDEXES)]


def open_transactions(connection: Connection, *, older_than_s: float) -> list[Blocker]:
    """Return other sessions of this database in a transaction, the oldest first."""
    return [_blocker(row) for row in fetch(connection, OPEN_TRANSACTIONS, (older_than_s,))]


def holders(connection: Connection, locks: Mapping[str, str]) -> list[Blocker]:
    """Return other sessions that hold a lock which conflicts with one of ours, the oldest first.

    Autovacuum is left out: it gives way to a lock request within deadlock_timeout.

    Args:
        locks: the mode that will be asked for on each table, ``schema.table``.
    """
    return [_blocker(row) for row in fetch(connection, HOLDERS, _conflicts(locks))]


def _conflicts(locks: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the tables and modes, in pairs, that are in the way of some locks."""
    pairs = [(table, mode) for table, wanted in locks.items() for mode in conflicting(wanted)]
    return [table for table, _ in pairs], [mode for _, mode in pairs]


@dataclass(frozen=True)
class Activity:
    """What a session is doing: its state, its statement in one line, and for how long.

    ``for_s`` is since the statement began or, where none runs, since the last one ended.
    """

    state: str
    query: str
    for_s: float
    waits_for_lock: bool


def activity(connection: Connection, pid: int) -> Activity | None:
    """Return what a session is doing; None if it is gone.

    Source: pg_stat_activity; of another role's session only members of pg_read_all_stats see more
    than that it is there.
    """
    rows = fetch(connection, ACTIVITY, (pid,))
    return Activity(*rows[0]) if rows else None


def blockers_of(connection: Connection, pid: int) -> list[Blocker]:
    """Return the sessions that a session waits for, the oldest first."""
    return [_blocker(row) for row in fetch(connection, BLOCKERS, (pid,))]


def progress_of(connection: Connection, pid: int) -> list[str]:
    """Return how far the statement of a session is, in words, where PostgreSQL counts that."""
    views = PROGRESS if connection.server_version >= 140000 else PROGRESS[:2]
    rows = [row for view in views for row in fetch(connection, view, (pid,))]
    return [text if share is None else f"{text}, {share:.0f} % of it" for text, share in rows]


def missing_privileges(connection: Connection) -> list[str]:
    """Return what this role cannot change: the schema it may not create in, tables of others."""
    return [row[0] for row in fetch(connection, MISSING_PRIVILEGES)]


def may_create_schema(connection: Connection) -> bool:
    """Say whether this role may create a schema in this database."""
    query = "SELECT has_database_privilege(current_database(), 'CREATE')"
    return bool(fetch_value(connection, query))


def prepared_transactions(
    connection: Connection, locks: Mapping[str, str]
) -> list[tuple[str, str, float, tuple[str, ...]]]:
    """Return (global id, owner, age in seconds, tables in the way), the oldest first.

    They hold their locks until somebody commits or rolls them back, across restarts too. The
    tables are those of ``locks`` on which one holds what conflicts with the mode given there.
    Each holds its own transaction's lock, by whose virtualtransaction its others are found.
    """
    rows = fetch(connection, PREPARED, _conflicts(locks))
    return [(gid, owner, age_s, tuple(tables)) for gid, owner, age_s, tables in rows]


def old_snapshots(connection: Connection, *, older_than_s: float) -> list[Blocker]:
    """Return the sessions for whose snapshots CREATE INDEX CONCURRENTLY waits, the oldest first.

    Those of this database that hold a snapshot, but vacuums and other concurrent builds. Prepared
    transactions hold locks, yet no snapshot. Source: WaitForOlderSnapshots in
    src/backend/commands/indexcmds.c (builds leave each other out from PostgreSQL 14 on), and
    MarkAsPreparingGuts in src/backend/access/transam/twophase.c.
    """
    return [_blocker(row) for row in fetch(connection, OLD_SNAPSHOTS, (older_than_s,))]


def freeze_ages(connection: Connection, tables: Sequence[str]) -> list[tuple[str, float]]:
    """Return (table, age) of some tables: 1.0 is where a vacuum to prevent wraparound is forced.

    Source: autovacuum_freeze_max_age, of the server or the table, the lower one, and
    autovacuum_multixact_freeze_max_age.
    """
    rows = fetch(connection, FREEZE_AGES, (list(tables),))
    return [(name, float(age)) for name, age in rows]


def vacuums(connection: Connection, tables: Sequence[str]) -> list[tuple[str, int, bool]]:
    """Return (table, pid, to prevent wraparound) of vacuums under way on some tables.

    An ordinary autovacuum gives way to a lock request; one against wraparound does not.
    """
    query = """
        SELECT n.nspname || '.' || c.relname, p.pid, a.query LIKE '%%to prevent wraparound%%'
        FROM pg_stat_progress_vacuum AS p JOIN pg_class AS c ON c.oid = p.relid
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_stat_activity AS a ON a.pid = p.pid
        WHERE n.nspname || '.' || c.relname = ANY (%s) ORDER BY 1
    """
    return [
        (name, pid, bool(hard)) for name, pid, hard in fetch(connection, query, (list(tables),))
    ]


def standbys(connection: Connection) -> list[tuple[str, int]]:
    """Return (name, bytes of WAL it is behind) of standbys and replication slots, sorted.

    Slots nobody reads from are among them: they keep WAL on the primary's disk. A role without
    pg_monitor sees no standbys.
    """
    query = """
        SELECT coalesce(application_name, client_addr::text, 'standby'),
               pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint
        FROM pg_stat_replication WHERE replay_lsn IS NOT NULL
        UNION ALL
        SELECT 'slot ' || slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint
        FROM pg_replication_slots WHERE restart_lsn IS NOT NULL AND NOT active
        ORDER BY 1
    """
    return [(name, behind_bytes) for name, behind_bytes in fetch(connection, query)]


def droppable_schemas(connection: Connection) -> list[str]:
    """Return the schemas that hold the application's objects, sorted.

    PostgreSQL's own, the playbook's and those that an extension owns are left out.
    """
    query = """
        SELECT nspname FROM pg_namespace AS n
        WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'playbook')
          AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_namespace'::regclass
                          AND d.objid = n.oid AND d.deptype = 'e')
        ORDER BY 1
    """
    return [row[0] for row in fetch(connection, query)]


def parents_first(connection: Connection, tables: Sequence[str]) -> list[str]:
    """Return some tables (``schema.table``) in an order in which their rows can be inserted.

    A table comes after those that its foreign keys refer to; where they refer to each other in a
    circle, the order is that of their names.
    """
    query = """
        SELECT DISTINCT cn.nspname || '.' || c.relname, pn.nspname || '.' || p.relname
        FROM pg_constraint AS o
        JOIN pg_class AS c ON c.oid = o.conrelid JOIN pg_namespace AS cn ON cn.oid = c.relnamespace
        JOIN pg_class AS p ON p.oid = o.confrelid JOIN pg_namespace AS pn ON pn.oid = p.relnamespace
        WHERE o.contype = 'f' AND c.oid <> p.oid ORDER BY 1, 2
    """
    waits_for: dict[str, set[str]] = {table: set() for table in sorted(tables)}
    for child, parent in fetch(connection, query):
        if child in waits_for and parent in waits_for:
            waits_for[child].add(parent)
    ordered: list[str] = []
    while waits_for:
        free = [table for table, parents in waits_for.items() if parents <= set(ordered)]
        ordered += free[:1] or list(waits_for)[:1]
        del waits_for[ordered[-1]]
    return ordered


def generated_columns(connection: Connection) -> set[tuple[str, str]]:
    """Return (table, column) of the columns that the server computes and nobody can write."""
    query = """
        SELECT n.nspname || '.' || c.relname, a.attname
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE a.attgenerated <> '' AND NOT a.attisdropped ORDER BY 1, 2
    """
    return {(table, column) for table, column in fetch(connection, query)}


def sequence_columns(connection: Connection) -> list[tuple[str, str]]:
    """Return (table, column) of serial and identity columns, sorted."""
    query = """
        SELECT n.nspname || '.' || c.relname, a.attname
        FROM pg_depend AS d JOIN pg_class AS s ON s.oid = d.objid AND s.relkind = 'S'
        JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
          AND d.deptype IN ('a', 'i') ORDER BY 1, 2
    """
    return [(table, column) for table, column in fetch(connection, query)]


def relation_exists(connection: Connection, schema: str, name: str) -> bool:
    """Say whether there is a table of that name; schema "" means the search path."""
    parts = "quote_ident(%s) || '.' || quote_ident(%s)" if schema else "%s || quote_ident(%s)"
    query = f"SELECT to_regclass({parts}) IS NOT NULL"
    return bool(fetch_value(connection, query, (schema, name)))


def _blocker(row: tuple[object, ...]) -> Blocker:
    *known, state_age_s, tables, id_ = row
    return Blocker(*known, tuple(tables), state_age_s, id_ or "")  # type: ignore[arg-type, call-arg]


def count_large_objects(connection: Connection) -> int:
    """Return how many large objects the database has.

    Source: pg_largeobject_metadata, readable by every role.
    """
    return int(fetch_value(connection, "SELECT count(*) FROM pg_largeobject_metadata"))


def installed_extensions(connection: Connection) -> list[str]:
    """Return the extensions besides PL/pgSQL, which every database has, with versions, sorted."""
    query = """
        SELECT extname || ' ' || extversion FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1
    """
    return [row[0] for row in fetch(connection, query)]


def needed_roles(connection: Connection) -> list[str]:
    """Return the roles that objects of this database refer to, sorted.

    Owners, grantees, roles of policies and of default privileges; the bootstrap superuser, whom
    PostgreSQL does not record, is left out.

    Source: pg_shdepend.
    """
    query = """
        SELECT DISTINCT r.rolname::text FROM pg_shdepend AS d
        JOIN pg_roles AS r ON r.oid = d.refobjid
        WHERE d.refclassid = 'pg_authid'::regclass
          AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        ORDER BY 1
    """
    return [row[0] for row in fetch(connection, query)]
