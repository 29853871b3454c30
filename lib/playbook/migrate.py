"""The only door to Alembic. Layer 3: errors, records, targets and database.

Alembic runs in one child process per run (`runner.py`), with the project's own interpreter and
its own env.py. This module starts it, asks it questions, and turns its errors into ours. It
decides nothing about whether a migration should run.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from playbook.database import APPLICATION_NAME, end_session
from playbook.errors import (
    AlembicDied,
    GuardRefused,
    LockNotAcquired,
    MigrationFailed,
    PlaybookError,
    SettingsError,
    WrongDatabase,
)
from playbook.records import LateRows, PlanStep, Revision, RevisionGraph, ServerInfo, StepResult
from playbook.rehearsals import HeldLock, Measured
from playbook.revision_files import RevisionFile
from playbook.revisions import after, split_target
from playbook.settings import Invocation
from playbook.targets import Target, redact

__all__ = ["CONCURRENTLY_TIMEOUT", "Alembic", "EventHandler"]

RUNNER = Path(__file__).with_name("runner.py")
CONCURRENTLY_TIMEOUT = "5min"
"""How long CONCURRENTLY steps may wait, if nobody says otherwise: they wait for old snapshots
anywhere in the database, and a limit that strikes leaves an invalid index."""
SESSION = {
    "application_name": APPLICATION_NAME,
    "client_connection_check_interval": "1s",
}
"""Settings of every session of the child; the server notices within 1 s if the child died."""
STOP_WAIT_S = 5.0
READ_ONLY = "25006"
"""PostgreSQL's read_only_sql_transaction."""
DRIVERS = ("psycopg2", "psycopg", "pg8000")
ASYNC_DRIVERS = ("asyncpg", "psycopg")
LOOK = "`repair` names the file, and says what to do."
NO_SUCH_COLUMN = ("42703", "42883")
"""SQLSTATEs of a version table that has another column, or one of another type."""

EventHandler = Callable[[Mapping[str, Any]], None]


def ignore_event(event: Mapping[str, Any]) -> None:
    """Take an event and do nothing: the default where nobody watches."""


class Committed:
    """Follows the statements of a revision: which of them no rollback undoes any more.

    ``left_transaction`` tells whether there may be any; ``statements`` are those of which it is
    known, in their order: the one under way when a revision fails is not among them.
    """

    def __init__(self) -> None:
        self.left_transaction = False
        self.statements: list[str] = []
        self._open: list[str] = []  # of the transaction under way
        self._alone: list[str] = []  # the last one, if it ran outside a transaction

    def see(self, event: Mapping[str, Any]) -> None:
        """Take a ``statement`` event: a statement that is about to run, or that a COMMIT ran."""
        self.statements += self._alone  # another one follows it, so it was done
        self._alone = []
        if event["outside"]:
            self.left_transaction = True
        if event["autocommit"] or not event["sql"]:
            self.statements += self._open
            self._open = []
        if event["sql"]:
            (self._alone if event["autocommit"] else self._open).append(redact(event["sql"]))


