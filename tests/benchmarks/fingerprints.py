"""What fingerprints cost: a snapshot against ``count(*)`` of the same table in the same run.

A private PostgreSQL 18 with default settings for parallel queries. The tables are vacuumed, which
makes ``count(*)`` as fast as it gets. Rounds alternate the two; medians and ratios are printed,
and the peak memory of a process of its own that takes a snapshot. Nothing is asserted.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from playbook.database import connect
from playbook.postgres_files import server_account, server_programs
from playbook.snapshot import count_rows, take_snapshot
from playbook.targets import load_target
from servers import PrivateServer, private_server

NARROW = """
CREATE TABLE t (id bigint PRIMARY KEY, n int, name text, at timestamptz);
INSERT INTO t SELECT i, hashint8(i), md5(i::text), timestamptz '2020-01-01Z' + i * interval '1 s'
FROM generate_series(1, {rows}) AS i;
"""
WIDE = """
CREATE TABLE t (id bigint PRIMARY KEY, n int, name text, at timestamptz, amount numeric(10, 2),
                ok boolean, body text, maybe int);
INSERT INTO t SELECT i, hashint8(i), md5(i::text), timestamptz '2020-01-01Z' + i * interval '1 s',
                     i % 100000 / 7.0, i % 2 = 0, repeat(md5(i::text), 8), nullif(i % 3, 0)
FROM generate_series(1, {rows}) AS i;
"""
MEMORY = """
import resource
from playbook.snapshot import take_snapshot
from playbook.targets import load_target
take_snapshot(load_target("env:BENCHMARKED"), ())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def run(rounds: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="playbook-bench-") as folder:
        base = Path(folder)
        base.chmod(0o711)
        programs = server_programs(base, 18, server_account())
        with private_server(18, programs, base) as server:
            print(f"PostgreSQL 18, {platform.machine()}, {os.cpu_count()} cores", flush=True)
            _section(server, "10,000,000 rows of bigint key, int, text, timestamptz", NARROW,
                     10_000_000, rounds)  # fmt: skip
            _section(server, "1,000,000 rows of the same", NARROW, 1_000_000, rounds)
            _section(server, "1,000,000 rows of 8 columns, 370 bytes", WIDE, 1_000_000, rounds)


def _section(server: PrivateServer, title: str, make: str, rows: int, rounds: int) -> None:
    with server.database() as name:
        server.execute(make.format(rows=rows), "VACUUM (ANALYZE) t", database=name)
        target = load_target(server.url(name))
        with connect(target) as connection:
            counts, snapshots = [], []
            for _ in range(rounds):
                counts.append(_seconds(lambda: count_rows(connection, ["public.t"])))
                snapshots.append(_seconds(lambda: take_snapshot(target, ())))
        counted, taken = statistics.median(counts), statistics.median(snapshots)
        peak = _peak_kb(server.url(name))
    print(f"{title}:")
    print(f"  count(*)       {counted:6.2f} s")
    print(f"  snapshot       {taken:6.2f} s, {taken / counted:.2f} times count(*)")
    print(f"  its process    {peak / 1024:6.1f} MB at most", flush=True)


def _seconds(what: Callable[[], object]) -> float:
    begun = time.perf_counter()
    what()
    return time.perf_counter() - begun


def _peak_kb(url: str) -> int:
    """Return the peak memory of a new process that takes a snapshot; ru_maxrss, kB on Linux."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], env={**os.environ, "BENCHMARKED": url},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout) // (1024 if sys.platform == "darwin" else 1)
