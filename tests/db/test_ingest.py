"""The runbook `ingest` on a real database: what it adds, leaves, replaces, and takes out again."""

from __future__ import annotations

import csv
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest

from documents import encrypted_pdf, pdf
from playbook import sandbox
from playbook.database import advisory_lock, connect, fetch, fetch_value, lock_holder
from playbook.documents import FileReports, FolderSurvey, Imported
from playbook.errors import GuardRefused, MigrationStopped, SettingsError, TargetBusy, VerifyFailed
from playbook.postgres_files import client_directory
from playbook.receipts import read_receipt
from playbook.targets import Target, load_target
from steps import Namespace, go, picture
from voice_agent import corpora, importing, ingest

DRIVER = """
import json, sys
sys.path[:0] = json.loads(sys.argv[2])
from steps import go
from voice_agent import importing, ingest
importing.BATCH_DOCUMENTS = 50
if __name__ == "__main__":
    go(ingest, json.loads(sys.argv[1]))
"""
DOCUMENTS = """
SELECT d.title, d.source_uri, d.media_type, d.content, d.status, count(k.id), max(k.chunk_index)
FROM rag_documents AS d JOIN rag_corpora AS c ON c.id = d.corpus_id
LEFT JOIN rag_chunks AS k ON k.document_id = d.id
WHERE c.name = %s GROUP BY d.id ORDER BY d.source_uri, d.id
"""
ROWS = """
SELECT d.*, k.id AS chunk, k.chunk_index, k.content AS text, k.tokens, k.embedding
FROM rag_documents AS d LEFT JOIN rag_chunks AS k ON k.document_id = d.id
WHERE d.corpus_id = (SELECT id FROM rag_corpora WHERE name = %s) ORDER BY d.id, k.id
"""
EMBED = """
UPDATE rag_chunks SET embedding = '{1,2}' WHERE document_id IN (
    SELECT id FROM rag_documents WHERE corpus_id = (SELECT id FROM rag_corpora WHERE name = %s))
"""


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    """A database at head with the sample's users, corpora and documents, for all tests here."""
    made = load_target(f"sandbox:test_{secrets.token_hex(6)}")
    try:
        yield sandbox.open_target(made, state="head")
    finally:
        sandbox.drop_database(made)


@pytest.fixture
def corpus() -> str:
    """A corpus of the test's own."""
    return f"corpus {secrets.token_hex(4)}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with four documents; none is a PDF, whose reader takes long to load."""
    made = tmp_path / "documents"
    (made / "deep/er").mkdir(parents=True)
    (made / "a.txt").write_text("alpha\n\n" + "words of the text " * 200)
    (made / "b.md").write_text("# The title\n\nbeta")
    (made / "deep/c.html").write_text("<title>Gamma</title><p>gamma</p>")
    (made / "deep/er/d.txt").write_text("delta")
    return made


@pytest.fixture
def namespace(target: Target, folder: Path, corpus: str, tmp_path: Path) -> Namespace:
    """The parameters of an import of that folder into that corpus."""
    return {
        "database": target.name, "documents": str(folder), "corpus": corpus, "jobs": 1,
        "output_dir": str(tmp_path / "runs"),
    }  # fmt: skip


def stop_at(namespace: Namespace, **parameters: Any) -> Any:
    """Take all steps but the last, and return the run."""
    return go(ingest, namespace, before="conclude", **parameters)


def take(namespace: Namespace, **parameters: Any) -> tuple[Imported, FileReports]:
    """Take all steps, and return what was imported and what was not."""
    run = stop_at(namespace, **parameters)
    records = run.require("imported", Imported), ingest.list_reports(run)
    assert ingest.conclude(run).outcome == "succeeded"
    return records


def rows(target: Target, query: str, *values: object) -> list[tuple[Any, ...]]:
    with connect(target, read_only=True) as connection:
        return fetch(connection, query, values)


