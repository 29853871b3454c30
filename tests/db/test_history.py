"""The history and its log in a real target: whole after every kind of run, and seen when not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from builders import FAILING, SECOND, TABLE, Project, Script, execute
from playbook import rollback, status, upgrade
from playbook.chain import seal
from playbook.database import advisory_lock, connect, fetch, fetch_value, server_info
from playbook.errors import MigrationFailed, PlaybookError, PrivilegeMissing, TargetBusy
from playbook.history import (
    CREATE_HISTORY,
    check_history,
    read_history,
    read_log,
    settle_history,
    write_history,
)
from playbook.journal import Run
from playbook.receipts import known_receipts
from playbook.records import Finding, History, LogEntry, Receipt, RevisionGraph, StepResult
from playbook.targets import Target, load_target
from servers import PrivateServer
from steps import Namespace, at, go, history, run_sql, runs

Small = Callable[..., Namespace]
START = datetime(2026, 1, 1, 12, 30, 0, 123456, tzinfo=UTC)
STEP = StepResult(
    "b2",
    "upgrade",
    1e-07,
    1,
    2,
    (("public.文書", "ShareLock"),),
    (),
    True,
    (2**63 - 1,),
    ("public.文書",),
)
RECEIPT = Receipt(
    run_id="r", runbook="upgrade", target="t", database="d", outcome="running", started_at=START,
    finished_at=None, who="ana@laptop as app", from_revisions=("a1",), to_revisions=("b2",),
    steps=(STEP, replace(STEP, revision="c3", duration_s=1e16)), backup="backups/ü",
    revision_files=(("b2", "0" * 64),), message="100% 'sure'\n", directory=Path("r"),
    host="laptop", system_identifier="7581", database_oid=2**32 - 1,
)  # fmt: skip


def log_of(target: Target) -> tuple[LogEntry, ...]:
    with connect(target) as connection:
        return read_log(connection)


def found(target: Target, receipts: list[Receipt] | None = None) -> Finding:
    return check_history(target, receipts or [])


def receipts_of(namespace: Namespace, target: Target) -> list[Receipt]:
    with connect(target) as connection:
        server = server_info(connection)
    project = load_target(namespace["database"], namespace["alembic_ini"])
    return known_receipts(project, server, "")


def seen(namespace: Namespace) -> Any:
    """Return the run of `status` before its last step."""
    return go(status, namespace, before="conclude")


def warned(namespace: Namespace) -> list[str]:
    """Return what `status` says of the history if it is not whole."""
    findings = seen(namespace).require("preflight", object).findings
    return [f.detail for f in findings if f.code == "history" and f.severity != "OK"]


def marked(namespace: Namespace) -> tuple[tuple[str, str], ...]:
    marks: tuple[tuple[str, str], ...] = seen(namespace).require("revisions", RevisionGraph).marks
    return marks


def revision_file(namespace: Namespace, revision: str) -> Path:
    return Path(namespace["alembic_ini"]).parent / "migrations" / "versions" / f"{revision}.py"


def project_of(namespace: Namespace) -> Project:
    return Project(Path(namespace["alembic_ini"]).parent)


def kill(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run an upgrade that fails and writes no end, as a killed one does; return its id."""
    with monkeypatch.context() as dead:
        dead.setattr(Run, "finish", lambda *_: None)
        with pytest.raises(MigrationFailed):
            go(upgrade, namespace)
    last = runs(namespace)[-1]
    path = project_of(namespace).folder / "runs" / last["run_id"] / "receipt.json"
    path.write_text(json.dumps(last | {"pid": 2**22 + 1}))
    return str(last["run_id"])


# Written.


