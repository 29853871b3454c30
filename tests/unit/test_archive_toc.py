"""What is changed in a copy of a dump's table of contents, and nothing else."""

from __future__ import annotations

import pytest

from playbook.archive_toc import made_by, owns_all_tables, with_frozen_rows


def string(text: str) -> bytes:
    """Return a text as an archive has it: sign, length in four bytes, bytes."""
    data = text.encode()
    return b"\0" + len(data).to_bytes(4, "little") + data


NOTHING = b"\1\1\0\0\0"
"""The number -1: a string that is not there."""


def table_data(statement: str, name: str = "t", schema: str = "public") -> bytes:
    """Return an archive's entry for a table's rows, from its name to its owner."""
    texts = (string(name), string("TABLE DATA"), b"\0\3\0\0\0", NOTHING, NOTHING)
    return b"".join((*texts, string(statement), string(schema), NOTHING, string("postgres")))


@pytest.mark.parametrize(
    "table",
    [
        "t (id)",
        "without_columns ",
        'ein ""Tisch"" ä" (id, "x FROM stdin;\n")',
        "t (" + ", ".join("abcdefgh") + ")",
    ],
)
def test_rows_are_loaded_frozen(table: str) -> None:
    copy = f"COPY public.{table} FROM stdin"

    changed = with_frozen_rows(table_data(f"{copy};\n") * 2)

    assert changed == table_data(f"{copy} WITH (FREEZE);\n") * 2


def test_names_and_texts_that_look_like_the_loading_of_rows_stay() -> None:
    name = "COPY t  FROM stdin;\n"
    toc = b"".join(
        (
            string("CREATE FUNCTION f() AS 'COPY t (id) FROM stdin;\n'"),
            string(name),
            table_data("COPY t TO stdout;\n", name, name),
        )
    )

    assert with_frozen_rows(toc) == toc


LIST = """;
; Archive created at 2026-01-01 10:00:00 UTC
;     dbname: Dumped by pg_dump version: 13
;     Dumped from database version: 15.14
;     Dumped by pg_dump version: 16.10 (Debian 16.10-1)
;
215; 1259 16385 TABLE public t owner
216; 1259 16390 TABLE other odd name owner
217; 0 16399 TABLE ATTACH public t_1 owner
218; 1259 16395 TABLE DATA public t owner
3343; 0 16385 TABLE DATA public t owner
3344; 0 16390 TABLE DATA other odd name owner
3345; 0 16395 TABLE DATA DATA public t owner
"""


def test_tables_that_an_extension_makes_are_not_the_archives_own() -> None:
    assert owns_all_tables(LIST)
    assert not owns_all_tables(LIST + "3346; 0 16410 TABLE DATA public spatial_ref_sys owner\n")
    assert not owns_all_tables(LIST + "3346; 0 16399 TABLE DATA public t_1 owner\n")


def test_version_of_the_pg_dump_is_read_from_the_list() -> None:
    assert made_by(LIST) == 16
    assert made_by("") == 0
