"""Data checks that follow from a new revision's operations, for its author to complete. Layer 1.

Only what the operations themselves promise: a value in every row, a parent for every reference, no
two rows alike, a CHECK that holds. What the new data must *mean* nobody can generate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from playbook.constraints import quoted
from playbook.drafts import CheckSkeleton
from playbook.model_words import qualified

__all__ = ["make_skeleton"]

_HEADER = """\
-- Data checks of {revision}; they hold from there on. Each query returns the rows that
-- break its rule, and passes when it returns none.
--
-- SKELETON, made from what the revision changes. To do for its author: delete what a constraint
-- holds anyway, and write what must be true of the new data and no constraint says.
"""
Keys = Mapping[str, Sequence[str]]
"""The columns of each table's primary key, by ``schema.table``."""
Check = tuple[str, str, str]
"""Its name, its description, its query."""


def make_skeleton(
    revision: str, operations: Sequence[Mapping[str, Any]], keys: Keys
) -> CheckSkeleton:
    """Return the data checks of a revision; an empty text where nothing follows.

    Args:
        keys: of the tables that are there once it has run.
    """
    found: dict[str, Check] = {}
    for operation in operations:
        for check in _checks_of(operation, keys):
            found.setdefault(check[0], check)
    if not found:
        return CheckSkeleton(revision, "")
    blocks = [
        f"-- name: {name}\n-- {description}\n{query};\n"
        for name, description, query in found.values()
    ]
    return CheckSkeleton(
        revision, "\n".join([_HEADER.format(revision=revision), *blocks]), tuple(found)
    )


def _checks_of(op: Mapping[str, Any], keys: Keys) -> Iterator[Check]:
    kind = op["kind"]
    if kind == "AddColumnOp" and not op["column"]["nullable"]:
        yield _filled(op, [op["column"]["name"]], keys)
    elif kind == "AlterColumnOp" and op.get("nullable") is False:
        yield _filled(op, [op["name"]], keys)
    elif kind == "CreateUniqueConstraintOp" or (kind == "CreateIndexOp" and op["unique"]):
        if all(re.fullmatch(r"\w+", column) for column in op["columns"]) and not op.get("where"):
            yield _unique(op, op["columns"])
    elif kind == "CreateForeignKeyOp":
        yield _parents(op, op["columns"], op["parent"], op["parent_columns"])
    elif kind == "CreateTableOp":
        yield from _of_table(op, keys)


def _of_table(op: Mapping[str, Any], keys: Keys) -> Iterator[Check]:
    needed = [c["name"] for c in op["columns"] if not c["nullable"]]
    if needed:
        yield _filled(op, needed, keys)
    for one in op["constraints"]:
        if one["kind"] == "foreign key":
            yield _parents(op, one["columns"], one["parent"], one["parent_columns"])
        elif one["kind"] == "unique":
            yield _unique(op, one["columns"])


def _filled(op: Mapping[str, Any], columns: Sequence[str], keys: Keys) -> Check:
    table = str(op["table"])
    what = columns[0] if len(columns) == 1 else "what_they_need"
    shown = list(dict.fromkeys([*keys.get(f"{op['schema'] or 'public'}.{table}", ()), *columns]))
    broken = " OR ".join(f"{quoted(column)} IS NULL" for column in columns)
    listed = ", ".join(quoted(column) for column in shown)
    return (
        _name(f"{table}_have_{what}"),
        f"Rows of {qualified(op)} without {_listed(columns)}.",
        f"SELECT {listed}\nFROM {_table(op)}\nWHERE {broken}\nORDER BY {quoted(shown[0])}",
    )


def _unique(op: Mapping[str, Any], columns: Sequence[str]) -> Check:
    listed = ", ".join(quoted(column) for column in columns)
    known = " AND ".join(f"{quoted(column)} IS NOT NULL" for column in columns)
    return (
        _name(f"{op['table']}_are_unique_by_{'_'.join(columns)}"),
        f"Values of {_listed(columns)} that several rows of {qualified(op)} have.",
        f"SELECT {listed}, count(*) AS rows_alike\nFROM {_table(op)}\nWHERE {known}\n"
        f"GROUP BY {listed}\nHAVING count(*) > 1\nORDER BY {listed}",
    )


def _parents(
    op: Mapping[str, Any], columns: Sequence[str], parent: str, parent_columns: Sequence[str]
) -> Check:
    pairs = list(zip(columns, parent_columns, strict=True))
    joined = " AND ".join(f"p.{quoted(there)} = c.{quoted(here)}" for here, there in pairs)
    known = " AND ".join(f"c.{quoted(here)} IS NOT NULL" for here in columns)
    listed = ", ".join(f"c.{quoted(here)}" for here in columns)
    return (
        _name(f"{op['table']}_have_their_{parent.rpartition('.')[2]}"),
        f"Rows of {qualified(op)} whose {_listed(columns)} no row of {parent} has.",
        f"SELECT {listed}\nFROM {_table(op)} AS c\n"
        f"WHERE {known}\n  AND NOT EXISTS (SELECT FROM {quoted(*parent.split('.'))} AS p "
        f"WHERE {joined})\nORDER BY {listed}",
    )


def _table(op: Mapping[str, Any]) -> str:
    return quoted(*(name for name in (op["schema"], op["table"]) if name))


def _name(text: str) -> str:
    return re.sub(r"\W+", "_", text)


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(columns)
