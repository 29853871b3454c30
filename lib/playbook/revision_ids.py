"""Ids of revisions: a project's own style, near misses, files under another name. Layer 1: pure."""

from __future__ import annotations

import difflib
import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence

from playbook.revision_files import RevisionFile

__all__ = ["ID_LENGTH", "nearest_id", "next_id", "renamed_file"]

ID_LENGTH = 32
"""What Alembic's version table has room for."""


def nearest_id(name: str, ids: Iterable[str]) -> str:
    """Return the id that is most like another name; "" if none is like it."""
    return next(iter(difflib.get_close_matches(name, list(ids), n=1, cutoff=0.6)), "")


def renamed_file(name: str, sha256: str, files: Sequence[RevisionFile]) -> RevisionFile | None:
    """Return the file that is a missing revision's under another id; None if none is.

    Its text with the missing id in place of its own has the hash that the missing file had.

    Args:
        name: the missing revision.
        sha256: of its file, as a run has noted it.
    """
    for one in files:
        text = one.text.replace(one.revision, name) if one.revision else one.text
        if hashlib.sha256(text.encode()).hexdigest() == sha256:
            return one
    return None


def next_id(ids: Sequence[str], message: str) -> str:
    """Return a new revision's id in the style of those that there are.

    ``003_add_tags`` after ``002_...``, ``0003`` after ``0002``, else twelve random hexadecimal
    digits, as Alembic makes them.
    """
    numbered = [re.match(r"(\d+)(_.*)?$", one) for one in ids]
    if not ids or not all(numbered):
        return secrets.token_hex(6)
    found = [one for one in numbered if one]
    width = max(len(one[1]) for one in found)
    number = f"{max(int(one[1]) for one in found) + 1:0{width}d}"
    if not all(one[2] for one in found):
        return number
    words = re.findall(r"[a-z0-9]+", message.lower())
    return "_".join([number, *(words or ["revision"])])[:ID_LENGTH].rstrip("_")
