"""Kill -9 at random points of an upgrade and of a rollback, and what is there afterwards.

Five victims: the kernel, papermill, Alembic's child process, the server's backend that works for
the run, and the whole server, which then recovers from its log. The points are drawn over the
whole of a run, from its first side effect to its end, most of them while revisions run.

`PLAYBOOK_KILL_SEED` repeats a session's points, `PLAYBOOK_KILLS` sets how many there are for each
runbook.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from builders import Script, execute, staging_project
from playbook import archive, rollback, status, upgrade
from playbook.database import connect, fetch, fetch_value, lock_holder, server_info
from playbook.dump import dump_schema, find_client_tools
from playbook.errors import PlaybookError
from playbook.history import read_history
from playbook.migrate import Alembic
from playbook.receipts import known_receipts
from playbook.records import Outcome, Receipt, TableSnapshot
from playbook.snapshot import take_snapshot
from playbook.targets import Target, load_target
from servers import PrivateServer
from steps import go

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
DRIVER = Path(__file__).with_name("drive.py")
SEED = int(os.environ.get("PLAYBOOK_KILL_SEED") or random.SystemRandom().randrange(10**6))
KILLS = int(os.environ.get("PLAYBOOK_KILLS", "20"))
VICTIMS = ("kernel", "papermill", "child", "backend", "server")
SURVIVED = {"child", "backend", "server"}
"""Victims that the kernel outlives: it says itself how its run ended."""
RUNBOOKS = {"upgrade": upgrade, "rollback": rollback}
AMONG_REVISIONS = 0.75
"""The share of the points that fall between the first revision's begin and the last one's end."""
GONE_WITHIN_S = 30.0
ENDED_WITHIN_S = 120.0
LOOK_EVERY_S = 0.002
ROWS = 40_000

ITEMS = f"""
CREATE TABLE item AS
SELECT n AS id, md5(n::text) AS name, repeat(md5((n + 1)::text), 3) AS body, n % 997 AS price
FROM generate_series(1, {ROWS}) AS n
"""
CONCURRENTLY = """
with op.get_context().autocommit_block():
    op.execute({!r})
"""
REVISIONS = {
    "a1": Script(
        execute(
            ITEMS,
            "ALTER TABLE item ADD PRIMARY KEY (id)",
            "CREATE TABLE note (id int PRIMARY KEY, text text NOT NULL)",
            "INSERT INTO note SELECT n, 'note ' || n FROM generate_series(1, 500) AS n",
        ),
        execute("DROP TABLE note", "DROP TABLE item"),
    ),
    "b2": Script(
        execute("ALTER TABLE item ADD COLUMN slug text", "UPDATE item SET slug = lower(name)"),
        execute("ALTER TABLE item DROP COLUMN slug"),
    ),
    "c3": Script(
        CONCURRENTLY.format("CREATE INDEX CONCURRENTLY IF NOT EXISTS item_slug ON item (slug)"),
        CONCURRENTLY.format("DROP INDEX CONCURRENTLY IF EXISTS item_slug"),
    ),
    "d4": Script(
        execute(
            "CREATE TABLE sale (item_id int PRIMARY KEY, total numeric NOT NULL)",
            "INSERT INTO sale SELECT id, price * 1.5 FROM item",
        ),
        execute("DROP TABLE sale"),
    ),
    "e5": Script(
        execute("ALTER TABLE note ADD COLUMN length int", "UPDATE note SET length = length(text)"),
        # What a downgrade may do as well: write every row, of a table that stays.
        execute("ALTER TABLE note DROP COLUMN length", "UPDATE item SET body = body || ''"),
    ),
}
HALVES = {"c3"}
"""Revisions that leave their transaction."""
ENDS = {"upgrade": ("a1", "e5"), "rollback": ("e5", "a1")}
SESSIONS = """
SELECT pid FROM pg_stat_activity
WHERE datname = %s AND application_name = 'migration-playbook' AND pid <> pg_backend_pid()
ORDER BY state = 'active' DESC, backend_start DESC
"""
INVALID = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"


@dataclass(frozen=True)
class Place:
    """The facts of a database at a revision: its schema, its rows, its columns' fingerprints."""

    schema: str
    tables: tuple[TableSnapshot, ...]


