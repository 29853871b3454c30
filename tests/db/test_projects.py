"""Small whole projects, one for each form that env.py takes, driven as they stand.

Each folder of tests/projects says in the first line of its env.py what it shows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from environments import MIDDLE, NEWEST, OLDEST, Environment, python_of
from playbook import sandbox, status, upgrade
from playbook.catalog import table_names
from playbook.database import connect, fetch, fetch_value, server_info
from playbook.errors import MigrationFailed, SettingsError, WrongDatabase
from playbook.migrate import Alembic
from playbook.plan import build_plan
from playbook.records import Plan, RevisionGraph
from playbook.targets import PROJECT_INI, Target, load_target
from servers import PrivateServer
from steps import at, go

PROJECTS = Path(__file__).resolve().parents[1] / "projects"
NAMES = sorted(path.name for path in PROJECTS.iterdir() if path.is_dir())
FILES = ("playbook.ini", "alembic.ini", "pyproject.toml")
OF_ITS_OWN = {"flask_migrate": NEWEST, "async_asyncpg": NEWEST, "async_psycopg": NEWEST}
"""The projects that need what the playbook's own environment does not have."""
TESTED_APART = {"goes_elsewhere", "no_way_back"}

Copy = Callable[..., Target]


@pytest.fixture
def mini(tmp_path: Path, fresh_database: Target, monkeypatch: pytest.MonkeyPatch) -> Copy:
    """Copy a project and return its target on an empty database, in its own environment."""
    shared = sandbox.sandbox_folder(PROJECT_INI.parent)
    monkeypatch.setattr(sandbox, "sandbox_folder", lambda project: shared)
    url = fresh_database.sqlalchemy_url("")
    for variable in ("APP_DATABASE_URL", "SHOP_URL"):
        monkeypatch.setenv(variable, fresh_database.sqlalchemy_url())

    def copy(name: str, environment: Environment | None = None) -> Target:
        folder = shutil.copytree(PROJECTS / name, tmp_path / name)
        settings = next(folder / file for file in FILES if (folder / file).exists())
        named = {"environment_variable": "production", "pyproject_only": "production"}
        target = load_target(named.get(name, url), settings)
        own = environment or OF_ITS_OWN.get(name)
        return replace(target, python=str(python_of(own)) if own else "")

    return copy


@contextmanager
def opened(target: Target) -> Iterator[Alembic]:
    with connect(target) as connection:
        server = server_info(connection)
    with Alembic(target) as alembic:
        alembic.open(target, server, session={})
        yield alembic


def run(target: Target, alembic: Alembic, to: str, direction: str) -> tuple[RevisionGraph, Plan]:
    """Plan and run as the runbooks do, and return where it led, and the plan."""
    graph = alembic.graph()
    plan = build_plan(target, alembic, graph, direction=direction, to=to)
    for step in plan.steps:
        alembic.run(step, expected_current=alembic.current(), session={"lock_timeout": "2s"})
    return alembic.graph(), plan


def round_trip(target: Target) -> Plan:
    """Go up to the heads and down to base, and return the plan upwards."""
    with opened(target) as alembic:
        reached, plan = run(target, alembic, "heads", "upgrade")
        assert set(reached.current) == set(reached.heads) == set(plan.to_revisions)
        with connect(target) as connection:
            assert "public.accounts" in table_names(connection)
        left, _ = run(target, alembic, "base", "downgrade")
    assert left.current == ()
    with connect(target) as connection:
        assert "public.accounts" not in table_names(connection)
    return plan


def test_each_project_says_what_it_shows() -> None:
    first = {n: (PROJECTS / n / "migrations" / "env.py").read_text().splitlines()[0] for n in NAMES}

    assert all(line.startswith('"""') and line.endswith('."""') for line in first.values()), first
    assert len(set(first.values())) == len(NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TESTED_APART])
