"""Backup and restore against `pg_dump > file.sql` and `psql < file.sql`, as ratios in one run.

On a private server with about 2 GB of mixed data (or less: `--gigabytes`), each round runs the
plain commands and ours in turn; medians are printed with the floor: COPY of the same tables to
nowhere. A backup is measured as users get it, with counts, fingerprints and hashes; that it is read
back to its end (``verify="archive"``) is a line of its own.
Nothing is asserted: seconds depend on the machine.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from playbook.archive import read_manifest, take_backup, verify
from playbook.compression import parse_compression
from playbook.database import connect, fetch, server_info
from playbook.dump import (
    ClientTools,
    dump_database,
    find_client_tools,
    restore_archive,
)
from playbook.postgres_files import server_account, server_programs
from playbook.targets import Target, load_target
from servers import PrivateServer, private_server

MAJOR = 18
PG_DUMP, PSQL = "pg_dump > file.sql", "psql < file.sql"
DUMP, RESTORE = "the dump alone, compressed", "restore"
BACKUP, PROOF = "backup, with fingerprints and hashes", "its proof: hashed and read to the end"
TABLES = """
CREATE TABLE users (
    id bigint PRIMARY KEY, name text NOT NULL, mail text NOT NULL UNIQUE,
    joined timestamptz NOT NULL, settings jsonb NOT NULL);
CREATE TABLE events (
    id bigint PRIMARY KEY, user_id bigint NOT NULL, kind text NOT NULL, at timestamptz NOT NULL,
    payload jsonb NOT NULL, amount numeric(12, 2));
CREATE TABLE messages (
    id bigint PRIMARY KEY, author bigint NOT NULL, sent timestamptz NOT NULL, body text NOT NULL);
CREATE TABLE readings (sensor int NOT NULL, at timestamptz NOT NULL, value float8, quality int);
CREATE TABLE files (id int PRIMARY KEY, name text NOT NULL, content bytea NOT NULL);
CREATE TABLE sentences AS
    SELECT g AS n, string_agg(substr(translate(md5((5000 * random() ^ 3)::int::text),
        '0123456789', 'aeiounrstl'), 1, 2 + i % 9), ' ') AS text
    FROM generate_series(1, 3000) AS g, generate_series(1, 12) AS i GROUP BY g;
ALTER TABLE sentences ADD PRIMARY KEY (n)
"""
ROWS = (
    """INSERT INTO users SELECT n, 'User ' || n, 'user' || n || '@example.org',
       '2020-01-01'::timestamptz + n * '7 min'::interval,
       jsonb_build_object('theme', n % 3, 'language', (ARRAY['de', 'en', 'fr', 'fi'])[1 + n % 4])
       FROM generate_series(1, {0} * 100000) AS n""",
    """INSERT INTO events SELECT n, 1 + n::bigint * 7919 % ({0} * 100000),
       (ARRAY['login', 'view', 'search', 'order', 'logout'])[1 + n * 31 % 5],
       '2024-01-01'::timestamptz + n * '3 s'::interval,
       jsonb_build_object('page', '/products/' || n * 17 % 900, 'ms', n * 7 % 300, 'agent',
         (ARRAY['Mozilla/5.0 (X11; Linux x86_64) Firefox/132.0', 'Mozilla/5.0 (Windows NT 10.0) '
         'Chrome/130.0.0.0 Safari/537.36', 'Mozilla/5.0 (Macintosh) Safari/605.1'])[1 + n * 13 % 3],
         'referrer', 'https://www.example.org/campaign/' || n % 40),
       CASE WHEN n % 5 = 0 THEN (random() * 900)::numeric(12, 2) END
       FROM generate_series(1, {0} * 2200000) AS n""",
    """INSERT INTO messages SELECT n, 1 + n::bigint * 7919 % ({0} * 100000),
       '2024-01-01'::timestamptz + n * '11 s'::interval,
       (SELECT string_agg(s.text, '. ') FROM sentences AS s WHERE s.n BETWEEN r AND r + r % 9)
       FROM (SELECT n, (random() * 2980)::int + 1 AS r
             FROM generate_series(1, {0} * 600000) AS n) AS numbered""",
    """INSERT INTO readings SELECT n % 200, '2024-01-01'::timestamptz + n / 200 * '1 min'::interval,
       round((20 + 5 * sin(n / 5000.0))::numeric, 1), n % 3
       FROM generate_series(1, {0} * 1500000) AS n""",
    """INSERT INTO files SELECT n, 'file-' || n || '.pdf',
       (SELECT decode(string_agg(md5((n * 1000 + i)::text), ''), 'hex')
        FROM generate_series(1, 1250) AS i) FROM generate_series(1, {0} * 600) AS n""",
    "SELECT lo_from_bytea(0, content) FROM files WHERE id % 20 = 0",
)
KEYS = """
CREATE INDEX ON events (user_id, at); CREATE INDEX ON events (kind);
CREATE INDEX ON messages (author); CREATE INDEX ON readings (sensor, at);
ALTER TABLE events ADD FOREIGN KEY (user_id) REFERENCES users;
ALTER TABLE messages ADD FOREIGN KEY (author) REFERENCES users
"""
DUMPS_A_ROUND = 3
ROWS_PER_GB = 1.3
"""So that the plain dump has about the gigabytes that were asked for (measured)."""
SETTINGS = ("shared_buffers = '256MB'", "max_wal_size = '4GB'", "maintenance_work_mem = '128MB'")


@dataclass
class Bench:
    """A server with its data, and the seconds of every timed thing, round by round."""

    server: PrivateServer
    source: Target
    tools: ClientTools
    scratch: Path
    seconds: dict[str, list[float]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    peak_bytes: int = 0
    partial_bytes: int = 0
    parts: list[str] = field(default_factory=list)

    def time(self, name: str, work: Callable[[], object]) -> None:
        """Run something and note how long it took; first the disk is let catch up."""
        os.sync()
        begun = time.perf_counter()
        work()
        took = time.perf_counter() - begun
        self.seconds.setdefault(name, []).append(took)
        print(f"  {name:44} {took:7.2f} s", file=sys.stderr, flush=True)

    def shell(self, command: str) -> None:
        """Run a plain command with the server's address in its environment."""
        environment = os.environ | self.source.libpq_variables()
        subprocess.run(["sh", "-ec", command], check=True, env=environment, cwd=self.scratch)

    def median(self, name: str) -> float:
        """Return the median seconds of something."""
        return statistics.median(self.seconds[name])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often; 3 without it")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of the plain dump; 2")
    options = parser.parse_args(arguments)
    run(options.rounds, gigabytes=max(0.01, options.gigabytes))
    return 0