def documents(target: Target, corpus: str) -> list[tuple[Any, ...]]:
    return rows(target, DOCUMENTS, corpus)


def told(reports: FileReports) -> dict[str, tuple[str, str]]:
    return {report.name: (report.fate, report.reason) for report in reports.first}


def folders(namespace: Namespace) -> list[Path]:
    """Return the runs' folders, the oldest first."""
    made = Path(namespace["output_dir"]).iterdir()
    return sorted(made, key=lambda folder: read_receipt(folder).started_at)


def undo(target: Target, folder: Path) -> None:
    """Run a run's undo.sql as its outcome says."""
    done = subprocess.run(
        [client_directory() / "psql", "-X", "-q", "-f", "undo.sql"], cwd=folder,
        env=os.environ | target.libpq_variables(), capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_kind_of_document_arrives_whole_and_pending(
    target: Target, namespace: Namespace, corpus: str, folder: Path
) -> None:
    (folder / "deep/er/d.pdf").write_bytes(pdf("page", title="Delta"))

    done, reports = take(namespace)

    found = documents(target, corpus)
    assert (done.documents, done.skipped, reports.tally) == (5, 0, ())
    assert [row[0] for row in found] == ["a", "The title", "Gamma", "Delta", "d"]
    assert found[0][1] == (folder / "a.txt").as_uri()
    assert [row[2] for row in found] == [
        "text/plain", "text/markdown", "text/html", "application/pdf",
        "text/plain",
    ]  # fmt: skip
    assert {row[4] for row in found} == {"pending"}
    assert found[0][5] > 3
    assert all(row[5] == row[6] + 1 for row in found)
    assert sum(row[5] for row in found) == done.chunks


def test_the_receipt_and_the_history_name_the_documents_that_were_added(
    target: Target, namespace: Namespace, corpus: str
) -> None:
    take(namespace)

    (folder,) = folders(namespace)
    record = json.loads((folder / "receipt.json").read_text())
    # Of this corpus: in the same second another test's run, in another folder, has the same name.
    query = (
        "SELECT count(*) FROM rag_documents AS d JOIN rag_corpora AS c ON c.id = d.corpus_id "
        "WHERE d.attributes ->> 'ingest_run' = %s AND c.name = %s"
    )
    assert record["outcome"] == "succeeded"
    assert record["documents"]["documents"] == 4
    assert record["documents"]["found_by"] == {"attributes ->> 'ingest_run'": folder.name}
    assert rows(target, query, folder.name, corpus) == [(4,)]
    assert rows(target, "SELECT outcome FROM playbook.history WHERE run_id = %s", folder.name) == [
        ("succeeded",)
    ]


def test_a_second_run_finds_everything_unchanged(
    target: Target, namespace: Namespace, corpus: str
) -> None:
    take(namespace)
    before = rows(target, ROWS, corpus)

    done, _ = take(namespace, chunk_size=300)

    assert (done.documents, done.unchanged, done.duplicates) == (0, 4, 0)
    assert rows(target, ROWS, corpus) == before


def test_duplicates_are_told_by_their_text_also_of_another_kind(
    target: Target, namespace: Namespace, corpus: str, folder: Path
) -> None:
    (folder / "deep/copy.txt").write_bytes((folder / "a.txt").read_bytes())
    (folder / "same.html").write_text("<html><body>\n<div> gamma </div>")

    done, reports = take(namespace)

    assert (done.documents, done.duplicates) == (4, 2)
    assert told(reports) == {
        "deep/copy.txt": ("duplicate", "has the same text as a.txt"),
        "same.html": ("duplicate", "has the same text as deep/c.html"),
    }


def test_a_changed_file_takes_the_place_of_its_older_version(
    target: Target, namespace: Namespace, corpus: str, folder: Path
) -> None:
    take(namespace)
    kept = [row for row in documents(target, corpus) if row[0] != "The title"]
    (folder / "b.md").write_text("# The title\n\nbeta, and more")

    done, reports = take(namespace)

    assert (done.documents, done.replaced, done.unchanged) == (1, 1, 3)
    assert told(reports)["b.md"][0] == "replaced"
    now = documents(target, corpus)
    assert [row for row in now if row[0] != "The title"] == kept
    assert [row[3] for row in now if row[0] == "The title"] == ["# The title\n\nbeta, and more"]


def test_a_file_whose_bytes_changed_and_whose_text_did_not_stays(
    target: Target, namespace: Namespace, corpus: str, folder: Path
) -> None:
    take(namespace)
    before = rows(target, ROWS, corpus)
    (folder / "deep/c.html").write_text("<title>Gamma</title>\n\n<p>gamma</p>")
    (folder / "copy.txt").write_text("gamma")

    done, _ = take(namespace)

    assert (done.documents, done.replaced, done.unchanged, done.duplicates) == (0, 0, 4, 1)
    assert rows(target, ROWS, corpus) == before


def test_a_file_that_now_says_what_another_says_leaves_no_stale_text(
    target: Target, namespace: Namespace, corpus: str, folder: Path
) -> None:
    take(namespace)
    (folder / "b.md").write_text("gamma")

    done, _ = take(namespace)

    assert (done.documents, done.replaced, done.duplicates) == (0, 1, 1)
    assert "The title" not in [row[0] for row in documents(target, corpus)]


@pytest.fixture
def horrors(folder: Path) -> Path:
    """The folder with everything in it that cannot be imported, too."""
    for name, content in {
        "empty.txt": b"",
        "encrypted.pdf": encrypted_pdf("secret", password="open sesame"),
        "broken.pdf": pdf("whole")[:200],
        "page.pdf": b"<html>404 Not Found</html>",
        "archive.md": b"PK\x03\x04" + b"\0" * 400,
        "program.txt": bytes(range(32)) * 40,
        "sheet.xlsx": b"PK",
        "large.txt": b"x" * ((1 << 20) + 1),
        "slow.html": b"<body>" + b"<div>" * 60_000,
        "nul.txt": b"one\0two, and enough of other letters to be a text",
        "utf16.txt": "schöne Grüße".encode("utf-16"),
    }.items():
        (folder / name).write_bytes(content)
    (folder / "loop").symlink_to(folder)
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_text("latin name")
    return folder


def test_each_bad_file_is_told_with_its_reason_and_stops_nothing(
    target: Target, namespace: Namespace, corpus: str, horrors: Path
) -> None:
    done, reports = take(namespace, max_file_mb=1, file_timeout="2s")

    assert told(reports) == {
        "archive.md": ("skipped", "is named .md, and its content is a ZIP archive "
                       "(as .docx, .xlsx and .epub are)"),
        "broken.pdf": ("skipped", told(reports)["broken.pdf"][1]),
        "empty.txt": ("skipped", "is empty"),
        "encrypted.pdf": ("skipped", "is encrypted, and needs a password"),
        "large.txt": ("skipped", "is larger than 1 MB"),
        "loop": ("skipped", "is a symbolic link, and links are not followed"),
        "nul.txt": ("imported", "NUL characters left out: 1"),
        "page.pdf": ("skipped", "is named as a PDF, and does not begin as one"),
        "program.txt": ("skipped", "is no text: it is full of control characters"),
        "sheet.xlsx": ("skipped", "is of a kind that is not imported"),
        "slow.html": ("skipped", "takes longer than the 2 s that a file may take"),
    }  # fmt: skip
    assert "is a damaged PDF" in told(reports)["broken.pdf"][1]
    assert (done.documents, done.skipped) == (7, 10)
    texts = {row[1].rpartition("/")[2]: row[3] for row in documents(target, corpus)}
    assert texts["utf16.txt"] == "schöne Grüße"
    assert texts["caf%E9.txt"] == "latin name"
    assert texts["nul.txt"].startswith("onetwo")
    with (folders(namespace)[0] / "files.csv").open(newline="") as file:
        assert [row[1] for row in csv.reader(file)][1:].count("empty.txt") == 1


def test_a_dry_run_reads_everything_and_changes_nothing(
    target: Target, namespace: Namespace, folder: Path
) -> None:
    (folder / "empty.txt").touch()
    (folder / "copy.txt").write_bytes((folder / "a.txt").read_bytes())
    before = picture(target)

    done, reports = take(namespace, dry_run=True)

    assert (done.documents, done.skipped, done.duplicates) == (4, 1, 1)
    assert picture(target) == before
    assert not Path(namespace["output_dir"]).exists()


# ---- Undo ----------------------------------------------------------------------------------------


def test_undo_takes_out_what_was_added_and_the_corpus_that_was_made(
    target: Target, namespace: Namespace, corpus: str
) -> None:
    before = (
        rows(target, "SELECT count(*) FROM rag_documents"),
        rows(target, "SELECT * FROM rag_corpora ORDER BY id"),
    )
    take(namespace)
    (folder,) = folders(namespace)

    undo(target, folder)
    undo(target, folder)

    after = (
        rows(target, "SELECT count(*) FROM rag_documents"),
        rows(target, "SELECT * FROM rag_corpora ORDER BY id"),
    )
    assert after == before
    assert len((folder / "undone.rag_documents.copy").read_text().splitlines()) == 4


def test_undo_puts_back_the_older_versions_with_their_embeddings(
    target: Target, namespace: Namespace, corpus: str, folder: Path
) -> None:
    take(namespace)
    with connect(target) as connection, connection.cursor() as cursor:
        cursor.execute(EMBED, (corpus,))
    before = rows(target, ROWS, corpus)
    for name in ("a.txt", "b.md"):
        (folder / name).write_text(f"changed {name}")
    (folder / "new.txt").write_text("new")
    done, _ = take(namespace)
    assert (done.documents, done.replaced) == (3, 2)
    assert rows(target, ROWS, corpus) != before

    undo(target, folders(namespace)[1])

    assert rows(target, ROWS, corpus) == before


def test_undo_puts_no_older_version_beside_a_later_one(
    target: Target, namespace: Namespace, corpus: str, folder: Path
) -> None:
    take(namespace)
    for text in ("second", "third"):
        (folder / "a.txt").write_text(text)
        take(namespace)
    texts = f"SELECT content FROM ({DOCUMENTS}) AS d WHERE source_uri LIKE '%%/a.txt'"
    _, second, third = folders(namespace)

    undo(target, second)
    assert rows(target, texts, corpus) == [("third",)]
    undo(target, third)
    assert rows(target, texts, corpus) == [("second",)]
    undo(target, second)

    [(first,)] = rows(target, texts, corpus)
    assert first.startswith("alpha")


def test_undo_works_although_a_kill_cut_off_what_was_being_saved(
    target: Target, namespace: Namespace, corpus: str, folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    take(namespace)
    before = rows(target, ROWS, corpus)
    for name in ("a.txt", "b.md"):
        (folder / name).write_text(f"changed {name}")
    monkeypatch.setattr(importing, "BATCH_DOCUMENTS", 1)
    sync, saved = os.fsync, []

    def cut_off(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        saved.extend([name] * name.startswith("replaced."))
        if not name.startswith("replaced.") or len(saved) <= 2:  # the first batch's two files
            return sync(descriptor)
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - 5)
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr("voice_agent.undo.os.fsync", cut_off)
        with pytest.raises(MigrationStopped):
            take(namespace)
    assert rows(target, ROWS, corpus) != before

    undo(target, folders(namespace)[1])

    assert rows(target, ROWS, corpus) == before


# ---- Interruptions -------------------------------------------------------------------------------


@pytest.fixture
def many(folder: Path) -> Path:
    """The folder with 600 documents more."""
    for number in range(600):
        text = f"Document {number}\n\n" + f"Sentence about {number}. " * 60
        (folder / f"{number:04d}.txt").write_text(text)
    return folder


def test_a_run_is_gone_on_with_after_its_kernel_was_killed(
    target: Target, namespace: Namespace, corpus: str, many: Path, tmp_path: Path
) -> None:
    (tmp_path / "kernel.py").write_text(DRIVER)
    here = [str(Path(__file__).parents[1])]
    kernel = subprocess.Popen(
        [sys.executable, tmp_path / "kernel.py", json.dumps(namespace), json.dumps(here)],
        stdout=subprocess.DEVNULL,
    )
    counted = "SELECT count(*) FROM rag_documents WHERE source_uri LIKE %s"
    mine = f"{many.as_uri()}/%"
    deadline = time.monotonic() + 60
    with connect(target) as connection:
        while not fetch_value(connection, counted, (mine,)):
            assert kernel.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    children = psutil.Process(kernel.pid).children(recursive=True)
    os.kill(kernel.pid, signal.SIGKILL)
    kernel.wait()
    assert psutil.wait_procs(children, timeout=20)[1] == []
    with connect(target) as connection:
        while lock_holder(connection):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    left = documents(target, corpus)
    assert 0 < len(left) < 604
    assert all(row[5] == row[6] + 1 for row in left), "a document without all its chunks"
    assert (folders(namespace)[0] / "undo.sql").exists()

    done, _ = take(namespace)

    assert done.unchanged == len(left)
    assert done.documents == 604 - len(left)
    whole = documents(target, corpus)
    assert len(whole) == 604
    assert all(row[5] == row[6] + 1 for row in whole)
    outcomes = [read_receipt(folder).outcome for folder in folders(namespace)]
    assert outcomes == ["interrupted", "succeeded"]
    undo(target, folders(namespace)[0])
    assert len(documents(target, corpus)) == 604 - len(left)


def test_an_interrupt_says_what_stands_and_ends_the_workers(
    target: Target, namespace: Namespace, corpus: str, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH_DOCUMENTS", 100)
    threads = threading.active_count()
    written = corpora.Writer.write

    def interrupt(self: corpora.Writer, batch: Any) -> Any:
        fates = written(self, batch)
        os.kill(os.getpid(), signal.SIGINT)
        return fates

    monkeypatch.setattr(corpora.Writer, "write", interrupt)

    with pytest.raises(MigrationStopped) as stopped:
        take(namespace)

    assert "No document was added." in str(stopped.value) or "100 documents" in str(stopped.value)
    assert "run `ingest` again on the same folder" in str(stopped.value)
    assert len(documents(target, corpus)) == 100
    assert read_receipt(folders(namespace)[0]).outcome == "interrupted"
    ours = psutil.Process().children(recursive=True)
    assert [one for one in ours if "spawn_main" in " ".join(one.cmdline())] == []
    assert threading.active_count() <= threads


def test_a_text_that_the_application_adds_meanwhile_is_a_duplicate(
    target: Target, namespace: Namespace, corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(namespace)
    judged = corpora.Writer._judge
    adds = ["late text"]

    def judge(self: corpora.Writer, batch: Any) -> Any:
        fates = judged(self, batch)
        if adds:
            _add_as_application(target, corpus, adds.pop())
        return fates

    monkeypatch.setattr(corpora.Writer, "_judge", judge)
    (Path(namespace["documents"]) / "late.txt").write_text("late text")
    (Path(namespace["documents"]) / "later.txt").write_text("later text")

    done, reports = take(namespace)

    assert (done.documents, done.duplicates) == (1, 1)
    assert told(reports)["late.txt"][0] == "duplicate"


def _add_as_application(target: Target, corpus: str, text: str) -> None:
    query = """
        INSERT INTO rag_documents (corpus_id, title, content, content_sha256)
        SELECT id, 'by the application', %s, encode(sha256(convert_to(%s, 'UTF8')), 'hex')
        FROM rag_corpora WHERE name = %s
    """
    with connect(target) as connection, connection.cursor() as cursor:
        cursor.execute(query, (text, text, corpus))


def test_a_batch_that_the_server_refuses_leaves_those_before_it(
    target: Target, namespace: Namespace, corpus: str, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH_DOCUMENTS", 300)
    copied = corpora.Writer._copy

    def end_the_session(self: corpora.Writer, batch: Any) -> None:
        copied(self, batch)
        if "0550.txt" in str([document.path for document in batch]):
            with closing(psycopg2.connect(**dict(target.conninfo))) as other:
                other.autocommit = True
                pid = self.connection.info.backend_pid
                other.cursor().execute("SELECT pg_terminate_backend(%s)", (pid,))

    monkeypatch.setattr(corpora.Writer, "_copy", end_the_session)

    with pytest.raises(Exception, match="300 documents .* stand, each of them whole"):
        take(namespace)

    assert len(documents(target, corpus)) == 300
    assert read_receipt(folders(namespace)[0]).outcome == "failed"


def test_memory_does_not_grow_with_what_was_found(tmp_path: Path) -> None:
    reports = importing.Reports(tmp_path / "files.csv")
    with reports:
        for number in range(5000):
            reports.add(f"{number}.txt", "skipped", "is empty")

    record = reports.record()

    assert record.tally == (("skipped", 5000),)
    assert len(record.first) == importing.SHOWN
    assert len((tmp_path / "files.csv").read_text().splitlines()) == 5001


def test_progress_tells_how_far_it_has_come_and_what_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([1.0, 10.0, 11.0])
    monkeypatch.setattr(importing.time, "monotonic", lambda: next(clock))
    expected = FolderSurvey("manuals", (("text/plain", 400, 4 << 20),))
    lines: list[str] = []

    tally = importing._Tally(begun=0.0, told=0.0)
    tally.files, tally.size_bytes, tally.documents, tally.chunks = 100, 1 << 20, 90, 2000
    for _ in range(3):
        importing._tell(tally, expected, lines.append)

    assert lines == [
        "100 of 400 files, 1 MB of 4 MB: 90 documents, 2,000 chunks, about 30.00 s left"
    ]


# ---- Refusals ------------------------------------------------------------------------------------


def test_a_database_without_the_tables_is_refused_with_the_way_to_them(
    fresh_database: Target, folder: Path, tmp_path: Path
) -> None:
    before = picture(fresh_database)
    with pytest.raises(GuardRefused) as refused:
        take({"database": fresh_database.name, "documents": str(folder),
              "output_dir": str(tmp_path / "runs")})  # fmt: skip

    assert "it lacks users, rag_corpora" in str(refused.value)
    assert "upgrade.ipynb" in str(refused.value)
    assert picture(fresh_database) == before


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"chunk_size": 10}, "chunk_size=10 is not between 50 and 100,000"),
        ({"chunk_overlap": 500}, "chunk_overlap=500 is not between 0 and 400"),
        ({"max_file_mb": 0}, "max_file_mb=0"),
        ({"jobs": -1}, "jobs=-1"),
        ({"file_timeout": "soon"}, "file_timeout"),
        ({"corpus": " "}, "corpus is empty"),
        ({"documents": "/nowhere/documents"}, "/nowhere/documents does not exist"),
        ({"documents": __file__}, "is no folder"),
        ({"documents": "/" + "x" * 300}, "cannot be a folder"),
        ({"documents": "~nobody-of-that-name/x"}, "cannot be a folder"),
    ],
)
def test_a_parameter_that_cannot_be_meant_is_refused(
    namespace: Namespace, parameters: dict[str, Any], says: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        go(ingest, namespace, **parameters)

    assert says in str(refused.value)


def _corpus_of(target: Target, name: str, owner: str, model: str = "feature-hashing-16") -> None:
    query = """
        INSERT INTO rag_corpora (user_id, name, embedding_model, embedding_dimensions)
        SELECT user_id, %s, %s, 16 FROM users WHERE username = %s
    """
    with connect(target) as connection, connection.cursor() as cursor:
        cursor.execute(query, (name, model, owner))
        assert cursor.rowcount == 1


def test_a_corpus_of_several_users_needs_its_owner(
    target: Target, namespace: Namespace, corpus: str
) -> None:
    (first,), (second,) = rows(target, "SELECT username FROM users ORDER BY id LIMIT 2")
    _corpus_of(target, corpus, first)
    _corpus_of(target, corpus, second)

    with pytest.raises(GuardRefused, match=f"Several users have .*{second!r}.* -r owner"):
        take(namespace)
    done, _ = take(namespace, owner=second)

    query = """SELECT u.username, count(*) FROM rag_documents AS d JOIN rag_corpora AS c
        ON c.id = d.corpus_id JOIN users AS u USING (user_id) WHERE c.name = %s GROUP BY 1"""
    assert rows(target, query, corpus) == [(second, done.documents)]


def test_an_owner_that_is_nobody_is_refused(namespace: Namespace) -> None:
    with pytest.raises(GuardRefused, match="There is no user 'nobody such'"):
        take(namespace, owner="nobody such")


def test_a_corpus_of_another_model_is_refused(
    target: Target, namespace: Namespace, corpus: str
) -> None:
    ((first,),) = rows(target, "SELECT username FROM users ORDER BY id LIMIT 1")
    _corpus_of(target, corpus, first, "another-model-1536")

    with pytest.raises(GuardRefused, match="'another-model-1536', whose tokenizer is not here"):
        take(namespace)


def test_a_role_that_may_not_write_is_refused_before_anything(
    target: Target, namespace: Namespace
) -> None:
    # Not the owner of the tables: what it lacks is said by the preflight.
    with connect(target) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regrole('ingest_reader') IS NULL")
        if cursor.fetchone() == (True,):
            cursor.execute("CREATE ROLE ingest_reader")
        cursor.execute("GRANT pg_read_all_data TO ingest_reader")
        cursor.execute("SET ROLE ingest_reader")
        finding = ingest.privileges_finding(connection)
        cursor.execute("RESET ROLE")

    assert finding.severity.value == "STOP"
    assert "rag_documents: INSERT" in finding.detail


def test_a_second_run_at_once_is_refused(target: Target, namespace: Namespace, corpus: str) -> None:
    with advisory_lock(target), pytest.raises(TargetBusy, match="Another run holds this target"):
        take(namespace)

    assert documents(target, corpus) == []


def test_a_step_that_was_not_taken_refuses_the_import(
    target: Target, namespace: Namespace, corpus: str
) -> None:
    with pytest.raises(GuardRefused, match="'preflight' has not been taken|'corpus'"):
        go(ingest, namespace, leave_out="check_preflight")

    assert documents(target, corpus) == []


def test_what_somebody_changes_before_the_read_back_is_found(
    target: Target, namespace: Namespace, corpus: str
) -> None:
    def tamper() -> None:
        query = """UPDATE rag_documents SET content = content || '!' WHERE corpus_id =
            (SELECT id FROM rag_corpora WHERE name = %s) AND title = 'Gamma'"""
        with connect(target) as connection, connection.cursor() as cursor:
            cursor.execute(query, (corpus,))

    with pytest.raises(VerifyFailed, match="1 with another text than their hash says"):
        go(ingest, namespace, meanwhile={"check_documents": tamper})

    assert read_receipt(folders(namespace)[0]).outcome == "failed"


def test_a_protected_target_needs_its_name(target: Target, namespace: Namespace) -> None:
    with ingest.open_run(namespace) as run:
        run.target = replace(run.target, protected=True)
        with pytest.raises(GuardRefused, match="is protected, and an empty confirm"):
            ingest.check_preflight(run)
    with ingest.open_run({**namespace, "confirm": target.database}) as run:
        run.target = replace(run.target, protected=True)

        assert not ingest.check_preflight(run).stops
