"""After a failure: which way out is best, and why, from what is known of it. Layer 1: pure.

SQLSTATE tells whether the revision is at fault, the rows, or only the moment. Source of the
classes: PostgreSQL's documentation, appendix A, "PostgreSQL Error Codes".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from playbook.records import BackupManifest
from playbook.revisions import join

__all__ = ["Failure", "ways_out"]

MOMENT: Mapping[str, str] = {
    "55P03": "others held its locks",
    "40001": "it lost against another transaction",
    "40P01": "it was in a deadlock with another transaction",
    "57P01": "the server ended its session",
    "57P02": "the server crashed",
    "57P03": "the server was starting or stopping",
    "57P05": "the server ended its idle session",
    "25P03": "the server ended its idle transaction",
}
"""SQLSTATEs at which nothing is wrong with the revision: the same may go well the next time."""

MEND: Mapping[str, str] = {
    "22": "the rows do not fit it: correct them, or let the revision do so first",
    "23": "rows break what it asks of them: correct them, or let the revision do so first",
    "25": "the revision may not do this in a transaction: mend its file",
    "42": "the revision's SQL is wrong for this database: mend its file",
    "53": "the server is out of room, memory or connections: make some",
    "54": "it is too much for the server's limits: split the revision",
    "0A": "this server cannot do it: write the revision otherwise",
}
"""What to mend, by the class of the SQLSTATE."""
EXACTLY: Mapping[str, str] = {
    **dict.fromkeys(
        ("42701", "42710", "42723", "42P06", "42P07"),
        "something of that name is there already: find out whose it is, and remove it or let the "
        "revision do without",
    ),
    **dict.fromkeys(
        ("42703", "42704", "42883", "42P01", "3F000"),
        "what it builds on is not there: find out why, and make it or mend the file",
    ),
}
"""What to mend where the whole SQLSTATE tells more than its class."""
OTHER = "mend what the sentence names"


@dataclass(frozen=True)
class Failure:
    """What is known of a run that failed, where PostgreSQL rolled the revision back whole.

    ``began_at`` is where the run had begun, ``done`` how many revisions it had been through.
    ``is_alive`` is false if the connection or Alembic's process was lost, which no SQLSTATE tells;
    ``was_stopped`` true if somebody told the run to stop.
    """

    runbook: str
    sqlstate: str
    began_at: Sequence[str]
    done: int
    backup: BackupManifest | None
    is_alive: bool = True
    was_stopped: bool = False
    statement_timeout: str = ""


def ways_out(failure: Failure) -> list[str]:
    """Return the ways out in words, the best first; each names the runbook or command to use."""
    first = _again(failure)
    return [first, *_way_back(failure), *_restore(failure)]


def _again(failure: Failure) -> str:
    """Return under which condition to run it again: at once, or after something was mended."""
    again = f"run `{failure.runbook}` again"
    if failure.was_stopped:
        return f"to go on, {again}"
    if failure.sqlstate == "57014":
        if failure.statement_timeout:
            return (
                f"a statement took longer than statement_timeout={failure.statement_timeout}: "
                f"{again} with a longer one, or split the revision"
            )
        return f"somebody cancelled it: find out who, then {again}"
    if failure.sqlstate in MOMENT:
        return f"nothing is wrong with the revision, {MOMENT[failure.sqlstate]}: {again}"
    if failure.sqlstate.startswith("08") or not failure.is_alive:
        return f"nothing is wrong with the revision, the connection was lost: {again}"
    if failure.sqlstate == "42501":
        return f"the role lacks a privilege: have it granted, then {again}"
    mend = EXACTLY.get(failure.sqlstate) or MEND.get(failure.sqlstate[:2], OTHER)
    return f"{mend}, then {again}"


def _way_back(failure: Failure) -> list[str]:
    """Return how to go back to where the run began; none if it is there."""
    start = join(failure.began_at)
    if failure.runbook == "rollback":
        return [f"go forward with `upgrade` -r target {start}"]
    if not failure.done or not failure.began_at:
        return []
    return [f"go back with `rollback` -r target {start}"]


def _restore(failure: Failure) -> list[str]:
    """Return the backup that the run has taken, as the last resort, with how long it may take."""
    backup = failure.backup
    if backup is None or not failure.done:
        return []
    name, took = backup.directory.name, _restore_time(backup)
    return [f"restore the backup {name} ({took}), which loses what came since"]


def _restore_time(backup: BackupManifest) -> str:
    """Say how long restoring a backup takes: as measured, else as long as taking it did."""
    if (backup.restore_s or backup.duration_s) < 1:
        return "a second or two"
    if backup.restore_s:
        return f"{backup.restore_s:.0f} s, measured when it was proven by a restore"
    return f"about {backup.duration_s:.0f} s, as long as it took"
