"""Findings about what a role lacks: privileges, ownership, sight of all rows. Layer 3: reads only.

The needs are read from the plan's SQL (`playbook.needs`); here they are held against the catalogs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import LiteralString

from psycopg2.extensions import connection as Connection

from playbook.catalog import HISTORY_SCHEMA, may_create_schema, missing_privileges, table_names
from playbook.database import fetch
from playbook.formats import count
from playbook.needs import Need, needs_of
from playbook.records import Finding, Severity

__all__ = [
    "find_dump_rights",
    "find_hidden_sessions",
    "find_history_rights",
    "find_privileges",
    "find_row_security",
    "lacking_for",
]

_WANTED = """
SELECT w.place, w.privilege, w.schema, w.name
FROM unnest(%s::int[], %s::text[], %s::text[], %s::text[]) AS w (place, privilege, schema, name)
"""

# Names are looked up in the catalogs, not cast: a cast fails in a schema that may not be used.
RELATIONS = f"""
SELECT w.place, CASE
    WHEN NOT has_schema_privilege(n.oid, 'USAGE') THEN 'schema ' || n.nspname || ': USAGE'
    WHEN w.privilege IN ('OWNER', 'DROP')
    THEN k.kind || ' ' || n.nspname || '.' || c.relname || ': owner is '
         || pg_get_userbyid(c.relowner)
    ELSE k.kind || ' ' || n.nspname || '.' || c.relname || ': ' || w.privilege END
FROM ({_WANTED}) AS w
JOIN pg_class AS c ON c.relname = w.name
JOIN pg_namespace AS n ON n.oid = c.relnamespace
 AND (n.nspname = w.schema OR w.schema = '' AND pg_table_is_visible(c.oid))
CROSS JOIN LATERAL (SELECT CASE c.relkind WHEN 'i' THEN 'index' WHEN 'I' THEN 'index'
    WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
    ELSE 'table' END) AS k (kind)
WHERE NOT has_schema_privilege(n.oid, 'USAGE') OR NOT CASE
    WHEN w.privilege = 'OWNER' THEN pg_has_role(c.relowner, 'USAGE')
    WHEN w.privilege = 'DROP'
    THEN pg_has_role(c.relowner, 'USAGE') OR pg_has_role(n.nspowner, 'USAGE')
    WHEN w.privilege IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
    THEN has_any_column_privilege(c.oid, w.privilege)
    ELSE has_table_privilege(c.oid, w.privilege) END
"""

SCHEMAS = f"""
SELECT w.place, 'schema ' || n.nspname || CASE w.privilege
    WHEN 'OWNER' THEN ': owner is ' || pg_get_userbyid(n.nspowner) ELSE ': CREATE' END
FROM ({_WANTED}) AS w
JOIN pg_namespace AS n ON n.nspname = coalesce(nullif(w.schema, ''), current_schema())
WHERE NOT CASE w.privilege WHEN 'OWNER' THEN pg_has_role(n.nspowner, 'USAGE')
          ELSE has_schema_privilege(n.oid, 'CREATE') END
"""

SCHEMAS_OF_RELATIONS = f"""
SELECT w.place, 'schema ' || n.nspname || ': CREATE'
FROM ({_WANTED}) AS w
JOIN pg_class AS c ON c.relname = w.name
JOIN pg_namespace AS n ON n.oid = c.relnamespace
 AND (n.nspname = w.schema OR w.schema = '' AND pg_table_is_visible(c.oid))
WHERE NOT has_schema_privilege(n.oid, 'CREATE')
"""

TYPES = f"""
SELECT w.place, 'type ' || n.nspname || '.' || t.typname || ': owner is '
       || pg_get_userbyid(t.typowner)
FROM ({_WANTED}) AS w
JOIN pg_type AS t ON t.typname = w.name
JOIN pg_namespace AS n ON n.oid = t.typnamespace
 AND (n.nspname = w.schema OR w.schema = '' AND pg_type_is_visible(t.oid))
WHERE NOT (pg_has_role(t.typowner, 'USAGE')
           OR w.privilege = 'DROP' AND pg_has_role(n.nspowner, 'USAGE'))
"""

# Of functions that share a name, text does not tell which is meant without its argument types.
FUNCTIONS = f"""
SELECT w.place, 'function ' || n.nspname || '.' || min(p.proname) || ': owner is '
       || min(pg_get_userbyid(p.proowner))
FROM ({_WANTED}) AS w
JOIN pg_proc AS p ON p.proname = w.name
JOIN pg_namespace AS n ON n.oid = p.pronamespace
 AND (n.nspname = w.schema OR w.schema = '' AND pg_function_is_visible(p.oid))