def test_chain_is_whole_after_runs_that_ended_in_every_way(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND, "c3": FAILING})
    with pytest.raises(MigrationFailed):
        go(upgrade, namespace, on_failure="rollback")
    with pytest.raises(MigrationFailed):
        go(upgrade, namespace)
    with advisory_lock(fresh_database), pytest.raises(TargetBusy, match="Another run holds"):
        go(rollback, namespace)
    go(rollback, namespace, target="a1")
    write_history(fresh_database, replace(RECEIPT, run_id="killed", host="elsewhere"))
    go(upgrade, namespace, target="b2")

    outcomes = [row[:2] for row in history(fresh_database)]
    assert outcomes[1:] == [
        ("upgrade", "succeeded"), ("upgrade", "rolled back"), ("upgrade", "failed"),
        ("rollback", "refused"), ("rollback", "succeeded"), ("upgrade", "succeeded"),
    ]  # fmt: skip
    assert outcomes[0] == ("upgrade", "interrupted")  # it began on a clock of its own
    assert warned(namespace) == []
    assert [entry.number for entry in log_of(fresh_database)] == list(
        range(1, 1 + len(log_of(fresh_database)))
    )


def test_history_log_and_receipt_hold_who_where_when_what_and_how_it_went(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": Script(execute("ALTER TABLE a ADD COLUMN x int"))})
    go(upgrade, namespace, backup="always")

    on_disk = runs(namespace)[-1]
    with connect(fresh_database) as connection:
        in_target = read_history(connection).runs[0]
        server = server_info(connection)

    assert in_target.who == on_disk["who"]
    assert in_target.host == on_disk["host"]
    assert on_disk["host"] in on_disk["who"]
    assert in_target.started_at.isoformat() == on_disk["started_at"]
    assert in_target.finished_at is not None
    assert in_target.finished_at.isoformat() == on_disk["finished_at"]
    assert (in_target.from_revisions, in_target.to_revisions) == (("a1",), ("b2",))
    assert in_target.revision_files == tuple((n, sha) for n, sha in on_disk["revision_files"])
    assert [len(sha) for _, sha in in_target.revision_files] == [64]
    (step,) = in_target.steps
    assert step.duration_s > 0
    assert ("public.a", "AccessExclusiveLock") in step.locks
    assert step.xids
    assert in_target.backup == on_disk["backup"] != ""
    assert in_target.outcome == on_disk["outcome"] == "succeeded"
    assert (in_target.system_identifier, in_target.database_oid) == (
        server.system_identifier, server.database_oid,
    )  # fmt: skip
    last = log_of(fresh_database)[-1]
    assert on_disk["history_sha256"] == last.sha256
    assert last.run_id == on_disk["run_id"]


def test_row_is_read_as_it_was_written_and_its_entry_stays_sealed(fresh_database: Target) -> None:
    """With what JSON, jsonb and PostgreSQL's arrays might write in another way."""
    sha256 = write_history(fresh_database, RECEIPT)

    with connect(fresh_database, settings={"TimeZone": "Asia/Kathmandu"}) as connection:
        (run,) = read_history(connection).runs
    (entry,) = log_of(fresh_database)
    assert run == RECEIPT
    assert entry.sha256 == sha256
    assert seal(entry.number, entry.at, entry.run_id, entry.record, entry.previous) == sha256
    assert found(fresh_database).severity == "OK"


def test_eight_writers_at_once_leave_one_chain_that_is_whole_at_every_moment(
    fresh_database: Target,
) -> None:
    together = threading.Barrier(9)
    looks: list[Finding] = []
    done = threading.Event()

    def write(number: int) -> None:
        together.wait()
        for steps in range(4):
            receipt = replace(RECEIPT, run_id=f"r{number}", steps=RECEIPT.steps[:1] * steps)
            write_history(fresh_database, receipt)
        settle_history(fresh_database, "")

    def look() -> None:
        together.wait()
        while not done.is_set():
            looks.append(found(fresh_database))

    with ThreadPoolExecutor(9) as pool:
        looking = pool.submit(look)
        writing = [pool.submit(write, number) for number in range(8)]
        try:
            for task in writing:
                task.result()
        finally:
            done.set()
        looking.result()

    log = log_of(fresh_database)
    assert [entry.number for entry in log] == list(range(1, len(log) + 1))
    assert len(log) >= 8 * 5
    assert {look.severity.value for look in (*looks, found(fresh_database))} == {"OK"}


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_chain_does_not_depend_on_the_isolation_that_a_database_sets(
    fresh_database: Target, level: str
) -> None:
    name = fresh_database.database
    run_sql(fresh_database, f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
    write_history(fresh_database, RECEIPT)

    with ThreadPoolExecutor(4) as pool:
        others = [replace(RECEIPT, run_id=str(number)) for number in range(12)]
        list(pool.map(lambda receipt: write_history(fresh_database, receipt), others))

    assert len(log_of(fresh_database)) == 13
    assert found(fresh_database).severity == "OK"


def test_chain_does_not_depend_on_the_time_zone_that_a_database_sets(
    fresh_database: Target,
) -> None:
    for zone in ("UTC", "Asia/Kathmandu", "America/New_York"):
        run_sql(fresh_database, f"ALTER DATABASE {fresh_database.database} SET timezone = '{zone}'")
        write_history(fresh_database, replace(RECEIPT, run_id=zone))
        settle_history(fresh_database, "")

        assert found(fresh_database).severity == "OK"


def test_chain_is_kept_on_an_older_server(
    other_version: PrivateServer, monkeypatch: pytest.MonkeyPatch, staging: Callable[..., Project]
) -> None:
    project = staging({"a1": TABLE})
    with other_version.database() as name:
        monkeypatch.setenv("OLDER", other_version.url(name))
        target = load_target("env:OLDER", project.ini)
        write_history(target, RECEIPT)
        settle_history(target, "")

        assert found(target).severity == "OK"
        assert [entry.record.get("outcome") for entry in log_of(target)] == [
            "running", "interrupted",
        ]  # fmt: skip
        run_sql(target, "UPDATE playbook.history SET who = 'eve'")
        assert "another who" in found(target).detail


# Of an earlier version.


@contextmanager
def of_before(target: Target) -> Iterator[None]:
    """Keep a history as the first version did: without a log and the later columns."""
    run_sql(target, CREATE_HISTORY)
    for run_id, outcome in (("old", "succeeded"), ("killed", "running")):
        run_sql(
            target,
            f"INSERT INTO playbook.history VALUES ('{run_id}', 'upgrade', 't', 'd', '{outcome}', "
            "'2025-01-01 00:00:00+00', NULL, 'ana@laptop as app', '{}', '{a1}', '[]', '', "
            "'[[\"a1\", \"0\"]]', '')",
        )
    yield


def test_history_without_a_log_is_read_and_its_log_begun_by_the_next_run(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND}, to="")
    with of_before(fresh_database):
        assert found(fresh_database).severity == "OK"
        assert "the next run begins one" in found(fresh_database).detail
        assert [r.run_id for r in seen(namespace).require("runs", History).runs] == [
            "old", "killed",
        ]  # fmt: skip

        go(upgrade, namespace)

    assert warned(namespace) == []
    assert {entry.run_id for entry in log_of(fresh_database)} > {"old", "killed"}
    assert ("upgrade", "interrupted", ["a1"]) in history(fresh_database)
    run_sql(fresh_database, "UPDATE playbook.history SET message = 'x' WHERE run_id = 'old'")
    assert "another message" in warned(namespace)[0]


def test_run_that_an_older_playbook_writes_beside_the_log_is_named(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE})
    with of_before(fresh_database):
        assert "by an older playbook" in warned(namespace)[0]


