"""The runbook `upgrade`: preflight, plan, backup, snapshot, apply, verify, receipt. Layer 5."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from playbook import archive
from playbook.apply import Limits
from playbook.database import advisory_lock, connect
from playbook.errors import GuardRefused, MigrationFailed, VerifyFailed
from playbook.execution import (
    BACKUPS,
    check_confirmed,
    compare_with_before,
    execute,
    go_back,
    save_backup,
    save_before_snapshot,
)
from playbook.history import edited_revisions, read_history
from playbook.journal import Run
from playbook.manifests import known_backups
from playbook.parameters import Common, one_of
from playbook.plan import build_plan, read_plan_hash, weigh_hazards
from playbook.preflight import Question, check
from playbook.receipts import known_receipts
from playbook.records import (
    Applied,
    BackupManifest,
    Banner,
    Checks,
    Comparison,
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
from playbook.revisions import check_target, join
from playbook.snapshot import holds_rows
from playbook.statements import locks_taken
from playbook.targets import parse_duration_s
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
    on_failure: str = "stop"
    plan: str = ""


def open_run(namespace: Mapping[str, Any]) -> Run[Parameters]:
    """Check the parameters and connect; raises as `playbook.journal.Run.open` does."""
    run = Run.open("upgrade", Parameters, namespace)
    with run.closing_on_error():
        one_of("backup", run.parameters.backup, ("auto", "always", "never"))
        one_of("on_failure", run.parameters.on_failure, ("stop", "rollback"))
        _limits(run.parameters)
        check_target(run.parameters.target, run.graph, direction="upgrade")
        if run.parameters.plan:
            run.keep("reviewed", read_plan_hash(run.resolve_path(run.parameters.plan)))
    return run


def _limits(parameters: Parameters) -> Limits:
    return Limits(
        parse_duration_s(parameters.lock_timeout, name="lock_timeout"),
        parse_duration_s(parameters.give_up_after, name="give_up_after"),
    )


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
    """Return what in the plan's SQL can block, break or destroy, as the tables are now."""
    return weigh_hazards(run.target, plan_upgrade(run))


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
        question = Question(
            graph=run.graph,
            tables=plan.tables,
            locks=locks_taken(plan.sql, plan.tables),
            edited=edited_revisions(history, run.graph),
            receipts=known_receipts(run.target, run.server, run.parameters.output_dir),
            backup_folder=archive.backup_folder(run.target, BACKUPS) if wants_backup else None,
            backups=known_backups(run.target, run.server, BACKUPS),
            hazards=find_hazards(run),
        )
        return run.keep("preflight", run.must_pass(check(run.target, run.server, question)))


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
        return run.keep("applied", _apply(run, plan, check_lock))


def _why_nothing(run: Run[Parameters]) -> str:
    return (
        "this is a dry run"
        if run.parameters.dry_run
        else "the database is there already, or past it"
    )


def _apply(run: Run[Parameters], plan: Plan, check_lock: Callable[[], None]) -> Applied:
    limits = _limits(run.parameters)
    try:
        return execute(run, plan, check_lock, limits)
    except MigrationFailed as failure:
        wanted = run.parameters.on_failure == "rollback" and failure.transactional
        if wanted and sorted(failure.current) != sorted(plan.from_revisions):
            raise go_back(run, plan, failure, check_lock, limits) from failure
        raise


def compare_data(run: Run[Parameters]) -> Comparison | Note:
    """Return how each table and column differs from before the upgrade."""
    return compare_with_before(run)


def check_data(run: Run[Parameters]) -> DataChecks:
    """Run the data checks of every applied revision.

    Raises:
        VerifyFailed: rows break a rule; the upgrade itself is done.
    """
    run.require("comparison", object)
    run.forget("data")
    checks = run_checks(run.target, run.graph)
    if checks.failed:
        run.show_then_fail(checks, _broken_rules(run, checks))
    return run.keep("data", checks)


def _broken_rules(run: Run[Parameters], checks: DataChecks) -> VerifyFailed:
    names = ", ".join(f"{c.name} ({c.error or f'{c.failing_rows} rows'})" for c in checks.failed)
    return VerifyFailed(
        f"Data checks failed: {names}.",
        state=f"The upgrade is done: the database is at {join(run.graph.current)}.",
        remedy="Correct the rows and run `verify`, or go back with `rollback`.",
    )


def check_schema(run: Run[Parameters]) -> Integrity:
    """Return constraints that were never validated and indexes that are not valid.

    Raises:
        VerifyFailed: an index is not valid.
    """
    run.require("comparison", object)
    run.forget("integrity")
    integrity = find_integrity(run.target)
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
    message = f"{run.server.database} was upgraded from {start} to {end}."
    run.finish("succeeded", message)
    kept = f"The backup is {backup.directory.name}. " if isinstance(backup, BackupManifest) else ""
    return run.outcome(
        "succeeded",
        message,
        changed=tuple(f"{step.revision} applied" for step in applied.steps),
        unchanged=("every table and column that the comparison calls intact",),
        next_steps=(
            f"{kept}`rollback` with -r target {start} undoes this upgrade.",
            "`verify` repeats the checks at any time.",
        ),
        files=tuple(sorted(run.directory.glob("*.sql"))),
    )
