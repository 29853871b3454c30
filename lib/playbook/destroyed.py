"""What each step of a plan destroys of what there is now, however it is called then. Layer 1: pure.

Names change along a plan: a revision that renamed a table is undone before the one that made it.
So the plan's statements are followed in their order, from the tables and columns as they are now.
A name without a schema is looked for along the search path, then wherever it is the only one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pglast import ast
from pglast.enums import AlterTableType, ObjectType
from pglast.visitors import Visitor

from playbook.records import PlanStep
from playbook.statements import parse

__all__ = ["Destroyed", "StepView", "follow"]


@dataclass(frozen=True)
class Destroyed:
    """A table that is dropped or emptied (``column`` is ""), or a column, by the names of now."""

    table: str
    column: str = ""


@dataclass(frozen=True)
class StepView:
    """A step: what it destroys, and what the tables and columns of now are called when it begins.

    ``tables`` maps a table's name of now to its name then; ``columns``, for each table by its name
    of now, its columns' names of now to those then. What is gone by then is missing in both.
    ``untold`` are statements of which only the rows, or a server, could tell what they destroy.
    ``written`` are the tables, by their names of now, whose rows its statements write over;
    ``in_blocks`` those of them that a DO block names, which may commit; ``altered`` those that it
    changes besides.
    """

    revision: str
    destroyed: tuple[Destroyed, ...]
    tables: Mapping[str, str]
    columns: Mapping[str, Mapping[str, str]]
    untold: tuple[str, ...] = ()
    written: frozenset[str] = frozenset()
    in_blocks: frozenset[str] = frozenset()
    altered: frozenset[str] = frozenset()


@dataclass
class _Follower:
    """Names then to names of now, as statements change them."""

    path: Sequence[str]
    tables: dict[str, str]
    columns: dict[str, dict[str, str]]
    parents: Mapping[str, str]
    destroyed: list[Destroyed] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
    written: set[str] = field(default_factory=set)
    in_blocks: set[str] = field(default_factory=set)
    altered: set[str] = field(default_factory=set)

    def find(self, schema: str | None, name: str) -> str:
        """Return the name then of a table as a statement writes it."""
        if schema:
            return f"{schema}.{name}"
        for place in self.path:
            if f"{place}.{name}" in self.tables:
                return f"{place}.{name}"
        same = [known for known in self.tables if known.partition(".")[2] == name]
        return same[0] if len(same) == 1 else f"{next(iter(self.path), 'public')}.{name}"

    def relation(self, relation: Any) -> str:
        return self.find(relation.schemaname, relation.relname)

    def drop(self, then: str, *, stays: bool = False) -> None:
        now = self.tables.get(then)
        if now is not None:
            self.destroyed.append(Destroyed(now))
        if now is not None and not stays:  # its rows are those of its partitions, which go with it
            gone = {now, *self.below(now)}
            self.tables = {then: now for then, now in self.tables.items() if now not in gone}

    def below(self, now: str) -> list[str]:
        """Return a table's partitions and theirs, by their names of now."""
        direct = [part for part, parent in self.parents.items() if parent == now]
        return [*direct, *(part for one in direct for part in self.below(one))]

    def begin(self) -> None:
        """Begin a step."""
        self.destroyed, self.untold = [], []
        self.written, self.in_blocks, self.altered = set(), set(), set()

    def take(self, statement: Any) -> None:
        """Follow one statement."""
        self._note_writes(statement)
        if isinstance(statement, ast.DropStmt):
            self._drop(statement)
        elif isinstance(statement, ast.TruncateStmt):
            for relation in statement.relations or ():
                self.drop(self.relation(relation), stays=True)
        elif isinstance(statement, ast.AlterTableStmt) and statement.relation:
            self._alter(statement)
        elif isinstance(statement, ast.RenameStmt):
            self._rename(statement)
        elif isinstance(statement, ast.AlterObjectSchemaStmt) and statement.relation:
            then = self.relation(statement.relation)
            self._move(then, f"{statement.newschema}.{statement.relation.relname}")
        elif isinstance(statement, ast.CreateStmt):
            if not statement.if_not_exists:
                self.tables.pop(self.relation(statement.relation), None)
        elif kind := _untold(statement):
            self.untold.append(kind)

    def _note_writes(self, statement: Any) -> None:
        """Note the tables whose rows a statement writes, also within WITH, or a block names."""
        names = {self.relation(relation) for relation in _relations_written(statement)}
        self.written |= {self.tables[then] for then in names if then in self.tables}
        if isinstance(statement, ast.DoStmt):
            text = " ".join(str(getattr(part.arg, "sval", "")) for part in statement.args or ())
            self.in_blocks |= {
                now
                for then, now in self.tables.items()
                if re.search(rf"(?<!\w){re.escape(then.partition('.')[2])}(?!\w)", text)
            }

    def _drop(self, statement: Any) -> None:
        for item in statement.objects or ():
            names = [part.sval for part in item] if isinstance(item, (list, tuple)) else []
            if statement.removeType == ObjectType.OBJECT_TABLE and names:
                self.drop(self.find(names[-2] if len(names) > 1 else None, names[-1]))
            elif statement.removeType == ObjectType.OBJECT_SCHEMA:
                schema = getattr(item, "sval", "")
                inside = [t for t in self.tables if t.partition(".")[0] == schema]
                for then in sorted(inside, key=lambda t: self.tables[t] in self.parents):
                    self.drop(then)  # partitions last: they are gone with their parents
            elif statement.removeType == ObjectType.OBJECT_TYPE and _cascades(statement):
                self.untold.append("DROP TYPE ... CASCADE drops the columns of that type")

    def _alter(self, statement: Any) -> None:
        now = self.tables.get(self.relation(statement.relation))
        self.altered |= {now} if now else set()
        for command in statement.cmds or ():
            if now and command.subtype == AlterTableType.AT_DropColumn:
                column = self.columns[now].pop(command.name, None)
                if column is not None:
                    self.destroyed.append(Destroyed(now, column))
                for part in self.below(now):
                    self.columns[part].pop(command.name, None)
            elif now and command.subtype == AlterTableType.AT_AddColumn:
                self.columns[now].pop(command.def_.colname, None)
            elif now and command.subtype == AlterTableType.AT_AlterColumnType:
                self.written.add(now)  # may write the whole table anew

    def _rename(self, statement: Any) -> None:
        if not statement.relation:
            return
        then = self.relation(statement.relation)
        if statement.renameType == ObjectType.OBJECT_TABLE:
            self._move(then, f"{then.partition('.')[0]}.{statement.newname}")
        elif statement.renameType == ObjectType.OBJECT_COLUMN and then in self.tables:
            now = self.tables[then]
            for columns in (self.columns[name] for name in (now, *self.below(now))):
                if statement.subname in columns:
                    columns[statement.newname] = columns.pop(statement.subname)

    def _move(self, then: str, to: str) -> None:
        if then in self.tables:
            self.tables[to] = self.tables.pop(then)


