"""What in a plan's SQL can block, break or destroy, weighed with the sizes there are. Layer 1.

squawk, the PostgreSQL migration linter, says which statements are hazardous; PostgreSQL's own
parser says which table they mean and finds what squawk does not look for (an UPDATE of all rows).
Sizes decide how much each weighs: the same statement is nothing on three hundred rows and an
outage on thirty million. Runs squawk; knows no database.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from playbook.errors import SettingsError
from playbook.locks import MODES, blocks
from playbook.records import Hazard, Hazards, PlanStep, Severity
from playbook.statements import Statement, created_tables, read_statements

__all__ = ["RULES", "STOP_AFTER_S", "WARN_AFTER_S", "Rule", "find_hazards"]

ROWS_PER_S: Mapping[str, float] = {
    "moment": float("inf"),
    "scan": 5e6,
    "index": 1e6,
    "rewrite": 5e5,
    "write": 7e4,
}
"""Rows that PostgreSQL 18 gets through in a second, by kind of work.

Measured on 2 cores with 2 million rows of 150 bytes: CHECK 5.0, NOT NULL 10.6, foreign key 6.4,
unique text index 1.2, type change 0.52 (million rows a second), UPDATE with three indexes 0.07.
An estimate: a rehearsal on a copy tells the real figure.
"""

WARN_AFTER_S = 0.3
STOP_AFTER_S = 2.0
"""As long as lock_timeout lets others wait by default."""

_EXEMPTION = re.compile(
    r"^\s*#\s*playbook:\s*allow\s+(?P<rule>[\w-]+)(?:\s+on\s+(?P<table>\S+))?"
    r"\s+because\s+(?P<reason>\S.*?)\s*$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Rule:
    """What a hazardous kind of statement does, and what to write instead.

    ``work`` is a key of `ROWS_PER_S`: what is done for each row while ``lock`` is held.
    ``least`` and ``most`` bound its severity whatever the size: clients that use the old form
    break; how many rows a WHERE means is not known.
    """

    work: str
    lock: str
    detail: str
    remedy: str
    least: Severity = Severity.OK
    most: Severity = Severity.STOP


_EXCLUSIVE = "AccessExclusiveLock"
_BREAKS = "Running code that still uses the old form fails."
_EXPAND = "Stop using it in one release, and remove it in a later one."

RULES: Mapping[str, Rule] = {
    "adding-field-with-default": Rule(
        "rewrite",
        _EXCLUSIVE,
        "A volatile default rewrites the whole table.",
        "Add the column without it, set the default, then fill old rows in batches.",
    ),
    "adding-foreign-key-constraint": Rule(
        "scan",
        "ShareRowExclusiveLock",
        "Every row is checked.",
        "ADD CONSTRAINT ... NOT VALID, then VALIDATE CONSTRAINT in a revision of its own.",
    ),
    "adding-not-nullable-field": Rule(
        "scan",
        _EXCLUSIVE,
        "Every row is looked at for NULL.",
        "ADD CONSTRAINT ... CHECK (column IS NOT NULL) NOT VALID, VALIDATE it in a second "
        "revision, SET NOT NULL in a third: it then scans nothing.",
    ),
    "adding-required-field": Rule(
        "moment",
        _EXCLUSIVE,
        "It fails where there are rows: they have no value for it.",
        "Add it nullable, fill it, then SET NOT NULL.",
    ),
    "adding-serial-primary-key-field": Rule(
        "index",
        _EXCLUSIVE,
        "The index of the key is built meanwhile.",
        "CREATE UNIQUE INDEX CONCURRENTLY, then ADD PRIMARY KEY USING INDEX.",
    ),
    "ban-concurrent-index-creation-in-transaction": Rule(
        "moment",
        "ShareUpdateExclusiveLock",
        "CONCURRENTLY fails inside a transaction.",
        "with op.get_context().autocommit_block(): op.create_index(...)",
        Severity.STOP,
    ),
    "ban-drop-column": Rule("moment", _EXCLUSIVE, _BREAKS, _EXPAND, Severity.WARN),
    "ban-drop-table": Rule("moment", _EXCLUSIVE, _BREAKS, _EXPAND, Severity.WARN),
    "ban-truncate-cascade": Rule(
        "moment",
        _EXCLUSIVE,
        "Tables that refer to it are emptied as well.",
        "Name each table that is meant.",
        Severity.STOP,
    ),
    "changing-column-type": Rule(
        "rewrite",
        _EXCLUSIVE,
        "The table and its indexes may be rewritten.",
        "Add a column of the new type, fill it in batches, then change over.",
    ),
    "constraint-missing-not-valid": Rule(
        "scan",
        _EXCLUSIVE,
        "Every row is checked.",
        "ADD CONSTRAINT ... NOT VALID, then VALIDATE CONSTRAINT in a revision of its own.",
    ),
    "disallowed-unique-constraint": Rule(
        "index",
        _EXCLUSIVE,
        "Its index is built meanwhile.",
        "CREATE UNIQUE INDEX CONCURRENTLY, then ADD CONSTRAINT ... UNIQUE USING INDEX.",
    ),
    "renaming-column": Rule("moment", _EXCLUSIVE, _BREAKS, _EXPAND, Severity.WARN),
    "renaming-table": Rule("moment", _EXCLUSIVE, _BREAKS, _EXPAND, Severity.WARN),
    "require-concurrent-index-creation": Rule(
        "index",
        "ShareLock",
        "Writers wait until the index is built.",
        "with op.get_context().autocommit_block(): "
        "op.create_index(..., postgresql_concurrently=True)",
    ),
    "update-all-rows": Rule(
        "write",
        "RowExclusiveLock",
        "Every row is written anew, and stays locked to the end.",
        "Fill in batches of a thousand rows, outside the schema change.",
    ),
    "update-rows": Rule(
        "write",
        "RowExclusiveLock",
        "As many rows as its condition means are written anew, and stay locked to the end.",
        "Fill in batches of a thousand rows, outside the schema change.",
        most=Severity.WARN,
    ),
    "delete-all-rows": Rule(
        "write",
        "RowExclusiveLock",
        "Every row of the table is deleted.",
        "Be sure that nobody needs them; TRUNCATE takes a moment instead.",
        least=Severity.WARN,
    ),
    "delete-rows": Rule(
        "write",
        "RowExclusiveLock",
        "Rows are deleted; how many, the condition decides.",
        "Delete in batches, after a look at what would go.",
        least=Severity.WARN,
        most=Severity.WARN,
    ),
    "truncate": Rule(
        "moment",
        _EXCLUSIVE,
        "Every row of the table is deleted.",
        "Be sure that nobody needs them; the backup has them.",
        Severity.WARN,
    ),
}
"""squawk's rules that mean blocking, breaking or destroying, and ours; its others are style."""

