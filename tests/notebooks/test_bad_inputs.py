"""What somebody may write by mistake, over all notebooks: one sentence, and nothing is changed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import chdir, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from harness import NOTEBOOKS, RUNBOOKS, PrivateProject, code_cells, read_notebook
from jupyter_core.utils import ensure_event_loop
from nbformat import NotebookNode
from papermill import execute_notebook
from papermill.exceptions import PapermillExecutionError

from builders import ENV, SECOND, TABLE, URL, Script, staging_project
from playbook.database import connect, fetch
from playbook.dump import dump_schema, find_client_tools
from playbook.records import TableSnapshot
from playbook.snapshot import take_snapshot
from playbook.targets import Target

Make = Callable[[Path, str], Mapping[str, object]]
"""Writes files into a folder and returns the parameters; it is told a URL of the database."""

PASSWORD = "hunter2-swordfish"
COMMAND_TIMEOUT_S = 120
TABLES = "SELECT datname FROM pg_database ORDER BY datname"
LONGEST = 700
"""Characters of a sentence that somebody can still read."""
SQL = "'; DROP TABLE users; --"


@dataclass(frozen=True, eq=False)
class Case:
    """Parameters that are refused, and what the sentence has to say."""

    notebook: str
    name: str
    parameters: Mapping[str, object]
    says: tuple[str, ...]
    error: str = "SettingsError"
    receipt: bool = False
    """Whether a receipt is left, as a guard refused what could have been begun."""
    make: Make | None = None


def project_of(
    parameters: Mapping[str, object] | None = None,
    *,
    revisions: Mapping[str, Script] | None = None,
    after: Callable[[Path], object] = lambda folder: None,
    **options: str,
) -> Make:
    """Return what writes a small project for the database, and then breaks it."""

    def make(folder: Path, url: str) -> Mapping[str, object]:
        project = staging_project(folder / "project", revisions or {"a1": TABLE}, **options)
        after(project.folder)
        return {"database": url, "alembic_ini": str(project.ini), **(parameters or {})}

    return make


def ini(text: str | bytes) -> Make:
    """Return what writes an alembic.ini and nothing else."""

    def make(folder: Path, url: str) -> Mapping[str, object]:
        path = folder / "alembic.ini"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return {"database": url, "alembic_ini": str(path)}

    return make


def file(parameter: str, text: str, name: str = "file") -> Make:
    """Return what writes a file and names it in a parameter."""

    def make(folder: Path, url: str) -> Mapping[str, object]:
        (folder / name).write_text(text, "utf-8")
        return {parameter: str(folder / name)}

    return make


def folder_for(parameter: str, **files: str) -> Make:
    """Return what makes a folder with some files and names it in a parameter."""

    def make(folder: Path, url: str) -> Mapping[str, object]:
        (folder / "made").mkdir()
        for name, text in files.items():
            (folder / "made" / name.replace("_json", ".json")).write_text(text, "utf-8")
        return {parameter: str(folder / "made")}

    return make


def replaced(**parts: str) -> Make:
    """Return what names the database by its URL with some of libpq's keywords added."""

    def make(folder: Path, url: str) -> Mapping[str, object]:
        more = "&".join(f"{key}={quote(value, safe='')}" for key, value in parts.items())
        return {"database": f"{url}&{more}"}

    return make


def revision(name: str, text: str) -> Callable[[Path], object]:
    """Return what writes a revision file as it stands."""
    return lambda folder: (folder / "migrations" / "versions" / f"{name}.py").write_text(text)


def env(text: str) -> str:
    return ENV.format(before=text, settings="", url=URL, engine="")


