"""A draft written anew as several revisions whose statements make nobody wait. Layer 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from playbook.database import connect
from playbook.drafts import Draft, DraftFile
from playbook.known import read_known
from playbook.migrate import Alembic
from playbook.records import Hazards, Plan, RevisionGraph, ServerInfo
from playbook.revision_names import next_id
from playbook.stages import Stage, split_revision
from playbook.targets import Target

__all__ = ["known_fills", "split_draft"]


def known_fills(operations: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Return the one value that the models give new rows of a column, where there is one."""
    return {
        (str(op["table"]), str(op["column"]["name"])): str(op["column"]["value"])
        for op in operations
        if op["kind"] == "AddColumnOp" and op["column"].get("value")
    }


def split_draft(
    target: Target,
    server: ServerInfo,
    graph: RevisionGraph,
    draft: Draft,
    plan: Plan,
    reverse: str,
    hazards: Hazards,
    fills: Mapping[tuple[str, str], str],
    folder: Path,
    *,
    branch_label: str = "",
) -> tuple[Draft | None, str]:
    """Write a draft anew in steps; return it, or None and why there is none.

    **Effects**: files in ``folder``, which is made.

    Args:
        graph: the project's revisions, without the draft.
        plan: of the draft, with its SQL.
        reverse: the SQL of its downgrade, "" if that is not known.
        fills: as `stages.read_fills` returns.

    Raises:
        SettingsError: the project's template cannot be used.
    """
    with connect(target, read_only=True) as connection:
        columns = read_known(connection).columns
    stages, reason = split_revision(plan.sql, reverse, hazards.items, columns, fills)
    if reason:
        return None, reason
    folder.mkdir()
    known = [one.revision for one in graph.revisions]
    steps = [_step(stage, number, stages, draft, known) for number, stage in enumerate(stages)]
    with Alembic(target) as alembic:
        alembic.open(target, server, session={})
        head = draft.follows[0] if draft.follows else "base"
        made = alembic.write_steps(folder, steps, head=head, branch_label=branch_label)
    files = tuple(DraftFile(name, path, path.read_text("utf-8")) for name, path in made)
    form = f"as {len(files)} revisions whose statements make nobody wait for long"
    return replace(draft, files=files, form=form, remaining=None), ""


def _step(
    stage: Stage, number: int, stages: Sequence[Stage], draft: Draft, known: Sequence[str]
) -> dict[str, str]:
    message = draft.message
    if len(stages) > 1:
        message = f"{draft.message}: {number + 1} of {len(stages)}, {stage.title}"
    return {
        # The number of the step comes first, as a slug has little room.
        "rev_id": next_id(draft.message, known, after=number),
        "message": message,
        "upgrade": stage.upgrade,
        "downgrade": stage.downgrade,
    }
