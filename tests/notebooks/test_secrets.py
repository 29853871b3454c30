"""A server that asks for passwords: they appear nowhere, and each refusal is one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from harness import (
    NOTEBOOKS,
    RUNBOOKS,
    SEEDED,
    PrivateProject,
    code_cells,
    plain_outputs,
    read_notebook,
    stored_state,
)
from process_list import watched_processes

Papermill = Callable[..., subprocess.CompletedProcess[str]]
Server = Any
"""`PrivateServer` of tests/conftest.py, which is no module to import from."""

STATES = ("empty", "legacy", "head")
ON_ANY_SERVER = [name for name in RUNBOOKS if name != "onboarding"]
NEEDS = {"ingest": ("-r", "owner", "magda.williams")}
"""What a notebook asks for on a server that is no sandbox."""
READER = "reader"


@pytest.fixture(scope="module")
def templates(password_server: Server) -> Server:
    """The server with a template for each state, and a role that may only look."""
    for state in STATES:
        password_server.execute(f"CREATE DATABASE template_{state}")
        variables = {
            "PGHOST": "127.0.0.1", "PGPORT": str(password_server.port), "PGUSER": "postgres",
            "PGPASSWORD": password_server.password, "PGDATABASE": f"template_{state}",
        }  # fmt: skip
        if state != "empty":
            seed = [sys.executable, "-m", "voice_agent.sample_data", "--state", state]
            subprocess.run(seed, env=_environment(variables), check=True, capture_output=True)
    password_server.execute(
        f"CREATE ROLE {READER} LOGIN PASSWORD '{password_server.password}'",
        f"GRANT pg_read_all_data TO {READER}",
    )
    return password_server


def _environment(variables: dict[str, str]) -> dict[str, str]:
    return {**os.environ, **variables}


@pytest.fixture
def make_database(templates: Server) -> Iterator[Callable[[str], str]]:
    """Make a database in a state; it is dropped afterwards."""
    made = []

    def make(state: str) -> str:
        state = SEEDED.get(state, state)
        name = f"app_{state}"
        templates.execute(f"CREATE DATABASE {name} TEMPLATE template_{state}")
        made.append(name)
        return name

    yield make
    for name in made:
        templates.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def guard(project: PrivateProject, templates: Server, tmp_path: Path) -> Iterator[None]:
    """While a notebook runs watch the process list; afterwards search all that it has left."""
    project.forget()
    with watched_processes() as seen:
        yield
    assert any(b"ipykernel" in line for line in seen), "the watcher saw no kernel"
    needles = _needles(templates.password)
    assert [line for line in seen if any(needle in line for needle in needles)] == []
    log = templates.data.parent / "log"
    left = [path for path in _files(project.runs, project.backups, tmp_path / "out.ipynb", log)]
    assert tmp_path / "out.ipynb" in left
    assert [path for path in left if any(n in path.read_bytes() for n in needles)] == []


def _needles(password: str) -> list[bytes]:
    """Return the password in every spelling that it might appear in."""
    escaped = password.encode("ascii", "backslashreplace")
    return [password.encode(), escaped, quote(password, safe="").encode(), quote(password).encode()]


def _files(*places: Path) -> Iterator[Path]:
    for place in places:
        yield from [place] if place.is_file() else filter(Path.is_file, place.rglob("*"))


def _url(
    server: Server, database: str, password: str = "", user: str = "postgres", port: str = ""
) -> str:
    secret = f":{quote(password, safe='')}" if password else ""
    return f"postgresql://{user}{secret}@127.0.0.1:{port or server.port}/{database}"


def _history(server: Server, database: str) -> str:
    connection = server.connect(database)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('playbook.history') IS NOT NULL")
            if not cursor.fetchone()[0]:
                return ""
            cursor.execute("SELECT string_agg(h::text, ' ') FROM playbook.history AS h")
            return cursor.fetchone()[0] or ""
    finally:
        connection.close()


def _said(output: Path) -> str:
    """Return the sentence with which a notebook failed."""
    outputs = [out for cell in code_cells(read_notebook(output)) for out in cell.outputs]
    errors = [out for out in outputs if out.output_type == "error"]
    assert len(errors) == 1
    assert errors[0].traceback == [f"{errors[0].ename}: {errors[0].evalue}"]
    return errors[0].evalue


def _assert_silent(server: Server, done: subprocess.CompletedProcess[str], database: str) -> None:
    text = (done.stdout + done.stderr + _history(server, database)).encode()
    assert [needle for needle in _needles(server.password) if needle in text] == []


@pytest.mark.usefixtures("guard")
@pytest.mark.parametrize("name", ON_ANY_SERVER)
def test_the_password_of_a_variable_appears_nowhere(
    name: str, papermill: Papermill, templates: Server, make_database: Callable[[str], str],
    output: Path,
) -> None:  # fmt: skip
    database = make_database(stored_state(read_notebook(NOTEBOOKS / f"{name}.ipynb")))
    url = _url(templates, database, templates.password)
    if name == "restore":
        papermill("backup", "-r", "database", "env:APP_URL", variables={"APP_URL": url})

    needs = NEEDS.get(name, ())
    done = papermill(name, "-r", "database", "env:APP_URL", *needs, variables={"APP_URL": url})

    assert done.returncode == 0, done.stderr
    assert "[succeeded]" in plain_outputs(read_notebook(output))
    _assert_silent(templates, done, database)


@pytest.mark.usefixtures("guard")
def test_the_tour_refuses_a_real_server_and_its_password_appears_nowhere(
    papermill: Papermill, templates: Server, make_database: Callable[[str], str], output: Path
) -> None:
    database = make_database("legacy")
    url = _url(templates, database, templates.password)

    done = papermill("onboarding", "-r", "database", "env:APP_URL", variables={"APP_URL": url})

    assert done.returncode == 1
    assert "sandbox" in _said(output)
    _assert_silent(templates, done, database)


@pytest.mark.usefixtures("guard")
def test_the_password_of_a_password_file_appears_nowhere(
    papermill: Papermill, templates: Server, make_database: Callable[[str], str], tmp_path: Path
) -> None:
    database = make_database("legacy")
    secrets = tmp_path / "pgpass"
    secrets.write_text(f"127.0.0.1:{templates.port}:*:postgres:{templates.password}\n", "utf-8")
    secrets.chmod(0o600)

    done = papermill(
        "upgrade", "-r", "database", _url(templates, database),
        variables={"PGPASSFILE": str(secrets)},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    _assert_silent(templates, done, database)


@pytest.mark.usefixtures("guard")
def test_the_password_of_a_service_file_appears_nowhere(
    papermill: Papermill, templates: Server, make_database: Callable[[str], str], tmp_path: Path
) -> None:
    database = make_database("legacy")
    services = tmp_path / "services.conf"
    services.write_text(
        f"[app]\nhost=127.0.0.1\nport={templates.port}\nuser=postgres\ndbname={database}\n"
        f"password={templates.password}\n",
        "utf-8",
    )

    done = papermill(
        "upgrade", "-r", "database", "service:app", variables={"PGSERVICEFILE": str(services)}
    )

    assert done.returncode == 0, done.stderr
    _assert_silent(templates, done, database)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"port": "1"}, ("Cannot connect", "Check that the server runs")),
        ({"password": "wrong"}, ("password authentication failed", "Correct the password")),
        ({"password": ""}, ("no password supplied", "Correct the password")),
        ({"database": "nowhere"}, ("does not exist", "createdb")),
        ({"user": READER}, ("table public.users: owner is postgres", "Run as the owner")),
    ],
    ids=["server down", "wrong password", "no password", "no such database", "no privilege"],
)
def test_a_refusal_is_one_sentence_and_nothing_is_changed(
    wrong: dict[str, str], says: tuple[str, ...], papermill: Papermill, templates: Server,
    make_database: Callable[[str], str], output: Path,
) -> None:  # fmt: skip
    right = {"database": make_database("legacy"), "password": templates.password}
    url = _url(templates, **{**right, **wrong})

    done = papermill("upgrade", "-r", "database", "env:APP_URL", variables={"APP_URL": url})

    assert done.returncode == 1
    sentence = _said(output)
    for words in (*says, "Nothing was changed."):
        assert words in sentence
    assert sentence in done.stderr
    _assert_silent(templates, done, right["database"])
    assert _history(templates, right["database"]) == ""
