"""Every notebook by the real `papermill` command, from another folder: what good runs leave."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import (
    BROKEN,
    CHANGED,
    NOTEBOOKS,
    RUNBOOKS,
    PrivateProject,
    plain_outputs,
    read_notebook,
    stored_state,
)

from playbook.database import connect, fetch_value
from playbook.dump import dump_schema, find_client_tools
from playbook.records import Snapshot
from playbook.snapshot import take_snapshot
from playbook.targets import Target

Papermill = Callable[..., subprocess.CompletedProcess[str]]

UPGRADE_FILES = {
    "declared.json",
    "migration.sql",
    "receipt.json",
    "snapshot-after.json",
    "snapshot-before.json",
}
FILES = {
    "status": set(),
    "verify": set(),
    "init": {"receipt.json"},
    "author": {"receipt.json", "003_add_users_time_zone.py"},
    "backup": {"receipt.json"},
    "restore": {"receipt.json"},
    "ingest": {"receipt.json", "files.csv", "undo.sql"},
    "rehearse": {"receipt.json", "rehearsal.json"},
    "repair": set(),
    "preview": {"migration.sql", "rollback.sql", "plan.json"},
    "upgrade": UPGRADE_FILES,
    "rollback": {
        "declared.json",
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
MODEL_TO_REVISION_S = 60.0
"""How long a person waits for a tested revision."""
TAKES_BACKUP = {"backup", "upgrade", "rollback", "restore"}


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


def test_a_changed_model_is_a_tested_revision_within_a_minute(
    papermill: Papermill, project: PrivateProject, output: Path
) -> None:
    target = project.reset(CHANGED)
    before = _state(target)
    began = time.monotonic()

    done = papermill("author", "-r", "message", "add_users_time_zone")

    assert time.monotonic() - began < MODEL_TO_REVISION_S
    assert done.returncode == 0, done.stderr
    text = plain_outputs(read_notebook(output))
    assert "Up, down and up again on a copy" in text
    assert "ck_conversation_sessions_channel_known" in text
    assert _state(target) == before
    migrations = project.folder / "migrations"
    assert (migrations / "versions" / "003_add_users_time_zone.py").is_file()
    assert (migrations / "checks" / "003_add_users_time_zone.sql").is_file()
    assert papermill("upgrade").returncode == 0
    assert _revision(target) == "003_add_users_time_zone"


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


def test_repair_mends_when_told_and_shows_what_it_has_run(
    papermill: Papermill, project: PrivateProject, output: Path
) -> None:
    target = project.reset(BROKEN)

    done = papermill("repair", "-r", "apply", "stamp")

    assert done.returncode == 0, done.stderr
    assert _revision(target) == "002_add_rag_tables"
    assert "The way back: psql -f" in plain_outputs(read_notebook(output))
    assert _names(project.runs) == {"effect.sql", "receipt.json", "undo.sql"}


def test_output_dir_takes_the_run(
    papermill: Papermill, project: PrivateProject, tmp_path: Path
) -> None:
    project.reset("legacy")

    done = papermill("upgrade", "-r", "output_dir", str(tmp_path / "elsewhere"))

    assert done.returncode == 0, done.stderr
    assert _names(tmp_path / "elsewhere") == UPGRADE_FILES
    assert not project.runs.exists()
