"""A rollback loses nothing that its salvage does not bring back, and says what it costs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders import OWN_PATH, SECOND, TABLE, Project, Script, execute
from playbook import rollback, upgrade, ways_back
from playbook.batches import in_batches
from playbook.database import connect, fetch, fetch_value
from playbook.errors import MigrationFailed, SettingsError
from playbook.journal import Run
from playbook.records import (
    Checks,
    ColumnFact,
    Loss,
    LossItem,
    Salvage,
    Severity,
    WaysBack,
)
from playbook.snapshot import take_snapshot
from playbook.statements import parse_statement
from playbook.targets import PROJECT_INI, Target
from steps import Namespace, at, go, picture, run_sql, runs

Small = Callable[..., Namespace]
COLUMN = Script(
    execute("ALTER TABLE a ADD COLUMN note text"), execute("ALTER TABLE a DROP COLUMN note")
)


def loaded(target: Target, folder: Path, run_psql: Callable[..., Any]) -> None:
    """Run a salvage's load.sql, as its first line tells to."""
    text = (folder / "load.sql").read_text()
    done = run_psql(target, f"\\cd '{folder}'\n{text}")
    assert done.returncode == 0, done.stderr


def salvage_of(namespace: Namespace) -> Path:
    return (
        Path(namespace["alembic_ini"]).parent / "runs" / runs(namespace)[-1]["run_id"] / "salvage"
    )


def test_what_the_application_wrote_is_back_after_rollback_upgrade_and_load(
    legacy_database: Target, staging: Callable[..., Project], run_psql: Callable[..., Any]
) -> None:
    project = staging({})
    project.ini.write_text(PROJECT_INI.read_text().replace("%(here)s", str(PROJECT_INI.parent)))
    namespace = {
        "database": f"sandbox:{legacy_database.database}",
        "alembic_ini": str(project.ini),
    }
    go(upgrade, namespace)
    run_sql(
        legacy_database,
        "UPDATE users SET email = 'real' || id || '@example.org', is_verified = true "
        "WHERE id % 3 = 0",
        "INSERT INTO rag_corpora (user_id, name, embedding_model, embedding_dimensions) "
        "SELECT user_id, 'faq, with \"quotes\"', 'm', 3 FROM users WHERE id IN (3, 4)",
        "INSERT INTO rag_documents (corpus_id, title, source_uri, content, content_sha256) "
        "SELECT id, 't', nullif(n, 3)::text, E'two\\nlines', lpad(to_hex(n), 64, '0') "
        "FROM rag_corpora, generate_series(1, 20) AS n",
    )
    before = take_snapshot(legacy_database, ()).tables

    go(rollback, namespace, target="000_baseline")
    folder = salvage_of(namespace)
    go(upgrade, namespace)
    assert take_snapshot(legacy_database, ()).tables != before
    loaded(legacy_database, folder, run_psql)

    assert take_snapshot(legacy_database, ()).tables == before
    run_sql(
        legacy_database,
        "INSERT INTO rag_corpora (user_id, name, embedding_model, embedding_dimensions) "
        "SELECT user_id, 'its id follows those that came back', 'm', 3 FROM users WHERE id = 1",
    )


def test_loss_tells_rows_values_and_what_came_since_the_upgrade(
    small: Small, fresh_database: Target
) -> None:
    filled = Script(
        SECOND.upgrade
        + "\n"
        + execute("ALTER TABLE b ADD COLUMN x text", "INSERT INTO b VALUES (1), (2)"),
        SECOND.downgrade,
    )
    namespace = small({"a1": TABLE, "b2": filled, "c3": COLUMN}, to="head")
    run_sql(
        fresh_database,
        "INSERT INTO b VALUES (3, 'new')",
        "INSERT INTO a VALUES (1, 'note'), (2, NULL)",
    )

    run: Run[Any] = go(rollback, namespace, before="write_salvage", target="a1")

    loss = run.require("loss", Loss)
    assert loss.items == (
        LossItem("public.b", "", 3, (("id", 3), ("x", 1)), 1),
        LossItem("public.a", "note", 1, (), 1),
    )
    ways = run.require("ways", WaysBack)
    assert ways.advised == "fix forward"
    assert "2 rows or values came since the upgrade" in ways.reason
    assert [way.way for way in ways.ways] == ["downgrade", "restore", "fix forward"]
    assert "3 rows in 1 table and 1 value in 1 column, 2 of them" in ways.ways[0].loses


