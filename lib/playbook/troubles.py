"""What a revision's way up, down and up again shows to be wrong. Layer 4: compares, reads nothing.

Each function takes what a copy looked like at two moments and returns troubles, each named with
its revision, its direction and the object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from playbook.declarations import is_named, read_declarations
from playbook.errors import MigrationFailed, PlaybookError, explain
from playbook.formats import count, seconds
from playbook.records import (
    ColumnSnapshot,
    Difference,
    PlanStep,
    Severity,
    Snapshot,
    TableSnapshot,
)
from playbook.rehearsals import Allowed, Passage, Trouble
from playbook.schema_objects import COLUMN_ORDER, Schema, SchemaDifference
from playbook.schemas import differences
from playbook.statements import indexes_built_concurrently, parse_statements, read_statements
from playbook.verification import compare

__all__ = [
    "LEAVES_COPY",
    "Look",
    "find_dropped",
    "find_lost",
    "find_other",
    "find_trace",
    "of_failure",
    "of_passage",
    "uncompared",
    "without_way_down",
]

GONE = {"dropped", "rows changed", "values changed"}
"""Kinds of `playbook.records.Difference` after which something of the data is not as it was.

A column of another type is none of them: its values cannot be compared, and it leaves a trace.
"""
LEAVES_COPY = "SharedChangeError"
"""The kind of the error of a revision that would change what is not the copy's alone."""
SHOWN = 60
"""Characters of a definition that a sentence quotes."""


@dataclass(frozen=True)
class Look:
    """What a copy was like at one moment."""

    data: Snapshot
    schema: Schema


def find_lost(step: PlanStep, before: Look, after: Look) -> Iterator[Trouble]:
    """Say which data are not as they were, after a revision was applied and undone.

    What the revision's file declares to change (`playbook.declarations`) weighs less.
    """
    declared = _declared(step)
    for one in _changes(before, after):
        if one.kind not in GONE:
            continue
        is_declared = is_named(one.table, one.column, declared)
        yield Trouble(
            "loses-data",
            Severity.WARN if is_declared else Severity.STOP,
            step.revision,
            "downgrade",
            _name(one),
            f"After up and down it is not as before: {_words(one)}."
            + (" The file declares that it changes." if is_declared else ""),
            "Keep what the upgrade takes away until a later revision, or let the downgrade bring "
            "it back; if it is meant, declare it in the file (`# playbook: changes "
            f"{_name(one)} because ...`).",
        )


def _changes(before: Look, after: Look) -> list[Difference]:
    """Return the differences of two looks: a table's own only where no column tells more."""
    found = compare(before.data, after.data, names=("before", "after")).differences
    of_columns = {one.table for one in found if one.column and one.kind in GONE}
    return [
        one
        for one in found
        if one.column or one.kind in {"dropped", "rows changed"} or one.table not in of_columns
    ]


def _words(one: Difference) -> str:
    if one.kind == "dropped" and not one.column:
        return f"the table with {count(one.rows_before, 'row')} is gone"
    if one.kind == "dropped":
        return f"the column with {count(one.rows_before, 'value')} is gone"
    if one.kind == "rows changed":
        return f"{one.rows_before:,} rows became {one.rows_after:,}"
    if one.rows_before != one.rows_after:
        return f"{count(one.rows_before, 'value')} became {one.rows_after:,}"
    return "values differ"


def _name(one: Difference) -> str:
    return f"{one.table}.{one.column}" if one.column else one.table


def _declared(step: PlanStep) -> tuple[str, ...]:
    try:
        return read_declarations(step.path.read_text("utf-8")) or ()
    except OSError:
        return ()


