"""The only door to pg_dump, pg_restore and psql. Layer 3.

Chooses client tools that fit the server, runs them without a terminal and without a password in
their arguments, follows their progress, and turns their failures into one sentence. Where a
client has no zstd, `playbook.zstd_files` compresses beside it. Knows nothing of manifests,
revisions or runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Thread
from typing import IO

from psycopg2.extensions import make_dsn

from playbook.archive_toc import made_by, owns_all_tables, tables_by_file
from playbook.compression import AUTO, Compression
from playbook.errors import BackupFailed
from playbook.named_pipes import takes_pipes
from playbook.postgres_files import VERSIONS
from playbook.records import ServerInfo
from playbook.row_texts import RowTexts
from playbook.sandbox import client_directory
from playbook.targets import Target, redact
from playbook.unfinished import unfinished_folder
from playbook.zstd_feeder import Feeder
from playbook.zstd_files import Compressor
from playbook.zstd_frames import SUFFIX, check_frames

__all__ = [
    "WITHOUT_OWNERS",
    "WITHOUT_SUBSCRIPTIONS",
    "ClientTools",
    "Progress",
    "choose_compression",
    "client_tools_for",
    "compresses_beside",
    "dump_database",
    "dump_schema",
    "find_client_tools",
    "follows_plain_text",
    "has_compression",
    "has_tls",
    "list_archive",
    "load_sql",
    "read_archive",
    "read_row_texts",
    "read_schema",
    "restore_archive",
]

Progress = Callable[[int, int], None]
"""Called about once a second with (tables begun, bytes so far): of plain text where the playbook
compresses it, of the files otherwise."""

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)[.\w]*")
_PROBLEM = re.compile(r"\b(?:error|fatal): ", re.IGNORECASE)
_FROM_SERVER = re.compile(r"detail: Error message from server: (.*)")
_CANNOT_WRITE = "pg_dump failed: could not write to file: "
"""Its own file; what a server says of one stands behind "ERROR:"."""
_TABLE_LINE = re.compile(r"dumping contents of table")
_FINISHED = re.compile(r"finished item (\d+) ")
"""pg_dump's word on a file ``NUMBER.dat`` with several jobs (mark_dump_job_done, LC_ALL=C)."""
_PARTITION = re.compile(r"^\d+; \d+ \d+ TABLE ATTACH ", re.MULTILINE)
LEASH = Path(__file__).with_name("leash.py")
WITHOUT_OWNERS = ("--no-owner", "--no-privileges")
"""Options of pg_restore: all belongs to who restores it."""
STEM = "playbook-rows-"
STEPS_BACK = 10
"""How far pg_dump steps back for who follows it where they share few cores: it would write faster
than its text is read, and half of that lie on the disk (2 GB on 2 cores: 900 MB, so 190 MB at most,
the compressed files of 183 MB among them)."""
UTC = {"PGTZ": "UTC"}
"""So that equal moments have equal texts, whatever a database's or a role's time zone is."""
WITHOUT_SUBSCRIPTIONS = ("--no-subscriptions",)
"""For what is dropped again: a database with one cannot be, and theirs reach the publisher."""
SECTIONS = tuple((f"--section={name}",) for name in ("pre-data", "data", "post-data"))
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


def client_tools_for(server: ServerInfo) -> ClientTools:
    """Return the tools for a server; raises as `find_client_tools` does."""
    return find_client_tools(server.version_num, encrypted=server.encrypted)


