"""The rows that would make a statement fail, as queries. Layer 1: pure.

Each query returns the rows (or groups of equal rows) that break what a statement asks of a table
that exists; `playbook.probes` counts them. What is added NOT VALID asks nothing of old rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pglast import ast
from pglast.enums import AlterTableType, ConstrType
from pglast.stream import RawStream

from playbook.constraints import columns_of, constraint_name, quoted
from playbook.records import ColumnFact, Known
from playbook.statements import table_name
from playbook.type_changes import DataType, TypeChange, read_type, shortens, type_changes

__all__ = ["MAY_STILL_RUN", "RULES", "Violation", "has_values", "of_command", "of_index"]

RULES: Mapping[str, str] = {
    "nulls-break-not-null": "Fill them in an earlier revision.",
    "rows-lack-a-value": "Add it nullable, fill it, then SET NOT NULL.",
    "duplicates-break-unique": "Merge or mark them in an earlier revision.",
    "rows-break-check": "Correct them in an earlier revision, or add it NOT VALID.",
    "orphans-break-foreign-key": "Mend or delete them in an earlier revision, or add it NOT VALID.",
    "values-too-long": "Shorten them in an earlier revision.",
    "values-cut-off": "Be sure that nobody needs the rest of them.",
    "values-not-castable": "Correct them in an earlier revision.",
}
"""What a statement can fail by, and what to do about it."""

MAY_STILL_RUN = {"values-cut-off"}
"""Rules by which a statement loses something instead of failing."""

_WHOLE = ("int2", "int4", "int8")
_FROM_TEXT = {
    **dict.fromkeys(("text", "varchar", "bpchar"), frozenset[str]()),
    "int4": frozenset({"int2"}),
    "int8": frozenset({"int2", "int4"}),
    "numeric": frozenset({"numeric"}),
}
"""Types whose text form tells whether a cast succeeds: from text to anything, between numbers
to these."""


@dataclass(frozen=True)
class Violation:
    """What a statement asks of the rows there are.

    ``query`` returns those that break it, ``what`` says after their number what they are;
    ``columns`` are those of ``table`` that decide, ``parent`` the table that they refer to.
    ``needs`` is the oldest server that can be asked, as server_version_num.
    """

    rule: str
    table: str
    object: str
    columns: frozenset[str]
    query: str
    what: tuple[str, str]
    parent: str = ""
    needs: int = 0


def of_index(statement: Any, table: str, known: Known) -> Iterator[Violation]:
    """Return what a parsed CREATE UNIQUE INDEX asks of its table."""
    if not statement.unique:
        return
    keys: list[str] = []
    columns: set[str] = set()
    for element in statement.indexParams:
        key = quoted(element.name) if element.name else f"({RawStream()(element.expr)})"
        collation = ".".join(quoted(part.sval) for part in element.collation or ())
        keys.append(f"{key} COLLATE {collation}" if collation else key)
        columns |= {element.name} if element.name else columns_of(element.expr)
    where = RawStream()(statement.whereClause) if statement.whereClause else ""
    if where:
        columns |= columns_of(statement.whereClause)
    equal = getattr(statement, "nulls_not_distinct", False)
    name, rows = statement.idxname or "", _own_rows(statement.relation, known)
    yield _duplicates(rows, table, name, keys, frozenset(columns), where, equal)


def of_command(
    statement: Any, command: Any, table: str, known: Known, pending: Mapping[str, Any]
) -> Iterator[Violation]:
    """Return what one command of a parsed ALTER TABLE asks of its table.

    Args:
        pending: the constraints of the table that are not validated, by name, parsed.
    """
    relation = statement.relation
    match command.subtype:
        case AlterTableType.AT_SetNotNull:
            yield _nulls(relation, table, command.name)
        case AlterTableType.AT_AddConstraint if not command.def_.skip_validation:
            yield from _constraint(relation, table, command.def_, known)
        case AlterTableType.AT_ValidateConstraint if command.name in pending:
            yield from _constraint(relation, table, pending[command.name], known)
        case AlterTableType.AT_AddColumn:
            yield from _required(relation, table, command.def_, known)
        case AlterTableType.AT_AlterColumnType:
            statement = ast.AlterTableStmt(relation=relation, cmds=(command,))
            for change in type_changes(statement):
                yield from _change(relation, table, change, known.columns.get(table, ()))


def _all_rows(relation: Any) -> str:
    """Return a table with those that inherit from it, unless the statement says ONLY."""
    name = quoted(*(name for name in (relation.schemaname, relation.relname) if name))
    return name if relation.inh else f"ONLY {name}"


def _own_rows(relation: Any, known: Known) -> str:
    """Return a table without those that inherit: what an index and a foreign key reach."""
    name = _all_rows(relation).removeprefix("ONLY ")
    return f"ONLY {name}" if table_name(relation) in known.inherited else name


def _rows(what: str, one: str = "") -> tuple[str, str]:
    """Return what one row and what several are."""
    return f"row {one or what}", f"rows {what}"


def _nulls(relation: Any, table: str, column: str) -> Violation:
    query = f"SELECT * FROM {_all_rows(relation)} WHERE {quoted(column)} IS NULL"
    what = _rows(f"without a value in {column}")
    return Violation("nulls-break-not-null", table, column, frozenset({column}), query, what)


def _required(relation: Any, table: str, definition: Any, known: Known) -> Iterator[Violation]:
    """Return all rows where a column is added that they must have and have no value for."""
    given = {c.contype: c for c in definition.constraints or ()}
    required = {ConstrType.CONSTR_NOTNULL, ConstrType.CONSTR_PRIMARY} & given.keys()
    if required and not has_values(definition, known):
        what = _rows(f"that would have no value in {definition.colname}")
        query = f"SELECT * FROM {_all_rows(relation)}"
        name = definition.colname
        yield Violation("rows-lack-a-value", table, name, frozenset(), query, what)


def has_values(definition: Any, known: Known) -> bool:
    """Say whether a column that is added has a value in old rows at once."""
    filling = {
        ConstrType.CONSTR_DEFAULT,
        ConstrType.CONSTR_IDENTITY,
        ConstrType.CONSTR_GENERATED,
    }
    given = {c.contype for c in definition.constraints or ()}
    type_name = definition.typeName.names[-1].sval
    return bool(filling & given) or "serial" in type_name or type_name in known.filling


def _constraint(relation: Any, table: str, constraint: Any, known: Known) -> Iterator[Violation]:
    name = constraint_name(relation.relname, constraint)
    if not getattr(constraint, "is_enforced", True) and constraint.contype in {
        ConstrType.CONSTR_CHECK,
        ConstrType.CONSTR_FOREIGN,
    }:
        return
    if constraint.contype == ConstrType.CONSTR_CHECK:
        text = RawStream()(constraint.raw_expr)
        query = f"SELECT * FROM {_all_rows(relation)} WHERE NOT ({text})"
        what = _rows(f"that break {text}", f"that breaks {text}")
        columns = frozenset(columns_of(constraint.raw_expr))
        yield Violation("rows-break-check", table, name, columns, query, what)
    elif constraint.contype == ConstrType.CONSTR_NOTNULL:
        yield from (_nulls(relation, table, key.sval) for key in constraint.keys or ())
    elif constraint.contype == ConstrType.CONSTR_FOREIGN:
        yield from _orphans(relation, table, constraint, name, known)
    elif constraint.contype in {ConstrType.CONSTR_UNIQUE, ConstrType.CONSTR_PRIMARY}:
        yield from _keys(relation, table, constraint, name, known)


def _keys(
    relation: Any, table: str, constraint: Any, name: str, known: Known
) -> Iterator[Violation]:
    """Return what UNIQUE or PRIMARY KEY asks; an index that it takes over is unique already."""
    if constraint.indexname or getattr(constraint, "without_overlaps", False):
        return
    columns = [key.sval for key in constraint.keys or ()]
    if constraint.contype == ConstrType.CONSTR_PRIMARY:
        for column in columns:
            yield _nulls(relation, table, column)
    keys, equal = [quoted(c) for c in columns], getattr(constraint, "nulls_not_distinct", False)
    rows = _own_rows(relation, known)
    yield _duplicates(rows, table, name, keys, frozenset(columns), "", equal)


def _duplicates(
    rows: str,
    table: str,
    name: str,
    keys: list[str],
    columns: frozenset[str],
    where: str,
    nulls_are_equal: bool,
) -> Violation:
    """Return the groups of rows that are equal where each must be the only one."""
    conditions = [f"({where})"] if where else []
    if not nulls_are_equal:
        conditions += [f"{key} IS NOT NULL" for key in keys]
    kept = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    equal = ", ".join(keys)
    query = f"SELECT {equal}, count(*) FROM {rows}{kept} GROUP BY {equal} HAVING count(*) > 1"
    what = f"of rows that are equal in {equal}"
    rule = "duplicates-break-unique"
    return Violation(rule, table, name, columns, query, (f"group {what}", f"groups {what}"))


def _orphans(
    relation: Any, table: str, constraint: Any, name: str, known: Known
) -> Iterator[Violation]:
    """Return the rows that refer to nothing; with MATCH FULL also those that refer by half."""
    parent = table_name(constraint.pktable)
    columns = [key.sval for key in constraint.fk_attrs]
    referred = [key.sval for key in constraint.pk_attrs or ()] or list(known.keys.get(parent, ()))
    if len(referred) != len(columns) or getattr(constraint, "fk_with_period", False):
        return
    pairs = list(zip(columns, referred, strict=True))
    same = " AND ".join(f"p.{quoted(r)} = f.{quoted(c)}" for c, r in pairs)
    full = " AND ".join(f"f.{quoted(c)} IS NOT NULL" for c in columns)
    parents = _own_rows(constraint.pktable, known)
    broken = f"{full} AND NOT EXISTS (SELECT FROM {parents} AS p WHERE {same})"
    if constraint.fk_matchtype == "f" and len(columns) > 1:
        nulls = f"num_nulls({', '.join(f'f.{quoted(c)}' for c in columns)})"
        broken = f"({broken}) OR {nulls} BETWEEN 1 AND {len(columns) - 1}"
    query = f"SELECT f.* FROM {_own_rows(relation, known)} AS f WHERE {broken}"
    what = _rows(f"that refer to no row of {parent}", f"that refers to no row of {parent}")
    rule = "orphans-break-foreign-key"
    yield Violation(rule, table, name, frozenset(columns), query, what, parent)


def _change(
    relation: Any, table: str, change: TypeChange, columns: tuple[ColumnFact, ...]
) -> Iterator[Violation]:
    """Return the values that a change of type cannot keep."""
    types = {column.name: read_type(column.type) for column in columns}
    old = types.get(change.column)
    if old is None or not change.is_plain or old.is_array or change.new.is_array:
        return
    column, of = quoted(change.column), _all_rows(relation)
    decide = frozenset({change.column})
    if shortens(old, change.new):
        length = change.new.modifiers[0]
        query = f"SELECT * FROM {of} WHERE btrim(substr({column}::text, {length + 1})) <> ''"
        rule = "values-cut-off" if change.is_explicit else "values-too-long"
        what = _rows(f"with more than {length} characters in {change.column}")
        yield Violation(rule, table, change.column, decide, query, what)
    elif _casts_by_text(old, change.new):
        text = change.new_text.replace("'", "''")
        query = f"SELECT * FROM {of} WHERE NOT pg_input_is_valid({column}::text, '{text}')"
        what = _rows(f"with no {change.new_text} in {change.column}")
        yield Violation(
            "values-not-castable", table, change.column, decide, query, what, needs=160000
        )


def _casts_by_text(old: DataType, new: DataType) -> bool:
    """Say whether a value's text form tells if it can be of the new type."""
    to = _FROM_TEXT.get(old.name)
    if to is None or new.name in {"text", "varchar", "bpchar"}:
        return False
    return new.name in to if to else True
