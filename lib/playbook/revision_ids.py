"""Ids of missing revisions: near misses, and files under another name. Layer 1: pure."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Sequence

from playbook.revision_files import RevisionFile

__all__ = ["nearest_id", "renamed_file"]


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