def test_project_goes_up_and_down_as_it_stands(name: str, mini: Copy) -> None:
    target = mini(name)
    files = {path: path.read_bytes() for path in target.project.rglob("*.*") if path.is_file()}

    round_trip(target)

    made = {path: path.read_bytes() for path in target.project.rglob("*.*") if path.is_file()}
    assert {p: b for p, b in made.items() if "__pycache__" not in p.parts} == files


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        (OLDEST, "from_the_template"),
        (OLDEST, "autocommit_blocks"),
        (OLDEST, "expand_and_contract"),
        (OLDEST, "async_asyncpg"),
        (MIDDLE, "from_the_template"),
        (MIDDLE, "async_asyncpg"),
        (NEWEST, "from_the_template"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_project_s_own_environment_may_be_old_or_new(
    environment: Environment, name: str, mini: Copy
) -> None:
    round_trip(mini(name, environment))


def test_child_runs_the_versions_that_the_project_has(mini: Copy) -> None:
    with opened(mini("from_the_template", OLDEST)) as alembic:
        assert dict(alembic.versions()) == {"Alembic": "1.8.1", "SQLAlchemy": "1.4.54"}


def test_plan_is_observed_where_env_py_decides_the_folders(mini: Copy) -> None:
    target = mini("folders_from_env")
    with opened(target) as alembic:
        plan = build_plan(
            target, alembic, alembic.graph(), direction="upgrade", to="heads", method="observed"
        )

    assert [step.revision for step in plan.steps] == ["a1", "b2"]


@pytest.mark.parametrize("name", ["environment_variable", "async_asyncpg", "async_psycopg"])
def test_observed_plan_holds_the_values_that_each_driver_sends_apart(
    name: str, mini: Copy, run_psql: Callable[..., object]
) -> None:
    target = mini(name)
    with opened(target) as alembic:
        plan = build_plan(
            target, alembic, alembic.graph(), direction="upgrade", to="heads", method="observed"
        )
    run_psql(target, plan.sql)

    with connect(target) as connection:
        rows = fetch(connection, "SELECT id, email, note FROM accounts ORDER BY id")
    assert rows == [(1, "it's@example.org", "100%"), (2, "b", None)]
    assert at(target) == ["b2"]


def test_project_s_own_order_of_branches_holds_for_heads(mini: Copy) -> None:
    plan = round_trip(mini("expand_and_contract"))

    assert [step.revision for step in plan.steps] == ["ba5e", "e1", "e2", "c1"]


@pytest.mark.parametrize(
    ("targets", "applied"),
    [
        (("expand@head", "contract@head"), (["ba5e", "e1", "e2"], ["c1"])),
        (("c1,e2",), (["ba5e", "e1", "c1", "e2"],)),
        (("e2, contract@head",), (["ba5e", "e1", "e2", "c1"],)),
        (("e1", "heads"), (["ba5e", "e1"], ["e2", "c1"])),
    ],
)
def test_upgrade_takes_branches_and_sets_in_their_order(
    targets: tuple[str, ...], applied: tuple[list[str], ...], mini: Copy
) -> None:
    target = mini("expand_and_contract")
    with opened(target) as alembic:
        ran = [
            [step.revision for step in run(target, alembic, to, "upgrade")[1].steps]
            for to in targets
        ]

        assert tuple(ran) == applied
        assert set(alembic.current()) == {"c1", "e2"}


def test_upgrade_runbook_takes_a_set_of_targets(mini: Copy) -> None:
    target = mini("expand_and_contract")
    namespace = {"database": target.name, "alembic_ini": str(target.alembic_ini)}

    go(upgrade, namespace, target="e2,c1")

    assert sorted(at(target)) == ["c1", "e2"]
    with pytest.raises(SettingsError, match="matches no revision"):
        go(upgrade, namespace, target="e2,nope")


def test_version_table_in_a_schema_that_env_py_makes_is_found_before_and_after(
    mini: Copy,
) -> None:
    target = mini("own_version_table")
    with opened(target) as alembic:
        before = alembic.graph()
        with connect(target) as connection:
            made = fetch_value(
                connection, "SELECT count(*) FROM pg_namespace WHERE nspname ~ '^Shop'"
            )
        run(target, alembic, "heads", "upgrade")
        after = alembic.graph()

    assert made == 0, "reading made the schema"
    assert (before.current, after.current) == ((), ("b2",))
    assert after.version_table_schema == "Shop meta"


def test_env_py_that_writes_before_its_migrations_is_told(mini: Copy) -> None:
    target = mini("own_version_table")
    env = target.project / "migrations" / "env.py"
    env.write_text(env.read_text().replace("IF NOT EXISTS", ""))

    with opened(target) as alembic:
        with pytest.raises(SettingsError, match="writes before it runs a migration: .*read-only"):
            alembic.graph()


@pytest.mark.parametrize(
    ("runbook", "says"),
    [(status, "a database of another kind (sqlite3)"), (upgrade, "a database of another kind")],
)
def test_env_py_that_falls_back_to_another_kind_of_database_is_stopped(
    runbook: object, says: str, mini: Copy
) -> None:
    target = mini("goes_elsewhere")

    with pytest.raises(WrongDatabase) as caught:
        go(runbook, {"database": target.name, "alembic_ini": str(target.alembic_ini)})  # type: ignore[arg-type]

    assert says in str(caught.value)


def test_env_py_that_goes_elsewhere_is_stopped_before_it_writes(
    mini: Copy, legacy_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = mini("goes_elsewhere")
    monkeypatch.setenv("ELSEWHERE", legacy_database.sqlalchemy_url())
    namespace = {"database": target.name, "alembic_ini": str(target.alembic_ini)}

    with pytest.raises(WrongDatabase, match=r"\[playbook.environment\] VARIABLE = \{url\}"):
        go(upgrade, namespace)

    for database in (target, legacy_database):
        with connect(database) as connection:
            assert "public.written_elsewhere" not in table_names(connection)


def test_env_py_that_goes_elsewhere_follows_once_it_is_told_the_variable(mini: Copy) -> None:
    target = mini("goes_elsewhere")
    env = target.project / "migrations" / "env.py"
    env.write_text(env.read_text().replace("CREATE TABLE written_elsewhere (id int)", "SELECT 1"))
    ini = target.alembic_ini
    ini.write_text(ini.read_text() + "\n[playbook.environment]\nELSEWHERE = {url:psycopg2}\n")

    round_trip(load_target(target.name, ini))


@pytest.mark.parametrize(
    ("to", "says"), [("base", "Revision a1 has no downgrade"), ("-1", "there is no way back")]
)
def test_revision_without_a_way_back_is_refused_before_anything_runs(
    to: str, says: str, mini: Copy
) -> None:
    target = mini("no_way_back")
    with opened(target) as alembic:
        run(target, alembic, "heads", "upgrade")
        with pytest.raises((SettingsError, MigrationFailed), match=says):
            run(target, alembic, to, "downgrade")

        assert alembic.current() == ("b2",)


def test_two_tables_of_one_enum_in_two_revisions_make_its_type_once(mini: Copy) -> None:
    target = mini("from_the_template")
    table = """
def upgrade():
    kind = sa.Enum("a", "b", name="kind")
    op.create_table("{0}", sa.Column("kind", kind), sa.Column("id", sa.Integer, primary_key=True))
"""
    for file, name in (("a1_accounts.py", "accounts"), ("b2_note.py", "notes")):
        path = target.project / "migrations" / "versions" / file
        path.write_text(path.read_text().partition("def upgrade")[0] + table.format(name))

    with opened(target) as alembic:
        reached, _ = run(target, alembic, "heads", "upgrade")

    assert reached.current == ("b2",)


def test_alembic_that_cannot_read_pyproject_toml_says_so(mini: Copy) -> None:
    with pytest.raises(SettingsError, match=r"Alembic 1\.8\.1 cannot read pyproject\.toml"):
        with opened(mini("pyproject_only", OLDEST)):
            pass


def test_password_reaches_an_application_s_settings_and_nothing_else(
    mini: Copy, password_server: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ini = mini("settings_object").alembic_ini
    secret = quote(password_server.password, safe="")
    with password_server.database() as name:
        monkeypatch.setenv(
            "REAL", f"postgresql://postgres:{secret}@127.0.0.1:{password_server.port}/{name}"
        )
        target = load_target("env:REAL", ini)
        with opened(target) as alembic:
            run(target, alembic, "heads", "upgrade")
            command = Path(f"/proc/{alembic.pid}/cmdline").read_text()
            said = alembic.output()

        assert at(target) == ["b2"]
    assert password_server.password not in command + said


@pytest.mark.parametrize("name", ["from_the_template", "async_asyncpg", "async_psycopg"])
def test_revision_that_commits_midway_is_told_with_every_driver(name: str, mini: Copy) -> None:
    target = mini(name)
    path = target.project / "migrations" / "versions" / "a1_accounts.py"
    path.write_text(
        path.read_text().replace("op.create_table(", 'op.execute("COMMIT")\n    op.create_table(')
    )

    with opened(target) as alembic:
        step, after = alembic.plan("upgrade", "head", ())
        results = [
            alembic.run(one, expected_current=alembic.current(), session={})
            for one in (step, after)
        ]

    assert [result.transactional for result in results] == [False, True]


def test_folder_that_alembic_is_run_from_is_asked_for_where_it_is_not_the_file_s(
    mini: Copy,
) -> None:
    target = mini("from_the_template")
    inner = target.project / "conf" / "alembic.ini"
    inner.parent.mkdir()
    inner.write_text(target.alembic_ini.read_text())
    with pytest.raises(SettingsError, match="write run_from = FOLDER in .playbook. of"):
        with opened(load_target(target.name, inner)):
            pass

    inner.write_text(inner.read_text() + "\n[playbook]\nrun_from = ..\n")
    with opened(load_target(target.name, inner)) as alembic:
        assert alembic.graph().heads == ("b2",)
