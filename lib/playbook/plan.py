"""Revisions plus their SQL: what will run, before it runs. Layer 4.

The SQL comes from Alembic's offline mode. Where a revision reads the database, offline mode
cannot work, and what it printed before it failed is worth nothing; then the plan is run on an
empty copy of the schema, and the statements that reach that server are the SQL. The plan says
which of the two it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from playbook import scratch
from playbook.catalog import search_path, table_names, unreadable_tables
from playbook.database import connect, server_info
from playbook.dump import client_tools_for, dump_schema, load_sql
from playbook.errors import (
    BackupFailed,
    GuardRefused,
    LockNotAcquired,
    MigrationFailed,
    PlaybookError,
    SettingsError,
    StatementTimeout,
    explain,
)
from playbook.hazards import find_hazards
from playbook.known import read_known
from playbook.migrate import Alembic
from playbook.probes import COUNT_LIMIT, count_violations, with_counts
from playbook.records import Hazards, Loss, Plan, PlanStep, RevisionGraph
from playbook.revisions import after, check_target, join
from playbook.salvage import find_loss
from playbook.statements import dropped_objects, tables_in
from playbook.suspects import find_suspects
from playbook.targets import Target

__all__ = ["METHODS", "build_plan", "read_plan_hash", "reverse_sql", "weigh_hazards"]

METHODS = ("auto", "offline", "observed")
NO_EXTENSION = ("0A000", "58P01")
"""SQLSTATEs of CREATE EXTENSION where the server has none such; the second before PostgreSQL 15."""


def build_plan(
    target: Target,
    alembic: Alembic,
    graph: RevisionGraph,
    *,
    direction: str,
    to: str,
    method: str = "auto",
) -> Plan:
    """Return the ordered revisions from where the database is to a target, with their SQL.

    Args:
        direction: ``upgrade`` or ``downgrade``.
        to: the target, in any of Alembic's forms.
        method: ``offline``, ``observed``, or ``auto`` (offline where it works).

    Raises:
        SettingsError: the target cannot be resolved.
        GuardRefused: the database is at an unknown revision, or has nothing to undo.
        MigrationFailed: the SQL cannot be had by the method asked for.
    """
    check_target(to, graph, direction=direction)
    if to == "heads" and target.heads:
        to = target.heads
        check_target(to, graph, direction=direction)
    if graph.unknown:
        raise GuardRefused(
            f"The database is at {join(graph.unknown)}, which no revision file has.",
            remedy="Bring the missing file back, or check that this is the right project; `repair` "
            "says what the schema is and offers the remedy.",
        )
    if direction == "downgrade" and not graph.current:
        raise GuardRefused(
            "Nothing is applied, so there is nothing to undo.",
            remedy="`status` shows where the database is.",
        )
    steps = alembic.plan(direction, to, graph.current)
    try:
        pieces, used = _sql(target, alembic, graph, steps, direction, to, method)
    except MigrationFailed as error:
        raise _unplanned(error, direction) from error
    steps = tuple(replace(s, sql=text) for s, text in zip(steps, pieces, strict=True))
    ids = [step.revision for step in steps]
    return Plan(
        direction=direction,
        target=to,
        from_revisions=graph.current,
        to_revisions=after(graph, graph.current, ids, direction),
        steps=steps,
        method=used,
        sha256=_hash(steps, used),
        tables=_existing_tables(target, graph, pieces) if steps else (),
    )


def _unplanned(error: MigrationFailed, direction: str) -> MigrationFailed:
    """Return what is to be said of SQL that cannot be had, so that nothing can be run."""
    whose = f"The {direction} of {error.revision}" if error.revision else f"This {direction}"
    back = ", or undo it by another way: a backup, or a new revision"
    return MigrationFailed(
        f"{whose} cannot be planned: {explain(error)}",
        state="Nothing was changed.",
        remedy=error.remedy or f"Mend the revision file{back if direction == 'downgrade' else ''}.",
        revision=error.revision,
        statement=error.statement,
        sqlstate=error.sqlstate,
    )


def reverse_sql(alembic: Alembic, plan: Plan) -> str:
    """Return the SQL that undoes a plan, by offline mode; "" for an empty plan.

    Raises:
        MigrationFailed: a downgrade reads the database, or does not exist.
    """
    if plan.is_empty or len(plan.from_revisions) > 1 or len(plan.to_revisions) != 1:
        return ""
    back = plan.from_revisions[0] if plan.from_revisions else "base"
    return "\n".join(_wrapped(p) for p in alembic.sql("downgrade", back, plan.to_revisions))


def read_plan_hash(path: Path) -> str:
    """Return the hash in a ``plan.json`` that `preview` wrote.

    Raises:
        SettingsError: there is no such file, or it is no plan.
    """
    try:
        return str(json.loads(path.read_text("utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{path} is not a plan that can be read ({type(error).__name__}).",
            remedy="Write -r plan with the path of a plan.json that `preview` made.",
        ) from error


def weigh_hazards(target: Target, plan: Plan, *, loss: Loss | None = None) -> Hazards:
    """Return the hazards of a plan's SQL, weighed with the tables' sizes and rows as they are now.

    Args:
        loss: what the plan drops, where that has been counted already.
    """
    if plan.is_empty:
        return Hazards(())
    with connect(target, read_only=True) as connection:
        known = read_known(connection)
    known = replace(known, held=_held(target, plan, loss))
    found = find_hazards(plan.steps, known)
    suspects = find_suspects(plan.steps, known, is_observed=plan.method == "observed")
    return with_counts(found, plan.steps, count_violations(target, suspects))


def _held(target: Target, plan: Plan, loss: Loss | None) -> dict[tuple[str, str], int]:
    """Return what each table or column that is dropped holds; nothing if that takes too long."""
    if not dropped_objects(plan.sql):
        return {}
    try:
        loss = loss or find_loss(target, plan, version_table="", limit=COUNT_LIMIT)
    except (StatementTimeout, LockNotAcquired):
        return {}
    return {(item.table, item.column): item.rows for item in loss.items}


def _sql(
    target: Target,
    alembic: Alembic,
    graph: RevisionGraph,
    steps: Sequence[PlanStep],
    direction: str,
    to: str,
    method: str,
) -> tuple[list[str], str]:
    """Return the SQL of each step, and the method that gave it."""
    if not steps:
        return [], "offline"
    if method != "observed":
        try:
            pieces = alembic.sql(direction, to, graph.current)
        except MigrationFailed:
            if method == "offline":
                raise
        else:
            return [_wrapped(piece) for piece in pieces], "offline"
    return _observe(target, graph, steps), "observed"


def _wrapped(piece: str) -> str:
    """Return a step's SQL as a transaction of its own, as the playbook runs it."""
    text = piece.strip()
    return text if text.startswith("BEGIN;") else f"BEGIN;\n\n{text}\n\nCOMMIT;"