class Alembic:
    """A project's Alembic in a child process.

    Start it early (it imports while the caller does other work), then `open` it once the
    database is known. Use it as a context manager: the child never outlives the block, nor
    this process.
    """

    def __init__(self, target: Target) -> None:
        """Start the child; it imports Alembic and waits.

        Raises:
            SettingsError: the interpreter that ``python`` names cannot be started.
        """
        self._target = target
        self._session: dict[str, str] = {}
        self._requests = 0
        self.committed = Committed()
        """What the last revision that was run did that no rollback undoes."""
        self.measured = Measured()
        """What the last revision that was run with ``measure`` held and wrote."""
        self._has_read = False
        self.session_pid = 0
        self._start()

    def _start(self) -> None:
        target = self._target
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._versions: dict[str, str] = {}
        try:
            self._child = subprocess.Popen(
                [target.python or sys.executable, "-u", str(RUNNER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                encoding="utf-8",
                cwd=target.project,
                env=os.environ | _variables(target) | dict(target.environment),
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise SettingsError(
                f"The interpreter {target.python!r} of {target.alembic_ini.name} cannot be "
                f"started ({error.strerror}).",
                remedy="Correct python = ... in its [playbook] section.",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _directory(self) -> Path:
        """Where the project's users run Alembic."""
        how = self._target.invocation or Invocation(self._target.alembic_ini)
        return how.directory or how.config.parent

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def open(
        self, target: Target, server: ServerInfo | None, *, session: Mapping[str, str]
    ) -> None:
        """Load the project's revision files.

        Args:
            target: the same target, resolved (a sandbox's socket is known by now).
            server: what the target is; a session of env.py anywhere else is stopped before it
                can write. None allows any (for requests that open no session).
            session: settings for every session that env.py opens.

        Raises:
            SettingsError: the project's alembic.ini or its revision files cannot be loaded.
        """
        self._target, self._session = target, dict(session)
        expected = server and {
            "system_identifier": server.system_identifier,
            "database_oid": server.database_oid,
        }
        self._versions = self._ask(
            "open",
            **self._invocation(),
            expected=expected,
            session={**SESSION, **session},
            drafts=self._target.drafts,
            scratch=self._target.scratch,
        )

    def _invocation(self) -> dict[str, Any]:
        """Return how the project's Alembic is run on the target, with its URL where it belongs."""
        target = self._target
        how = target.invocation or Invocation(target.alembic_ini)
        run: dict[str, Any] = {
            "config": str(how.config),
            "directory": str(how.directory or ""),
            "name": how.name,
            "arguments": how.arguments,
        }
        seen = self._ask("look", **run)
        driver = how.driver or seen["driver"] or _suitable(seen)
        own = target.driver or how.driver or driver  # of the variable that the application reads
        return run | {
            "arguments": [target.fill(text, driver=driver) for text in how.arguments],
            "url": target.sqlalchemy_url(driver),
            "options": [(s, k, target.fill(t, driver=driver)) for s, k, t in how.options],
            "environment": {
                name: target.fill(text, driver=own, secret=True) for name, text in how.environment
            },
            "gives_connection": how.gives_connection,
            "setup": str(how.setup or ""),
        }

    def graph(self, *, current: bool = True) -> RevisionGraph:
        """Return the revisions and, if asked, where the database stands (as env.py sees it)."""
        files = self._ask("graph")
        where = self._ask("current") if current else {"current": []}
        self._has_read = True
        _check_rows(where["current"])
        return _graph(files, where)

    def try_graph(self) -> tuple[RevisionGraph, tuple[PlaybookError, ...]]:
        """Return the graph as far as it can be read, and what is in the way of the rest.

        Revision files that cannot be loaded give a graph without revisions, an env.py that fails
        or a version table that it cannot read one without a place. Rows that name no revision are
        left out of ``current``.
        """
        files: Mapping[str, Any] = {"revisions": (), "heads": (), "directory": ""}
        where: Mapping[str, Any] = {"current": []}
        problems: list[PlaybookError] = []
        try:
            files = self._ask("graph") if self._versions else files
        except PlaybookError as error:
            problems.append(error)
        try:
            where = self._ask("current")
            _check_rows(where["current"])
        except PlaybookError as error:
            problems.append(error)
        return _graph(files, where), tuple(problems)

    def files(self) -> tuple[RevisionFile, ...]:
        """Return each revision file by itself, also where they do not load together."""
        return tuple(
            RevisionFile(
                path=Path(one["path"]),
                sha256=one["sha256"],
                text=one["text"],
                revision=one["revision"],
                down_revisions=tuple(one["down_revisions"]),
                has_down_revision=one["has_down"],
                error=one["error"],
                line=one["line"],
            )
            for one in self._ask("files")
        )

    def merge_text(self, heads: Sequence[str], revision: str, message: str) -> tuple[Path, str]:
        """Return the path and the text of a file that merges some heads; nothing is written.

        Raises:
            SettingsError: Alembic refuses the id or the heads.
        """
        found = self._ask("merge_text", heads=list(heads), revision=revision, message=message)
        return Path(found["path"]), str(found["text"])

    def current(self) -> tuple[str, ...]:
        """Return what the version table holds; empty if there is no such table."""
        found = self._ask("current")["current"]
        _check_rows(found)
        return tuple(found)

    def plan(self, direction: str, target: str, current: Sequence[str]) -> tuple[PlanStep, ...]:
        """Return the steps, without SQL, from ``current`` to ``target``.

        Args:
            direction: ``upgrade`` or ``downgrade``.
            target: in any of Alembic's forms, or several with commas between them.

        Raises:
            SettingsError: Alembic cannot resolve the target.
        """
        return tuple(step for _, _, leg in self._legs(direction, target, current) for step in leg)

    def _legs(
        self, direction: str, target: str, current: Sequence[str]
    ) -> list[tuple[str, tuple[str, ...], tuple[PlanStep, ...]]]:
        """Return, for each target that a text names, where its steps begin, and the steps."""
        legs, at = [], tuple(current)
        targets = split_target(target)
        for one in targets:
            steps = self._steps(direction, one, at)
            legs.append((one, at, steps))
            if len(targets) > 1:
                at = after(self.graph(current=False), at, [s.revision for s in steps], direction)
        return legs

    def _steps(self, direction: str, target: str, current: Sequence[str]) -> tuple[PlanStep, ...]:
        steps = self._ask("plan", direction=direction, target=target, current=list(current))
        return tuple(
            PlanStep(
                revision=step["revision"],
                direction=direction,
                from_revisions=tuple(step["from"]),
                to_revisions=tuple(step["to"]),
                message=step["message"],
                path=Path(step["path"]),
                sha256=step["sha256"],
                sql="",
            )
            for step in steps
        )

    def is_edited(self, step: PlanStep) -> bool:
        """Say whether a revision's file is no longer the one that the child has loaded."""
        try:
            return hashlib.sha256(step.path.read_bytes()).hexdigest() != step.sha256
        except OSError:
            return True

    def sql(self, direction: str, target: str, current: Sequence[str]) -> list[str]:
        """Return each step's SQL by Alembic's offline mode; nothing connects.

        Raises:
            MigrationFailed: a revision reads the database, which offline mode cannot give it.
        """
        several = len(split_target(target)) > 1
        legs = self._legs(direction, target, current) if several else [(target, current, (None,))]
        pieces: list[str] = []
        for one, at, steps in legs:
            if steps:
                pieces += self._ask("sql", direction=direction, target=one, current=list(at))
        return pieces

    def run(
        self,
        step: PlanStep,
        *,
        expected_current: Sequence[str],
        session: Mapping[str, str],
        attempts: int = 1,
        record: bool = False,
        late_rows: Sequence[LateRows] = (),
        measure: bool = False,
        on_event: EventHandler = ignore_event,
    ) -> StepResult:
        """Apply or undo one revision.

        **Effects**: the revision's own, in its own transaction; after an error PostgreSQL has
        rolled that back, except what an autocommit block had committed.

        Args:
            expected_current: what the version table must hold, or nothing is run.
            session: settings of the session, e.g. ``lock_timeout``.
            attempts: how often it was tried, this time included; for the record.
            record: send the full text of each statement as an event.
            late_rows: what its transaction saves before the revision's own statements.
            measure: also measure how long locks are held, and what is written (`measured`); it
                costs a query for each new statement.
            on_event: called with every event of the child, in order.

        Raises:
            LockNotAcquired: a lock was not granted in time; it may be tried again.
            MigrationFailed: any other failure, with the statement and its SQLSTATE.
            WrongDatabase: env.py reached another database.
        """
        self.committed, self.measured = Committed(), Measured()
        try:
            result = self._ask(
                "run",
                on_event=on_event,
                revision=step.revision,
                direction=step.direction,
                expected_current=list(expected_current),
                session=dict(session),
                record=record,
                measure=measure,
                late_rows=[asdict(late) | {"path": str(late.path or "")} for late in late_rows],
            )
        except MigrationFailed as error:
            error.revision = step.revision
            raise
        if measure:
            self.measured = _measured(result["measured"])
        return StepResult(
            revision=step.revision,
            direction=step.direction,
            duration_s=result["duration_s"],
            attempts=attempts,
            statements=result["statements"],
            locks=tuple((table, mode) for table, mode in result["locks"]),
            rewritten=tuple(result["rewritten"]),
            transactional=result["transactional"],
            xids=tuple(result["xids"]),
            wrote=tuple(result["wrote"]),
        )

    def stamp(self, revisions: Sequence[str], *, session: Mapping[str, str] | None = None) -> None:
        """Set the version table to some revisions; runs no migration."""
        self._ask("stamp", revisions=list(revisions), session=dict(session or {}))

    def drift(self) -> list[str]:
        """Return how the models differ from the database, a line each; empty means not at all.

        Raises:
            SettingsError: the database is not at head, or env.py names no models.
        """
        lines: list[str] = self._ask("drift")
        return lines

    def compare_models(
        self,
        *,
        message: str,
        autogenerate: bool = True,
        head: str = "head",
        branch_label: str = "",
        rev_id: str = "",
    ) -> Mapping[str, Any]:
        """Return what a new revision would do, as data; Alembic keeps it for `write_draft`.

        Nothing is written, neither to the database nor as a file.

        Args:
            message: as after ``alembic revision -m``.
            autogenerate: whether the models are compared with the database.
            head: the revision that it follows.
            branch_label: a name for the branch that it begins; "" for none.
            rev_id: its id; "" lets Alembic make one.

        Returns:
            ``revisions`` (ids), ``operations`` (see `drafting.describe`), ``tables`` (schema and
            name of each compared one) and ``destination`` (the folder where Alembic puts it).

        Raises:
            SettingsError: env.py, the models or the parameters do not allow it.
        """
        found: Mapping[str, Any] = self._author(
            "compare", message=message, autogenerate=autogenerate, head=head,
            branch_label=branch_label, rev_id=rev_id,
        )  # fmt: skip
        return found

    def write_draft(self, folder: Path) -> tuple[tuple[str, Path], ...]:
        """Write what `compare_models` found, by the project's own template and hooks.

        **Effects**: files in ``folder``, and whatever the project's post-write hooks do.

        Returns:
            (revision, file) of each.

        Raises:
            SettingsError: the template or a hook failed, or what they wrote does not load.
        """
        made = self._author("write", folder=str(folder))
        return tuple((item["revision"], Path(item["path"])) for item in made)

    def write_steps(
        self, folder: Path, steps: Sequence[Mapping[str, str]], *, head: str, branch_label: str
    ) -> tuple[tuple[str, Path], ...]:
        """Write revisions that follow each other, by the project's template and hooks.

        **Effects**: as `write_draft`.

        Args:
            steps: each with ``rev_id`` ("" lets Alembic make one), ``message``, and the bodies of
                its functions in Python, ``upgrade`` and ``downgrade``.
            head: what the first one follows.
            branch_label: for the first one; "" for none.

        Raises:
            SettingsError: as `write_draft`.
        """
        made = self._author(
            "write_steps", folder=str(folder), steps=[dict(step) for step in steps], head=head,
            branch_label=branch_label,
        )  # fmt: skip
        return tuple((item["revision"], Path(item["path"])) for item in made)

    def create_models(self) -> None:
        """Make the models' tables; for an empty scratch database.

        Raises:
            SettingsError: the models need what this database does not have.
        """
        self._author("create_models")

    def _author(self, verb: str, **request: Any) -> Any:
        return self._ask("author", verb=verb, **request)

    def versions(self) -> tuple[tuple[str, str], ...]:
        """Return (name, version) of Alembic and SQLAlchemy in the child, once it has told them."""
        if not self._versions:
            return ()
        return (
            ("Alembic", self._versions["alembic"]),
            ("SQLAlchemy", self._versions["sqlalchemy"]),
        )

    def output(self) -> str:
        """Return what env.py, Alembic's loggers and the revisions printed, secrets masked."""
        self._errors.seek(0)
        return redact(self._errors.read())

    def restart(self, server: ServerInfo) -> None:
        """Kill the child, end its session in the server, and start another.

        **Effects**: PostgreSQL rolls back what the session had not committed, before this
        returns. Where the server cannot be reached, there is a child again, but what the session
        did is not known: call this again.
        """
        self._child.kill()
        self.close()
        try:
            if self.session_pid:
                end_session(self._target, self.session_pid)
                self.session_pid = 0
        finally:
            self._start()
            self.open(self._target, server, session=self._session)

    def close(self) -> None:
        """End the child: it leaves when its input closes, or is killed after 5 s."""
        if self._child.stdin:
            with suppress(BrokenPipeError):  # a request that a dead child never read
                self._child.stdin.close()
        try:
            self._child.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._child.stdout:
            self._child.stdout.close()
        self._errors.close()

    def _ask(self, command: str, *, on_event: EventHandler = ignore_event, **request: Any) -> Any:
        """Send a request and return its result, handing every other event on.

        Events of an earlier request, whose answer nobody waited for (an interrupted cell), are
        passed over.
        """
        stdin, stdout = self._child.stdin, self._child.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the child was started without pipes")
        try:
            self._requests += 1
            request |= {"command": command, "number": self._requests}
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        for line in stdout:
            event = json.loads(line)
            if event["request"] != self._requests:
                continue
            if event["event"] == "result":
                return event["result"]
            if event["event"] == "error":
                raise self._error(command, event)
            if event["event"] == "session":
                self.session_pid = event["pid"]
            if event["event"] == "statement" and event["step"]:
                self.committed.see(event)
            on_event(event)
        raise self._died()

    def _died(self) -> PlaybookError:
        code = self._child.wait()
        last = self.output().strip().splitlines()[-1:] or ["it printed nothing"]
        if not self._versions:
            return SettingsError(
                f"Alembic cannot be run by {self._target.python or sys.executable}: "
                f"{_sentence(last[0])}",
                remedy=f"Correct python = ... in {self._target.alembic_ini.name}, or install "
                "Alembic and the driver there.",
            )
        if not self._has_read and code > 0:
            return SettingsError(
                "The process that runs Alembic ended while it read the project (exit code "
                f"{code}): {_sentence(last[0])}",
                remedy=f"See that `alembic current` works in {self._directory}.",
            )
        return AlembicDied(
            f"The process that ran Alembic ended by itself (exit code {code}): "
            f"{_sentence(last[0])}",
            state="PostgreSQL rolled back what it had not committed.",
            remedy="Run `status` to see where the database is.",
        )

    def _error(self, command: str, event: Mapping[str, Any]) -> PlaybookError:
        """Return the playbook's error for what the child reports."""
        kind, text = event["kind"], redact(event["message"])
        if kind == "WrongDatabaseError":
            return WrongDatabase(
                f"The project's env.py connected to {text}, which is not the "
                f"{self._target.label}: it does not take its URL from where the target's is.",
                state="It was stopped before it could write.",
                remedy="Say where it does: [playbook.environment] VARIABLE = {url}, or "
                f"[playbook.options] option = {{url}}, in {self._target.alembic_ini.name}.",
            )
        if kind == "WrongRevisionError":
            return MigrationFailed(
                f"The database is now at {text}, which is not where this plan starts.",
                state="Nothing was changed by this step.",
                remedy="Somebody else migrated it: run this again to plan anew.",
            )
        if kind == "SharedChangeError":
            return MigrationFailed(
                f"It changes {_sentence(text)}",
                state="It was stopped before that: a copy cannot show it, and it would stay.",
                remedy="Make roles, grants on databases and settings of the server by a script of "
                "their own"
                + (
                    "."
                    if self._target.kind == "sandbox"
                    else "; -r where sandbox rehearses the revision on another server."
                ),
                transactional=event.get("transactional", True),
                kind=kind,
            )
        if kind == "LateRowsError":
            return GuardRefused(
                f"What would be destroyed cannot be saved whole: {_sentence(text)}",
                state="PostgreSQL rolled this revision back.",
                remedy="Stop what else writes to it, then run the notebook's cells from the top.",
            )
        if command in {"look", "open", "graph", "plan", "drift", "author"} and event["alembic"]:
            look = LOOK if command in {"open", "graph"} and event.get("project") else ""
            if command == "open" and not look and "exist" in text:
                look = (
                    f"It was run in {self._directory}: where that is not the folder that it is run "
                    f"from, write run_from = FOLDER in [playbook] of {self._target.alembic_ini}."
                )
            return SettingsError(f"Alembic says: {_sentence(text)}", remedy=look)
        if command in {"look", "open", "graph"}:
            return SettingsError(
                f"The project's revision files cannot be loaded: {kind}: {_sentence(text)}",
                remedy=f"See that `alembic history` works in {self._directory}; {LOOK}",
            )
        if command == "current" and event["sqlstate"] == READ_ONLY:
            return SettingsError(
                f"The project's env.py writes before it runs a migration: {_sentence(text)}",
                state="Nothing was changed.",
                remedy="Let it write only where a migration is run, or make once by hand what it "
                "makes.",
            )
        if command == "current" and not event["sqlstate"]:
            remedy = f"See that `alembic current` works in {self._directory}."
            if kind == "ModuleNotFoundError" and not self._target.python:
                remedy += (
                    " If it needs an environment of its own, name it in alembic.ini: [playbook] "
                    "python = /path/to/venv/bin/python."
                )
            return SettingsError(
                f"The project's env.py stopped with {kind}: {_sentence(text)}", remedy=remedy
            )
        if command == "author":
            return SettingsError(
                f"The new revision stopped in the project's env.py, models or template with {kind}"
                f": {_sentence(text)}",
                remedy="See that `alembic check` works, and mend what it names.",
            )
        if event["sqlstate"] == "55P03" and event.get("transactional", True):
            return LockNotAcquired(
                f"A lock was not granted in time: {_sentence(text)}",
                state="PostgreSQL rolled this attempt back.",
                sqlstate="55P03",
            )
        unreadable = command == "current" and event["sqlstate"] in NO_SUCH_COLUMN
        return MigrationFailed(
            f"{kind}: {_sentence(text)}" if not event["sqlstate"] else _sentence(text),
            remedy="`repair` shows the version table and how to mend it." if unreadable else "",
            statement=redact(event["statement"]),
            sqlstate=event["sqlstate"],
            transactional=event.get("transactional", True),
            kind=kind,
            about=event.get("object", ""),
        )


def _variables(target: Target) -> dict[str, str]:
    """Return the child's variables for what no URL of every driver can hold, as the password."""
    of_place = {"PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGDATABASE"}
    return {k: v for k, v in target.libpq_variables().items() if k not in of_place}


def _suitable(seen: Mapping[str, Any]) -> str:
    """Return a driver that the project has, for an env.py that names none."""
    drivers: list[str] = seen["drivers"]
    wanted = ASYNC_DRIVERS if seen["is_async"] else DRIVERS
    return next((driver for driver in wanted if driver in drivers), wanted[0])


def _measured(record: Mapping[str, Any]) -> Measured:
    return Measured(
        held=tuple(HeldLock(table, mode, held_s) for table, mode, held_s in record["held"]),
        rows=tuple((table, rows) for table, rows in record["rows"]),
        alone=tuple((redact(text), took_s) for text, took_s in record["alone"]),
    )


def _graph(files: Mapping[str, Any], where: Mapping[str, Any]) -> RevisionGraph:
    revisions = tuple(_revision(record) for record in files["revisions"])
    known = {revision.revision for revision in revisions}
    current = tuple(row for row in where["current"] if isinstance(row, str) and row)
    return RevisionGraph(
        revisions=revisions,
        heads=tuple(files["heads"]),
        current=current,
        unknown=tuple(row for row in current if row not in known),
        version_table=where.get("version_table", "alembic_version"),
        version_table_schema=where.get("version_table_schema", ""),
        search_path=tuple(where.get("search_path", ())),
        script_directory=files["directory"],
    )


def _check_rows(rows: Sequence[object]) -> None:
    """Refuse a version table of which a row names no revision.

    Raises:
        SettingsError: a row is NULL, empty or no text.
    """
    for row in rows:
        if not isinstance(row, str) or not row:
            what = "a row without a revision (NULL)" if row is None else f"a row {row!r}"
            raise SettingsError(
                f"The version table holds {what}, which is no revision's id.",
                remedy="Run `repair`: it shows the table and how to mend it.",
            )


def _sentence(text: str) -> str:
    """Return a text in one line that ends as a sentence does."""
    line = " ".join(text.split())
    return line if line.endswith((".", "!", "?")) else f"{line}."


def _revision(record: Mapping[str, Any]) -> Revision:
    return Revision(
        revision=record["revision"],
        down_revisions=tuple(record["down_revisions"]),
        depends_on=tuple(record["depends_on"]),
        branch_labels=tuple(record["branch_labels"]),
        message=record["message"],
        path=Path(record["path"]),
        sha256=record["sha256"],
        is_head=record["is_head"],
        is_base=record["is_base"],
        is_branch_point=record["is_branch_point"],
        is_merge_point=record["is_merge_point"],
    )