_STRONGER_SAME = {
    "constraint-missing-not-valid": (
        "disallowed-unique-constraint",
        "adding-foreign-key-constraint",
        "adding-serial-primary-key-field",
    )
}
"""Rules that say less than another one that squawk gives for the same statement."""


def find_hazards(steps: Sequence[PlanStep], rows: Mapping[str, int]) -> Hazards:
    """Return the hazards of a plan's SQL, in the order of its statements.

    Tables that the plan itself creates are empty and nobody waits for them: left out.

    Args:
        steps: with their SQL.
        rows: estimated rows of each existing table, ``schema.table``.

    Raises:
        SettingsError: squawk cannot be run.
    """
    found: list[Hazard] = []
    new: set[str] = set()
    for step in steps:
        new |= created_tables(step.sql)
        found += _of_step(step, {t: n for t, n in rows.items() if t not in new})
    return Hazards(tuple(found))


def _of_step(step: PlanStep, rows: Mapping[str, int]) -> Iterator[Hazard]:
    exemptions = _exemptions(step.path)
    held: dict[str, str] = {}  # a lock is kept to the end of the revision's transaction
    for statement, names in _findings(step.sql):
        table = statement.table
        held[table] = max(held.get(table, MODES[0]), statement.lock, key=MODES.index)
        for name in names:
            if table in rows:
                yield _weigh(step, statement, name, rows[table], held[table], exemptions)


def _findings(sql: str) -> Iterator[tuple[Statement, list[str]]]:
    """Return each statement with the rules it falls under."""
    findings = _run_squawk(sql)
    for statement in read_statements(sql):
        names = [n for line, n in findings if statement.first_line <= line <= statement.last_line]
        names = list(dict.fromkeys([*(n for n in names if n in RULES), *statement.writes]))
        hidden = {w for w, stronger in _STRONGER_SAME.items() if set(stronger) & set(names)}
        yield statement, [n for n in names if n not in hidden]


def _weigh(
    step: PlanStep,
    statement: Statement,
    name: str,
    rows: int,
    held: str,
    exemptions: Sequence[tuple[str, str, str]],
) -> Hazard:
    rule = RULES[name]
    lock = max(rule.lock, held, key=MODES.index) if rule.work != "moment" else rule.lock
    blocked_s = max(rows, 0) / ROWS_PER_S[rule.work]
    order = list(Severity).index
    severity = min(max(_by_time(blocked_s), rule.least, key=order), rule.most, key=order)
    if name == "adding-required-field" and rows:
        severity = Severity.STOP
    reasons = [
        reason
        for allowed, table, reason in exemptions
        if allowed == name and table in {"", statement.table, statement.table.split(".")[-1]}
    ]
    return Hazard(
        revision=step.revision,
        rule=name,
        severity=severity,
        table=statement.table,
        rows=rows,
        lock=lock,
        blocks=blocks(lock),
        blocked_s=round(blocked_s, 2),
        statement=statement.text,
        detail=rule.detail,
        remedy=rule.remedy,
        allowed_because=reasons[0] if reasons else "",
    )


def _by_time(blocked_s: float) -> Severity:
    if blocked_s >= STOP_AFTER_S:
        return Severity.STOP
    return Severity.WARN if blocked_s >= WARN_AFTER_S else Severity.OK


def _exemptions(path: Path) -> list[tuple[str, str, str]]:
    """Return (rule, table or "", reason) of each exemption in a revision file."""
    text = path.read_text("utf-8")
    return [(m["rule"], m["table"] or "", m["reason"]) for m in _EXEMPTION.finditer(text)]


def _run_squawk(sql: str) -> list[tuple[int, str]]:
    """Return (line, rule) of each finding; lines are counted from 0."""
    beside = str(Path(sys.executable).parent)
    program = shutil.which("squawk", path=beside) or shutil.which("squawk")
    if program is None:
        raise SettingsError(
            "squawk, which looks for hazards in the SQL, is not installed.",
            remedy="Install it: pip install squawk-cli.",
        )
    done = subprocess.run(
        [program, "--reporter", "json", "--stdin-filepath", "plan.sql"],
        input=sql,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    try:
        return [(item["line"], item["rule_name"]) for item in json.loads(done.stdout)]
    except ValueError as error:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise SettingsError(f"squawk could not read the SQL: {last}") from error
