"""The kinds of hazardous statements: what each does while which lock is held. Layer 1: data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from playbook.records import Severity

__all__ = ["CANNOT_BE_READ", "ROWS_PER_S", "RULES", "STRONGER_SAME", "Rule"]

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

CANNOT_BE_READ = Rule(
    "moment",
    "",
    "What it does cannot be told from its text: it may block, break or destroy.",
    "Rehearse it on a copy; the comparison after the upgrade tells what it changed.",
    least=Severity.WARN,
)
"""A statement whose effect a body of code decides: the rule ``cannot-be-read``."""

STRONGER_SAME = {
    "constraint-missing-not-valid": (
        "disallowed-unique-constraint",
        "adding-foreign-key-constraint",
        "adding-serial-primary-key-field",
    )
}
"""Rules that say less than another one that squawk gives for the same statement."""
