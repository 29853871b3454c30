"""Every notebook by the real `papermill` command, from another folder: good and bad parameters."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import (
    NOTEBOOKS,
    RUNBOOKS,
    PrivateProject,
    code_cells,
    plain_outputs,
    read_notebook,
    stored_state,
)
from nbformat import NotebookNode

from playbook.database import connect, fetch_value
from playbook.dump import dump_schema, find_client_tools
from playbook.records import Snapshot
from playbook.snapshot import take_snapshot
from playbook.targets import Target

Papermill = Callable[..., subprocess.CompletedProcess[str]]

UPGRADE_FILES = {
    "migration.sql",
    "receipt.json",
    "snapshot-after.json",
    "snapshot-before.json",
}
FILES = {
    "status": set(),
    "verify": set(),
    "init": {"receipt.json"},
    "backup": {"receipt.json"},
    "restore": {"receipt.json"},
    "preview": {"migration.sql", "rollback.sql", "plan.json"},
    "upgrade": UPGRADE_FILES,
    "rollback": {
        "receipt.json",
        "rollback.sql",
        "snapshot-after.json",
        "snapshot-before.json",
        "load.sql",
        "salvage.json",
        "public.rag_chunks.csv",
        "public.rag_corpora.csv",
        "public.rag_documents.csv",
    },
}
"""What each runbook leaves in its run's folder, on the state that its outputs were made on."""
TAKES_BACKUP = {"backup", "upgrade", "rollback", "restore"}
PASSWORD = "hunter2-swordfish"


@dataclass(frozen=True)
class Case:
    """Parameters that are refused, and what the sentence has to say."""

    name: str
    arguments: tuple[str, ...]
    says: tuple[str, ...]
    outcome: str = ""
    """The receipt that is left behind; none when nothing was begun."""


CASES = (
    Case("an unknown name", ("-p", "tagret", "head"), ("'tagret'", "-r target")),
    Case("text for a truth value", ("-p", "dry_run", "false"), ("dry_run", "-p dry_run False")),
    Case("a revision turned into a number", ("-p", "target", "0001"), ("-r target 0001",)),
    Case("an unknown revision", ("-r", "target", "nope"), ("'nope'", "002_add_rag_tables")),
    Case("an unknown database", ("-r", "database", "nope"), ("'nope'", "sandbox", "production")),
    Case(
        "a URL with a password",
        ("-r", "database", f"postgresql://app:{PASSWORD}@db.example/app"),
        ("holds a password", "-r database env:DATABASE_URL"),
    ),
    Case("a duration in parsecs", ("-r", "lock_timeout", "5 parsecs"), ("'5 parsecs'", "500ms")),
    Case("no such way to fail", ("-r", "on_failure", "pray"), ("'pray'", "stop or rollback")),
    Case(
        "a protected target without its confirmation",
        ("-r", "database", "guarded", "-r", "confirm", "wrong"),
        ("'guarded' is protected", "-r confirm sandbox"),
        "refused",
    ),
    Case(
        "a missing alembic.ini",
        ("-r", "alembic_ini", "/nowhere/alembic.ini"),
        ("/nowhere/alembic.ini", "-r alembic_ini"),
    ),
    Case(
        "a folder that cannot be made",
        ("-r", "output_dir", "/dev/null/runs"),
        ("/dev/null/runs", "-r output_dir"),
    ),
)


@dataclass(frozen=True)
class State:
    """All that a refused run must leave as it was."""

    schema: str
    data: Snapshot
    has_history: bool


def _state(target: Target) -> State:
    with connect(target, read_only=True) as connection:
        version = connection.server_version
        has_history = fetch_value(connection, "SELECT to_regclass('playbook.history') IS NOT NULL")
    snapshot = take_snapshot(target, ())
    schema = dump_schema(target, tools=find_client_tools(version), owners=True)
    return State(schema, _without_time(snapshot), has_history)


def _without_time(snapshot: Snapshot) -> Snapshot:
    return Snapshot(snapshot.database, "", snapshot.revisions, snapshot.tables)


def _revision(target: Target) -> str:
    with connect(target, read_only=True) as connection:
        return str(fetch_value(connection, "SELECT version_num FROM alembic_version"))


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def _only_error(notebook: NotebookNode) -> NotebookNode:
    errors = [
        output
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "error"
    ]
    assert len(errors) == 1
    return errors[0]


@pytest.fixture(scope="module")
def legacy(project: PrivateProject) -> tuple[Target, State]:
    """One legacy database for all that is refused, and its state before."""
    target = project.reset("legacy")
    return target, _state(target)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_parameter_changes_nothing_and_says_what_to_write_instead(
    case: Case,
    papermill: Papermill,
    project: PrivateProject,
    output: Path,
    legacy: tuple[Target, State],
) -> None:
    target, before = legacy

    done = papermill("upgrade", *case.arguments)

    assert done.returncode == 1
    error = _only_error(read_notebook(output))
    for words in case.says:
        assert words in error.evalue
        assert words in done.stderr
    assert error.traceback == [f"{error.ename}: {error.evalue}"]
    assert str(project.folder) not in done.stderr, "a traceback of ours"
    assert PASSWORD not in error.evalue
    assert PASSWORD not in done.stderr
    assert _state(target) == before
    assert _names(project.runs) == ({"receipt.json"} if case.outcome else set())
    assert not project.backups.exists()
    project.forget()


@pytest.mark.parametrize("name", RUNBOOKS)
def test_a_notebook_runs_from_another_folder_and_leaves_its_files(
    name: str, papermill: Papermill, project: PrivateProject, output: Path
) -> None:
    project.reset(stored_state(read_notebook(NOTEBOOKS / f"{name}.ipynb")))

    done = papermill(name)

    assert done.returncode == 0, done.stderr
    assert "[succeeded]" in plain_outputs(read_notebook(output))
    if name in FILES:
        assert _names(project.runs) == FILES[name]
        assert bool(list(project.backups.glob("*/*/manifest.json"))) == (name in TAKES_BACKUP)


def test_upgrade_to_a_revision_by_its_whole_id(
    papermill: Papermill, project: PrivateProject
) -> None:
    target = project.reset("legacy")

    done = papermill("upgrade", "-r", "database", "sandbox", "-r", "target", "002_add_rag_tables")

    assert done.returncode == 0, done.stderr
    assert _revision(target) == "002_add_rag_tables"


def test_a_dry_run_changes_nothing_and_leaves_nothing(
    papermill: Papermill, project: PrivateProject, output: Path
) -> None:
    target = project.reset("legacy")
    before = _state(target)

    done = papermill("upgrade", "-p", "dry_run", "True")

    assert done.returncode == 0, done.stderr
    assert "this is a dry run" in plain_outputs(read_notebook(output))
    assert _state(target) == before
    assert not project.runs.exists()


def test_a_second_upgrade_has_nothing_to_do(
    papermill: Papermill, project: PrivateProject, output: Path
) -> None:
    target = project.reset("head")
    before = _state(target)

    done = papermill("upgrade")

    assert done.returncode == 0, done.stderr
    assert "the database is there already, or past it" in plain_outputs(read_notebook(output))
    assert _state(target) == before


def test_output_dir_takes_the_run(
    papermill: Papermill, project: PrivateProject, tmp_path: Path
) -> None:
    project.reset("legacy")

    done = papermill("upgrade", "-r", "output_dir", str(tmp_path / "elsewhere"))

    assert done.returncode == 0, done.stderr
    assert _names(tmp_path / "elsewhere") == UPGRADE_FILES
    assert not project.runs.exists()
