"""The runbook `repair`: trouble with a version table, and its remedy. Layer 5; writes if told."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from playbook.catalog import table_names
from playbook.database import advisory_lock, connect
from playbook.diagnosis import find_troubles
from playbook.errors import GuardRefused, VerifyFailed
from playbook.evidence import Evidence
from playbook.index_repair import read_broken_indexes
from playbook.journal import Run
from playbook.mending import carry_out, script, write_file
from playbook.parameters import Common, one_of
from playbook.preflight import Question, check
from playbook.present import note, progress
from playbook.records import Banner, Checks, Note, Outcome, Severity
from playbook.remedies import NAMES, list_remedies, parse_revisions
from playbook.repairs import Diagnosis, Mended, Remedies, Remedy, SchemaMatches, VersionTable
from playbook.revision_files import RevisionFile
from playbook.revision_schemas import PLACES, compare_with_revisions, match, read_own_schema
from playbook.revisions import join
from playbook.schema_objects import Schema
from playbook.version_table import read_version_table as read_table

__all__ = [
    "Parameters",
    "check_again",
    "check_preflight",
    "compare_schemas",
    "conclude",
    "diagnose",
    "list_what_helps",
    "open_run",
    "read_version_table",
    "run_remedy",
    "show_target",
]

MENDED_HERE = frozenset({"version-table", "heads", "invalid-indexes", "last-run"})
"""Findings of a preflight that are this runbook's own subject."""
EFFECT, UNDO = "effect.sql", "undo.sql"


@dataclass(frozen=True)
class Parameters(Common):
    """The parameters of `repair`."""

    apply: str = ""
    confirm: str = ""
    revision: str = ""
    message: str = ""
    compare: bool = True
    place: str = "sandbox"


def open_run(namespace: Mapping[str, Any]) -> Run[Parameters]:
    """Check the parameters and connect, also where Alembic itself cannot start.

    Raises:
        SettingsError: a parameter, the target or the project cannot be used.
        CannotConnect: the server cannot be reached.
    """
    run = Run.open("repair", Parameters, namespace, tolerant=True)
    with run.closing_on_error():
        one_of("apply", run.parameters.apply, ("", *NAMES))
        one_of("place", run.parameters.place, PLACES)
    return run


def show_target(run: Run[Parameters]) -> Banner:
    """Return which database this is and what may be changed."""
    name = run.parameters.apply
    return run.banner(f"what the remedy {name!r} shows below" if name else "nothing")


def check_preflight(run: Run[Parameters]) -> Checks:
    """Return what would be in the way of a remedy; what is to be mended is told below.

    Raises:
        GuardRefused: a remedy was asked for and a finding says STOP, or a confirmation is missing.
    """
    run.forget("preflight")
    question = Question(graph=run.graph)
    findings = check(run.target, run.server, question).findings
    checks = Checks(tuple(one for one in findings if one.code not in MENDED_HERE))
    if run.parameters.apply:
        with run.recording_refusal():
            _check_confirmed(run)
            run.must_pass(checks)
    return run.keep("preflight", checks)


def _check_confirmed(run: Run[Parameters]) -> None:
    if run.target.protected and run.parameters.apply != "merge":
        run.must_be_confirmed(run.parameters.confirm)


def read_version_table(run: Run[Parameters]) -> VersionTable:
    """Return the version table as it stands in the catalogs, and others of its name."""
    with connect(run.target, read_only=True) as connection:
        return run.keep("table", read_table(connection, run.graph))


def compare_schemas(run: Run[Parameters]) -> SchemaMatches:
    """Return how the database's schema differs from that of each revision, built elsewhere.

    **Effects**: a scratch database meanwhile, in the sandbox or, with ``place=server``, beside the
    target; none on the target.
    """
    table = run.require("table", VersionTable)
    own = read_own_schema(run.target, _version_tables(table))
    run.keep("own", own)
    if not run.parameters.compare or not run.graph.revisions:
        why = (
            "The revision files cannot be loaded, so no schema could be built from them."
            if run.parameters.compare
            else "Nothing was compared, as compare is False."
        )
        return run.keep("matches", SchemaMatches("", remarks=(why,)))
    found = compare_with_revisions(
        run.target,
        run.graph,
        place=run.parameters.place,
        left_out=_version_tables(table),
        on_progress=progress,
    )
    return run.keep("matches", found)


def _version_tables(table: VersionTable) -> tuple[str, ...]:
    return (table.name, *(name for name, _ in table.others))


def diagnose(run: Run[Parameters]) -> Diagnosis:
    """Return what is wrong, the worst first, each with what mends it."""
    table, matches = run.require("table", VersionTable), run.require("matches", SchemaMatches)
    evidence = _evidence(run, table, matches, run.require("own", Schema))
    run.keep("evidence", evidence)
    return run.keep("diagnosis", Diagnosis(tuple(find_troubles(evidence))))


