"""Servers and databases for all tests; every one is real, private to the session, and removed."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from session import SESSION_FOLDER

# Before anything reads it: the tests never touch the sandbox that a person works with.
os.environ["PLAYBOOK_SANDBOX"] = str(SESSION_FOLDER / "sandbox")
for _variable in [name for name in os.environ if name.startswith("PG")]:
    del os.environ[_variable]
os.environ.pop("PLAYBOOK_SANDBOX_POSTGRES", None)
os.environ.pop("DATABASE_URL", None)
# What a shell puts into the background ignores interrupts, and so would all children.
signal.signal(signal.SIGINT, signal.default_int_handler)

from builders import Project, Script, staging_project  # noqa: E402
from playbook import sandbox, upgrade  # noqa: E402
from playbook.postgres_files import client_directory, server_account, server_programs  # noqa: E402
from playbook.targets import PROJECT_INI, Target, load_target  # noqa: E402
from servers import (  # noqa: E402
    DURABLE,
    FAST,
    PASSWORD,
    PrivateServer,
    private_server,
    server_major,
)
from steps import Namespace, go  # noqa: E402

DEBIAN = "/usr/lib/postgresql/{}/bin"


def pytest_unconfigure() -> None:
    """Remove the session's sandbox and folder, also where nothing was collected."""
    os.environ["PLAYBOOK_SANDBOX"] = str(SESSION_FOLDER / "sandbox")
    sandbox.remove(PROJECT_INI.parent)
    shutil.rmtree(SESSION_FOLDER, ignore_errors=True)


@pytest.fixture(autouse=True)
def _same_folder() -> Iterator[None]:
    """No test leaves the process in another folder: a later one would fail for it."""
    before = Path.cwd()
    yield
    assert Path.cwd() == before


@contextmanager
def _sandbox_database(state: str) -> Iterator[Target]:
    target = load_target(f"sandbox:test_{secrets.token_hex(6)}")
    try:
        yield sandbox.open_target(target, state=state)
    finally:
        sandbox.drop_database(target)


@pytest.fixture
def fresh_database() -> Iterator[Target]:
    """An empty database of a random name on the sandbox server, dropped afterwards."""
    with _sandbox_database("empty") as target:
        yield target


@pytest.fixture
def legacy_database() -> Iterator[Target]:
    """A copy of the seeded legacy database, dropped afterwards."""
    with _sandbox_database("legacy") as target:
        yield target


def _wheel_programs(major: int) -> Path:
    return server_programs(SESSION_FOLDER, major, server_account())


@pytest.fixture(scope="session")
def password_server() -> Iterator[PrivateServer]:
    """A PostgreSQL 18 on loopback TCP that asks every login for its password."""
    with private_server(18, _wheel_programs(18), SESSION_FOLDER, PASSWORD) as server:
        yield server


@pytest.fixture(scope="module")
def durable_server() -> Iterator[PrivateServer]:
    """A PostgreSQL 18 that a test may kill: what it has committed is on the disk."""
    with private_server(18, _wheel_programs(18), SESSION_FOLDER, settings=DURABLE) as server:
        yield server


@pytest.fixture(scope="module")
def talkative_server() -> Iterator[PrivateServer]:
    """A PostgreSQL 18 whose log has every statement."""
    settings = FAST | {"log_statement": "all"}
    with private_server(18, _wheel_programs(18), SESSION_FOLDER, settings=settings) as server:
        yield server


FURTHER = [
    Path(folder) for folder in os.environ.get("PLAYBOOK_POSTGRES_BIN", "").split(":") if folder
]
"""Folders with a ``postgres`` of further versions, to try these by hand."""


@pytest.fixture(scope="session", params=[15, 16, *FURTHER], ids="PostgreSQL {}".format)
def other_version(request: pytest.FixtureRequest) -> Iterator[PrivateServer]:
    """A server of another version than the sandbox's: Debian's 15, the wheel's 16, further ones."""
    major = request.param
    programs = Path(DEBIAN.format(major))
    if isinstance(major, Path):
        programs, major = major, server_major(major)
    elif major == 16:
        programs = _wheel_programs(major)
    elif not (programs / "postgres").exists():
        missing = f"PostgreSQL {major} is not installed in {programs}"
        if str(major) in os.environ.get("PLAYBOOK_REQUIRE_POSTGRES", "").split():
            pytest.fail(missing)
        pytest.skip(missing)
    with private_server(major, programs, SESSION_FOLDER) as server:
        yield server


@pytest.fixture
def small_disk() -> Iterator[Callable[[str], Path]]:
    """Make a file system of its own, of a size as mount takes it (``256k``, ``2m``)."""
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root can mount a file system")
    mounted = []

    def mount(size: str) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="disk-", dir=SESSION_FOLDER))
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def run_psql() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run SQL text on a target by psql, which stops at the first error."""

    def run(target: Target, text: str) -> subprocess.CompletedProcess[str]:
        program = client_directory() / "psql"
        return subprocess.run(
            [program, "--no-psqlrc", "--quiet", "--tuples-only", "--no-align",
             "--set=ON_ERROR_STOP=1", "--file=-"],
            env=os.environ | target.libpq_variables(), input=text, capture_output=True,
            text=True, check=False, timeout=60,
        )  # fmt: skip

    return run


@pytest.fixture
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Project]:
    """Write one small Alembic project, which shares the session's sandbox server."""
    shared = sandbox.sandbox_folder(PROJECT_INI.parent)
    monkeypatch.setattr(sandbox, "sandbox_folder", lambda project: shared)

    def write(revisions: Mapping[str, Script], **options: str) -> Project:
        return staging_project(tmp_path / "project", revisions, **options)

    return write


@pytest.fixture
def small(staging: Callable[..., Project], fresh_database: Target) -> Callable[..., Namespace]:
    """A small project on an empty database, migrated to its first revision."""

    def make(revisions: Mapping[str, Script], to: str = "+1", **options: str) -> Namespace:
        name = fresh_database.database
        sections = f"[playbook:guarded]\nurl = sandbox:{name}\nprotected = true\n"
        project = staging(revisions, sections=sections, **options)
        namespace = {"database": f"sandbox:{name}", "alembic_ini": str(project.ini)}
        if to:
            go(upgrade, namespace, target=to)
        return namespace

    return make