@dataclass(frozen=True)
class Case:
    """Whom to kill in which runbook, and when: a share of the run, from 0 to 1."""

    runbook: str
    victim: str
    number: int

    def draw(self) -> tuple[bool, float]:
        """Return (among the revisions, share of that part's phases), in a stratum of its own."""
        chance = random.Random(f"{SEED} {self.runbook} {self.number}")
        return chance.random() < AMONG_REVISIONS, (self.number + chance.random()) / KILLS


CASES = [
    Case(runbook, VICTIMS[number % len(VICTIMS)], (number * 7) % KILLS)
    for runbook in RUNBOOKS
    for number in range(KILLS)
]


@dataclass(frozen=True)
class World:
    """The server, the project, and what the database is at each of its revisions."""

    server: PrivateServer
    ini: Path
    places: Mapping[str, Place]
    timelines: Mapping[str, list[tuple[float, str]]]
    """Runbook to (seconds since its first event, event) of a run that nobody killed."""

    def target(self, name: str) -> Target:
        return load_target(self.server.url(name), self.ini)


def facts(target: Target) -> Place:
    """Return what a database is now; Alembic's own table and the playbook's are left out."""
    tables = take_snapshot(target, (), except_tables=("public.alembic_version",)).tables
    return Place(dump_schema(target, tools=find_client_tools(180000)), tables)


def at(target: Target) -> str:
    with connect(target, read_only=True) as connection:
        return str(fetch_value(connection, "SELECT version_num FROM alembic_version"))


def _walk(server: PrivateServer, target: Target) -> dict[str, Place]:
    """Apply each revision by itself; keep copies of the database at the ends of the walk."""
    places = {}
    with Alembic(target) as alembic:
        with connect(target, read_only=True) as connection:
            alembic.open(target, server_info(connection), session={})
        for step in alembic.plan("upgrade", "head", ()):
            alembic.run(step, expected_current=step.from_revisions, session={})
            places[step.revision] = facts(target)
            if step.revision in {"a1", "e5"}:
                server.execute("VACUUM (FREEZE, ANALYZE)", database=target.database)
                server.execute(f"CREATE DATABASE at_{step.revision} TEMPLATE {target.database}")
    return places


