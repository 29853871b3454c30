"""nbval holds the notebooks to their stored outputs: green as they are, red when one is wrong."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import NOTEBOOKS, ROOT, PrivateProject, read_notebook
from regenerate import main as regenerate_main
from regenerate import regenerate

CLONED = ("alembic.ini", "lib", "migrations", "notebooks", "pyproject.toml", "tests/notebooks")
TIMEOUT_S = 240


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The checkout's files in another folder, as a fresh clone has them."""
    folder = tmp_path / "clone"
    (folder / "tests").mkdir(parents=True)
    for name in CLONED:
        if (ROOT / name).is_dir():
            skip = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=skip)
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


def _nbval(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Type `pytest --nbval` in a folder of a clone, without further options."""
    clone = folder.parent if folder.name == "notebooks" else folder
    command = [sys.executable, "-m", "pytest", "--nbval", "--color=no", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(clone / "lib")}
    environment.pop("PLAYBOOK_SANDBOX", None)
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False,
        timeout=TIMEOUT_S,
    )  # fmt: skip


def _one_row_more(path: Path) -> None:
    """Change one number of rows in an upgrade's stored comparison, everywhere it is shown."""
    text = path.read_text("utf-8")
    assert "39,994" in text
    path.write_text(text.replace("39,994", "39,995"), "utf-8")


def _leftovers(folder: Path) -> set[str]:
    return {name for name in ("runs", "backups") if (folder / name).exists()}


def test_notebooks_are_green_in_either_order_and_leave_nothing(clone: Path) -> None:
    forwards = _nbval(clone, "notebooks/status.ipynb", "notebooks/upgrade.ipynb")
    backwards = _nbval(clone / "notebooks", "upgrade.ipynb", "status.ipynb")

    assert forwards.returncode == 0, forwards.stdout
    assert backwards.returncode == 0, backwards.stdout
    assert _leftovers(clone) == set()


def test_one_row_more_in_a_stored_result_is_red_and_the_unchanged_copy_is_green(
    clone: Path,
) -> None:
    changed = clone / "notebooks" / "changed.ipynb"
    shutil.copy2(clone / "notebooks" / "upgrade.ipynb", changed)
    _one_row_more(changed)

    done = _nbval(clone, "-q", "notebooks/changed.ipynb", "notebooks/upgrade.ipynb")

    failed = re.findall(r"^FAILED (\S+?)::Cell (\d+)", done.stdout, re.MULTILINE)
    assert done.returncode == 1, done.stdout
    assert {file for file, _ in failed} == {"notebooks/changed.ipynb"}
    assert "39,995" in done.stdout


def test_regenerating_leaves_no_diff_when_nothing_changed(
    clone: Path, project: PrivateProject
) -> None:
    for name in ("status", "upgrade"):
        path = clone / "notebooks" / f"{name}.ipynb"

        assert not regenerate(path, project)
        assert path.read_bytes() == (NOTEBOOKS / path.name).read_bytes()


def test_regenerating_corrects_a_wrong_result_and_touches_nothing_else(
    clone: Path, project: PrivateProject
) -> None:
    path = clone / "notebooks" / "backup.ipynb"
    before = path.read_text("utf-8")
    path.write_text(before.replace("56,995 in 4 tables", "56,996 in 4 tables"), "utf-8")
    outcome = read_notebook(path).cells[-1].outputs

    assert regenerate(path, project)

    assert "56,996" not in path.read_text("utf-8")
    assert read_notebook(path).cells[-1].outputs == outcome


def test_check_form_accepts_the_stored_notebooks_and_names_what_is_not_in_form(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = clone / "notebooks"
    path = folder / "status.ipynb"
    assert regenerate_main(["--check-form", "--folder", str(folder)]) == 0

    text = path.read_text("utf-8")
    path.write_text(text.replace('"execution_count": 3', '"execution_count": null'), "utf-8")

    assert regenerate_main(["--check-form", "--folder", str(folder)]) == 1
    assert "status.ipynb: its execution counts are [1, 2, None," in capsys.readouterr().err
