"""PostgreSQL servers of the tests' own, beside the sandbox."""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psutil
import psycopg2

from playbook.postgres_files import server_account

PASSWORD = "s3cret/paß@w0rd"
"""With what a URL, a shell or a pattern might trip over."""
FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "32MB",
    "max_connections": "40",
    "max_prepared_transactions": "5",
    "timezone": "UTC",
}


DURABLE = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_buffers": "64MB",
    "max_connections": "40",
    "timezone": "UTC",
    "restart_after_crash": "on",
}
"""Settings of a server that is killed: recovery after a crash is real."""


@dataclass(frozen=True)
class PrivateServer:
    """A server of one test session: its port on loopback, and how to reach it."""

    major: int
    port: int
    data: Path
    programs: Path
    password: str = ""

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """Return a URL without a password."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg2.extensions.connection:
        """Return an autocommit session of the superuser."""
        connection = psycopg2.connect(self.url(database), password=self.password or None)
        connection.autocommit = True
        return connection

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the superuser, each on its own."""
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
        finally:
            connection.close()

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        started = self._control("-l", self.data.parent / "log", "start")
        assert started.returncode == 0, started.stderr

    def stop(self) -> None:
        """Stop it at once, whether it runs or not."""
        self._control("-m", "immediate", "stop")

    def kill(self) -> None:
        """Kill the postmaster and each of its processes, as the end of a machine would."""
        postmaster = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        gone, alive = psutil.wait_procs(processes, timeout=10)
        assert not alive, gone

    def _control(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = (self.programs / "pg_ctl", "-s", "-w", "-D", self.data, *arguments)
        return server_account().run(*command)

    @contextmanager
    def database(self, options: str = "") -> Iterator[str]:
        """Make an empty database of a random name and drop it afterwards."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} {options}")
        try:
            yield name
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")


def server_major(programs: Path) -> int:
    """Return the major version of the ``postgres`` in a folder."""
    told = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True)
    return int(told.stdout.split()[-1].split(".")[0])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def private_server(
    major: int,
    programs: Path,
    folder: Path,
    password: str = "",
    *,
    settings: Mapping[str, str] = MappingProxyType(FAST),
) -> Iterator[PrivateServer]:
    """Make and start a server on loopback, as root by another OS user, and remove it."""
    account = server_account()
    base = Path(tempfile.mkdtemp(prefix=f"pg{major}-", dir=folder))
    account.own(base)
    data, secret, port = base / "data", base / "password", free_port()
    how = ["--auth=trust"]
    if password:
        secret.write_text(password)
        account.own(secret)
        how = ["--auth=scram-sha-256", f"--pwfile={secret}"]
    made = account.run(
        programs / "initdb", "-D", data, "--username=postgres", "--encoding=UTF8",
        "--locale=C.UTF-8", "--no-sync", *how,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    secret.unlink(missing_ok=True)
    own = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": base}
    with (data / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in {**settings, **own}.items())
    server = PrivateServer(major, port, data, programs, password)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(base, ignore_errors=True)