def _hash(steps: Sequence[PlanStep], method: str) -> str:
    """Return the hash by which a plan is known again.

    Observed SQL is not in it: it holds values that Python makes anew each time (a clock, a uuid).
    """
    record = [
        [s.revision, s.direction, s.sha256, s.sql if method == "offline" else ""] for s in steps
    ]
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def _existing_tables(
    target: Target, graph: RevisionGraph, pieces: Sequence[str]
) -> tuple[str, ...]:
    named = {table for piece in pieces for table in tables_in(piece)}
    own = f"{graph.version_table_schema or 'public'}.{graph.version_table}"
    with connect(target, read_only=True) as connection:
        return tuple(t for t in table_names(connection) if t in named and t != own)


def _observe(target: Target, graph: RevisionGraph, steps: Sequence[PlanStep]) -> list[str]:
    """Run the steps on an empty copy of the schema and return what reached the server.

    Where a step needs an extension that the sandbox does not have, beside the target itself.
    """
    try:
        return _observe_on(_empty_copy(target), graph, steps)
    except MigrationFailed as error:
        is_missing = error.sqlstate in NO_EXTENSION and "extension" in error.statement.lower()
        if target.kind == "sandbox" or not is_missing:
            raise
    return _observe_on(_empty_copy(target, in_sandbox=False), graph, steps)


