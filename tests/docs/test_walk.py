"""The guide's commands run as they are written, one after the other, on new databases.

They share one kernel, which forgets everything between two notebooks: a kernel for each would take
most of the time.
"""

from __future__ import annotations

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
from command_lines import Command, commands
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
    "checklist": [SECOND],
    "planned": [FIRST],
    "emergency": [BASE],
}
"""Where the database is after the commands of some sections."""


class SharedKernelEngine(NBClientEngine):
    """papermill's engine, on a kernel that goes on living."""

    kernel: KernelManager

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> None:
        """Execute a notebook as papermill does, in a namespace that is as new."""
        client = cls.kernel.blocking_client()
        client.start_channels()
        client.wait_for_ready(timeout=60)
        client.execute_interactive("%reset -f", silent=True, timeout=60)
        client.execute_interactive("%reset -f in out", silent=True, timeout=60)
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


def go_through(walk: Walk, guide: list[Section], anchor: str, database: str) -> int:
    """Give all commands of a chapter and look where each section has led; return how many."""
    given = 0
    for section in chapter(guide, anchor):
        for command in commands([section]):
            if command.words[0] == "export":
                continue
            said = walk.give(command)
            assert command.notebook is None or "[succeeded]" in said, command.text
            given += 1
        if section.anchor in REACHED:
            assert place_of(walk.project.target(database)) == REACHED[section.anchor]
    return given


def test_commands_of_the_first_chapter_run_as_they_stand(walk: Walk, guide: list[Section]) -> None:
    assert go_through(walk, guide, SANDBOX_CHAPTER, "sandbox") >= 14


def test_procedures_for_production_run_as_they_stand(walk: Walk, guide: list[Section]) -> None:
    assert go_through(walk, guide, PRODUCTION_CHAPTER, f"sandbox:{PRODUCTION}") >= 16
    kept = list((walk.project.folder / "runs").glob("*-rollback-production/salvage/load.sql"))
    assert kept


def test_nothing_of_the_words_is_lost_on_the_way_through_the_shell(
    walk: Walk, guide: list[Section]
) -> None:
    for command in commands(guide):
        if command.notebook and "$(" not in command.text:
            assert walk.words(command) == shlex.split(re.sub(r"\s+", " ", command.text))