# Tampered with.

TAMPERING = {
    "an outcome": (
        "UPDATE playbook.history SET outcome = 'succeeded' WHERE outcome = 'failed'",
        "tells another outcome than playbook.log",
    ),
    "who and when": (
        "UPDATE playbook.history SET who = 'eve', started_at = started_at - interval '1 day' "
        "WHERE outcome = 'failed'",
        "tells another started_at, who than playbook.log",
    ),
    "a hash of a file": (
        "UPDATE playbook.history SET revision_files = '[]' WHERE outcome = 'failed'",
        "tells another revision_files than playbook.log",
    ),
    "a lock": (
        "UPDATE playbook.history SET steps = jsonb_set(steps, '{0,locks}', '[]') "
        "WHERE outcome = 'failed'",
        "tells another steps than playbook.log",
    ),
    "a row taken out": (
        "DELETE FROM playbook.history WHERE outcome = 'failed'",
        "playbook.log has it, but playbook.history does not",
    ),
    "all rows taken out": ("TRUNCATE playbook.history", "but playbook.history does not"),
    "a table taken out": ("DROP TABLE playbook.history", "but playbook.history does not"),
    "a row put in": (
        "INSERT INTO playbook.history SELECT 'forged', runbook, target, database, outcome, "
        "started_at, finished_at, who, from_revisions, to_revisions, steps, backup, "
        "revision_files, message FROM playbook.history LIMIT 1",
        "playbook.history has it, but playbook.log does not",
    ),
    "an entry": (
        'UPDATE playbook.log SET record = record || \'{"who": "eve"}\' WHERE number = 1',
        "It is not as it was written.",
    ),
    "an entry's time": (
        "UPDATE playbook.log SET at = at - interval '1 us' WHERE number = 2",
        "It is not as it was written.",
    ),
    "an entry taken out": ("DELETE FROM playbook.log WHERE number = 2", "Entries 2 to 2 are"),
    "the last entry taken out": (
        "DELETE FROM playbook.log WHERE number = (SELECT max(number) FROM playbook.log)",
        "than playbook.log",
    ),
    "a number put in twice": (
        "ALTER TABLE playbook.log DROP CONSTRAINT log_pkey; "
        "INSERT INTO playbook.log SELECT * FROM playbook.log WHERE number = 2",
        "There is another one of this number.",
    ),
    "the log emptied": ("TRUNCATE playbook.log", "but playbook.log does not"),
    "the log taken out": ("DROP TABLE playbook.log", "knows an entry that playbook.log does not"),
    "all of it taken out": (
        "DROP SCHEMA playbook CASCADE",
        "knows an entry that playbook.log does not",
    ),
    "the end of both put back": (
        "DELETE FROM playbook.log WHERE run_id = (SELECT run_id FROM playbook.history "
        "ORDER BY started_at DESC LIMIT 1); DELETE FROM playbook.history WHERE outcome = 'failed'",
        "knows an entry that playbook.log does not",
    ),
}