def run(rounds: int, *, gigabytes: float = 2.0) -> None:
    """Measure and print."""
    with _bench(gigabytes) as bench:
        for number in range(max(1, rounds)):
            _round(bench, ours_first=bool(number % 2))
        print(_report(bench))


@contextmanager
def _bench(gigabytes: float) -> Iterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="playbook-bench-")).resolve()
    folder.chmod(0o711)
    try:
        programs = server_programs(folder, MAJOR, server_account())
        with private_server(MAJOR, programs, folder) as server:
            settings = [f"ALTER SYSTEM SET {setting}" for setting in SETTINGS[1:]]
            server.execute(*settings, "SELECT pg_reload_conf()", "CREATE DATABASE source")
            _fill(server, gigabytes)
            source = load_target(server.url("source"))
            scratch = folder / "scratch"
            scratch.mkdir()
            yield Bench(server, source, find_client_tools(MAJOR * 10000), scratch)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fill(server: PrivateServer, gigabytes: float) -> None:
    print("filling the database", file=sys.stderr, flush=True)
    server.execute(TABLES, database="source")
    with ThreadPoolExecutor(2) as pool:
        statements = [_sized(text, gigabytes) for text in ROWS[:-1]]
        list(pool.map(lambda text: server.execute(text, database="source"), statements))
    # As in a database that has been there for a while: no autovacuum takes part in the race.
    server.execute(ROWS[-1], KEYS, "VACUUM ANALYZE", "CHECKPOINT", database="source")


def _sized(text: str, gigabytes: float) -> str:
    """Put numbers of rows for a plain dump of about this size in place of ``{0} * NUMBER``."""
    scale = gigabytes * ROWS_PER_GB
    return re.sub(r"\{0\} \* (\d+)", lambda match: str(int(scale * int(match[1]))), text)


def _round(bench: Bench, *, ours_first: bool) -> None:
    """Dump several times in turn, since seconds waver, then restore the last dumps."""
    order = -1 if ours_first else 1
    backups = bench.scratch / "backups"
    for _ in range(DUMPS_A_ROUND):
        shutil.rmtree(backups, ignore_errors=True)
        for step in (_plain_dump, _our_dump, _our_backup)[::order]:
            step(bench)
    bench.time("floor: COPY of all tables to nowhere", lambda: _copy_to_nowhere(bench))
    for step in (_plain_restore, _our_restore)[::order]:
        step(bench)