@pytest.fixture(scope="module")
def world(durable_server: PrivateServer, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A server that recovers as a real one does, a project, and its unkilled runs."""
    folder = tmp_path_factory.mktemp("kills")
    ini = staging_project(folder / "project", REVISIONS).ini
    durable_server.execute("CREATE DATABASE walk")
    places = _walk(durable_server, load_target(durable_server.url("walk"), ini))
    timelines: dict[str, list[tuple[float, str]]] = {}
    world = World(durable_server, ini, places, timelines)
    for runbook in RUNBOOKS:
        with started(world, runbook, folder / runbook, by="driver") as run:
            assert run.process.wait(ENDED_WITHIN_S) == 0, run.said()
            timelines[runbook] = _timeline(run.receipt())
    return world


def _timeline(receipt: Mapping[str, Any]) -> list[tuple[float, str]]:
    moments = [(datetime.fromisoformat(e["at"]), e["what"]) for e in receipt["events"]]
    return [((at - moments[0][0]).total_seconds(), what) for at, what in moments]


class Run:
    """A runbook under way in another process, on a database of its own."""

    def __init__(self, world: World, runbook: str, folder: Path, by: str) -> None:
        """Start it: ``by`` papermill, or the driver, which is quicker."""
        self.world, self.runbook, self.folder = world, runbook, folder
        self.name = f"kill_{folder.name}".replace("-", "_").lower()
        begin, end = ENDS[runbook]
        world.server.execute(f"CREATE DATABASE {self.name} TEMPLATE at_{begin}")
        folder.mkdir(parents=True, exist_ok=True)
        self.parameters = {
            "database": world.server.url(self.name),
            "alembic_ini": str(world.ini),
            "output_dir": str(folder / "runs"),
            "target": end,
        }
        self.target = world.target(self.name)
        self.log = (folder / "log").open("w+", encoding="utf-8")
        self.process = psutil.Popen(
            self._command(by), cwd="/", stdout=self.log, stderr=self.log, start_new_session=True
        )

    def _command(self, by: str) -> list[str]:
        if by == "driver":
            return [sys.executable, str(DRIVER), self.runbook, json.dumps(self.parameters)]
        notebook, output = NOTEBOOKS / f"{self.runbook}.ipynb", self.folder / "out.ipynb"
        papermill = str(Path(sys.executable).with_name("papermill"))
        arguments = [part for pair in self.parameters.items() for part in ("-r", *pair)]
        return [papermill, str(notebook), str(output), "--no-progress-bar", *arguments]

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def receipt(self) -> dict[str, Any]:
        """Return the run's receipt as it is on the disk; empty if there is none yet."""
        for path in (self.folder / "runs").glob("*/receipt.json"):
            record: dict[str, Any] = json.loads(path.read_text("utf-8"))
            return record
        return {}

    def known(self) -> Receipt:
        """Return the receipt as the playbook reads it."""
        with connect(self.target, read_only=True) as connection:
            server = server_info(connection)
        (receipt,) = known_receipts(self.target, server, self.parameters["output_dir"])
        return receipt

    def wait_for(self, event: str) -> bool:
        """Wait until the receipt has an event; false if the run ends before."""
        while True:
            ended = self.process.poll() is not None
            if any(e["what"] == event for e in self.receipt().get("events", ())):
                return True
            if ended:
                return False
            time.sleep(LOOK_EVERY_S)

    def processes(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return [self.process, *self.process.children(recursive=True)]
        return []


@contextmanager
def started(world: World, runbook: str, folder: Path, by: str) -> Iterator[Run]:
    """Start a run; at the end, nothing of it is left."""
    run = Run(world, runbook, folder, by)
    try:
        yield run
    finally:
        for process in run.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        run.process.wait()
        run.log.close()
        world.server.execute(f"DROP DATABASE {run.name} WITH (FORCE)")


def moment(case: Case, timeline: list[tuple[float, str]]) -> tuple[str, float]:
    """Return (event, seconds after it): the point of a case, on the run that nobody killed."""
    among, share = case.draw()
    phases = list(pairwise(timeline))
    if among:
        first = phases.index(next(p for p in phases if p[0][1] in {"b2 begins", "e5 begins"}))
        phases = phases[first : first + len(REVISIONS) - 1]
    number, part = divmod(share * len(phases), 1)
    (since, event), (until, _) = phases[int(number)]
    return event, part * (until - since)


def victim_pid(run: Run, victim: str) -> int:
    """Return whom to kill now; 0 if there is none, as the run needs it no more."""
    if victim == "papermill":
        return int(run.process.pid)
    if victim == "kernel":
        return int(run.receipt()["pid"])
    if victim == "child":
        found = [p.pid for p in run.processes() if "runner.py" in " ".join(_command_line(p))]
        return found[0] if found else 0
    with connect(run.world.target("postgres"), read_only=True) as connection:
        sessions = fetch(connection, SESSIONS, (run.name,))
    return int(sessions[0][0]) if sessions else 0


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []


def kill(run: Run, victim: str, *, late: bool) -> bool:
    """Kill the victim, and wait for the run's end; false if there was nobody to kill.

    Args:
        late: a killed server is started again only after the run has ended, else at once.
    """
    relatives = run.processes()
    if victim == "server":
        run.world.server.kill()
        if not late:
            run.world.server.start()
    else:
        pid = victim_pid(run, victim)
        if not pid:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run.process.wait(ENDED_WITHIN_S)
    if victim == "server" and late:
        run.world.server.start()
    _, alive = psutil.wait_procs(relatives, timeout=GONE_WITHIN_S)
    assert not alive, f"left behind: {[_command_line(process) for process in alive]}"
    return True


def wait_for_peace(run: Run) -> None:
    """Wait until the server has recovered and no session of the run is left in it."""
    deadline = time.monotonic() + GONE_WITHIN_S
    left: object = "never reached"
    while time.monotonic() < deadline:
        with suppress(PlaybookError), connect(run.target, read_only=True) as connection:
            left = fetch(connection, SESSIONS, (run.name,))
            if not left:
                assert lock_holder(connection) == ""
                return
        time.sleep(0.1)
    pytest.fail(f"sessions are left in the server: {left}")


def check_place(run: Run, receipt: Receipt) -> tuple[str, bool]:
    """Check that the database is at a revision's boundary, or half-applied as the receipt says.

    Returns:
        The revision, and whether another one is half-applied.
    """
    here = at(run.target)
    found, wanted = facts(run.target), run.world.places[here]
    assert found.tables == wanted.tables, "data were lost or changed"
    half = found.schema != wanted.schema
    if half:
        assert receipt.under_way in HALVES
        assert receipt.leaves_transaction
        assert _without_index(found.schema) == _without_index(wanted.schema)
    return here, half


def _without_index(schema: str) -> list[str]:
    """Return a schema's lines without the one index that a half-applied revision may leave."""
    lines = schema.splitlines()
    return [
        line for line in lines if line and not line.startswith("--") and "item_slug" not in line
    ]


def check_receipt(run: Run, receipt: Receipt, case: Case, here: str) -> None:
    """Check the outcome that the receipt gives the run, and where it says the database is."""
    finished = any(e["what"] == "succeeded" for e in run.receipt()["events"])
    if finished:  # the victim was needed no more, or lived on long enough
        assert receipt.outcome == "succeeded"
        assert here == ENDS[case.runbook][1]
    elif case.victim in SURVIVED:
        assert receipt.outcome == run.receipt()["outcome"] == "failed", run.said()
        if "is not known: it cannot be reached" not in receipt.message:
            assert list(receipt.to_revisions) == [here]
    else:
        assert receipt.outcome == "interrupted"
        assert run.receipt()["outcome"] == "running"


def check_status(run: Run, receipt: Receipt, case: Case, *, half: bool) -> None:
    """Check that `status` names what happened, and the runbook that goes on."""
    parameters = {k: v for k, v in run.parameters.items() if k != "target"}
    outcome = go(status, parameters)
    assert isinstance(outcome, Outcome)
    advice = [step for step in outcome.next_steps if re.match(r"WARN: \S+: It ", step)]
    if receipt.outcome == "succeeded":
        assert advice == []
        return
    assert len(advice) == 1
    assert f"`{case.runbook}`" in advice[0]
    assert f"{receipt.under_way} is half-applied" in advice[0] or not half
    assert ("It was interrupted" if receipt.outcome == "interrupted" else "It failed") in advice[0]


def check_again(run: Run, case: Case, here: str) -> None:
    """Run the runbook again: it ends well, and settles what the killed run has left."""
    first = run.receipt()
    outcome = go(RUNBOOKS[case.runbook], run.parameters)
    end = ENDS[case.runbook][1]
    assert outcome.outcome == "succeeded"
    assert at(run.target) == end
    assert facts(run.target) == run.world.places[end]
    if here == end:
        return
    with connect(run.target, read_only=True) as connection:
        told = {r.run_id: r.outcome for r in read_history(connection).runs}
        assert lock_holder(connection) == ""
    settled = "interrupted" if first["outcome"] == "running" else first["outcome"]
    files = {path.parent.name: path for path in (run.folder / "runs").glob("*/receipt.json")}
    assert json.loads(files[first["run_id"]].read_text())["outcome"] == settled
    assert told.get(first["run_id"], settled) in {settled, "interrupted"}


def check_backups(run: Run) -> None:
    """Check that no unfinished backup is taken for one, and that none is left behind."""
    folder = archive.backup_folder(run.target, "backups")
    for manifest in archive.list_backups(run.target, "backups"):
        assert not manifest.directory.name.startswith(".")
        assert dict(manifest.rows)["public.item"] == ROWS
    assert list(folder.glob(".*.partial")) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.runbook}-{c.victim}-{c.number}")
def test_a_kill_loses_nothing_and_the_next_run_ends_well(
    case: Case, world: World, tmp_path: Path
) -> None:
    event, pause_s = moment(case, world.timelines[case.runbook])
    sys.stdout.write(f"PLAYBOOK_KILL_SEED={SEED}: {case.victim}, {pause_s:.3f} s after {event!r}\n")
    by = "papermill" if case.victim in {"kernel", "papermill"} else "driver"
    folder = tmp_path / f"{case.runbook}-{case.number}"

    with started(world, case.runbook, folder, by) as run:
        assert run.wait_for(event), run.said()
        time.sleep(pause_s)
        killed = kill(run, case.victim, late=case.number % 2 == 0)
        run.process.wait(ENDED_WITHIN_S)
        wait_for_peace(run)

        receipt = run.known()
        here, half = check_place(run, receipt)
        sys.stdout.write(
            f"killed: {killed}; {receipt.outcome} at {here}{' and a half' if half else ''}, "
            f"under way: {receipt.under_way or 'none'}; {receipt.message}\n"
        )
        check_receipt(run, receipt, case, here)
        check_status(run, receipt, case, half=half)
        check_again(run, case, here)
        check_backups(run)
