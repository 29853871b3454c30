"""Twelve broken version tables, and more: diagnosed rightly, mended when told, else untouched."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

import alembic
import pytest
from psycopg2.extensions import cursor

from builders import CONCURRENT_INDEX, DUPLICATES, Project, Script, execute
from playbook import repair, status, upgrade
from playbook.database import connect, fetch_value
from playbook.errors import GuardRefused, MigrationFailed, SettingsError
from playbook.journal import Run
from playbook.records import Outcome, Severity
from playbook.repairs import Diagnosis, Remedies
from playbook.targets import Target, load_target
from servers import PrivateServer
from steps import STEPS, Namespace, at, go, picture, run_sql, runs

A = Script(execute("CREATE TABLE a (id int PRIMARY KEY)"), execute("DROP TABLE a"))
B = Script(execute("CREATE TABLE b (id int PRIMARY KEY)"), execute("DROP TABLE b"))
C = Script(execute("ALTER TABLE b ADD COLUMN note text"), execute("ALTER TABLE b DROP note"))
CHAIN = {"a1": A, "b2": B, "c3": C}
TWO_HEADS = {"a1": A, "b2": B, "c3": Script(execute("CREATE TABLE c (id int)"), down="a1")}
NUMBERED = {"0001": A, "0002": B}
LONG = "b2_" + "x" * 40
FORM = "version_num varchar(32) NOT NULL"
KEY = "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)"


@dataclass(frozen=True)
class Case:
    """A broken database, and what is to be found and done."""

    name: str
    sql: tuple[str, ...]
    """What breaks it, once it is at ``to``."""
    finds: tuple[str, ...]
    """The codes of the findings that are no OK."""
    says: tuple[str, ...]
    apply: str
    rows: tuple[str, ...]
    """What the version table holds when it is mended."""
    revisions: Mapping[str, Script] = field(default_factory=lambda: CHAIN)
    to: str = "b2"
    revision: str = ""
    left: tuple[str, ...] = ()
    """The codes of what is still found afterwards."""


TWELVE: tuple[Case, ...] = (
    Case(
        "a revision that no file has", ("UPDATE alembic_version SET version_num = 'lost'",),
        ("unknown-revision",), ("lost", "which no revision file has", "schema is that of b2"),
        "stamp", ("b2",),
    ),
    Case(
        "tables made without Alembic", ("DROP TABLE alembic_version",),
        ("no-version-table",), ("2 tables, made without Alembic", "schema is that of b2"),
        "stamp", ("b2",),
    ),
    Case(
        "no rows", ("DELETE FROM alembic_version",),
        ("no-rows",), ("no revision in it", "schema is that of b2"), "stamp", ("b2",),
    ),
    Case(
        "the same row twice",
        ("ALTER TABLE alembic_version DROP CONSTRAINT alembic_version_pkc",
         "INSERT INTO alembic_version VALUES ('b2')"),
        ("duplicate-row", "no-primary-key"), ("b2 more than once",), "tidy", ("b2",),
    ),
    Case(
        "an ancestor beside its descendant", ("INSERT INTO alembic_version VALUES ('a1')",),
        ("ancestor-row",), ("a1 beside b2, which already stands on it",), "tidy", ("b2",),
    ),
    Case(
        "a row of NULL",
        ("ALTER TABLE alembic_version DROP CONSTRAINT alembic_version_pkc",
         "ALTER TABLE alembic_version ALTER version_num DROP NOT NULL",
         "INSERT INTO alembic_version VALUES (NULL)"),
        ("null-row", "no-primary-key"), ("names no revision (NULL or empty), and b2",), "tidy",
        ("b2",),
    ),
    Case(
        "a column of numbers",
        ("ALTER TABLE alembic_version ALTER version_num TYPE int USING version_num::int",),
        ("column-type",), ("of the type integer",), "tidy", ("0002",),
        revisions=NUMBERED, to="0002",
    ),
    Case(
        "a column too short", (), ("column-too-short",), ("room for 32", "the longest id has 43"),
        "tidy", ("a1",), revisions={"a1": A, LONG: B}, to="a1",
    ),
    Case(
        "no primary key", ("ALTER TABLE alembic_version DROP CONSTRAINT alembic_version_pkc",),
        ("no-primary-key",), ("has no primary key",), "tidy", ("b2",),
    ),
    Case(
        "a row behind the schema", ("UPDATE alembic_version SET version_num = 'a1'",),
        ("version-behind-schema",), ("names a1, but its schema is that of b2",), "stamp", ("b2",),
    ),
    Case(
        "a row ahead of the schema", ("UPDATE alembic_version SET version_num = 'c3'",),
        ("version-ahead-of-schema",), ("names c3, but its schema is that of b2",), "stamp", ("b2",),
    ),
    Case(
        "the table in another schema",
        ("CREATE SCHEMA other", "ALTER TABLE alembic_version SET SCHEMA other"),
        ("no-version-table", "other-schema"),
        ("other.alembic_version", "env.py looks in public.alembic_version"), "move", ("b2",),
    ),
)  # fmt: skip
"""The twelve."""

MORE: tuple[Case, ...] = (
    Case(
        "no table, and no revision's schema",
        ("DROP TABLE alembic_version", "ALTER TABLE b ADD COLUMN extra int"),
        ("no-version-table",), ("nearest is b2", "column public.b.extra (not in the revision)"),
        "stamp", ("b2",), revision="b2", left=("schema-differs",),
    ),
    Case(
        "another one's tables beside",
        ("UPDATE alembic_version SET version_num = 'lost'", "CREATE TABLE theirs (id int)"),
        ("unknown-revision",), ("schema is that of b2",), "stamp", ("b2",),
    ),
    Case(
        "an empty table in the way of another",
        ("CREATE SCHEMA other", f"CREATE TABLE other.alembic_version ({FORM} PRIMARY KEY)",
         "INSERT INTO other.alembic_version TABLE alembic_version", "DELETE FROM alembic_version"),
        ("no-rows", "other-schema"), ("which is empty",), "move", ("b2",),
    ),
    Case(
        "a table of another form",
        ("DROP TABLE alembic_version", "CREATE TABLE alembic_version (id int, at timestamptz)"),
        ("no-rows", "no-version-column"), ("no column version_num (but id, at)",), "stamp",
        ("b2",),
    ),
    Case(
        "an unknown row beside a known one",
        ("INSERT INTO alembic_version VALUES ('lost')",),
        ("unknown-revision",), ("lost",), "stamp", ("b2",),
    ),
    Case(
        "two rows of two branches, one unknown to the schema",
        ("DELETE FROM alembic_version WHERE version_num = 'c3'",),
        ("version-behind-schema", "several-heads"), ("schema is that of",), "stamp",
        ("b2", "c3"), revisions=TWO_HEADS, to="heads", left=("several-heads",),
    ),
)  # fmt: skip


EXTRA = os.environ.get("PLAYBOOK_WHOLE_SERIES") == "1"
"""Whether what is seldom is tried as well."""
INVALID = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{}'::regclass"
MAKO = Path(alembic.__file__).parent / "templates" / "generic" / "script.py.mako"


@pytest.fixture
def at_place(small: Callable[..., Namespace], fresh_database: Target) -> Callable[..., Namespace]:
    """Make a project, and its database at some place, as plain Alembic does."""

    def make(revisions: Mapping[str, Script], to: str = "heads", *sql: str) -> Namespace:
        namespace = small(revisions, to="")
        upgrade_by_sql(fresh_database, revisions, to)
        run_sql(fresh_database, *sql)
        return namespace

    return make


class Operations:
    """Alembic's ``op`` as far as these revisions need it: no process has to be started for it."""

    def __init__(self, cursor: cursor) -> None:
        self.execute = cursor.execute


