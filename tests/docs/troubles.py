"""Each trouble of the guide, provoked on a real database, and its remedy carried out.

A provocation is a generator: it yields what was really said, then does what the guide says to do
and asserts that this helps. Its name, with hyphens, is the anchor of the guide's section.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import alembic.command
import pytest
from alembic.config import Config
from alembic.util import CommandError
from pages import ROOT
from psycopg2 import sql as sql_text

from builders import SECOND, TABLE, Project, Script, execute
from playbook import backup, init, restore, rollback, status, upgrade, verify
from playbook.database import advisory_lock, connect, fetch, fetch_value
from playbook.errors import PlaybookError
from playbook.records import Checks
from playbook.targets import Target
from steps import Namespace, at, go

Small = Callable[..., Namespace]
Provocation = Callable[["Place"], Generator[str, None, None]]
CONCURRENTLY = """
with op.get_context().autocommit_block():
    op.execute("CREATE INDEX CONCURRENTLY a_n ON a (n)")
"""
VAST = 30_000_000
"""Rows that the catalog is made to claim."""


@dataclass(frozen=True)
class Place:
    """Where a trouble is made: a small project on an empty database of its own."""

    small: Small
    database: Target
    monkeypatch: pytest.MonkeyPatch

    def sql(self, *statements: str) -> None:
        """Do what the application, or a colleague, does."""
        with connect(self.database) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def value(self, query: str) -> Any:
        """Return the first column of a query's only row."""
        with connect(self.database) as connection:
            return fetch_value(connection, query)  # type: ignore[arg-type]


def project_of(namespace: Namespace) -> Project:
    """Return the project that a namespace's runbooks work with."""
    return Project(Path(namespace["alembic_ini"]).parent)


def prepared(
    place: Place, revisions: Mapping[str, Script], to: str = "a1", **options: str
) -> Namespace:
    """Return the parameters of a small project that plain Alembic has taken to a revision."""
    namespace = place.small(revisions, to="", **options)
    migrations = project_of(namespace).folder / "migrations"
    shutil.copy(ROOT / "migrations" / "script.py.mako", migrations)
    if to:
        alembic.command.upgrade(configuration(place, namespace), to)
    return namespace


def upgraded(place: Place, namespace: Namespace, **parameters: object) -> list[str]:
    """Run `upgrade`, as the guide says to, and return where the database is then."""
    go(upgrade, namespace, **{"backup": "never", **parameters})
    return at(place.database)


def refused(module: Any, namespace: Namespace, **parameters: object) -> str:
    """Return the sentence with which a runbook stops."""
    with pytest.raises(PlaybookError) as caught:
        go(module, namespace, **parameters)
    return str(caught.value)


def configuration(place: Place, namespace: Namespace) -> Config:
    """Return what plain Alembic takes to work on the same database."""
    config = Config(namespace["alembic_ini"], stdout=io.StringIO())
    config.set_main_option("sqlalchemy.url", place.database.sqlalchemy_url().replace("%", "%%"))
    return config


def url_of(target: Target) -> str:
    """Return a database's URL, which holds no password."""
    keys = ("host", "port", "user", "dbname")
    pairs = (f"{key}={quote(target.conninfo[key], safe='')}" for key in keys)
    return f"postgresql:///?{'&'.join(pairs)}"


def preflight(namespace: Namespace) -> str:
    """Return what `status` finds in the way."""
    checks = go(status, namespace, before="read_runs").require("preflight", Checks)
    return "\n".join(f"{one.severity} {one.code}: {one.detail}" for one in checks.findings)


# ---- Parameters and targets ----------------------------------------------------------------------


def unknown_parameter(place: Place) -> Generator[str, None, None]:
    namespace = prepared(place, {"a1": TABLE, "b2": SECOND})
    yield refused(upgrade, namespace, In=["", "# Parameters\ntagret = 'b2'\n"], tagret="b2")

    assert upgraded(place, namespace, In=["", "# Parameters\ntarget = 'b2'\n"], target="b2") == [
        "b2"
    ]


