"""How an import is taken out again: the rows it replaced are saved first, and `undo.sql` says how.

The script is written before the first change, so that a killed run has it, too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.database import fetch
from voice_agent.corpora import Corpus

__all__ = ["Undo"]

SCRIPT = "undo.sql"
QUOTE = '"'
TABLES = {"rag_documents": "id", "rag_chunks": "document_id"}
"""The tables, parents first, with the column that holds a document's id."""
COLUMNS = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
ORDER BY attnum
"""

HEAD = """\
-- Takes out what the import {marker} added to the corpus {corpus},
-- and puts back what it took out, except older versions of a file whose text a later import has
-- brought: undo that one first, then this one again. Whatever is destroyed by that, embeddings
-- that were computed since among it, is written to undone.*.copy first. Run it in this folder:
--     psql -X -f undo.sql (with the database's connection)
\\set ON_ERROR_STOP on
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT EXISTS (SELECT FROM rag_documents WHERE {mine}) AS there \\gset
\\if :there
\\copy (SELECT * FROM rag_documents WHERE {mine} ORDER BY id) TO 'undone.rag_documents.copy'
\\copy (SELECT c.* FROM rag_chunks AS c WHERE c.document_id IN (SELECT id FROM rag_documents \
WHERE {mine}) ORDER BY c.id) TO 'undone.rag_chunks.copy'
DELETE FROM rag_documents WHERE {mine};
\\endif
"""
PUT_BACK = """\
CREATE TEMPORARY TABLE old_{table} ON COMMIT DROP AS SELECT {columns} FROM {table} LIMIT 0;
{copies}
INSERT INTO {table} ({columns}) SELECT DISTINCT ON (id) {columns} FROM old_{table} AS old
WHERE {condition} ON CONFLICT DO NOTHING;
"""
CONDITIONS = {
    "rag_documents": (
        "EXISTS (SELECT FROM rag_corpora AS c WHERE c.id = old.corpus_id)\n"
        "AND NOT EXISTS (SELECT FROM rag_documents AS later WHERE later.corpus_id = old.corpus_id\n"
        "    AND later.source_uri = old.source_uri AND later.id <> old.id\n"
        "    AND later.attributes ->> 'file_sha256' IS NOT NULL)"
    ),
    "rag_chunks": "EXISTS (SELECT FROM rag_documents AS d WHERE d.id = old.document_id)",
}
DROP_CORPUS = """\
DELETE FROM rag_corpora AS c WHERE c.id = {corpus}
AND NOT EXISTS (SELECT FROM rag_documents AS d WHERE d.corpus_id = c.id);
"""


class Undo:
    """The script of one run, and the files that it reads from."""

    def __init__(self, folder: Path, marker: str, corpus: Corpus, *, made_corpus: bool) -> None:
        """Write the script."""
        self.script = folder / SCRIPT
        self._marker = marker
        self._corpus = corpus
        self._made_corpus = made_corpus
        self._columns: dict[str, list[str]] = {}
        self._saved = 0
        self._write()

    def save(self, connection: Connection, documents: Sequence[int]) -> None:
        """Write documents and their chunks to the run's files, before they are deleted.

        Each time to files of its own, which the script names once they are whole: what a killed
        run has half written is not in its way. A batch that is rolled back afterwards leaves its
        files there: the script puts back only what is missing.
        """
        if not self._columns:
            self._columns = {
                table: [row[0] for row in fetch(connection, COLUMNS, (table,))] for table in TABLES
            }
        for table, key in TABLES.items():
            query = sql.SQL("COPY (SELECT {} FROM {} WHERE {} = ANY({}) ORDER BY id) TO STDOUT")
            statement = query.format(
                sql.SQL(", ").join(map(sql.Identifier, self._columns[table])),
                sql.Identifier(table),
                sql.Identifier(key),
                sql.Literal(list(documents)),
            )
            with (
                self._file(table, self._saved + 1).open("xb") as file,
                connection.cursor() as cursor,
            ):
                cursor.copy_expert(statement, file)
                file.flush()
                os.fsync(file.fileno())
        self._saved += 1
        self._write()

    def _file(self, table: str, number: int) -> Path:
        return self.script.with_name(f"replaced.{number:04d}.{table}.copy")

    def _copies(self, table: str) -> str:
        """Return what reads a table's files, a line each."""
        names = (self._file(table, number).name for number in range(1, self._saved + 1))
        return "\n".join(f"\\copy old_{table} FROM '{name}'" for name in names)

    def _write(self) -> None:
        mine = (
            f"corpus_id = {self._corpus.id} AND attributes ->> 'ingest_run' = "
            f"'{self._marker.replace(chr(39), chr(39) * 2)}'"
        )
        corpus = " ".join(self._corpus.name.split())
        text = HEAD.format(marker=self._marker, corpus=corpus, mine=mine)
        for table, columns in self._columns.items():
            text += PUT_BACK.format(
                table=table,
                columns=", ".join(f'"{name.replace(QUOTE, 2 * QUOTE)}"' for name in columns),
                copies=self._copies(table),
                condition=CONDITIONS[table],
            )
        if self._made_corpus:
            text += DROP_CORPUS.format(corpus=self._corpus.id)
        temporary = self.script.with_name(f".{SCRIPT}")
        temporary.write_text(f"{text}COMMIT;\n", "utf-8")
        temporary.replace(self.script)