@pytest.fixture
def failed(small: Small) -> Namespace:
    """A database with a run that succeeded and a later one that failed at its second revision."""
    namespace = small({"a1": TABLE, "b2": SECOND, "c3": FAILING})
    with pytest.raises(MigrationFailed):
        go(upgrade, namespace)
    return namespace


@pytest.mark.parametrize("kind", TAMPERING)
def test_what_was_changed_in_the_history_is_named_by_status(
    failed: Namespace, fresh_database: Target, kind: str
) -> None:
    statement, says = TAMPERING[kind]
    assert found(fresh_database, receipts_of(failed, fresh_database)).severity == "OK"

    run_sql(fresh_database, statement)

    changed = found(fresh_database, receipts_of(failed, fresh_database))
    assert changed.severity == "WARN"
    assert says in changed.detail
    if kind == "an outcome":
        assert changed.subject == runs(failed)[-1]["run_id"]
        outcome = go(status, failed)
        name = changed.subject
        assert any(name in line and says in line for line in outcome.next_steps)


def test_log_that_was_written_anew_as_a_whole_differs_from_the_receipts(
    failed: Namespace, fresh_database: Target
) -> None:
    previous = ""
    for entry in log_of(fresh_database):
        record: Mapping[str, Any] = entry.record
        if "who" in record:
            record = {**record, "who": "eve"}
        sha256 = seal(entry.number, entry.at, entry.run_id, record, previous)
        with connect(fresh_database) as connection:
            fetch(
                connection,
                "UPDATE playbook.log SET record = %s, previous = %s, sha256 = %s "
                "WHERE number = %s RETURNING 1",
                (json.dumps(record), previous, sha256, entry.number),
            )
        previous = sha256
    run_sql(fresh_database, "UPDATE playbook.history SET who = 'eve'")

    assert found(fresh_database).severity == "OK"
    assert "the log was written anew" in warned(failed)[0]
    assert "(And 1 more.)" in warned(failed)[0]


