"""A million chunks by the runbook `ingest` against INSERT by INSERT, and its memory.

The same files, tables, indexes and constraints, on a server that keeps what it has committed
(fsync on). The naive scripts read, split and tokenize with the same code, one file after the
other, and insert each chunk by a statement of its own: with a commit per row, as a loop in
autocommit does; with a commit per document; and by psycopg2's executemany, a commit per document.
Each is measured on a sample, on tables that are nearly empty, which favours it, and in rows per
second. Ours is measured whole, from the first file to the last commit. Then the same for the
database's part alone: rows that were prepared beforehand. `PLAYBOOK_INGEST_CHUNKS` sets another
number of chunks.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psycopg2

from playbook.postgres_files import server_account, server_programs
from servers import DURABLE, PrivateServer, private_server
from voice_agent import sample_text
from voice_agent.corpora import _chunk_rows, _Lines
from voice_agent.reading import Document, Job, Limits, Splitting, read_file
from voice_agent.tokenizers import EMBEDDING_MODEL

CHUNKS = int(os.environ.get("PLAYBOOK_INGEST_CHUNKS", "1000000"))
CHUNKS_A_DOCUMENT = 50
SAMPLE_S = 12.0
"""How long each naive script runs."""
SPLITTING = Splitting(800, 100, EMBEDDING_MODEL)
LIMITS = Limits(50 << 20, 30.0, 2)
SETTINGS = DURABLE | {"shared_buffers": "256MB", "max_wal_size": "4GB"}
AT_LEAST = 20.0
OURS = """
import json, sys, time
from voice_agent import ingest
if __name__ == "__main__":
    with ingest.open_run(json.loads(sys.argv[1])) as run:
        for step in ("show_target", "check_preflight", "survey_folder", "take_backup"):
            getattr(ingest, step)(run)
        begun = time.monotonic()
        done = ingest.run_import(run)
        print(json.dumps([time.monotonic() - begun, done.chunks, done.documents]))
"""
CORPUS = """
INSERT INTO rag_corpora (user_id, name, embedding_model, embedding_dimensions)
SELECT user_id, %s, 'feature-hashing-16', 16 FROM users ORDER BY id LIMIT 1 RETURNING id
"""
INSERT_DOCUMENT = """
INSERT INTO rag_documents (corpus_id, title, source_uri, media_type, content, content_sha256)
VALUES (%s, %s, %s, %s, %s, %s) RETURNING id
"""
INSERT_CHUNK = """
INSERT INTO rag_chunks (document_id, chunk_index, content, tokens) VALUES (%s, %s, %s, %s)
"""
COPY_CHUNKS = "COPY rag_chunks (document_id, chunk_index, content, tokens) FROM STDIN"

Row = tuple[int, int, str, str]
Insert = Callable[[Any, list[Row]], None]


@dataclass(frozen=True)
class Ours:
    """What an import took."""

    seconds: float
    chunks: int
    documents: int
    kernel_bytes: int
    """The most memory of the process that imports."""
    worker_bytes: int
    """The most memory of any process that reads files."""


def run(rounds: int) -> None:
    """Measure once, whatever ``rounds`` says: it takes minutes, and prints rates and ratios."""
    del rounds
    with _server() as server:
        folder = server.data.parent / "documents"
        _write_documents(folder / "small", CHUNKS // 10, 1)
        _write_documents(folder / "large", CHUNKS, 2)
        files = sorted((folder / "small").rglob("*.txt"))
        naive = {name: _naive(server, files, insert) for name, insert in SCRIPTS.items()}
        prepared = {name: _database_alone(server, files, i) for name, i in SCRIPTS.items()}
        prepared["COPY"] = _copy_alone(server, files)
        small = _ours(server, folder / "small", "small")
        large = _ours(server, folder / "large", "large")
        print(_report(naive, prepared, small, large))


@contextmanager
def _server() -> Iterator[PrivateServer]:
    folder = Path(tempfile.mkdtemp(prefix="playbook-bench-", dir="/tmp")).resolve()
    folder.chmod(0o711)
    try:
        programs = server_programs(folder, 18, server_account())
        with private_server(18, programs, folder, settings=SETTINGS) as server:
            server.execute("CREATE DATABASE app")
            where = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "postgres"}
            subprocess.run(
                [sys.executable, "-m", "voice_agent.sample_data", "--state", "head"],
                env=os.environ | where | {"PGDATABASE": "app"}, check=True, capture_output=True,
            )  # fmt: skip
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_documents(folder: Path, chunks: int, seed: int) -> None:
    """Write text files of 50 paragraphs, each of which becomes one chunk; 500 in a folder."""
    print(f"writing documents for {chunks:,} chunks", file=sys.stderr, flush=True)
    chance = random.Random(seed)
    slots = {name: text.split("|")[0] for name, text in sample_text.SLOTS.items()}
    sentences = [text.format_map(slots) for text in sample_text.SENTENCES]
    pool = [_paragraph(chance, sentences) for _ in range(3000)]
    for number in range(chunks // CHUNKS_A_DOCUMENT):
        parts = (
            f"Section {seed}.{number}.{n}. {chance.choice(pool)}" for n in range(CHUNKS_A_DOCUMENT)
        )
        path = folder / f"{number // 500:03d}" / f"{number:06d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n\n".join(parts), "utf-8")


def _paragraph(chance: random.Random, sentences: list[str]) -> str:
    """Return sentences of more than half a chunk's length, so that two do not share one."""
    text = chance.choice(sentences)
    while len(text) < SPLITTING.size * 0.52:
        text += f" {chance.choice(sentences)}"
    return text[: SPLITTING.size - 60]


