"""Constraints as PostgreSQL's parser reads them: their names, and the columns they speak of.

Layer 1: pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pglast import ast
from pglast.enums import AlterTableType, BoolExprType, ConstrType, NullTestType
from pglast.parser import ParseError
from pglast.stream import maybe_double_quote_name
from pglast.visitors import Visitor

from playbook.statements import parse_statement

__all__ = [
    "Proofs",
    "added_constraints",
    "columns_of",
    "constraint_name",
    "functions_of",
    "not_null_columns",
    "object_name",
    "quoted",
    "read_constraint",
]

NAME_BYTES = 63
"""NAMEDATALEN - 1."""
_LABELS = {
    ConstrType.CONSTR_CHECK: "check",
    ConstrType.CONSTR_FOREIGN: "fkey",
    ConstrType.CONSTR_UNIQUE: "key",
    ConstrType.CONSTR_PRIMARY: "pkey",
    ConstrType.CONSTR_EXCLUSION: "excl",
    ConstrType.CONSTR_NOTNULL: "not_null",
}


def quoted(*names: str) -> str:
    """Return names as SQL writes them, parted by dots; quotes only where they are needed."""
    return ".".join(maybe_double_quote_name(name) for name in names)


def columns_of(expression: Any) -> set[str]:
    """Return the columns that an expression names."""
    found: set[str] = set()

    class Columns(Visitor):
        def visit_ColumnRef(self, ancestors: Any, node: Any) -> None:
            if name := getattr(node.fields[-1], "sval", ""):
                found.add(name)

    Columns()(expression)
    return found


def functions_of(expression: Any) -> set[str]:
    """Return the functions that an expression calls, by name."""
    found: set[str] = set()

    class Functions(Visitor):
        def visit_FuncCall(self, ancestors: Any, node: Any) -> None:
            found.add(node.funcname[-1].sval)

    Functions()(expression)
    return found


def constraint_name(table: str, constraint: Any) -> str:
    """Return the name of a constraint: its own, or the one that PostgreSQL gives it."""
    if constraint.conname:
        return str(constraint.conname)
    kind = constraint.contype
    if kind == ConstrType.CONSTR_FOREIGN:
        columns = [name.sval for name in constraint.fk_attrs or ()]
    elif kind == ConstrType.CONSTR_CHECK:
        columns = sorted(columns_of(constraint.raw_expr))
        columns = columns if len(columns) == 1 else []
    else:
        columns = [name.sval for name in constraint.keys or ()]
    if kind == ConstrType.CONSTR_PRIMARY:
        columns = []
    return object_name(table, "_".join(columns), _LABELS[kind])


def object_name(first: str, second: str, label: str) -> str:
    """Return a name as `makeObjectName` makes it: the longer part is cut until it fits."""
    room = NAME_BYTES - len(label) - 1 - bool(second)
    while len(first.encode()) + len(second.encode()) > room:
        if len(first.encode()) > len(second.encode()):
            first = first[:-1]
        else:
            second = second[:-1]
    return "_".join(part for part in (first, second, label) if part)


def read_constraint(definition: str) -> Any | None:
    """Return the constraint of a pg_get_constraintdef(), None if it cannot be read."""
    try:
        return parse_statement(f"ALTER TABLE t ADD {definition}").cmds[0].def_
    except ParseError:
        return None


def added_constraints(statement: Any) -> Iterator[Any]:
    """Return the table constraints that a parsed ALTER TABLE adds."""
    for command in getattr(statement, "cmds", None) or ():
        if getattr(command, "subtype", None) == AlterTableType.AT_AddConstraint:
            yield command.def_


def not_null_columns(constraint: Any) -> tuple[str, ...]:
    """Return the columns that a CHECK says to be NOT NULL; none for another constraint."""
    if constraint is None or constraint.contype != ConstrType.CONSTR_CHECK:
        return ()
    expression = constraint.raw_expr
    both = isinstance(expression, ast.BoolExpr) and expression.boolop == BoolExprType.AND_EXPR
    tests = expression.args if both else (expression,)
    return tuple(
        str(getattr(test.arg.fields[-1], "sval", ""))  # type: ignore[index]
        for test in tests
        if isinstance(test, ast.NullTest)
        and test.nulltesttype == NullTestType.IS_NOT_NULL
        and isinstance(test.arg, ast.ColumnRef)
    )


class Proofs:
    """The CHECK constraints that prove columns to hold no NULL, as a plan goes on.

    SET NOT NULL scans nothing where a valid one proves it (PostgreSQL 12 on).
    """

    def __init__(self) -> None:
        self._columns: dict[tuple[str, str], tuple[str, ...]] = {}
        self._valid: set[tuple[str, str]] = set()

    def add(self, table: str, name: str, constraint: Any, *, valid: bool) -> None:
        """Take note of a constraint that there is."""
        self._columns[table, name] = not_null_columns(constraint)
        if valid:
            self._valid.add((table, name))

    def follow(self, table: str, statement: Any) -> None:
        """Take note of what a statement adds, validates and drops."""
        for constraint in added_constraints(statement):
            if constraint.contype == ConstrType.CONSTR_CHECK:
                name = constraint_name(table.split(".", 1)[-1], constraint)
                self.add(table, name, constraint, valid=not constraint.skip_validation)
        for command in getattr(statement, "cmds", None) or ():
            if command.subtype == AlterTableType.AT_ValidateConstraint:
                self._valid.add((table, command.name))
            elif command.subtype == AlterTableType.AT_DropConstraint:
                self._valid.discard((table, command.name))

    def prove(self, table: str, column: str) -> bool:
        """Say whether a valid constraint proves that a column holds no NULL."""
        return any(key[0] == table and column in self._columns.get(key, ()) for key in self._valid)