def find_trace(step: PlanStep, before: Look, after: Look) -> Iterator[Trouble]:
    """Say in what the schema is not as it was, after a revision was applied and undone."""
    for one in differences(before.schema, after.schema):
        only_order = one.kind == COLUMN_ORDER
        yield Trouble(
            "trace",
            Severity.WARN if only_order else Severity.STOP,
            step.revision,
            "downgrade",
            one.object,
            "After up and down its columns stand in another order."
            if only_order
            else f"After up and down the {one.kind} {_change(one)}.",
            "Name the columns in each INSERT and COPY."
            if only_order
            else "Let the downgrade undo it: the next upgrade may fail on it.",
        )


def _change(one: SchemaDifference) -> str:
    if one.change == "added":
        return "is still there"
    if one.change == "dropped":
        return "is gone"
    return f"is another: {_short(one.before)!r} became {_short(one.after)!r}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}..."


def find_dropped(step: PlanStep, up: Look, down: Look, again: Look) -> Iterator[Trouble]:
    """Say what the way down dropped that held rows or values after the way up, table by table.

    A column or table that was only renamed is none: its fingerprint is there under another name.
    What the second way up brings back, value for value, weighs nothing now: only what the
    application writes there later is lost.
    """
    left = {table.name: table for table in down.data.tables}
    back = {table.name: table for table in again.data.tables}
    known = {table.name for table in up.data.tables}
    new = {_prints(t.columns) for t in down.data.tables if t.name not in known}
    for table in up.data.tables:
        there, returned = left.get(table.name), back.get(table.name)
        if there is None:
            if table.rows > 0 and _prints(table.columns) not in new:
                same = returned is not None and returned.columns == table.columns
                yield _drops(step, table.name, f"with {count(table.rows, 'row')}", same)
            continue
        gone = _columns_gone(table, there)
        if gone:
            same = returned is not None and set(gone) <= set(returned.columns)
            held = count(max(column.non_null_rows for column in gone), "value")
            names = ", ".join(column.column for column in gone)
            if len(gone) == 1:
                yield _drops(step, f"{table.name}.{names}", f"with {held}", same)
            else:
                yield _drops(step, table.name, f"with up to {held} each", same, f"{names} of ")


def _columns_gone(table: TableSnapshot, there: TableSnapshot) -> list[ColumnSnapshot]:
    """Return the columns with values that a table no longer has, under whatever name."""
    names = {column.column for column in there.columns}
    ours = {column.column for column in table.columns}
    moved = {column.fingerprint for column in there.columns if column.column not in ours}
    return [
        column
        for column in table.columns
        if column.column not in names
        and column.non_null_rows > 0
        and column.fingerprint not in moved
    ]


def _prints(columns: Sequence[ColumnSnapshot]) -> tuple[str, ...]:
    return tuple(column.fingerprint for column in columns)


def _drops(step: PlanStep, name: str, held: str, same: bool, parts: str = "") -> Trouble:
    again = "the second upgrade brought them back" if same else "a second upgrade does not yield it"
    return Trouble(
        "drops-data",
        Severity.OK if same else Severity.WARN,
        step.revision,
        "downgrade",
        name,
        f"The downgrade drops {parts}it, {held}; {again}.",
        "What the application writes there later, `rollback` saves to files; Alembic's own "
        "downgrade does not.",
    )


def find_other(step: PlanStep, up: Look, again: Look) -> Iterator[Trouble]:
    """Say in what a second way up leads elsewhere than the first one did."""
    for found in differences(up.schema, again.schema):
        if found.kind == COLUMN_ORDER:
            continue
        yield Trouble(
            "not-repeatable",
            Severity.STOP,
            step.revision,
            "upgrade",
            found.object,
            f"Applied a second time it makes another schema: the {found.kind} "
            f"{'is missing' if found.change == 'dropped' else _change(found)}.",
            "What the downgrade leaves behind decides what the upgrade does: mend the downgrade.",
        )
    for one in _changes(up, again):
        if one.kind in GONE:
            yield Trouble(
                "not-repeatable",
                Severity.WARN,
                step.revision,
                "upgrade",
                _name(one),
                f"Applied a second time it yields other values: {_words(one)}.",
                "A clock, a random number or the order of rows decides them: each database gets "
                "its own.",
            )