BY_COMMAND = (
    Case("upgrade", "an unknown name", {"tagret": "head"}, ("'tagret'", "-r target")),
    Case("upgrade", "text for a truth", {"dry_run": "false"}, ("dry_run", "-p dry_run False")),
    Case("upgrade", "a revision turned into a number", {"target": 1}, ("-r target 0001",)),
    Case(
        "upgrade", "a URL with a password",
        {"database": f"postgresql://app:{PASSWORD}@db.example/app"},
        ("holds a password", "-r database env:DATABASE_URL"),
    ),
    Case(
        "upgrade", "a protected target without its confirmation",
        {"database": "guarded", "confirm": "wrong"},
        ("'guarded' is protected", "-r confirm sandbox"), "GuardRefused", receipt=True,
    ),
    Case(
        "status", "a missing alembic.ini", {"alembic_ini": "/nowhere/alembic.ini"},
        ("/nowhere/alembic.ini", "-r alembic_ini"),
    ),
    Case(
        "upgrade", "a folder that cannot be made", {"output_dir": "/dev/null/runs"},
        ("/dev/null/runs", "-r output_dir"),
    ),
    Case(
        "onboarding", "a database that is no sandbox", {}, ("is not a sandbox",), "GuardRefused",
        make=replaced(connect_timeout="5"),
    ),
    Case("rollback", "the wrong direction", {"target": "head"}, ("'head'", "`upgrade`")),
    Case("backup", "a number that is text", {"jobs": "many"}, ("jobs='many'", "-p jobs")),
)  # fmt: skip
"""Those that the real command runs, with its exit code."""

