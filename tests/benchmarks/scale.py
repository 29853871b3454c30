"""How reading grows with the revisions and tables there are: 10, 100 and 1,000 of both.

For each size one project and two databases are made: one at head, with as many tables, and one
at base, with all revisions pending. In each round the steps of `status` and `verify` (at head) and
of `preview` (at base) are called in one process, as a kernel does, and drawn as a notebook draws
them; in turn with them runs what `status` stands for: the command `alembic current` and one query
to the catalogs. Imports are not in the figures of the steps; papermill's total has them. Printed
are the least of all rounds (more is what others do on the machine), ratios, also of processor time
without the server's, and by which factor each grew when the size grew tenfold; nothing is asserted.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from large import large_project, migrate
from playbook import preview, status, verify
from playbook.catalog import table_sizes
from playbook.database import connect
from playbook.postgres_files import server_account, server_programs
from playbook.present import plain, to_html
from playbook.targets import load_target
from servers import PrivateServer, private_server
from steps import STEPS

ROOT = Path(__file__).resolve().parents[2]
SIZES = (10, 100, 1000)
MOST_ROUNDS = 3
"""A round takes about half a minute."""
PROGRAMS = Path(sys.executable).parent
CURRENT, QUERY, STATUS = "alembic current", "one catalog query", "status"
WHOLE = "papermill status"


@dataclass
class Size:
    """One project with its two databases, and what was measured on them."""

    number: int
    ini: Path
    head: str
    base: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    processor: dict[str, list[float]] = field(default_factory=dict)
    drawn_bytes: dict[str, int] = field(default_factory=dict)
    child_bytes: dict[str, int] = field(default_factory=dict)

    def time(self, name: str, action: Callable[[], object]) -> None:
        """Run something and note how long it took."""
        begun, used = time.perf_counter(), _processor_s()
        action()
        self.seconds.setdefault(name, []).append(time.perf_counter() - begun)
        self.processor.setdefault(name, []).append(_processor_s() - used)

    def least(self, name: str) -> float:
        """Return the least seconds that something took."""
        return min(self.seconds[name])


def run(rounds: int) -> None:
    """Measure and print."""
    rounds = min(rounds, MOST_ROUNDS)
    with _folder() as folder:
        programs = server_programs(folder, 18, server_account())
        with private_server(18, programs, folder) as server:
            sizes = []
            for number in SIZES:
                size = _make(server, folder, number)
                for _ in range(rounds):
                    _round(size)
                _tell(f"{number} revisions and tables: measured")
                sizes.append(size)
    print(_table(sizes))


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="playbook-bench-", dir="/tmp"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _make(server: PrivateServer, folder: Path, number: int) -> Size:
    """Write the project and make both databases; only plain Alembic works on them."""
    names = [f"{place}{number}" for place in ("head", "base")]
    server.execute(*(f"CREATE DATABASE {name}" for name in names))
    urls = [server.url(name) for name in names]
    project = large_project(folder / f"project{number}", number)
    migrate(project, urls[0], "upgrade", "head")
    migrate(project, urls[0], "current")  # so that no round pays for compiling what it reads
    server.execute("ANALYZE", database=names[0])
    return Size(number, project.ini, *urls)


def _round(size: Size) -> None:
    command = [PROGRAMS / "alembic", "--config", size.ini, "current"]
    size.time(CURRENT, partial(subprocess.run, command, check=True, capture_output=True))
    size.time(QUERY, partial(_ask_catalog, size))
    size.time(STATUS, partial(_steps, size, status, size.head))
    size.time("verify", partial(_steps, size, verify, size.head))
    size.time("preview", partial(_steps, size, preview, size.base))
    size.time(WHOLE, partial(_papermill, size))


def _ask_catalog(size: Size) -> None:
    """Ask for the size of every table, with one query."""
    with connect(load_target(size.head, size.ini), read_only=True) as connection:
        table_sizes(connection)


def _steps(size: Size, module: ModuleType, url: str) -> None:
    """Call a runbook's steps and draw what they return in both forms, as a kernel does."""
    name, drawn = module.__name__.rpartition(".")[2], 0
    with module.open_run({"database": url, "alembic_ini": str(size.ini)}) as opened:
        for step in STEPS[module]:
            if step == "conclude":  # after it the process is gone
                child = psutil.Process(opened.alembic.pid).memory_info().rss
                size.child_bytes[name] = child
            record = getattr(module, step)(opened)
            if not hasattr(record, "_repr_mimebundle_"):  # a chart draws itself
                drawn += len(to_html(record)) + len(plain(record))
    size.drawn_bytes[name] = drawn


def _papermill(size: Size) -> None:
    output = size.ini.parent / "status.ipynb"
    command = [PROGRAMS / "papermill", ROOT / "notebooks" / "status.ipynb", output]
    command += ["--no-progress-bar", "-r", "database", size.head]
    subprocess.run([*command, "-r", "alembic_ini", str(size.ini)], check=True, capture_output=True)


def _table(sizes: list[Size]) -> str:
    """Return medians, the ratio of `status`, and how each grew."""
    heads = "".join(f"{size.number:>10,}" for size in sizes)
    grown = "".join(
        f"{f'x{b.number // a.number}':>9}" for a, b in zip(sizes, sizes[1:], strict=False)
    )
    lines = [f"Least seconds, by revisions and tables:\n  {'':22}{heads}   growth{grown}"]
    lines += [_line(name, [size.least(name) for size in sizes]) for name in sizes[0].seconds]
    lines.append("`status` in one process, times `alembic current` and one catalog query:")
    lines.append(f"  {'elapsed':22}{_ratios(sizes, 'seconds')}")
    lines.append(f"  {'processor':22}{_ratios(sizes, 'processor')}")
    for what, values in (("drawn", "drawn_bytes"), ("memory of Alembic's process", "child_bytes")):
        lines.append(f"MB {what}:")
        for name in sizes[0].drawn_bytes:
            lines.append(_line(name, [getattr(size, values)[name] / 2**20 for size in sizes]))
    return "\n".join(lines)


def _ratios(sizes: list[Size], what: str) -> str:
    found = []
    for size in sizes:
        least = {name: min(values) for name, values in getattr(size, what).items()}
        found.append(least[STATUS] / (least[CURRENT] + least[QUERY]))
    return "".join(f"{ratio:10.2f}" for ratio in found)


def _processor_s() -> float:
    """Return the processor time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _line(name: str, values: list[float]) -> str:
    grown = "".join(f"{b / a:9.1f}" for a, b in zip(values, values[1:], strict=False))
    return f"  {name:22}{''.join(f'{value:10.2f}' for value in values)}         {grown}"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