def _observe_on(
    empty: AbstractContextManager[Target], graph: RevisionGraph, steps: Sequence[PlanStep]
) -> list[str]:
    with empty as copy, Alembic(copy) as alembic:
        with connect(copy, read_only=True) as connection:
            alembic.open(copy, server_info(connection), session={})
        if graph.current:
            alembic.stamp(graph.current)
        current, pieces = graph.current, []
        for step in steps:
            statements: list[str] = []
            alembic.run(
                step,
                expected_current=current,
                session={},
                record=True,
                on_event=_collector(statements),
            )
            current = alembic.current()
            pieces.append("\n".join(statements))
    return [_wrapped(piece) for piece in pieces]


def _collector(statements: list[str]) -> Callable[[Mapping[str, Any]], None]:
    """Return an event handler that keeps the statements of a step, ready for psql."""
    inside = True  # of a transaction

    def keep(event: Mapping[str, Any]) -> None:
        nonlocal inside
        if event["event"] != "statement":
            return
        text = event["sql"].strip().rstrip(";")
        if text.startswith("SELECT pg_catalog."):  # SQLAlchemy looks at what there is
            return
        if not event["step"] and not text.upper().startswith("CREATE TABLE"):
            return
        if inside == event["autocommit"]:
            statements.append("COMMIT;\n" if inside else "BEGIN;\n")
            inside = not inside
        statements.append(f"{text};\n")

    return keep


@contextmanager
def _empty_copy(target: Target, *, in_sandbox: bool = True) -> Iterator[Target]:
    """Make an empty copy of a target's schema and drop it at the end.

    It is made in the sandbox, so that the target's server is left alone, or, where the schema
    does not load there (an extension is missing), beside the target on its own server.
    """
    with connect(target, read_only=True) as connection:
        tools = client_tools_for(server_info(connection))
        closed, path = unreadable_tables(connection), search_path(connection)
    schema = dump_schema(target, tools=tools, leave_out=closed)
    schema += _path_of_database(path)
    if not in_sandbox:
        with _copy_on_server(target, schema) as own:
            yield own
        return
    with scratch.in_sandbox(target) as copy:
        try:
            load_sql(schema, copy, tools=tools)
        except BackupFailed:
            with _copy_on_server(target, schema) as own:
                yield own
        else:
            yield copy


def _path_of_database(schemas: Sequence[str]) -> str:
    """Return the SQL by which sessions of a copy look where the target's own role looks.

    Its path may stand on its name ("$user"), or be a setting of the role, the target's database or
    its URL: none of these is part of a dump.
    """
    if not schemas:
        return ""
    path = ", ".join('"' + name.replace('"', '""') + '"' for name in schemas).replace("'", "''")
    return (
        "\nSELECT pg_catalog.format('ALTER DATABASE %I SET search_path = %s', "
        f"pg_catalog.current_database(), '{path}')\n\\gexec\n"
    )


@contextmanager
def _copy_on_server(target: Target, schema: str) -> Iterator[Target]:
    with connect(target, read_only=True) as connection:
        tools = client_tools_for(server_info(connection))
    with ExitStack() as stack:
        try:
            copy = stack.enter_context(scratch.on_server(target))
            load_sql(schema, copy, tools=tools)
        except PlaybookError as error:
            raise MigrationFailed(
                f"No empty copy of the schema could be made: {error.problem}",
                state="Nothing was changed.",
                remedy="Write -r method offline, or run as a role that may create databases.",
            ) from error
        yield copy