def number_for_text(place: Place) -> Generator[str, None, None]:
    namespace = prepared(place, {"0001": TABLE, "0002": SECOND}, "0001")
    yield refused(upgrade, namespace, target=2)

    assert upgraded(place, namespace, target="0002") == ["0002"]


def variable_not_set(place: Place) -> Generator[str, None, None]:
    production = "[playbook:production]\nurl = env:DATABASE_URL\n"
    project = project_of(prepared(place, {"a1": TABLE}))
    with project.ini.open("a", encoding="utf-8") as file:
        file.write(production)
    namespace = {"database": "production", "alembic_ini": str(project.ini)}
    yield refused(status, namespace)

    place.monkeypatch.setenv("DATABASE_URL", url_of(place.database))
    assert go(status, namespace).outcome == "succeeded"


def password_in_a_parameter(place: Place) -> Generator[str, None, None]:
    namespace = prepared(place, {"a1": TABLE}, to="")
    url = url_of(place.database).replace("///?", "///?password=swordfish&")
    yield refused(status, namespace, database=url)

    place.monkeypatch.setenv("APP_URL", url)
    assert go(status, namespace, database="env:APP_URL").outcome == "succeeded"


def no_such_database(place: Place) -> Generator[str, None, None]:
    namespace = prepared(place, {"a1": TABLE}, to="")
    gone = place.database.with_conninfo(dbname=f"{place.database.database}_app")
    yield refused(status, namespace, database=url_of(gone))

    name = sql_text.Identifier(gone.database)
    with connect(place.database) as connection, connection.cursor() as cursor:
        cursor.execute(sql_text.SQL("CREATE DATABASE {}").format(name))
        try:
            assert go(status, namespace, database=url_of(gone)).outcome == "succeeded"
        finally:
            cursor.execute(sql_text.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def protected(place: Place) -> Generator[str, None, None]:
    namespace = prepared(place, {"a1": TABLE, "b2": SECOND}) | {"database": "guarded"}
    yield refused(upgrade, namespace)

    assert upgraded(place, namespace, backup="auto", confirm=place.database.database) == ["b2"]


def other_database(place: Place) -> Generator[str, None, None]:
    elsewhere = place.database.with_conninfo(dbname="postgres").sqlalchemy_url()
    namespace = prepared(place, {"a1": TABLE}, to="", url=repr(elsewhere))
    yield refused(upgrade, namespace)

    env = project_of(namespace).folder / "migrations" / "env.py"
    right = env.read_text().replace(repr(elsewhere), 'config.get_main_option("sqlalchemy.url")')
    env.write_text(right)
    assert upgraded(place, namespace) == ["a1"]


def missing_module(place: Place) -> Generator[str, None, None]:
    namespace = prepared(place, {"a1": TABLE}, to="", before="import its_own_settings")
    yield refused(status, namespace)

    # An environment that has the module, as `python = ...` names one.
    project = project_of(namespace)
    (project.folder / "site").mkdir()
    (project.folder / "site" / "its_own_settings.py").write_text("")
    python = project.folder / "python"
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH="{project.folder}/site" exec "{sys.executable}" "$@"\n'
    )
    python.chmod(0o755)
    text = project.ini.read_text().replace("[playbook]\n", f"[playbook]\npython = {python}\n")
    project.ini.write_text(text)
    assert go(status, namespace).outcome == "succeeded"


# ---- The version table and the revision files ----------------------------------------------------


def cannot_locate(place: Place) -> Generator[str, None, None]:
    namespace = prepared(place, {"a1": TABLE, "b2": SECOND}, to="head")
    file = project_of(namespace).revision_file("b2")
    text = file.read_text()
    file.unlink()
    with pytest.raises(CommandError) as caught:
        alembic.command.upgrade(configuration(place, namespace), "head")
    yield f"{caught.value}\n{refused(upgrade, namespace)}"

    file.write_text(text)
    assert go(upgrade, namespace).outcome == "succeeded"


