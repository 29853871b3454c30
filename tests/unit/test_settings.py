"""Where the playbook's settings stand, and how a project's Alembic is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from playbook.errors import SettingsError
from playbook.targets import Target, load_target

SECRET = "pä@ss/w"
URL = "postgresql+asyncpg://me:p%C3%A4%40ss%2Fw@db:6000/shop?sslmode=require"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose files nobody may touch, and a folder for the playbook's own beside it."""
    (tmp_path / "app" / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "app" / "alembic.ini").write_text("[alembic]\nscript_location = migrations\n")
    (tmp_path / "ops").mkdir()
    monkeypatch.setenv("SHOP_URL", URL)
    return tmp_path / "ops" / "playbook.ini"


def load(file: Path, text: str, database: str = "env:SHOP_URL") -> Target:
    file.write_text(text)
    return load_target(database, file)


def test_file_of_the_playbook_s_own_names_the_project_s(project: Path) -> None:
    target = load(
        project,
        "[playbook]\nalembic_ini = ../app/alembic.ini\nrun_from = ../app\n"
        "python = ../app/venv/bin/python\nname = second\nx = tenant=a\n    dry\n",
    )

    app = project.parent.parent / "app"
    assert target.invocation is not None
    assert (target.invocation.config, target.invocation.directory) == (app / "alembic.ini", app)
    assert (target.invocation.name, target.invocation.arguments) == ("second", ("tenant=a", "dry"))
    assert Path(target.python).resolve() == app / "venv" / "bin" / "python"
    assert target.project == project.parent, "runs and backups would go into the project"


def test_project_s_own_file_may_hold_the_sections_as_before(project: Path) -> None:
    target = load(project, "[alembic]\n[playbook]\npython = python3.8\n")

    assert target.invocation is not None
    assert target.invocation.config == target.alembic_ini == project
    assert target.python == "python3.8"


def test_pyproject_toml_may_hold_them(project: Path) -> None:
    file = project.with_name("pyproject.toml")
    target = load(
        file,
        '[tool.alembic]\nscript_location = "m"\n'
        '[tool.playbook]\nconnection = true\nx = ["a", "b"]\n'
        '[tool.playbook.targets.live]\nurl = "env:SHOP_URL"\nprotected = true\n'
        '[tool.playbook.environment]\nDb = "{database}"\n[tool.playbook.options]\nk = "v"\n'
        '[tool.playbook.options.app]\nurl = "{url}"\n',
        "live",
    )

    how = target.invocation
    assert how is not None
    assert (target.protected, how.gives_connection, how.arguments) == (True, True, ("a", "b"))
    assert how.environment == (("Db", "{database}"),)
    assert how.options == (("", "k", "v"), ("app", "url", "{url}"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[playbook]\nalembic_ini = ../nowhere.ini\n", "there is no such file"),
        ("[playbook]\nalembic_init = x\n", "option 'alembic_init' that the playbook does not know"),
        ("[playbook]\nconnection = perhaps\n", "not a truth value"),
        ("[playbook\n", "cannot be read as an ini file"),
    ],
)
def test_mistake_in_the_file_is_one_sentence(project: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(project, text)

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mistake_in_pyproject_toml_is_one_sentence(project: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read as a TOML file"):
        load(project.with_name("pyproject.toml"), "[tool\n")


def test_variable_of_the_target_is_known_with_its_driver(project: Path) -> None:
    target = load(project, "[playbook]\n")

    assert (target.variable, target.driver) == ("SHOP_URL", "asyncpg")


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{url}", "postgresql+psycopg2://me@db:6000/shop?sslmode=require"),
        ("{url:asyncpg}", "postgresql+asyncpg://me@db:6000/shop"),
        ("{user}@{host}:{port}/{database}{{}}", "me@db:6000/shop{}"),
    ],
)
def test_text_is_filled_with_the_target_s_own(project: Path, text: str, filled: str) -> None:
    assert load(project, "[playbook]\n").fill(text, driver="psycopg2") == filled


def test_password_is_filled_in_for_an_environment_alone(project: Path) -> None:
    target = load(project, "[playbook]\n")

    assert target.fill("{password}", driver="", secret=True) == SECRET
    assert target.fill("{url:asyncpg}", driver="", secret=True).startswith(
        "postgresql+asyncpg://me:p%C3%A4%40ss%2Fw@db:6000/"
    )
    with pytest.raises(SettingsError, match="cannot be filled in"):
        target.fill("{password}", driver="")


@pytest.mark.parametrize("text", ["{nope}", "{", "{0}", "{url.target.conninfo}{"])
def test_text_that_cannot_be_filled_is_one_sentence(project: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="cannot be filled in") as caught:
        load(project, "[playbook]\n").fill(text, driver="psycopg2")

    assert SECRET not in str(caught.value)


def test_what_only_the_service_file_knows_is_not_guessed(project: Path) -> None:
    project.write_text("[playbook]\n")
    target = load_target("service:shop", project)

    assert target.fill("{url}", driver="psycopg2") == "postgresql+psycopg2:///?service=shop"
    with pytest.raises(SettingsError, match="cannot be filled in"):
        target.fill("{host}", driver="psycopg2")