IN_PROCESS = (
    # target
    Case("upgrade", "an unknown revision", {"target": "nope"}, ("'nope'", "002_add_rag_tables")),
    Case("upgrade", "a prefix of several", {"target": "00"}, ("'00' matches several", "001_add")),
    Case("upgrade", "the way back", {"target": "base"}, ("'base'", "`rollback`")),
    Case("upgrade", "an empty target", {"target": ""}, ("target=''", "-r target")),
    Case("upgrade", "SQL for a revision", {"target": SQL}, ("DROP TABLE users", "-r target")),
    Case("upgrade", "a list for a revision", {"target": ["head"]}, ("target=['head']", "text")),
    Case("upgrade", "an id that is a float", {"target": float("inf")}, ("-r target ID",)),
    Case("upgrade", "a very long target", {"target": "x" * 5000}, ("5000 characters", "-r target")),
    Case("upgrade", "odd letters", {"target": "hé\u200bad\n💥"}, ("target=", "-r target")),
    Case("upgrade", "an unknown branch", {"target": "nope@head"}, ("'nope'", "-r target")),
    Case("upgrade", "too many steps", {"target": "+99"}, ("'+99'", "2 are pending")),
    Case("rollback", "too many steps back", {"target": "-99"}, ("'-99'", "1 is applied")),
    Case("rollback", "steps as a number", {"target": -1}, ("-r target -1",)),
    Case("rollback", "a revision that is not applied", {"target": "002_add_rag_tables"}, ("002",)),
    Case("rollback", "a zero", {"target": "-0"}, ("'-0'",)),
    Case("preview", "nothing for a revision", {"target": None}, ("target=None", "text")),
    Case("preview", "an unknown method", {"method": "guess"}, ("'guess'", "offline or observed")),
    Case("preview", "a path for a revision", {"target": "../../etc/passwd"}, ("-r target",)),
    # database
    Case("upgrade", "an unknown database", {"database": "nope"}, ("'nope'", "production")),
    Case("status", "an empty database", {"database": ""}, ("-r database",)),
    Case("status", "a number for a database", {"database": 5432}, ("-r database",)),
    Case("verify", "MySQL", {"database": f"mysql://root:{PASSWORD}@db/x"}, ("mysql", "postgresql://")),
    Case("preview", "SQLite", {"database": "sqlite:///app.db"}, ("sqlite", "postgresql://")),
    Case("backup", "a variable not set", {"database": "env:NOT_SET"}, ("'NOT_SET'", "export")),
    Case("backup", "a service not known", {"database": "service:nope"}, ("nope",), "CannotConnect"),
    Case(
        "status", "a port where nobody listens", {"database": "postgresql://a@127.0.0.1:1/a"},
        ("127.0.0.1", "host and port"), "CannotConnect",
    ),
    Case(
        "rollback", "a host that is not there", {"database": "postgresql://a@db.invalid/a"},
        ("db.invalid", "host and port"), "CannotConnect",
    ),
    Case("init", "a name of the sandbox's own", {"database": "sandbox:template1"}, ("template1",)),
    Case("init", "a name too long", {"database": f"sandbox:{'x' * 64}"}, ("63 bytes",)),
    Case("upgrade", "SQL for a database", {"database": SQL}, ("names no target",)),
    Case(
        "upgrade", "a database not there", {}, ("does not exist", "createdb"), "CannotConnect",
        make=replaced(dbname="nope"),
    ),
    Case(
        "verify", "a user not there", {}, ("nobody_such", "role"), "CannotConnect",
        make=replaced(user="nobody_such"),
    ),
    Case("status", "a URL that is none", {"database": "postgresql://a:b:c@d:e/f"}, ("libpq",)),
    # alembic.ini and what it leads to
    Case("status", "an empty alembic.ini", {}, ("script_location",), make=ini("")),
    Case("status", "bytes for an alembic.ini", {}, ("alembic.ini",), make=ini(b"\xff\xfe\0[x")),
    Case("upgrade", "text for an alembic.ini", {}, ("line",), make=ini("what is\nthis\n")),
    Case("status", "a folder for an alembic.ini", {"alembic_ini": "/"}, ("-r alembic_ini",)),
    Case(
        "preview", "an alembic.ini without its folder", {}, ("script_location",),
        make=ini("[alembic]\n"),
    ),
    Case(
        "upgrade", "a folder of scripts not there", {}, ("/nowhere/scripts",),
        make=ini("[alembic]\nscript_location = /nowhere/scripts\n"),
    ),
    Case(
        "status", "an option not known", {}, ("'colour'",),
        make=ini("[alembic]\nscript_location = x\n[playbook]\ncolour = red\n"),
    ),
    Case(
        "status", "an interpreter not there", {}, ("/nowhere/python",),
        make=project_of(options="python = /nowhere/python"),
    ),
    Case("upgrade", "an env.py that raises", {}, ("ZeroDivisionError", "env.py"),
         make=project_of(before="1 / 0")),
    Case("status", "an env.py that lacks a module", {}, ("nobody_has_this", "python ="),
         make=project_of(before="import nobody_has_this")),
    Case("verify", "an env.py that does nothing", {}, ("env.py", "without running"),
         make=project_of(env="pass\n")),
    Case("rollback", "an env.py that exits", {}, ("env.py",),
         make=project_of(before="raise SystemExit(3)")),
    Case("backup", "an env.py with a syntax error", {}, ("env.py",),
         make=project_of(before="def (")),
    Case("init", "an env.py that leaves at once", {}, ("exit code 3", "alembic current"),
         make=project_of(before="import os; os._exit(3)")),
    Case("upgrade", "a revision with a syntax error", {}, ("b2.py",),
         make=project_of(after=revision("b2", "def upgrade(:\n"))),
    Case("preview", "a revision without an id", {}, ("b2_py", "alembic history"),
         make=project_of(after=revision("b2", "def upgrade(): pass\n"))),
    Case("upgrade", "two revisions of one id", {}, ("a1", "more than once"),
         make=project_of(after=revision("b2", "revision = 'a1'\ndown_revision = None\n"))),
    Case("upgrade", "revisions in a circle", {}, ("a1", "b2"),
         make=project_of(revisions={"a1": Script(down="b2"), "b2": SECOND})),
    Case("status", "a revision on one not there", {}, ("a1", "zz"),
         make=project_of(revisions={"a1": Script(down="zz")})),
    Case("init", "no database for another project", {"database": "sandbox"},
         ("No database was named",), make=ini("[alembic]\nscript_location = x\n")),
    Case("init", "sample data where there are none", {"sample_data": True}, ("no sample data",),
         make=project_of()),
    # how
    Case("upgrade", "a duration in parsecs", {"lock_timeout": "5 parsecs"}, ("parsecs", "500ms")),
    Case("upgrade", "a duration of nothing", {"lock_timeout": "0s"}, ("lock_timeout", "500ms")),
    Case("upgrade", "an empty duration", {"give_up_after": ""}, ("give_up_after", "5min")),
    Case("upgrade", "a negative duration", {"give_up_after": "-1s"}, ("give_up_after", "5min")),
    Case("upgrade", "a duration as a number", {"lock_timeout": 2}, ("-r lock_timeout",)),
    Case("upgrade", "an endless duration", {"give_up_after": f"{'9' * 400}h"}, ("give_up_after",)),
    Case("upgrade", "no such way to fail", {"on_failure": "pray"}, ("'pray'", "stop or rollback")),
    Case("upgrade", "no such backup", {"backup": "maybe"}, ("'maybe'", "always or never")),
    Case("rollback", "a truth for a backup", {"backup": True}, ("backup=True", "-r backup")),
    Case("rollback", "a number for a truth", {"dry_run": 1}, ("dry_run=1", "-p dry_run True")),
    Case("init", "text for a truth", {"drop": "yes"}, ("drop='yes'", "-p drop True")),
    Case("backup", "jobs below zero", {"jobs": -1}, ("jobs", "0")),
    Case("backup", "a truth for a number", {"jobs": True}, ("jobs=True", "-p jobs")),
    Case("backup", "half a job", {"jobs": 2.5}, ("jobs=2.5", "-p jobs")),
    Case("backup", "jobs without bound", {"jobs": 100_000}, ("jobs=100000", "0 to 32")),
    Case("backup", "a compression not known", {"compression": "zip"}, ("'zip'", "gzip:LEVEL")),
    Case("backup", "a level too high", {"compression": "gzip:10"}, ("'gzip:10'", "1 to 9")),
    Case("backup", "fewer than no backups", {"keep": -1}, ("keep", "-p keep")),
    Case("backup", "no such proof", {"verify": "maybe"}, ("'maybe'", "archive or restore")),
    Case("backup", "a folder not to be made", {"directory": "/dev/null/x"}, ("-r directory",)),
    Case("backup", "no folder", {"directory": ""}, ("directory", "-r directory")),
    Case("backup", "a file for the folder", {}, ("-r directory",), make=file("directory", "")),
    # what restore alone takes
    Case("restore", "an unknown name", {"tagret": "x"}, ("'tagret'", "Its parameters are")),
    Case("restore", "no backup there is", {}, ("No backup of", "`backup`"), "BackupFailed"),
    Case("restore", "a folder that is no backup", {}, ("manifest", "another backup"),
         "BackupFailed", make=folder_for("backup")),
    Case("restore", "a backup that is not there", {"backup": "/nowhere"}, ("/nowhere",),
         "BackupFailed"),
    Case("restore", "the live database's name", {"into": "sandbox"}, ("'sandbox' already",)),
    Case("restore", "a name too long", {"into": "x" * 64}, ("into", "63")),
    Case("restore", "a truth as text", {"swap": "true"}, ("swap='true'", "-p swap True")),
    Case("restore", "a swap of single tables", {"swap": True, "tables": "users"}, ("swap",)),
    Case("restore", "sessions to end without a swap", {"end_sessions": True}, ("end_sessions",)),
    Case("restore", "jobs below zero", {"jobs": -1}, ("jobs", "0")),
    Case("restore", "another server not known", {"to": "nope"}, ("'nope'", "sandbox")),
    Case(
        "ingest", "a database without its tables", {}, ("is at 000_baseline", "upgrade.ipynb"),
        "GuardRefused", receipt=True,
    ),
    Case("ingest", "a folder not there", {"documents": "/nowhere"}, ("/nowhere", "-r documents")),
    Case(
        "ingest", "a file for a folder", {}, ("is no folder", "-r documents"),
        make=file("documents", "text"),
    ),
    Case("ingest", "chunks too small", {"chunk_size": 1}, ("chunk_size=1", "50", "-p chunk_size")),
    Case("ingest", "chunks that only repeat", {"chunk_overlap": 700}, ("chunk_overlap", "400")),
    Case("ingest", "a number with its unit", {"max_file_mb": "50MB"}, ("'50MB'", "-p max_file_mb")),
    Case("ingest", "a time that is none", {"file_timeout": "soon"}, ("file_timeout", "soon")),
    Case("ingest", "a corpus without a name", {"corpus": ""}, ("corpus", "-r corpus")),
    # what rehearse alone takes
    Case("rehearse", "an unknown name", {"backup": "x"}, ("'backup'", "-r from_backup")),
    Case("rehearse", "a place not known", {"where": "moon"}, ("'moon'", "-r where sandbox")),
    Case("rehearse", "a way to copy not known", {"copy_by": "magic"}, ("'magic'", "template")),
    Case("rehearse", "a lock without a unit", {"lock_allowed": "300"}, ("lock_allowed", "500ms")),
    Case("rehearse", "WAL in apples", {"wal_allowed": "5 apples"}, ("wal_allowed", "500MB")),
    Case("rehearse", "a revision not there", {"target": "zz"}, ("'zz'",)),
    Case("rehearse", "one accepted that is not there", {"accept": "zz"}, ("zz", "-r accept")),
    Case("rehearse", "no backup there is", {"from_backup": "latest"},
         ("No backup of", "-r from_backup"), "BackupFailed"),
    # what repair alone takes
    Case("repair", "an unknown name", {"aply": "stamp"}, ("'aply'", "-r apply")),
    Case("repair", "no such remedy", {"apply": "magic"}, ("'magic'", "stamp")),
    Case("repair", "a remedy where nothing is wrong", {"apply": "stamp", "compare": False},
         ("'stamp'", "not fit"),
         "GuardRefused", receipt=True),
    Case("repair", "a protected target without its name",
         {"database": "guarded", "apply": "stamp"}, ("is protected", "-r confirm sandbox"),
         "GuardRefused", receipt=True),
    Case("repair", "a revision that no file has", {"revision": "nope", "compare": False},
         ("'nope'", "000_base")),
    Case("repair", "a truth as text", {"compare": "no"}, ("compare='no'", "-p compare True")),
    Case("repair", "no such place", {"place": "moon"}, ("'moon'", "sandbox or server")),
    Case("repair", "a project without scripts", {}, ("script_location",), make=ini("")),
    Case("upgrade", "a file for the runs", {}, ("-r output_dir",), make=file("output_dir", "")),
    # what author alone takes
    Case("author", "an unknown name", {"mesage": "x"}, ("'mesage'", "-r message")),
    Case("author", "a message of one word", {"message": "tags"}, ("'tags'", "add_users_time_zone")),
    Case("author", "a message that says nothing", {"message": "misc fixes"}, ("such as",)),
    Case("author", "a message that ends the title", {"message": 'add """ tags'}, ("message=",)),
    Case("author", "a number for a message", {"message": 3}, ("-r message",)),
    Case("author", "a blank one without a message", {"autogenerate": False}, ("-r message",)),
    Case("author", "a head that is none", {"head": "000_baseline"}, ("'000_baseline'", "002_add")),
    Case("author", "an id that is taken", {"rev_id": "000_baseline"}, ("rev_id", "taken")),
    Case("author", "an id of odd letters", {"rev_id": "a-b"}, ("rev_id='a-b'", "letters")),
    Case("author", "a label that is no name", {"branch_label": "a b"}, ("branch_label='a b'",)),
    Case("author", "nothing to compare with", {"against": "luck"}, ("'luck'", "auto or revisions")),
    Case("author", "SQL for old rows", {"fill": SQL}, ("fill=", "users.tier")),
    Case("author", "a size without its unit", {"test_up_to": "10"}, ("test_up_to", "500MB")),
    Case("author", "text for a truth", {"rewrite": "yes"}, ("rewrite='yes'", "-p rewrite True")),
    # what was made earlier
    Case("upgrade", "a plan not there", {"plan": "/nowhere/plan.json"}, ("/nowhere", "-r plan")),
    Case("upgrade", "garbage for a plan", {}, ("-r plan",), make=file("plan", "{'")),
    Case("upgrade", "a list for a plan", {}, ("-r plan",), make=file("plan", "[1, 2]")),
    Case("upgrade", "a folder for a plan", {}, ("-r plan",), make=folder_for("plan")),
    Case("upgrade", "the plan of another", {}, ("not the one that was reviewed",), "GuardRefused",
         receipt=True, make=file("plan", json.dumps({"sha256": "0" * 64}))),
    Case("verify", "a run not there", {"against": "nope"}, ("-r against",)),
    Case("verify", "no run", {"against": ""}, ("against", "latest")),
    Case("verify", "a folder without a receipt", {}, ("-r against",), make=folder_for("against")),
    Case("verify", "a garbled receipt", {}, ("-r against",),
         make=folder_for("against", receipt_json="{}")),
    # guards
    Case("upgrade", "a protected target without a backup",
         {"database": "guarded", "confirm": "sandbox", "backup": "never"},
         ("needs a fresh backup",), "GuardRefused", receipt=True),
    Case("rollback", "a protected target without its name", {"database": "guarded"},
         ("is protected", "-r confirm sandbox"), "GuardRefused", receipt=True),
    Case("init", "a protected target to be dropped", {"database": "guarded", "drop": True},
         ("is protected",), "GuardRefused", receipt=True),
    # the tour
    Case("onboarding", "an unknown name", {"databse": "x"}, ("'databse'", "-r database")),
    Case("onboarding", "an unknown database", {"database": "nope"}, ("'nope'", "sandbox")),
    Case("onboarding", "a number for a path", {"alembic_ini": 7}, ("-r alembic_ini",)),
    Case("onboarding", "a missing alembic.ini", {"alembic_ini": "/nowhere"}, ("-r alembic_ini",)),
)  # fmt: skip
"""Those that papermill runs in this process; it raises what the command makes exit code 1 of."""
CASES = (*BY_COMMAND, *IN_PROCESS)


