"""What import-linter's contracts (pyproject.toml) cannot say about who imports what."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from architecture import PAGE, renewed

PLAYBOOK = Path(__file__).parents[2] / "lib" / "playbook"
RUNNER_MAY_IMPORT = {"alembic", "sqlalchemy", *sys.stdlib_module_names}


def imported_packages(path: Path) -> set[str]:
    """Return the top-level name of everything that a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("playbook" if node.level else str(node.module).partition(".")[0])
    return found


@pytest.mark.parametrize("name", ["runner", "drafting", "guarding"])
def test_what_runs_in_other_projects_imports_only_alembic_sqlalchemy_and_the_standard_library(
    name,
):
    assert imported_packages(PLAYBOOK / f"{name}.py") <= RUNNER_MAY_IMPORT


def test_every_module_of_the_playbook_has_its_layer(request):
    contract = request.config.rootpath / "pyproject.toml"
    layers = contract.read_text(encoding="utf-8").split("layers = [")[1].split("]")[0]

    modules = {path.stem for path in PLAYBOOK.glob("*.py")} - {"__init__"}

    assert {name for name in modules if f"({name})" not in layers} == set()


def test_the_page_lists_every_module_with_the_concern_that_it_states():
    assert PAGE.read_text("utf-8") == renewed(), "run: python tests/setup/architecture.py"