def several_heads(place: Place) -> Generator[str, None, None]:
    namespace = prepared(place, {"a1": TABLE, "b2": SECOND, "c3": Script(down="a1")})
    config = configuration(place, namespace)
    with pytest.raises(CommandError) as caught:
        alembic.command.upgrade(config, "head")
    yield f"{caught.value}\n{refused(upgrade, namespace)}"

    go(upgrade, namespace, target="heads")
    assert sorted(at(place.database)) == ["b2", "c3"]
    alembic.command.merge(config, "heads", message="merge", rev_id="d4")
    assert upgraded(place, namespace) == ["d4"]


def tables_without_a_version(place: Place) -> Generator[str, None, None]:
    namespace = prepared(place, {"a1": TABLE, "b2": SECOND}, to="")
    place.sql("CREATE TABLE a (id int PRIMARY KEY)")
    yield f"{refused(init, namespace)}\n{refused(upgrade, namespace)}"

    alembic.command.stamp(configuration(place, namespace), "a1")
    assert upgraded(place, namespace) == ["b2"]


def not_up_to_date(place: Place) -> Generator[str, None, None]:
    namespace = prepared(place, {"a1": TABLE, "b2": SECOND}, settings="target_metadata=None")
    config = configuration(place, namespace)
    with pytest.raises(CommandError) as caught:
        alembic.command.revision(config, "add tags", autogenerate=True)
    yield str(caught.value)

    go(upgrade, namespace)
    alembic.command.revision(config, "add tags", rev_id="c3")
    assert go(status, namespace, before="check_preflight").graph.heads == ("c3",)


def edited_file(place: Place) -> Generator[str, None, None]:
    namespace = place.small({"a1": TABLE, "b2": SECOND}, to="head")
    file = project_of(namespace).revision_file("b2")
    text = file.read_text()
    file.write_text(f"{text}\n# one more thought\n")
    yield "\n".join(go(status, namespace).next_steps)

    file.write_text(text)
    assert "edited" not in "\n".join(go(status, namespace).next_steps)


# ---- What stops an upgrade before it begins ------------------------------------------------------


def long_lock(place: Place) -> Generator[str, None, None]:
    plain = Script(execute("CREATE INDEX a_n ON a (n)"), execute("DROP INDEX a_n"))
    namespace = prepared(place, {"a1": Script(execute("CREATE TABLE a (n int)")), "b2": plain})
    place.sql("INSERT INTO a SELECT generate_series(1, 100)", "ANALYZE a")
    place.sql(f"UPDATE pg_class SET reltuples = {VAST} WHERE relname = 'a'")
    yield refused(upgrade, namespace)

    project_of(namespace).write("b2", Script(CONCURRENTLY, plain.downgrade, "a1"))
    assert upgraded(place, namespace) == ["b2"]


def rows_break_it(place: Place) -> Generator[str, None, None]:
    unique = Script(execute("ALTER TABLE a ADD CONSTRAINT a_n UNIQUE (n)"))
    namespace = prepared(place, {"a1": Script(execute("CREATE TABLE a (n int)")), "b2": unique})
    place.sql("INSERT INTO a VALUES (1), (1), (2)")
    yield refused(upgrade, namespace)

    place.sql("DELETE FROM a WHERE ctid = (SELECT max(ctid) FROM a WHERE n = 1)")
    assert upgraded(place, namespace) == ["b2"]


def concurrently_in_a_transaction(place: Place) -> Generator[str, None, None]:
    wrong = Script(execute("CREATE INDEX CONCURRENTLY a_n ON a (n)"))
    namespace = prepared(place, {"a1": Script(execute("CREATE TABLE a (n int)")), "b2": wrong})
    with pytest.raises(Exception, match="CONCURRENTLY") as caught:
        alembic.command.upgrade(configuration(place, namespace), "head")
    yield f"{caught.value}\n{refused(upgrade, namespace)}"

    project_of(namespace).write("b2", Script(CONCURRENTLY, "pass", "a1"))
    assert upgraded(place, namespace) == ["b2"]


