"""An application under load: pgbench's writers, and how long the longest of them waited."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from alembic import command
from alembic.config import Config

from builders import Script, execute, staging_project
from playbook import upgrade
from playbook.postgres_files import client_directory
from servers import PrivateServer
from steps import Namespace, go

TABLE = "pgbench_accounts"
CLIENTS = 4
OPEN_S = 5.0
"""How long somebody's transaction stays open on the table."""
WARM_S = 1.0
LONGEST_S = "120"
ADD_COLUMN = Script(execute(f"ALTER TABLE {TABLE} ADD COLUMN note text"))
PLAIN_INDEX = Script(execute(f"CREATE INDEX accounts_abalance ON {TABLE} (abalance)"))
CONCURRENT_INDEX = Script(
    f"""
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY accounts_abalance ON {TABLE} (abalance)")
    """
)


@dataclass
class Load:
    """What pgbench's clients had to wait, in seconds, once the load is over."""

    latencies_s: list[float] = field(default_factory=list)

    @property
    def longest_s(self) -> float:
        """Return the longest that any transaction of any client took."""
        return max(self.latencies_s)


def fill(server: PrivateServer, database: str, scale: int) -> None:
    """Make pgbench's tables, ``scale`` times 100,000 accounts, at the revision a1."""
    _run(server, database, "--initialize", "--quiet", f"--scale={scale}")
    server.execute(
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('a1')",
        database=database,
    )


@contextmanager
def copy_of(server: PrivateServer, template: str) -> Iterator[str]:
    """Copy a database that nobody uses, and drop the copy afterwards."""
    with server.database() as name:
        server.execute(f"DROP DATABASE {name}", f"CREATE DATABASE {name} TEMPLATE {template}")
        yield name


def project(
    server: PrivateServer, database: str, folder: Path, revisions: Mapping[str, Script]
) -> Namespace:
    """Write a project whose first revision is where `fill` left the database."""
    url = server.url(database)
    plain_url = repr(url.replace("postgresql:", "postgresql+psycopg2:"))
    written = staging_project(folder, {"a1": Script(), **revisions}, url=plain_url)
    return {"database": url, "alembic_ini": str(written.ini)}


def run_alembic(namespace: Namespace, begins: Callable[[], None]) -> None:
    """Migrate as `alembic upgrade head` does, without the time that the command needs to start."""
    config = Config(namespace["alembic_ini"])
    begins()
    command.upgrade(config, "head")


def run_upgrade(namespace: Namespace, begins: Callable[[], None]) -> None:
    """Migrate by the whole runbook, its backup and snapshots included; what it prints is lost."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        go(upgrade, namespace, meanwhile={"run_upgrade": begins})


def under_load(
    server: PrivateServer,
    database: str,
    folder: Path,
    do: Callable[[Callable[[], None]], object],
    *,
    open_s: float = OPEN_S,
) -> Load:
    """Do something while pgbench's clients write and somebody leaves a transaction open.

    Args:
        folder: where pgbench writes the latency of each of its transactions.
        do: is given what opens that transaction, to call just before it migrates.
        open_s: how long the transaction stays open, from then on.
    """
    with pgbench(server, database, folder) as load:
        time.sleep(WARM_S)
        with idle_transaction(server, database, open_s) as begin:
            do(begin)
        time.sleep(WARM_S / 2)
    return load


@contextmanager
def idle_transaction(
    server: PrivateServer, database: str, open_s: float
) -> Iterator[Callable[[], None]]:
    """Yield what reads the table and stays idle in its transaction; wait for its end at last."""
    holder = server.connect(database)
    holder.autocommit = False
    release = threading.Timer(open_s, holder.rollback)

    def begin() -> None:
        holder.cursor().execute(f"SELECT FROM {TABLE} LIMIT 1")
        release.start()

    try:
        yield begin
    finally:
        if release.ident:
            release.join()
        holder.close()


@contextmanager
def pgbench(server: PrivateServer, database: str, folder: Path) -> Iterator[Load]:
    """Let four clients update accounts, as fast as they can, for the length of the block."""
    load = Load()
    arguments = _command(
        server, database, "--builtin=simple-update", "--no-vacuum", f"--client={CLIENTS}",
        f"--time={LONGEST_S}", "--log", f"--log-prefix={folder / 'pgbench'}",
    )  # fmt: skip
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield load
    finally:
        # As its own timer does when --time is over: it ends in order and writes its log.
        process.send_signal(signal.SIGALRM)
        said, _ = process.communicate(timeout=30)
    if process.returncode:
        raise RuntimeError(f"pgbench failed: {said}")
    for file in folder.glob("pgbench.*"):
        # A transaction a line: client, number, microseconds, script, seconds, microseconds.
        load.latencies_s += [int(line.split()[2]) / 1e6 for line in file.read_text().splitlines()]
        file.unlink()


def _run(server: PrivateServer, database: str, *options: str) -> None:
    arguments = _command(server, database, *options)
    subprocess.run(arguments, check=True, capture_output=True, timeout=120)


def _command(server: PrivateServer, database: str, *options: str) -> list[str]:
    where = ("--host=127.0.0.1", f"--port={server.port}", "--username=postgres")
    return [str(client_directory() / "pgbench"), *where, *options, database]