def test_log_with_a_trigger_is_not_written(small: Small, fresh_database: Target) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND})
    run_sql(
        fresh_database,
        "CREATE FUNCTION spring() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
        "CREATE TRIGGER spring BEFORE INSERT ON playbook.log "
        "FOR EACH ROW EXECUTE FUNCTION spring()",
    )
    before = len(log_of(fresh_database))

    with pytest.raises(PlaybookError, match="has triggers or rules"):
        write_history(fresh_database, RECEIPT)
    assert go(upgrade, namespace).outcome == "succeeded"

    assert len(log_of(fresh_database)) == before
    assert "not written: " in runs(namespace)[-1]["history"]


@contextmanager
def weak_role(target: Target, *grants: str) -> Iterator[Target]:
    """Make a role with some rights and yield the target as seen by it; drop it afterwards."""
    name = target.database
    run_sql(target, f"CREATE ROLE {name} LOGIN", *(f"GRANT {grant} TO {name}" for grant in grants))
    try:
        yield target.with_conninfo(**{**target.conninfo, "user": name})
    finally:
        run_sql(target, f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_role_that_may_not_read_the_log_is_told_that_it_was_not_checked(
    fresh_database: Target,
) -> None:
    write_history(fresh_database, RECEIPT)
    with weak_role(
        fresh_database, "USAGE ON SCHEMA playbook", "SELECT ON playbook.history"
    ) as weak:
        finding = found(weak)

    assert finding.severity == "OK"
    assert "so it was not checked" in finding.detail


def test_role_may_write_the_log_without_the_right_to_change_it(fresh_database: Target) -> None:
    write_history(fresh_database, RECEIPT)
    with weak_role(
        fresh_database,
        "USAGE ON SCHEMA playbook",
        "SELECT, INSERT, UPDATE ON playbook.history",
        "SELECT, INSERT ON playbook.log",
    ) as weak:
        write_history(weak, replace(RECEIPT, outcome="succeeded"))

        with pytest.raises(PrivilegeMissing):
            run_sql(weak, "DELETE FROM playbook.log")
        assert found(weak).severity == "OK"
    assert len(log_of(fresh_database)) == 2


# What status makes of it.


def test_failed_revision_is_marked_until_it_is_mended(
    failed: Namespace, fresh_database: Target
) -> None:
    assert marked(failed) == (("c3", "failed"),)
    assert any(
        "c3 is pending: the last run that tried it failed" in line
        for line in go(status, failed).next_steps
    )

    path = revision_file(failed, "c3")
    path.write_text(path.read_text().replace("1 / 0", "1"))
    go(upgrade, failed)

    assert at(fresh_database) == ["c3"]
    assert marked(failed) == ()


def test_killed_run_marks_its_revision_and_says_how_to_go_on(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND, "c3": FAILING})
    killed = kill(namespace, monkeypatch)

    assert marked(namespace) == (("c3", "interrupted"),)
    said = " ".join(go(status, namespace).next_steps)
    assert "`upgrade` with -r target c3 goes on from there" in said
    assert (
        "c3 is pending: the run that tried it was stopped or killed. Run `upgrade` again." in said
    )

    path = revision_file(namespace, "c3")
    path.write_text(path.read_text().replace("1 / 0", "1"))
    go(upgrade, namespace)
    assert marked(namespace) == ()
    assert warned(namespace) == []
    assert {r["run_id"]: r["outcome"] for r in runs(namespace)}[killed] == "interrupted"


