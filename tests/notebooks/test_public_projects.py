"""Public packages that ship migrations in their wheels: the whole round, no file of theirs touched.

By papermill, on a server that asks for a password, with the packages in an environment of their
own. PLAYBOOK_WHOLE_HISTORY=1 starts where each package starts, not some revisions before its head.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from harness import NOTEBOOKS, plain_outputs, read_notebook

from environments import PUBLIC, packages_of, python_of
from playbook import sandbox
from servers import PrivateServer

WHOLE = os.environ.get("PLAYBOOK_WHOLE_HISTORY") == "1"
ROUND = (
    "status", "backup", "preview", "rehearse", "upgrade", "verify", "rollback", "restore",
)  # fmt: skip
SETTINGS = """
[playbook]
alembic_ini = {packages}/{ini}
run_from = {packages}/{run_from}
python = {python}

[playbook:live]
url = env:LIVE_DATABASE
"""
ALEMBIC = """
import os, sys
from alembic import command
from alembic.config import Config
import sqlalchemy as sa
ini, folder, *verb = sys.argv[1:]
config = Config(ini)
config.set_main_option("script_location", folder)
config.set_main_option("sqlalchemy.url", os.environ["LIVE_DATABASE"].replace("%", "%%"))
engine = sa.create_engine(os.environ["LIVE_DATABASE"])
"""
MLFLOW_BEGINS = """
from mlflow.store.tracking.dbmodels.initial_models import Base
Base.metadata.create_all(engine)
command.stamp(config, "base")
"""
MOVES = "getattr(command, verb[0])(config, verb[1])\n"
OPTUNA_ROWS = """
INSERT INTO studies (study_name) VALUES ('it''s 100%'), ('other');
INSERT INTO study_directions (direction, study_id, objective) VALUES ('MINIMIZE', 1, 0);
INSERT INTO trials (number, study_id, state)
    SELECT i, 1, 'COMPLETE' FROM generate_series(1, 500) AS i;
INSERT INTO trial_values (trial_id, objective, value)
    SELECT i, 0, i / 7.0 FROM generate_series(1, 500) AS i;
INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value)
    SELECT i, 0, i / 3.0 FROM generate_series(1, 500) AS i;
"""
MLFLOW_ROWS = """
INSERT INTO experiments (name, lifecycle_stage) VALUES ('it''s 100%', 'active');
INSERT INTO runs (run_uuid, name, source_type, status, start_time, experiment_id, user_id,
    lifecycle_stage) SELECT 'run' || i, 'r', 'LOCAL', 'FINISHED', i, 1, 'me', 'active'
    FROM generate_series(1, 500) AS i;
INSERT INTO metrics (key, value, timestamp, run_uuid)
    SELECT 'loss', i / 7.0, i, 'run' || i FROM generate_series(1, 500) AS i;
"""


@dataclass(frozen=True)
class Package:
    """Where a package keeps its migrations, and how a database of an older release comes about."""

    ini: str
    run_from: str
    begins: str
    older: str
    rows: str
    wrong_way_down: str
    """Revisions of which a rehearsal finds that their downgrade fails, or leaves a trace."""


PACKAGES = {
    "optuna": Package(
        ini="optuna/storages/_rdb/alembic.ini", run_from="optuna/storages/_rdb", begins="",
        older="v3.0.0.a", rows=OPTUNA_ROWS, wrong_way_down="v3.0.0.b,v3.0.0.c",
    ),
    "mlflow": Package(
        ini="mlflow/store/db_migrations/alembic.ini", run_from="", begins=MLFLOW_BEGINS,
        older="c3d9e7f1a2b4", rows=MLFLOW_ROWS, wrong_way_down="17e22815139b",
    ),
}  # fmt: skip


@pytest.fixture
def live(password_server: PrivateServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of an empty database; its URL, password and all, is in the environment."""
    with password_server.database() as name:
        secret = quote(password_server.password, safe="")
        url = f"postgresql+psycopg2://postgres:{secret}@127.0.0.1:{password_server.port}/{name}"
        monkeypatch.setenv("LIVE_DATABASE", url)
        # Seven processes import the package, and it is large: keep what Python compiles.
        monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield name


def begin(package: Package, folder: Path, name: str, server: PrivateServer) -> None:
    """Make the database as the package's own code would have left it, some releases ago."""
    python, ini = python_of(PUBLIC), folder / package.ini
    script = ini.parent / "alembic" if "optuna" in package.ini else ini.parent

    def alembic(text: str, *verb: str) -> None:
        command = [python, "-c", ALEMBIC + text, ini, script, *verb]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    if package.begins:
        alembic(package.begins)
        server.execute(package.rows, database=name)
    if not WHOLE:
        alembic(MOVES, "upgrade", package.older)
    if not package.begins and not WHOLE:
        server.execute(package.rows, database=name)


def contents(folder: Path) -> dict[str, str]:
    """Return the hash of each file of a package, but what Python compiles."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_round_on_a_public_package_leaves_its_files_alone(
    name: str, live: str, password_server: PrivateServer, tmp_path: Path
) -> None:
    package, packages = PACKAGES[name], packages_of(PUBLIC)
    settings = tmp_path / "playbook.ini"
    settings.write_text(
        SETTINGS.format(packages=packages, ini=package.ini, run_from=package.run_from,
                        python=python_of(PUBLIC))
    )  # fmt: skip
    begin(package, packages, live, password_server)
    before = contents(packages / name)
    parameters = {"database": "live", "alembic_ini": str(settings)}
    own = {"upgrade": {"give_up_after": "1min"}, "rehearse": {"accept": package.wrong_way_down}}
    series = [
        {"notebook": str(NOTEBOOKS / f"{book}.ipynb"), "output": str(tmp_path / f"{book}.ipynb"),
         "parameters": parameters | own.get(book, {})}
        for book in ROUND
    ]  # fmt: skip

    try:
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("series.py")], input=json.dumps(series),
            cwd="/", capture_output=True, text=True, check=False, timeout=280,
        )  # fmt: skip
    finally:
        sandbox.remove(tmp_path)

    assert done.returncode == 0, done.stderr[-3000:]
    for book in ROUND:
        assert "[succeeded]" in plain_outputs(read_notebook(tmp_path / f"{book}.ipynb")), book
    rehearsed = plain_outputs(read_notebook(tmp_path / "rehearse.ipynb"))
    known = [line for line in rehearsed.splitlines() if "It is known, and accepted." in line]
    assert {line.split()[2].rstrip(":") for line in known} == {*package.wrong_way_down.split(",")}
    assert {path.name for path in tmp_path.iterdir()} >= {"runs", "backups"}
    assert contents(packages / name) == before
    assert password_server.password not in "".join(p.read_text() for p in tmp_path.glob("*.ipynb"))
