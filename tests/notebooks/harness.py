"""A private copy of the project, so that executing its notebooks leaves the checkout alone.

The playbook keeps `runs/`, `backups/` and its sandbox by the folder that it is imported from. A
kernel that imports it from a copy of `lib/` therefore writes into that copy, whatever the
notebook's parameters say, and no run here ever sees the receipts of another.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from psycopg2.errors import UniqueViolation

from playbook import sandbox
from playbook.archive import take_backup
from playbook.database import connect, fetch, server_info
from playbook.migrate import Alembic
from playbook.targets import Target, load_target

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
SANITIZER = NOTEBOOKS / "nbval.cfg"
RUNBOOKS = (
    "onboarding",
    "status",
    "init",
    "author",
    "backup",
    "preview",
    "rehearse",
    "upgrade",
    "verify",
    "rollback",
    "restore",
    "ingest",
    "repair",
)
MODULES = {"onboarding": "playbook.tour", "ingest": "voice_agent.ingest"}
"""What a notebook's cells call, where it is not the module of the playbook that is named as it."""
BACKED_UP = "backed up"
"""The state of a sandbox at head, of which there is a backup."""
CHANGED = "models changed"
"""The state of a sandbox at head, where somebody has changed the models since."""
MODEL_CHANGES = {
    "    display_name: Mapped[str | None]\n": "    display_name: Mapped[str | None]\n"
    '    time_zone: Mapped[str] = mapped_column(server_default="UTC")\n',
    "channel IN ('phone', 'web', 'app')": "channel IN ('phone', 'web', 'app', 'desk')",
}
"""What stands in models.py, and what a person would write in its place."""
BEHIND = "one revision behind"
"""The state of a sandbox whose last revision is pending, rows in the tables before it."""
BROKEN = "broken"
"""The state of a sandbox at head whose version table names a lost revision, beside an invalid
index."""
SEEDED = {BACKED_UP: "head", BEHIND: "legacy", BROKEN: "head", CHANGED: "head"}
"""The seeded state that each of these is made of."""
CELL_TIMEOUT_S = 120
QUIET_KERNEL = "--IPKernelApp.log_level=ERROR"
"""Without it each kernel warns that it talks to its own machine without encryption."""
_COPIED = ("alembic.ini", "lib", "migrations", "pyproject.toml")
_PAIR = re.compile(r"^regex: (.*)$\n^replace: (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class PrivateProject:
    """A copy of what the playbook needs, with a sandbox server of its own."""

    folder: Path

    @property
    def alembic_ini(self) -> Path:
        """The copy's file: ``alembic_ini=""`` of a notebook that runs here."""
        return self.folder / "alembic.ini"

    @property
    def variables(self) -> dict[str, str]:
        """What a kernel needs in its environment to import and use the copy."""
        path = [str(self.folder / "lib"), os.environ.get("PYTHONPATH", "")]
        return {
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "PLAYBOOK_SANDBOX": str(self.folder / "sandbox"),
        }

    @property
    def environment(self) -> dict[str, str]:
        """The caller's environment with `variables`, for a child process."""
        return {**os.environ, **self.variables}

    @property
    def runs(self) -> Path:
        """Where runs go by default."""
        return self.folder / "runs"

    @property
    def backups(self) -> Path:
        """Where backups go by default."""
        return self.folder / "backups"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Put `variables` into this process's environment meanwhile: kernels inherit it."""
        before = {name: os.environ.get(name) for name in self.variables}
        os.environ.update(self.variables)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def target(self, database: str = "sandbox") -> Target:
        """Return a target of the copy, ready to connect to; made as ``legacy`` if it is new."""
        with self.entered():
            return sandbox.open_target(load_target(database, self.alembic_ini))

    def reset(self, state: str, database: str = "sandbox") -> Target:
        """Make a database anew and forget every run and backup; return its target."""
        self.forget()
        self.write_models(changed=state == CHANGED)
        with self.entered():
            target = sandbox.reset_database(
                load_target(database, self.alembic_ini), SEEDED.get(state, state)
            )
        if state == BACKED_UP:
            back_up(target)
        if state == BEHIND:
            go_on(target)
        if state == BROKEN:
            break_it(target)
        return target

    def write_models(self, *, changed: bool) -> None:
        """Put the application's models as the project has them, or as somebody has changed them."""
        models = Path("lib", "voice_agent", "models.py")
        text = (ROOT / models).read_text("utf-8")
        for old, new in MODEL_CHANGES.items() if changed else ():
            text = text.replace(old, new)
        (self.folder / models).write_text(text, "utf-8")

    def forget(self) -> None:
        """Delete what runs have left, also in the project."""
        for name in ("versions", "checks"):
            known = {path.name for path in (ROOT / "migrations" / name).iterdir()}
            for path in (self.folder / "migrations" / name).iterdir():
                if path.name not in known:
                    path.unlink() if path.is_file() else shutil.rmtree(path)
        for folder in (self.runs, self.backups):
            if folder.exists():
                shutil.rmtree(folder)

    def remove(self) -> None:
        """Stop the copy's server and delete everything."""
        with self.entered():
            sandbox.remove(self.folder)
        shutil.rmtree(self.folder)


def back_up(target: Target) -> None:
    """Take a backup of a database, where `upgrade` and `backup` keep theirs."""
    with connect(target, read_only=True) as connection:
        server = server_info(connection)
        rows = fetch(connection, "SELECT version_num FROM alembic_version ORDER BY version_num")
    take_backup(target, server, [row[0] for row in rows], directory="backups")


def go_on(target: Target) -> None:
    """Apply the pending revisions but the last."""
    with connect(target, read_only=True) as connection:
        server = server_info(connection)
    with Alembic(target) as alembic:
        alembic.open(target, server, session={})
        for step in alembic.plan("upgrade", "head", alembic.current())[:-1]:
            alembic.run(step, expected_current=alembic.current(), session={})


def break_it(target: Target) -> None:
    """Name a revision that no file has, and let a concurrent build fail on its rows."""
    build = "CREATE UNIQUE INDEX CONCURRENTLY uq_users_display_name ON users (display_name)"
    with connect(target) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE alembic_version SET version_num = '003_add_tags'")
        with suppress(UniqueViolation):
            cursor.execute(build)


def make_project() -> PrivateProject:
    """Copy the project into a new folder that the server's OS user can reach, too."""
    folder = Path(tempfile.mkdtemp(prefix="playbook-nb-", dir="/tmp")).resolve()
    folder.chmod(0o711)
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name)
        else:
            shutil.copy2(source, folder / name)
    return PrivateProject(folder)


@contextmanager
def private_project() -> Iterator[PrivateProject]:
    """Yield a copy of the project and delete it, and its server, at the end."""
    project = make_project()
    try:
        yield project
    finally:
        project.remove()


def read_notebook(path: Path) -> NotebookNode:
    """Return a notebook of format 4."""
    return nbformat.read(path, as_version=4)


def stored_state(notebook: NotebookNode) -> str:
    """Return the state of the sandbox on which a notebook's stored outputs were made."""
    return str(notebook.metadata.playbook.sandbox)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the code cells, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def plain_outputs(notebook: NotebookNode) -> str:
    """Return everything that a notebook's outputs say in plain text, in order."""
    parts = []
    for cell in code_cells(notebook):
        for output in cell.outputs:
            parts.append(output.get("text", ""))
            parts.append(output.get("data", {}).get("text/plain", ""))
            parts.append(output.get("evalue", ""))
    return "\n".join(filter(None, parts))


def read_sanitizer(path: Path = SANITIZER) -> list[tuple[str, str]]:
    """Return the pairs of (pattern, replacement), as nbval reads them."""
    return _PAIR.findall(path.read_text("utf-8"))
