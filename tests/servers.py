"""PostgreSQL servers of the tests' own, beside the sandbox."""

from __future__ import annotations

import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database of a random name and drop it afterwards."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield name
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def private_server(
    major: int, programs: Path, folder: Path, password: str = ""
) -> Iterator[PrivateServer]:
    """Make and start a server on loopback, as root by another OS user, and remove it."""
    account = server_account()
    base = Path(tempfile.mkdtemp(prefix=f"pg{major}-", dir=folder))
    account.own(base)
    data, secret, port = base / "data", base / "password", _free_port()
    how = ["--auth=trust"]
    if password:
        secret.write_text(password)
        account.own(secret)
        how = ["--auth=scram-sha-256", f"--pwfile={secret}"]
    settings = {**FAST, "port": str(port), "listen_addresses": "127.0.0.1"}
    settings["unix_socket_directories"] = str(base)
    made = account.run(
        programs / "initdb", "-D", data, "--username=postgres", "--encoding=UTF8",
        "--locale=C.UTF-8", "--no-sync", "--no-instructions", *how,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    secret.unlink(missing_ok=True)
    options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
    control = [programs / "pg_ctl", "-s", "-w", "-D", data]
    started = account.run(*control, "-l", base / "log", "-o", options, "start")
    assert started.returncode == 0, started.stderr
    try:
        yield PrivateServer(major, port, data, programs, password)
    finally:
        account.run(*control, "-m", "immediate", "stop")
        shutil.rmtree(base, ignore_errors=True)
