"""What is true of the data and the schema: before against after, data checks, drift. Layer 4.

Reads only. Every function returns facts; whether they stop a run is the runbook's to decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from psycopg2.extensions import connection as Connection

from playbook.catalog import invalid_indexes, unvalidated_constraints
from playbook.database import connect, fetch, map_driver_errors
from playbook.errors import DatabaseError, SettingsError
from playbook.migrate import Alembic
from playbook.records import (
    Comparison,
    DataCheckResult,
    DataChecks,
    Difference,
    Drift,
    Integrity,
    RevisionGraph,
    Snapshot,
    TableSnapshot,
)
from playbook.revisions import applied, at_head
from playbook.targets import Target

__all__ = ["DataCheck", "compare", "find_drift", "find_integrity", "load_checks", "run_checks"]

EXAMPLES = 3
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
    found = [
        difference
        for name in sorted(old.keys() | new.keys())
        for difference in _compare_table(name, old.get(name), new.get(name))
    ]
    return Comparison(*names, tuple(found))


def _compare_table(
    name: str, old: TableSnapshot | None, new: TableSnapshot | None
) -> Iterator[Difference]:
    if old is None or new is None:
        kind = "added" if old is None else "dropped"
        yield Difference(name, "", kind, old.rows if old else -1, new.rows if new else -1)
        return
    columns = list(_compare_columns(name, old, new))
    yield Difference(name, "", _table_kind(old, new, columns), old.rows, new.rows)
    yield from columns


def _table_kind(old: TableSnapshot, new: TableSnapshot, columns: list[Difference]) -> str:
    if old.rows != new.rows:
        return "rows changed"
    if not columns:
        return "intact"
    only_new = all(difference.kind == "added" for difference in columns)
    return "columns added" if only_new else "columns changed"


def _compare_columns(name: str, old: TableSnapshot, new: TableSnapshot) -> Iterator[Difference]:
    before = {column.column: column for column in old.columns}
    after = {column.column: column for column in new.columns}
    for column in [*before, *(c for c in after if c not in before)]:
        was, now = before.get(column), after.get(column)
        if was is None or now is None:
            kind, detail = ("added", now.type if now else "") if was is None else ("dropped", "")
        elif was.type != now.type:
            kind, detail = "type changed", f"{was.type} to {now.type}"
        elif was.fingerprint != now.fingerprint and old.rows == new.rows:
            kind, detail = "values changed", ""
        elif was.not_null != now.not_null:
            kind, detail = "null rule changed", "NOT NULL" if now.not_null else "nullable"
        else:
            continue
        rows_before, rows_after = (c.non_null_rows if c else -1 for c in (was, now))
        yield Difference(name, column, kind, rows_before, rows_after, detail)


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


def find_integrity(target: Target) -> Integrity:
    """Return constraints that were never validated and indexes that are not valid."""
    with connect(target, read_only=True) as connection:
        return Integrity(
            tuple(unvalidated_constraints(connection)), tuple(invalid_indexes(connection))
        )


def find_drift(alembic: Alembic, graph: RevisionGraph) -> Drift:
    """Return how the models differ from the database, where that can be told."""
    if not at_head(graph):
        return Drift((), unknown="The models describe head, and the database is not there.")
    try:
        return Drift(tuple(alembic.drift()))
    except SettingsError as error:
        return Drift((), unknown=error.problem)