def _evidence(
    run: Run[Parameters], table: VersionTable, matches: SchemaMatches, own: Schema
) -> Evidence:
    with connect(run.target, read_only=True) as connection:
        names = table_names(connection)
        indexes = read_broken_indexes(connection)
    return Evidence(
        graph=run.graph,
        table=table,
        tables=tuple(name for name in names if name not in _version_tables(table)),
        indexes=indexes,
        matches=matches,
        files=_files(run),
        problems=run.problems,
        history=run.known_runs(),
        own=own,
    )


def _files(run: Run[Parameters]) -> tuple[RevisionFile, ...]:
    """Return the revision files by themselves, where a question depends on them."""
    if run.problems or run.graph.unknown or len(run.graph.heads) > 1:
        return run.alembic.files()
    return ()


def list_what_helps(run: Run[Parameters]) -> Remedies:
    """Return each remedy with its exact effect and the way back.

    Raises:
        GuardRefused: ``apply`` names a remedy that is none here.
        SettingsError: ``revision`` names none that there is.
    """
    evidence = run.require("evidence", Evidence)
    run.require("diagnosis", Diagnosis)
    found = _remedies(run, evidence)
    chosen = run.parameters.apply
    found = replace(found, chosen=chosen)
    if chosen and not any(one.name == chosen for one in found.items):
        names = ", ".join(one.name for one in found.items)
        with run.recording_refusal():
            raise GuardRefused(
                f"The remedy {chosen!r} does not fit: nothing that it mends was found, or where "
                "the database is must be decided first.",
                remedy=f"Read the diagnosis. There is: {names}." if names else "There is none.",
            )
    return run.keep("remedies", found)


def _remedies(run: Run[Parameters], evidence: Evidence) -> Remedies:
    with connect(run.target, read_only=True) as connection:
        return list_remedies(
            connection,
            evidence,
            run.alembic,
            revisions=parse_revisions(run.parameters.revision, evidence),
            message=run.parameters.message,
        )


def run_remedy(run: Run[Parameters]) -> Mended | Note:
    """Carry out the remedy that ``apply`` names, exactly as it was shown; a note without one.

    **Effects**: the remedy's statements, in one transaction where PostgreSQL allows, or its file;
    the receipt with ``effect.sql`` and ``undo.sql``; a row in ``playbook.history``.

    Raises:
        GuardRefused: something changed since the remedy was shown.
        MigrationFailed: a statement failed; the sentence says what stands.
    """
    run.must_be_first("mended")
    run.require("preflight", Checks)
    remedies = run.require("remedies", Remedies)
    if not remedies.chosen:
        return run.keep("mended", Note("Nothing was asked for, so nothing was changed."))
    remedy = next(one for one in remedies.items if one.name == remedies.chosen)
    began = time.monotonic()
    with run.recording_failure():
        _check_confirmed(run)
        if remedy.file:
            _write(run, remedy)
        else:
            _change(run, remedy)
    return run.keep(
        "mended",
        Mended(
            remedy.name, remedy.title, remedy.statements, remedy.undo, time.monotonic() - began,
            remedy.file.name if remedy.file else "",
        ),
    )  # fmt: skip


def _write(run: Run[Parameters], remedy: Remedy) -> None:
    evidence = run.require("evidence", Evidence)
    if _digests(run.alembic.files()) != _digests(evidence.files):
        raise GuardRefused(
            "The revision files changed since the remedy was shown.",
            remedy="Run the notebook's cells from the top.",
        )
    run.note(f"{remedy.name} begins", remedy=remedy.name, file=str(remedy.file))
    path = write_file(remedy)
    run.note(f"wrote {path.name}")


def _digests(files: tuple[RevisionFile, ...]) -> set[tuple[Path, str]]:
    return {(one.path, one.sha256) for one in files}


def _change(run: Run[Parameters], remedy: Remedy) -> None:
    """Run a remedy's statements while the run holds its lock, if all is as it was shown."""
    evidence = run.require("evidence", Evidence)
    with advisory_lock(run.target) as check_lock:
        _check_fits(run, evidence, remedy)
        database = run.server.database
        for name, statements, title in (
            (EFFECT, remedy.statements, remedy.title),
            (UNDO, remedy.undo, f"The way back from: {remedy.title}"),
        ):
            if statements:
                text = script(remedy, statements, title, database)
                (run.begin() / name).write_text(text, "utf-8")
        run.note(
            f"{remedy.name} begins",
            remedy=remedy.name,
            statements=list(remedy.statements),
            undo=list(remedy.undo),
            version_rows_before=list(evidence.table.rows),
        )
        run.settle_interrupted()
        run.write_history()
        carry_out(
            run.target,
            remedy,
            run.graph,
            evidence.table,
            lock_timeout=run.target.lock_timeout,
            check_lock=check_lock,
            on_done=lambda statement: _tell(run, statement),
        )
        rows = remedy.revisions
        changes = {} if rows is None else {"to_revisions": list(rows)}
        run.note(f"{remedy.name} done", **changes)