def find_client_tools(server_version_num: int, *, encrypted: bool = False) -> ClientTools:
    """Return the tools at hand that are nearest to a server's version and not older than it.

    Newer ones could dump it too, but not restore: pg_restore 17 and 18 set transaction_timeout,
    which a server of 16 or older refuses, and an older pg_restore cannot read their archives.

    Args:
        encrypted: they must have TLS, as the connection is by it: without, they could not connect,
            or would send everything in the clear. The wheel's have none.

    Raises:
        BackupFailed: there are none, the server is newer than all of them, or none has TLS.
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
    safe = [tools for tools in fitting if not encrypted or has_tls(tools)]
    if not safe:
        raise BackupFailed(
            f"The connection is by TLS, and the pg_dump {fitting[0].version} at hand was built "
            "without it.",
            state="Nothing was changed.",
            remedy=f"Install PostgreSQL {server_major}'s client tools and put them on PATH.",
        )
    return min(safe, key=lambda tools: tools.major)


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


@cache
def has_tls(tools: ClientTools) -> bool:
    """Say whether tools were built with TLS, by asking for it on the way to nowhere.

    Source: libpq looks at sslmode before it connects (tried on 15 to 18).
    """
    command = [tools.path("pg_dump"), "--no-password", "--dbname=host=/nonexistent sslmode=require"]
    asked = subprocess.run(
        command, capture_output=True, text=True, check=False, env=_environment(None), timeout=10
    )
    return "connection to server" in asked.stderr


@cache
def has_compression(tools: ClientTools, method: str) -> bool:
    """Say whether a pg_dump was built with a method, by asking it for a dump from nowhere.

    Source: pg_dump parses ``--compress`` before it connects; one that knows the method gets as far
    as the connection, which fails (tried on 15 to 18).
    """
    if method in ("none", "gzip"):
        return True
    command = [tools.path("pg_dump"), "--format=custom", f"--compress={method}"]
    command += ["--no-password", "--dbname=host=/nonexistent"]
    asked = subprocess.run(
        command, capture_output=True, text=True, check=False, env=_environment(None), timeout=10
    )
    return "connection to server" in asked.stderr


def compresses_beside(compression: Compression, tools: ClientTools) -> bool:
    """Say whether the playbook compresses what pg_dump writes as plain text, as it cannot."""
    return not has_compression(tools, compression.method)


def follows_plain_text(compression: Compression, tools: ClientTools) -> bool:
    """Say whether the bytes that a dump reports are those of plain text, not of what is packed."""
    return compression.method == "none" or compresses_beside(compression, tools)


def choose_compression(wanted: Compression, tools: ClientTools) -> Compression:
    """Return the compression that a dump gets: for ``auto``, zstd at level 1.

    zstd is there with every client: where it was not built with it, `playbook.zstd_files` does it.

    Raises:
        BackupFailed: lz4 is asked for and the client has none.
    """
    if wanted == AUTO:
        return Compression("zstd", 1)
    if wanted.method == "lz4" and not has_compression(tools, "lz4"):
        raise BackupFailed(
            f"The pg_dump {tools.version} at hand was built without lz4.",
            state="No backup was made and nothing was changed.",
            remedy="Leave -r compression out: zstd is smaller, and is there with every client.",
        )
    return wanted


def dump_database(
    target: Target,
    directory: Path,
    *,
    tools: ClientTools,
    jobs: int,
    compression: Compression,
    snapshot_id: str = "",
    on_progress: Progress = lambda tables, size: None,
) -> dict[int, RowTexts]:
    """Dump a database into a new folder, in pg_dump's directory format.

    **Effects**: makes the folder. pg_dump takes ACCESS SHARE locks, which only ACCESS EXCLUSIVE
    ones conflict with. After a failure the folder may be there, incomplete.

    Args:
        jobs: parallel connections, 1 or more.
        compression: as `choose_compression` returned it.
        snapshot_id: of pg_export_snapshot(), in which the dump reads.

    Returns:
        What the dump has of each table or partition, by its OID: where its rows pass through the
        playbook (`compresses_beside`), else nothing.

    Raises:
        BackupFailed: pg_dump failed; its own words are in the sentence.
        OSError: a compressed file could not be written.
    """
    command = _dump_command(directory, tools, jobs)
    command += [f"--snapshot={snapshot_id}"] if snapshot_id else []
    if not compresses_beside(compression, tools):
        command.append(f"--compress={_compress_option(compression)}")
        _run_watched(target, command, _Watch(directory, on_progress))
        return {}
    compressor = Compressor(directory, level=compression.level, writers=jobs)
    return _run_followed(target, command, directory, compressor, tools, on_progress)


def read_row_texts(
    target: Target, *, tools: ClientTools, jobs: int, encoding: str
) -> dict[int, RowTexts]:
    """Dump a database's rows to nowhere, and return what `dump_database` would of them.

    **Effects**: as those of a dump, but for the folder: one in TMPDIR holds the little plain text
    that was not read yet.

    Args:
        encoding: in which the rows' texts are to be: that of the dump to compare with.

    Raises:
        BackupFailed: pg_dump failed; its own words are in the sentence.
    """
    try:
        with unfinished_folder(Path(tempfile.gettempdir()), STEM) as folder:
            directory = folder / "dump"
            command = _dump_command(directory, tools, jobs)
            command += ["--data-only", "--no-blobs", f"--encoding={encoding}"]
            command += ["--exclude-schema=playbook"]
            compressor = Compressor(directory, level=None, writers=jobs)
            return _run_followed(target, command, directory, compressor, tools)
    except BackupFailed as error:
        if _CANNOT_WRITE in error.problem:
            raise _no_way_through(error.problem.split(_CANNOT_WRITE)[1]) from error
        raise
    except OSError as error:
        raise _no_way_through(f"{error.strerror}.") from error


def _no_way_through(reason: str) -> BackupFailed:
    return BackupFailed(
        f"The rows cannot be read by way of {tempfile.gettempdir()}: {reason}",
        remedy="Where there is no room, set TMPDIR to a folder that has it.",
    )


def _dump_command(directory: Path, tools: ClientTools, jobs: int) -> list[str]:
    return [
        tools.path("pg_dump"),
        "--format=directory",
        f"--file={directory}",
        f"--jobs={jobs}",
        "--verbose",
        "--lock-wait-timeout=30s",
    ]


def _run_followed(
    target: Target,
    command: Sequence[str],
    directory: Path,
    compressor: Compressor,
    tools: ClientTools,
    on_progress: Progress = lambda tables, size: None,
) -> dict[int, RowTexts]:
    """Run pg_dump while a compressor reads its files, and return what each table's held."""
    # pg_dump would flush its plain files, which are being replaced, and stumble over those gone.
    command = [*command, "--compress=0", "--no-sync"]
    try:
        watch = _Watch(directory, on_progress, compressor)
        _run_watched(target, command, watch, nice=STEPS_BACK)
        compressor.finish()
    except ValueError as error:
        raise BackupFailed(f"pg_dump's file {error}.") from error
    finally:
        compressor.stop()
    tables = tables_by_file(list_archive(directory, tools=tools))
    texts = compressor.texts
    return {oid: texts[name] for name, oid in tables.items() if name in texts}


