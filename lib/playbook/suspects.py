"""A plan's statements that rows may break, followed through its other statements. Layer 1: pure.

An earlier statement may mend what it finds: a backfill, a DELETE, a function that nobody can see
through. What the plan itself creates is not there to be counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pglast import ast
from pglast.enums import AlterTableType, ObjectType
from pglast.visitors import Visitor

from playbook.constraints import added_constraints, constraint_name, quoted, read_constraint
from playbook.records import Known, PlanStep
from playbook.statements import Statement, parse_statements, read_statements, table_name
from playbook.violations import Violation, has_values, of_command, of_index

__all__ = ["Suspect", "find_suspects"]

ALL = "*"


@dataclass(frozen=True)
class Suspect:
    """A statement with what may break it; ``is_changed``: the plan changes those rows first."""

    step: PlanStep
    statement: Statement
    violation: Violation
    is_changed: bool


def find_suspects(steps: Sequence[PlanStep], known: Known, *, is_observed: bool) -> list[Suspect]:
    """Return the statements whose success hangs on rows that exist, in the order of the plan.

    Args:
        is_observed: the SQL is what an empty copy saw; what Python does for each row that it
            reads is then not in it, so a table that is read counts as changed.
    """
    walk = _Walk(known, is_observed)
    found: list[Suspect] = []
    for step in steps:
        statements = iter(read_statements(step.sql))
        for text, node in parse_statements(step.sql):
            if node is None:
                walk.unreadable += f" {text}"
                continue
            table = _existing_subject(node)
            if table:
                statement = next(s for s in statements if s.text == text)
                found += (
                    Suspect(step, statement, violation, walk.is_changed(violation))
                    for violation in walk.violations(node, table)
                )
            walk.follow(node)
    return found


def _existing_subject(node: Any) -> str:
    if isinstance(node, (ast.AlterTableStmt, ast.IndexStmt)):
        return table_name(node.relation)
    return ""


class _Walk:
    """What the statements so far have made, changed and taken away."""

    def __init__(self, known: Known, is_observed: bool) -> None:
        self._known = known
        self._is_observed = is_observed
        self._columns = {t: {c.name for c in columns} for t, columns in known.columns.items()}
        self._filled = {(t, c.name) for t, cs in known.columns.items() for c in cs if c.not_null}
        self._bare: set[tuple[str, str]] = set()  # added without a value
        self._changed: set[tuple[str, str]] = set()
        self._grown: set[str] = set()
        self._functions = {"set_config", *known.functions}
        self._is_vague = False
        self.unreadable = ""
        self._pending: dict[str, dict[str, Any]] = {}
        for fact in known.constraints:
            constraint = None if fact.is_valid else read_constraint(fact.definition)
            if constraint is not None:
                constraint.conname = fact.name
                self._pending.setdefault(fact.table, {})[fact.name] = constraint

    def violations(self, node: Any, table: str) -> Iterator[Violation]:
        """Return what a statement asks of rows that are there."""
        if table not in self._columns:
            return
        if isinstance(node, ast.IndexStmt):
            if node.if_not_exists and node.idxname in self._known.indexes:
                return
            yield from (
                v for v in of_index(node, table, self._known) if v.columns <= self._columns[table]
            )
            return
        for command in node.cmds:
            is_optional = command.subtype == AlterTableType.AT_AddColumn and command.missing_ok
            if is_optional and command.def_.colname in self._columns[table]:
                continue  # IF NOT EXISTS: it does
            pending = self._pending.get(table, {})
            for violation in of_command(node, command, table, self._known, pending):
                yield from self._asked(violation)
            self._follow_command(table, command)

    def _asked(self, violation: Violation) -> Iterator[Violation]:
        """Return a violation that can be counted: of old columns, or of one left without values."""
        table, rule = violation.table, violation.rule
        if rule == "nulls-break-not-null":
            column = violation.object
            if (table, column) in self._filled:
                return
            if (table, column) in self._bare:
                if not self.is_changed(violation):
                    what = "that would have no value in " + column
                    query = violation.query.split(" WHERE ")[0]
                    yield replace(
                        violation, query=query, what=(f"row {what}", f"rows {what}"),
                        columns=frozenset(),
                    )  # fmt: skip
                return
        if violation.columns <= self._columns[table] and (
            not violation.parent or violation.parent in self._columns
        ):
            yield violation

    def is_changed(self, violation: Violation) -> bool:
        """Say whether earlier statements may have mended what would break one."""
        table = violation.table
        columns = violation.columns or {violation.object}
        name = table.split(".", 1)[-1]
        return (
            self._is_vague
            or re.search(rf"\b{re.escape(name)}\b", self.unreadable) is not None
            or any((table, column) in self._changed for column in (*columns, ALL))
            or bool(violation.parent)
            and (violation.parent in self._grown or self._is_written(violation.parent))
        )

    def _is_written(self, table: str) -> bool:
        return any(changed == table for changed, _ in self._changed)

    def follow(self, node: Any) -> None:
        """Take note of what a statement does."""
        self._follow_writes(node)
        if isinstance(node, ast.DoStmt):
            self.unreadable += " " + " ".join(
                str(getattr(item.arg, "sval", "")) for item in node.args or ()
            )
        elif isinstance(node, (ast.CallStmt, ast.CreateDomainStmt)):
            self._is_vague = True
        elif isinstance(node, ast.VariableSetStmt):
            self._is_vague |= node.name == "search_path"  # names then mean other tables
        elif isinstance(node, ast.CreateFunctionStmt):
            self._functions |= {part.sval for part in node.funcname or ()}
        elif isinstance(node, ast.CreateStmt) and not node.if_not_exists:
            self._forget(table_name(node.relation))
        elif isinstance(node, ast.DropStmt) and node.removeType == ObjectType.OBJECT_TABLE:
            for parts in node.objects or ():
                self._forget(".".join(["public", *(part.sval for part in parts)][-2:]))
        elif isinstance(node, ast.TruncateStmt):
            self._changed |= {(table_name(relation), ALL) for relation in node.relations or ()}
        elif isinstance(node, ast.RenameStmt) and node.relation is not None:
            self._rename(node)

    def _forget(self, table: str) -> None:
        """A table of this name is no longer, or not yet, the one that exists."""
        self._columns.pop(table, None)

    def _rename(self, node: Any) -> None:
        table = table_name(node.relation)
        if node.renameType == ObjectType.OBJECT_COLUMN:
            self._columns.get(table, set()).difference_update({node.subname, node.newname})
            self._filled -= {(table, node.subname), (table, node.newname)}
            self._bare -= {(table, node.subname), (table, node.newname)}
        elif node.renameType == ObjectType.OBJECT_TABLE:
            self._forget(table)
            self._forget(f"{table.rsplit('.', 1)[0]}.{node.newname}")

    def _follow_command(self, table: str, command: Any) -> None:
        """Take note of what a command of ALTER TABLE does."""
        if command.subtype == AlterTableType.AT_AddColumn:
            name = command.def_.colname
            if name not in self._columns[table] and not has_values(command.def_, self._known):
                self._bare.add((table, name))
        elif command.subtype == AlterTableType.AT_DropColumn:
            self._columns[table].discard(command.name)
            self._filled.discard((table, command.name))
            self._bare.discard((table, command.name))
        elif command.subtype == AlterTableType.AT_DropNotNull:
            self._filled.discard((table, command.name))
        elif command.subtype == AlterTableType.AT_AlterColumnType:
            self._changed.add((table, command.name))
        elif command.subtype == AlterTableType.AT_DropConstraint:
            self._pending.get(table, {}).pop(command.name, None)
        for constraint in added_constraints(ast.AlterTableStmt(cmds=(command,))):
            if constraint.skip_validation:
                name = constraint_name(table.split(".", 1)[-1], constraint)
                self._pending.setdefault(table, {})[name] = constraint

    def _follow_writes(self, node: Any) -> None:
        """Take note of the rows that a statement writes, at any depth of it."""
        writes = _Writes()
        writes(node)
        self._changed |= writes.changed
        self._grown |= writes.grown
        self._is_vague |= any(self._cascades(name) for name in writes.emptied)
        if isinstance(node, ast.SelectStmt):
            self._is_vague |= bool(writes.called & self._functions)
            if self._is_observed:
                self._changed |= {(table, ALL) for table in writes.read}

    def _cascades(self, table: str) -> bool:
        """Say whether deleting from a table changes those that refer to it."""
        named = (f"REFERENCES {quoted(table)}(", f".{quoted(table)}(")
        return any(
            "ON DELETE" in fact.definition and any(name in fact.definition for name in named)
            for fact in self._known.constraints
        )


class _Writes(Visitor):
    """The tables that a statement changes, reads and adds rows to, and the functions it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.changed: set[tuple[str, str]] = set()
        self.grown: set[str] = set()
        self.emptied: set[str] = set()
        self.read: set[str] = set()
        self.called: set[str] = set()

    def visit_UpdateStmt(self, ancestors: Any, node: Any) -> None:
        table = table_name(node.relation)
        self.changed |= {(table, target.name) for target in node.targetList or ()}

    def visit_DeleteStmt(self, ancestors: Any, node: Any) -> None:
        self.changed.add((table_name(node.relation), ALL))
        self.emptied.add(node.relation.relname)

    def visit_MergeStmt(self, ancestors: Any, node: Any) -> None:
        self.changed.add((table_name(node.relation), ALL))

    def visit_InsertStmt(self, ancestors: Any, node: Any) -> None:
        self.grown.add(table_name(node.relation))
        if node.onConflictClause is not None:
            self.changed.add((table_name(node.relation), ALL))

    def visit_CopyStmt(self, ancestors: Any, node: Any) -> None:
        if node.relation is not None:
            self.grown.add(table_name(node.relation))

    def visit_RangeVar(self, ancestors: Any, node: Any) -> None:
        self.read.add(table_name(node))

    def visit_FuncCall(self, ancestors: Any, node: Any) -> None:
        self.called.add(node.funcname[-1].sval)
