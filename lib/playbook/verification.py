"""What is true of the data and the schema: before and after, data checks, drift. Layer 4.

Reads only. Every function returns facts; whether they stop a run is the runbook's to decide.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from psycopg2.extensions import connection as Connection

from playbook.catalog import invalid_indexes, unvalidated_constraints
from playbook.database import connect, fetch, map_driver_errors
from playbook.errors import CannotConnect, DatabaseError, SettingsError, StatementTimeout
from playbook.migrate import Alembic
from playbook.records import (
    ColumnSequence,
    Comparison,
    DataCheckResult,
    DataChecks,
    Difference,
    Drift,
    ForeignKey,
    Integrity,
    Orphans,
    RevisionGraph,
    SequenceBehind,
    Snapshot,
    TableSnapshot,
)
from playbook.references import column_sequences, count_orphans, foreign_keys, sequence_behind
from playbook.revisions import applied, at_head
from playbook.snapshot import EVERYTHING, Reading
from playbook.targets import Target

__all__ = [
    "DataCheck",
    "broken_references",
    "compare",
    "find_drift",
    "find_integrity",
    "left_out",
    "load_checks",
    "looks_at_changes",
    "run_checks",
]

T = TypeVar("T")

EXAMPLES = 3
CHECK_AT_MOST_S = 60.0
"""How long one foreign key or one sequence may be read where no time budget says less."""
_HEADER = re.compile(r"^-- name:\s*(\S+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class DataCheck:
    """A query that returns the rows that break a rule."""

    revision: str
    name: str
    description: str
    query: str


def compare(before: Snapshot, after: Snapshot, *, names: tuple[str, str]) -> Comparison:
    """Return how two snapshots differ.

    Args:
        names: what the two are called, e.g. ``("before the upgrade", "after it")``.

    Returns:
        For each table of either, sorted: one difference for the table, then one for each of its
        columns that is not intact.
    """
    old = {table.name: table for table in before.tables}
    new = {table.name: table for table in after.tables}
    same_form = before.form == after.form
    found = [
        difference
        for name in sorted(old.keys() | new.keys())
        for difference in _compare_table(name, old.get(name), new.get(name), same_form)
    ]
    return Comparison(*names, tuple(found))


def _compare_table(
    name: str, old: TableSnapshot | None, new: TableSnapshot | None, same_form: bool
) -> Iterator[Difference]:
    if old is None or new is None:
        kind = "added" if old is None else "dropped"
        rows = (old.rows if old else -1, new.rows if new else -1)
        yield Difference(name, "", kind, *rows, next(t.coverage for t in (old, new) if t))
        return
    why_not = _why_not_compared(old, new, same_form)
    columns = list(_compare_columns(name, old, new, not why_not))
    kind = _table_kind(old, new, columns, bool(why_not))
    yield Difference(name, "", kind, old.rows, new.rows, why_not or _coverage(old, new))
    yield from columns


def _why_not_compared(old: TableSnapshot, new: TableSnapshot, same_form: bool) -> str:
    """Return why the values of two snapshots of a table say nothing of each other; "" if they do.

    A sample is of the same blocks, but a row that is written may move to another block. Where the
    key's column is the same in both, so are the rows.
    """
    if not same_form:
        return "fingerprints of another form"
    if not (old.share and new.share):
        return old.coverage if not old.share else new.coverage
    if not _same_key(old, new):
        return "its primary key is another one"
    if old.share == new.share == 1:
        return ""
    if old.share != new.share:
        return f"{old.coverage or 'every row'} against {new.coverage or 'every row'}"
    if old.file != new.file:
        return f"{old.coverage}, and the table was rewritten"
    return "" if _same_rows(old, new) else f"{old.coverage}, and not the same rows in them"


def _same_key(old: TableSnapshot, new: TableSnapshot) -> bool:
    """Say whether both seed their fingerprints by the same key; it may have been renamed."""
    before, after = ([c for c in t.columns if c.is_key] for t in (old, new))
    same = [(c.column, c.type) for c in before] == [(c.column, c.type) for c in after]
    return same or [c.fingerprint for c in before] == [c.fingerprint for c in after]


def _same_rows(old: TableSnapshot, new: TableSnapshot) -> bool:
    before, after = ({c.column: c for c in t.columns} for t in (old, new))
    keys = [c.column for c in old.columns if c.is_key]
    return before == after or (bool(keys) and all(before[k] == after.get(k) for k in keys))


def _coverage(old: TableSnapshot, new: TableSnapshot) -> str:
    return old.coverage or new.coverage


def _table_kind(
    old: TableSnapshot, new: TableSnapshot, columns: list[Difference], not_compared: bool
) -> str:
    if old.rows != new.rows and -1 not in (old.rows, new.rows):
        return "rows changed"
    if not_compared:
        return "not compared"
    if not columns:
        return "intact"
    only_new = all(difference.kind == "added" for difference in columns)
    return "columns added" if only_new else "columns changed"


def _compare_columns(
    name: str, old: TableSnapshot, new: TableSnapshot, values: bool
) -> Iterator[Difference]:
    before = {column.column: column for column in old.columns}
    after = {column.column: column for column in new.columns}
    # Of a sample, equal rows are known by their key, whatever was inserted elsewhere.
    values = values and (old.rows == new.rows or old.share < 1)
    for column in [*before, *(c for c in after if c not in before)]:
        was, now = before.get(column), after.get(column)
        if was is None or now is None:
            kind, detail = ("added", now.type if now else "") if was is None else ("dropped", "")
        elif was.type != now.type:
            kind, detail = "type changed", f"{was.type} to {now.type}"
        elif values and was.fingerprint != now.fingerprint:
            kind, detail = "values changed", ""
        elif was.not_null != now.not_null:
            kind, detail = "null rule changed", "NOT NULL" if now.not_null else "nullable"
        else:
            continue
        rows_before, rows_after = (c.non_null_rows if c else -1 for c in (was, now))
        yield Difference(name, column, kind, rows_before, rows_after, detail)


def left_out(*snapshots: Snapshot) -> str:
    """Return a sentence on the tables of which not every row was read; "" if all were."""
    found = {t.name: t.coverage for snapshot in snapshots for t in snapshot.tables if t.coverage}
    listed = ", ".join(f"{name} ({coverage})" for name, coverage in sorted(found.items()))
    return f" Not every row was read: {listed}." if found else ""


def looks_at_changes(comparison: Comparison) -> list[str]:
    """Return each column whose values changed, and each table not compared, in words."""
    found = []
    for one in comparison.differences:
        if one.kind == "values changed":
            verdict = f" ({one.verdict})" if one.verdict else ""
            found.append(f"values of {one.table}.{one.column} changed{verdict}")
        elif one.kind == "not compared":
            found.append(f"{one.table} was not compared ({one.detail})")
    return found


def load_checks(directory: Path) -> list[DataCheck]:
    """Return the data checks of a folder: a file per revision, a query per ``-- name:`` header.

    Raises:
        SettingsError: a file has text before its first header or a header without a query.
    """
    return [check for path in sorted(directory.glob("*.sql")) for check in _read_checks(path)]


def _read_checks(path: Path) -> Iterator[DataCheck]:
    parts = _HEADER.split(path.read_text("utf-8"))
    if any(line.strip() and not line.startswith("--") for line in parts[0].splitlines()):
        raise SettingsError(
            f"{path.name} has SQL before its first data check's name, so it would never run.",
            remedy="Write a line `-- name: what_holds` above each query.",
        )
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        lines = body.strip().splitlines()
        comments = [line.removeprefix("--").strip() for line in lines if line.startswith("--")]
        query = "\n".join(line for line in lines if not line.startswith("--"))
        query = re.sub(r";\s*(--.*)?$", "", query.strip()).strip()
        if not query:
            raise SettingsError(
                f"The data check {name!r} in {path.name} has no query.",
                remedy="Write one SELECT below its header that returns the rows that break it.",
            )
        yield DataCheck(path.stem, name, " ".join(comments), query)


def run_checks(target: Target, graph: RevisionGraph) -> DataChecks:
    """Run the data checks of all applied revisions, read-only, each on its own."""
    done = applied(graph)
    checks = [c for c in load_checks(Path(graph.script_directory) / "checks") if c.revision in done]
    with connect(target, read_only=True) as connection:
        return DataChecks(tuple(_run_check(connection, target, check) for check in checks))


def _run_check(connection: Connection, target: Target, check: DataCheck) -> DataCheckResult:
    # On lines of its own: the query may end in a comment.
    query = f"SELECT count(*) OVER (), r::text FROM (\n{check.query}\n) AS r LIMIT {EXAMPLES}"
    try:
        with map_driver_errors(target):
            rows = fetch(connection, query)
    except DatabaseError as error:
        rows, problem = [], error.problem
    else:
        problem = ""
    return DataCheckResult(
        revision=check.revision,
        name=check.name,
        description=check.description,
        failing_rows=rows[0][0] if rows else 0,
        examples=tuple(row[1] for row in rows),
        error=problem,
    )


def find_integrity(target: Target, *, limits: Reading = EVERYTHING) -> Integrity:
    """Return what is unfinished or broken: constraints, indexes, references and sequences.

    Each foreign key and each sequence is read for `CHECK_AT_MOST_S` at most, all of them together
    for the time budget, if there is one.
    """
    deadline = time.monotonic() + limits.budget_s if limits.budget_s else None
    with connect(target, read_only=True) as connection:
        unvalidated = tuple(unvalidated_constraints(connection))
        invalid = tuple(invalid_indexes(connection))
        asked = _Asked(target, connection, deadline)
        orphans = [asked.orphans(key) for key in foreign_keys(connection)]
        behind = [asked.behind(item) for item in column_sequences(connection)]
        return Integrity(
            unvalidated,
            invalid,
            tuple(item for item in orphans if item),
            tuple(item for item in behind if item),
            tuple(asked.unchecked),
        )


def broken_references(integrity: Integrity) -> tuple[list[str], list[str]]:
    """Return (what is broken, what is to be looked at) of references and sequences, in words.

    A foreign key that was never validated promises nothing of the rows that were there.
    """
    broken: list[str] = []
    looks: list[str] = []
    for item in integrity.orphans:
        rows = "1 row lacks" if item.rows == 1 else f"{item.rows:,} rows lack"
        text = f"{rows} a parent: {item.constraint} of {item.table} refers to {item.parent}"
        (broken if item.validated else looks).append(text)
    for behind in integrity.behind:
        broken.append(
            f"sequence {behind.sequence} gives {behind.next_value} next, and "
            f"{behind.table}.{behind.column} has {behind.reached} (mend it: {behind.remedy})"
        )
    looks += [f"{name}: {why}" for name, why in integrity.unchecked]
    return broken, looks


class _Asked:
    """Questions whose answers may take too long, or be refused; what came of neither is kept."""

    def __init__(self, target: Target, connection: Connection, deadline: float | None) -> None:
        self.target = target
        self.connection = connection
        self.deadline = deadline
        self.unchecked: list[tuple[str, str]] = []
        self._limit = ""

    def orphans(self, key: ForeignKey) -> Orphans | None:
        name = f"foreign key {key.constraint} of {key.table}"
        rows = self._ask(name, lambda: count_orphans(self.connection, key))
        if not rows:
            return None
        return Orphans(key.table, key.constraint, key.parent, rows, key.validated)

    def behind(self, item: ColumnSequence) -> SequenceBehind | None:
        name = f"sequence {item.sequence} of {item.table}.{item.column}"
        return self._ask(name, lambda: sequence_behind(self.connection, item))

    def _ask(self, name: str, question: Callable[[], T]) -> T | None:
        left_s = CHECK_AT_MOST_S
        if self.deadline is not None:
            left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            self.unchecked.append((name, "not checked in time"))
            return None
        self._limit_to(str(max(1, int(left_s * 1000))))
        try:
            with map_driver_errors(self.target):
                return question()
        except StatementTimeout:
            self.unchecked.append((name, "not checked in time"))
        except CannotConnect:
            raise
        except DatabaseError as error:
            self.unchecked.append((name, error.problem))
        return None

    def _limit_to(self, limit: str) -> None:
        """Set the limit of each question, if it is another than that of the one before."""
        if limit != self._limit:
            fetch(self.connection, "SELECT set_config('statement_timeout', %s, false)", (limit,))
            self._limit = limit


def find_drift(alembic: Alembic, graph: RevisionGraph) -> Drift:
    """Return how the models differ from the database, where that can be told."""
    if not at_head(graph):
        return Drift((), unknown="The models describe head, and the database is not there.")
    try:
        return Drift(tuple(alembic.drift()))
    except SettingsError as error:
        return Drift((), unknown=error.problem)
