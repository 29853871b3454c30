"""The runbook `upgrade`: preflight, plan, backup, snapshot, apply, verify, receipt. Layer 5."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from playbook import archive
from playbook.changes import undeclared
from playbook.database import advisory_lock, connect
from playbook.errors import GuardRefused, MigrationFailed, MigrationStopped, VerifyFailed
from playbook.execution import (
    BACKUPS,
    check_confirmed,
    compare_with_before,
    execute,
    go_back,
    limits_of,
    looks,
    reading_of,
    save_backup,
    save_before_snapshot,
    unread,
)
from playbook.formats import count
from playbook.history import read_history
from playbook.journal import Run
from playbook.manifests import known_backups
from playbook.marks import edited_revisions
from playbook.parameters import Common, one_of
from playbook.plan import build_plan, read_plan_hash, weigh_hazards
from playbook.preflight import Question, check
from playbook.present import show
from playbook.receipts import known_receipts
from playbook.records import (
    Applied,
    BackupManifest,
    Banner,
    Checks,
    Comparison,
    DataCheckResult,
    DataChecks,
    Drift,
    Hazards,
    Integrity,
    Note,
    Outcome,
    Plan,
    RevisionGraph,
    Snapshot,
)
from playbook.rehearsals import Rehearsal
from playbook.rehearsed import known_rehearsals, with_expected, with_rehearsal
from playbook.revisions import check_target, join
from playbook.snapshot import holds_rows
from playbook.statements import dropped_objects, locks_taken
from playbook.verification import (
    find_drift as compare_with_models,
)
from playbook.verification import (
    find_integrity,
    run_checks,
)

__all__ = [
    "Parameters",
    "check_data",
    "check_preflight",
    "check_schema",
    "compare_data",
    "conclude",
    "find_drift",
    "find_hazards",
    "open_run",
    "plan_upgrade",
    "read_revisions",
    "run_upgrade",
    "show_target",
    "take_backup",
    "take_before_snapshot",
]


@dataclass(frozen=True)
class Parameters(Common):
    """The parameters of `upgrade`."""

    target: str = "head"
    backup: str = "auto"
    confirm: str = ""
    dry_run: bool = False
    lock_timeout: str = "2s"
    give_up_after: str = "5min"
    statement_timeout: str = ""
    concurrently_timeout: str = "5min"
    on_failure: str = "stop"
    plan: str = ""
    sample_above: str = ""
    time_budget: str = ""


def open_run(namespace: Mapping[str, Any]) -> Run[Parameters]:
    """Check the parameters and connect; raises as `playbook.journal.Run.open` does."""
    run = Run.open("upgrade", Parameters, namespace)
    with run.closing_on_error():
        one_of("backup", run.parameters.backup, ("auto", "always", "never"))
        one_of("on_failure", run.parameters.on_failure, ("stop", "rollback"))
        limits_of(run)
        reading_of(run)
        check_target(run.parameters.target, run.graph, direction="upgrade")
        if run.parameters.plan:
            run.keep("reviewed", read_plan_hash(run.resolve_path(run.parameters.plan)))
    return run


def show_target(run: Run[Parameters]) -> Banner:
    """Return which database this is and what will be written to it."""
    if run.parameters.dry_run:
        return run.banner("nothing (dry run)")
    return run.banner("the pending revisions' changes, and a row in playbook.history")


def read_revisions(run: Run[Parameters]) -> RevisionGraph:
    """Return all revisions, and which of them the database is at."""
    return run.graph


def plan_upgrade(run: Run[Parameters]) -> Plan:
    """Return the revisions that will run, with their SQL.

    Raises:
        SettingsError: the target cannot be resolved.
        GuardRefused: it is not the plan that the parameter ``plan`` names.
    """
    plan = run.taken("plan", Plan) or build_plan(
        run.target, run.alembic, run.graph, direction="upgrade", to=run.parameters.target
    )
    reviewed = run.taken("reviewed", str)
    if reviewed and reviewed != plan.sha256:
        with run.recording_refusal():
            raise GuardRefused(
                f"This plan ({plan.sha256[:12]}) is not the one that was reviewed "
                f"({reviewed[:12]}): a revision file, the target or the database's revision is "
                "another.",
                remedy="Run `preview` and have its new plan.json reviewed.",
            )
    return run.keep("plan", plan)


def find_hazards(run: Run[Parameters]) -> Hazards:
    """Return what in the plan's SQL can block, break or destroy, as the preflight weighed it."""
    return run.taken("hazards", Hazards) or _weigh_hazards(run)