GROUP BY w.place, w.privilege, n.nspname, n.nspowner
HAVING count(*) = 1 AND NOT (bool_and(pg_has_role(p.proowner, 'USAGE'))
       OR w.privilege = 'DROP' AND pg_has_role(n.nspowner, 'USAGE'))
"""

DATABASES = f"""
SELECT w.place, 'database ' || current_database() || ': CREATE' FROM ({_WANTED}) AS w
WHERE NOT has_database_privilege(current_database(), 'CREATE')
"""

# trusted: CREATE on the database is enough; superuser and not trusted: only a superuser.
NOT_INSTALLED = ": this server does not have it"
EXTENSIONS = f"""
SELECT w.place, 'extension ' || w.name || CASE
    WHEN v.needs_superuser IS NULL THEN '{NOT_INSTALLED}'
    WHEN v.needs_superuser AND NOT v.trusted THEN ': superuser'
    ELSE ': CREATE on the database' END
FROM ({_WANTED}) AS w
LEFT JOIN LATERAL (SELECT bool_and(superuser), bool_or(trusted)
                   FROM pg_available_extension_versions AS a WHERE a.name = w.name)
  AS v (needs_superuser, trusted) ON true
WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = w.name)
  AND (v.needs_superuser IS NULL
       OR v.needs_superuser AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
          AND NOT (v.trusted AND has_database_privilege(current_database(), 'CREATE')))
"""

_QUERIES: Mapping[str, LiteralString] = {
    "relation": RELATIONS,
    "schema": SCHEMAS,
    "schema of": SCHEMAS_OF_RELATIONS,
    "type": TYPES,
    "function": FUNCTIONS,
    "database": DATABASES,
    "extension": EXTENSIONS,
}

ROW_SECURITY = """
SELECT n.nspname || '.' || c.relname
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relrowsecurity AND n.nspname || '.' || c.relname = ANY (%s)
  AND row_security_active(c.oid) ORDER BY 1
"""


# What pg_dump reads: the playbook's own table, partitions and sequences too. What an extension
# owns it leaves to the extension, but for the tables that hold its settings.
UNDUMPABLE = """
SELECT CASE
    WHEN NOT has_schema_privilege(n.oid, 'USAGE') THEN 'schema ' || n.nspname || ': USAGE'
    WHEN c.relkind = 'S' THEN 'sequence ' || n.nspname || '.' || c.relname || ': SELECT'
    WHEN NOT has_table_privilege(c.oid, 'SELECT')
    THEN 'table ' || n.nspname || '.' || c.relname || ': SELECT'
    ELSE 'table ' || n.nspname || '.' || c.relname || ': BYPASSRLS' END
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'S') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass
                  AND d.objid = c.oid AND d.deptype = 'e')
  AND (NOT has_schema_privilege(n.oid, 'USAGE')
       -- Both are asked of whatever row comes, and each refuses the other kind of relation.
       OR NOT CASE c.relkind WHEN 'S' THEN has_sequence_privilege(c.oid, 'SELECT')
              ELSE has_table_privilege(c.oid, 'SELECT') END
       OR c.relrowsecurity AND row_security_active(c.oid))
UNION
SELECT 'large object ' || l.oid || ': owner is ' || pg_get_userbyid(l.lomowner)
FROM pg_largeobject_metadata AS l
WHERE NOT pg_has_role(l.lomowner, 'USAGE')
  AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
  AND NOT EXISTS (SELECT FROM aclexplode(l.lomacl) AS a WHERE a.privilege_type = 'SELECT'
                  AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))
ORDER BY 1
"""
NAMED = 5
"""How many a sentence names."""

HIDDEN_SESSIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND usesysid IS NOT NULL AND NOT pg_has_role(usesysid, 'USAGE')
  AND NOT pg_has_role('pg_read_all_stats', 'USAGE')
"""


def find_dump_rights(connection: Connection) -> tuple[Finding, ...]:
    """Stop if pg_dump, run as this role, would fail, and name what it may not read."""
    missing = [row[0] for row in fetch(connection, UNDUMPABLE)]
    if not missing:
        return ()
    further = f"; and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    remedy = "GRANT what is named here to this role, or run as one that has it"
    if connection.server_version >= 140000:
        remedy += "; GRANT pg_read_all_data gives USAGE and SELECT on everything"
    return (
        Finding(
            "backup-privileges",
            Severity.STOP,
            "; ".join(missing[:NAMED]) + further,
            "This role may not read it, and pg_dump takes the whole database or nothing.",
            f"{remedy}. `upgrade` and `rollback` go without a backup by -r backup never.",
        ),
    )