def missing_privilege(place: Place) -> Generator[str, None, None]:
    column = Script(execute("ALTER TABLE a ADD COLUMN x int"))
    namespace = prepared(place, {"a1": TABLE, "b2": column})
    role = place.database.database
    place.sql(
        f"CREATE ROLE {role} LOGIN",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON alembic_version TO {role}",
    )
    try:
        weak = namespace | {"database": url_of(place.database.with_conninfo(user=role))}
        yield refused(upgrade, weak)

        place.sql(f"ALTER TABLE a OWNER TO {role}")
        assert upgraded(place, weak) == ["b2"]
    finally:
        place.sql(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def other_run(place: Place) -> Generator[str, None, None]:
    namespace = prepared(place, {"a1": TABLE, "b2": SECOND})
    with advisory_lock(place.database):
        said = refused(upgrade, namespace)
    yield said

    assert upgraded(place, namespace) == ["b2"]


# ---- A revision fails ----------------------------------------------------------------------------


@contextmanager
def reader(place: Place, table: str) -> Iterator[int]:
    """Hold a table open in a transaction of the application's; yields its session's pid."""
    app = place.database.with_conninfo(application_name="report")
    with connect(app, autocommit=False) as connection:
        fetch(connection, f"SELECT FROM {table}")  # type: ignore[arg-type]
        yield connection.info.backend_pid


def lock_not_granted(place: Place) -> Generator[str, None, None]:
    column = Script(execute("ALTER TABLE a ADD COLUMN x int"))
    namespace = prepared(place, {"a1": TABLE, "b2": column})
    with reader(place, "a") as pid:
        said = refused(upgrade, namespace, give_up_after="1s")
        assert f"pid {pid}" in said
        yield said
        with contextlib.suppress(PlaybookError):  # the session that is ended finds out at its end
            place.sql(f"SELECT pg_terminate_backend({pid})")
        assert upgraded(place, namespace) == ["b2"]


def name_is_taken(place: Place) -> Generator[str, None, None]:
    namespace = prepared(place, {"a1": TABLE, "b2": SECOND})
    place.sql("CREATE TABLE b (made_by text)")
    yield refused(upgrade, namespace)

    place.sql("DROP TABLE b")
    assert upgraded(place, namespace) == ["b2"]


def new_enum_value(place: Place) -> Generator[str, None, None]:
    base = Script(execute("CREATE TYPE mood AS ENUM ('ok')", "CREATE TABLE a (m mood)"))
    add, use = "ALTER TYPE mood ADD VALUE 'sad'", "INSERT INTO a VALUES ('sad')"
    namespace = prepared(place, {"a1": base, "b2": Script(execute(add, use))})
    yield refused(upgrade, namespace)

    body = f"with op.get_context().autocommit_block():\n    op.execute({add!r})"
    project_of(namespace).write("b2", Script(body, "pass", "a1"))
    project_of(namespace).write("c3", Script(execute(use), "pass", "b2"))
    go(upgrade, namespace)
    assert place.value("SELECT m::text FROM a") == "sad"


def half_applied(place: Place) -> Generator[str, None, None]:
    # The duplicates come when the preflight has counted none: as on a busy table.
    base = Script(execute("CREATE TABLE a (n int)"))
    body = (
        "op.execute('INSERT INTO a VALUES (1), (1)')\n"
        "with op.get_context().autocommit_block():\n"
        "    op.execute('CREATE UNIQUE INDEX CONCURRENTLY a_n ON a (n)')"
    )
    namespace = prepared(place, {"a1": base, "b2": Script(body, execute("DROP INDEX a_n"))})
    said = refused(upgrade, namespace)
    assert "WARN invalid-indexes" in preflight(namespace)
    yield said

    place.sql("DROP INDEX CONCURRENTLY a_n", "DELETE FROM a")
    fixed = body.replace("(1), (1)", "(1), (2)")
    project_of(namespace).write("b2", Script(fixed, execute("DROP INDEX a_n"), "a1"))
    assert upgraded(place, namespace) == ["b2"]


def killed_run(place: Place) -> Generator[str, None, None]:
    namespace = place.small({"a1": TABLE, "b2": SECOND})
    # What a run leaves that is killed in its second revision: a receipt that says `running`, of a
    # process that is gone. tests/faults kills real ones.
    (path,) = project_of(namespace).folder.glob("runs/*/receipt.json")
    record = json.loads(path.read_text())
    killed = {"outcome": "running", "pid": 2**22 + 1, "under_way": "b2", "goal": ["b2"],
              "direction": "upgrade"}  # fmt: skip
    path.write_text(json.dumps(record | killed))
    place.sql("DROP SCHEMA playbook CASCADE")
    yield preflight(namespace)

    assert upgraded(place, namespace) == ["b2"]
    assert "interrupted" not in preflight(namespace)


# ---- After an upgrade, and on the way back -------------------------------------------------------


def undeclared_change(place: Place) -> Generator[str, None, None]:
    body = "DO $$ BEGIN UPDATE a SET n = 2; END $$"
    base = Script(execute("CREATE TABLE a (n int)"), execute("DROP TABLE a"))
    namespace = prepared(place, {"a1": base, "b2": Script(execute(body))})
    place.sql("INSERT INTO a VALUES (1)")
    said = refused(upgrade, namespace)
    yield said

    go(rollback, namespace, target="a1")
    file = project_of(namespace).revision_file("b2")
    file.write_text(f"# playbook: changes a.n because it counts anew\n{file.read_text()}")
    place.sql("UPDATE a SET n = 1")
    assert upgraded(place, namespace) == ["b2"]


def failed_data_check(place: Place) -> Generator[str, None, None]:
    namespace = prepared(place, {"a1": Script(execute("CREATE TABLE a (n int)")), "b2": SECOND})
    project_of(namespace).write_check("b2", "-- name: no_negative_n\nSELECT n FROM a WHERE n < 0;")
    place.sql("INSERT INTO a VALUES (-1)")
    yield refused(upgrade, namespace)

    place.sql("UPDATE a SET n = 1")
    assert go(verify, namespace).outcome == "succeeded"


def no_downgrade(place: Place) -> Generator[str, None, None]:
    namespace = prepared(place, {"a1": TABLE, "b2": Script(SECOND.upgrade, None)}, to="head")
    yield refused(rollback, namespace)

    project_of(namespace).write("b2", Script(SECOND.upgrade, SECOND.downgrade, "a1"))
    go(rollback, namespace)
    assert at(place.database) == ["a1"]


def written_meanwhile(place: Place) -> Generator[str, None, None]:
    namespace = prepared(place, {"a1": TABLE, "b2": SECOND}, to="head")
    write = {"run_rollback": lambda: place.sql("INSERT INTO b VALUES (7)")}
    yield refused(rollback, namespace, meanwhile=write)

    go(rollback, namespace)
    assert at(place.database) == ["a1"]
    (saved,) = project_of(namespace).folder.glob("runs/*/salvage/public.b.csv")
    assert saved.read_text() == "id\n7\n"


def no_backup(place: Place) -> Generator[str, None, None]:
    namespace = prepared(place, {"a1": TABLE})
    yield refused(restore, namespace)

    go(backup, namespace)
    name = f"{place.database.database}_restored"
    go(restore, namespace, into=name)
    with connect(place.database) as connection, connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


TROUBLES: tuple[Provocation, ...] = (
    unknown_parameter,
    number_for_text,
    variable_not_set,
    password_in_a_parameter,
    no_such_database,
    protected,
    other_database,
    missing_module,
    cannot_locate,
    several_heads,
    tables_without_a_version,
    not_up_to_date,
    edited_file,
    long_lock,
    rows_break_it,
    concurrently_in_a_transaction,
    missing_privilege,
    other_run,
    lock_not_granted,
    name_is_taken,
    new_enum_value,
    half_applied,
    killed_run,
    undeclared_change,
    failed_data_check,
    no_downgrade,
    written_meanwhile,
    no_backup,
)


def anchor_of(provocation: Provocation) -> str:
    """Return the anchor of the guide's section on a trouble."""
    return provocation.__name__.replace("_", "-")
