"""Small whole projects, one for each form that env.py takes, driven as they stand.

Each folder of tests/projects says in the first line of its env.py what it shows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

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
        monkeypatch.setenv(variable, url)

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


@pytest.mark.parametrize("name", NAMES)
def test_each_project_says_what_it_shows(name: str) -> None:
    text = (PROJECTS / name / "migrations" / "env.py").read_text()

    assert text.startswith('"""')
    assert text.splitlines()[0].endswith(('."""', '"""'))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TESTED_APART])
def test_project_goes_up_and_down_as_it_stands(name: str, mini: Copy) -> None:
    target = mini(name)
    files = {path: path.read_bytes() for path in target.project.rglob("*.*") if path.is_file()}

    round_trip(target)

    made = {path: path.read_bytes() for path in target.project.rglob("*.*") if path.is_file()}
    assert {p: b for p, b in made.items() if "__pycache__" not in p.parts} == files


@pytest.mark.parametrize("name", ["from_the_template", "expand_and_contract", "autocommit_blocks"])
@pytest.mark.parametrize("environment", [OLDEST, MIDDLE, NEWEST], ids=lambda e: e.name)
def test_project_s_own_environment_may_be_old_or_new(
    environment: Environment, name: str, mini: Copy
) -> None:
    target = mini(name, environment)

    round_trip(target)


@pytest.mark.parametrize("environment", [OLDEST, MIDDLE], ids=lambda e: e.name)
def test_async_project_s_own_environment_may_be_old(environment: Environment, mini: Copy) -> None:
    round_trip(mini("async_asyncpg", environment))


def test_child_runs_the_versions_that_the_project_has(mini: Copy) -> None:
    with opened(mini("from_the_template", OLDEST)) as alembic:
        assert dict(alembic.versions()) == {"Alembic": "1.8.1", "SQLAlchemy": "1.4.54"}


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