def upgrade_by_sql(target: Target, revisions: Mapping[str, Script], to: str) -> None:
    """Run revisions up to one of them, or all of them, and write down where that is."""
    run_sql(target, f"CREATE TABLE alembic_version ({FORM}, {KEY})")
    with connect(target) as connection, connection.cursor() as cursor:
        current: list[str] = []
        below = ""
        for revision, script in revisions.items():
            exec(dedent(script.upgrade), {"op": Operations(cursor)})
            current = [*(one for one in current if one != (script.down or below)), revision]
            below = revision
            if revision == to:
                break
        for revision in current:
            cursor.execute("INSERT INTO alembic_version VALUES (%s)", (revision,))


def folder(namespace: Namespace) -> Path:
    return Path(namespace["alembic_ini"]).parent


def diagnosed(namespace: Namespace, **parameters: object) -> Run[repair.Parameters]:
    run: Run[repair.Parameters] = go(repair, namespace, before="run_remedy", **parameters)
    return run


def codes(diagnosis: Diagnosis) -> tuple[str, ...]:
    return tuple(one.code for one in diagnosis.findings if one.severity is not Severity.OK)


def found(run: Run[repair.Parameters]) -> tuple[str, ...]:
    return codes(run.require("diagnosis", Diagnosis))


def told(run: Run[repair.Parameters]) -> str:
    findings = run.require("diagnosis", Diagnosis).findings
    return "\n".join(f"{one.subject}: {one.detail} {one.remedy}" for one in findings)