def test_edited_file_is_marked_and_named(small: Small, fresh_database: Target) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND})
    go(upgrade, namespace)
    path = revision_file(namespace, "a1")
    path.write_text(path.read_text() + "\n# edited\n")

    assert marked(namespace) == (("a1", "edited"),)
    (said,) = [line for line in go(status, namespace).next_steps if "edited" in line]
    assert said.startswith("a1.py was edited after a1 had been applied.")


def test_revision_whose_file_went_is_marked_missing(small: Small, fresh_database: Target) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND, "c3": Script()})
    go(upgrade, namespace)
    revision_file(namespace, "b2").unlink()
    project_of(namespace).write("c3", Script(down="a1"))

    assert ("b2", "missing") in marked(namespace)


def test_file_put_in_below_applied_ones_is_marked_out_of_order(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "c3": Script()})
    go(upgrade, namespace)
    project_of(namespace).write("b2", Script(SECOND.upgrade, SECOND.downgrade, down="a1"))
    project_of(namespace).write("c3", Script(down="b2"))

    assert marked(namespace)[0] == ("b2", "out of order")
    assert any(
        "`upgrade` will never run it here" in line for line in go(status, namespace).next_steps
    )


def test_database_of_plain_alembic_has_no_marks_and_no_warning(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND, "c3": SECOND}, to="")
    run_sql(
        fresh_database,
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('b2')",
    )

    assert marked(namespace) == ()
    assert warned(namespace) == []


def test_run_of_another_host_that_no_session_holds_is_doubted_and_settled_by_the_next(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND})
    started = datetime.now(UTC) + timedelta(seconds=1)
    lost = replace(RECEIPT, run_id="lost", host="elsewhere", started_at=started, steps=())
    write_history(fresh_database, lost)

    def shown() -> Receipt:
        known: tuple[Receipt, ...] = seen(namespace).require("runs", History).runs
        return next(run for run in known if run.run_id == "lost")

    assert shown().outcome == "running"
    assert shown().message == (
        "Still at work on elsewhere, or killed there: no session holds the lock."
    )
    assert marked(namespace) == (("b2", "interrupted"),)
    with advisory_lock(fresh_database):
        assert shown().message == lost.message

    go(upgrade, namespace)

    assert shown().outcome == "interrupted"
    assert warned(namespace) == []


def test_refusal_that_is_no_contention_is_not_written_to_the_target(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND})
    before = len(log_of(fresh_database))

    with pytest.raises(PlaybookError, match="is protected"):
        go(upgrade, namespace | {"database": "guarded"}, confirm="wrong")
    with advisory_lock(fresh_database), pytest.raises(TargetBusy):
        go(upgrade, namespace, dry_run=True)

    assert len(log_of(fresh_database)) == before
    assert [receipt["outcome"] for receipt in runs(namespace)][1:] == ["refused", "refused"]


def test_contention_on_a_target_without_a_history_makes_none(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND}, to="")

    with advisory_lock(fresh_database), pytest.raises(TargetBusy):
        go(upgrade, namespace)

    with connect(fresh_database) as connection:
        assert fetch_value(connection, "SELECT to_regnamespace('playbook') IS NULL")
    assert asdict(receipts_of(namespace, fresh_database)[0])["outcome"] == "refused"


def test_foreign_table_of_the_history_s_name_stops_no_runbook_that_reads(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE}, to="")
    run_sql(fresh_database, "CREATE SCHEMA playbook", "CREATE TABLE playbook.history (day date)")

    assert go(status, namespace).outcome == "succeeded"
    with connect(fresh_database) as connection:
        assert read_history(connection) == History(())
