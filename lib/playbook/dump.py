"""The only door to pg_dump, pg_restore and psql. Layer 3.

Chooses client tools that fit the server, runs them without a terminal and without a password in
their arguments, follows their progress, and turns their failures into one sentence. Knows
nothing of manifests, revisions or runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Thread
from typing import IO

from psycopg2.extensions import make_dsn

from playbook.errors import BackupFailed, SettingsError
from playbook.postgres_files import VERSIONS
from playbook.sandbox import client_directory
from playbook.targets import Target, redact

__all__ = [
    "WITHOUT_OWNERS",
    "ClientTools",
    "Progress",
    "dump_database",
    "dump_schema",
    "find_client_tools",
    "gzip_level",
    "list_archive",
    "load_sql",
    "read_archive",
    "read_schema",
    "restore_archive",
]

Progress = Callable[[int, int], None]
"""Called with (tables begun, bytes on disk) about once a second."""

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)[.\w]*")
_PROBLEM = re.compile(r"\b(?:error|fatal): ", re.IGNORECASE)
_TABLE_LINE = re.compile(r"dumping contents of table")
LEASH = Path(__file__).with_name("leash.py")
WITHOUT_OWNERS = ("--no-owner", "--no-privileges")
"""Options of pg_restore: all belongs to who restores it."""
POLL_S = 0.02
REPORT_S = 1.0


@dataclass(frozen=True)
class ClientTools:
    """A folder with pg_dump, pg_restore and psql of one version."""

    directory: Path
    major: int
    version: str

    def path(self, tool: str) -> str:
        """Return the path of one of the tools."""
        return str(self.directory / tool)


def find_client_tools(server_version_num: int) -> ClientTools:
    """Return the tools at hand that are nearest to a server's version and not older than it.

    Newer ones could dump it too, but not restore: pg_restore 17 and 18 set transaction_timeout,
    which a server of 16 or older refuses, and an older pg_restore cannot read their archives.

    Raises:
        BackupFailed: there are none, or the server is newer than all of them.
    """
    server_major = server_version_num // 10000
    found = [tools for folder in _tool_folders() if (tools := _tools_in(folder))]
    fitting = [tools for tools in found if tools.major >= server_major]
    if not fitting:
        newest = max(found, key=lambda tools: tools.major, default=None)
        have = f"the newest pg_dump here is {newest.version}" if newest else "there is no pg_dump"
        raise BackupFailed(
            f"The server is PostgreSQL {server_major}, and {have}; pg_dump must not be older.",
            state="Nothing was changed.",
            remedy=f"Install PostgreSQL {server_major}'s client tools and put them on PATH.",
        )
    return min(fitting, key=lambda tools: tools.major)


def _tool_folders() -> list[Path]:
    """Return where client tools may be; the wheel's first, as they are always of one kind."""
    on_path = shutil.which("pg_dump")
    return [
        *(client_directory(version) for version in VERSIONS),
        *([Path(on_path).resolve().parent] if on_path else []),
        *sorted(Path("/usr/lib/postgresql").glob("*/bin")),
    ]


@cache
def _tools_in(folder: Path) -> ClientTools | None:
    """Return the tools of a folder; None if pg_dump or pg_restore is missing or does not run."""
    program = folder / "pg_dump"
    if not program.is_file() or not (folder / "pg_restore").is_file():
        return None
    try:
        text = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=True, timeout=10
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = _VERSION.search(text)
    return ClientTools(folder, int(match[1]), match[0].split()[-1]) if match else None


def gzip_level(compression: str) -> int:
    """Return the gzip level that a parameter ``compression`` means.

    ``auto`` is level 1: within a few per cent of the size of the default level at half its time.

    Raises:
        SettingsError: it is none of ``auto``, ``none``, ``gzip`` or ``gzip:LEVEL`` (1 to 9).
    """
    match = re.fullmatch(r"auto|none|gzip(?::([1-9]))?", compression)
    if not match:
        raise SettingsError(
            f"compression={compression!r} is not known.",
            remedy="Write -r compression auto, none or gzip:LEVEL with LEVEL from 1 to 9.",
        )
    return {"auto": 1, "none": 0}.get(compression, int(match[1] or 6))


def dump_database(
    target: Target,
    directory: Path,
    *,
    tools: ClientTools,
    jobs: int,
    level: int,
    snapshot_id: str = "",
    on_progress: Progress = lambda tables, size: None,
) -> None:
    """Dump a database into a new folder, in pg_dump's directory format.

    **Effects**: makes the folder. pg_dump takes ACCESS SHARE locks, which only ACCESS EXCLUSIVE
    ones conflict with. After a failure the folder may be there, incomplete.

    Args:
        jobs: parallel connections, 1 or more.
        level: gzip level, 0 for none.
        snapshot_id: of pg_export_snapshot(), in which the dump reads.

    Raises:
        BackupFailed: pg_dump failed; its own words are in the sentence.
    """
    command = [
        tools.path("pg_dump"),
        "--format=directory",
        f"--file={directory}",
        f"--jobs={jobs}",
        f"--compress={level}",
        "--verbose",
        "--lock-wait-timeout=30s",
        *([f"--snapshot={snapshot_id}"] if snapshot_id else []),
    ]
    _run_watched(target, command, directory, on_progress)


