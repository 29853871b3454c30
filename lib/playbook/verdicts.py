"""What a hazardous statement does in this database: its rule, sharpened by what is known.

Layer 1: pure. A change of type may rewrite nothing, a constraint may prove a column to hold no
NULL, and what is dropped may be empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pglast.enums import AlterTableType, ConstrType

from playbook.constraints import Proofs, functions_of
from playbook.hazard_rules import RULES, Rule
from playbook.records import Known, Severity
from playbook.statements import Dropped, Statement, dropped_objects
from playbook.type_changes import TypeChange, read_type, rewrites, type_changes
from playbook.violations import has_values

__all__ = ["judge"]

ATTRIBUTE_GENERATED_VIRTUAL = "v"
"""pg_attribute.attgenerated; the parser's generated_kind."""


def judge(name: str, statement: Statement, known: Known, proofs: Proofs) -> Rule:
    """Return the rule that a statement falls under, as it is for the tables there are."""
    rule = RULES[name]
    if name == "changing-column-type":
        return _type_change(rule, statement, known)
    if name == "adding-field-with-default":
        return _default(rule, statement, known)
    if name == "adding-foreign-key-constraint":
        return _foreign_key(rule, statement, known)
    if name == "adding-not-nullable-field":
        return _not_null(rule, statement, known, proofs)
    if name in {"ban-drop-column", "ban-drop-table", "truncate"}:
        return _drop(rule, statement, known)
    return rule


def _type_change(rule: Rule, statement: Statement, known: Known) -> Rule:
    """Return what the dearest change of type in a statement does."""
    types = {c.name: c.type for c in known.columns.get(statement.table, ())}
    changes = [change for change in type_changes(statement.node) if change.column in types]
    works = [_work(types[change.column], change, known) for change in changes]
    if not works:
        return rule
    worst = max(works, key=["moment", "index", "rewrite"].index)
    change = changes[works.index(worst)]
    what = f"{types[change.column]} becomes {change.new_text}"
    detail = {
        "moment": f"No row is written anew: {what}. CHECK constraints on it are checked again.",
        "index": f"No row is written anew, but indexes are: {what} with a collation.",
        "rewrite": f"Every row and index is written anew: {what}.",
    }
    return replace(rule, work=worst, detail=detail[worst])


def _work(old: str, change: TypeChange, known: Known) -> str:
    before = read_type(old)
    if not change.is_plain or rewrites(before, change.new, casts=known.casts, is_utc=known.is_utc):
        return "rewrite"
    return "index" if change.has_collation else "moment"


def _default(rule: Rule, statement: Statement, known: Known) -> Rule:
    """Return a moment's work where each new column's default is one value for all old rows.

    Source: ALTER TABLE's notes: a default that is not volatile is worked out once and stored in
    the catalog (PostgreSQL 11 on). A generated or identity column has a value for each row.
    """
    added = _added_columns(statement)
    given = [constraint for column in added for constraint in column.constraints or ()]
    if not added or any(map(_is_stored, given)):
        return rule
    if all(any(map(_is_virtual, column.constraints or ())) for column in added):
        return _virtual(rule, {constraint.contype for constraint in given})
    called: set[str] = set()
    for constraint in given:
        if constraint.contype == ConstrType.CONSTR_DEFAULT:
            called |= functions_of(constraint.raw_expr)
    if called <= known.steady:
        return replace(
            rule, work="moment", detail="Its default is one value for all rows there are."
        )
    return rule


def _added_columns(statement: Statement) -> list[Any]:
    commands = getattr(statement.node, "cmds", None) or ()
    return [c.def_ for c in commands if c.subtype == AlterTableType.AT_AddColumn]


def _is_virtual(constraint: Any) -> bool:
    """Say whether a generated column is worked out when it is read (PostgreSQL 18 on)."""
    is_generated = constraint.contype == ConstrType.CONSTR_GENERATED
    return bool(is_generated and constraint.generated_kind == ATTRIBUTE_GENERATED_VIRTUAL)


def _is_stored(constraint: Any) -> bool:
    """Say whether a column has a value of its own in each row that there is."""
    own = {ConstrType.CONSTR_IDENTITY, ConstrType.CONSTR_GENERATED}
    return constraint.contype in own and not _is_virtual(constraint)


def _virtual(rule: Rule, given: set[Any]) -> Rule:
    """Return that nothing is written; NOT NULL and CHECK are looked at in each row."""
    if given & {ConstrType.CONSTR_NOTNULL, ConstrType.CONSTR_CHECK}:
        return replace(rule, work="scan", detail="Every row is checked; none is written anew.")
    return replace(rule, work="moment", detail="It is worked out when it is read.")


def _foreign_key(rule: Rule, statement: Statement, known: Known) -> Rule:
    """Return a moment's work where all that refers is new and empty: nothing is checked.

    Source: transformAlterTableStmt() of PostgreSQL 13 to 18 skips the check of REFERENCES unless a
    column that the same statement adds has a default, or it adds a FOREIGN KEY by itself.
    """
    commands = getattr(statement.node, "cmds", None) or ()
    own = any(
        c.subtype == AlterTableType.AT_AddConstraint and c.def_.contype == ConstrType.CONSTR_FOREIGN
        for c in commands
    )
    added = _added_columns(statement)
    if not added or own or any(has_values(column, known) for column in added):
        return rule
    detail = "The column is new and empty, so no row is checked."
    return replace(rule, work="moment", lock="AccessExclusiveLock", detail=detail)


def _not_null(rule: Rule, statement: Statement, known: Known, proofs: Proofs) -> Rule:
    """Return a moment's work where every column is proven, or NOT NULL already."""
    commands = getattr(statement.node, "cmds", None) or ()
    columns = [c.name for c in commands if c.subtype == AlterTableType.AT_SetNotNull]
    already = {c.name for c in known.columns.get(statement.table, ()) if c.not_null}
    if not columns:
        return rule
    if all(column in already for column in columns):
        return replace(rule, work="moment", detail="It is NOT NULL already.")
    if all(c in already or proofs.prove(statement.table, c) for c in columns):
        return replace(rule, work="moment", detail="A valid CHECK proves it; nothing is scanned.")
    return rule


def _drop(rule: Rule, statement: Statement, known: Known) -> Rule:
    """Return how much is lost; what is empty weighs nothing."""
    counted = list(_counted(statement, known))
    if not counted or any(rows is None for _, rows in counted):
        return rule
    full = [(dropped, rows) for dropped, rows in counted if rows]
    if not full:
        return replace(rule, least=Severity.OK, detail=f"It holds nothing. {rule.detail}")
    return replace(rule, detail=f"{' '.join(_loss(*item) for item in full)} {rule.detail}")


def _counted(statement: Statement, known: Known) -> Iterator[tuple[Dropped, int | None]]:
    """Return each object that is dropped and what it holds, None where that is not known."""
    for dropped in dropped_objects(statement.text):
        columns = [column.name for column in known.columns.get(dropped.table, ())]
        if dropped.column and columns and dropped.column not in columns:
            yield dropped, 0  # the plan made it
        elif (dropped.table, "") in known.held and dropped.column:
            yield dropped, 0  # it goes with its table, which says so
        else:
            yield dropped, known.held.get((dropped.table, dropped.column))


def _loss(dropped: Dropped, rows: int | None) -> str:
    of = f"in {dropped.column} of" if dropped.column else "of"
    values = "values" if dropped.column else "rows"
    values = values.removesuffix("s") if rows == 1 else values
    return f"{rows:,} {values} {of} {dropped.table} will be destroyed."
