"""Corpora, documents and chunks in the database: what an import looks for, and how it writes.

A batch of documents is written in one transaction, with all its chunks, by COPY. Whatever ends
the import leaves whole documents only.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection

from playbook.database import fetch, fetch_value
from voice_agent.copy_format import copy_text
from voice_agent.reading import Document
from voice_agent.tokenizers import DIMENSIONS, EMBEDDING_MODEL

__all__ = ["Corpus", "Fate", "Writer", "find_corpora", "find_owner", "lacking_columns"]

RETRIES = 3
"""How often a batch is tried again if somebody else adds one of its texts at the same time."""

NEEDED = {
    "users": ("id", "user_id", "username"),
    "rag_corpora": ("id", "user_id", "name", "embedding_model", "embedding_dimensions"),
    "rag_documents": (
        "id", "corpus_id", "title", "source_uri", "media_type", "content", "content_sha256",
        "status", "attributes",
    ),
    "rag_chunks": ("id", "document_id", "chunk_index", "content", "tokens", "embedding"),
}  # fmt: skip

COLUMNS = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
"""
FIND_CORPORA = """
SELECT c.id, c.name, u.username, u.user_id::text, c.embedding_model
FROM rag_corpora AS c JOIN users AS u USING (user_id)
WHERE c.name = %s AND (%s = '' OR u.username = %s) ORDER BY c.id LIMIT 4
"""
FIND_OWNER = """
SELECT username, user_id::text FROM users WHERE %s = '' OR username = %s ORDER BY id LIMIT 1
"""
CREATE_CORPUS = """
INSERT INTO rag_corpora (user_id, name, embedding_model, embedding_dimensions)
VALUES (%s, %s, %s, %s) RETURNING id
"""
# The hash of a file's bytes has no column: it is an attribute, and no index leads to it. One scan
# puts what was imported before where this session finds it by its path; the server holds it.
KNOWN = """
CREATE TEMPORARY TABLE ingest_known AS
SELECT id, source_uri, content_sha256, attributes ->> 'file_sha256' AS file_sha256
FROM rag_documents WHERE corpus_id = %s AND attributes ->> 'file_sha256' IS NOT NULL;
CREATE INDEX ON ingest_known (source_uri);
CREATE TEMPORARY TABLE ingest_seen (content_sha256 text PRIMARY KEY, source_uri text);
ANALYZE ingest_known
"""
KNOWN_BY_PATH = """
SELECT source_uri, id, content_sha256, file_sha256 FROM ingest_known
WHERE source_uri = ANY(%s) ORDER BY id
"""
SAME_CONTENT = """
SELECT content_sha256, coalesce(source_uri, ''), id FROM rag_documents
WHERE corpus_id = %s AND content_sha256 = ANY(%s)
"""
SEEN_CONTENT = (
    "SELECT content_sha256, source_uri, 0 FROM ingest_seen WHERE content_sha256 = ANY(%s)"
)
SEE = "INSERT INTO ingest_seen SELECT * FROM unnest(%s, %s)"
NEXT_IDS = """
SELECT nextval(pg_get_serial_sequence('rag_documents', 'id')) FROM generate_series(1, %s)
"""
STILL_THERE = "SELECT id FROM rag_documents WHERE id = ANY(%s) ORDER BY id FOR UPDATE"
TAKE_OUT = "DELETE FROM rag_documents WHERE id = ANY(%s)"
COPY_DOCUMENTS = """
COPY rag_documents (id, corpus_id, title, source_uri, media_type, content, content_sha256,
                    attributes) FROM STDIN
"""
COPY_CHUNKS = "COPY rag_chunks (document_id, chunk_index, content, tokens) FROM STDIN"

Save = Callable[[Connection, Sequence[int]], None]


@dataclass(frozen=True)
class Corpus:
    """A corpus to import into; ``id`` is 0 as long as there is none."""

    id: int
    name: str
    owner: str
    owner_id: str
    model: str = EMBEDDING_MODEL


