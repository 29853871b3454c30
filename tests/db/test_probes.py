"""Steps that rows would break are counted before they fail, and the count is the server's."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest

from builders import TABLE, Script, execute
from playbook import preview, upgrade
from playbook.database import connect, fetch, fetch_value
from playbook.errors import GuardRefused
from playbook.known import read_known
from playbook.plan import weigh_hazards
from playbook.present import plain
from playbook.probes import count_violations
from playbook.records import Hazard, Plan, PlanStep, Severity
from playbook.suspects import find_suspects
from playbook.targets import Target, load_target
from servers import PrivateServer
from steps import Namespace, go, picture

TABLES = """
CREATE TABLE u (x int, y int, PRIMARY KEY (y, x));
INSERT INTO u SELECT n, n FROM generate_series(1, 10) AS n;
CREATE TABLE t (id int PRIMARY KEY, a int, b text, "c d" varchar(20), e bigint, z int NOT NULL);
INSERT INTO t VALUES
  (1, 1, 'one', 'Ann', 1, 1), (2, 2, 'two', 'ANN', 2, 1),
  (3, NULL, '3', 'a long name', 9000000000, 1),
  (4, 2, '4', NULL, 4, 2), (5, 99, NULL, NULL, NULL, 3);
CREATE TABLE empty (a int);
CREATE SCHEMA "s p"; CREATE TABLE "s p"."T.x" ("c d" int, "Key" int PRIMARY KEY);
INSERT INTO "s p"."T.x" VALUES (1, 1), (1, 2), (NULL, 3);
CREATE INDEX i ON t (b);
CREATE TABLE parent (a int, b int); CREATE TABLE child () INHERITS (parent);
INSERT INTO parent VALUES (1, 1); INSERT INTO child VALUES (1, NULL), (99, 2);
CREATE TABLE parts (a int, b int) PARTITION BY LIST (a);
CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
INSERT INTO parts VALUES (1, 1), (1, 1);
CREATE TABLE v AS SELECT * FROM t;
ALTER TABLE v ADD CONSTRAINT old_check CHECK (a < 50) NOT VALID;
ALTER TABLE v ADD CONSTRAINT old_key FOREIGN KEY (a, z) REFERENCES u (x, y) NOT VALID;
CREATE FUNCTION pick(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
$$ BEGIN RETURN 1 / ($1 - 1); END $$;
"""
BROKEN = [
    ("nulls-break-not-null", 1, "ALTER TABLE t ALTER COLUMN a SET NOT NULL", "UPDATE t SET a = 0"),
    ("nulls-break-not-null", 2, 'ALTER TABLE t ALTER COLUMN "c d" SET NOT NULL',
     "UPDATE t SET \"c d\" = 'x' WHERE \"c d\" IS NULL"),
    ("duplicates-break-unique", 1, "ALTER TABLE t ADD UNIQUE (a)", "UPDATE t SET a = id"),
    ("duplicates-break-unique", 1, "CREATE UNIQUE INDEX q ON t (z) WHERE z < 3",
     "UPDATE t SET z = id"),
    ("duplicates-break-unique", 1, 'CREATE UNIQUE INDEX q ON t (lower("c d"))',
     "DELETE FROM t WHERE id = 1"),
    ("duplicates-break-unique", 2, 'CREATE UNIQUE INDEX q ON t (lower("c d")) NULLS NOT DISTINCT',
     "DELETE FROM t WHERE id IN (1, 5)"),
    ("duplicates-break-unique", 1, "CREATE UNIQUE INDEX CONCURRENTLY q ON t (a)",
     "UPDATE t SET a = id"),
    ("rows-break-check", 1, "ALTER TABLE t ADD CHECK (a < 50)", "DELETE FROM t WHERE a > 50"),
    ("rows-break-check", 1, "ALTER TABLE v VALIDATE CONSTRAINT old_check",
     "DELETE FROM v WHERE a > 50"),
    ("orphans-break-foreign-key", 2, "ALTER TABLE v VALIDATE CONSTRAINT old_key",
     "DELETE FROM v WHERE a > 50; UPDATE v SET z = a WHERE a IS NOT NULL"),
    ("orphans-break-foreign-key", 2, "ALTER TABLE t ADD FOREIGN KEY (z, a) REFERENCES u",
     "UPDATE t SET z = a WHERE a < 50; UPDATE t SET a = NULL WHERE a > 50"),
    ("orphans-break-foreign-key", 3,
     "ALTER TABLE t ADD FOREIGN KEY (a, z) REFERENCES u (x, y) MATCH FULL",
     "DELETE FROM t WHERE a IS NULL OR a <> z"),
    ("rows-lack-a-value", 5, "ALTER TABLE t ADD COLUMN n int NOT NULL", "TRUNCATE t"),
    ("duplicates-break-unique", 1, 'ALTER TABLE "s p"."T.x" ADD UNIQUE ("c d")',
     'UPDATE "s p"."T.x" SET "c d" = "Key"'),
    ("orphans-break-foreign-key", 2,
     'ALTER TABLE t ADD FOREIGN KEY (e) REFERENCES "s p"."T.x"', "TRUNCATE t"),
    ("nulls-break-not-null", 1, "ALTER TABLE parent ALTER COLUMN b SET NOT NULL",
     "UPDATE parent SET b = 0"),
    ("duplicates-break-unique", 1, "ALTER TABLE parts ADD UNIQUE (a, b)", "DELETE FROM parts"),
    ("values-too-long", 1, 'ALTER TABLE t ALTER COLUMN "c d" TYPE varchar(5)',
     "UPDATE t SET \"c d\" = 'ok'"),
    ("values-not-castable", 2, "ALTER TABLE t ALTER COLUMN b TYPE int USING b::int",
     "UPDATE t SET b = '7' WHERE id < 3"),
    ("values-not-castable", 1, "ALTER TABLE t ALTER COLUMN e TYPE int", "UPDATE t SET e = 1"),
]  # fmt: skip
HARMLESS = [
    "ALTER TABLE t ALTER COLUMN z SET NOT NULL",
    "ALTER TABLE t ADD UNIQUE (id, a)",
    "CREATE UNIQUE INDEX q ON t (b)",
    "CREATE UNIQUE INDEX q ON t (a) WHERE a > 50",
    "ALTER TABLE t ADD CHECK (a < 50) NOT VALID",
    "ALTER TABLE t ADD CHECK (a < 100)",
    "ALTER TABLE t ADD FOREIGN KEY (a, z) REFERENCES u (x, y) NOT VALID",
    "ALTER TABLE parent ADD UNIQUE (a)",
    "ALTER TABLE parent ADD FOREIGN KEY (a) REFERENCES t",
    "ALTER TABLE empty ADD COLUMN n int NOT NULL",
    "ALTER TABLE empty ADD PRIMARY KEY (a)",
    'ALTER TABLE t ALTER COLUMN "c d" TYPE varchar(11)',
    "ALTER TABLE t ALTER COLUMN a TYPE smallint",
    "CREATE TABLE n (a int); INSERT INTO n VALUES (NULL); DELETE FROM n; "
    "ALTER TABLE n ALTER COLUMN a SET NOT NULL",
    "ALTER TABLE t ADD COLUMN n int; UPDATE t SET n = 1; ALTER TABLE t ALTER COLUMN n SET NOT NULL",
]
COUNTED = {rule for rule, *_ in BROKEN} | {"values-cut-off"}


@pytest.fixture
def filled(fresh_database: Target) -> Target:
    return fill(fresh_database)


def fill(target: Target) -> Target:
    with connect(target) as connection, connection.cursor() as cursor:
        cursor.execute(TABLES)
    return target


def plan(tmp_path: Path, *revisions: str, method: str = "offline") -> Plan:
    path = tmp_path / "r.py"
    path.write_text("# playbook: allow nulls-break-not-null because it cannot be\n")
    steps = tuple(
        PlanStep(f"r{n}", "upgrade", (), (), "", path, "", f"{sql};")
        for n, sql in enumerate(revisions, 1)
    )
    return Plan("upgrade", "head", (), ("r",), steps, method, "")


def counted(
    target: Target, tmp_path: Path, *revisions: str, method: str = "offline"
) -> list[Hazard]:
    hazards = weigh_hazards(target, plan(tmp_path, *revisions, method=method))
    return [hazard for hazard in hazards.items if hazard.rule in COUNTED]


def error_of(target: Target, sql: str) -> str:
    """Run SQL as a revision would and return the SQLSTATE it fails with, "" if it does not."""
    with connect(target) as connection, connection.cursor() as cursor:
        try:
            for statement in sql.split(";"):
                if statement.strip():
                    cursor.execute(statement)
        except psycopg2.Error as error:
            return error.pgcode or "?"
    return ""


@pytest.mark.parametrize(("rule", "rows", "sql", "mend"), BROKEN)
def test_step_that_rows_break_stops_with_their_number_and_a_query_that_shows_them(
    filled: Target, tmp_path: Path, rule: str, rows: int, sql: str, mend: str
) -> None:
    (hazard,) = counted(filled, tmp_path, sql)

    assert (hazard.rule, hazard.severity, hazard.rows) == (rule, Severity.STOP, rows)
    assert hazard.is_certain
    assert hazard.object
    if rule != "rows-lack-a-value":  # those are all; it says how to add the column instead
        with connect(filled) as connection:
            assert len(fetch(connection, hazard.rewrite)) == rows  # type: ignore[arg-type]
    assert error_of(filled, sql)


@pytest.mark.parametrize(("rule", "rows", "sql", "mend"), BROKEN)
def test_step_that_an_earlier_one_may_mend_is_only_a_warning(
    filled: Target, tmp_path: Path, rule: str, rows: int, sql: str, mend: str
) -> None:
    (hazard,) = counted(filled, tmp_path, mend, sql)

    assert (hazard.rule, hazard.severity, hazard.rows) == (rule, Severity.WARN, rows)
    assert not hazard.is_certain
    assert "changes the table first" in hazard.detail
    assert not error_of(filled, f"{mend}; {sql}")


@pytest.mark.parametrize("sql", HARMLESS)
def test_step_that_no_row_breaks_is_not_named_and_does_not_fail(
    filled: Target, tmp_path: Path, sql: str
) -> None:
    assert counted(filled, tmp_path, sql) == []
    assert not error_of(filled, sql)


def test_primary_key_counts_nulls_and_duplicates(filled: Target, tmp_path: Path) -> None:
    sql = "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (a)"

    found = {(h.rule, h.object, h.rows) for h in counted(filled, tmp_path, sql)}

    assert found == {("nulls-break-not-null", "a", 1), ("duplicates-break-unique", "t_pkey", 1)}


def test_column_that_the_plan_adds_and_leaves_empty_stops_with_every_row(
    filled: Target, tmp_path: Path
) -> None:
    sql = "ALTER TABLE t ADD COLUMN n int; ALTER TABLE t ALTER COLUMN n SET NOT NULL"

    (hazard,) = counted(filled, tmp_path, sql)

    assert (hazard.severity, hazard.rows) == (Severity.STOP, 5)
    assert error_of(filled, sql) == "23502"


def test_explicit_cast_to_a_shorter_text_warns_of_what_it_cuts_off(
    filled: Target, tmp_path: Path
) -> None:
    sql = 'ALTER TABLE t ALTER COLUMN "c d" TYPE varchar(5) USING "c d"::varchar(5)'

    (hazard,) = counted(filled, tmp_path, sql)

    assert (hazard.rule, hazard.severity, hazard.rows) == ("values-cut-off", Severity.WARN, 1)
    assert not error_of(filled, sql)


def test_no_exemption_lifts_what_was_counted(filled: Target, tmp_path: Path) -> None:
    made = plan(tmp_path, "ALTER TABLE t ALTER COLUMN a SET NOT NULL")

    stops = weigh_hazards(filled, made).stops

    assert [hazard.rule for hazard in stops] == ["nulls-break-not-null"]


def test_count_of_rows_without_a_value_stands_for_the_estimate(
    filled: Target, tmp_path: Path
) -> None:
    def rules(sql: str) -> list[str]:
        return [hazard.rule for hazard in weigh_hazards(filled, plan(tmp_path, sql)).items]

    with connect(filled) as connection, connection.cursor() as cursor:
        cursor.execute("ANALYZE t")
        cursor.execute("CREATE TABLE gone (a int); INSERT INTO gone SELECT generate_series(1, 500)")
        cursor.execute("ANALYZE gone")
        cursor.execute("DELETE FROM gone")

    assert rules("ALTER TABLE t ADD COLUMN n int NOT NULL") == ["rows-lack-a-value"]
    assert rules("ALTER TABLE gone ADD COLUMN n int NOT NULL") == []


def test_count_that_takes_too_long_or_cannot_be_is_a_warning(
    filled: Target, tmp_path: Path
) -> None:
    slow = plan(tmp_path, "ALTER TABLE t ADD CHECK (pg_sleep(a) IS NOT NULL AND id > 0)")
    with connect(filled) as connection:
        known = read_known(connection)
    suspects = find_suspects(slow.steps, known, is_observed=False)

    (limited,) = count_violations(filled, suspects, limit="200ms")
    (failing,) = counted(filled, tmp_path, "ALTER TABLE t ADD CHECK (pick(a) > 0)")

    assert (limited.rows, limited.problem) == (-1, "not counted within 200ms")
    assert failing.severity is Severity.WARN
    assert "not counted: division by zero" in failing.detail


def test_table_that_somebody_holds_is_not_waited_for(filled: Target, tmp_path: Path) -> None:
    with connect(filled, autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE t")
        started = time.monotonic()
        (hazard,) = counted(filled, tmp_path, "ALTER TABLE t ALTER COLUMN a SET NOT NULL")

    assert hazard.severity is Severity.WARN
    assert "somebody has held the table" in hazard.detail
    assert time.monotonic() - started < 15


def test_drop_of_a_table_that_somebody_holds_is_weighed_without_its_rows(
    filled: Target, tmp_path: Path
) -> None:
    with connect(filled, autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE v")
        (hazard,) = weigh_hazards(filled, plan(tmp_path, "DROP TABLE v")).items

    assert hazard.severity is Severity.WARN


def test_counting_writes_nothing_and_is_refused_to(filled: Target, tmp_path: Path) -> None:
    with connect(filled) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE SEQUENCE s")

    (hazard,) = counted(filled, tmp_path, "ALTER TABLE t ADD CHECK (nextval('s') > 0)")

    assert "read-only transaction" in hazard.detail
    with connect(filled) as connection:
        assert fetch_value(connection, "SELECT is_called FROM s") is False


def test_plan_that_hangs_on_no_row_opens_no_session(
    filled: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    monkeypatch.setattr("playbook.probes.connect", lambda *a, **k: opened.append(a))

    weigh_hazards(filled, plan(tmp_path, "CREATE INDEX j ON t (a)", "ALTER TABLE t ADD k int"))

    assert opened == []


@pytest.mark.parametrize(
    ("sql", "severity", "words"),
    [
        ("DROP TABLE t", Severity.WARN, "5 rows of public.t"),
        ("DROP TABLE empty", Severity.OK, "It holds nothing"),
        ('ALTER TABLE t DROP COLUMN "c d"', Severity.WARN, "3 values in c d of public.t"),
        ("ALTER TABLE empty DROP COLUMN a", Severity.OK, "It holds nothing"),
    ],
)
def test_drop_weighs_what_is_counted_in_it(
    filled: Target, tmp_path: Path, sql: str, severity: Severity, words: str
) -> None:
    (hazard,) = weigh_hazards(filled, plan(tmp_path, sql)).items

    assert hazard.severity is severity
    assert words in hazard.detail


def test_cast_is_left_uncounted_where_the_server_cannot_tell(
    other_version: PrivateServer, tmp_path: Path
) -> None:
    with other_version.database() as name:
        target = fill(load_target(other_version.url(name)))
        cast = counted(target, tmp_path, "ALTER TABLE t ALTER COLUMN b TYPE int USING b::int")
        nulls = counted(target, tmp_path, "ALTER TABLE t ALTER COLUMN a SET NOT NULL")

    assert len(cast) == (1 if other_version.major >= 16 else 0)
    assert [hazard.rows for hazard in nulls] == [1]


def test_large_index_is_named_with_its_remedy_and_the_remedy_is_no_hazard(
    fresh_database: Target, tmp_path: Path
) -> None:
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE big AS SELECT n AS id FROM generate_series(1, 400000) AS n")
        cursor.execute("ANALYZE big")

    (hazard,) = weigh_hazards(fresh_database, plan(tmp_path, "CREATE INDEX i ON big (id)")).items
    anew = weigh_hazards(fresh_database, plan(tmp_path, hazard.rewrite.rstrip(";")))

    assert (hazard.severity, hazard.object) == (Severity.WARN, "i")
    assert hazard.rows == pytest.approx(400_000, rel=0.05)
    assert (hazard.lock, hazard.blocks) == ("ShareLock", "writes")
    assert "CREATE INDEX CONCURRENTLY i ON big (id);" in hazard.rewrite
    assert anew.items == ()


def test_preview_shows_and_upgrade_refuses_what_would_fail(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    breaking = Script(execute("ALTER TABLE a ADD COLUMN n int NOT NULL"))
    namespace = small({"a1": TABLE, "b2": breaking})
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO a VALUES (1)")
    before = picture(fresh_database)

    with preview.open_run(namespace) as run:
        preview.plan_migration(run)
        shown = plain(preview.find_hazards(run))
    with pytest.raises(GuardRefused, match="No exemption lifts this"):
        go(upgrade, namespace)

    assert "It fails: there is 1 row that would have no value in n." in shown
    assert "ADD CONSTRAINT a_n_filled CHECK (n IS NOT NULL) NOT VALID;" in shown
    assert picture(fresh_database) == before


def test_refusal_shows_the_hazard_and_a_way_out_that_can_be_gone(
    small: Callable[..., Namespace],
    fresh_database: Target,
    capsys: pytest.CaptureFixture[str],
) -> None:
    namespace = small({"a1": TABLE, "b2": Script(execute("ALTER TABLE a ADD n int NOT NULL"))})
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO a VALUES (1)")

    with pytest.raises(GuardRefused) as refusal:
        go(upgrade, namespace)
    shown = capsys.readouterr().out

    assert "add the column nullable, fill it, then SET NOT NULL" in str(refusal.value)
    assert "Mend the rows" not in str(refusal.value)
    assert "b2: rows-lack-a-value on public.a n" in shown
    assert "ADD CONSTRAINT a_n_filled CHECK (n IS NOT NULL) NOT VALID;" in shown
    assert "waits meanwhile" not in shown


@pytest.mark.parametrize(
    ("sql", "is_refused"),
    [("ALTER TABLE a ADD n int NOT NULL", True), ("ALTER TABLE a ADD n int", False)],
)
def test_preview_says_whether_upgrade_will_refuse_the_plan(
    small: Callable[..., Namespace], fresh_database: Target, sql: str, is_refused: bool
) -> None:
    namespace = small({"a1": TABLE, "b2": Script(execute(sql))})
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO a VALUES (1)")

    text = plain(go(preview, namespace))

    refusal = "`upgrade` will refuse it: rows-lack-a-value on public.a"
    assert (refusal in text) is is_refused
    assert ("Write it in steps as section 2 shows" in text) is is_refused
    assert ("runs this plan" in text) is not is_refused


def test_body_of_code_is_a_warning_before_and_no_table_is_claimed_to_be_missing(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    block = execute("DO $$ BEGIN EXECUTE 'CREATE TABLE made (id int)'; END $$")
    namespace = small({"a1": TABLE, "b2": Script(block)})

    with preview.open_run(namespace) as run:
        preview.plan_migration(run)
        hazards, sizes = preview.find_hazards(run), preview.measure_tables(run)
    done = go(upgrade, namespace)

    assert [(h.rule, h.severity) for h in hazards.items] == [("cannot-be-read", Severity.WARN)]
    assert "cannot be told from its text" in plain(hazards)
    assert plain(sizes) == "The SQL names no table that exists now."
    assert done.outcome == "succeeded"


def test_observed_plan_is_counted_but_for_tables_that_python_read(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    """Python fills a row at a time, and the empty copy on which it is observed has none."""
    fills = """
    connection = op.get_bind()
    for (row,) in connection.execute(sa.text("SELECT id FROM {table}")).all():
        connection.execute(sa.text("UPDATE a SET n = 1 WHERE id = :row"), {{"row": row}})
    op.execute("ALTER TABLE a ALTER COLUMN n SET NOT NULL")
    """
    found = {}
    namespace = small({"a1": TABLE, "b2": Script(fills.format(table="a"))})
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE a ADD COLUMN n int; INSERT INTO a VALUES (1), (2)")
        cursor.execute("CREATE TABLE other (id int)")
    for table in ("a", "other"):
        path = Path(namespace["alembic_ini"]).parent / "migrations" / "versions" / "b2.py"
        path.write_text(path.read_text().replace("FROM a", f"FROM {table}"))
        with preview.open_run(namespace) as run:
            assert preview.plan_migration(run).method == "observed"
            hazards = preview.find_hazards(run).items
            found[table] = [h.severity for h in hazards if h.rule == "nulls-break-not-null"]

    assert found == {"a": [Severity.WARN], "other": [Severity.STOP]}


def test_example_project_has_no_stop(legacy_database: Target) -> None:
    with preview.open_run({"database": legacy_database.name}) as run:
        preview.plan_migration(run)
        hazards = preview.find_hazards(run)

    assert hazards.items
    assert {hazard.severity for hazard in hazards.items} == {Severity.OK}
