"""What SQL asks for, told from its text alone."""

from __future__ import annotations

import pytest

from playbook.needs import Need, concurrent_locks, needs_of


def asked(sql: str) -> set[str]:
    return {f"{n.privilege} {n.kind} {n.schema}.{n.name}" for n in needs_of(sql)}


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("CREATE INDEX ON s.t (x)", {"OWNER relation s.t", "CREATE schema of s.t"}),
        (
            "ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (x) REFERENCES s.u",
            {"OWNER relation .t", "REFERENCES relation s.u"},
        ),
        (
            "CREATE TABLE t (x int REFERENCES u, FOREIGN KEY (x) REFERENCES v)",
            {"CREATE schema .", "REFERENCES relation .u", "REFERENCES relation .v"},
        ),
        ("CREATE TABLE s.p PARTITION OF t DEFAULT", {"CREATE schema s.", "OWNER relation .t"}),
        (
            "WITH w AS (DELETE FROM d RETURNING *) INSERT INTO t SELECT * FROM w, u",
            {"DELETE relation .d", "INSERT relation .t", "SELECT relation .u"},
        ),
        (
            "UPDATE t SET x = u.x FROM u WHERE u.y = t.y",
            {"UPDATE relation .t", "SELECT relation .t", "SELECT relation .u"},
        ),
        ("ALTER TABLE t SET SCHEMA s", {"OWNER relation .t", "CREATE schema s."}),
        ("COMMENT ON COLUMN s.t.x IS 'it'", {"OWNER relation s.t"}),
        ("CREATE TRIGGER g BEFORE INSERT ON t EXECUTE FUNCTION f()", {"TRIGGER relation .t"}),
        ("DROP TRIGGER g ON s.t", {"OWNER relation s.t"}),
        ("ALTER SCHEMA s RENAME TO r", {"OWNER schema s."}),
        ("DROP TYPE s.kind", {"DROP type s.kind"}),
    ],
)
def test_statement_asks_for_what_postgresql_checks(sql: str, wanted: set[str]) -> None:
    assert asked(sql) == wanted


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("CREATE TABLE t (x int); ALTER TABLE public.t ADD y int;", {"CREATE schema ."}),
        ("CREATE SCHEMA s; CREATE TABLE s.t (x int); DROP TABLE s.u;", {"CREATE database ."}),
        (
            "CREATE TABLE IF NOT EXISTS t (x int); ALTER TABLE t ADD y int;",
            {"CREATE schema .", "OWNER relation .t"},
        ),
        ("ALTER TABLE t ADD y int; CREATE TABLE t (x int);",
         {"OWNER relation .t", "CREATE schema ."}),
    ],
)  # fmt: skip
def test_what_the_sql_certainly_made_asks_for_nothing_more(sql: str, wanted: set[str]) -> None:
    assert asked(sql) == wanted


def test_after_another_role_or_search_path_nothing_is_guessed() -> None:
    assert needs_of("DROP TABLE a; SET ROLE app; DROP TABLE b") == [
        Need("DROP", "relation", "", "a")
    ]


def test_only_concurrent_steps_wait_for_the_users_of_a_table() -> None:
    sql = (
        "CREATE INDEX CONCURRENTLY i ON s.t (x); REINDEX TABLE CONCURRENTLY u;"
        "ALTER TABLE p DETACH PARTITION q CONCURRENTLY; CREATE INDEX j ON v (x);"
    )

    assert concurrent_locks(sql) == {
        "s.t": "ShareLock", "public.u": "ShareLock", "public.p": "AccessExclusiveLock",
    }  # fmt: skip