@dataclass(frozen=True)
class Fate:
    """What became of a document in a batch."""

    document: Document
    added: bool
    duplicate_of: str | None = None
    """The URI of the document with the same text, "" if that has none; None: it is no duplicate."""
    replaced: tuple[int, ...] = ()
    """Ids of the older versions that were taken out for it."""


def lacking_columns(connection: Connection) -> list[str]:
    """Return what the tables of documents lack, as ``table`` or ``table.column``."""
    lacking = []
    for table, needed in NEEDED.items():
        there = {row[0] for row in fetch(connection, COLUMNS, (table,))}
        if not there:
            lacking.append(table)
        else:
            lacking += [f"{table}.{name}" for name in needed if name not in there]
    return lacking


def find_corpora(connection: Connection, name: str, owner: str) -> list[Corpus]:
    """Return the corpora of a name, at most four: of one owner, or of any if ``owner`` is ""."""
    return [Corpus(*row) for row in fetch(connection, FIND_CORPORA, (name, owner, owner))]


def find_owner(connection: Connection, username: str) -> tuple[str, str] | None:
    """Return (username, public id) of a user, the one with the lowest id if ``username`` is ""."""
    rows = fetch(connection, FIND_OWNER, (username, username))
    return (rows[0][0], rows[0][1]) if rows else None