@dataclass(frozen=True)
class State:
    """All that a refused run must leave as it was."""

    schema: str
    data: tuple[TableSnapshot, ...]
    databases: list[tuple[Any, ...]]


def _state(target: Target) -> State:
    with connect(target, read_only=True) as connection:
        tools = find_client_tools(connection.server_version)
        databases = fetch(connection, TABLES)
    schema = dump_schema(target, tools=tools, owners=True)
    return State(schema, take_snapshot(target, ()).tables, databases)


def _files(*folders: Path) -> dict[Path, bytes]:
    paths = [path for folder in folders for path in folder.rglob("*")]
    # Python's and the sandbox server's own are no trace of a run.
    own = {"__pycache__", "sandbox"}
    return {p: p.read_bytes() for p in paths if p.is_file() and not own & set(p.parts)}


def _errors(notebook: NotebookNode) -> list[NotebookNode]:
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [output for output in outputs if output.output_type == "error"]


@pytest.fixture(scope="module")
def legacy(project: PrivateProject) -> Target:
    """One legacy database for all that is refused."""
    return project.reset("legacy")


@pytest.fixture(scope="module")
def before(legacy: Target) -> State:
    """The database before anything was refused."""
    return _state(legacy)


def _url(target: Target) -> str:
    """Return the database's URL, which holds no password."""
    keys = ("host", "port", "user", "dbname")
    rest = "&".join(f"{key}={quote(target.conninfo[key], safe='')}" for key in keys)
    return f"postgresql:///?{rest}"