def _compress_option(compression: Compression) -> str:
    """Return pg_dump's own spelling: before 16 there was gzip alone, by its level."""
    if compression.method in ("none", "gzip"):
        return str(compression.level)
    return str(compression)


def dump_schema(
    target: Target, *, tools: ClientTools, owners: bool = False, leave_out: Sequence[str] = ()
) -> str:
    """Return the schema as SQL text: tables, constraints, indexes, views; no rows.

    Args:
        owners: keep owners and privileges in it.
        leave_out: tables (``schema.table``), such as those that pg_dump may not lock as this role.
    """
    command = [tools.path("pg_dump"), "--schema-only", "--exclude-schema=playbook"]
    command += [f"--exclude-table={_pattern(name)}" for name in leave_out]
    command += ["--lock-wait-timeout=30s", *WITHOUT_SUBSCRIPTIONS]
    command += [] if owners else ["--no-owner", "--no-privileges"]
    text = _run(target, command)
    # pg_dump 16 and later write a random key for \restrict; it would make equal schemas differ.
    return re.sub(r"^\\(un)?restrict .*\n", "", text, flags=re.MULTILINE)


def _pattern(name: str) -> str:
    """Return ``schema.table`` as pg_dump's options take it: quoted, no part a pattern."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split(".", 1))


def read_archive(directory: Path, *, tools: ClientTools) -> None:
    """Read a dump to its end, decompressing everything.

    Raises:
        BackupFailed: a file is missing, cut short or damaged.
    """
    packed = sorted(directory.glob(f"*{SUFFIX}"))
    if not packed:
        _run(None, [tools.path("pg_restore"), f"--file={os.devnull}", str(directory)])
        return
    list_archive(directory, tools=tools)
    try:
        check_frames(packed)
    except (OSError, ValueError) as error:
        raise BackupFailed(f"The archive cannot be read to its end: {error}.") from error


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

    Where it has partitions, in three steps: tables, then rows, then all that is on them. In one go
    pg_restore makes a trigger or foreign key of a partitioned table as soon as a connection is
    free, since that table has no rows of its own; it would then fire for the rows still to be
    loaded into the partitions, and change them (seen with pg_restore 18 and two jobs).

    Elsewhere, with several jobs, rows are loaded frozen (`playbook.archive_toc.with_frozen_rows`),
    if they pass through the playbook.

    Args:
        extra: further options of pg_restore.

    Raises:
        BackupFailed: pg_restore failed, or a file is damaged.
    """
    program = tools.path("pg_restore")
    contents = list_archive(directory, tools=tools)
    partitions = bool(_PARTITION.search(contents))
    command = [program, "--exit-on-error", *extra, f"--jobs={jobs}"]
    frozen = jobs > 1 and not partitions and _empties_all_tables(contents, tools)
    with _readable(directory, tools, contents, frozen=frozen) as readable:
        for section in SECTIONS if partitions else ((),):
            # Of pipes whose other end is gone pg_restore would wait for ever, or take a part of a
            # table for all of it.
            _run_watched(target, [*command, *section, str(readable)])


