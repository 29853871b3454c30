"""The runbook `rollback`: what is lost, ways back, salvage, downgrade, verify. Layer 5; writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from playbook import archive, salvage, ways_back
from playbook.database import advisory_lock
from playbook.errors import GuardRefused
from playbook.execution import (
    BACKUPS,
    check_confirmed,
    compare_with_before,
    execute,
    limits_of,
    looks,
    reading_of,
    save_backup,
    save_before_snapshot,
    unread,
)
from playbook.formats import count
from playbook.journal import Run
from playbook.parameters import Common, one_of
from playbook.plan import build_plan
from playbook.preflight import Question, check
from playbook.present import note
from playbook.receipts import known_receipts
from playbook.records import (
    Applied,
    BackupManifest,
    Banner,
    Checks,
    Comparison,
    DataChecks,
    Finding,
    Integrity,
    Loss,
    Note,
    Outcome,
    Plan,
    Receipt,
    RevisionGraph,
    Salvage,
    Severity,
    Snapshot,
    WaysBack,
)
from playbook.revisions import check_target, join
from playbook.snapshot import holds_rows
from playbook.statements import has_statements, locks_taken
from playbook.verification import find_integrity, run_checks

__all__ = [
    "Parameters",
    "check_data",
    "check_preflight",
    "check_schema",
    "compare_data",
    "conclude",
    "find_loss",
    "open_run",
    "plan_rollback",
    "read_revisions",
    "run_rollback",
    "show_target",
    "take_backup",
    "take_before_snapshot",
    "weigh_ways",
    "write_salvage",
]


@dataclass(frozen=True)
class Parameters(Common):
    """The parameters of `rollback`."""

    target: str = "-1"
    confirm: str = ""
    backup: str = "auto"
    dry_run: bool = False
    lock_timeout: str = "2s"
    give_up_after: str = "5min"
    statement_timeout: str = ""
    concurrently_timeout: str = "5min"
    sample_above: str = ""
    time_budget: str = ""


def open_run(namespace: Mapping[str, Any]) -> Run[Parameters]:
    """Check the parameters and connect; raises as `playbook.journal.Run.open` does."""
    run = Run.open("rollback", Parameters, namespace)
    with run.closing_on_error():
        one_of("backup", run.parameters.backup, ("auto", "always", "never"))
        limits_of(run)
        reading_of(run)
        check_target(run.parameters.target, run.graph, direction="downgrade")
    return run


def show_target(run: Run[Parameters]) -> Banner:
    """Return which database this is and what will be written to it."""
    if run.parameters.dry_run:
        return run.banner("nothing (dry run)")
    return run.banner("what the downgrades undo, and a row in playbook.history")


def read_revisions(run: Run[Parameters]) -> RevisionGraph:
    """Return all revisions, and which of them the database is at."""
    return run.graph


def plan_rollback(run: Run[Parameters]) -> Plan:
    """Return the revisions that will be undone, with their SQL.

    Raises:
        SettingsError: the target cannot be resolved, or a revision has no downgrade.
    """
    plan = run.taken("plan", Plan) or build_plan(
        run.target, run.alembic, run.graph, direction="downgrade", to=run.parameters.target
    )
    return run.keep("plan", plan)


def check_preflight(run: Run[Parameters]) -> Checks:
    """Return what is in the way of what would be undone.

    Raises:
        GuardRefused: a finding says STOP, or a protected target lacks its confirmation.
    """
    plan = plan_rollback(run)
    run.forget("preflight")
    with run.recording_refusal():
        check_confirmed(run)
        question = Question(
            graph=run.graph,
            tables=plan.tables,
            locks=locks_taken(plan.sql, plan.tables),
            receipts=known_receipts(run.target, run.server, run.parameters.output_dir),
            backup_folder=archive.backup_folder(run.target, BACKUPS)
            if _wants_backup(run)
            else None,
            sql=plan.sql,
        )
        checks = check(run.target, run.server, question)
        checks = Checks((*checks.findings, _empty_downgrades(plan)))
        return run.keep("preflight", run.must_pass(checks))


def _empty_downgrades(plan: Plan) -> Finding:
    """Warn of downgrades that do nothing: what their upgrades made stays, without a revision."""
    empty = [step.revision for step in plan.steps if not has_statements(step.sql)]
    if empty:
        return Finding(
            "empty-downgrade",
            Severity.WARN,
            join(empty),
            "The downgrade does nothing: what the upgrade made stays, and the version table will "
            "not show it.",
            "Write the downgrade, or be sure that the upgrade can run again over what stays.",
        )
    return Finding("empty-downgrade", Severity.OK, "downgrades", "Each one has statements.")


def find_loss(run: Run[Parameters]) -> Loss:
    """Return every table and column that the plan drops, with the rows in it now."""
    return run.keep("loss", _count_loss(run, run.require("plan", Plan)))


def _count_loss(run: Run[Parameters], plan: Plan) -> Loss:
    since = ways_back.applied_in(_runs_here(run), plan)
    return salvage.find_loss(
        run.target,
        plan,
        version_table=run.version_table,
        since=since,
        path=run.graph.search_path,
    )


def _runs_here(run: Run[Parameters]) -> list[Receipt]:
    return [receipt for receipt in run.known_runs().runs if run.is_of_here(receipt)]


def weigh_ways(run: Run[Parameters]) -> WaysBack | Note:
    """Return the ways to be rid of the upgrade, what each loses and takes, and which is advised."""
    plan, loss = run.require("plan", Plan), run.require("loss", Loss)
    if plan.is_empty:
        return run.keep("ways", Note("There is nothing to undo."))
    receipts = _runs_here(run)
    xids = ways_back.applied_in(receipts, plan)
    facts = ways_back.Facts(
        loss=loss,
        backup=ways_back.newest_backup(run.target, run.server, plan, BACKUPS),
        rows_since=ways_back.rows_since(run.target, xids, plan, run.version_table),
        failed=ways_back.failure_of(receipts, plan),
        downgrade_s=ways_back.downgrade_time(receipts, plan),
    )
    return run.keep("ways", ways_back.weigh_ways(plan, facts))


def write_salvage(run: Run[Parameters]) -> Salvage | Note:
    """Write what is lost to files in the run's folder.

    Raises:
        BackupFailed: it could not be written; nothing was destroyed.
    """
    run.require("preflight", Checks)
    loss = run.require("loss", Loss)
    if not _will_write(run) or not any(item.rows for item in loss.items):
        return run.keep("salvage", Note(_why_no_salvage(run, loss)))
    with run.recording_failure():
        folder, at = run.begin() / "salvage", run.require("plan", Plan).from_revisions
        files = salvage.write_salvage(run.target, loss, folder, at)
    run.note("salvage written", salvage=[file.path.name for file in files.files])
    return run.keep("salvage", files)


def _why_no_salvage(run: Run[Parameters], loss: Loss) -> str:
    held = [item for item in loss.items if item.rows]
    if run.parameters.dry_run and held:
        return f"Dry run: {count(sum(i.rows for i in held))} rows or values would be saved here."
    nothing = "There is nothing to salvage: what is dropped holds no rows."
    if loss.untold:
        nothing += f" Not to be told from the SQL, and in the backup only: {join(loss.untold)}."
    return nothing


def _will_write(run: Run[Parameters]) -> bool:
    return not run.parameters.dry_run and not run.require("plan", Plan).is_empty


def take_backup(run: Run[Parameters]) -> BackupManifest | Note:
    """Take a backup that is proven to be readable, or say why none is needed.

    ``auto`` takes one on a protected target and wherever there are rows: a downgrade may delete
    or overwrite what no list of dropped tables shows.
    """
    run.require("salvage", object)
    wanted = _wants_backup(run)
    if not _will_write(run) or not wanted:
        if run.parameters.dry_run and wanted:
            return run.keep("backup", Note("Dry run: a backup would be taken here."))
        never = run.parameters.backup == "never"
        why = "backup=never" if never else "there is nothing to lose"
        return run.keep("backup", Note(f"No backup was taken: {why}."))
    return save_backup(run)


def _wants_backup(run: Run[Parameters]) -> bool:
    asked = run.parameters.backup
    return asked == "always" or (asked == "auto" and _has_something_to_lose(run))


def _has_something_to_lose(run: Run[Parameters]) -> bool:
    return run.target.protected or holds_rows(run.target, except_tables=(run.version_table,))


def take_before_snapshot(run: Run[Parameters]) -> Snapshot | Note:
    """Count and fingerprint every table, for the comparison afterwards."""
    if not _will_write(run):
        return Note("No snapshot was taken, as nothing will be changed.")
    return save_before_snapshot(run)


def run_rollback(run: Run[Parameters]) -> Applied | Note:
    """Undo the plan's revisions, one by one, each in its own transaction.

    **Effects**: the downgrades'; a row in ``playbook.history``; the receipt. Holds the
    playbook's advisory lock meanwhile. After a failure the database stays at the last revision
    that was undone.

    Raises:
        GuardRefused: an earlier step is missing, or the database moved.
        MigrationFailed: a downgrade failed; the sentence says where the database is now.
    """
    run.must_be_first("applied")
    plan = run.require("plan", Plan)
    for step, kind in (("preflight", Checks), ("loss", Loss)):
        run.require(step, kind)
    for step in ("ways", "salvage", "backup"):
        run.require(step, object)
    if not _will_write(run):
        reason = "this is a dry run" if run.parameters.dry_run else "the database is already there"
        return run.keep("applied", Note(f"Nothing was run: {reason}."))
    run.require("before", Snapshot)
    with run.recording_refusal():
        check_confirmed(run)
    with run.recording_failure(), advisory_lock(run.target) as check_lock:
        run.same_place()
        run.same_files(plan)
        _check_loss(run, plan)
        (run.directory / "rollback.sql").write_text(plan.sql, "utf-8")
        files = [(step.revision, step.sha256) for step in plan.steps]
        run.note("rollback begins", plan_sha256=plan.sha256, revision_files=files)
        run.settle_interrupted()
        run.write_history()
        return run.keep("applied", _undo(run, plan, check_lock))


def _check_loss(run: Run[Parameters], plan: Plan) -> None:
    """Refuse if the rows of a table that is dropped whole changed since they were counted.

    Whoever writes to such a table will miss it. The columns of one that stays are another matter:
    its rows are written all the time, and what comes late is saved by the revision itself.
    """
    before, now = ({i for i in loss.items if not i.column}
                   for loss in (run.require("loss", Loss), _count_loss(run, plan)))  # fmt: skip
    if now != before:
        raise GuardRefused(
            "What would be destroyed has changed since it was salvaged: the application writes "
            f"to {join(sorted({item.table for item in now ^ before}))}.",
            remedy="Stop those writes, then run the notebook's cells from the top.",
        )


def _undo(run: Run[Parameters], plan: Plan, check_lock: Callable[[], None]) -> Applied:
    """Run the downgrades; each saves the rows that came since the salvage before it drops them."""
    late = salvage.late_rows(
        run.target, plan, run.require("loss", Loss), run.taken("salvage", Salvage),
        path=run.graph.search_path,
    )  # fmt: skip
    saved = late.salvage
    if saved:
        run.keep("salvage", saved)
    if late.too_large:
        tables = join(late.too_large)
        run.note(f"too large to be read again under its lock: {tables}")
        note(
            f"Rows written to {tables} from now on are not saved: it is too large to be read again."
        )
    try:
        return execute(run, plan, check_lock, limits_of(run), late_rows=late.rows)
    finally:
        if saved and (renewed := salvage.renew_manifest(saved)) != saved:
            run.keep("salvage", renewed)
            run.note("rows that came after the salvage were added to it")
            note("Rows that came after the salvage were added to it.")


def compare_data(run: Run[Parameters]) -> Comparison | Note:
    """Return how each table and column differs from before the rollback."""
    return compare_with_before(run)


def check_data(run: Run[Parameters]) -> DataChecks:
    """Run the data checks of the revisions that are still applied; they inform, only."""
    run.require("comparison", object)
    with run.recording_failure():
        return run.keep("data", run_checks(run.target, run.graph))


def check_schema(run: Run[Parameters]) -> Integrity:
    """Return constraints, indexes, references and sequences that are unfinished or broken."""
    run.require("comparison", object)
    with run.recording_failure():
        return run.keep("integrity", find_integrity(run.target, limits=reading_of(run)))


def conclude(run: Run[Parameters]) -> Outcome:
    """Write the outcome to the receipt and the history, and return it."""
    applied = run.require("applied", object)
    data = run.require("data", DataChecks)
    run.require("integrity", Integrity)
    if isinstance(applied, Note):
        return run.outcome("succeeded", applied.text, unchanged=("everything",))
    applied = run.require("applied", Applied)
    start, end = join(applied.from_revisions), join(applied.to_revisions)
    message = f"{run.server.database} was rolled back from {start} to {end}.{unread(run)}"
    saved = run.require("salvage", object)
    files = tuple(sorted(saved.directory.iterdir())) if isinstance(saved, Salvage) else ()
    taken = run.require("backup", object)
    kept = (
        (f"The whole database as it was is in the backup {taken.directory.name}.",)
        if isinstance(taken, BackupManifest)
        else ()
    )
    back = f"salvage/load.sql loads what was saved, once `upgrade` has been to {start}."
    load = (back,) if files else ()
    failed = tuple(f"Data check {c.name} finds {c.failing_rows} rows." for c in data.failed)
    looked_at = looks(run)
    run.finish("succeeded", message)
    return run.outcome(
        "succeeded",
        message,
        changed=tuple(f"{step.revision} undone" for step in applied.steps),
        unchanged=("every table and column that the comparison calls intact",),
        next_steps=(
            *failed,
            *looked_at,
            f"`upgrade` with -r target {start} goes forward again.",
            *load,
            *kept,
        ),
        files=files,
    )