def _weigh_hazards(run: Run[Parameters]) -> Hazards:
    run.forget("hazards")
    return run.keep("hazards", weigh_hazards(run.target, plan_upgrade(run)))


def check_preflight(run: Run[Parameters]) -> Checks:
    """Return what is in the way of what would run.

    Raises:
        GuardRefused: a finding says STOP, or a protected target lacks its confirmation.
    """
    plan = plan_upgrade(run)
    run.forget("preflight")
    with run.recording_refusal():
        check_confirmed(run)
        with connect(run.target, read_only=True) as connection:
            history = read_history(connection)
        wants_backup = _wants_backup(run)
        hazards = _weigh_hazards(run)
        question = Question(
            graph=run.graph,
            tables=plan.tables,
            locks=locks_taken(plan.sql, plan.tables),
            edited=edited_revisions(history, run.graph),
            receipts=known_receipts(run.target, run.server, run.parameters.output_dir),
            backup_folder=archive.backup_folder(run.target, BACKUPS) if wants_backup else None,
            backups=known_backups(run.target, run.server, BACKUPS),
            hazards=hazards,
            sql=plan.sql,
            checks=run.keep("checks before", run_checks(run.target, run.graph)),
        )
        checks = check(run.target, run.server, question)
        checks = with_rehearsal(checks, _rehearsals(run), plan, run.target)
        if hazards.stops:  # the cell that shows them comes after the refusal
            show(Hazards(hazards.stops))
        return run.keep("preflight", run.must_pass(checks))


def _rehearsals(run: Run[Parameters]) -> list[Rehearsal]:
    return known_rehearsals(run.target, run.server, run.parameters.output_dir)


def _wants_backup(run: Run[Parameters]) -> bool:
    """Say whether ``backup`` asks for one: auto means on protected targets and where rows are."""
    plan = run.require("plan", Plan)
    if plan.is_empty or run.parameters.dry_run or run.parameters.backup == "never":
        return False
    if run.parameters.backup == "always" or run.target.protected:
        return True
    return holds_rows(run.target, except_tables=(run.version_table,))


def take_backup(run: Run[Parameters]) -> BackupManifest | Note:
    """Take a backup that is proven to be readable, or say why none is needed.

    Raises:
        BackupFailed: there is none now; nothing was changed.
    """
    run.require("preflight", Checks)
    if not _wants_backup(run):
        return run.keep("backup", Note(f"No backup was taken: {_why_no_backup(run)}."))
    return save_backup(run)


def _why_no_backup(run: Run[Parameters]) -> str:
    if run.require("plan", Plan).is_empty:
        return "there is nothing to run"
    if run.parameters.dry_run:
        return "this is a dry run"
    return "backup=never" if run.parameters.backup == "never" else "the database holds no rows"


def take_before_snapshot(run: Run[Parameters]) -> Snapshot | Note:
    """Count and fingerprint every table, for the comparison afterwards."""
    if not _will_write(run):
        return Note("No snapshot was taken, as nothing will be changed.")
    return save_before_snapshot(run)


def _will_write(run: Run[Parameters]) -> bool:
    return not run.parameters.dry_run and not run.require("plan", Plan).is_empty


