"""The chain of hashes: what it is over, and that it breaks at what was changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from playbook.chain import added_up, change, find_tampering, seal
from playbook.records import LogEntry, Receipt

START = datetime(2026, 1, 1, tzinfo=UTC)
STATES: list[dict[str, Any]] = [
    {"run_id": "r", "who": "ana", "outcome": "running", "steps": []},
    {"run_id": "r", "who": "ana", "outcome": "running", "steps": [{"revision": "a"}]},
    {"run_id": "s", "who": "bob", "outcome": "refused", "steps": []},
    {"run_id": "r", "who": "ana", "outcome": "succeeded", "steps": [{"revision": n} for n in "ab"]},
]
ROWS: dict[str, Mapping[str, Any]] = {"r": STATES[3], "s": STATES[2]}


def chained(states: Sequence[Mapping[str, Any]]) -> list[LogEntry]:
    """Return the log of some rows' states, as it is written."""
    log: list[LogEntry] = []
    before: dict[str, Mapping[str, Any]] = {}
    for number, state in enumerate(states, 1):
        record = change(before.get(state["run_id"], {}), state)
        before[state["run_id"]] = state
        previous = log[-1].sha256 if log else ""
        at = START + timedelta(seconds=number)
        sha256 = seal(number, at, state["run_id"], record, previous)
        log.append(LogEntry(number, at, state["run_id"], record, previous, sha256))
    return log


LOG = chained(STATES)


def receipt(run_id: str, sha256: str) -> Receipt:
    return Receipt(
        run_id=run_id, runbook="upgrade", target="t", database="d", outcome="succeeded",
        started_at=START, finished_at=None, who="ana", from_revisions=(), to_revisions=(),
        steps=(), backup="", revision_files=(), message="", directory=Path(),
        history_sha256=sha256,
    )  # fmt: skip


def found(
    log: Sequence[LogEntry] = LOG,
    rows: Mapping[str, Mapping[str, Any]] = ROWS,
    receipts: Sequence[Receipt] = (),
) -> list[tuple[str, str]]:
    return [(one.subject, one.detail) for one in find_tampering(log, rows, receipts)]


def test_seal_is_what_the_docstring_says() -> None:
    at = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    text = '["before",7,"2026-01-01T00:00:00.000000+00:00","r",{"a":"\\u00e9","b":1}]'

    assert json.loads(text)[4] == {"a": "é", "b": 1}
    assert (
        seal(7, at, "r", {"b": 1, "a": "é"}, "before") == hashlib.sha256(text.encode()).hexdigest()
    )


def test_entries_hold_what_changed_and_add_up_to_the_row() -> None:
    own = [entry for entry in LOG if entry.run_id == "r"]

    assert [entry.record.get("steps") for entry in own] == [
        [], [{"revision": "a"}], [{"revision": "b"}],
    ]  # fmt: skip
    assert "who" not in own[1].record
    assert added_up(own) == STATES[3]


def test_untouched_log_has_nothing_to_report() -> None:
    receipts = [receipt("r", LOG[1].sha256), receipt("s", LOG[2].sha256), receipt("local", "")]

    assert found(receipts=receipts) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"record": {"who": "eve"}}, {"run_id": "s"}, {"at": START}, {"sha256": "0" * 64},
    ],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_changed_entry_is_named(changed: dict[str, Any]) -> None:
    log = [LOG[0], replace(LOG[1], **changed), *LOG[2:]]

    assert found(log)[0] == (f"entry 2, of {log[1].run_id}", "It is not as it was written.")


def test_entry_that_was_changed_and_sealed_again_breaks_the_next() -> None:
    forged = replace(LOG[1], record={"who": "eve"})
    sha256 = seal(forged.number, forged.at, forged.run_id, forged.record, forged.previous)
    log = [LOG[0], replace(forged, sha256=sha256), *LOG[2:]]

    subject, detail = found(log)[0]

    assert subject == "entry 3, of s"
    assert "after another entry than the one before it" in detail


@pytest.mark.parametrize(
    ("gone", "subject", "says"),
    [
        ({1}, "entry 2, of r", "Entries 1 to 1 are missing"),
        ({2, 3}, "entry 4, of r", "Entries 2 to 3 are missing"),
        ({4}, "r", "playbook.history tells another outcome, steps than playbook.log"),
    ],
)
def test_entry_that_was_taken_out_is_missed(gone: set[int], subject: str, says: str) -> None:
    first = found([entry for entry in LOG if entry.number not in gone])[0]

    assert first[0] == subject
    assert says in first[1]


def test_two_entries_of_one_number_are_a_fork() -> None:
    fork = [*LOG[:2], LOG[1], *LOG[2:]]

    assert found(fork)[0] == ("entry 2, of r", "There is another one of this number.")


def test_rows_that_the_log_tells_otherwise_are_named_with_what_differs() -> None:
    rows = {"r": {**STATES[3], "who": "eve", "backup": "new column"}, "forged": STATES[3]}

    differs, lost, forged = found(rows=rows)

    assert differs == ("r", "playbook.history tells another who than playbook.log.")
    assert lost == ("s", "playbook.log has it, but playbook.history does not.")
    assert forged[0] == "forged"
    assert "playbook.log does not: it was written by hand, or by an older playbook" in forged[1]


def test_log_that_was_made_anew_as_a_whole_is_told_by_a_receipt() -> None:
    states = [{**state, "who": "eve"} if state["run_id"] == "r" else state for state in STATES]
    log = chained(states)
    rows: dict[str, Mapping[str, Any]] = {"r": states[3], "s": states[2]}

    assert found(log, rows) == []
    ((subject, detail),) = found(log, rows, [receipt("r", LOG[3].sha256)])
    assert subject == "r"
    assert "the log was written anew, or the database was put back" in detail
