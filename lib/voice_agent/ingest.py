"""The runbook `ingest`: a folder of documents into a corpus. Writes.

Files are read in worker processes (`reading`) and written batch by batch (`importing`,
`corpora`); what the run added or replaced can be taken out again (`undo`). A file that was
imported from the same path before, and has not changed, is not read beyond its hash: a run that
was stopped is gone on with by starting it again. What has gone from the folder stays.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection

from playbook.database import (
    advisory_lock,
    connect,
    fetch,
)
from playbook.documents import FileReports, FolderSurvey, Imported
from playbook.errors import DatabaseError, MigrationStopped, SettingsError, VerifyFailed
from playbook.execution import save_backup
from playbook.formats import count, short_path
from playbook.journal import Run
from playbook.parameters import Common
from playbook.present import progress
from playbook.records import BackupManifest, Banner, Checks, Note, Outcome
from playbook.targets import parse_duration_s
from voice_agent.corpora import Corpus, Writer
from voice_agent.import_checks import (
    check_tables,
    choose_corpus,
    corpus_finding,
    other_run_finding,
    privileges_finding,
)
from voice_agent.importing import REPORT, Reports, import_folder, survey
from voice_agent.reading import Limits, Splitting
from voice_agent.undo import SCRIPT, Undo

__all__ = [
    "Parameters",
    "check_documents",
    "check_preflight",
    "conclude",
    "list_reports",
    "open_run",
    "run_import",
    "show_target",
    "survey_folder",
    "take_backup",
]

SAMPLE = Path(__file__).with_name("sample_documents")
"""What is imported if no folder is named."""
SMALLEST_CHUNK, LARGEST_CHUNK = 50, 100_000
LARGEST_FILE_MB = 500
GO_ON = (
    "To go on where it stopped, run `ingest` again on the same folder; to take it out, run "
    f"{SCRIPT} of the run's folder."
)
MOST_WORKERS = 32

READ_BACK = """
SELECT count(*), coalesce(sum(c.chunks), 0)::bigint,
       count(*) FILTER (WHERE d.content_sha256
                        <> encode(sha256(convert_to(d.content, 'UTF8')), 'hex')),
       count(*) FILTER (WHERE c.chunks = 0 OR c.last <> c.chunks - 1)
