"""What is said of a plan that failed: which revision, what there is now, the ways out. Layer 4."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from playbook.errors import (
    SHOWN_STATEMENT,
    AlembicDied,
    CannotConnect,
    GuardRefused,
    MigrationFailed,
    MigrationStopped,
    PlaybookError,
    explain,
)
from playbook.journal import Run
from playbook.patience import Limits
from playbook.records import BackupManifest, Plan, PlanStep
from playbook.revisions import join
from playbook.verification import find_integrity
from playbook.ways_out import Failure, ways_out

__all__ = ["WORDS", "find_place", "is_through", "tell_failure"]

PATIENCE_S = 10.0
"""How long a server that cannot be reached is asked where the database is."""
LOOK_AGAIN_S = 0.3
WORDS = {"upgrade": "applied", "downgrade": "undone"}


def is_through(step: PlanStep, reached: tuple[str, ...] | None) -> bool:
    """Say whether the version table shows a step as done."""
    return reached is not None and (step.revision in reached) == (step.direction == "upgrade")


def find_place(run: Run[Any]) -> tuple[str, ...] | None:
    """Return where the database is, by a new child if the old one is gone; None: unknown.

    A server that was killed recovers in seconds, so it is asked again for `PATIENCE_S`.
    """
    deadline = time.monotonic() + PATIENCE_S
    with suppress(PlaybookError):
        return run.alembic.current()
    while True:
        with suppress(PlaybookError):
            run.alembic.restart(run.server)
            return run.alembic.current()
        if time.monotonic() > deadline:
            return None
        time.sleep(LOOK_AGAIN_S)


def tell_failure(
    run: Run[Any],
    plan: Plan,
    error: PlaybookError | KeyboardInterrupt,
    failed: PlanStep,
    reached: tuple[str, ...] | None,
    limits: Limits,
) -> MigrationFailed:
    """Return what is to be said of a plan that failed after some of its revisions."""
    committed = run.alembic.committed
    transactional = getattr(error, "transactional", True) and not committed.left_transaction
    name = failed.revision
    what = f"Revision {name}" if plan.direction == "upgrade" else f"The downgrade of {name}"
    if reached is None:
        state = "Where the database is now is not known: it cannot be reached."
        remedy = "Run `status` as soon as it can."
    elif is_through(failed, reached):
        word = WORDS[plan.direction]
        state = f"The database is at {join(reached)}: {name} is {word}; what failed came after."
        remedy = f"Run `status`, then `{run.runbook}` again to go on."
    elif transactional:
        fate = "was not begun" if isinstance(error, GuardRefused) else "was rolled back whole"
        state = f"The database is at {join(reached)}; {name} {fate}."
        remedy = _ways_out(run, plan, error, limits)
    else:
        state = (
            f"The database is at {join(reached)}, with {name} half-applied: it had left its "
            f"transaction{_leftovers(run)}."
        )
        remedy = f"Run `repair`: it shows and undoes what it left. Then run `{run.runbook}` again."
    stopped = isinstance(error, KeyboardInterrupt)
    kind = MigrationStopped if stopped else MigrationFailed
    return kind(
        f"{what} was told to stop." if stopped else f"{what} failed: {explain(error)}",
        state=state,
        remedy=remedy,
        revision=name,
        statement=getattr(error, "statement", ""),
        sqlstate=getattr(error, "sqlstate", ""),
        current=reached or (),
        transactional=transactional and reached is not None,
    )


SHOWN_LEFTOVERS = 5


def _leftovers(run: Run[Any]) -> str:
    """Return what a half-applied revision has left: its statements, and invalid indexes."""
    done = [" ".join(text.split()) for text in run.alembic.committed.statements]
    done = [text for text in done if not text.upper().startswith(("SELECT", "SET"))]
    shown = [f"{text[:SHOWN_STATEMENT]}..." if len(text) > SHOWN_STATEMENT else text
             for text in done[:SHOWN_LEFTOVERS]]  # fmt: skip
    more = f" and {len(done) - len(shown)} more" if len(done) > len(shown) else ""
    try:
        indexes = [item.index for item in find_integrity(run.target).invalid]
    except PlaybookError:
        indexes = []
    found = f", and these statements of it stay: {'; '.join(shown)}{more}" if shown else ""
    if indexes:
        found += f"; invalid indexes to drop (DROP INDEX CONCURRENTLY): {', '.join(indexes)}"
    return found


def _ways_out(
    run: Run[Any], plan: Plan, error: PlaybookError | KeyboardInterrupt, limits: Limits
) -> str:
    """Return the best way out as a sentence, and the others behind it."""
    timeout_s = limits.statement_timeout_s
    failure = Failure(
        runbook=run.runbook,
        sqlstate=getattr(error, "sqlstate", ""),
        began_at=plan.from_revisions,
        done=len(run.steps),
        backup=run.taken("backup", BackupManifest),
        is_alive=not isinstance(error, (AlembicDied, CannotConnect)),
        was_stopped=isinstance(error, KeyboardInterrupt),
        statement_timeout=f"{timeout_s:g}s" if timeout_s else "",
    )
    best, *others = ways_out(failure)
    more = f" Or {'; or '.join(others)}." if others else ""
    return f"{best[:1].upper()}{best[1:]}.{more}"