def _plain_dump(bench: Bench) -> None:
    pg_dump, file = bench.tools.path("pg_dump"), bench.scratch / "file.sql"
    file.unlink(missing_ok=True)  # else the shell would have to empty it, and that takes a second
    bench.time(PG_DUMP, lambda: bench.shell(f"'{pg_dump}' source > file.sql"))
    bench.sizes["plain"] = file.stat().st_size


def _plain_restore(bench: Bench) -> None:
    psql = bench.tools.path("psql")
    with _empty_database(bench) as name:
        command = f"'{psql}' -q -v ON_ERROR_STOP=1 {name} < file.sql > /dev/null"
        bench.time(PSQL, lambda: bench.shell(command))


def _our_dump(bench: Bench) -> None:
    dump, zstd = bench.scratch / "dump", parse_compression("zstd:1")
    with _watched(bench, dump):
        bench.time(
            DUMP,
            lambda: dump_database(
                bench.source, dump, tools=bench.tools, jobs=_jobs(), compression=zstd
            ),
        )
    shutil.rmtree(dump)


def _our_backup(bench: Bench) -> None:
    with connect(bench.source) as connection:
        server = server_info(connection)
    backups = bench.scratch / "backups"
    with _watched(bench, backups):
        bench.time(BACKUP, lambda: take_backup(bench.source, server, (), directory=str(backups)))
    folder = _newest(bench)
    bench.sizes["ours"] = sum(path.stat().st_size for path in folder.iterdir())
    manifest = read_manifest(folder.parent)
    bench.time(PROOF, lambda: verify(manifest, "archive", target=bench.source, server=server))


def _our_restore(bench: Bench) -> None:
    folder = _newest(bench)
    with _empty_database(bench) as name, _watched(bench, folder):
        copy = load_target(bench.server.url(name))
        bench.time(RESTORE, lambda: restore_archive(folder, copy, tools=bench.tools, jobs=_jobs()))


def _newest(bench: Bench) -> Path:
    return next(bench.scratch.glob("backups/*/*/dump"))


def _jobs() -> int:
    return min(os.cpu_count() or 1, 4)


@contextmanager
def _empty_database(bench: Bench) -> Iterator[str]:
    with bench.server.database() as name:
        bench.server.execute("CHECKPOINT")
        yield name


def _copy_to_nowhere(bench: Bench) -> None:
    with connect(bench.source, read_only=True) as connection, Path(os.devnull).open("wb") as null:
        query = (
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 2200 ORDER BY 1"
        )
        with connection.cursor() as cursor:
            for (table,) in fetch(connection, query):
                cursor.copy_expert(f'COPY "{table}" TO STDOUT', null)


@contextmanager
def _watched(bench: Bench, folder: Path) -> Iterator[None]:
    """Note the peak memory of this process, and of the disk what a folder takes at most."""
    stop = threading.Event()

    def look() -> None:
        process = psutil.Process()
        while not stop.wait(0.1):
            bench.peak_bytes = max(bench.peak_bytes, process.memory_info().rss)
            bench.partial_bytes = max(bench.partial_bytes, _disk_bytes(folder))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _disk_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def _report(bench: Bench) -> str:
    width = max(map(len, bench.seconds))
    lines = [f"  {name:{width}} {bench.median(name):7.2f} s" for name in bench.seconds]
    proven = bench.median(BACKUP) + bench.median(PROOF)
    plain, ours = bench.sizes["plain"], bench.sizes["ours"]
    facts = (
        ("the dump alone / pg_dump", _ratio(bench, DUMP, PG_DUMP)),
        ("whole backup / pg_dump", _ratio(bench, BACKUP, PG_DUMP)),
        ("whole backup and its proof / pg_dump", f"{proven / bench.median(PG_DUMP):.2f}"),
        ("psql / restore", _ratio(bench, PSQL, RESTORE)),
        ("size / plain size", f"{ours / plain:.3f}  ({ours / 1e6:.0f} of {plain / 1e6:.0f} MB)"),
        ("most that the folder took on the disk", f"{bench.partial_bytes / 1e6:.0f} MB"),
        ("peak memory of this process", f"{bench.peak_bytes / 1e6:.0f} MB"),
    )
    return "\n".join(("Medians:", *lines, "Ratios:", *(f"  {k:{width}} {v}" for k, v in facts)))


def _ratio(bench: Bench, above: str, below: str) -> str:
    return f"{bench.median(above) / bench.median(below):.2f}"


if __name__ == "__main__":
    sys.exit(main())