FROM rag_documents AS d CROSS JOIN LATERAL (
    SELECT count(*) AS chunks, max(chunk_index) AS last FROM rag_chunks WHERE document_id = d.id
) AS c
WHERE d.corpus_id = %s AND d.attributes ->> 'ingest_run' = %s
"""


@dataclass(frozen=True)
class Parameters(Common):
    """The parameters of `ingest`."""

    documents: str = ""
    corpus: str = "default"
    owner: str = ""
    chunk_size: int = 800
    chunk_overlap: int = 100
    max_file_mb: int = 50
    file_timeout: str = "30s"
    jobs: int = 0
    dry_run: bool = False
    confirm: str = ""


def open_run(namespace: Mapping[str, Any]) -> Run[Parameters]:
    """Check the parameters and connect; raises as `playbook.journal.Run.open` does."""
    run = Run.open("ingest", Parameters, namespace)
    with run.closing_on_error():
        parameters = run.parameters
        _within("chunk_size", parameters.chunk_size, SMALLEST_CHUNK, LARGEST_CHUNK)
        _within("chunk_overlap", parameters.chunk_overlap, 0, parameters.chunk_size // 2)
        _within("max_file_mb", parameters.max_file_mb, 1, LARGEST_FILE_MB)
        _within("jobs", parameters.jobs, 0, MOST_WORKERS)
        parse_duration_s(parameters.file_timeout, name="file_timeout")
        if not parameters.corpus.strip():
            raise SettingsError("corpus is empty.", remedy="Write -r corpus NAME.")
        run.keep("folder", _folder(run))
    return run


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise SettingsError(
            f"{name}={value} is not between {least:,} and {most:,}.",
            remedy=f"Write -p {name} NUMBER.",
        )


def _folder(run: Run[Parameters]) -> Path:
    """Return the folder to import, as an absolute path without links."""
    given = run.parameters.documents
    folder = Path(given)
    try:
        folder = (run.resolve_path(given) if given else SAMPLE).resolve()
        problem = "" if folder.is_dir() else "is no folder" if folder.exists() else "does not exist"
    except (OSError, RuntimeError) as error:  # too long, a circle of links, nobody's home
        problem = f"cannot be a folder ({type(error).__name__})"
    if problem:
        raise SettingsError(
            f"documents: {folder} {problem}.", remedy="Write -r documents PATH, a folder's."
        )
    if not os.access(folder, os.R_OK | os.X_OK):
        raise SettingsError(
            f"documents: {folder} may not be read by this user.",
            remedy="Ask for the right to read it, or name another folder by -r documents PATH.",
        )
    return folder


def show_target(run: Run[Parameters]) -> Banner:
    """Return which database this is and what will be written to it."""
    if run.parameters.dry_run:
        return run.banner("nothing: this is a dry run")
    return run.banner(
        f"documents and chunks of the corpus {run.parameters.corpus!r}, and a row in "
        "playbook.history"
    )


def check_preflight(run: Run[Parameters]) -> Checks:
    """Find the corpus and its owner, and ask whether anything is in the way.

    Raises:
        GuardRefused: the database has no tables for documents, there are several such corpora or
            no owner, the target is protected and not confirmed, or a check says STOP.
    """
    run.forget("preflight")
    with run.recording_refusal(), connect(run.target, read_only=True) as connection:
        check_tables(run, connection)
        corpus = choose_corpus(run, connection)
        if run.target.protected and not run.parameters.dry_run:
            run.must_be_confirmed(run.parameters.confirm)
        checks = Checks(
            (
                corpus_finding(corpus),
                privileges_finding(connection),
                other_run_finding(connection),
            )
        )
        run.must_pass(checks)
    run.keep("corpus", corpus)
    return run.keep("preflight", checks)


def survey_folder(run: Run[Parameters]) -> FolderSurvey:
    """Return what lies in the folder; no file is read."""
    folder = run.require("folder", Path)
    name = short_path(folder, 2) if run.parameters.documents else folder.name
    return run.keep("survey", survey(folder, name))


def take_backup(run: Run[Parameters]) -> BackupManifest | Note:
    """Take a backup of a protected target; elsewhere the run's own undo is enough.

    Raises:
        BackupFailed: there is none now; nothing was changed.
    """
    run.require("preflight", Checks)
    if run.target.protected and not run.parameters.dry_run:
        return save_backup(run)
    why = "this is a dry run" if run.parameters.dry_run else "undo.sql takes out what is added"
    return run.keep("backup", Note(f"No backup was taken: {why}."))


def run_import(run: Run[Parameters]) -> Imported:
    """Import the folder, batch by batch, each in a transaction of its own.

    **Effects**: documents (status ``pending``) and chunks, without embeddings; the corpus, if
    there is none; a newer version of a file takes the place of the older, which is saved to the
    run's folder first. Holds the playbook's advisory lock meanwhile. Whatever ends the run, each
    document is there with all its chunks or not at all.

    Raises:
        GuardRefused: an earlier step is missing, or the database moved.
        MigrationStopped: it was interrupted; what was committed stands.
        DatabaseError: the server refused a batch; those before it stand.
    """
    run.must_be_first("imported")
    for step, kind in (("corpus", Corpus), ("survey", FolderSurvey), ("preflight", Checks)):
        run.require(step, kind)
    run.require("backup", object)
    if run.parameters.dry_run:
        return run.keep("imported", _import(run, lambda: None))
    with run.recording_failure(), advisory_lock(run.target) as check_lock:
        run.same_place()
        run.begin()
        run.note("import begins", documents=_marker_of(run))
        run.settle_interrupted()
        run.write_history()
        done = _import(run, check_lock)
        run.note("import complete", documents={**_marker_of(run), **_counts(done)})
    return run.keep("imported", done)


def _marker_of(run: Run[Parameters]) -> dict[str, Any]:
    """Return what the receipt says of the documents that this run adds: how to find them."""
    return {
        "corpus": run.require("corpus", Corpus).name,
        "found_by": {"attributes ->> 'ingest_run'": run.directory.name},
        "undo": SCRIPT,
    }


def _counts(done: Imported) -> dict[str, int]:
    names = ("documents", "chunks", "replaced", "duplicates", "unchanged", "skipped")
    return {name: getattr(done, name) for name in names}


def _import(run: Run[Parameters], check_lock: Callable[[], None]) -> Imported:
    corpus = run.require("corpus", Corpus)
    folder = run.require("folder", Path)
    writes = not run.parameters.dry_run
    marker = run.directory.name if writes else ""
    so_far: deque[Imported] = deque(maxlen=1)

    def undo_of(made: Corpus) -> Callable[[Connection, Sequence[int]], None] | None:
        undo = Undo(run.directory, marker, made, made_corpus=not corpus.id) if writes else None
        return undo.save if undo else None

    try:
        with (
            connect(run.target, autocommit=False) as connection,
            Reports(run.directory / REPORT if writes else None) as reports,
        ):
            writer = Writer(connection, corpus, marker)
            run.keep("corpus", writer.begin(undo_of))
            done = import_folder(
                folder,
                run.require("survey", FolderSurvey),
                writer,
                reports,
                splitting=_splitting(run, corpus),
                limits=_limits(run.parameters),
                before_batch=check_lock,
                on_progress=progress,
                done=so_far.append,
            )
            run.keep("reports", reports)
    except KeyboardInterrupt:
        raise MigrationStopped(
            "The import was told to stop.", state=_standing(so_far), remedy=GO_ON
        ) from None
    except DatabaseError as error:
        raise type(error)(
            error.problem, state=_standing(so_far), remedy=GO_ON, sqlstate=error.sqlstate
        ) from error
    return done


def _splitting(run: Run[Parameters], corpus: Corpus) -> Splitting:
    return Splitting(run.parameters.chunk_size, run.parameters.chunk_overlap, corpus.model)


def _limits(parameters: Parameters) -> Limits:
    return Limits(
        size_bytes=parameters.max_file_mb << 20,
        time_s=parse_duration_s(parameters.file_timeout, name="file_timeout"),
        workers=parameters.jobs or min(os.cpu_count() or 1, 4),
    )


def _standing(so_far: Sequence[Imported]) -> str:
    """Say what an import that did not end has left."""
    done = so_far[-1] if so_far else None
    if not done or not done.documents:
        return "No document was added."
    return (
        f"{count(done.documents, 'document')} with {count(done.chunks, 'chunk')} are in the "
        "corpus and stand, each of them whole."
    )


def list_reports(run: Run[Parameters]) -> FileReports:
    """Return the files that were not simply imported: skipped, duplicates, newer versions."""
    run.require("imported", Imported)
    return run.require("reports", Reports).record()


def check_documents(run: Run[Parameters]) -> Note:
    """Count what this run added in the database, and prove the hash of each text there.

    Raises:
        VerifyFailed: it is not what was imported.
    """
    done = run.require("imported", Imported)
    if done.dry_run:
        return run.keep("checked", Note("Nothing was imported, so nothing is checked."))
    corpus = run.require("corpus", Corpus)
    with connect(run.target, read_only=True) as connection:
        documents, chunks, wrong, gaps = fetch(connection, READ_BACK, (corpus.id, done.marker))[0]
    if (documents, chunks, wrong, gaps) != (done.documents, done.chunks, 0, 0):
        error = VerifyFailed(
            f"The corpus holds {count(documents, 'document')} and {count(chunks, 'chunk')} of this "
            f"run, {wrong} with another text than their hash says, {gaps} with chunks missing; "
            f"imported were {done.documents:,} and {done.chunks:,}.",
            state="What was imported stands.",
            remedy=f"Somebody may have changed them; {SCRIPT} of the run's folder takes them out.",
        )
        run.finish("failed", str(error))
        raise error
    return run.keep(
        "checked",
        Note(
            f"The database holds {count(documents, 'document')} and {count(chunks, 'chunk')} of "
            "this run: every text has its hash, every document all its chunks."
        ),
    )


def conclude(run: Run[Parameters]) -> Outcome:
    """Write the outcome to the receipt and the history, and return it."""
    done = run.require("imported", Imported)
    run.require("checked", Note)
    if done.dry_run:
        return run.outcome(
            "succeeded",
            f"{_sentence(done, 'would be')}: this is a dry run.",
            unchanged=("everything",),
            next_steps=("Without dry_run, `ingest` imports them.",),
        )
    message = f"{_sentence(done, 'were')}."
    run.finish("succeeded", message)
    files = (run.directory / REPORT, run.directory / SCRIPT)
    known = done.duplicates + done.unchanged
    return run.outcome(
        "succeeded",
        message,
        changed=_changed(done),
        unchanged=(f"{count(known, 'file')} whose text was there already",) if known else (),
        next_steps=(
            f"To undo it: `psql -X -f {SCRIPT}` in the run's folder, on this database. It saves "
            "what it deletes to files first.",
            "The new documents are pending: compute their chunks' embeddings, then mark them "
            "ready.",
        ),
        files=files,
    )


def _sentence(done: Imported, verb: str) -> str:
    """Say what was added and how much was skipped, which does not fail a run."""
    documents = f"{count(done.documents, 'document')} with {count(done.chunks, 'chunk')}"
    skipped = f" (skipped: {count(done.skipped, 'file')})" if done.skipped else ""
    return f"{documents.capitalize()} {verb} added to the corpus {done.corpus}{skipped}"


def _changed(done: Imported) -> tuple[str, ...]:
    changed = []
    if done.documents:
        changed.append(
            f"{count(done.documents, 'document')} added; their attributes ->> 'ingest_run' says "
            f"{done.marker}"
        )
    if done.replaced:
        older = count(done.replaced, "older version")
        changed.append(f"{older} taken out, with their chunks; {SCRIPT} puts them back")
    return tuple(changed)
