"""The runbooks' steps in the order of their notebooks, and what they left behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from playbook import (
    author,
    backup,
    init,
    preview,
    rehearse,
    repair,
    restore,
    rollback,
    status,
    upgrade,
    verify,
)
from playbook.database import connect, fetch
from playbook.dump import dump_schema, find_client_tools
from playbook.snapshot import take_snapshot
from playbook.targets import Target
from voice_agent import ingest

Namespace = dict[str, Any]
STEPS: dict[ModuleType, tuple[str, ...]] = {
    status: ("show_target", "read_revisions", "check_preflight", "read_runs", "list_backups",
             "find_drift", "measure_tables", "conclude"),
    author: ("show_target", "read_revisions", "check_preflight", "find_changes", "show_draft",
             "show_sql", "find_hazards", "rewrite_draft", "test_draft", "show_checks",
             "place_files", "conclude"),
    backup: ("show_target", "check_preflight", "measure_tables", "run_backup", "verify_backup",
             "plan_retention", "prune_backups", "conclude"),
    preview: ("show_target", "read_revisions", "plan_migration", "find_hazards", "measure_tables",
              "find_loss", "write_files", "conclude"),
    rehearse: ("show_target", "read_revisions", "check_preflight", "plan_rehearsal",
               "run_rehearsal", "show_copy", "judge", "conclude"),
    upgrade: ("show_target", "read_revisions", "plan_upgrade", "check_preflight", "take_backup",
              "take_before_snapshot", "run_upgrade", "compare_data", "check_data", "check_schema",
              "find_drift", "conclude"),
    verify: ("show_target", "read_revisions", "take_snapshot_now", "compare_data", "show_chart",
             "check_data", "check_schema", "find_drift", "conclude"),
    rollback: ("show_target", "read_revisions", "plan_rollback", "check_preflight", "find_loss",
               "weigh_ways", "write_salvage", "take_backup", "take_before_snapshot",
               "run_rollback", "compare_data", "check_data", "check_schema", "conclude"),
    restore: ("show_target", "check_preflight", "verify_backup", "run_restore",
              "compare_with_backup", "find_loss", "find_sessions", "run_swap", "conclude"),
    repair: ("show_target", "check_preflight", "read_version_table", "compare_schemas",
             "diagnose", "list_what_helps", "run_remedy", "check_again", "conclude"),
    init: ("show_target", "read_revisions", "measure_tables", "check_place", "drop_everything",
           "plan_install", "run_install", "add_sample_data", "count_rows", "check_data",
           "conclude"),
    ingest: ("show_target", "check_preflight", "survey_folder", "take_backup", "run_import",
             "list_reports", "check_documents", "conclude"),
}  # fmt: skip
WRITING = {upgrade: "run_upgrade", rollback: "run_rollback", init: "run_install"}


def go(
    module: ModuleType, namespace: Namespace, *, before: str = "", leave_out: str = "",
    meanwhile: Mapping[str, Callable[[], object]] | None = None, **parameters: object,
) -> Any:  # fmt: skip
    """Run a runbook's steps and return what the last one returned.

    Args:
        before: stop before this step and return the run.
        leave_out: a step that is skipped.
        meanwhile: what somebody else does before a step.
    """
    with module.open_run({**namespace, **parameters}) as run:
        result: object = run
        for step in STEPS[module]:
            if step == before:
                return run
            if meanwhile and step in meanwhile:
                meanwhile[step]()
            if step != leave_out:
                result = getattr(module, step)(run)
        return result


def run_sql(target: Target, *statements: str) -> None:
    """Run statements in one transaction each."""
    with connect(target) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def picture(target: Target) -> tuple[object, ...]:
    """Return everything in a database that a runbook might change: schema and data."""
    tables = take_snapshot(target, ()).tables
    return (dump_schema(target, tools=find_client_tools(180000)), tables)


def runs(namespace: Namespace) -> list[dict[str, Any]]:
    """Return the receipts, the oldest first."""
    folder = Path(namespace["alembic_ini"]).parent / "runs"
    records = [json.loads(path.read_text()) for path in folder.glob("*/receipt.json")]
    return sorted(records, key=lambda record: record["started_at"])


def history(target: Target) -> list[tuple[Any, ...]]:
    query = "SELECT runbook, outcome, to_revisions FROM playbook.history ORDER BY started_at"
    with connect(target) as connection:
        return fetch(connection, query)


def at(target: Target) -> list[str]:
    with connect(target) as connection:
        return [row[0] for row in fetch(connection, "SELECT version_num FROM alembic_version")]