@dataclass(frozen=True)
class Answer:
    """What came of a case: its errors, all that was said, what it left, the database after it."""

    errors: list[NotebookNode]
    said: str
    files: set[str]
    state: State


def _arguments(parameters: Mapping[str, object]) -> list[str]:
    """Return how a person writes them: without quotes, text by -r where -p would change it."""
    found: list[str] = []
    for name, value in parameters.items():
        found += ["-r" if isinstance(value, str) and name != "dry_run" else "-p", name, str(value)]
    return found


def _by_command(project: PrivateProject, case: Case, given: Mapping[str, object], to: Path) -> str:
    """Run a notebook by the real command, which must fail, and return what it wrote."""
    papermill = Path(sys.executable).with_name("papermill")
    done = subprocess.run(
        [papermill, NOTEBOOKS / f"{case.notebook}.ipynb", to, "--no-progress-bar",
         *_arguments(given)], cwd="/", env=project.environment,
        capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 1
    return done.stdout + done.stderr


def _in_process(project: PrivateProject, case: Case, given: Mapping[str, object], to: Path) -> str:
    """Run a notebook in this process, which must fail, and return the error's text."""
    notebook = NOTEBOOKS / f"{case.notebook}.ipynb"
    # Jupyter makes an event loop for each thread and never closes it: its sockets would be found
    # unclosed later, in whichever test is running then.
    with closing(ensure_event_loop()):
        with pytest.raises(PapermillExecutionError) as caught:
            _execute(notebook, given, to)
    return str(caught.value)


def _execute(notebook: Path, given: Mapping[str, object], to: Path) -> None:
    try:
        execute_notebook(notebook, to, dict(given), progress_bar=False)
    except RuntimeError as error:
        if "Kernel died before replying" not in str(error):
            raise
        # Another process took a port that Jupyter had chosen, before the kernel did.
        execute_notebook(notebook, to, dict(given), progress_bar=False)


def _ask(project: PrivateProject, target: Target, case: Case, folder: Path) -> Answer:
    (folder / "given").mkdir(parents=True)
    given = {**(case.make(folder / "given", _url(target)) if case.make else {}), **case.parameters}
    if case.receipt:
        given["output_dir"] = str(folder / "given" / "runs")
    before = _files(folder, project.folder)
    how = _by_command if case in BY_COMMAND else _in_process
    said = how(project, case, given, folder / "out.ipynb")
    errors = _errors(read_notebook(folder / "out.ipynb"))
    (folder / "out.ipynb").unlink()
    after = _files(folder, project.folder)
    assert {path: after.get(path) for path in before} == before
    return Answer(errors, said, {path.name for path in after.keys() - before}, _state(target))


@pytest.fixture(scope="module")
def answers(
    request: pytest.FixtureRequest,
    project: PrivateProject,
    legacy: Target,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[Case, Future[Answer]]]:
    """What comes of the cases that are to be tested, two at a time; none changes anything."""
    chosen = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    cases = [one["case"] for one in chosen if isinstance(one.get("case"), Case)]
    folder = tmp_path_factory.mktemp("bad")
    # Not papermill's cwd: the folder is the process's, and of two threads that change it and back
    # the later one brings back the other's.
    with chdir("/"), project.entered(), ThreadPoolExecutor(2) as pool:
        yield {
            case: pool.submit(_ask, project, legacy, case, folder / str(number))
            for number, case in enumerate(cases)
        }


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.notebook}: {case.name}")
def test_a_bad_input_changes_nothing_and_says_what_to_write_instead(
    case: Case, before: State, answers: Mapping[Case, Future[Answer]]
) -> None:
    answer = answers[case].result()

    (error,) = answer.errors
    assert error.ename == case.error, error.evalue
    assert error.traceback == [f"{error.ename}: {error.evalue}"]
    for words in case.says:
        assert words in error.evalue
        assert words in answer.said
    assert "\n" not in error.evalue
    assert len(error.evalue) < LONGEST
    assert PASSWORD not in error.evalue
    assert PASSWORD not in answer.said
    assert "lib/playbook" not in answer.said, "a traceback of ours"
    assert answer.files == ({"receipt.json"} if case.receipt else set())
    assert answer.state == before


def test_the_table_spreads_over_all_notebooks() -> None:
    assert len(CASES) >= 60
    assert {case.notebook for case in CASES} == set(RUNBOOKS)
    assert len({(case.notebook, case.name) for case in CASES}) == len(CASES)
