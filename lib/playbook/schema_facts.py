"""What two schemas hold of that which Alembic does not compare. Layer 3: reads only.

Both are read from PostgreSQL's own catalogs, one of them made from the models, so that texts are
compared in the one form that the server gives them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2.extensions import connection as Connection

from playbook.database import fetch
from playbook.drafts import Unseen

__all__ = ["SchemaFacts", "compare_facts", "mentions", "read_facts"]

Key = tuple[str, str]
"""A table (``schema.table``) and a name within it, or a type and ""."""

CHECKS = """
SELECT n.nspname || '.' || c.relname, o.conname, pg_get_constraintdef(o.oid)
FROM pg_constraint AS o JOIN pg_class AS c ON c.oid = o.conrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE o.contype = 'c' AND n.nspname || '.' || c.relname = ANY (%s) ORDER BY 1, 2
"""
COLUMNS = """
SELECT n.nspname || '.' || c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
       CASE WHEN a.attidentity <> '' THEN 'identity'
            WHEN a.attgenerated <> '' THEN 'generated'
            ELSE coalesce(pg_get_expr(d.adbin, d.adrelid), '') END
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attnum > 0 AND NOT a.attisdropped AND n.nspname || '.' || c.relname = ANY (%s)
ORDER BY 1, a.attnum
"""
ENUMS = """
SELECT n.nspname || '.' || t.typname, array_agg(e.enumlabel::text ORDER BY e.enumsortorder)
FROM pg_enum AS e JOIN pg_type AS t ON t.oid = e.enumtypid
JOIN pg_namespace AS n ON n.oid = t.typnamespace GROUP BY 1 ORDER BY 1
"""
TRIGGERS = """
SELECT n.nspname || '.' || c.relname, t.tgname, pg_get_triggerdef(t.oid) || E'\n' || p.prosrc
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
JOIN pg_proc AS p ON p.oid = t.tgfoid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT t.tgisinternal AND n.nspname !~ '^pg_' ORDER BY 1, 2
"""
CODE = """
SELECT 'function ' || n.nspname || '.' || p.proname, p.prosrc
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
JOIN pg_language AS l ON l.oid = p.prolang
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'playbook')
  AND l.lanname NOT IN ('c', 'internal')
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
UNION ALL
SELECT CASE c.relkind WHEN 'v' THEN 'view ' ELSE 'materialized view ' END
       || n.nspname || '.' || c.relname, pg_get_viewdef(c.oid)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('v', 'm') AND n.nspname !~ '^pg_'
  AND n.nspname NOT IN ('information_schema', 'playbook')
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1
"""
"""Of the functions without those that extensions own; their bodies are searched for names."""


@dataclass(frozen=True)
class SchemaFacts:
    """What one database has."""

    checks: Mapping[Key, str]
    types: Mapping[Key, str]
    defaults: Mapping[Key, str]
    enums: Mapping[str, tuple[str, ...]]
    triggers: Mapping[Key, str]
    code: Mapping[str, str]


def read_facts(connection: Connection, tables: Sequence[str]) -> SchemaFacts:
    """Return what a database has of some tables, and its enums and code."""
    names = list(tables)
    columns = fetch(connection, COLUMNS, (names,))
    return SchemaFacts(
        checks={(t, name): text for t, name, text in fetch(connection, CHECKS, (names,))},
        types={(t, column): kind for t, column, kind, _ in columns},
        defaults={(t, column): default for t, column, _, default in columns},
        enums={name: tuple(labels) for name, labels in fetch(connection, ENUMS)},
        triggers={(t, name): text for t, name, text in fetch(connection, TRIGGERS)},
        code=dict(fetch(connection, CODE)),
    )


def compare_facts(
    now: SchemaFacts, models: SchemaFacts, operations: Sequence[Mapping[str, Any]]
) -> tuple[Unseen, ...]:
    """Return how the models differ beyond what Alembic's operations say.

    Args:
        now: what the database has.
        models: what the models make.
        operations: what Alembic found: it is not told again.
    """
    shared = {table for table, _ in now.types} & {table for table, _ in models.types}
    told = {
        (f"{op['schema'] or 'public'}.{op['table']}", op["name"]): set(op)
        for op in operations
        if op["kind"] == "AlterColumnOp"
    }
    return (
        *_checks(now, models, shared),
        *_enums(now, models),
        *_enum_types(now, models, operations),
        *_columns(now, models, told),
    )


def _checks(now: SchemaFacts, models: SchemaFacts, shared: set[str]) -> list[Unseen]:
    found = []
    for key in sorted({*now.checks, *models.checks}):
        table, name = key
        was, text = now.checks.get(key, ""), models.checks.get(key, "")
        # Without their names: a project without a naming convention has PostgreSQL's.
        others = {t for k, t in (models if was else now).checks.items() if k[0] == table}
        if was == text or table not in shared or (not (was and text) and (was or text) in others):
            continue
        kind = "changed" if was and text else ("is new" if text else "is gone from the models")
        shown = f"{was} -> {text}" if was and text else was or text
        lines = [_drop_check(table, name)] if was else []
        lines += [_create_check(table, name, text)] if text else []
        detail = f"The CHECK {kind}: {shown}. Alembic compares no CHECK."
        found.append(Unseen("check", f"{table}: {name}", detail, "\n".join(lines)))
    return found


def _drop_check(table: str, name: str) -> str:
    return f'op.drop_constraint(op.f("{name}"), "{_short(table)}", type_="check"{_schema(table)})'


def _create_check(table: str, name: str, definition: str) -> str:
    inner = re.sub(r"^CHECK \((.*)\)(?: NOT VALID)?$", r"\1", definition, flags=re.DOTALL)
    return (
        f'op.create_check_constraint(op.f("{name}"), "{_short(table)}", {inner!r}{_schema(table)})'
    )


def _short(table: str) -> str:
    return table.partition(".")[2]


def _schema(table: str) -> str:
    schema = table.partition(".")[0]
    return "" if schema == "public" else f', schema="{schema}"'


def _enums(now: SchemaFacts, models: SchemaFacts) -> list[Unseen]:
    found = []
    for name in sorted(set(now.enums) & set(models.enums)):
        was, new = now.enums[name], models.enums[name]
        if was == new:
            continue
        added, gone = [v for v in new if v not in was], [v for v in was if v not in new]
        parts = [f"new values {', '.join(added)}"] if added else []
        parts += [f"values gone: {', '.join(gone)} (PostgreSQL cannot drop one: make a new type)"]
        parts = parts if gone else parts[:1] if added else ["another order of its values"]
        lines = [_add_value(name, value) for value in added]
        lines = ["with op.get_context().autocommit_block():", *lines] if lines else []
        detail = f"The enum has {'; '.join(parts)}. Alembic compares no enum's values."
        found.append(Unseen("enum", name, detail, "\n".join(lines)))
    return found


def _enum_types(
    now: SchemaFacts, models: SchemaFacts, operations: Sequence[Mapping[str, Any]]
) -> list[Unseen]:
    """Return enum types that a table would make a second time, or a column would not make."""
    short = {_short(name): name for name in models.enums}
    found = []
    for op in operations:
        columns = op["columns"] if op["kind"] == "CreateTableOp" else []
        columns = [op["column"]] if op["kind"] == "AddColumnOp" else columns
        for name in dict.fromkeys(str(c["type"]).rpartition(".")[2].strip('"') for c in columns):
            full = short.get(name, "")
            if full and full in now.enums and op["kind"] == "CreateTableOp":
                detail = (
                    f"The type is there already, and creating {op['table']} would make it again."
                )
                write = f"postgresql.ENUM(..., name={name!r}, create_type=False)"
                found.append(Unseen("enum", full, detail, write))
            elif full and full not in now.enums and op["kind"] == "AddColumnOp":
                detail = f"Adding the column to {op['table']} may not make its type: make it first."
                values = ", ".join(
                    "'" + value.replace("'", "''") + "'" for value in models.enums[full]
                )
                write = f"op.execute({f'CREATE TYPE {full} AS ENUM ({values})'!r})"
                found.append(Unseen("enum", full, detail, write))
    return found


def _add_value(name: str, value: str) -> str:
    text = value.replace("'", "''")
    return f"    op.execute({f'''ALTER TYPE {name} ADD VALUE IF NOT EXISTS '{text}' '''.strip()!r})"


def _columns(now: SchemaFacts, models: SchemaFacts, told: Mapping[Key, set[str]]) -> list[Unseen]:
    found = []
    for key in sorted(set(now.types) & set(models.types)):
        table, column = key
        known, name = told.get(key, set()), f"{table}.{column}"
        head = f'op.alter_column("{_short(table)}", "{column}"'
        was, new = now.types[key], models.types[key]
        if was != new and "type" not in known:
            text = (
                f"The type is {was} in the database and {new} in the models; compare_type is off."
            )
            write = f'op.execute("ALTER TABLE {table} ALTER COLUMN {column} TYPE {new}")'
            found.append(Unseen("type", name, text, write))
        was, new = now.defaults[key], models.defaults[key]
        if was != new and "default" not in known and not _is_own(was, new):
            text = (
                f"The server default is {was or 'none'} in the database and {new or 'none'} in the "
                "models; compare_server_default is off, or takes them as equal."
            )
            value = f"sa.text({new!r})" if new else "None"
            write = f"{head}, server_default={value}{_schema(table)})"
            found.append(Unseen("default", name, text, write))
    return found


def _is_own(was: str, new: str) -> bool:
    """Say whether a default is of a numbered key: Alembic leaves those alone on purpose."""
    return any(text == "identity" or text.startswith("nextval(") for text in (was, new))


def mentions(now: SchemaFacts, operations: Sequence[Mapping[str, Any]]) -> tuple[Unseen, ...]:
    """Return triggers, functions and views that speak of what is dropped, renamed or retyped."""
    found: list[Unseen] = []
    for op in operations:
        table, column = str(op["table"]), _touched(op)
        if column is None:
            continue
        name = f"{table}.{column}" if column else table
        for (of, trigger), text in now.triggers.items():
            if _short(of) == table and (not column or _says(text, column)):
                detail = (
                    f"The trigger {trigger} of {of} may use {name}, which the revision changes."
                )
                found.append(Unseen("trigger", name, detail))
        for what, text in now.code.items():
            if _says(text, table) and (not column or _says(text, column)):
                detail = f"The {what} speaks of {name}, which the revision changes."
                found.append(Unseen("code", name, detail))
    return tuple(dict.fromkeys(found))


def _touched(op: Mapping[str, Any]) -> str | None:
    """Return the column that an operation takes away or changes, "" for a table, None for none."""
    if op["kind"] == "DropTableOp":
        return ""
    if op["kind"] == "DropColumnOp":
        return str(op["column"]["name"])
    if op["kind"] == "AlterColumnOp" and ("type" in op or "new_name" in op):
        return str(op["name"])
    return None


def _says(text: str, word: str) -> bool:
    return bool(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE))
