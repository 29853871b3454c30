"""A plan that goes up, down and up again on a copy, revision by revision. Layer 4.

What is written is the copy's alone: the child process is bound to the copy's system identifier and
database oid, and stops any session elsewhere before its first statement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from psycopg2.extensions import connection as Connection

from playbook.apply import apply_plan
from playbook.database import connect, fetch, server_info
from playbook.errors import AlembicDied, MigrationFailed, PlaybookError, WrongDatabase
from playbook.migrate import Alembic
from playbook.patience import Limits
from playbook.plan import build_plan
from playbook.records import Plan, PlanStep, RevisionGraph, ServerInfo, Severity
from playbook.rehearsals import Allowed, HeldLock, Passage, Rehearsed, RoundTrip, Trouble
from playbook.revisions import undone
from playbook.schemas import read_schema
from playbook.snapshot import EVERYTHING, Reading, take_snapshot
from playbook.statements import read_statements
from playbook.targets import Target
from playbook.troubles import (
    LEAVES_COPY,
    Look,
    find_dropped,
    find_lost,
    find_other,
    find_trace,
    of_failure,
    of_passage,
    uncompared,
    without_way_down,
)

__all__ = ["LIMITS", "run_round_trip"]

LIMITS = Limits(lock_timeout_s=2.0, give_up_after_s=60.0)
"""On a copy nobody is in the way for long; an autovacuum may be."""
USUAL = Allowed()
MARKS = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn, pg_database_size(current_database())"
CONCURRENTLY = re.compile(r"\bCONCURRENTLY\b", re.IGNORECASE)
NO_WAY_DOWN = {
    "NoDowngradeError": "its file has no downgrade function",
    "NotImplementedError": "its downgrade raises NotImplementedError, by design",
}


def run_round_trip(
    copy: Target,
    to: str = "head",
    *,
    reading: Reading = EVERYTHING,
    limits: Limits = LIMITS,
    allowed: Allowed = USUAL,
    on_progress: Callable[[str], None] = lambda text: None,
) -> RoundTrip:
    """Apply, undo and apply again each revision from where a copy is up to a target.

    **Effects**: the revisions', on the copy, which is left at the last revision that came through;
    it must be one that nobody needs (its rows and schema are written). Nothing else is touched.

    After each way the schema and every table's rows and fingerprints are compared. A revision that
    fails ends the trip there and is a trouble, not an error; one that cannot be undone goes up
    only. Where an upgrade fails, it is also tried on an empty copy of the schema, to tell whether
    the rows are in its way.

    Args:
        copy: a resolved target, with rows in it.
        to: in any of Alembic's forms.
        reading: how much of the data is compared.
        limits: how long locks are asked for.
        allowed: from which time on a rewrite's lock is a STOP.
        on_progress: called with a line of text when something is worth showing.

    Returns:
        One element of ``revisions`` for each revision begun, in the plan's order, with what each
        passage took, held, rewrote and wrote; ``troubles`` named with revision, direction and
        object; empty ``revisions`` where there was nothing to run.

    Raises:
        SettingsError: the target cannot be resolved, or the project cannot be loaded.
        WrongDatabase: env.py reached another database than the copy; it was stopped.
        CannotConnect: the server is gone.
    """
    with ExitStack() as stack:
        alembic = stack.enter_context(Alembic(copy))
        eye = stack.enter_context(connect(copy, read_only=True, settings=_patient()))
        server = server_info(eye)
        alembic.open(copy, server, session={})
        graph = alembic.graph()
        try:
            plan = build_plan(copy, alembic, graph, direction="upgrade", to=to)
        except MigrationFailed as error:
            return _unplanned(graph, to, error)
        trip = _Trip(copy, server, alembic, eye, graph, plan, reading, limits, allowed, on_progress)
        return trip.go()


def _patient() -> dict[str, str]:
    return {"idle_session_timeout": "0"}


def _unplanned(graph: RevisionGraph, to: str, error: MigrationFailed) -> RoundTrip:
    step = error.revision or to
    trouble = Trouble(
        "unplannable", Severity.STOP, step, "upgrade", error.about, error.problem, error.remedy
    )
    return RoundTrip("", to, graph.current, (), graph.current, (), (trouble,))


@dataclass
class _Trip:
    """The trip under way: what it has passed and found so far."""

    copy: Target
    server: ServerInfo
    alembic: Alembic
    eye: Connection
    """A session of the playbook's own, for figures and schemas."""
    graph: RevisionGraph
    plan: Plan
    reading: Reading
    limits: Limits
    allowed: Allowed
    on_progress: Callable[[str], None]
    current: tuple[str, ...] = ()
    passed: list[Rehearsed] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    tables: int = 0
    unread: dict[str, None] = field(default_factory=dict)

    def go(self) -> RoundTrip:
        """Pass the plan's revisions until one does not come through."""
        self.current = self.plan.from_revisions
        if self.plan.steps:
            before: Look | None = self._look()
            for step in self.plan.steps:
                before = self._revision(step, before) if before else None
        return RoundTrip(
            plan_sha256=self.plan.sha256,
            target=self.plan.target,
            from_revisions=self.plan.from_revisions,
            to_revisions=self.plan.to_revisions,
            reached=self.current,
            revisions=tuple(self.passed),
            troubles=tuple(self.troubles),
            tables=self.tables,
            unread=f"Not compared whole: {', '.join(self.unread)}." if self.unread else "",
        )

    def _revision(self, step: PlanStep, before: Look) -> Look | None:
        """Take one revision up, down and up; return how the copy is then, None to go no further."""
        self.passed.append(Rehearsed(step.revision, step.message, step.sha256))
        first = self._passage(step)
        if first is None:
            return None
        self.passed[-1] = replace(self.passed[-1], up=first)
        up = self._look()
        back = undone(step)
        second = self._passage(back)
        if second is None:
            # Rolled back whole, the copy is as it was before; else nobody knows what is there.
            return None if self.alembic.committed.left_transaction else up
        self.passed[-1] = replace(self.passed[-1], down=second)
        down = self._look()
        self._compare_down(step, before, down)
        third = self._passage(step, again=True)
        if third is None:
            return None
        self.passed[-1] = replace(self.passed[-1], again=third)
        last = self._look()
        self.troubles += find_dropped(step, up, down, last)
        if not any(t.code == "loses-data" and t.revision == step.revision for t in self.troubles):
            self.troubles += find_other(step, up, last)
        return last

    def _compare_down(self, step: PlanStep, before: Look, down: Look) -> None:
        self.troubles += find_lost(step, before, down)
        self.troubles += find_trace(step, before, down)
        self.unread |= dict.fromkeys(uncompared(before, down))

    def _look(self) -> Look:
        """Return schema and data as they are now."""
        own = f"{self.graph.version_table_schema or 'public'}.{self.graph.version_table}"
        data = take_snapshot(
            self.copy,
            self.current,
            except_tables=(own,),
            limits=self.reading,
            on_progress=self.on_progress,
        )
        self.tables = len(data.tables)
        return Look(data, read_schema(self.eye, left_out=(own,)))

    def _passage(self, step: PlanStep, *, again: bool = False) -> Passage | None:
        """Run one step and measure it; None if it failed, which is then among the troubles."""
        word = {"upgrade": "up", "downgrade": "down"}[step.direction]
        self.on_progress(f"{step.revision}: {word}{' again' if again else ''}")
        plan = replace(
            self.plan, direction=step.direction, from_revisions=self.current, steps=(step,)
        )
        wal, size = fetch(self.eye, MARKS)[0]
        known = self._tables()
        try:
            applied = apply_plan(
                self.copy, self.server, self.alembic, plan, self.limits,
                check_lock=_nobody_else, on_progress=self.on_progress,
                on_step=lambda result, reached: None, measure=True,
            )  # fmt: skip
        except WrongDatabase:
            raise
        except PlaybookError as error:
            self._failed(step, error, again=again)
            return None
        self.current = applied.to_revisions
        result, measured = applied.steps[0], self.alembic.measured
        wal_after, size_after = fetch(self.eye, MARKS)[0]
        passage = Passage(
            direction=step.direction,
            duration_s=round(result.duration_s, 4),
            attempts=result.attempts,
            statements=result.statements,
            held=_blocking((*measured.held, *_held_alone(measured.alone, known))),
            rewritten=result.rewritten,
            rows=tuple(pair for pair in measured.rows if pair[0] != self._version_table),
            wal_bytes=int(wal_after - wal),
            grown_bytes=size_after - size,
            transactional=result.transactional,
        )
        if not again:
            self.troubles += of_passage(step, passage, measured.alone, self.allowed)
        return passage

    @property
    def _version_table(self) -> str:
        return f"{self.graph.version_table_schema or 'public'}.{self.graph.version_table}"

    def _tables(self) -> set[str]:
        return {name for (name,) in fetch(self.eye, TABLES)}

    def _failed(self, step: PlanStep, error: PlaybookError, *, again: bool) -> None:
        """Note a failure and where the copy is now."""
        left = self.alembic.committed.left_transaction
        kind = getattr(error, "kind", "")
        if step.direction == "downgrade" and kind in NO_WAY_DOWN and not left:
            self.troubles.append(without_way_down(step, NO_WAY_DOWN[kind]))
            return
        if isinstance(error, AlembicDied):
            self.alembic.restart(self.server)
        self.current = self.alembic.current()
        on_empty = "again" if again else ""
        if (
            not again
            and kind != LEAVES_COPY  # elsewhere, too, it would stay
            and step.direction == "upgrade"
            and not left
            and step.revision not in self.current
        ):
            on_empty = self._on_empty(step)
        self.troubles.append(of_failure(step, error, on_empty=on_empty))

    def _on_empty(self, step: PlanStep) -> str:
        """Say whether a revision passes on an empty copy of the copy's schema; "" if unknown."""
        self.on_progress(f"{step.revision}: on an empty copy of the schema")
        graph = replace(self.graph, current=self.current)
        try:
            build_plan(
                self.copy, self.alembic, graph, direction="upgrade", to=step.revision,
                method="observed",
            )  # fmt: skip
        except MigrationFailed as error:
            return "fails" if error.revision == step.revision else ""
        except PlaybookError:
            return ""
        return "passes"


TABLES = """
SELECT n.nspname || '.' || c.relname FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1
"""


def _nobody_else() -> None:
    """Check nothing: nobody else runs migrations on a scratch copy."""


def _blocking(held: Sequence[HeldLock]) -> tuple[HeldLock, ...]:
    """Return the locks that keep others from reading or writing, the longest first."""
    found = [one for one in held if one.blocks]
    return tuple(sorted(found, key=lambda one: (-one.held_s, one.table, one.mode)))


def _held_alone(
    alone: Sequence[tuple[str, float]], tables: Collection[str]
) -> tuple[HeldLock, ...]:
    """Return the locks of statements outside a transaction: by their text, while they ran.

    Those with CONCURRENTLY keep nobody from reading or writing.
    """
    return tuple(
        HeldLock(one.table, one.lock, took_s)
        for text, took_s in alone
        for one in read_statements(text)
        if one.table in tables and not CONCURRENTLY.search(text)
    )
