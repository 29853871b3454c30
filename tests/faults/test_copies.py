"""Revisions that would reach beyond the copy that they are rehearsed on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builders import SECOND, TABLE, Project, Script, execute
from playbook import rehearse, upgrade
from playbook.database import connect, fetch
from playbook.errors import PlaybookError, VerifyFailed
from playbook.new_database import maintenance_target
from playbook.targets import Target, load_target
from servers import PrivateServer
from steps import Namespace, go, picture

Small = Callable[..., Namespace]
SHARED = """
SELECT 'role', rolname, rolcanlogin::text FROM pg_roles UNION ALL
SELECT 'database', datname, coalesce(datacl::text, '') FROM pg_database
WHERE datname NOT LIKE %(scratch)s AND (datname NOT LIKE 'test_%%' OR datname = %(live)s) UNION ALL
SELECT 'setting', d.datname, s.setconfig::text FROM pg_db_role_setting AS s
JOIN pg_database AS d ON d.oid = s.setdatabase WHERE d.datname = %(live)s UNION ALL
SELECT 'file', name, setting FROM pg_file_settings ORDER BY 1, 2, 3
"""
LIVE = "{live}"
ALONE = "with op.get_context().autocommit_block():\n    op.execute({!r})"
REACHES = {
    "a role": Script(execute("CREATE ROLE attack_reader"), execute("DROP ROLE attack_reader")),
    f"the database {LIVE}": Script(
        execute(f'GRANT CREATE ON DATABASE "{LIVE}" TO pg_monitor'),
        execute(f'REVOKE CREATE ON DATABASE "{LIVE}" FROM pg_monitor'),
    ),
    f"the settings of the database {LIVE}": Script(
        execute(f'SAVEPOINT s; ALTER DATABASE "{LIVE}" SET work_mem = 9999'), "pass"
    ),
    "ALTER SYSTEM SET log_min_duration_statement = 12345": Script(
        ALONE.format("ALTER SYSTEM SET log_min_duration_statement = 12345"), "pass"
    ),
    "CREATE ROLE attack_reader; COMMIT": Script(
        execute("CREATE ROLE attack_reader; COMMIT"), "pass"
    ),
}
HARMLESS = Script(
    execute(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'pg_monitor') "
        "THEN CREATE ROLE attack_reader; END IF; END $$",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 9999', current_database()); "
        "END $$",
    ),
    execute(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET work_mem', current_database()); "
        "END $$",
    ),
)


def shared(target: Target) -> list[tuple[str, ...]]:
    """Return what all databases of the server share."""
    names = {"live": target.database, "scratch": "playbook_%"}
    with connect(maintenance_target(target)) as connection:
        return fetch(connection, SHARED, names)


@pytest.mark.parametrize("what", REACHES)
def test_what_all_databases_share_is_named_and_not_changed(
    what: str, small: Small, fresh_database: Target
) -> None:
    live = fresh_database.database
    script = Script(
        *(s.replace(LIVE, live) for s in (REACHES[what].upgrade, REACHES[what].downgrade or ""))
    )
    namespace = small({"r1": TABLE, "r2": script})
    before = shared(fresh_database)

    with pytest.raises(VerifyFailed, match=r"r2 \(failed\)"):
        go(rehearse, namespace)

    assert shared(fresh_database) == before
    record = next(Path(namespace["alembic_ini"]).parent.glob("runs/*/rehearsal.json"))
    assert what.replace(LIVE, live) in record.read_text()
    assert "where sandbox" not in record.read_text(), "it is there already"


def test_settings_of_the_copy_itself_and_roles_that_are_there_are_no_matter(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"r1": TABLE, "r2": HARMLESS})

    assert "1 revision passed" in go(rehearse, namespace).summary


OWN_WAYS = """
    import os, subprocess, psycopg2
    own = psycopg2.connect(os.environ["SHOP_URL"])
    with own.cursor() as cursor:
        cursor.execute("CREATE TABLE by_psycopg2 (id int)")
    own.commit()
    own.close()
    subprocess.run(["psql", "-c", "CREATE TABLE by_psql (id int)", os.environ["SHOP_URL"]])
