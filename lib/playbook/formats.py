"""How numbers, times, sizes and paths are written in tables and in sentences. Layer 0."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

__all__ = ["bytes_text", "count", "moment", "seconds", "short_path"]


def count(number: int, noun: str = "", plural: str = "") -> str:
    """Return ``12,345`` or, with a noun, ``no rows``, ``1 row``, ``12,345 rows``."""
    if not noun:
        return f"{number:,}"
    nouns = noun if number == 1 else plural or f"{noun}s"
    return f"{number:,} {nouns}" if number else f"no {nouns}"


def seconds(value: float) -> str:
    """Return a duration as ``0.31 s``, ``4.2 min`` or ``1.5 h``."""
    if value < 59.995:
        return f"{value:.2f} s"
    return f"{value / 60:.1f} min" if value < 3597 else f"{value / 3600:.1f} h"


def bytes_text(size: int) -> str:
    """Return a size as ``512 bytes``, ``24 kB`` or ``1.2 MB``: powers of 1024."""
    if size < 1024:
        return f"{size} bytes"
    units = ["kB", "MB", "GB", "TB"]
    value = size / 1024
    while value >= 1023.95 and len(units) > 1:
        value /= 1024
        del units[0]
    return f"{value:.1f}".removesuffix(".0") + f" {units[0]}"


def moment(value: datetime | str) -> str:
    """Return a time as ``2026-11-23 08:00:00 UTC``; text that is no ISO 8601 time as it stands."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return str(value)
    return f"{value.astimezone(UTC) if value.tzinfo else value:%Y-%m-%d %H:%M:%S} UTC"


def short_path(path: Path | str, parts: int = 3) -> str:
    """Return the end of a path, so that no output tells where a home or a checkout is.

    Args:
        path: anything; it need not exist.
        parts: how many parts at most, where the path does not lead through ``runs`` or
            ``backups``: it then begins there.
    """
    named = [part for part in Path(path).parts if part != Path(path).anchor]
    known = [i for i, part in enumerate(named) if part in {"runs", "backups"}]
    return "/".join(named[known[-1] :] if known else named[-parts:])
