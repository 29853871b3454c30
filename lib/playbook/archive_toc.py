"""A dump's table of contents, ``toc.dat``: what it says, and changes to a copy. Layer 1.

Only bytes: no files, no programs. Source of the format: WriteHead, ReadHead, WriteInt and WriteStr
in src/bin/pg_dump/pg_backup_archiver.c.
"""

from __future__ import annotations

import re

__all__ = [
    "HEAD_BYTES",
    "encoding_of",
    "made_by",
    "names_zstd",
    "of_plain_files",
    "owns_all_tables",
    "tables_by_file",
    "with_frozen_rows",
]

ZSTD = 3
"""pg_dump's number for the method (pg_compress_algorithm)."""
METHOD_AT = 11
"""Of an archive's head: ``PGDMP``, version (3 bytes), size of int and offset, format, method."""
HEAD_BYTES = METHOD_AT + 1
_COPY = re.compile(
    rb"(\0\x0a\0\0\0TABLE DATA\0\x03\0\0\0(?:\x01\x01\0\0\0){2})"
    rb"\0.{4}(COPY [^\0]* FROM stdin);\n(?=\0)",
    re.DOTALL,
)
"""Of an entry: what it is, its section (data), no two further statements, and that which loads.

A number is its sign and four bytes, the lowest first; a string its length (-1: none) and its text.
All this is asked for, as a table or a schema may be named like such a statement.
"""
_ENCODING = re.compile(
    rb"\0\x08\0\0\0ENCODING\0\x02\0\0\0\0.{4}SET client_encoding = '(\w+)';\n", re.DOTALL
)
"""Of an entry: what it is, its section (pre-data), its statement."""
_MADE_BY = re.compile(r"^; +Dumped by pg_dump version: (\d+)", re.MULTILINE)
_TABLE = re.compile(r"^\d+; 1259 (\d+) TABLE ", re.MULTILINE)
_TABLE_DATA = re.compile(r"^(\d+); 0 (\d+) TABLE DATA ", re.MULTILINE)
"""Both with the table's OID. By pg_class's, 1259, a table of a schema "DATA" is told from rows."""


def names_zstd(head: bytes) -> bool:
    """Say whether the beginning of a ``toc.dat`` tells that pg_dump itself compressed by zstd.

    Args:
        head: `HEAD_BYTES` of it, or more.

    The method is there from archive version 1.15 (pg_dump 16) on, and only such a pg_dump has zstd.
    """
    return head[:5] == b"PGDMP" and head[5:7] >= b"\x01\x0f" and head[METHOD_AT] == ZSTD


def of_plain_files(toc: bytes) -> bytes:
    """Return a table of contents that names no compression, where pg_dump itself has compressed.

    A pg_restore without that method would refuse it, though it is given plain files.
    """
    return toc[:METHOD_AT] + b"\0" + toc[METHOD_AT + 1 :] if names_zstd(toc) else toc


def encoding_of(toc: bytes) -> str:
    """Return the encoding of a dump's texts, as PostgreSQL names it.

    Raises:
        ValueError: the table of contents does not tell it.
    """
    match = _ENCODING.search(toc)
    if not match:
        raise ValueError("it names no encoding")
    return match[1].decode("ascii")


def made_by(contents: str) -> int:
    """Return the major version of the pg_dump that made an archive; 0 if it is not told.

    Args:
        contents: what ``pg_restore --list`` says.
    """
    match = _MADE_BY.search(contents)
    return int(match[1]) if match else 0


def owns_all_tables(contents: str) -> bool:
    """Say whether an archive makes each table that it has rows of.

    It does not where an extension has made one and has marked it for dumps.

    Args:
        contents: what ``pg_restore --list`` says.
    """
    return {oid for _, oid in _TABLE_DATA.findall(contents)} <= set(_TABLE.findall(contents))


def tables_by_file(contents: str) -> dict[str, int]:
    """Return the OID of the table whose rows each data file holds, by the plain file's name.

    Args:
        contents: what ``pg_restore --list`` says.

    Source: pg_backup_directory.c: a table's file has its entry's number.
    """
    return {f"{number}.dat": int(oid) for number, oid in _TABLE_DATA.findall(contents)}


def with_frozen_rows(toc: bytes) -> bytes:
    """Return a table of contents whose rows are loaded by COPY FREEZE.

    They need no second writing of their pages for hint bits, nor a vacuum that freezes them. The
    server demands a table that the same transaction has made or emptied: pg_restore empties those
    that it has made itself, if it has several jobs (restore_toc_entry) and would write the
    statement's beginning as it stands (is_load_via_partition_root). One of another major version
    may not: it quotes names that have become keywords since.
    """
    return _COPY.sub(_freeze, toc)


def _freeze(match: re.Match[bytes]) -> bytes:
    before, copy = match.groups()
    text = copy + b" WITH (FREEZE);\n"
    return before + b"\0" + len(text).to_bytes(4, "little") + text
