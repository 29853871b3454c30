"""The runbook `rehearse`: the plan on a copy, up, down and up again, with a verdict. Layer 5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from playbook.errors import MigrationStopped, SettingsError, VerifyFailed
from playbook.execution import BACKUPS
from playbook.formats import count, seconds
from playbook.journal import Run
from playbook.manifests import choose_backup
from playbook.parameters import Common, one_of
from playbook.plan import build_plan
from playbook.preflight import Question
from playbook.present import progress
from playbook.records import BackupManifest, Banner, Checks, Note, Outcome, Plan, RevisionGraph
from playbook.rehearsal_checks import check_rehearsal
from playbook.rehearsal_verdict import judge_trip
from playbook.rehearsals import Allowed, CopyMade, RoundTrip
from playbook.rehearsed import FILE, write_rehearsal
from playbook.revisions import check_target, join
from playbook.round_trip import run_round_trip
from playbook.scratch_copy import METHODS, SANDBOX, CopyWanted, make_copy
from playbook.snapshot import reading
from playbook.targets import parse_duration_s, parse_size_bytes

__all__ = [
    "Parameters",
    "check_preflight",
    "conclude",
    "judge",
    "open_run",
    "plan_rehearsal",
    "read_revisions",
    "run_rehearsal",
    "show_copy",
    "show_target",
]


@dataclass(frozen=True)
class Parameters(Common):
    """The parameters of `rehearse`."""

    target: str = "head"
    from_backup: str = ""
    where: str = ""
    copy_by: str = "auto"
    lock_allowed: str = "300ms"
    lock_stop: str = "2s"
    duration_allowed: str = "3min"
    wal_allowed: str = "256MB"
    sample_above: str = ""
    time_budget: str = ""
    accept: str = ""
    directory: str = BACKUPS


def open_run(namespace: Mapping[str, Any]) -> Run[Parameters]:
    """Check the parameters and connect; raises as `playbook.journal.Run.open` does."""
    run = Run.open("rehearse", Parameters, namespace)
    with run.closing_on_error():
        given = run.parameters
        one_of("copy_by", given.copy_by, METHODS)
        if given.where:
            one_of("where", given.where, (SANDBOX,))
        reading(given.sample_above, given.time_budget)
        _allowed(run)
        _accepted(run)
        check_target(given.target, run.graph, direction="upgrade")
    return run


def _allowed(run: Run[Parameters]) -> Allowed:
    """Return what a revision may take.

    Raises:
        SettingsError: a parameter is no duration, or no size.
    """
    given = run.parameters
    return Allowed(
        lock_s=parse_duration_s(given.lock_allowed, name="lock_allowed"),
        lock_stop_s=parse_duration_s(given.lock_stop, name="lock_stop"),
        revision_s=parse_duration_s(given.duration_allowed, name="duration_allowed"),
        wal_bytes=parse_size_bytes(given.wal_allowed, name="wal_allowed"),
    )


def _accepted(run: Run[Parameters]) -> tuple[str, ...]:
    """Return the revisions whose way down is known to be wrong.

    Raises:
        SettingsError: one of them is no revision's id.
    """
    asked = tuple(name.strip() for name in run.parameters.accept.split(",") if name.strip())
    known = {one.revision for one in run.graph.revisions}
    if unknown := [name for name in asked if name not in known]:
        raise SettingsError(
            f"accept names {join(unknown)}, which is no revision.",
            remedy="Write their ids whole, with commas between: -r accept 0001,0002.",
        )
    return asked


def show_target(run: Run[Parameters]) -> Banner:
    """Return which database this is, and that only a copy of it is written to."""
    return run.banner("a copy only, which is dropped again; this database is read")


def read_revisions(run: Run[Parameters]) -> RevisionGraph:
    """Return all revisions, and which of them the database is at."""
    return run.graph


def check_preflight(run: Run[Parameters]) -> Checks:
    """Return what would be in the way of the copy.

    Raises:
        BackupFailed: there is no such backup.
        GuardRefused: a finding says STOP.
        MigrationFailed: the plan's SQL cannot be had.
    """
    run.forget("preflight")
    backup = _choose_backup(run)
    wanted = CopyWanted(
        target=run.target,
        server=run.server,
        method=run.parameters.copy_by,
        where=run.parameters.where,
        folder=run.directory,
        backup=backup,
        run_id="",
    )
    plan = _plan(run, backup)
    with run.recording_refusal():
        question = Question(graph=run.graph)
        checks = check_rehearsal(wanted, question, plan.tables if plan else ())
        run.keep("wanted", wanted)
        return run.keep("preflight", run.must_pass(checks))


def _choose_backup(run: Run[Parameters]) -> BackupManifest | None:
    if not run.parameters.from_backup:
        return None
    return choose_backup(
        run.target,
        run.server,
        run.parameters.from_backup,
        directory=run.parameters.directory,
        parameter="from_backup",
    )


def _plan(run: Run[Parameters], backup: BackupManifest | None) -> Plan | None:
    """Return the plan of the database as it is; None if the backup is of another revision."""
    if backup and sorted(backup.revisions) != sorted(run.graph.current):
        return None
    plan = build_plan(
        run.target, run.alembic, run.graph, direction="upgrade", to=run.parameters.target
    )
    return run.keep("plan", plan)


def plan_rehearsal(run: Run[Parameters]) -> Plan | Note:
    """Return the revisions that will be rehearsed, with their SQL."""
    run.require("preflight", Checks)
    plan = run.taken("plan", Plan)
    if plan:
        return plan
    backup = run.require("wanted", CopyWanted).backup
    at = join(backup.revisions) if backup else ""
    return Note(f"The backup is at {at}, so the plan is made on its copy.")


def run_rehearsal(run: Run[Parameters]) -> RoundTrip:
    """Make the copy, take each revision up, down and up again on it, and drop it.

    **Effects**: a copy of the database while this runs, and the receipt with ``rehearsal.json``.
    The database itself is only read. The copy is dropped also after a failure or an interrupt;
    after a kill, the next run drops it.

    Raises:
        GuardRefused: an earlier step is missing, or the copy cannot be made as asked for.
        BackupFailed: the dump or the restore failed.
        WrongDatabase: env.py did not go to the copy; it was stopped before it could write.
    """
    run.must_be_first("trip")
    run.require("preflight", Checks)
    wanted = run.require("wanted", CopyWanted)
    with run.recording_failure():
        folder = run.begin()
        try:
            trip, made = _take_trip(run, replace(wanted, folder=folder, run_id=folder.name))
        except KeyboardInterrupt:
            raise MigrationStopped(
                "`rehearse` was told to stop.",
                state=f"{run.server.database} was only read, and the copy was dropped.",
                remedy="Run it again.",
            ) from None
        run.keep("copy", made)
        verdict = run.keep("verdict", judge_trip(trip, _allowed(run), _accepted(run)))
        write_rehearsal(folder, trip, made, verdict)
    return run.keep("trip", trip)


def _take_trip(run: Run[Parameters], wanted: CopyWanted) -> tuple[RoundTrip, CopyMade]:
    """Make the copy, take the trip on it, and drop it; each is noted in the receipt."""
    run.note("rehearsal begins", backup=str(wanted.backup.directory) if wanted.backup else "")
    with make_copy(wanted, on_progress=progress) as (copy, made):
        run.note(f"copied to {made.database} ({made.how})")
        trip = run_round_trip(
            copy,
            run.parameters.target,
            reading=reading(run.parameters.sample_above, run.parameters.time_budget),
            allowed=_allowed(run),
            on_progress=progress,
        )
    run.note(f"{made.database} dropped", plan_sha256=trip.plan_sha256)
    return trip, made


def show_copy(run: Run[Parameters]) -> CopyMade:
    """Return how the copy was made."""
    return run.require("copy", CopyMade)


def judge(run: Run[Parameters]) -> Checks:
    """Return the verdict: what was found, and each figure against what is allowed.

    Raises:
        VerifyFailed: a finding says STOP: a revision failed, lost data that it does not declare to
            change, left a trace, or held a lock for too long.
    """
    run.require("trip", RoundTrip)
    checks = run.require("verdict", Checks)
    if checks.stops:
        found = [one for one in checks.stops if one.code != "round-trip"] or list(checks.stops)
        named = "; ".join(f"{one.subject} ({one.code})" for one in found)
        failure = VerifyFailed(
            f"The rehearsal did not pass: {named}.",
            state=f"{run.server.database} was only read, and the copy was dropped.",
            remedy="Mend the revision files and run `rehearse` again; where they are not yours and "
            "only the way down is wrong, accept it by -r accept and their ids.",
        )
        run.show_then_fail(checks, failure)
    return run.keep("judged", checks)


def conclude(run: Run[Parameters]) -> Outcome:
    """Write the outcome to the receipt and return it."""
    run.require("judged", Checks)
    trip = run.require("trip", RoundTrip)
    if not trip.revisions:
        message = f"{run.server.database} is at {join(trip.reached)}: nothing was pending."
    else:
        took = seconds(sum(took_s for _, took_s in trip.expected_s))
        message = (
            f"{count(len(trip.revisions), 'revision')} passed on a copy; "
            f"expected for the real run: {took}."
        )
    run.finish("succeeded", message)
    return run.outcome(
        "succeeded",
        message,
        unchanged=(f"{run.server.database}, which was only read",),
        next_steps=(
            f"`upgrade` with -r target {trip.target} runs this plan, and shows these durations "
            "beside its own.",
        ),
        files=(run.directory / FILE,),
    )