def _empties_all_tables(contents: str, tools: ClientTools) -> bool:
    """Say whether a pg_restore with several jobs empties each table before it loads its rows.

    Source: `playbook.archive_toc.with_frozen_rows`.
    """
    return made_by(contents) == tools.major and owns_all_tables(contents)


@contextmanager
def _readable(
    directory: Path, tools: ClientTools, contents: str, *, frozen: bool
) -> Iterator[Path]:
    """Yield a folder that a pg_restore can read, whether it has zstd or not.

    Raises:
        BackupFailed: a file is damaged; where that is seen at the end only, what was read of it was
            not the whole. Or there is no room for plain files, where pipes are not taken.
    """
    if not any(directory.glob(f"*{SUFFIX}")) or has_compression(tools, "zstd"):
        yield directory
        return
    with ExitStack() as stack:
        try:
            feeder = stack.enter_context(Feeder(directory, frozen=frozen))
            if feeder.pipes and not takes_pipes(
                tools.path("pg_restore"), feeder.directory, contents
            ):
                feeder.unpack()
        except (OSError, ValueError) as error:
            raise BackupFailed(
                f"The archive cannot be unpacked in {tempfile.gettempdir()}: {error}.",
                remedy="Where there is no room, set TMPDIR to a folder that has it.",
            ) from error
        yield feeder.directory
    if feeder.failure:
        raise BackupFailed(
            f"The archive cannot be read to its end: {feeder.failure}."
        ) from feeder.failure


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


@dataclass
class _Watch:
    """What is looked after while pg_dump runs: its lines, its files, the reports."""

    directory: Path
    on_progress: Progress
    compressor: Compressor | None = None
    lines: list[str] = field(default_factory=list)
    read: int = 0
    tables: int = 0
    reported: float = 0.0

    def look(self) -> None:
        """Take in new lines and files; report about once a second."""
        new, self.read = self.lines[self.read :], len(self.lines)
        self.tables += sum(bool(_TABLE_LINE.search(line)) for line in new)
        if self.compressor:
            self.compressor.look(f"{m[1]}.dat" for line in new if (m := _FINISHED.search(line)))
        if time.monotonic() - self.reported >= REPORT_S:
            self.reported = time.monotonic()
            self.on_progress(self.tables, self._bytes())

    def _bytes(self) -> int:
        return self.compressor.plain_bytes if self.compressor else _folder_bytes(self.directory)


def _run_watched(
    target: Target, command: Sequence[str], watch: _Watch | None = None, *, nice: int = 0
) -> None:
    """Run a tool, reporting what it has done so far; an interrupt ends it, and our own end.

    It is ended by SIGTERM, at which pg_dump and pg_restore cancel their workers' queries.

    Args:
        nice: how far it steps back for others, as nice(2) takes it.
    """
    lines = watch.lines if watch else []
    leash = [sys.executable, "-I", "-S", str(LEASH), str(nice)]
    with subprocess.Popen(
        [*leash, *command, *_connection_arguments(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=_environment(target) | (UTC if watch else {}),
    ) as child:
        if child.stdin is None or child.stderr is None:
            raise RuntimeError("the tool was started without pipes")
        reader = Thread(target=_collect, args=(child.stderr, lines), daemon=True)
        reader.start()
        try:
            while child.poll() is None:
                if watch:
                    watch.look()
                time.sleep(POLL_S)
        except BaseException:
            child.stdin.close()  # lets go of the leash
            raise
        finally:
            reader.join()  # to its end: nobody may close what it reads from
    if child.returncode:
        raise _failure(command[0], child.returncode, "".join(lines))


def _collect(stream: IO[str], lines: list[str]) -> None:
    lines.extend(stream)


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
    server = _FROM_SERVER.search(stderr)
    reason = f"{lines[0].rstrip('. ')}: {server[1]}" if server else lines[0]
    said = redact(" ".join(reason.split())).removeprefix(f"{name}: ").removeprefix("error: ")
    return BackupFailed(f"{name} failed: {said.rstrip('.')}.")
