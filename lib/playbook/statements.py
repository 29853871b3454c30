"""What SQL text does to which objects, by PostgreSQL's own parser. Layer 1: pure.

Reads text only: no database, so a name without a schema is taken to be in ``public``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pglast import ast, parse_sql, split
from pglast.enums import AlterTableType, ConstrType, ObjectType
from pglast.parser import ParseError
from pglast.visitors import Visitor

from playbook.locks import MODES

__all__ = [
    "Dropped",
    "Statement",
    "commits_midway",
    "dropped_objects",
    "has_statements",
    "indexes_built_concurrently",
    "is_of_version_table",
    "locks_taken",
    "parse",
    "parse_statement",
    "parse_statements",
    "read_statements",
    "table_name",
    "table_renamed",
    "tables_in",
    "tables_replaced",
    "tables_written",
]

DEFAULT_SCHEMA = "public"
_VERSION_NUM = re.compile(r"version_num\b", re.IGNORECASE)
_COMMIT = re.compile(r"^\s*COMMIT\s*;", re.IGNORECASE | re.MULTILINE)


_CALLING = (ast.CallStmt, ast.CreateFunctionStmt, ast.DoStmt, ast.SelectStmt)


@dataclass(frozen=True)
class Dropped:
    """A table (``column`` is "") or a column whose rows SQL destroys."""

    table: str
    column: str


@dataclass(frozen=True)
class Statement:
    """One statement: its text, where it stands (in characters), and the table it is about.

    ``lock`` is the mode it takes on that table. ``writes`` are the kinds of row changes in it:
    ``update-all-rows``, ``update-rows``, ``delete-all-rows``, ``delete-rows`` or ``truncate``.
    """

    text: str
    start: int
    stop: int
    table: str
    lock: str
    writes: tuple[str, ...]
    node: Any = field(default=None, repr=False, compare=False)
    """What the parser made of it."""


def read_statements(text: str) -> list[Statement]:
    """Return the statements of SQL that are about a table; empty if it cannot be parsed.

    With those whose effect a function decides (`_CALLING`), for which the table is "".
    """
    found = []
    for part in _slices(text):
        piece = text[part].strip()
        statement = _parse_one(piece)
        table = _subject(statement)
        if table or isinstance(statement, _CALLING):
            found.append(
                Statement(
                    _without_comments(piece),
                    part.start,
                    part.stop,
                    table,
                    _lock(statement),
                    _writes(statement),
                    statement,
                )
            )
    return found


def parse_statements(text: str) -> list[tuple[str, Any | None]]:
    """Return each statement of SQL with what the parser makes of it, None if it cannot read it."""
    pieces = (text[part].strip() for part in _slices(text))
    return [(_without_comments(piece), _parse_one(piece)) for piece in pieces]


def parse_statement(text: str) -> Any:
    """Return what the parser makes of one statement.

    Raises:
        ParseError: it cannot be read.
    """
    return parse_sql(text)[0].stmt


def table_name(relation: Any) -> str:
    """Return a parsed table reference as ``schema.table``."""
    return _name(relation)


def locks_taken(text: str, tables: Sequence[str]) -> dict[str, str]:
    """Return the strongest lock mode that SQL takes on each of some tables.

    A table that is named but not changed is taken to be what a foreign key refers to. Without SQL
    that says otherwise, the strongest mode of all is assumed.
    """
    if not text:
        return dict.fromkeys(tables, MODES[-1])
    found = dict.fromkeys(tables, "ShareRowExclusiveLock")
    for statement in read_statements(text):
        if statement.table in found:
            modes = (found[statement.table], statement.lock)
            found[statement.table] = max(modes, key=MODES.index)
    return found


def tables_replaced(statement: Any) -> set[str]:
    """Return the tables whose names mean another table, or none, after a parsed statement.

    CREATE TABLE IF NOT EXISTS leaves one that exists as it is.
    """
    if isinstance(statement, ast.CreateStmt) and not statement.if_not_exists:
        return {_name(statement.relation)}
    if isinstance(statement, ast.DropStmt):
        return {dropped.table for dropped in _dropped((statement,))}
    return set()


def table_renamed(statement: Any) -> tuple[str, str] | None:
    """Return what a table was called and is called after a parsed statement; None for others."""
    if isinstance(statement, ast.RenameStmt) and statement.renameType == ObjectType.OBJECT_TABLE:
        old = _name(statement.relation)
        return old, f"{old.rpartition('.')[0]}.{statement.newname}"
    return None


def indexes_built_concurrently(text: str) -> list[str]:
    """Return the named indexes that SQL builds with CONCURRENTLY, as ``schema.index``."""
    return [
        f"{_name(statement.relation).rpartition('.')[0]}.{statement.idxname}"
        for statement in parse(text)
        if isinstance(statement, ast.IndexStmt) and statement.concurrent and statement.idxname
    ]


def has_statements(text: str) -> bool:
    """Say whether SQL does anything besides transactions and a change of Alembic's own table.

    That table is known as `is_of_version_table` does.
    """
    for part in _split(text):
        statement = _parse_one(part)
        is_own = is_of_version_table(part, statement)
        if not isinstance(statement, ast.TransactionStmt) and not is_own:
            return statement is not None or bool(_without_comments(part).strip())
    return False


def is_of_version_table(text: str, statement: Any) -> bool:
    """Say whether a parsed statement writes, or makes, Alembic's own table.

    It is known by what is written to it: a row of it holds nothing but version_num.
    """
    kinds = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.CreateStmt)
    return isinstance(statement, kinds) and _VERSION_NUM.search(text) is not None


def _subject(statement: Any) -> str:
    """Return the table that a statement changes, "" if it changes none."""
    relation = getattr(statement, "relation", None)
    if isinstance(relation, ast.RangeVar):
        return _name(relation)
    if isinstance(statement, ast.TruncateStmt):
        return _name((statement.relations or ())[0])
    dropped = list(_dropped((statement,)))
    return dropped[0].table if dropped else ""


def _writes(statement: Any) -> tuple[str, ...]:
    kinds = {ast.UpdateStmt: "update", ast.DeleteStmt: "delete"}
    if type(statement) in kinds:
        reach = "rows" if statement.whereClause else "all-rows"
        return (f"{kinds[type(statement)]}-{reach}",)
    return ("truncate",) if isinstance(statement, ast.TruncateStmt) else ()


def _lock(statement: Any) -> str:
    """Return the lock mode that a statement takes on its table.

    ALTER TABLE has many; the strongest is right for all that this module is asked about but
    VALIDATE CONSTRAINT and foreign keys. Source: PostgreSQL's documentation of each command.
    """
    if isinstance(statement, ast.IndexStmt):
        return "ShareUpdateExclusiveLock" if statement.concurrent else "ShareLock"
    if isinstance(statement, (ast.UpdateStmt, ast.DeleteStmt, ast.InsertStmt)):
        return "RowExclusiveLock"
    if isinstance(statement, ast.AlterTableStmt):
        return max((_alter_lock(command) for command in statement.cmds or ()), key=MODES.index)
    return "AccessExclusiveLock"


def _alter_lock(command: Any) -> str:
    if command.subtype == AlterTableType.AT_ValidateConstraint:
        return "ShareUpdateExclusiveLock"
    constraint = getattr(command, "def_", None)
    if isinstance(constraint, ast.Constraint) and constraint.contype == ConstrType.CONSTR_FOREIGN:
        return "ShareRowExclusiveLock"
    return "AccessExclusiveLock"


def _without_comments(text: str) -> str:
    """Return a statement without the comment lines before it."""
    lines = text.splitlines()
    while lines and (not lines[0].strip() or lines[0].lstrip().startswith("--")):
        del lines[0]
    return "\n".join(lines)


def _name(relation: Any) -> str:
    return f"{relation.schemaname or DEFAULT_SCHEMA}.{relation.relname}"


def commits_midway(text: str) -> bool:
    """Say whether a step's SQL commits before its end, so that a part of it may stay.

    Where the text only looks so (the COMMIT of a procedure's body), it is taken for one that does.
    """
    return len(_COMMIT.findall(text)) > 1


def tables_in(text: str) -> set[str]:
    """Return the tables that SQL names, as ``schema.table``; empty if it cannot be parsed."""
    found: set[str] = set()

    class Tables(Visitor):
        def visit_RangeVar(self, ancestors: Any, node: Any) -> None:
            found.add(_name(node))

    Tables()(parse(text))
    return found | {item.table for item in dropped_objects(text)}


def tables_written(text: str) -> set[str]:
    """Return the relations whose rows SQL writes by itself, as ``schema.table``.

    By UPDATE, INSERT, DELETE, MERGE, COPY, TRUNCATE or a change of a column's type, also within
    WITH; not what a DO block, a function or a trigger writes: their bodies are not read.
    """
    found: set[str] = set()

    class Written(Visitor):
        def visit_UpdateStmt(self, ancestors: Any, node: Any) -> None:
            found.add(_name(node.relation))

        visit_InsertStmt = visit_DeleteStmt = visit_MergeStmt = visit_UpdateStmt

        def visit_CopyStmt(self, ancestors: Any, node: Any) -> None:
            if node.is_from:
                found.add(_name(node.relation))

        def visit_TruncateStmt(self, ancestors: Any, node: Any) -> None:
            found.update(_name(relation) for relation in node.relations or ())

        def visit_AlterTableStmt(self, ancestors: Any, node: Any) -> None:
            kinds = {command.subtype for command in node.cmds or ()}
            if AlterTableType.AT_AlterColumnType in kinds:
                found.add(_name(node.relation))

    Written()(parse(text))
    return found


def dropped_objects(text: str) -> list[Dropped]:
    """Return the tables and columns that SQL drops or empties, in its order; views are no data."""
    return list(_dropped(parse(text)))


def parse(text: str) -> tuple[Any, ...]:
    """Return what the parser makes of each statement; one it cannot read hides no other."""
    try:
        return tuple(raw.stmt for raw in parse_sql(text))
    except ParseError:
        return tuple(found for part in _split(text) if (found := _parse_one(part)) is not None)


def _split(text: str) -> tuple[str, ...]:
    return tuple(text[part] for part in _slices(text))


def _slices(text: str) -> tuple[slice, ...]:
    try:
        return tuple(split(text, with_parser=False, only_slices=True) or ())
    except ParseError:  # an open quote: its end cannot be told
        return ()


def _parse_one(text: str) -> Any | None:
    try:
        parsed = parse_sql(text)
    except ParseError:
        return None
    return parsed[0].stmt if parsed else None


def _dropped(statements: tuple[Any, ...]) -> Iterator[Dropped]:
    for statement in statements:
        if isinstance(statement, ast.DropStmt) and statement.removeType == ObjectType.OBJECT_TABLE:
            for parts in statement.objects or ():
                names = [part.sval for part in parts][-2:]
                yield Dropped(".".join(names if len(names) > 1 else (DEFAULT_SCHEMA, *names)), "")
        if isinstance(statement, ast.TruncateStmt):
            for table in statement.relations or ():
                yield Dropped(_name(table), "")
        if isinstance(statement, ast.AlterTableStmt):
            yield from _dropped_columns(statement)


def _dropped_columns(statement: Any) -> Iterator[Dropped]:
    table = _name(statement.relation)
    for command in statement.cmds:
        if command.subtype == AlterTableType.AT_DropColumn:
            yield Dropped(table, command.name)
