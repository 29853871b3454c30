"""The chain of hashes in ``playbook.log``, and what breaks it. Layer 1: pure.

Each entry is sealed with a SHA-256 over its content and the seal of the entry before it, so that
no entry can be changed, put in or taken out without all later ones being made anew. Who makes
all anew is told by the receipts, which keep the seal of the last entry that their run wrote.
The rows of ``playbook.history`` must be what the entries of each run add up to.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from playbook.records import Finding, LogEntry, Receipt, Severity

__all__ = ["added_up", "change", "find_tampering", "seal"]

Row = Mapping[str, Any]
"""A row of ``playbook.history`` as PostgreSQL's to_jsonb() gives it."""


def seal(number: int, at: datetime, run_id: str, record: Row, previous: str) -> str:
    """Return the SHA-256 of an entry, hexadecimal.

    It is over the JSON array ``[previous, number, at, run_id, record]``: keys sorted, no blanks,
    other than ASCII escaped, the time in UTC with six decimals.
    """
    moment = at.astimezone(UTC).isoformat(timespec="microseconds")
    content = [previous, number, moment, run_id, record]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def change(before: Row, after: Row) -> dict[str, Any]:
    """Return what an entry records of a row's new state: the columns that changed.

    Of ``steps`` it is those that were added: a run of a thousand revisions would otherwise
    write each of them a thousand times.
    """
    record = {name: value for name, value in after.items() if before.get(name, _NONE) != value}
    if "steps" in record:
        record["steps"] = after["steps"][len(before.get("steps", ())) :]
    return record


_NONE = object()


def added_up(entries: Sequence[LogEntry]) -> dict[str, Any]:
    """Return the row that the entries of one run, in their order, add up to."""
    row: dict[str, Any] = {"steps": []}
    for entry in entries:
        row |= {**entry.record, "steps": [*row["steps"], *entry.record.get("steps", ())]}
    return row


def find_tampering(
    log: Sequence[LogEntry], rows: Mapping[str, Row], receipts: Sequence[Receipt]
) -> tuple[Finding, ...]:
    """Return what was changed other than by a run, the first entry first; nothing if all is whole.

    Args:
        log: all entries, by number.
        rows: all rows of ``playbook.history`` by run, seen in the same moment.
        receipts: those of runs on this database, read before.
    """
    entries: dict[str, list[LogEntry]] = defaultdict(list)
    for entry in log:
        entries[entry.run_id].append(entry)
    return (*_broken_links(log), *_changed_rows(entries, rows), *_lost_entries(entries, receipts))


def _broken_links(log: Sequence[LogEntry]) -> Iterator[Finding]:
    number, previous = 0, ""
    for entry in log:
        subject = f"entry {entry.number}, of {entry.run_id}"
        if entry.number <= number:
            yield _changed(subject, "There is another one of this number.")
        elif entry.number > number + 1:
            yield _changed(subject, f"Entries {number + 1} to {entry.number - 1} are missing.")
        elif entry.previous != previous:
            yield _changed(subject, "It was written after another entry than the one before it.")
        content = (entry.number, entry.at, entry.run_id, entry.record, entry.previous)
        if seal(*content) != entry.sha256:
            yield _changed(subject, "It is not as it was written.")
        number, previous = entry.number, entry.sha256


def _changed_rows(
    entries: Mapping[str, Sequence[LogEntry]], rows: Mapping[str, Row]
) -> Iterator[Finding]:
    for run_id, written in entries.items():
        if run_id not in rows:
            yield _changed(run_id, "playbook.log has it, but playbook.history does not.")
            continue
        expected = added_up(written)
        differing = [name for name in expected if expected[name] != rows[run_id].get(name)]
        if differing:
            names = ", ".join(sorted(differing))
            yield _changed(run_id, f"playbook.history tells another {names} than playbook.log.")
    for run_id in rows:
        if run_id not in entries:
            yield _changed(
                run_id,
                "playbook.history has it, but playbook.log does not: it was written by hand, or "
                "by an older playbook.",
            )


def _lost_entries(
    entries: Mapping[str, Sequence[LogEntry]], receipts: Sequence[Receipt]
) -> Iterator[Finding]:
    for receipt in reversed(receipts):
        known = {entry.sha256 for entry in entries.get(receipt.run_id, ())}
        if receipt.history_sha256 and receipt.history_sha256 not in known:
            yield _changed(
                receipt.run_id,
                "Its receipt knows an entry that playbook.log does not have: the log was written "
                "anew, or the database was put back to an earlier state.",
            )


def _changed(subject: str, detail: str) -> Finding:
    return Finding(
        "history",
        Severity.WARN,
        subject,
        detail,
        "Compare it with the receipts and backups there are, and find out who may write to the "
        "schema playbook.",
    )
