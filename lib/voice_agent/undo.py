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
-- and puts back what it took out. Whatever is destroyed by that, embeddings that were computed
-- since among it, is written to undone.*.copy first. Run it in this folder:
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
\\copy old_{table} FROM '{file}'
INSERT INTO {table} ({columns}) SELECT DISTINCT ON (id) {columns} FROM old_{table} AS old
WHERE EXISTS (SELECT FROM {parent}) ON CONFLICT DO NOTHING;
"""
PARENTS = {
    "rag_documents": "rag_corpora AS c WHERE c.id = old.corpus_id",
    "rag_chunks": "rag_documents AS d WHERE d.id = old.document_id",
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
        self._write()

    def save(self, connection: Connection, documents: Sequence[int]) -> None:
        """Add documents and their chunks to the run's files, before they are deleted.

        A batch that is rolled back afterwards leaves them there: the script puts back only what
        is missing.
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
            with self._file(table).open("ab") as file, connection.cursor() as cursor:
                cursor.copy_expert(statement, file)
                file.flush()
                os.fsync(file.fileno())
        self._write()

    def _file(self, table: str) -> Path:
        return self.script.with_name(f"replaced.{table}.copy")

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
                file=self._file(table).name,
                parent=PARENTS[table],
            )
        if self._made_corpus:
            text += DROP_CORPUS.format(corpus=self._corpus.id)
        temporary = self.script.with_name(f".{SCRIPT}")
        temporary.write_text(f"{text}COMMIT;\n", "utf-8")
        temporary.replace(self.script)