"""
REMOVED = execute("DROP TABLE by_psycopg2", "DROP TABLE IF EXISTS by_psql")
HARD_CODED = """
    import psycopg2
    own = psycopg2.connect({!r})
    own.cursor().execute("CREATE TABLE stray (id int)")
    own.commit()
"""


def plain_url(target: Target) -> str:
    return target.sqlalchemy_url().replace("+psycopg2", "")


def test_connections_of_a_revisions_own_by_a_variable_are_led_to_the_copy(
    small: Small, fresh_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_URL", plain_url(fresh_database))
    namespace = small({"r1": TABLE, "r2": Script(OWN_WAYS, REMOVED)})
    before = picture(fresh_database)

    outcome = go(rehearse, namespace)

    assert "1 revision passed" in outcome.summary
    assert picture(fresh_database) == before


def test_a_connection_of_a_revisions_own_to_the_live_database_only_reads(
    small: Small, fresh_database: Target
) -> None:
    script = Script(HARD_CODED.format(plain_url(fresh_database)), "pass")
    namespace = small({"r1": TABLE, "r2": script})
    before = picture(fresh_database)

    with pytest.raises(PlaybookError, match="read-only transaction"):
        go(rehearse, namespace)

    assert picture(fresh_database) == before


def test_a_subscription_stays_out_of_the_copy_so_that_it_can_be_dropped(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"r1": TABLE, "r2": SECOND})
    subscribe = (
        "CREATE SUBSCRIPTION attack CONNECTION 'host=/nowhere' PUBLICATION p "
        "WITH (connect = false, slot_name = 'attack')"
    )
    unsubscribe = ("ALTER SUBSCRIPTION attack SET (slot_name = NONE)", "DROP SUBSCRIPTION attack")
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute(subscribe)
        try:
            outcome = go(rehearse, namespace, copy_by="dump")
            left = [row for row in databases(fresh_database) if row.startswith("playbook_")]
        finally:
            for statement in unsubscribe:
                cursor.execute(statement)

    assert "1 revision passed" in outcome.summary
    assert left == []


def databases(target: Target) -> list[str]:
    with connect(maintenance_target(target)) as connection:
        return [name for (name,) in fetch(connection, "SELECT datname FROM pg_database ORDER BY 1")]


@pytest.mark.parametrize("other_version", [15], indirect=True)
@pytest.mark.parametrize("copy_by", ["dump", "template"])
def test_what_a_revision_writes_to_a_foreign_table_does_not_arrive(
    copy_by: str, staging: Callable[..., Project], other_version: PrivateServer
) -> None:
    project = staging({"r1": TABLE, "r2": Script(execute("INSERT INTO far VALUES (7)"))})
    server = other_version
    with server.database() as name, server.database() as other:
        namespace = {"database": server.url(name), "alembic_ini": str(project.ini)}
        go(upgrade, namespace, target="r1")
        server.execute("CREATE TABLE near (id int)", database=other)
        server.execute(
            "CREATE EXTENSION postgres_fdw",
            "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw OPTIONS "
            f"(host '127.0.0.1', port '{server.port}', dbname '{other}')",
            "CREATE USER MAPPING FOR postgres SERVER s OPTIONS (user 'postgres')",
            "CREATE FOREIGN TABLE far (id int) SERVER s "
            "OPTIONS (table_name 'near', updatable 'true')",
            database=name,
        )

        with pytest.raises(VerifyFailed, match=r"r2.*failed"):
            go(rehearse, namespace, copy_by=copy_by)

        with connect(load_target(server.url(other), project.ini)) as connection:
            assert fetch(connection, "SELECT * FROM near") == []