def run_upgrade(run: Run[Parameters]) -> Applied | Note:
    """Apply the plan, revision by revision, each in its own transaction.

    **Effects**: the plan's changes; a row in ``playbook.history``; the receipt. Holds the
    playbook's advisory lock meanwhile. After a failure the database stays at the last revision
    that was committed, or, with ``on_failure=rollback``, goes back to where it began.

    Raises:
        GuardRefused: an earlier step is missing, the database moved, or the plan changed.
        MigrationFailed: a revision failed; the sentence says where the database is now.
    """
    run.must_be_first("applied")
    plan = run.require("plan", Plan)
    run.require("preflight", Checks)
    run.require("backup", object)
    if not _will_write(run):
        return run.keep("applied", Note(f"Nothing was run: {_why_nothing(run)}."))
    run.require("before", Snapshot)
    with run.recording_refusal():
        check_confirmed(run)
    with run.recording_failure(), advisory_lock(run.target) as check_lock:
        run.same_place()
        run.same_files(plan)
        (run.directory / "migration.sql").write_text(plan.sql, "utf-8")
        files = [(step.revision, step.sha256) for step in plan.steps]
        run.note("upgrade begins", plan_sha256=plan.sha256, revision_files=files)
        run.settle_interrupted()
        run.write_history()
        applied = _apply(run, plan, check_lock)
        return run.keep("applied", with_expected(applied, _rehearsals(run), plan))


def _why_nothing(run: Run[Parameters]) -> str:
    return (
        "this is a dry run"
        if run.parameters.dry_run
        else "the database is there already, or past it"
    )


def _apply(run: Run[Parameters], plan: Plan, check_lock: Callable[[], None]) -> Applied:
    limits = limits_of(run)
    try:
        return execute(run, plan, check_lock, limits)
    except MigrationStopped:
        raise  # who stops a run does not want another one
    except MigrationFailed as failure:
        wanted = run.parameters.on_failure == "rollback" and failure.transactional
        if wanted and sorted(failure.current) != sorted(plan.from_revisions):
            raise go_back(run, plan, failure, check_lock, limits) from failure
        raise


def compare_data(run: Run[Parameters]) -> Comparison | Note:
    """Return how each table and column differs from before the upgrade.

    Raises:
        VerifyFailed: this run changed values that no revision declares and no SQL names; the
            upgrade itself is done.
    """
    run.forget("comparison")
    found = compare_with_before(run)
    if isinstance(found, Comparison) and (names := undeclared(found)):
        run.forget("comparison")
        run.show_then_fail(found, _undeclared(run, names))
    return found


def _undeclared(run: Run[Parameters], names: list[str]) -> VerifyFailed:
    start = join(run.require("applied", Applied).from_revisions)
    backup = run.taken("backup", BackupManifest)
    restore = f", or restore the backup {backup.directory.name}" if backup else ""
    return VerifyFailed(
        f"The upgrade changed what no revision declares: {'; '.join(names)}.",
        state=f"The upgrade is done: the database is at {join(run.graph.current)}.",
        remedy="If it is meant, say so in the revision's file before it runs elsewhere "
        "(`# playbook: changes table.column`); else go back with "
        f"`rollback` -r target {start}{restore}.",
    )


def check_data(run: Run[Parameters]) -> DataChecks:
    """Run the data checks of every applied revision.

    One that found as many rows before the upgrade, or more, was broken by something else.

    Raises:
        VerifyFailed: more rows break a rule than before; the upgrade itself is done.
    """
    run.require("comparison", object)
    run.forget("data")
    checks = run_checks(run.target, run.graph)
    broken = [check for check in checks.failed if not _was_broken(run, check)]
    if broken:
        run.show_then_fail(checks, _broken_rules(run, broken))
    return run.keep("data", checks)


def _before(run: Run[Parameters], check: DataCheckResult) -> DataCheckResult | None:
    """Return a check's result before the upgrade; None if it did not hold there yet."""
    before = run.require("checks before", DataChecks).results
    return next((b for b in before if (b.revision, b.name) == (check.revision, check.name)), None)


def _was_broken(run: Run[Parameters], check: DataCheckResult) -> bool:
    was = _before(run, check)
    if was is None or was.passed:
        return False
    return bool(was.error) if check.error else was.failing_rows >= check.failing_rows


