"""A run from its first cell to its last: what it stands on, its receipt, the history. Layer 4.

A read-only runbook opens a run and leaves nothing. A writing one makes its folder before its
first side effect and rewrites ``receipt.json`` before and after each, atomically, so that a
killed run leaves a true record; the same record goes to ``playbook.history`` in the target.
"""

from __future__ import annotations

import getpass
import os
import platform
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, NoReturn, Self, TypeVar

from playbook.database import connect, server_info
from playbook.errors import (
    GuardRefused,
    MigrationStopped,
    PlaybookError,
    SettingsError,
    TargetBusy,
)
from playbook.history import has_history, read_history, settle_history, write_history
from playbook.interrupts import sigterm_as_interrupt
from playbook.migrate import Alembic
from playbook.parameters import Common, read_parameters
from playbook.present import install_formatters, note, progress, show
from playbook.receipts import (
    OUTCOMES,
    RECEIPT,
    known_receipts,
    make_folder,
    runs_folder,
    settle,
    to_receipt,
    write_receipt,
)
from playbook.records import (
    Banner,
    Checks,
    History,
    Outcome,
    Plan,
    Receipt,
    RevisionGraph,
    ServerInfo,
    Snapshot,
    StepResult,
)
from playbook.revisions import join, pending
from playbook.sandbox import open_target
from playbook.snapshot import EVERYTHING, Reading, take_snapshot
from playbook.targets import Target, load_target, protected_targets, redact

__all__ = ["Run", "protected_as_its_twin", "software_versions"]

FORMAT_VERSION = 1

P = TypeVar("P", bound=Common)
T = TypeVar("T")