def uncompared(before: Look, after: Look) -> list[str]:
    """Return the tables and columns of which not every value was compared, with the reason."""
    found = compare(before.data, after.data, names=("before", "after")).differences
    tables = [f"{one.table} ({one.detail})" for one in found if not one.column and one.detail]
    columns = [
        f"{_name(one)} (its type went from {one.detail})"
        for one in found
        if one.column and one.kind == "type changed"
    ]
    return tables + columns


def of_failure(step: PlanStep, error: PlaybookError, *, on_empty: str = "") -> Trouble:
    """Return the trouble of a revision that failed.

    Args:
        on_empty: ``passes`` or ``fails``: what it does on an empty copy; ``again``: it passed the
            first time; "" if neither is known.
    """
    words = {
        "passes": " It passes on an empty copy of the schema: the rows are in its way.",
        "fails": " It fails on an empty copy of the schema, too.",
        "again": " It passed the first time: what the downgrade left is in its way.",
    }
    half = isinstance(error, MigrationFailed) and not error.transactional
    remedy = "Mend the revision file."
    if on_empty == "passes":
        remedy = "Correct the rows first, or let the revision do it: `preview` shows which."
    elif on_empty == "again":
        remedy = "Mend the downgrade."
    elif getattr(error, "kind", "") == LEAVES_COPY:
        remedy = error.remedy
    return Trouble(
        "failed",
        Severity.STOP,
        step.revision,
        step.direction,
        _failed_object(error),
        explain(error)
        + words.get(on_empty, "")
        + (" It had left its transaction: a part of it stays." if half else ""),
        remedy,
    )


def _failed_object(error: PlaybookError) -> str:
    about = getattr(error, "about", "")
    if about:
        return str(about)
    statements = read_statements(getattr(error, "statement", ""))
    return next((one.table for one in statements if one.table), "")


def without_way_down(step: PlanStep, why: str) -> Trouble:
    """Return the trouble of a revision that cannot be undone."""
    return Trouble(
        "irreversible",
        Severity.WARN,
        step.revision,
        "downgrade",
        "",
        f"It cannot be undone: {why}.",
        "The way back is a backup (`restore`), or a new revision.",
    )


def of_passage(
    step: PlanStep, passage: Passage, alone: Sequence[tuple[str, float]], allowed: Allowed
) -> Iterator[Trouble]:
    """Say which tables a passage rewrote, and whether it left its transaction."""
    if not passage.transactional:
        yield Trouble(
            "not-transactional",
            Severity.WARN,
            step.revision,
            passage.direction,
            _alone_object(alone),
            "It leaves its transaction: if it fails, a part of it stays.",
            "Keep what needs it (CONCURRENTLY) in a revision of its own.",
        )
    for table in passage.rewritten:
        held_s = max((one.held_s for one in passage.held if one.table == table), default=0.0)
        yield Trouble(
            "rewrites",
            Severity.STOP if held_s > allowed.lock_stop_s else Severity.WARN,
            step.revision,
            passage.direction,
            table,
            f"Every row and index is written anew, under a lock of {seconds(held_s)}.",
            "`preview` shows how to do it without.",
        )


def _alone_object(alone: Sequence[tuple[str, float]]) -> str:
    """Return what the first statement outside a transaction is about: an index, a table, or ""."""
    for text, _ in alone:
        indexes = indexes_built_concurrently(text)
        tables = [one.table for one in read_statements(text) if one.table]
        if found := [*indexes, *tables]:
            return found[0]
        for _, statement in parse_statements(text):
            if name := _dropped_index(statement):
                return name
    return ""


def _dropped_index(statement: object) -> str:
    objects = getattr(statement, "objects", None) or ()
    return ".".join(part.sval for part in objects[0]) if objects else ""
