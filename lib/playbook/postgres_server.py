"""One PostgreSQL server from the wheel: its start and its end. Layer 1, above postgres_files.

A cluster is made, started and stopped here; which databases it holds is the sandbox's affair.
Whoever changes a cluster holds its lock file (`locked`) exclusively; whoever only looks whether
it runs holds it shared.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import psutil

from playbook.errors import CannotConnect, SettingsError
from playbook.postgres_files import (
    Account,
    check_owner,
    client_directory,
    server_account,
    server_programs,
)

__all__ = [
    "PORT",
    "Cluster",
    "Server",
    "is_file",
    "is_running",
    "locked",
    "running_server",
    "socket_folders",
    "start_server",
    "stop",
]

PORT = "5432"
"""Part of the socket's file name; nothing listens on TCP."""
SOCKET_PATH_BYTES = 103
"""The longest socket path of macOS; Linux has 107."""
START_TIMEOUT_S = 60
SETTLE_S = 20.0
STOP_STEPS = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))
"""PostgreSQL's fast shutdown, then its immediate one, then the end of the process."""

# The same order of texts on every machine: by code point, whatever the system's locales.
LOCALES = {
    16: (("--locale=C.UTF-8",), ("--locale=C",)),
    18: (("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),),
}
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # Compiling takes longer than any query of a sandbox.
    "jit": "off",
}
# fsync, synchronous_commit and full_page_writes stay on: runbooks are tested here against kills,
# and with them off a copied database is hardly made faster (0.05 s against 0.03 s for 64 MB).


@dataclass(frozen=True)
class Cluster:
    """Where the server of one version keeps its files, below one project's sandbox folder."""

    folder: Path
    version: int

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder."""
        return self.folder / f"pg{self.version}"

    @property
    def lock(self) -> Path:
        """The lock file; its time of change is the server's last use."""
        return self.folder / f"pg{self.version}.lock"

    @property
    def log(self) -> Path:
        """What the server writes."""
        return self.data / "server.log"


@dataclass(frozen=True)
class Server:
    """A running server."""

    directory: Path
    """PostgreSQL's data folder."""
    socket_directory: Path
    version: int
    """The major version, e.g. 18."""
    bin_directory: Path
    """The client programs of the same version, for the current OS user."""
    pid: int


@contextmanager
def locked(path: Path, operation: int = fcntl.LOCK_EX) -> Iterator[int]:
    """Hold a lock file while the block runs, and yield its descriptor; a killed holder frees it.

    Raises:
        BlockingIOError: ``operation`` has LOCK_NB and another process holds the lock.
        FileNotFoundError: its folder is gone.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, operation)
            if is_file(descriptor, path):  # else its folder was removed while we waited
                yield descriptor
                return
        finally:
            os.close(descriptor)


def is_file(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def running_server(cluster: Cluster) -> Server | None:
    """Return the server if it runs and takes connections; hold the cluster's lock."""
    lines, process = _pid_file(cluster), _postmaster(cluster)
    if process is None or len(lines) < 8 or lines[7].strip() != "ready":
        return None
    programs, socket_directory = client_directory(cluster.version), Path(lines[4])
    with suppress(psutil.Error, IndexError):  # it ends at this moment
        # A virtual environment may have been deleted below a running server, libraries and all.
        if Path(process.cmdline()[0]).exists() and _accepts(programs, socket_directory):
            return Server(cluster.data, socket_directory, cluster.version, programs, process.pid)
    return None


def _accepts(programs: Path, socket_directory: Path) -> bool:
    command = (programs / "pg_isready", "-q", "-t", "3", "-h", socket_directory, "-p", PORT)
    own = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return subprocess.run(command, env=own, check=False).returncode == 0


def is_running(cluster: Cluster) -> bool:
    """Whether the server's process is there, ready or not."""
    return _postmaster(cluster) is not None


def _pid_file(cluster: Cluster) -> list[str]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return (cluster.data / "postmaster.pid").read_text(errors="replace").splitlines()
    return []


def _postmaster(cluster: Cluster) -> psutil.Process | None:
    """Return the server's process, if the one that postmaster.pid names really is that server."""
    lines = _pid_file(cluster)
    with suppress(psutil.Error, FileNotFoundError, ValueError, IndexError):
        process = psutil.Process(int(lines[0]))
        owner = cluster.data.stat().st_uid
        if str(cluster.data) in process.cmdline() and process.uids().real == owner:
            return process
    return None


def start_server(cluster: Cluster) -> Server:
    """Start the server, made first if need be, and wait until it takes connections.

    **Effects**: ends what a killed server left behind. The new server belongs to no session and
    holds none of the caller's files. The caller holds the cluster's lock, and has prepared its
    folder.

    Raises:
        CannotConnect: it did not start; the last line of its log says why.
        SettingsError: the wheel cannot be used here.
    """
    account = server_account()
    settled = _settle(cluster)
    if settled:
        return settled
    programs = server_programs(cluster.folder, cluster.version, account)
    if not (cluster.data / "global" / "pg_control").exists():
        _make_data(cluster, programs, account)
    _end_leftovers(cluster)
    socket_directory = _socket_folder(cluster, account)
    _forget_foreign_pids(cluster, socket_directory)
    done = account.run(
        programs / "pg_ctl", "-s", "-w", "-t", str(START_TIMEOUT_S), "-D", cluster.data,
        "-l", cluster.log, "-o", f"-k {shlex.quote(str(socket_directory))}", "start",
    )  # fmt: skip
    server = running_server(cluster)
    if server is None:
        raise CannotConnect(
            f"The sandbox's PostgreSQL did not start: {_last_line(cluster.log) or done.stderr}.",
            state="Its data are untouched.",
            remedy=f"Read {cluster.log}; `python -m playbook.sandbox remove` begins afresh.",
        )
    return server


def _settle(cluster: Cluster) -> Server | None:
    """Wait for a server that is starting, stopping or recovering; end one that is of no use."""
    deadline = time.monotonic() + SETTLE_S
    while (process := _postmaster(cluster)) and time.monotonic() < deadline:
        server = running_server(cluster)
        if server:
            return server
        lines = _pid_file(cluster)
        cut_off = len(lines) > 4 and not (Path(lines[4]) / f".s.PGSQL.{PORT}").exists()
        with suppress(psutil.Error):
            if (cut_off and lines[-1].strip() == "ready") or not Path(process.exe()).exists():
                break
        time.sleep(0.05)
    stop(cluster)
    return None


def _make_data(cluster: Cluster, programs: Path, account: Account) -> None:
    """Run initdb in a folder of another name and rename it, so that none is ever half made."""
    for unfinished in cluster.folder.glob(f"pg{cluster.version}.new-*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    if cluster.data.exists():
        shutil.rmtree(cluster.data)
    settings = [part for item in SETTINGS.items() for part in ("--set", "=".join(item))]
    error = ""
    for locale in LOCALES[cluster.version]:
        new = Path(tempfile.mkdtemp(prefix=f"pg{cluster.version}.new-", dir=cluster.folder))
        account.own(new)
        done = account.run(
            programs / "initdb", "-D", new, "--username=postgres", "--auth=trust",
            "--encoding=UTF8", "--no-instructions", *locale, *settings,
        )  # fmt: skip
        if done.returncode == 0:
            new.rename(cluster.data)
            return
        error = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        shutil.rmtree(new, ignore_errors=True)
    raise SettingsError(
        f"The sandbox's PostgreSQL could not be made in {cluster.folder}: {error}.",
        remedy="See that the disk has room, or set PLAYBOOK_SANDBOX to another folder.",
    )


def _end_leftovers(cluster: Cluster) -> None:
    """End processes of an earlier server of this data folder, whose postmaster is lost.

    A backend in a long computation outlives a killed postmaster, and a server whose data folder
    was deleted goes on for a while; neither lets a new server start.
    """
    for last_signal, wait_s in STOP_STEPS[1:]:
        deadline = time.monotonic() + wait_s
        for process in _processes_of(cluster):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(last_signal)
        while _processes_of(cluster) and time.monotonic() < deadline:
            time.sleep(0.02)


def _processes_of(cluster: Cluster) -> list[psutil.Process]:
    """Return the processes that run in the data folder, as PostgreSQL's do, and only its own."""
    data, owner = str(cluster.data), cluster.data.stat().st_uid
    found = []
    for process in psutil.process_iter(["name", "uids"]):
        uids = process.info["uids"]
        if (process.info["name"] or "").startswith("postgres") and uids and uids.real == owner:
            with suppress(psutil.Error):
                if process.cwd() in (data, f"{data} (deleted)") or data in process.cmdline():
                    found.append(process)
    return found


def socket_folders(cluster: Cluster) -> list[Path]:
    """Return where the socket may lie: in the data folder, or where its path is not too long."""
    digest = sha256(os.fsencode(cluster.data)).hexdigest()[:12]
    name = f"migration-playbook-{os.geteuid()}-{digest}"
    # Root's own temporary folder may be closed to the user that runs the server.
    temporary = ["/tmp"] if os.geteuid() == 0 else [tempfile.gettempdir(), "/tmp"]
    return [cluster.data / "socket", *(Path(folder).resolve() / name for folder in temporary)]


def _socket_folder(cluster: Cluster, account: Account) -> Path:
    """Return the first of the folders that is short enough, made and closed to other users."""
    for folder in socket_folders(cluster):
        if len(os.fsencode(folder / f".s.PGSQL.{PORT}")) > SOCKET_PATH_BYTES:
            continue
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.lstat().st_uid == os.geteuid():
            account.own(folder)
        check_owner(folder, account.uid)
        if stat.S_IMODE(folder.lstat().st_mode) & 0o077:
            raise SettingsError(
                f"The socket's folder {folder} is open to other users of this machine.",
                remedy=f"Delete it: rm -r {folder}",
            )
        return folder
    raise SettingsError(
        "No temporary folder has a path short enough for a socket.", remedy="Set TMPDIR to /tmp."
    )


def _forget_foreign_pids(cluster: Cluster, socket_directory: Path) -> None:
    """Delete lock files of a dead server whose process id now belongs to another program.

    PostgreSQL would take that program for its server. Where the id is free, it sees so itself.
    """
    socket_lock = socket_directory / f".s.PGSQL.{PORT}.lock"
    for path in (cluster.data / "postmaster.pid", socket_lock):
        with suppress(FileNotFoundError, ValueError, IndexError):
            if psutil.pid_exists(int(path.read_text().split()[0])):
                path.unlink()


def _last_line(log: Path) -> str:
    with suppress(FileNotFoundError):
        lines = log.read_text(errors="replace").strip().splitlines()
        fatal = [line for line in lines[-20:] if "FATAL" in line]
        return (fatal or lines or [""])[-1].rstrip(".")
    return ""


def stop(cluster: Cluster, *, immediate: bool = False) -> bool:
    """Stop the server if it runs: sessions are ended, their transactions rolled back.

    Only a process that is proven to be this server is signalled. The caller holds the lock.

    Args:
        cluster: whose server.
        immediate: write nothing back; the next start, if there is one, recovers from the log.

    Returns:
        Whether there was one to stop.

    Raises:
        CannotConnect: it is still there after an immediate shutdown and a kill.
    """
    if not _postmaster(cluster):
        return False
    for signal_number, wait_s in STOP_STEPS[1:] if immediate else STOP_STEPS:
        process = _postmaster(cluster)
        if process:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal_number)
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            if not _postmaster(cluster):
                return True
            time.sleep(0.01)
    raise CannotConnect(
        f"The sandbox's PostgreSQL in {cluster.data} cannot be stopped.",
        state="It still runs.",
        remedy=f"Look at process {_pid_file(cluster)[:1]}.",
    )