class Run(Generic[P]):
    """One execution of a runbook: its target, its Alembic, and the steps it has taken.

    Steps are kept by name (`keep`) and asked for by the steps that stand on them (`require`),
    so that a cell which runs although an earlier one failed refuses by itself.
    """

    def __init__(
        self,
        runbook: str,
        parameters: P,
        target: Target,
        server: ServerInfo,
        alembic: Alembic,
        *,
        problems: tuple[PlaybookError, ...] | None = None,
    ) -> None:
        """Take what `open_run` found; callers use that.

        Args:
            problems: why Alembic could not be opened, if that is to be tolerated; None: it is not.
        """
        self.runbook = runbook
        self.parameters = parameters
        self.target = target
        self.server = server
        self.alembic = alembic
        self.problems: tuple[PlaybookError, ...] = ()
        """What Alembic cannot read; only a run that tolerates it has any."""
        if problems is None:
            self.graph: RevisionGraph = alembic.graph()
        else:
            self.graph, found = alembic.try_graph()
            self.problems = (*problems, *found)
        self.started_at = datetime.now(UTC)
        self.directory = Path()
        self.went_back = False
        self._in_history = False
        self._record: dict[str, Any] = {}
        self._steps: dict[str, Any] = {}

    @classmethod
    def open(
        cls,
        runbook: str,
        declared: type[P],
        namespace: Mapping[str, Any],
        *,
        state: str = "legacy",
        tolerant: bool = False,
    ) -> Run[P]:
        """Check the parameters, then connect and read where the database stands.

        **Effects**: none on the database. A sandbox target is started and made on first use.
        A run that the same kernel had open under this runbook's name before is closed.

        Args:
            runbook: the notebook's name.
            declared: its parameters.
            namespace: the notebook's ``globals()``.
            state: what a sandbox database is made as if it does not exist: ``legacy`` or
                ``empty``.
            tolerant: go on where Alembic cannot load the revision files or read the version
                table; `problems` then tells.

        Raises:
            SettingsError: a parameter, the target or the project cannot be used.
            CannotConnect: the server cannot be reached.
        """
        install_formatters()
        previous = namespace.get("run")
        if isinstance(previous, Run):
            previous.abandon()
        parameters = read_parameters(declared, namespace)
        target = load_target(parameters.database, parameters.alembic_ini)
        alembic = Alembic(target)
        try:
            target = open_target(target, state=state)
            with connect(target, read_only=True) as connection:
                server = server_info(connection)
            target = protected_as_its_twin(target, server)
            problems = _open_alembic(alembic, target, server) if tolerant else None
            if problems is None:
                alembic.open(target, server, session={})
            return cls(runbook, parameters, target, server, alembic, problems=problems)
        except BaseException:
            alembic.close()
            raise

    def banner(self, writes: str) -> Banner:
        """Return what tells the reader which database this is.

        Args:
            writes: what the runbook may change, in words.
        """
        return Banner(
            runbook=self.runbook,
            target=self.target.name,
            label=self.target.label,
            kind=self.target.kind,
            protected=self.target.protected,
            writes=writes,
            server_version=self.server.version,
            user=self.server.user,
            current=self.graph.current,
            heads=self.graph.heads,
            pending=len(pending(self.graph)),
        )

    def refresh(self) -> RevisionGraph:
        """Read again where the database stands."""
        self.graph = self.alembic.graph()
        return self.graph

    def read_anew(self, *, files: bool) -> RevisionGraph:
        """Read again where the database stands; what cannot be read goes to `problems`.

        Args:
            files: load the revision files again as well, in a new child.
        """
        found: tuple[PlaybookError, ...] = ()
        try:
            if files:
                self.alembic.restart(self.server)
        except SettingsError as error:
            found = (error,)
        self.graph, more = self.alembic.try_graph()
        self.problems = (*found, *more)
        return self.graph

    def known_runs(self) -> History:
        """Return all writing runs, the newest first: the target's history, and receipts it lacks.

        Those that came with a copied or restored database are among them: `is_of_here` tells.
        """
        with connect(self.target, read_only=True) as connection:
            history = read_history(connection)
        receipts = known_receipts(self.target, self.server, self.parameters.output_dir)
        merged = {receipt.run_id: receipt for receipt in (*history.runs, *receipts)}
        newest_first = sorted(merged.values(), key=lambda r: (r.started_at, r.run_id), reverse=True)
        return History(tuple(newest_first))

    def is_of_here(self, receipt: Receipt) -> bool:
        """Say whether a run was on this very database: only then do its transaction ids count."""
        here = (self.server.system_identifier, self.server.database_oid)
        return (receipt.system_identifier, receipt.database_oid) == here

    def snapshot(
        self,
        *,
        fingerprints: bool = True,
        limits: Reading = EVERYTHING,
        like: Snapshot | None = None,
    ) -> Snapshot:
        """Count (and fingerprint) every table but Alembic's own, as it is now."""
        return take_snapshot(
            self.target,
            self.graph.current,
            except_tables=(self.version_table,),
            fingerprints=fingerprints,
            limits=limits,
            like=like,
            on_progress=progress,
        )

    def keep(self, step: str, record: T) -> T:
        """Remember a step's result and return it."""
        self._steps[step] = record
        return record

    def forget(self, step: str) -> None:
        """Drop a step's result before it is taken again: if that fails, the old one is void."""
        self._steps.pop(step, None)

    def taken(self, step: str, kind: type[T]) -> T | None:
        """Return the result of a step, or None if it has not been taken."""
        record = self._steps.get(step)
        return record if isinstance(record, kind) else None

    def require(self, step: str, kind: type[T]) -> T:
        """Return the result of a step that must have been taken in this run.

        Raises:
            GuardRefused: it has not, or it failed.
        """
        record = self._steps.get(step)
        if self.has_ended:
            raise GuardRefused(
                f"This run of `{self.runbook}` has ended: {self._record['outcome']}.",
                state="Nothing more was changed.",
                remedy="Run the notebook's cells from the top.",
            )
        if record is None or not isinstance(record, kind):
            raise GuardRefused(
                f"`{self.runbook}` cannot go on: its step {step!r} has not been taken, or failed.",
                remedy="Run the notebook's cells from the top.",
            )
        return record

    @property
    def steps(self) -> list[StepResult]:
        """The revisions that this run has applied or undone so far."""
        return list(self._record.get("steps", ()))

    def resolve_path(self, text: str) -> Path:
        """Return the path that a parameter names; a relative one starts at the project."""
        path = Path(text).expanduser()
        return path if path.is_absolute() else self.target.project / path

    @property
    def has_ended(self) -> bool:
        """Whether the receipt has an outcome that nothing replaces any more."""
        return bool(self._record.get("outcome", "running") != "running")

    def must_be_first(self, step: str) -> None:
        """Refuse a step that cannot be taken twice in one run.

        Raises:
            GuardRefused: it was taken; what it did stands.
        """
        if step in self._steps or self.has_ended:
            raise GuardRefused(
                f"This step of `{self.runbook}` was taken already in this run.",
                state="What it did stands, and its receipt is as it was.",
                remedy="To run it again, run the notebook's cells from the top.",
            )

    @property
    def version_table(self) -> str:
        """Alembic's own table, as ``schema.table``."""
        return f"{self.graph.version_table_schema or 'public'}.{self.graph.version_table}"

    def must_pass(self, checks: Checks) -> Checks:
        """Return a preflight's findings, or show them and refuse where one says STOP.

        Raises:
            GuardRefused: with one reason per STOP.
            TargetBusy: one of them is another run.
        """
        if not checks.stops:
            return checks
        show(checks)
        reasons = [f"{f.subject}: {f.detail} {f.remedy}" for f in checks.stops]
        busy = any(finding.code == "other-run" for finding in checks.stops)
        kind = TargetBusy if busy else GuardRefused
        raise kind(f"`{self.runbook}` refused: {' '.join(reasons)}", reasons=reasons)

    def must_be_confirmed(self, confirm: str) -> None:
        """Refuse unless ``confirm`` is the database's name.

        Raises:
            GuardRefused: it is not.
        """
        name = self.server.database
        if confirm != name:
            said = f"confirm={confirm!r}" if confirm else "an empty confirm"
            raise GuardRefused(
                f"{self.target.name!r} is protected, and {said} is not its database's name.",
                remedy=f"To go on, write -r confirm {name}.",
            )

    @contextmanager
    def closing_on_error(self) -> Iterator[None]:
        """End the child process if the block fails."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    @contextmanager
    def recording_refusal(self) -> Iterator[None]:
        """Leave a receipt ``refused`` if a guard refuses in the block."""
        try:
            yield
        except GuardRefused as refusal:
            self._refuse(refusal)
            raise

    @contextmanager
    def recording_failure(self) -> Iterator[None]:
        """Write ``failed`` (or ``rolled back``, ``interrupted``) if the block fails.

        A SIGTERM ends the block as an interrupt does.

        Raises:
            MigrationStopped: in place of a KeyboardInterrupt.
        """
        try:
            with sigterm_as_interrupt():
                yield
        except GuardRefused as refusal:
            self._refuse(refusal)
            raise
        except KeyboardInterrupt:
            stopped = MigrationStopped(
                f"`{self.runbook}` was told to stop.",
                state="What its revisions did stands." if self.steps else "No revision was run.",
                remedy=f"To go on, run `{self.runbook}` again.",
            )
            self.finish("interrupted", str(stopped))
            raise stopped from None
        except MigrationStopped as stopped:
            self.finish("interrupted", str(stopped))
            raise
        except BaseException as error:
            outcome = "rolled back" if self.went_back else "failed"
            self.finish(outcome, str(error) or type(error).__name__)
            raise

    def _refuse(self, refusal: GuardRefused) -> None:
        """Write ``refused`` to the receipt.

        Who came second to another run is told of in the target's history as well, if it keeps
        one; what was never fit to run leaves the target alone.
        """
        self.begin()
        busy = isinstance(refusal, TargetBusy) and not getattr(self.parameters, "dry_run", False)
        if busy and not self.has_ended:
            with suppress(PlaybookError):  # then the receipt tells it alone
                self._in_history = self._in_history or has_history(self.target)
        self.finish("refused", str(refusal))

    def show_then_fail(self, record: object, error: PlaybookError) -> NoReturn:
        """Show a record, write ``failed`` to receipt and history, and raise."""
        show(record)
        self.finish("failed", str(error))
        raise error

    def same_place(self) -> None:
        """Refuse if the database is no longer at the revision this run has read.

        Raises:
            TargetBusy: somebody migrated it meanwhile, to where this run was to go or elsewhere.
        """
        now = self.alembic.current()
        if sorted(now) == sorted(self.graph.current):
            return
        plan = self.taken("plan", Plan)
        done = plan is not None and sorted(now) == sorted(plan.to_revisions)
        raise TargetBusy(
            f"The database is at {join(now)} now, not at {join(self.graph.current)} as when this "
            f"run began: {self._who_came_first(now)} migrated it.",
            state="This run changed nothing, and nothing is left to do: that is where it was to go."
            if done
            else "Nothing was changed.",
            remedy="Run `status` to see it." if done else "Run the notebook's cells from the top.",
        )

    def _who_came_first(self, now: Sequence[str]) -> str:
        """Return which run took the database to where it is; ``somebody else`` if none says so."""
        with suppress(PlaybookError), connect(self.target, read_only=True) as connection:
            for run in read_history(connection).runs:
                if run.steps and sorted(run.to_revisions) == sorted(now):
                    return f"{run.who}, in the run {run.run_id},"
        return "somebody else"

    def same_files(self, plan: Plan) -> None:
        """Refuse if a revision file, or the SQL that it renders to, is not as in the plan.

        Raises:
            GuardRefused: it changed since the plan was shown.
        """
        changed = [step.revision for step in plan.steps if self.alembic.is_edited(step)]
        if not changed and plan.method == "offline" and not plan.is_empty:
            again = self.alembic.sql(plan.direction, plan.target, plan.from_revisions)
            shown = "".join(step.sql for step in plan.steps)
            changed = [plan.target] if any(text.strip() not in shown for text in again) else []
        if changed:
            raise GuardRefused(
                f"The revision files changed since the plan was shown: {join(changed)}.",
                remedy="Run the notebook's cells from the top and read the new plan.",
            )

    def begin(self) -> Path:
        """Make the run's folder and its receipt, on the first side effect; return the folder.

        Raises:
            SettingsError: the folder cannot be made.
        """
        if self._record:
            return self.directory
        self.make_folder()
        self._record = {
            "format_version": FORMAT_VERSION,
            "run_id": self.directory.name,
            "runbook": self.runbook,
            "target": self.target.name,
            "database": self.server.database,
            "database_oid": self.server.database_oid,
            "system_identifier": self.server.system_identifier,
            "server_version": self.server.version,
            "outcome": "running",
            "started_at": self.started_at.isoformat(),
            "finished_at": None,
            "who": f"{getpass.getuser()}@{socket.gethostname()} as {self.server.user}",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "from_revisions": list(self.graph.current),
            "to_revisions": list(self.graph.current),
            "steps": [],
            "backup": "",
            "revision_files": [],
            "message": "",
            "history_sha256": "",
            "events": [],
        }
        self._write()
        return self.directory

    def make_folder(self) -> Path:
        """Make the run's folder, without a receipt, and return it.

        Raises:
            SettingsError: it cannot be made.
        """
        if self.directory == Path():
            parent = runs_folder(self.target, self.parameters.output_dir)
            self.directory = make_folder(parent, self.started_at, self.runbook, self.target.name)
        return self.directory

    def note(self, event: str, **changes: Any) -> None:
        """Write an event and changed fields to the receipt, now."""
        self.begin()
        self._record.update(changes)
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._record["events"].append({"at": moment, "what": redact(event)})
        self._write()

    def finish(self, outcome: str, message: str) -> None:
        """Write the outcome to the receipt and to the history table, if the run is in there."""
        if outcome not in OUTCOMES:
            raise ValueError(outcome)
        if not self._record or self.has_ended:
            return
        finished = datetime.now(UTC).isoformat()
        try:
            self.note(outcome, outcome=outcome, finished_at=finished, message=redact(message))
        except PlaybookError as error:  # the disk is full: the history must tell it alone
            note(str(error))
        if self._in_history:
            self.write_history()

    def write_history(self) -> None:
        """Put the receipt into ``playbook.history``, from its first change of the database on.

        Where the role may not write there, the receipt says so and the run goes on.

        **Effects**: creates the schema ``playbook`` and its tables on first use.
        """
        self._in_history = True
        try:
            receipt = to_receipt(self._record, self.directory)
            self._record["history_sha256"] = write_history(self.target, receipt)
            self._record.pop("history", None)
        except PlaybookError as error:
            self._record["history"] = f"not written: {error.problem}"
        with suppress(PlaybookError):  # a full disk: what the receipt said before is true, too
            self._write()

    def settle_interrupted(self) -> None:
        """Write ``interrupted`` to receipts and history rows of killed runs on this database.

        Called while the advisory lock is held: a row that still says ``running`` is then of a
        run that no longer is, or that is past its changes and will write its own end.
        """
        folder = runs_folder(self.target, self.parameters.output_dir)
        for receipt in known_receipts(self.target, self.server, self.parameters.output_dir):
            if receipt.outcome == "interrupted":
                settle(folder / receipt.directory.name / RECEIPT)
        try:
            settle_history(self.target, self.directory.name)
        except PlaybookError as error:
            self.note(f"killed runs were not noted in playbook.history: {error.problem}")

    def close(self) -> None:
        """End the run's child process; a receipt still ``running`` is left for the next run."""
        self.alembic.close()

    def abandon(self) -> None:
        """Close a run that will not go on; a receipt still ``running`` becomes ``interrupted``."""
        if self._record.get("outcome") == "running":
            self.finish("interrupted", "Another run was begun before this one had ended.")
        self.close()

    def outcome(self, outcome: str, summary: str, **details: Any) -> Outcome:
        """Return the runbook's last table, and end the child process."""
        versions = software_versions(self)
        self.close()
        files = (self.directory / RECEIPT,) if self._record else ()
        return Outcome(
            outcome=outcome,
            runbook=self.runbook,
            summary=summary,
            files=(*files, *details.pop("files", ())),
            versions=versions,
            **details,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write(self) -> None:
        write_receipt(self.directory / RECEIPT, self._record)


def _open_alembic(
    alembic: Alembic, target: Target, server: ServerInfo
) -> tuple[PlaybookError, ...]:
    """Open a project and return why its revision files cannot be loaded, if they cannot.

    Raises:
        SettingsError: there is no project to speak of: no folder of scripts, no interpreter.
    """
    try:
        alembic.open(target, server, session={})
    except SettingsError as error:
        try:
            alembic.files()
        except PlaybookError:
            raise error from None
        return (error,)
    return ()


def protected_as_its_twin(target: Target, server: ServerInfo) -> Target:
    """Return a target, protected if a protected section of alembic.ini means the same database.

    A section of the same database's name is asked which database it is; one that cannot be
    reached is compared by its connection's keywords.
    """
    if target.protected or target.kind == "sandbox":
        return target
    for twin in protected_targets(target.alembic_ini):
        if twin.database not in {"", server.database}:
            continue
        try:
            with connect(twin, read_only=True) as connection:
                other = server_info(connection)
        except PlaybookError:
            same = dict(twin.conninfo) == dict(target.conninfo)
        else:
            here = (server.system_identifier, server.database_oid)
            same = (other.system_identifier, other.database_oid) == here
        if same:
            return replace(target, protected=True)
    return target


def software_versions(run: Run[Any]) -> tuple[tuple[str, str], ...]:
    """Return (name, version) of what took part in a run."""
    return (
        ("Python", platform.python_version()),
        *run.alembic.versions(),
        ("PostgreSQL", run.server.version),
    )
