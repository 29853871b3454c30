"""Headless `upgrade` and `status` against the plain commands that they stand for.

Each round takes fresh copies of the same legacy database and runs, in turn, the plain commands
one after the other and the notebooks by papermill; the order alternates. Medians and ratios are
printed, with where an upgrade's time goes. Nothing is asserted: seconds depend on the machine.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "notebooks"))

from harness import NOTEBOOKS, PrivateProject, private_project

from playbook.sandbox import client_directory
from playbook.targets import Target

PROGRAMS = Path(sys.executable).parent
PACKAGES = ("alembic", "sqlalchemy", "psycopg2-binary", "papermill", "ipykernel")
IMPORTS = ("papermill", "ipykernel.kernelapp", "playbook.upgrade", "playbook.status")
DATABASE = "sandbox"
SHOWN_CELLS = 8
READS = ("alembic current", "psql \\dt")
"""The plain commands that `status` stands for."""


@dataclass
class Bench:
    """The seconds of every timed thing, round by round."""

    project: PrivateProject
    scratch: Path
    seconds: dict[str, list[float]] = field(default_factory=dict)
    cells: dict[str, list[float]] = field(default_factory=dict)
    """Of `upgrade`'s code cells, by their last line."""

    def time(self, name: str, command: Sequence[str | Path], *, to: Path | None = None) -> None:
        """Run a command to its end, its output into a file, and note how long it took."""
        file = to or self.scratch / "output.txt"
        begun = time.perf_counter()
        with file.open("wb") as output:
            done = subprocess.run(
                [str(part) for part in command], cwd=self.project.folder, check=False,
                env=self.environment(), stdout=output, stderr=subprocess.PIPE,
            )  # fmt: skip
        took = time.perf_counter() - begun
        if done.returncode:
            raise SystemExit(f"{name} failed: {done.stderr.decode('utf-8', 'replace')}")
        self.seconds.setdefault(name, []).append(took)

    def environment(self) -> dict[str, str]:
        """The project's, and how plain libpq programs find the sandbox's database."""
        return {**self.project.environment, **self.target().libpq_variables()}

    def target(self) -> Target:
        """The sandbox's database, ready to connect to."""
        return self.project.target(DATABASE)


def run(rounds: int) -> None:
    """Measure and print."""
    with private_project() as project, tempfile.TemporaryDirectory() as scratch:
        bench = Bench(project, Path(scratch))
        project.reset("legacy")
        print(_machine(bench), flush=True)
        _warm_up(bench)
        for number in range(rounds):
            _round(bench, papermill_first=bool(number % 2))
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for name in IMPORTS * min(rounds, 3):
            bench.time(f"import {name}", [sys.executable, "-c", f"import {name}"])
        bench.time("python", [sys.executable, "-c", ""])
    print(_table(bench))
    print(_profile(bench))


def _warm_up(bench: Bench) -> None:
    """Read every file once, so that no round pays for a cold disk."""
    _papermill(bench, "status")
    _alembic(bench, "current")
    bench.seconds.clear()


def _round(bench: Bench, *, papermill_first: bool) -> None:
    steps: list[Callable[[Bench], None]] = [_plain_commands, _notebooks]
    for step in reversed(steps) if papermill_first else steps:
        bench.project.reset("legacy", DATABASE)
        step(bench)


def _plain_commands(bench: Bench) -> None:
    """What a guide without notebooks tells to type, on a database that is not at head."""
    tools = client_directory()
    database = bench.target().database
    _alembic(bench, "current")
    bench.time("pg_dump", [tools / "pg_dump", database], to=bench.scratch / "file.sql")
    _alembic(bench, "upgrade", "head", "--sql")
    _alembic(bench, "upgrade", "head")
    _alembic(bench, "current")
    bench.time("psql \\dt", [tools / "psql", "-c", r"\dt", database])


def _alembic(bench: Bench, *arguments: str) -> None:
    bench.time(f"alembic {' '.join(arguments)}", [PROGRAMS / "alembic", *arguments])


def _notebooks(bench: Bench) -> None:
    """Both runbooks, `status` before the upgrade as a person would."""
    _papermill(bench, "status")
    executed = _papermill(bench, "upgrade")
    for cell in executed["cells"]:
        if cell["cell_type"] == "code":
            last_line = "".join(cell["source"]).splitlines()[-1]
            took = float(cell["metadata"]["papermill"]["duration"])
            bench.cells.setdefault(last_line, []).append(took)


def _papermill(bench: Bench, name: str) -> dict[str, Any]:
    output = bench.scratch / f"{name}.ipynb"
    command = [PROGRAMS / "papermill", NOTEBOOKS / f"{name}.ipynb", output, "--no-progress-bar"]
    bench.time(f"papermill {name}", [*command, "-r", "database", DATABASE])
    executed: dict[str, Any] = json.loads(output.read_text("utf-8"))
    return executed


def _machine(bench: Bench) -> str:
    server = subprocess.run(
        [client_directory() / "psql", "-Atc", "SHOW server_version"], env=bench.environment(),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    software = [f"{name} {version(name)}" for name in PACKAGES]
    return (
        f"{datetime.now():%Y-%m-%d %H:%M}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores\nPython {platform.python_version()}, "
        f"PostgreSQL {server.stdout.split()[0]}, {', '.join(software)}\n"
    )


def _table(bench: Bench) -> str:
    """Medians of all commands, and the ratios that matter."""
    plain = [name for name in bench.seconds if name.startswith(("alembic", "pg_dump", "psql"))]
    width = max(len(name) for name in bench.seconds) + 6
    lines = ["The plain commands, median seconds:"]
    for name in plain:
        times = bench.seconds[name]
        twice = " (twice a round)" if name == "alembic current" else ""
        lines.append(f"  {name + twice:{width}} {statistics.median(times):6.2f}")
    together = sum(statistics.median(bench.seconds[name]) for name in plain)
    together += statistics.median(bench.seconds["alembic current"])
    reads = sum(statistics.median(bench.seconds[name]) for name in READS)
    lines += [f"  {'together':{width}} {together:6.2f}", "", "The notebooks, headless:"]
    for name, other, what in (
        ("papermill upgrade", together, "all plain commands"),
        ("papermill status", reads, "`alembic current` and `psql \\dt`"),
    ):
        median = statistics.median(bench.seconds[name])
        lines.append(f"  {name:{width}} {median:6.2f}   {median / other:.2f} times {what}")
    return "\n".join(lines)


def _profile(bench: Bench) -> str:
    """Where the time of `papermill upgrade` goes."""
    start = statistics.median(bench.seconds["python"])
    whole = statistics.median(bench.seconds["papermill upgrade"])
    importing = statistics.median(bench.seconds["import papermill"])
    cells = {call: statistics.median(took) for call, took in bench.cells.items()}
    in_cells = sum(cells.values())
    rest = whole - importing - in_cells
    lines = [
        "",
        f"Where the {whole:.2f} s of `papermill upgrade` go:",
        f"  {'Python and importing papermill':46} {importing:6.2f}",
        f"  {'starting the kernel, reading and writing files':46} {rest:6.2f}",
        f"  {'cells':46} {in_cells:6.2f}",
    ]
    slowest = sorted(cells, key=cells.__getitem__, reverse=True)[:SHOWN_CELLS]
    lines += [f"    {call[:44]:44} {cells[call]:6.2f}" for call in slowest]
    lines += ["Imports alone, without Python's own start:"]
    for name in IMPORTS:
        took = statistics.median(bench.seconds[f"import {name}"]) - start
        lines.append(f"  {name:46} {took:6.2f}")
    return "\n".join(lines)