def test_downgrade_is_advised_where_all_was_made_by_the_upgrade(
    small: Small, fresh_database: Target
) -> None:
    filled = Script(
        SECOND.upgrade + "\n" + execute("INSERT INTO b VALUES (1), (2)"), SECOND.downgrade
    )
    namespace = small({"a1": TABLE, "b2": filled}, to="head")

    first: Run[Any] = go(rollback, namespace, before="write_salvage")
    assert first.require("ways", WaysBack).advised == "downgrade"
    assert first.require("loss", Loss).items[0].written_since == 0

    go(rollback, namespace)
    go(upgrade, namespace)
    again: Run[Any] = go(rollback, namespace, before="write_salvage")
    assert "when last done here" in again.require("ways", WaysBack).ways[0].takes


def test_restore_is_priced_by_the_backup_at_the_place_that_the_plan_leads_to(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": COLUMN})
    run_sql(fresh_database, "INSERT INTO a VALUES (1), (2)")
    go(upgrade, namespace)
    run_sql(fresh_database, "INSERT INTO a VALUES (3, 'x'), (4, 'y'), (5, NULL)")

    run: Run[Any] = go(rollback, namespace, before="write_salvage")

    restore = run.require("ways", WaysBack).ways[1]
    assert "(3 rows since the upgrade)" in restore.loses
    assert Path(runs(namespace)[-1]["backup"]).name in restore.takes


def test_upgrade_that_the_playbook_did_not_run_has_an_unknown_price(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": COLUMN}, to="")
    run_sql(
        fresh_database,
        "CREATE TABLE a (id int PRIMARY KEY, note text)",
        "INSERT INTO a VALUES (1, 'x')",
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('b2')",
    )

    run: Run[Any] = go(rollback, namespace, before="write_salvage")

    assert run.require("loss", Loss).items == (LossItem("public.a", "note", 1, (), -1),)
    ways = run.require("ways", WaysBack)
    assert ways.advised == "fix forward"
    assert "not known" in ways.reason
    assert ways.ways[1].loses == "not possible: no backup at a1 is known"


def test_rows_are_not_counted_for_longer_than_the_limit(
    small: Small, fresh_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = small({"a1": TABLE, "b2": COLUMN}, to="head")
    run_sql(fresh_database, "INSERT INTO a SELECT n, 'x' FROM generate_series(1, 200000) AS n")
    monkeypatch.setattr(ways_back, "COUNT_LIMIT", "1ms")

    run: Run[Any] = go(rollback, namespace, before="write_salvage")

    assert "since the upgrade" not in run.require("ways", WaysBack).ways[1].loses


def test_values_written_after_the_salvage_are_saved_by_the_downgrade_itself(
    small: Small, fresh_database: Target, run_psql: Callable[..., Any]
) -> None:
    namespace = small({"a1": TABLE, "b2": COLUMN}, to="head")
    run_sql(fresh_database, "INSERT INTO a VALUES (1, 'old'), (2, 'stays'), (3, 'to be null')")

    def write() -> None:
        run_sql(
            fresh_database,
            "UPDATE a SET note = E'new, \"quoted\"\\n' WHERE id = 1",
            "UPDATE a SET note = NULL WHERE id = 3",
            "INSERT INTO a VALUES (4, '')",
        )

    go(rollback, namespace, meanwhile={"run_rollback": write})
    folder = salvage_of(namespace)
    go(upgrade, namespace)
    loaded(fresh_database, folder, run_psql)

    with connect(fresh_database) as connection:
        assert fetch(connection, "SELECT id, note FROM a ORDER BY id") == [
            (1, 'new, "quoted"\n'), (2, "stays"), (3, None), (4, ""),
        ]  # fmt: skip
    events = [e["what"] for e in runs(namespace)[-2]["events"]]
    assert "rows that came after the salvage were added to it" in events


def test_first_row_of_an_empty_table_that_comes_late_stops_the_downgrade(
    small: Small, fresh_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND}, to="head")
    real = rollback.salvage.late_rows

    def late_rows(*arguments: Any, **options: Any) -> Any:  # after all that could have seen the row
        found = real(*arguments, **options)
        run_sql(fresh_database, "INSERT INTO b VALUES (1)")
        return found

    monkeypatch.setattr(rollback.salvage, "late_rows", late_rows)
    with pytest.raises(MigrationFailed, match="1 rows of public.b were written after"):
        go(rollback, namespace)

    assert at(fresh_database) == ["b2"]
    with connect(fresh_database) as connection:
        assert fetch_value(connection, "SELECT count(*) FROM b") == 1


def test_late_row_of_a_table_without_a_key_stops_the_downgrade(
    small: Small, fresh_database: Target
) -> None:
    keyless = Script(execute("CREATE TABLE a (id int)"), execute("DROP TABLE a"))
    namespace = small({"a1": keyless, "b2": COLUMN}, to="head")
    run_sql(fresh_database, "INSERT INTO a VALUES (1, 'one')")

    def write() -> None:
        run_sql(fresh_database, "UPDATE a SET note = 'two'")

    with pytest.raises(MigrationFailed, match="1 rows of public.a were written after"):
        go(rollback, namespace, meanwhile={"run_rollback": write})

    assert at(fresh_database) == ["b2"]
    with connect(fresh_database) as connection:
        assert fetch(connection, "SELECT id, note FROM a") == [(1, "two")]


def test_manifest_tells_the_hash_of_a_file_with_its_late_rows(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": COLUMN}, to="head")
    run_sql(fresh_database, "INSERT INTO a VALUES (1, 'old')")
    with rollback.open_run(namespace) as run:
        for step in ("plan_rollback", "check_preflight", "find_loss", "weigh_ways",
                     "write_salvage", "take_backup", "take_before_snapshot"):  # fmt: skip
            getattr(rollback, step)(run)
        first = run.require("salvage", Salvage).files[0]
        run_sql(fresh_database, "UPDATE a SET note = 'new'")
        rollback.run_rollback(run)
        second = run.require("salvage", Salvage).files[0]

    assert first.sha256 != second.sha256
    assert second.path.read_text() == 'id,note\n1,old\n"1","new"\n'
    assert second.sha256 in (second.path.parent / "salvage.json").read_text()


@pytest.mark.parametrize(
    "body", ["raise NotImplementedError('no way back')", "raise RuntimeError('no way back')"]
)
def test_downgrade_that_raises_is_refused_before_anything_is_run(
    small: Small, fresh_database: Target, body: str
) -> None:
    namespace = small({"a1": TABLE, "b2": Script(SECOND.upgrade, body)}, to="head")
    before = picture(fresh_database)

    with pytest.raises(MigrationFailed) as caught:
        go(rollback, namespace)

    assert "The downgrade of b2 cannot be planned: " in str(caught.value)
    assert "Error: no way back. Nothing was changed." in str(caught.value)
    assert picture(fresh_database) == before


def test_downgrade_that_does_nothing_is_named(small: Small) -> None:
    namespace = small({"a1": TABLE, "b2": Script(SECOND.upgrade, "pass")}, to="head")

    run: Run[Any] = go(rollback, namespace, before="find_loss")

    (finding,) = [f for f in run.require("preflight", Checks).findings
                  if f.code == "empty-downgrade"]  # fmt: skip
    assert (finding.severity, finding.subject) == (Severity.WARN, "b2")


def value_of(target: Target, query: str) -> Any:
    with connect(target) as connection:
        return fetch_value(connection, query)  # type: ignore[arg-type]


SECOND_COLUMN = Script(
    execute("ALTER TABLE a ADD COLUMN y int"), execute("ALTER TABLE a DROP COLUMN y")
)
RENAMED = Script(
    execute("ALTER TABLE a RENAME COLUMN note TO remark", "ALTER TABLE a RENAME TO gone"),
    execute("ALTER TABLE gone RENAME TO a", "ALTER TABLE a RENAME COLUMN remark TO note"),
)


@pytest.mark.parametrize("later", [SECOND_COLUMN, RENAMED], ids=["column", "renamed"])
@pytest.mark.parametrize("target", ["a1", "base"])
def test_several_revisions_that_touch_one_table_are_undone_and_loaded_back(
    small: Small, fresh_database: Target, run_psql: Callable[..., Any], later: Script, target: str
) -> None:
    namespace = small({"a1": TABLE, "b2": COLUMN, "c3": later}, to="head")
    table, rest = ("gone", "") if later is RENAMED else ("a", ", 5")
    run_sql(
        fresh_database, f"INSERT INTO {table} SELECT n, 'x' || n{rest} FROM generate_series(1, 3) n"
    )

    def write() -> None:
        run_sql(fresh_database, f"UPDATE {table} SET {'remark' if not rest else 'note'} = 'late'")

    meanwhile = {"run_rollback": write} if target == "a1" else {}
    assert go(rollback, namespace, target=target, meanwhile=meanwhile).outcome == "succeeded"
    folder = salvage_of(namespace)
    go(upgrade, namespace)
    loaded(fresh_database, folder, run_psql)

    column = "remark" if later is RENAMED else "note || y"
    found = value_of(fresh_database, f"SELECT string_agg({column}, ' ' ORDER BY id) FROM {table}")
    each = "late" if meanwhile else "x{}"
    tail = "" if later is RENAMED else "5"
    assert found == " ".join(each.format(n) + tail for n in (1, 2, 3))


EMPTY = "UPDATE a SET note = NULL WHERE note IS NOT NULL"
FILL = "UPDATE a SET note = 'filled' WHERE note IS NULL"
BATCHES = in_batches(parse_statement(EMPTY), (ColumnFact("id", "integer", True, True),))
KEYLESS = Script(execute("CREATE TABLE a (id int)"), execute("DROP TABLE a"))
FILLS = {
    "by key": (
        TABLE,
        Script(
            execute(FILL),
            f"with op.get_context().autocommit_block():\n    op.execute({BATCHES!r})",
        ),
    ),
    "without a key": (KEYLESS, Script(execute(FILL), execute(EMPTY))),
}
WRITE_MEANWHILE = """
    import psycopg2
    other = psycopg2.connect(op.get_bind().connection.driver_connection.dsn)
    with other, other.cursor() as cursor:
        cursor.execute("UPDATE a SET note = 'between' WHERE id = 2")
    other.close()
"""


@pytest.mark.parametrize("how", FILLS)
@pytest.mark.parametrize("target", ["a1", "base"])
def test_what_a_fill_gave_and_the_application_changed_comes_back_from_the_salvage(
    small: Small, fresh_database: Target, run_psql: Callable[..., Any], how: str, target: str
) -> None:
    table, fill = FILLS[how]
    namespace = small({"a1": table, "b2": COLUMN, "c3": fill})
    run_sql(fresh_database, "INSERT INTO a SELECT generate_series(1, 3)")
    go(upgrade, namespace)
    run_sql(fresh_database, "UPDATE a SET note = 'paid' WHERE id = 2")

    assert go(rollback, namespace, target=target).outcome == "succeeded"
    folder = salvage_of(namespace)
    go(upgrade, namespace)
    loaded(fresh_database, folder, run_psql)

    with connect(fresh_database) as connection:
        assert fetch(connection, "SELECT id, note FROM a ORDER BY id") == [
            (1, "filled"), (2, "paid"), (3, "filled"),
        ]  # fmt: skip


def test_what_comes_before_and_after_a_fill_is_undone_is_saved_too(
    small: Small, fresh_database: Target, run_psql: Callable[..., Any]
) -> None:
    table, fill = FILLS["by key"]
    between = Script("pass", WRITE_MEANWHILE)
    namespace = small({"a1": table, "b2": COLUMN, "b3": between, "c3": fill})
    run_sql(fresh_database, "INSERT INTO a SELECT generate_series(1, 3)")
    go(upgrade, namespace)

    def write() -> None:
        run_sql(fresh_database, "UPDATE a SET note = 'late' WHERE id = 1")

    go(rollback, namespace, target="a1", meanwhile={"run_rollback": write})
    folder = salvage_of(namespace)
    go(upgrade, namespace)
    loaded(fresh_database, folder, run_psql)

    with connect(fresh_database) as connection:
        assert fetch(connection, "SELECT id, note FROM a ORDER BY id") == [
            (1, "late"), (2, "between"), (3, "filled"),
        ]  # fmt: skip


def test_a_late_row_without_a_key_stops_the_rollback_before_its_fill_is_undone(
    small: Small, fresh_database: Target
) -> None:
    table, fill = FILLS["without a key"]
    namespace = small({"a1": table, "b2": COLUMN, "c3": fill})
    run_sql(fresh_database, "INSERT INTO a VALUES (1), (2)")
    go(upgrade, namespace)

    def write() -> None:
        run_sql(fresh_database, "UPDATE a SET note = 'paid' WHERE id = 1")

    with pytest.raises(MigrationFailed, match="1 rows of public.a were written after"):
        go(rollback, namespace, target="a1", meanwhile={"run_rollback": write})

    assert at(fresh_database) == ["c3"]
    assert value_of(fresh_database, "SELECT string_agg(note, ' ' ORDER BY id) FROM a") == (
        "paid filled"
    )
    assert go(rollback, namespace, target="a1").outcome == "succeeded"


def test_a_row_without_a_key_that_is_written_after_its_fill_was_undone_stops_the_rollback(
    small: Small, fresh_database: Target
) -> None:
    table, fill = FILLS["without a key"]
    between = Script("pass", WRITE_MEANWHILE)
    namespace = small({"a1": table, "b2": COLUMN, "b3": between, "c3": fill})
    run_sql(fresh_database, "INSERT INTO a VALUES (1), (2)")
    go(upgrade, namespace)

    with pytest.raises(MigrationFailed, match="1 rows of public.a were written after"):
        go(rollback, namespace, target="a1")

    assert at(fresh_database) == ["b2"]
    assert value_of(fresh_database, "SELECT string_agg(note, ' ') FROM a") == "between"


def test_table_outside_the_schema_public_is_found_along_the_search_path(
    small: Small, fresh_database: Target
) -> None:
    name = fresh_database.database
    run_sql(fresh_database, "CREATE SCHEMA app", f"ALTER DATABASE {name} SET search_path = app")
    namespace = small({"a1": TABLE, "b2": SECOND}, to="head")
    run_sql(fresh_database, "INSERT INTO b VALUES (1)")

    run: Run[Any] = go(rollback, namespace, before="write_salvage")

    assert run.require("loss", Loss).items == (LossItem("app.b", "", 1, (("id", 1),), 1),)


def test_dropped_partition_and_dropped_schema_are_salvaged(
    small: Small, fresh_database: Target, run_psql: Callable[..., Any]
) -> None:
    parted = Script(
        execute("CREATE TABLE p (id int PRIMARY KEY, x text) PARTITION BY RANGE (id)",
                "CREATE SCHEMA s CREATE TABLE t (id int PRIMARY KEY, v text)"),
        execute("DROP TABLE p", "DROP SCHEMA s CASCADE"),
    )  # fmt: skip
    part = Script(
        execute("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)"),
        execute("DROP TABLE p1"),
    )
    namespace = small({"a1": parted, "b2": part}, to="head")
    run_sql(
        fresh_database, "INSERT INTO p VALUES (1, 'one')", "INSERT INTO s.t VALUES (7, 'seven')"
    )

    go(rollback, namespace)
    folder = salvage_of(namespace)
    go(upgrade, namespace)
    loaded(fresh_database, folder, run_psql)
    assert value_of(fresh_database, "SELECT x FROM p") == "one"

    go(rollback, namespace, target="base")
    folder = salvage_of(namespace)
    go(upgrade, namespace)
    loaded(fresh_database, folder, run_psql)
    assert value_of(fresh_database, "SELECT x || (SELECT v FROM s.t) FROM p") == "oneseven"


@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE a (id int PRIMARY KEY DEFERRABLE, v text)",
        "CREATE TABLE a (id int, v text, PRIMARY KEY (id) INCLUDE (v))",
        'CREATE TABLE a (id int PRIMARY KEY, v text, "50%" text)',
    ],
)
def test_keys_of_every_kind_are_loaded_back_and_triggers_rest_meanwhile(
    small: Small, fresh_database: Target, run_psql: Callable[..., Any], table: str
) -> None:
    made = Script(
        execute(
            table,
            "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN NEW.v = 'stamped'; RETURN NEW; END $$",
            "CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON a FOR EACH ROW "
            "EXECUTE FUNCTION stamp()",
        ),
        execute("DROP TABLE a", "DROP FUNCTION stamp"),
    )
    namespace = small({"a1": made}, to="head")
    run_sql(
        fresh_database,
        "ALTER TABLE a DISABLE TRIGGER stamp",
        "INSERT INTO a (id, v) VALUES (1, 'mine')",
        "ALTER TABLE a ENABLE TRIGGER stamp",
    )

    go(rollback, namespace, target="base")
    folder = salvage_of(namespace)
    go(upgrade, namespace)
    loaded(fresh_database, folder, run_psql)
    loaded(fresh_database, folder, run_psql)

    assert value_of(fresh_database, "SELECT string_agg(v, ',') FROM a") == "mine"
    enabled = "SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'stamp'"
    assert value_of(fresh_database, enabled) == "O"


def test_what_the_sql_does_not_tell_is_named_and_nothing_is_claimed(small: Small) -> None:
    namespace = small({"a1": TABLE, "b2": Script("pass", execute("DELETE FROM a"))}, to="head")

    run: Run[Any] = go(rollback, namespace, before="take_backup")

    assert run.require("loss", Loss).untold == ("b2: DELETE removes rows",)
    assert "in the backup only" in str(run.require("salvage", object))


def test_rollback_to_where_the_database_is_has_nothing_to_do(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": COLUMN}, to="head")

    assert go(rollback, namespace, target="b2").unchanged == ("everything",)
    assert at(fresh_database) == ["b2"]


def test_what_the_same_run_wrote_later_is_the_upgrades_own(
    small: Small, fresh_database: Target
) -> None:
    fills = Script(execute("UPDATE a SET note = 'filled'"))
    namespace = small({"a1": TABLE, "b2": COLUMN, "c3": fills})
    run_sql(fresh_database, "INSERT INTO a VALUES (1), (2)")
    go(upgrade, namespace)

    run: Run[Any] = go(rollback, namespace, before="write_salvage", target="a1")

    assert run.require("loss", Loss).items == (LossItem("public.a", "note", 2, (), 0),)
    assert run.require("ways", WaysBack).advised == "downgrade"


def test_engine_that_commits_each_statement_is_rolled_back_all_the_same(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": COLUMN}, to="head", engine="isolation_level='AUTOCOMMIT'")
    run_sql(fresh_database, "INSERT INTO a VALUES (1, 'x')")

    assert go(rollback, namespace).outcome == "succeeded"
    assert at(fresh_database) == ["a1"]


BRANCHES = {
    "a1": TABLE,
    "b2": Script(SECOND.upgrade, SECOND.downgrade, down="a1", labels=("left",)),
    "c3": Script(
        execute("CREATE TABLE c (id int)"), execute("DROP TABLE c"), down="a1", labels=("right",)
    ),
}


@pytest.mark.parametrize(
    ("target", "left"),
    [("b2@-1", ["c3"]), ("left@-1", ["c3"]), ("right@-1", ["b2"]), ("a1", ["a1"]), ("base", [])],
)
def test_branches_are_rolled_back_as_alembic_names_them(
    small: Small, fresh_database: Target, target: str, left: list[str]
) -> None:
    namespace = small(BRANCHES, to="heads")

    assert go(rollback, namespace, target=target).outcome == "succeeded"

    assert at(fresh_database) == left


def test_step_back_from_two_heads_asks_which_one(small: Small, fresh_database: Target) -> None:
    namespace = small(BRANCHES, to="heads")
    before = picture(fresh_database)

    with pytest.raises(SettingsError, match=r"it is at b2, c3\..* -r target b2@-1 or c3@-1"):
        go(rollback, namespace, target="-1")

    assert picture(fresh_database) == before


def test_what_came_since_is_known_from_the_history_of_a_run_elsewhere(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": COLUMN}, to="head")
    shutil.rmtree(Path(namespace["alembic_ini"]).parent / "runs")  # as on another host
    run_sql(fresh_database, "INSERT INTO a VALUES (1, 'x')")

    run: Run[Any] = go(rollback, namespace, before="write_salvage")
    assert run.require("loss", Loss).items == (LossItem("public.a", "note", 1, (), 1),)

    run_sql(fresh_database, "UPDATE playbook.history SET database_oid = 1")  # of a copied database
    run = go(rollback, namespace, before="write_salvage")
    assert run.require("loss", Loss).items == (LossItem("public.a", "note", 1, (), -1),)


def test_rows_in_the_schema_that_env_py_s_search_path_names_are_saved_down_to_the_last(
    small: Small, fresh_database: Target
) -> None:
    run_sql(fresh_database, "CREATE SCHEMA app")
    scripts = {
        "a1": Script(execute("CREATE TABLE a (id int PRIMARY KEY)")),
        "b2": Script(execute("ALTER TABLE a ADD n text"), execute("ALTER TABLE a DROP n")),
    }
    namespace = small(scripts, to="head", env=OWN_PATH)
    run_sql(fresh_database, "CREATE TABLE public.a (id int PRIMARY KEY, n text)")
    run_sql(fresh_database, "INSERT INTO app.a VALUES (1, 'precious')")
    late = "INSERT INTO app.a VALUES (2, 'late')"

    go(rollback, namespace, meanwhile={"run_rollback": lambda: run_sql(fresh_database, late)})

    (file,) = Path(namespace["alembic_ini"]).parent.glob("runs/*rollback*/salvage/*.csv")
    assert "precious" in file.read_text("utf-8")
    assert "late" in file.read_text("utf-8")


PARTITIONED = Script(
    execute(
        'CREATE SCHEMA "Sales & Co"',
        'CREATE TABLE "Sales & Co"."Order" ("Id" int, "Day" date, PRIMARY KEY ("Id", "Day")) '
        'PARTITION BY RANGE ("Day")',
        'CREATE TABLE "Sales & Co"."Order 2026" PARTITION OF "Sales & Co"."Order" '
        "FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
        'CREATE TABLE rest PARTITION OF "Sales & Co"."Order" DEFAULT',
    ),
    execute('DROP SCHEMA "Sales & Co" CASCADE'),
)
NAMED = Script(
    execute(
        'ALTER TABLE "Sales & Co"."Order" ADD COLUMN "Näme" text',
        'ALTER TABLE "Sales & Co"."Order" ADD COLUMN note text',
        'ALTER TABLE "Sales & Co"."Order" RENAME COLUMN note TO "Note"',
    ),
    execute(
        'ALTER TABLE "Sales & Co"."Order" RENAME COLUMN "Note" TO note',
        'ALTER TABLE "Sales & Co"."Order" DROP COLUMN "Näme"',
    ),
)


def test_partitioned_table_is_saved_once_and_its_partitions_lose_their_columns_with_it(
    small: Small, fresh_database: Target, run_psql: Callable[..., Any]
) -> None:
    namespace = small({"a1": PARTITIONED, "b2": NAMED}, to="head")
    run_sql(
        fresh_database,
        """INSERT INTO "Sales & Co"."Order"
        VALUES (1, '2026-05-01', 'x', 'y'), (2, '2025-01-01', 'z', NULL)""",
    )
    before = picture(fresh_database)

    go(rollback, namespace, target="base", backup="never")

    folder = salvage_of(namespace)
    saved = {path.name for path in folder.glob("*.csv")}
    assert saved == {"Sales %26 Co.Order.csv", "Sales %26 Co.Order.a1.csv"}
    go(upgrade, namespace)
    loaded(fresh_database, folder, run_psql)
    assert picture(fresh_database) == before
