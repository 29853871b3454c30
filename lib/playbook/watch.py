"""Tells how a long statement is getting on, from a session beside it. Layer 3: reads only.

While a revision runs, this process waits for its child. A thread with a session of its own looks
at the revision's session in PostgreSQL's statistics: what runs and for how long, whom it waits for,
and, where PostgreSQL counts it (index builds, CLUSTER, VACUUM FULL, COPY), how much is done. Of a
table that ALTER TABLE rewrites PostgreSQL tells nothing but the time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from psycopg2.extensions import connection as Connection

from playbook.catalog import Activity, activity, blockers_of, progress_of
from playbook.database import connect
from playbook.errors import DatabaseError
from playbook.records import Blocker
from playbook.targets import Target

__all__ = ["watching"]

FIRST_LOOK_S = 1.0
"""What is done sooner than that needs no watching, nor a session for it."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 30.0
SHOWN_STATEMENT = 60
"""How much of the statement a line quotes; characters."""

Tell = Callable[[str], None]


@contextmanager
def watching(target: Target, pid: Callable[[], int], what: str, tell: Tell) -> Iterator[None]:
    """Tell how a session is getting on, from a second after the block begins until it ends.

    Args:
        pid: returns the session's process id in the server, 0 while there is none.
        what: what each line begins with: the revision.
        tell: called from another thread, with a line every few seconds at the most.
    """
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(target, pid, what, tell, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(FIRST_LOOK_S)


def _watch(
    target: Target, pid: Callable[[], int], what: str, tell: Tell, done: threading.Event
) -> None:
    if done.wait(FIRST_LOOK_S):
        return
    pause_s, began = FIRST_PAUSE_S, time.monotonic()
    try:
        with connect(target, read_only=True) as connection:
            while not done.is_set():
                line = _line(connection, pid())
                if line and not done.is_set():
                    tell(f"{what}: {line}")
                done.wait(pause_s)
                pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, (time.monotonic() - began) / 5))
    except DatabaseError:
        # The run itself tells of a server that is gone; who only watches has nothing to add.
        return


def _line(connection: Connection, pid: int) -> str:
    """Return what a session is doing, "" if there is nothing to tell."""
    now = activity(connection, pid)
    if now is None:
        return ""
    if now.state != "active":
        return f"Python is at work, without a statement for {now.for_s:.0f} s"
    parts = [f"{_short(now)} for {now.for_s:.0f} s", *progress_of(connection, pid)]
    if now.waits_for_lock:
        names = "; ".join(_who(one) for one in blockers_of(connection, pid))
        parts.append(f"it waits for {names or 'a lock'}")
    return ", ".join(parts)


def _short(now: Activity) -> str:
    text = now.query
    return text if len(text) <= SHOWN_STATEMENT else f"{text[:SHOWN_STATEMENT]}..."


def _who(session: Blocker) -> str:
    name = session.application or "no application name"
    return (
        f"pid {session.pid} ({session.user}, {name}, {session.state}, its transaction open for "
        f"{session.transaction_age_s:.0f} s)"
    )
