"""PostgreSQL's text format of COPY: how a value is written in a line of it."""

from __future__ import annotations

__all__ = ["copy_text"]


def copy_text(value: object) -> str:
    r"""Return a value as COPY's text format takes it: ``\N`` for None, control characters escaped.

    Source: https://www.postgresql.org/docs/current/sql-copy.html, "Text Format".
    """
    if value is None:
        return r"\N"
    text = str(value).replace("\\", r"\\").replace("\t", r"\t")
    return text.replace("\n", r"\n").replace("\r", r"\r")