class Writer:
    """Writes documents into one corpus, batch by batch."""

    def __init__(self, connection: Connection, corpus: Corpus, marker: str) -> None:
        """Take a session that is not in autocommit.

        An empty marker makes it a dry run: nothing is written but temporary tables.
        """
        self.connection = connection
        self.corpus = corpus
        self.marker = marker
        self._save: Save | None = None

    def begin(self, prepare: Callable[[Corpus], Save | None]) -> Corpus:
        """Make the corpus if there is none, and note what was imported into it before.

        Args:
            prepare: called before the first commit; returns what saves documents, by their ids,
                before they are deleted.
        """
        if not self.corpus.id and self.marker:
            values = (self.corpus.owner_id, self.corpus.name, EMBEDDING_MODEL, DIMENSIONS)
            made = fetch_value(self.connection, CREATE_CORPUS, values)
            kept = self.corpus
            self.corpus = Corpus(made, kept.name, kept.owner, kept.owner_id, kept.model)
        with self.connection.cursor() as cursor:
            cursor.execute(KNOWN, (self.corpus.id,))
        self._save = prepare(self.corpus)
        self.connection.commit()
        return self.corpus

    def known(self, paths: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return, by path, the hashes of the files that were imported from it."""
        hashes: dict[str, tuple[str, ...]] = {}
        uris = {uri(path): path for path in paths}
        for source, _, _, file_sha256 in fetch(self.connection, KNOWN_BY_PATH, (list(uris),)):
            path = uris[source]
            hashes[path] = (*hashes.get(path, ()), file_sha256)
        self.connection.commit()
        return hashes

    def write(self, documents: Sequence[Document]) -> list[Fate]:
        """Write a batch in one transaction and commit it; return what became of each document.

        Raises:
            psycopg2.Error: the server refused it; nothing of the batch was written.
        """
        for left in range(RETRIES, -1, -1):
            try:
                fates = self._write(documents)
                self.connection.commit()
            except psycopg2.errors.UniqueViolation:
                # The application added the same text since it was looked for.
                self.connection.rollback()
                if not left:
                    raise
            except BaseException:
                if not self.connection.closed:
                    self.connection.rollback()
                raise
            else:
                return fates
        raise AssertionError("the last try returns or raises")

    def _write(self, documents: Sequence[Document]) -> list[Fate]:
        fates = self._judge(documents)
        if not self.marker:
            seen = [(f.document.content_sha256, uri(f.document.path)) for f in fates if f.added]
            with self.connection.cursor() as cursor:
                cursor.execute(SEE, ([s for s, _ in seen], [u for _, u in seen]))
            return fates
        old = [id_ for fate in fates for id_ in fate.replaced]
        if old:
            there = [row[0] for row in fetch(self.connection, STILL_THERE, (old,))]
            if self._save is not None:
                self._save(self.connection, there)
            with self.connection.cursor() as cursor:
                cursor.execute(TAKE_OUT, (there,))
        self._copy([fate.document for fate in fates if fate.added])
        return fates

    def _judge(self, documents: Sequence[Document]) -> list[Fate]:
        """Decide for each document whether it is new, a duplicate, or a newer version."""
        older = self._older(documents)
        same_text = {
            document.path
            for document in documents
            if any(sha == document.content_sha256 for _, sha in older.get(document.path, ()))
        }
        gone = {id_ for path, found in older.items() if path not in same_text for id_, _ in found}
        texts = [document.content_sha256 for document in documents]
        taken = {
            sha256: source
            for sha256, source, id_ in (
                *fetch(self.connection, SAME_CONTENT, (self.corpus.id, texts)),
                *fetch(self.connection, SEEN_CONTENT, (texts,)),
            )
            if id_ not in gone
        }
        fates = []
        for document in documents:
            if document.path in same_text:
                fates.append(Fate(document, added=False))
                continue
            same = taken.get(document.content_sha256)
            replaced = tuple(id_ for id_, _ in older.get(document.path, ()))
            fates.append(Fate(document, same is None, same, replaced))
            taken.setdefault(document.content_sha256, uri(document.path))
        return fates

    def _older(self, documents: Sequence[Document]) -> dict[str, list[tuple[int, str]]]:
        """Return, by path, (id, hash of the text) of what was imported from it before."""
        uris = {uri(document.path): document.path for document in documents}
        older: dict[str, list[tuple[int, str]]] = {}
        for source, id_, content_sha256, _ in fetch(self.connection, KNOWN_BY_PATH, (list(uris),)):
            older.setdefault(uris[source], []).append((id_, content_sha256))
        return older

    def _copy(self, documents: Sequence[Document]) -> None:
        if not documents:
            return
        ids = [row[0] for row in fetch(self.connection, NEXT_IDS, (len(documents),))]
        numbered = list(zip(ids, documents, strict=True))
        with self.connection.cursor() as cursor:
            cursor.copy_expert(COPY_DOCUMENTS, _Lines(self._row(*pair) for pair in numbered))
            cursor.copy_expert(COPY_CHUNKS, _Lines(_chunk_rows(*pair) for pair in numbered))

    def _row(self, id_: int, document: Document) -> bytes:
        attributes: Mapping[str, object] = {
            "file_sha256": document.file_sha256,
            "file_bytes": document.file_bytes,
            "ingest_run": self.marker,
        }
        values = (
            id_, self.corpus.id, document.title, uri(document.path), document.media_type,
            document.content, document.content_sha256, json.dumps(attributes),
        )  # fmt: skip
        return ("\t".join(map(copy_text, values)) + "\n").encode()


def _chunk_rows(id_: int, document: Document) -> bytes:
    """Return the lines of a document's chunks, each with the document's id before it."""
    if not document.chunks:
        return b""
    start = b"%d\t" % id_
    return start + (b"\n" + start).join(document.chunks) + b"\n"


class _Lines(io.RawIOBase):
    """What COPY reads from: the parts of an iterator, of any length, as a file."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        super().__init__()
        self._parts: Iterator[bytes] = iter(parts)
        self._part = memoryview(b"")

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the part at hand goes; 0 at the end."""
        while not self._part:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._part = memoryview(part)
        size = min(len(buffer), len(self._part))
        buffer[:size] = self._part[:size]
        self._part = self._part[size:]
        return size


def uri(path: str) -> str:
    """Return a file's URI; bytes that are no UTF-8 are escaped in it as all others are."""
    return Path(path).as_uri()