def offered(run: Run[repair.Parameters]) -> tuple[str, ...]:
    return tuple(one.name for one in run.require("remedies", Remedies).items)


def mend(namespace: Namespace, **parameters: object) -> tuple[Outcome, Diagnosis]:
    """Apply a remedy; return the outcome, and what is diagnosed afterwards."""
    with repair.open_run({**namespace, **parameters}) as run:
        results = [getattr(repair, step)(run) for step in STEPS[repair]]
    return results[-1], results[-2]


@pytest.mark.parametrize("case", TWELVE + (MORE if EXTRA else ()), ids=lambda case: case.name)
def test_a_broken_version_table_is_diagnosed_left_alone_mended_and_brought_back(
    case: Case,
    at_place: Callable[..., Namespace],
    fresh_database: Target,
    run_psql: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    namespace = at_place(case.revisions, case.to, *case.sql)
    before = picture(fresh_database)

    with repair.open_run({**namespace, "revision": case.revision}) as run:
        nothing = [getattr(repair, step)(run) for step in STEPS[repair]][-1]

    assert found(run) == case.finds, told(run)
    for words in case.says:
        assert words in told(run)
    assert nothing.changed == ()
    assert picture(fresh_database) == before
    assert runs(namespace) == []

    compare = case.apply == "stamp"
    outcome, after = mend(namespace, apply=case.apply, revision=case.revision, compare=compare)

    assert sorted(at(fresh_database)) == sorted(case.rows)
    assert codes(after) == case.left
    receipt = runs(namespace)[-1]
    assert (receipt["outcome"], receipt["remedy"]) == ("succeeded", case.apply)
    undo = next(path for path in outcome.files if path.name == "undo.sql")
    assert run_psql(fresh_database, undo.read_text()).returncode == 0
    run_sql(fresh_database, "DROP SCHEMA playbook CASCADE")
    assert picture(fresh_database) == before


def test_nothing_is_wrong_with_a_sound_database(
    at_place: Callable[..., Namespace], fresh_database: Target
) -> None:
    run = diagnosed(at_place(CHAIN))

    assert found(run) == ()
    assert "names c3, and the schema is that revision's" in told(run)
    assert offered(run) == ()


def test_an_empty_database_needs_no_remedy(small: Callable[..., Namespace]) -> None:
    run = diagnosed(small(CHAIN, to=""))

    assert found(run) == ()
    assert "empty" in told(run)


def test_a_file_that_got_another_id_is_found_by_its_hash(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = small({"a1": A, "b2": B}, to="head")
    old = folder(namespace) / "migrations" / "versions" / "b2.py"
    new = old.with_name("renamed.py")
    new.write_text(old.read_text().replace("b2", "renamed"))
    old.unlink()

    run = diagnosed(namespace)
    mend(namespace, apply="stamp")

    assert "renamed.py is that file, with the id renamed" in told(run)
    assert at(fresh_database) == ["renamed"]


@pytest.mark.parametrize("remedy", ["undo-leftovers", pytest.param("none", marks=pytest.mark.slow)])
def test_a_half_applied_revision_is_told_by_its_leftovers_and_can_be_run_again(
    small: Callable[..., Namespace], fresh_database: Target, remedy: str
) -> None:
    namespace = small({"a1": A, "b2": CONCURRENT_INDEX}, to="a1")
    run_sql(
        fresh_database,
        "ALTER TABLE a ADD COLUMN x int",
        "CREATE INDEX a_x ON a (x)",
        INVALID.format("a_x"),
    )
    if remedy == "none":
        run_sql(fresh_database, "INSERT INTO a VALUES (1, 5)")
        assert "undo-leftovers" not in offered(diagnosed(namespace))
        return

    run = diagnosed(namespace)
    outcome, after = mend(namespace, apply=remedy)

    assert found(run) == ("half-applied", "invalid-index")
    assert "column public.a.x, invalid index public.a_x" in told(run)
    assert outcome.outcome == "succeeded"
    assert codes(after) == ()
    go(upgrade, namespace)
    assert at(fresh_database) == ["b2"]


PARTED = Script(
    execute(
        "CREATE TABLE p (n int) PARTITION BY RANGE (n)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)",
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (9) TO (99)",
        "CREATE INDEX p_n ON p (n)",
    )
)


def test_invalid_indexes_are_built_again_without_a_lock_that_stops_writers(
    at_place: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = at_place(
        {"a1": Script(execute("CREATE TABLE a (id int PRIMARY KEY, x int)",
                              "CREATE INDEX a_x ON a (x)"))},
        "head", INVALID.format("a_x"), INVALID.format("a_pkey"),
    )  # fmt: skip

    run = diagnosed(namespace)
    _, after = mend(namespace, apply="reindex")

    assert found(run) == ("invalid-index", "invalid-index")
    assert offered(run) == ("reindex", "rebuild")
    assert codes(after) == ()
    run_sql(fresh_database, INVALID.format("a_x"))
    assert codes(mend(namespace, apply="rebuild")[1]) == ()


def test_a_partitioned_index_gets_what_its_partitions_lack(
    at_place: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = at_place(
        {"a1": PARTED}, "head", "DROP INDEX p_n", "CREATE INDEX p_n ON ONLY p (n)",
        "CREATE INDEX p1_n ON p1 (n)", "ALTER INDEX p_n ATTACH PARTITION p1_n",
    )  # fmt: skip

    run = diagnosed(namespace)
    _, after = mend(namespace, apply="reindex")

    assert "public.p2 has no index of it" in told(run)
    assert "invalid-index" not in codes(after)


def test_a_unique_index_that_rows_break_names_them_and_is_not_built(
    at_place: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = at_place({"a1": DUPLICATES}, "head")
    with pytest.raises(Exception, match="could not create unique index"):
        run_sql(fresh_database, "CREATE UNIQUE INDEX CONCURRENTLY d_n ON d (n)")

    run = diagnosed(namespace)
    with pytest.raises(GuardRefused, match="'reindex' does not fit"):
        go(repair, namespace, apply="reindex")
    _, after = mend(namespace, apply="drop-indexes")

    assert "Rows of public.d break it: n = 1 in 2 rows" in told(run)
    assert offered(run) == ("drop-indexes",)
    assert codes(after) == ()


def test_several_heads_are_merged_by_a_file_in_the_project_s_style(
    at_place: Callable[..., Namespace], fresh_database: Target
) -> None:
    three = {"001_a": A, "002_b": B, "003_c": Script(execute("CREATE TABLE c (id int)"),
                                                     down="001_a")}  # fmt: skip
    namespace = at_place(three)
    before = picture(fresh_database)
    assert offered(diagnosed(namespace)) == ()  # the project has no template
    (folder(namespace) / "migrations" / "script.py.mako").write_text(MAKO.read_text())

    outcome, after = mend(namespace, apply="merge", message="Join the two")

    files = sorted((folder(namespace) / "migrations" / "versions").glob("*.py"))
    text = files[-1].read_text()
    assert len(files) == 4
    assert "revision: str = '004_join_the_two'" in text
    assert "down_revision: Union[str, Sequence[str], None] = ('002_b', '003_c')" in text
    assert codes(after) == ()
    assert "delete 004_join_the_two" in outcome.next_steps[0]
    assert picture(fresh_database) == before


FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "file-does-not-load": ("def upgrade(:", ("bad.py, line 1", "SyntaxError")),
    "file-without-id": ("revision = 'b9'", ("bad.py", "sets no down_revision")),
    "id-used-twice": ("revision = 'a1'\ndown_revision = None", ("a1.py, bad.py", "revision a1")),
    "parent-missing": (
        "revision = 'b9'\ndown_revision = 'a11'", ("stands on a11", "Did it mean a1?")),
    "circle": ("revision = 'b9'\ndown_revision = 'b9x'\n", ("b9, b9x",)),
}  # fmt: skip


@pytest.mark.parametrize("code", FILES)
def test_a_file_that_keeps_alembic_from_loading_is_named_with_what_to_do(
    code: str, at_place: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = at_place({"a1": A}, "head")
    versions = folder(namespace) / "migrations" / "versions"
    text, says = FILES[code]
    (versions / "bad.py").write_text(text)
    if code == "circle":
        (versions / "other.py").write_text("revision = 'b9x'\ndown_revision = 'b9'\n")

    with pytest.raises(SettingsError, match="`repair` names the file"):
        status.open_run(namespace)
    run = diagnosed(namespace)

    assert found(run) == (code,)
    for words in says:
        assert words in told(run)
    assert offered(run) == ()
    assert go(repair, namespace).outcome == "succeeded"


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO alembic_version VALUES ('a1')",
        "ALTER TABLE b ADD COLUMN more int",
        "DROP TABLE alembic_version",
    ],
)
def test_a_remedy_is_refused_if_the_database_changed_since_it_was_shown(
    sql: str, at_place: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = at_place(CHAIN, "b2", "UPDATE alembic_version SET version_num = 'lost'")

    with pytest.raises(GuardRefused, match="changed since the remedy was shown"):
        go(repair, namespace, apply="stamp",
           meanwhile={"run_remedy": lambda: run_sql(fresh_database, sql)})  # fmt: skip

    assert runs(namespace)[-1]["outcome"] == "refused"
    if "DROP" not in sql:
        assert "lost" in at(fresh_database)


def test_a_protected_target_is_mended_only_with_its_name(
    at_place: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = at_place(CHAIN, "b2", "UPDATE alembic_version SET version_num = 'lost'")
    guarded = namespace | {"database": "guarded"}

    with pytest.raises(GuardRefused, match="protected"):
        go(repair, guarded, apply="stamp")
    assert at(fresh_database) == ["lost"]

    mend(guarded, apply="stamp", confirm=fresh_database.database)
    assert at(fresh_database) == ["b2"]


def test_a_failing_statement_changes_nothing_and_says_so(
    at_place: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = at_place(
        CHAIN, "b2", "UPDATE alembic_version SET version_num = 'lost'",
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE EXCEPTION 'not here'; END$$",
        "CREATE TRIGGER no BEFORE INSERT ON alembic_version EXECUTE FUNCTION no()",
    )  # fmt: skip

    with pytest.raises(MigrationFailed, match="not here.*rolled it back whole"):
        go(repair, namespace, apply="stamp")

    assert at(fresh_database) == ["lost"]
    assert runs(namespace)[-1]["outcome"] == "failed"


def test_what_the_schema_leaves_open_must_be_decided_by_somebody(
    at_place: Callable[..., Namespace], fresh_database: Target
) -> None:
    rows_only = Script(execute("INSERT INTO a VALUES (1)"), execute("DELETE FROM a"))
    namespace = at_place({"a1": A, "b2": rows_only}, "head", "DELETE FROM alembic_version")

    run = diagnosed(namespace)
    with pytest.raises(GuardRefused, match="must be decided first"):
        go(repair, namespace, apply="stamp")
    with pytest.raises(SettingsError, match="no revision file has zz"):
        go(repair, namespace, apply="stamp", revision="zz")
    mend(namespace, apply="stamp", revision="a1")

    assert "that of a1 and of b2; which of them, no schema tells" in told(run)
    assert "stamp" not in offered(run)
    assert at(fresh_database) == ["a1"]


def test_other_runbooks_point_to_repair(
    at_place: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = at_place(CHAIN, "b2", "UPDATE alembic_version SET version_num = 'lost'")

    with pytest.raises(GuardRefused, match="`repair`"):
        go(upgrade, namespace)
    run_sql(fresh_database, "DROP TABLE alembic_version")
    with status.open_run(namespace) as run:
        finding = next(f for f in status.check_preflight(run).findings if f.code == "version-table")
    assert "`repair`" in finding.remedy
    run_sql(fresh_database, "CREATE TABLE alembic_version (version_num text)",
            "INSERT INTO alembic_version VALUES (NULL)")  # fmt: skip
    with pytest.raises(SettingsError, match="Run `repair`"):
        status.open_run(namespace)


def test_a_server_of_another_version_is_compared_with_the_sandbox_s_revisions(
    other_version: PrivateServer, staging: Callable[..., Project]
) -> None:
    project = staging(CHAIN)
    with other_version.database() as name:
        namespace = {"database": other_version.url(name), "alembic_ini": str(project.ini)}
        target = load_target(other_version.url(name))
        upgrade_by_sql(target, CHAIN, "b2")
        other_version.execute("UPDATE alembic_version SET version_num = 'lost'", database=name)

        run = diagnosed(namespace)
        mend(namespace, apply="stamp")

        assert found(run) == ("unknown-revision",)
        assert "schema is that of b2" in told(run)
        with connect(target) as connection:
            assert fetch_value(connection, "SELECT version_num FROM alembic_version") == "b2"