def _cascades(statement: Any) -> bool:
    return "CASCADE" in str(statement.behavior)


def _untold(statement: Any) -> str:
    """Return why nobody can tell from the text what a statement destroys; "" if it is no such."""
    if isinstance(statement, ast.DeleteStmt):
        return "" if _is_version(statement.relation) else "DELETE removes rows"
    if isinstance(statement, ast.UpdateStmt):
        return "" if _is_version(statement.relation) else "UPDATE overwrites values"
    if isinstance(statement, (ast.DoStmt, ast.CallStmt)):
        return "a DO block or a procedure does what its text does not show"
    return ""


def _relations_written(statement: Any) -> list[Any]:
    found: list[Any] = []

    class Writes(Visitor):
        def visit_UpdateStmt(self, ancestors: Any, node: Any) -> None:
            found.append(node.relation)

        visit_InsertStmt = visit_DeleteStmt = visit_MergeStmt = visit_UpdateStmt

    Writes()(statement)
    return found


def _is_version(relation: Any) -> bool:
    """Say whether it is Alembic's own table, by its usual name."""
    return bool(relation.relname == "alembic_version")


def follow(
    steps: Sequence[PlanStep],
    existing: Mapping[str, Sequence[str]],
    path: Sequence[str],
    parents: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[StepView]:
    """Return what each step destroys, in the order of the steps.

    Args:
        existing: the columns of each table that there is now, ``schema.table``.
        path: the schemas of the session's search path.
        parents: the table of which each partition directly is one; all are among ``existing``.
    """
    follower = _Follower(
        path,
        {table: table for table in existing},
        {table: {column: column for column in columns} for table, columns in existing.items()},
        {part: parent for part, parent in parents.items() if part in existing},
    )
    for step in steps:
        tables = {now: then for then, now in follower.tables.items()}
        columns = {
            table: {now: then for then, now in names.items()}
            for table, names in follower.columns.items()
            if table in tables
        }
        follower.begin()
        for statement in parse(step.sql):
            follower.take(statement)
        untold = tuple(dict.fromkeys(follower.untold))
        yield StepView(
            step.revision,
            tuple(follower.destroyed),
            tables,
            columns,
            untold,
            frozenset(follower.written | follower.in_blocks),
            frozenset(follower.in_blocks),
            frozenset(follower.altered),
        )
