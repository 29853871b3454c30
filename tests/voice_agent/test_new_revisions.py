"""A new revision of this project has the form that `make check` asks for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from playbook import author, sandbox, upgrade
from playbook.targets import PROJECT_INI, Target
from steps import Namespace, go
from voice_agent import revision_form

ROOT = PROJECT_INI.parent
NAME = "display_name: Mapped[str | None]\n"


@pytest.fixture
def copied(tmp_path: Path, legacy_database: Target, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """A copy of this project with a required column more, on a database with rows at its head."""
    shared = sandbox.sandbox_folder(ROOT)
    monkeypatch.setattr(sandbox, "sandbox_folder", lambda project: shared)
    for name in ("alembic.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("lib", "migrations"):
        shutil.copytree(ROOT / name, tmp_path / name)
    models = tmp_path / "lib" / "voice_agent" / "models.py"
    text = models.read_text("utf-8")
    assert NAME in text
    more = '    how_to_call_them: Mapped[str] = mapped_column(default="by their name")\n'
    models.write_text(text.replace(NAME, NAME + more), "utf-8")
    namespace = {
        "database": f"sandbox:{legacy_database.database}",
        "alembic_ini": str(tmp_path / "alembic.ini"),
    }
    go(upgrade, namespace)
    return namespace


def ruff(folder: Path, *command: str) -> str:
    """Return what ruff says of a copy's revisions by this project's settings, "" for nothing."""
    settings = str(ROOT / "pyproject.toml")
    call = [sys.executable, "-m", "ruff", *command, "--no-cache", "--quiet", "--config", settings]
    # In the project's folder, from which ruff takes the settings' paths.
    done = subprocess.run(
        [*call, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout + done.stderr


def test_what_author_writes_passes_the_check_as_a_draft_and_in_steps(
    copied: Namespace, tmp_path: Path
) -> None:
    run = go(
        author, copied, message="Let users say how to call them", rewrite=True, before="test_draft"
    )

    for name, files in (("draft", 1), ("steps", 5)):
        folder = run.directory / name
        assert len(list(folder.glob("*.py"))) == files
        placed = shutil.copytree(folder, tmp_path / name / "migrations" / "versions")
        assert ruff(placed, "check") == ""
        assert ruff(placed, "format", "--check") == ""


def test_a_blank_revision_passes_the_check_and_imports_what_it_will_use(tmp_path: Path) -> None:
    for name in ("alembic.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    message = "add_users_time_zone"

    made = subprocess.run(
        [sys.executable, "-m", "alembic", "revision", "--rev-id", "003_zone", "-m", message],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT / "lib")}, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip

    assert (made.returncode, made.stderr) == (0, "")
    text = (tmp_path / "migrations" / "versions" / "003_zone.py").read_text("utf-8")
    assert text.startswith('"""Add users time zone.\n')
    assert "from alembic import op  # noqa: F401\n" in text
    assert ruff(tmp_path / "migrations", "check") == ""
    assert ruff(tmp_path / "migrations", "format", "--check") == ""


def test_imports_of_the_project_stand_apart_wherever_alembic_was_started(tmp_path: Path) -> None:
    file = tmp_path / "003.py"
    ours, other = "from voice_agent.models import Base", "from sqlalchemy import text"
    use = "text(Base)"
    file.write_text(f"{ours}\n{other}\n\n{use}\n", "utf-8")
    call = [sys.executable, "-m", "voice_agent.revision_form", file.name, ROOT / "pyproject.toml"]

    subprocess.run(call, cwd=tmp_path, check=True, timeout=60)

    assert file.read_text("utf-8") == f"{other}\n\n{ours}\n\n{use}\n"


def test_without_ruff_a_revision_stays_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "003.py"
    file.write_text("a = 'one'\n", "utf-8")
    # -S: without the packages of the environment
    call = [sys.executable, "-S", revision_form.__file__, str(file), str(ROOT / "pyproject.toml")]

    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=60)

    assert (done.returncode, done.stderr, file.read_text("utf-8")) == (0, "", "a = 'one'\n")
    subprocess.run([call[0], *call[2:]], check=True, timeout=60)
    assert file.read_text("utf-8") == 'a = "one"\n'
