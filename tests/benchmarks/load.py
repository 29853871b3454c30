"""How long an application's writers wait while its table is migrated under load.

Each round copies pgbench's database three times, lets four clients write as fast as they can and
somebody leave a transaction open for 5 s on the table, and adds a column to it: by plain Alembic,
by the whole runbook `upgrade`, and not at all, for as long. Then an index: by CREATE INDEX in
plain Alembic, and CONCURRENTLY by the runbook. The server is one of its own without fsync: the
stalls are those of locks, not of a disk. Printed is the longest latency of any transaction, and
whether it is within the bounds; nothing is asserted, as a busy machine stalls writers by itself.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pgbench
from builders import Script
from playbook.postgres_files import server_account, server_programs
from servers import PrivateServer, private_server
from steps import Namespace

SCALE = 10
"""Times 100,000 rows."""
TENTH = 10
ALLOWED_MS = 50.0
COLUMN = {"b2": pgbench.ADD_COLUMN}
How = Callable[[Namespace, Callable[[], None]], object]


@dataclass
class Bench:
    """A filled database to copy, and the longest stalls seen, in milliseconds."""

    server: PrivateServer
    template: str
    scratch: Path
    stalls_ms: dict[str, list[float]] = field(default_factory=dict)

    def measure(self, name: str, how: How, revisions: Mapping[str, Script]) -> float:
        """Note the longest stall of one migration; return how many seconds it took."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch)) / "project"
        with pgbench.copy_of(self.server, self.template) as database:
            namespace = pgbench.project(self.server, database, folder, revisions)
            begun = time.monotonic()
            load = pgbench.under_load(self.server, database, folder, partial(how, namespace))
            took_s = time.monotonic() - begun
        shutil.rmtree(folder)
        self.stalls_ms.setdefault(name, []).append(1000 * load.longest_s)
        return took_s

    def round(self) -> None:
        """Measure every kind of migration once."""
        self.measure("alembic", pgbench.run_alembic, COLUMN)
        took_s = self.measure("upgrade", pgbench.run_upgrade, COLUMN)
        self.measure("nothing", partial(_nothing, took_s), COLUMN)
        self.measure("CREATE INDEX", pgbench.run_alembic, {"b2": pgbench.PLAIN_INDEX})
        self.measure("CONCURRENTLY", pgbench.run_upgrade, {"b2": pgbench.CONCURRENT_INDEX})


def _nothing(seconds: float, namespace: Namespace, begins: Callable[[], None]) -> None:
    begins()
    time.sleep(max(0.0, seconds - pgbench.WARM_S))


def run(rounds: int) -> None:
    """Measure a number of rounds, each about a minute and a half, and print the stalls."""
    with _bench() as bench:
        for number in range(rounds):
            bench.round()
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    print(_table(bench))


@contextmanager
def _bench() -> Iterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="playbook-bench-", dir="/tmp")).resolve()
    folder.chmod(0o711)  # the server of a root user runs as another
    try:
        programs = server_programs(folder, 18, server_account())
        with private_server(18, programs, folder) as server, server.database() as template:
            pgbench.fill(server, template, SCALE)
            yield Bench(server, template, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _table(bench: Bench) -> str:
    """Every round's longest stalls, and the verdict on each bound."""
    stalls = bench.stalls_ms
    lines = [
        f"The longest stall of any of {pgbench.CLIENTS} writers on {100_000 * SCALE:,} rows, with "
        f"a transaction open for {pgbench.OPEN_S:g} s, ms:",
        f"  {'':14}{'median':>8}   each round",
    ]
    for name, measured in stalls.items():
        each = "".join(f"{ms:8.0f}" for ms in measured)
        lines.append(f"  {name:14}{statistics.median(measured):8.0f}   {each}")
    part = max(own / plain for own, plain in zip(stalls["upgrade"], stalls["alembic"], strict=True))
    more_ms = statistics.median(
        own - none for own, none in zip(stalls["upgrade"], stalls["nothing"], strict=True)
    )
    index_ms = statistics.median(
        own - none for own, none in zip(stalls["CONCURRENTLY"], stalls["nothing"], strict=True)
    )
    lines += [
        f"`upgrade` stalls {part:.3f} times what plain Alembic does, in the worst round: "
        f"{_verdict(part <= 1 / TENTH)} (at most {1 / TENTH:g})",
        f"`upgrade` stalls {more_ms:+.0f} ms longer than no migration, in the median: "
        f"{_verdict(more_ms <= ALLOWED_MS)} (at most {ALLOWED_MS:g} ms)",
        f"CREATE INDEX CONCURRENTLY by `upgrade` {index_ms:+.0f} ms, in the median: "
        f"{_verdict(index_ms <= ALLOWED_MS)} (at most {ALLOWED_MS:g} ms)",
    ]
    return "\n".join(lines)


def _verdict(held: bool) -> str:
    return "held" if held else "NOT HELD"
