"""What SQL text does to which objects, by PostgreSQL's own parser. Layer 1: pure.

Reads text only: no database, so a name without a schema is taken to be in ``public``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pglast import ast, parse_sql
from pglast.enums import AlterTableType, ObjectType
from pglast.parser import ParseError
from pglast.visitors import Visitor

__all__ = ["Dropped", "dropped_objects", "tables_in"]

DEFAULT_SCHEMA = "public"


@dataclass(frozen=True)
class Dropped:
    """A table (``column`` is "") or a column that SQL drops."""

    table: str
    column: str


def tables_in(text: str) -> set[str]:
    """Return the tables that SQL names, as ``schema.table``; empty if it cannot be parsed."""
    found: set[str] = set()

    class Tables(Visitor):
        def visit_RangeVar(self, ancestors: Any, node: Any) -> None:
            found.add(f"{node.schemaname or DEFAULT_SCHEMA}.{node.relname}")

    Tables()(_parse(text))
    return found | {item.table for item in dropped_objects(text)}


def dropped_objects(text: str) -> list[Dropped]:
    """Return the tables and columns that SQL drops, in its order; views are not data."""
    return list(_dropped(_parse(text)))


def _parse(text: str) -> tuple[Any, ...]:
    try:
        return tuple(raw.stmt for raw in parse_sql(text))
    except ParseError:
        return ()


def _dropped(statements: tuple[Any, ...]) -> Iterator[Dropped]:
    for statement in statements:
        if isinstance(statement, ast.DropStmt) and statement.removeType == ObjectType.OBJECT_TABLE:
            for parts in statement.objects or ():
                names = [part.sval for part in parts]
                yield Dropped(".".join(names if len(names) > 1 else (DEFAULT_SCHEMA, *names)), "")
        if isinstance(statement, ast.AlterTableStmt):
            yield from _dropped_columns(statement)


def _dropped_columns(statement: Any) -> Iterator[Dropped]:
    table = f"{statement.relation.schemaname or DEFAULT_SCHEMA}.{statement.relation.relname}"
    for command in statement.cmds:
        if command.subtype == AlterTableType.AT_DropColumn:
            yield Dropped(table, command.name)