def _broken_rules(run: Run[Parameters], broken: Sequence[DataCheckResult]) -> VerifyFailed:
    names = ", ".join(f"{check.name} ({_rows(run, check)})" for check in broken)
    return VerifyFailed(
        f"Data checks failed: {names}.",
        state=f"The upgrade is done: the database is at {join(run.graph.current)}.",
        remedy="Correct the rows and run `verify`, or go back with `rollback`.",
    )


def _rows(run: Run[Parameters], check: DataCheckResult) -> str:
    """Return what a check finds, and found before the upgrade where it held already."""
    was, found = _before(run, check), count(check.failing_rows, "row")
    if check.error or was is None or was.error:
        return check.error or found
    if was.failing_rows == check.failing_rows:
        return f"{found}, as before"
    return f"{found}; {was.failing_rows:,} before"


def check_schema(run: Run[Parameters]) -> Integrity:
    """Return constraints, indexes, references and sequences that are unfinished or broken.

    Rows without a parent and sequences behind may have been so before: they are shown and named
    in the outcome; `verify` fails on them.

    Raises:
        VerifyFailed: an index is not valid.
    """
    run.require("comparison", object)
    run.forget("integrity")
    with run.recording_failure():
        integrity = find_integrity(run.target, limits=reading_of(run))
    if integrity.invalid and _will_write(run):
        names = ", ".join(item.index for item in integrity.invalid)
        failure = VerifyFailed(
            f"Indexes are not valid: {names}.",
            state=f"The database is at {join(run.graph.current)}.",
            remedy="REINDEX INDEX CONCURRENTLY, then run `verify`.",
        )
        run.show_then_fail(integrity, failure)
    return run.keep("integrity", integrity)


def find_drift(run: Run[Parameters]) -> Drift:
    """Return how the models differ from the database."""
    run.require("comparison", object)
    with run.recording_failure():
        return run.keep("drift", compare_with_models(run.alembic, run.graph))


def conclude(run: Run[Parameters]) -> Outcome:
    """Write the outcome to the receipt and the history, and return it."""
    applied = run.require("applied", object)
    for step, kind in (("data", DataChecks), ("integrity", Integrity), ("drift", Drift)):
        run.require(step, kind)
    if isinstance(applied, Note):
        next_step = (
            "Run it without dry_run." if run.parameters.dry_run else "Nothing is left to do."
        )
        return run.outcome(
            "succeeded", applied.text, unchanged=("everything",), next_steps=(next_step,)
        )
    return _succeeded(run, run.require("applied", Applied))


def _succeeded(run: Run[Parameters], applied: Applied) -> Outcome:
    backup = run.require("backup", object)
    start, end = join(applied.from_revisions), join(applied.to_revisions)
    message = f"{run.server.database} was upgraded from {start} to {end}.{unread(run)}"
    looked_at, but = (*_broken_already(run), *looks(run)), _but(run)
    run.finish("succeeded", message)
    kept = f"The backup is {backup.directory.name}. " if isinstance(backup, BackupManifest) else ""
    return run.outcome(
        "succeeded",
        message,
        changed=tuple(f"{step.revision} applied" for step in applied.steps),
        unchanged=("every table and column that the comparison calls intact",),
        next_steps=(
            *looked_at,
            f"{kept}`rollback` with -r target {start} undoes this upgrade{but}.",
            "`verify` repeats the checks at any time.",
        ),
        files=tuple(sorted(run.directory.glob("*.sql"))),
    )


def _but(run: Run[Parameters]) -> str:
    """Return what a rollback would not bring back; "" if the upgrade dropped nothing."""
    dropped = dropped_objects(run.require("plan", Plan).sql)
    return "; what it dropped comes back empty, as only the backup has the rows" if dropped else ""


def _broken_already(run: Run[Parameters]) -> tuple[str, ...]:
    """Return a sentence for each data check that was broken already before the upgrade."""
    failed = run.require("data", DataChecks).failed
    return tuple(f"Data check {c.name} was broken already ({_rows(run, c)})." for c in failed)
