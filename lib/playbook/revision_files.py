"""A revision file as it stands by itself, whether or not Alembic loads it. Layer 0."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["RevisionFile"]


@dataclass(frozen=True)
class RevisionFile:
    """One file of a versions folder.

    ``revision`` is "" where the file names none; ``error`` is why it cannot be loaded, "" if it
    can, and ``line`` where, 0 if that is not known.
    """

    path: Path
    sha256: str
    text: str
    revision: str
    down_revisions: tuple[str, ...]
    has_down_revision: bool
    error: str = ""
    line: int = 0
