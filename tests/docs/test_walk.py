"""The guide's commands run as they are written, one after the other, on new databases.

They share one kernel: one for each would take most of the time. A sample of them is always run, and
all of them with PLAYBOOK_WHOLE_GUIDE=1.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_lines import NOTEBOOKS, Command, commands
from harness import QUIET_KERNEL, PrivateProject, plain_outputs, private_project
from jupyter_client.manager import KernelManager
from jupyter_core.utils import ensure_event_loop
from pages import Section
from papermill import execute_notebook
from papermill.cli import _resolve_type
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from troubles import url_of

from playbook.database import connect, fetch
from playbook.targets import Target

SANDBOX_CHAPTER, PRODUCTION_CHAPTER = "commands", "procedures"
PRODUCTION = "appdb"
BASE, FIRST, SECOND = "000_baseline", "001_add_auth_fields", "002_add_rag_tables"
REACHED = {
    "status": [BASE],
    "preview": [BASE],
    "upgrade-revision": [FIRST],
    "downgrade-one": [BASE],
    "upgrade-one": [FIRST],
    "upgrade-head": [SECOND],
    "downgrade-revision": [BASE],
    "upgrade-two": [SECOND],
    "restore": [SECOND],
    "downgrade-base": [],
    "init": [SECOND],
    "stamp": ["003_index_chunks_by_language"],
    "branches": ["004_merge_heads"],
    "checklist": [SECOND],
    "planned": [FIRST],
    # Step 4 restores the newest backup: that of the rollback in step 3.
    "emergency": [FIRST],
}
"""Where the database is after the commands of some sections."""


FORGET = "globals().pop('run', None)\n%reset -f in"
"""What the next notebook may not see of the one before: its run, and what papermill injected."""

IS_WHOLE = os.environ.get("PLAYBOOK_WHOLE_GUIDE") == "1"
SAMPLE = {
    "status", "upgrade-revision", "downgrade-one", "upgrade-two", "manual", "stamp", "branches",
    "ingest",
}  # fmt: skip
"""Sections of the first chapter that are always gone through: one of each kind that changes
something. Each command takes a second or two."""
ALWAYS = {"preview", "upgrade", "rollback", "restore"}
"""Runbooks that are always run in the chapter on production."""


class SharedKernelEngine(NBClientEngine):
    """papermill's engine, on a kernel that goes on living."""

    kernel: KernelManager

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> None:
        """Execute a notebook as papermill does, on the kernel that the others had."""
        client = cls.kernel.blocking_client()
        client.start_channels()
        client.wait_for_ready(timeout=60)
        client.execute_interactive(FORGET, silent=True, timeout=60)
        client.stop_channels()
        running = PapermillNotebookClient(nb_man, km=cls.kernel, timeout=120)
        try:
            running.execute()
        finally:
            running.kc.stop_channels()  # it leaves a kernel that is not its own, and its sockets


@dataclass(frozen=True)
class Walk:
    """A copy of the project, in which the guide's commands are given."""

    project: PrivateProject
    output: Path

    def words(self, command: Command) -> list[str]:
        """Return a command's words as the shell hands them on."""
        text = f"{command.words[0]}() {{ printf '%s\\n' \"$@\"; }}; {command.text}"
        done = subprocess.run(
            ["sh", "-c", text], cwd=self.project.folder, capture_output=True, text=True, check=True
        )
        return [command.words[0], *done.stdout.splitlines()]

    def give(self, command: Command) -> str:
        """Give a command and return what it said."""
        words = self.words(command)
        if words[0] == "alembic":
            program = Path(sys.executable).with_name("alembic")
            done = subprocess.run(
                [program, *words[1:]], cwd=self.project.folder, env=self.project.environment,
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            return done.stdout
        given = {
            words[place + 1]: words[place + 2] if word == "-r" else _resolve_type(words[place + 2])
            for place, word in enumerate(words)
            if word in {"-r", "-p"}
        }
        # Jupyter makes an event loop for each thread and never closes it.
        with closing(ensure_event_loop()):
            done_notebook = execute_notebook(
                command.notebook, self.output, given, engine_name="shared", progress_bar=False,
                cwd=str(self.project.folder),
            )  # fmt: skip
        return plain_outputs(done_notebook)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateProject]:
    """A copy of the project, as a clone is, with servers of its own."""
    with private_project() as made:
        yield made


@pytest.fixture(scope="module")
def production(project: PrivateProject) -> Target:
    """A database that `production` means: the application's, before any revision."""
    return project.target(f"sandbox:{PRODUCTION}")


@pytest.fixture(scope="module")
def walk(
    project: PrivateProject, production: Target, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Walk]:
    """What gives the commands."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(
        extra_arguments=[QUIET_KERNEL],
        cwd=str(project.folder),
        env={**project.environment, "DATABASE_URL": url_of(production)},
    )
    SharedKernelEngine.kernel = manager
    papermill_engines.register("shared", SharedKernelEngine)
    try:
        yield Walk(project, tmp_path_factory.mktemp("walk") / "out.ipynb")
    finally:
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def chapter(guide: list[Section], anchor: str) -> list[Section]:
    """Return a chapter's sections."""
    start = next(place for place, one in enumerate(guide) if one.anchor == anchor)
    for stop in range(start + 1, len(guide)):
        if guide[stop].level <= guide[start].level:
            return guide[start:stop]
    return guide[start:]


def place_of(target: Target) -> list[str]:
    """Return where a database is; nothing without a version table."""
    with connect(target) as connection:
        return [name for (name,) in fetch(connection, "SELECT version_num FROM alembic_version")]


def go_through(walk: Walk, sections: list[Section], database: str, leave_out: set[str]) -> int:
    """Give the commands of some sections and look where each has led; return how many.

    Args:
        database: whose place is looked at.
        leave_out: runbooks that are not run.
    """
    given = 0
    for section in sections:
        for command in commands([section]):
            notebook = command.notebook
            if command.words[0] == "export" or (notebook and notebook.stem in leave_out):
                continue
            said = walk.give(command)
            assert notebook is None or "[succeeded]" in said, command.text
            given += 1
        if section.anchor in REACHED:
            assert place_of(walk.project.target(database)) == REACHED[section.anchor], (
                section.anchor
            )
    return given


# First, as the other one adds revisions to the project.
def test_procedures_for_production_run_as_they_stand(walk: Walk, guide: list[Section]) -> None:
    leave_out = set() if IS_WHOLE else {path.stem for path in NOTEBOOKS.glob("*.ipynb")} - ALWAYS

    given = go_through(walk, chapter(guide, PRODUCTION_CHAPTER), f"sandbox:{PRODUCTION}", leave_out)

    assert given >= 9
    assert list((walk.project.folder / "runs").glob("*-rollback-production/salvage/load.sql"))


def test_commands_of_the_first_chapter_run_as_they_stand(walk: Walk, guide: list[Section]) -> None:
    sections = [one for one in chapter(guide, SANDBOX_CHAPTER) if IS_WHOLE or one.anchor in SAMPLE]

    assert go_through(walk, sections, "sandbox", set()) >= 11


def test_nothing_of_the_words_is_lost_on_the_way_through_the_shell(
    walk: Walk, guide: list[Section]
) -> None:
    for command in commands(guide):
        if command.notebook and "$(" not in command.text:
            assert walk.words(command) == shlex.split(re.sub(r"\s+", " ", command.text))