# ---- The naive scripts ---------------------------------------------------------------------------


def _commit_per_row(connection: Any, rows: list[Row]) -> None:
    with connection.cursor() as cursor:
        for row in rows:
            cursor.execute(INSERT_CHUNK, row)
            connection.commit()


def _commit_per_document(connection: Any, rows: list[Row]) -> None:
    with connection.cursor() as cursor:
        for row in rows:
            cursor.execute(INSERT_CHUNK, row)
    connection.commit()


def _executemany(connection: Any, rows: list[Row]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(INSERT_CHUNK, rows)
    connection.commit()


SCRIPTS: dict[str, Insert] = {
    "INSERT, a commit per row": _commit_per_row,
    "INSERT, a commit per document": _commit_per_document,
    "executemany, a commit per document": _executemany,
}


def _naive(server: PrivateServer, files: Iterable[Path], insert: Insert) -> float:
    """Return the rows per second of a script that reads, splits, tokenizes and inserts."""
    return _rate(server, (_read(path) for path in files), insert)


def _database_alone(server: PrivateServer, files: list[Path], insert: Insert) -> float:
    """Return the rows per second of the inserts, of documents that were read beforehand."""
    return _rate(server, [_read(path) for path in files[:800]], insert)


def _rate(server: PrivateServer, documents: Iterable[Document], insert: Insert) -> float:
    """Insert documents for a while into a corpus of their own; delete it; return rows per second.

    The document's own row, and its commit, are part of it.
    """
    with closing(psycopg2.connect(server.url("app"))) as connection:
        corpus = _new_corpus(connection)
        begun, written = time.monotonic(), 0
        for document in documents:
            id_ = _insert_document(connection, corpus, document)
            insert(connection, _rows(id_, document))
            written += len(document.chunks)
            if time.monotonic() - begun > SAMPLE_S:
                break
        rate = written / (time.monotonic() - begun)
        _drop_corpus(connection, corpus)
    return rate


def _copy_alone(server: PrivateServer, files: list[Path]) -> float:
    """Return the rows per second of COPY, of documents that were read beforehand."""
    documents = [_read(path) for path in files[:800]]
    with closing(psycopg2.connect(server.url("app"))) as connection:
        corpus = _new_corpus(connection)
        begun = time.monotonic()
        for first in range(0, len(documents), 200):
            batch = documents[first : first + 200]
            ids = [_insert_document(connection, corpus, one, commit=False) for one in batch]
            lines = _Lines(_chunk_rows(*pair) for pair in zip(ids, batch, strict=True))
            with connection.cursor() as cursor:
                cursor.copy_expert(COPY_CHUNKS, lines)
            connection.commit()
        rate = sum(len(one.chunks) for one in documents) / (time.monotonic() - begun)
        _drop_corpus(connection, corpus)
    return rate


def _read(path: Path) -> Document:
    found = read_file(Job(str(path), 1), SPLITTING, LIMITS)
    assert isinstance(found, Document)
    return found


def _rows(id_: int, document: Document) -> list[Row]:
    """Return the chunks' rows as a script would have them: text as it is, not as COPY writes it."""
    rows = []
    for chunk in document.chunks:
        index, text, tokens = chunk.decode().split("\t")
        rows.append((id_, int(index), text.replace(r"\n", "\n"), tokens))
    return rows


def _new_corpus(connection: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(CORPUS, (f"bench {time.monotonic_ns()}",))
        (corpus,) = cursor.fetchone()
    connection.commit()
    return int(corpus)


def _drop_corpus(connection: Any, corpus: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM rag_corpora WHERE id = %s", (corpus,))
    connection.commit()
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE rag_documents, rag_chunks")
        cursor.execute("CHECKPOINT")


def _insert_document(
    connection: Any, corpus: int, document: Document, *, commit: bool = True
) -> int:
    values = (corpus, document.title, document.path, document.media_type, document.content,
              document.content_sha256)  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(INSERT_DOCUMENT, values)
        (id_,) = cursor.fetchone()
    if commit:
        connection.commit()
    return int(id_)


# ---- Ours ----------------------------------------------------------------------------------------


def _ours(server: PrivateServer, documents: Path, corpus: str) -> Ours:
    """Import a folder in a process of its own, and watch its memory and its workers'."""
    parameters = {
        "database": server.url("app"), "documents": str(documents), "corpus": corpus,
        "owner": "magda.williams", "output_dir": str(documents.parent / "runs"),
    }  # fmt: skip
    script = documents.parent / "ours.py"
    script.write_text(OURS, "utf-8")
    child = subprocess.Popen(
        [sys.executable, script, json.dumps(parameters)], stdout=subprocess.PIPE, text=True
    )
    most = {"kernel": 0, "worker": 0}
    while child.poll() is None:
        _look(psutil.Process(child.pid), most)
        time.sleep(0.1)
    assert child.stdout is not None
    with child.stdout:
        last = child.stdout.read().splitlines()[-1]
    seconds, chunks, count = json.loads(last)
    return Ours(seconds, chunks, count, most["kernel"], most["worker"])


def _look(process: psutil.Process, most: dict[str, int]) -> None:
    try:
        most["kernel"] = max(most["kernel"], process.memory_info().rss)
        for one in process.children():
            if "spawn_main" in " ".join(one.cmdline()):
                most["worker"] = max(most["worker"], one.memory_info().rss)
    except psutil.Error:
        return  # it ended meanwhile


def _report(naive: dict[str, float], prepared: dict[str, float], small: Ours, large: Ours) -> str:
    rate = large.chunks / large.seconds
    width = max(map(len, naive)) + 2
    lines = [
        f"{large.chunks:,} chunks of {large.documents:,} files by `ingest`: "
        f"{large.seconds:.1f} s, {rate:,.0f} rows/s, from the first file to the last commit",
        "Naive scripts from files to rows, and how many times faster `ingest` is:",
        *(f"  {name:{width}}{own:8,.0f} rows/s  {rate / own:7.1f}" for name, own in naive.items()),
        "The database's part alone, and how many times faster COPY is:",
        *(
            f"  {name:{width}}{own:8,.0f} rows/s  {prepared['COPY'] / own:7.1f}"
            for name, own in prepared.items()
        ),
        f"`ingest` against a commit per row: {_verdict(rate / min(naive.values()) >= AT_LEAST)} "
        f"(at least {AT_LEAST:g} times faster)",
        "Peak memory, MB:      importing process   a reading process",
        *(
            f"  {one.chunks:>10,} chunks {one.kernel_bytes / 1e6:14.0f} "
            f"{one.worker_bytes / 1e6:19.0f}"
            for one in (small, large)
        ),
    ]
    return "\n".join(lines)


def _verdict(held: bool) -> str:
    return "held" if held else "NOT HELD"