def find_hidden_sessions(connection: Connection) -> tuple[Finding, ...]:
    """Warn if others' sessions are there of which this role sees only that they are there."""
    hidden = fetch(connection, HIDDEN_SESSIONS)[0][0]
    if not hidden:
        return ()
    return (
        Finding(
            "hidden-sessions",
            Severity.WARN,
            count(hidden, "session"),
            "What they run, since when and in which transaction is hidden from this role.",
            "GRANT pg_monitor TO this role (on managed servers their own superuser can).",
        ),
    )


def find_privileges(
    connection: Connection, sql: str, tables: Sequence[str], version_table: tuple[str, str]
) -> Finding:
    """Stop if this role lacks a privilege for SQL; where there is no SQL, for any change."""
    missing = (
        lacking_for(connection, sql, version_table) if sql else _owned_by_others(connection, tables)
    )
    if missing and all(item.endswith(NOT_INSTALLED) for item in missing):
        return Finding(
            "privileges",
            Severity.STOP,
            "; ".join(missing),
            "The server lacks the extension's files.",
            "Install its package on the server; no privilege helps.",
        )
    if missing:
        return Finding(
            "privileges",
            Severity.STOP,
            "; ".join(missing),
            "This role may not change it.",
            "Run as the owner, or ask for what is named here.",
        )
    return Finding("privileges", Severity.OK, "role", "It may change what the plan touches.")


def _owned_by_others(connection: Connection, tables: Sequence[str]) -> list[str]:
    wanted = [f"table {table}:" for table in tables]
    return [
        item
        for item in missing_privileges(connection)
        if item.startswith("schema ") or any(item.startswith(name) for name in wanted)
    ]


def find_history_rights(connection: Connection) -> Finding:
    """Warn if this role cannot keep the history in the database: a run goes on without it."""
    if _may_keep_history(connection):
        return Finding("history", Severity.OK, "playbook.history", "It can be written.")
    return Finding(
        "history",
        Severity.WARN,
        "playbook.history",
        "This role may not write it, or not make it; receipts on this machine are all there is.",
        "GRANT CREATE ON DATABASE for the first run, or USAGE on the schema playbook and SELECT, "
        "INSERT, UPDATE on its table.",
    )


def find_row_security(connection: Connection, tables: Sequence[str]) -> Finding:
    """Stop if policies hide rows of the plan's tables from this role; warn of other tables."""
    hidden = _tables_under_row_security(connection, (*tables, *table_names(connection)))
    planned = [table for table in hidden if table in tables]
    if hidden:
        return Finding(
            "row-level-security",
            Severity.STOP if planned else Severity.WARN,
            ", ".join(planned or hidden),
            "A row-level security policy hides rows from this role.",
            "Run as a role with BYPASSRLS, or as the owner where the policies are not forced.",
        )
    return Finding("row-level-security", Severity.OK, "policies", "None hides rows from this role.")


def lacking_for(connection: Connection, sql: str, version_table: tuple[str, str]) -> list[str]:
    """Return what this role lacks to run SQL, in words, in the SQL's order.

    An object that does not exist asks for nothing: an earlier statement makes it, or IF EXISTS
    is written. Members of an owner's role count as the owner.

    Args:
        version_table: (schema or "", name) of Alembic's own table.
    """
    own = [Need(p, "relation", *version_table) for p in ("SELECT", "INSERT", "UPDATE", "DELETE")]
    needs = list(dict.fromkeys((*needs_of(sql), *own)))
    found: list[tuple[int, str]] = []
    for kind in _QUERIES:
        found += _lacking(connection, kind, [(i, n) for i, n in enumerate(needs) if n.kind == kind])
    return list(dict.fromkeys(text for _, text in sorted(found)))


def _lacking(
    connection: Connection, kind: str, needs: Sequence[tuple[int, Need]]
) -> list[tuple[int, str]]:
    """Return (place, sentence) for those of one kind of need that are not met."""
    rows = [(place, need.privilege, need.schema, need.name) for place, need in needs]
    columns = [list(column) for column in zip(*rows, strict=True)]
    return [(row[0], row[1]) for row in fetch(connection, _QUERIES[kind], columns)] if rows else []


def _may_keep_history(connection: Connection) -> bool:
    """Say whether this role may write ``playbook.history``, or make it where there is none."""
    query = "SELECT FROM pg_tables WHERE schemaname = %s AND tablename = 'history'"
    if not fetch(connection, query, (HISTORY_SCHEMA,)):
        return may_create_schema(connection)
    words = enumerate(("SELECT", "INSERT", "UPDATE"))
    needs = [(i, Need(word, "relation", HISTORY_SCHEMA, "history")) for i, word in words]
    return not _lacking(connection, "relation", needs)


def _tables_under_row_security(connection: Connection, tables: Sequence[str]) -> list[str]:
    """Return those of some tables of which this role sees only what policies let through."""
    return [name for (name,) in fetch(connection, ROW_SECURITY, (list(tables),))]