def dump_schema(target: Target, *, tools: ClientTools, owners: bool = False) -> str:
    """Return the schema as SQL text: tables, constraints, indexes, views; no rows.

    Args:
        owners: keep owners and privileges in it.
    """
    command = [tools.path("pg_dump"), "--schema-only", "--exclude-schema=playbook"]
    command += ["--lock-wait-timeout=30s"]
    command += [] if owners else ["--no-owner", "--no-privileges"]
    text = _run(target, command)
    # pg_dump 16 and later write a random key for \restrict; it would make equal schemas differ.
    return re.sub(r"^\\(un)?restrict .*\n", "", text, flags=re.MULTILINE)


def read_archive(directory: Path, *, tools: ClientTools) -> None:
    """Read a dump to its end, decompressing everything.

    Raises:
        BackupFailed: a file is missing, cut short or damaged.
    """
    _run(None, [tools.path("pg_restore"), f"--file={os.devnull}", str(directory)])


def list_archive(directory: Path, *, tools: ClientTools) -> str:
    """Return a dump's table of contents, as pg_restore writes it and takes it (``--use-list``)."""
    return _run(None, [tools.path("pg_restore"), "--list", str(directory)])


def read_schema(directory: Path, *, tools: ClientTools) -> str:
    """Return a dump's schema as SQL text, owners and privileges among it; reads no rows."""
    command = [tools.path("pg_restore"), "--schema-only", "--file=-", str(directory)]
    return re.sub(r"^\\(un)?restrict .*\n", "", _run(None, command), flags=re.MULTILINE)


def restore_archive(
    directory: Path,
    target: Target,
    *,
    tools: ClientTools,
    jobs: int,
    extra: Sequence[str] = WITHOUT_OWNERS,
) -> None:
    """Restore a dump into an existing, empty database.

    Args:
        extra: further options of pg_restore.

    Raises:
        BackupFailed: pg_restore failed.
    """
    options = [f"--jobs={jobs}", "--exit-on-error", *extra]
    _run(target, [tools.path("pg_restore"), *options, str(directory)])


def load_sql(text: str, target: Target, *, tools: ClientTools) -> None:
    """Run SQL text in one transaction.

    Raises:
        BackupFailed: a statement failed; nothing of the text remains.
    """
    command = [tools.path("psql"), "--no-psqlrc", "--quiet", "--single-transaction"]
    _run(target, [*command, "--set=ON_ERROR_STOP=1", "--file=-"], stdin=text)


def _connection_arguments(target: Target | None) -> list[str]:
    if target is None:
        return []
    keywords = {k: v for k, v in target.conninfo.items() if "password" not in k}
    return ["--no-password", f"--dbname={make_dsn(**keywords)}"]


def _environment(target: Target | None) -> dict[str, str]:
    secrets = target.libpq_environment() if target else {}
    return os.environ | {"LC_ALL": "C", "PGAPPNAME": "migration-playbook"} | secrets


def _run(target: Target | None, command: Sequence[str], stdin: str = "") -> str:
    """Run a tool and return its output."""
    done = subprocess.run(
        [*command, *_connection_arguments(target)],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=_environment(target),
        check=False,
    )
    if done.returncode:
        raise _failure(command[0], done.returncode, done.stderr)
    return done.stdout


def _run_watched(
    target: Target, command: Sequence[str], directory: Path, on_progress: Progress
) -> None:
    """Run a tool, reporting what it has done so far; an interrupt ends it, and our own end."""
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-I", "-S", str(LEASH), *command, *_connection_arguments(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=_environment(target),
    ) as child:
        if child.stdin is None or child.stderr is None:
            raise RuntimeError("the tool was started without pipes")
        reader = Thread(target=_collect, args=(child.stderr, lines), daemon=True)
        reader.start()
        try:
            _watch(child, lines, directory, on_progress)
        except BaseException:
            child.stdin.close()  # lets go of the leash
            raise
        reader.join()
    if child.returncode:
        raise _failure(command[0], child.returncode, "".join(lines))


def _collect(stream: IO[str], lines: list[str]) -> None:
    lines.extend(stream)


def _watch(
    child: subprocess.Popen[str], lines: list[str], directory: Path, on_progress: Progress
) -> None:
    on_progress(0, 0)
    reported = time.monotonic()
    while child.poll() is None:
        time.sleep(POLL_S)
        if time.monotonic() - reported >= REPORT_S:
            reported = time.monotonic()
            tables = sum(bool(_TABLE_LINE.search(line)) for line in list(lines))
            on_progress(tables, _folder_bytes(directory))


def _folder_bytes(directory: Path) -> int:
    if not directory.is_dir():
        return 0
    return sum(path.stat().st_size for path in directory.iterdir() if path.is_file())


def _failure(program: str, code: int, stderr: str) -> BackupFailed:
    """Return one sentence from what a tool wrote before it failed."""
    lines = [line for line in stderr.splitlines() if _PROBLEM.search(line)]
    if not lines and code < 0:
        lines = [f"it was ended by signal {-code}"]
    lines = lines or stderr.strip().splitlines()[-1:] or [f"exit code {code}"]
    name = Path(program).name
    said = redact(" ".join(lines[0].split())).removeprefix(f"{name}: ").removeprefix("error: ")
    return BackupFailed(f"{name} failed: {said.rstrip('.')}.")
