"""A draft's files put into the project, all of them or none. Layer 4."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from playbook.drafts import Draft
from playbook.errors import GuardRefused, PlaybookError, SettingsError, explain
from playbook.migrate import Alembic
from playbook.records import RevisionGraph, ServerInfo
from playbook.revisions import join
from playbook.targets import Target

__all__ = ["must_be_same_project", "place_texts"]


def must_be_same_project(target: Target, server: ServerInfo, graph: RevisionGraph) -> None:
    """Refuse if somebody added, removed or edited a revision file meanwhile.

    Args:
        graph: the project's revisions as the run has read them.

    Raises:
        GuardRefused: they are others now.
    """
    now = _graph(target, server)
    before = {(one.revision, one.sha256) for one in graph.revisions}
    if {(one.revision, one.sha256) for one in now.revisions} != before:
        raise GuardRefused(
            "The project's revision files changed since this run began, so the draft may not fit.",
            state="No file was put into the project.",
            remedy="Run the notebook's cells from the top.",
        )


def place_texts(
    target: Target, server: ServerInfo, draft: Draft, texts: Mapping[Path, str]
) -> None:
    """Write new files, and see that Alembic finds the revisions among them.

    **Effects**: the files, and the last folder of each path. None is ever replaced; if one cannot
    be written, or a revision does not load, all are taken away again.

    Raises:
        GuardRefused: so it was; the sentence says why.
    """
    written: list[Path] = []
    try:
        for path, text in texts.items():
            path.parent.mkdir(exist_ok=True)
            _place_whole(path, text, written)
        _must_load(target, server, draft)
    except BaseException as error:  # an interrupt, too, leaves all or nothing
        for path in written:
            path.unlink(missing_ok=True)
        if not isinstance(error, (OSError, PlaybookError)):
            raise
        reason = explain(error) if isinstance(error, PlaybookError) else f"{error}."
        raise GuardRefused(
            f"The revision could not be put into the project: {reason}",
            state="What had been written of it was taken away again.",
            remedy=f"The draft is in {draft.files[0].path.parent}.",
        ) from error


def _place_whole(path: Path, text: str, written: list[Path]) -> None:
    """Write a new file so that it is there whole or not at all, also after a kill.

    Args:
        written: gets what is to be taken away again after a failure.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")  # no name that Alembic reads
    written.append(unfinished)
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(unfinished, path)  # unlike a rename it replaces nothing
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        with path.open("x", encoding="utf-8", newline="") as file:
            written.append(path)
            file.write(text)
    written.append(path)
    unfinished.unlink()


def _must_load(target: Target, server: ServerInfo, draft: Draft) -> None:
    """See that the draft's revisions are there, and alone on what they follow.

    Raises:
        SettingsError: one is not, or somebody else's came at the same moment: there would be two
            heads.
    """
    found = _graph(target, server).revisions
    known = {one.revision for one in found}
    if lacking := [name for name in draft.revisions if name not in known]:
        raise SettingsError(f"Alembic does not find {join(lacking)} there.")
    others = [one for one in found if one.revision not in draft.revisions]
    if rivals := [one.revision for one in others if set(one.down_revisions) & set(draft.follows)]:
        raise SettingsError(
            f"{join(rivals)} came at the same moment, and follows {join(draft.follows)}, too."
        )


def _graph(target: Target, server: ServerInfo) -> RevisionGraph:
    with Alembic(target) as alembic:
        alembic.open(target, server, session={})
        return alembic.graph(current=False)
