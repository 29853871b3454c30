"""Data-dependent steps counted now, before they fail. Layer 4: reads only.

Each suspect's query is run with a limit of its own: a count that takes too long is a warning, not
a failure. Where there is no suspect, no session is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import psycopg2
from psycopg2 import sql
from psycopg2.errors import LockNotAvailable, QueryCanceled
from psycopg2.extensions import connection as Connection

from playbook.database import connect, fetch_value
from playbook.locks import blocks
from playbook.records import Hazard, Hazards, PlanStep, Severity
from playbook.statements import read_statements
from playbook.suspects import Suspect
from playbook.targets import Target
from playbook.violations import MAY_STILL_RUN, RULES

__all__ = ["COUNT_LIMIT", "Counted", "count_violations", "with_counts"]

COUNT_LIMIT = "30s"
"""How long a count may take: half a minute of reading for an answer that spares a failed run."""
LOCK_LIMIT = "2s"
"""How long it may wait where somebody holds the table exclusively."""


@dataclass(frozen=True)
class Counted:
    """A suspect with the rows that break it, or why they could not be counted."""

    suspect: Suspect
    rows: int
    problem: str = ""


def count_violations(
    target: Target, suspects: Sequence[Suspect], *, limit: str = COUNT_LIMIT
) -> list[Counted]:
    """Count the rows that would break each suspect; what this server cannot tell is left out.

    Args:
        limit: how long each count may take, as statement_timeout.
    """
    if not suspects:
        return []
    settings = {"statement_timeout": limit, "lock_timeout": LOCK_LIMIT}
    with connect(target, read_only=True, settings=settings) as connection:
        asked = [s for s in suspects if s.violation.needs <= connection.server_version]
        counts = {
            query: _count(connection, query, limit)
            for query in dict.fromkeys(s.violation.query for s in asked)
        }
    return [Counted(suspect, *counts[suspect.violation.query]) for suspect in asked]


def _count(connection: Connection, query: str, limit: str) -> tuple[int, str]:
    """Return the rows that a query returns, or -1 and why they could not be counted."""
    # The query is SQL that PostgreSQL's parser has read and written: no text of a user is in it
    # that the plan itself would not run.
    counting = sql.SQL("SELECT count(*) FROM ({}) AS broken").format(sql.SQL(query))
    try:
        return int(fetch_value(connection, counting)), ""
    except QueryCanceled:
        return -1, f"not counted within {limit}"
    except LockNotAvailable:
        return -1, f"not counted, as somebody has held the table for {LOCK_LIMIT}"
    except (psycopg2.OperationalError, psycopg2.InterfaceError):
        raise  # the connection is lost
    except psycopg2.Error as error:
        return -1, f"not counted: {(error.diag.message_primary or str(error)).strip()}"


def with_counts(hazards: Hazards, steps: Sequence[PlanStep], counted: Sequence[Counted]) -> Hazards:
    """Return hazards with those that were counted, in the order of the plan's statements.

    What was counted stands for what was estimated of the same statement, with its rewrite.
    """
    exact = {
        _place(_hazard(one))
        for one in counted
        if one.suspect.violation.rule == "rows-lack-a-value" and not one.problem
    }
    estimated = {_place(h): h for h in hazards.items if h.rule == "adding-required-field"}
    kept = [h for h in hazards.items if not (_place(h) in exact and h in estimated.values())]
    found = [_hazard(one) for one in counted if one.rows]
    found = [
        replace(h, rewrite=estimated[_place(h)].rewrite or h.rewrite)
        if h.rule == "rows-lack-a-value" and _place(h) in estimated
        else h
        for h in found
    ]
    places = [(s.revision, one.text) for s in steps for one in read_statements(s.sql)]
    order = {place: number for number, place in reversed(list(enumerate(places)))}
    return Hazards(tuple(sorted([*found, *kept], key=lambda h: order.get(_place(h), 0))))


def _place(hazard: Hazard) -> tuple[str, str]:
    return hazard.revision, hazard.statement


def _hazard(one: Counted) -> Hazard:
    suspect, violation, rule = one.suspect, one.suspect.violation, one.suspect.violation.rule
    is_certain = not (one.problem or suspect.is_changed or rule in MAY_STILL_RUN)
    lock = suspect.statement.lock
    return Hazard(
        revision=suspect.step.revision,
        rule=rule,
        severity=Severity.STOP if is_certain else Severity.WARN,
        table=violation.table,
        rows=one.rows,
        lock=lock,
        blocks=blocks(lock),
        blocked_s=0.0,
        statement=suspect.statement.text,
        detail=_detail(one),
        remedy=RULES[rule],
        object=violation.object,
        rewrite=f"-- The rows that it is about:\n{violation.query};",
        is_certain=is_certain,
    )


def _detail(one: Counted) -> str:
    violation = one.suspect.violation
    what = violation.what[one.rows != 1]
    if one.problem:
        return f"The {violation.what[1]} were {one.problem}."
    if one.suspect.is_changed:
        return f"There are {one.rows:,} {what} now; the plan changes the table first."
    if violation.rule in MAY_STILL_RUN:
        return f"It cuts off {one.rows:,} {what}."
    return f"It fails: there {'is' if one.rows == 1 else 'are'} {one.rows:,} {what}."