def _tell(run: Run[Parameters], statement: str) -> None:
    note(f"Done: {statement}")
    run.note(f"done: {statement}")


def _check_fits(run: Run[Parameters], evidence: Evidence, remedy: Remedy) -> None:
    """Refuse a remedy if the database is not as it was when it was shown."""
    with connect(run.target, read_only=True) as connection:
        table = read_table(connection, run.graph)
    own = read_own_schema(run.target, _version_tables(table))
    again = _evidence(run, table, evidence.matches, own)
    same = (table, own, again.indexes) == (evidence.table, evidence.own, evidence.indexes)
    if not same or remedy not in _remedies(run, again).items:
        raise GuardRefused(
            "The database changed since the remedy was shown, so it may not fit any more.",
            remedy="Run the notebook's cells from the top, and read the diagnosis again.",
        )


def check_again(run: Run[Parameters]) -> Diagnosis | Note:
    """Return the diagnosis after the remedy, against the same schemas; a note if none was applied.

    Raises:
        VerifyFailed: the version table does not hold what the remedy was to write.
    """
    mended = run.require("mended", object)
    if isinstance(mended, Note):
        return run.keep("after", Note("Nothing was changed, so nothing is looked at again."))
    evidence, remedies = run.require("evidence", Evidence), run.require("remedies", Remedies)
    remedy = next(one for one in remedies.items if one.name == remedies.chosen)
    with run.recording_failure():
        run.read_anew(files=bool(remedy.file or run.problems))
        table = read_version_table(run)
        own = read_own_schema(run.target, _version_tables(table))
        schemas = [(one.revisions, one.schema) for one in evidence.matches.matches]
        old = evidence.matches
        matches = match(own, schemas, where=old.where, remarks=old.remarks) if schemas else old
        after = _evidence(run, table, matches, own)
        wanted = remedy.revisions
        if wanted is not None and sorted(table.rows) != sorted(wanted):  # type: ignore[type-var]
            raise VerifyFailed(
                f"{table.name} holds {table.rows}, not {join(wanted)}.",
                remedy="Somebody else writes to it: run `repair` again.",
            )
    return run.keep("after", Diagnosis(tuple(find_troubles(after))))


def conclude(run: Run[Parameters]) -> Outcome:
    """Write the outcome to the receipt and the history, and return it."""
    diagnosis, mended = run.require("diagnosis", Diagnosis), run.require("mended", object)
    after = run.require("after", object)
    troubles = [one for one in diagnosis.findings if one.severity is not Severity.OK]
    if isinstance(mended, Mended) and isinstance(after, Diagnosis):
        return _mended(run, mended, after)
    if not troubles:
        return run.outcome(
            "succeeded",
            diagnosis.findings[0].detail,
            unchanged=("everything: no remedy was asked for",),
            next_steps=("`status` shows what is pending.",),
        )
    names = ", ".join(dict.fromkeys(one.code for one in troubles))
    return run.outcome(
        "succeeded",
        f"Found: {names}. Nothing was changed.",
        unchanged=("everything: no remedy was asked for",),
        next_steps=tuple(f"{one.subject}: {one.remedy}" for one in troubles),
    )


def _mended(run: Run[Parameters], mended: Mended, after: Diagnosis) -> Outcome:
    left = [one for one in after.findings if one.severity is not Severity.OK]
    message = f"The remedy {mended.remedy!r} was applied to {run.server.database}."
    run.finish("succeeded", message)
    back = f"The way back: delete {mended.file}, before anybody applies it."
    if not mended.file:
        back = f"The way back: psql -f {run.directory.name}/{UNDO}, or the statements above."
    if not mended.file and not mended.undo:
        back = "There is nothing to come back to: what it replaced was of no use."
    return run.outcome(
        "succeeded",
        message,
        changed=(mended.title,),
        unchanged=() if mended.file else ("every row of the application's tables",),
        next_steps=(
            back,
            *(f"Still: {one.subject}: {one.detail} {one.remedy}" for one in left),
            "`status` shows what is pending.",
        ),
        files=tuple(path for name in (EFFECT, UNDO) if (path := run.directory / name).exists()),
    )
