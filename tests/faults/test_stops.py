"""A run that is told to stop, or whose process dies: at once, rolled back, and truly recorded."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from builders import SECOND, TABLE, Script, execute
from children import runbook
from playbook import status, upgrade
from playbook.database import connect, fetch, fetch_value
from playbook.errors import MigrationFailed, MigrationStopped
from playbook.targets import Target
from steps import Namespace, at, go, history, runs

Small = Callable[..., Namespace]
SLOW = Script(execute("CREATE TABLE late (id int)", "SELECT pg_sleep(30)"), "pass")
SLEEPING = """
SELECT count(*) FROM pg_stat_activity
WHERE query LIKE '%%pg_sleep(30)%%' AND datname = current_database() AND pid <> pg_backend_pid()
"""


def value(target: Target, query: str) -> Any:
    with connect(target) as connection:
        return fetch_value(connection, query)  # type: ignore[arg-type]


def wait_for(what: Callable[[], bool], seconds: float = 15) -> float:
    """Return the seconds until something is true."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds, "it does not become true"
        time.sleep(0.05)
    return time.monotonic() - began


def running(namespace: Namespace, target: Target) -> AbstractContextManager[subprocess.Popen[str]]:
    """Run `upgrade` in a process of its own until its revision sleeps in the server."""
    return runbook(
        "upgrade", namespace, is_there=lambda: value(target, SLEEPING) == 1, until=wait_for
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_that_is_told_to_stop_rolls_back_and_says_so(
    small: Small, fresh_database: Target, number: signal.Signals
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND, "c3": SLOW})

    with running(namespace, fresh_database) as child:
        began = time.monotonic()
        child.send_signal(number)
        output, _ = child.communicate(timeout=20)

    assert time.monotonic() - began < 5
    assert child.returncode == 1
    assert "MigrationStopped: Revision c3 was told to stop. The database is at b2; c3 was rolled " \
        "back whole. To go on, run `upgrade` again. Or go back with" in output  # fmt: skip
    assert at(fresh_database) == ["b2"]
    assert value(fresh_database, "SELECT to_regclass('late') IS NULL")
    assert (runs(namespace)[-1]["outcome"], runs(namespace)[-1]["to_revisions"]) == (
        "interrupted", ["b2"],
    )  # fmt: skip
    assert history(fresh_database)[-1] == ("upgrade", "interrupted", ["b2"])
    assert "`upgrade` with -r target c3 goes on from there" in str(go(status, namespace).next_steps)


def test_run_that_is_killed_leaves_nothing_running_and_a_true_receipt(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": SLOW})

    with running(namespace, fresh_database) as child:
        child.kill()
        child.wait()
        # client_connection_check_interval is a second; an idle server may take one more.
        assert wait_for(lambda: value(fresh_database, SLEEPING) == 0) < 4

    assert at(fresh_database) == ["a1"]
    assert value(fresh_database, "SELECT to_regclass('late') IS NULL")
    assert "interrupted" in str(go(status, namespace).next_steps)


def test_stop_goes_before_the_wish_to_roll_back(
    small: Small, fresh_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND, "c3": Script(execute("SELECT 1"))})
    real = upgrade.execute

    def stopped(*arguments: Any, **options: Any) -> Any:
        real(*arguments, **options)
        raise MigrationStopped("stopped", current=("c3",))

    monkeypatch.setattr(upgrade, "execute", stopped)
    with pytest.raises(MigrationStopped):
        go(upgrade, namespace, on_failure="rollback")

    assert at(fresh_database) == ["c3"]
    assert runs(namespace)[-1]["outcome"] == "interrupted"


def test_interrupt_outside_the_revisions_is_one_sentence(
    small: Small, fresh_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND})
    with connect(fresh_database) as connection:  # so that a backup begins the run
        connection.cursor().execute("INSERT INTO a VALUES (1)")

    def interrupted(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr("playbook.journal.take_snapshot", interrupted)
    with pytest.raises(MigrationStopped, match="`upgrade` was told to stop. No revision was run"):
        go(upgrade, namespace)

    assert runs(namespace)[-1]["outcome"] == "interrupted"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_half_applied_revision_is_named_with_what_it_left(
    small: Small, fresh_database: Target
) -> None:
    half = Script(
        """
        op.execute("CREATE TABLE d (n int)")
        op.execute("INSERT INTO d VALUES (1), (1)")
        with op.get_context().autocommit_block():
            op.execute("CREATE INDEX CONCURRENTLY d_plain ON d (n)")
            op.execute("CREATE UNIQUE INDEX CONCURRENTLY d_n ON d (n)")
        op.execute("CREATE TABLE never ()")
        """
    )
    namespace = small({"a1": TABLE, "b2": half})

    with pytest.raises(MigrationFailed) as caught:
        go(upgrade, namespace)

    text = str(caught.value)
    assert "The database is at a1, with b2 half-applied" in text
    assert (
        "these statements of it stay: CREATE TABLE d (n int); INSERT INTO d VALUES (1), (1); "
        "CREATE INDEX CONCURRENTLY d_plain ON d (n)"
    ) in text
    assert "invalid indexes to drop (DROP INDEX CONCURRENTLY): public.d_n" in text
    assert "never" not in text
    with connect(fresh_database) as connection:
        left = fetch(connection, "SELECT relname FROM pg_class WHERE relname LIKE 'd%' ORDER BY 1")
    assert {"d", "d_n", "d_plain"} <= {row[0] for row in left}


def test_revision_whose_process_died_after_the_commit_is_among_the_steps(
    small: Small, fresh_database: Target, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    dies = Script(
        SECOND.upgrade + "\nif not op.get_context().as_sql:\n"
        f"    open({str(flag)!r}, 'w').close()", SECOND.downgrade,
    )  # fmt: skip
    from builders import ENV, URL

    env = ENV.format(before="", settings="", url=URL, engine="") + (
        f"import os, signal\nif os.path.exists({str(flag)!r}):\n"
        f"    os.remove({str(flag)!r})\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    namespace = small({"a1": TABLE, "b2": dies}, env=env)

    with pytest.raises(MigrationFailed, match="b2 is applied; what failed came after"):
        go(upgrade, namespace)

    steps = runs(namespace)[-1]["steps"]
    assert [(step["revision"], step["direction"]) for step in steps] == [("b2", "upgrade")]
    assert at(fresh_database) == ["b2"]
