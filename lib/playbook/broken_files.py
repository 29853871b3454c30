"""What is wrong with revision files that Alembic does not load, by file. Layer 1: pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from playbook.records import Finding, Severity
from playbook.revision_files import RevisionFile
from playbook.revision_ids import nearest_id
from playbook.revisions import join

__all__ = ["find_broken_files"]

WHY = "Alembic loads all files or none: until this is mended no runbook can say what is pending."


def find_broken_files(files: Sequence[RevisionFile]) -> list[Finding]:
    """Return a finding for each file, or pair or circle of files, that keeps Alembic from loading.

    Alembic itself names the first one only, and some not at all.
    """
    return [
        *_unreadable(files),
        *_without_id(files),
        *_twice(files),
        *_without_parent(files),
        *_circles(files),
    ]


def _finding(code: str, subject: str, detail: str, remedy: str) -> Finding:
    return Finding(code, Severity.STOP, subject, detail, remedy, WHY)


def _unreadable(files: Sequence[RevisionFile]) -> Iterator[Finding]:
    for one in files:
        if one.error:
            line = f", line {one.line}" if one.line else ""
            # Python's own text names the path, which may be long and is known already.
            said = one.error.replace(str(one.path), one.path.name)
            yield _finding(
                "file-does-not-load",
                f"{one.path.name}{line}",
                f"It cannot be loaded: {said}.",
                "Correct it there; if nobody has applied it yet, delete it and make it again with "
                "`author`.",
            )


def _without_id(files: Sequence[RevisionFile]) -> Iterator[Finding]:
    for one in files:
        if one.error:
            continue
        lacking = [
            name
            for name, there in (
                ("revision", bool(one.revision)),
                ("down_revision", one.has_down_revision),
            )
            if not there
        ]
        if lacking:
            yield _finding(
                "file-without-id",
                one.path.name,
                f"It sets no {' and no '.join(lacking)}.",
                'Write revision = "ID" and down_revision = "ID OF THE ONE BEFORE" (None for the '
                "first) into it; if it is no revision, move it elsewhere.",
            )


def _twice(files: Sequence[RevisionFile]) -> Iterator[Finding]:
    by_id: dict[str, list[RevisionFile]] = defaultdict(list)
    for one in files:
        if one.revision:
            by_id[one.revision].append(one)
    for name, same in by_id.items():
        if len(same) > 1:
            equal = len({one.sha256 for one in same}) == 1
            yield _finding(
                "id-used-twice",
                join([one.path.name for one in same]),
                f"All of them are the revision {name}"
                + (", with the same content." if equal else ", with different content."),
                "Delete the copy." if equal else "Give the later one an id of its own, and let it "
                "stand on the other (down_revision).",
            )  # fmt: skip


def _without_parent(files: Sequence[RevisionFile]) -> Iterator[Finding]:
    ids = {one.revision for one in files if one.revision}
    # Of a file that does not load the id is not known: it may be the missing one.
    unread = [one.path.name for one in files if one.error or not one.revision]
    for one in files:
        for parent in one.down_revisions:
            if parent not in ids and not any(name in ids for name in _prefixed(parent, ids)):
                near = nearest_id(parent, ids - {one.revision})
                hint = f"Did it mean {near}? " if near else ""
                maybe = f"It may be in {join(unread)}, which cannot be read. " if unread else ""
                yield _finding(
                    "parent-missing",
                    one.path.name,
                    f"{one.revision or 'It'} stands on {parent}, which no file has.",
                    f"{hint}{maybe}Bring that file back (version control has it), or correct "
                    "down_revision.",
                )


def _prefixed(parent: str, ids: set[str]) -> list[str]:
    """Return the ids that a shortened one means."""
    return [one for one in ids if one.startswith(parent)]


def _circles(files: Sequence[RevisionFile]) -> Iterator[Finding]:
    """Yield the circle of revisions that stand on each other, if there is one."""
    below = {one.revision: set(one.down_revisions) for one in files if one.revision}
    while True:
        free = [name for name, parents in below.items() if not parents & below.keys()]
        if not free:
            break
        for name in free:
            del below[name]
    if not below:
        return
    # What stands on a circle without being of it, nobody of the rest stands on.
    while leaves := [name for name in below if not any(name in down for down in below.values())]:
        for name in leaves:
            del below[name]
    yield _finding(
        "circle",
        join(sorted(below)),
        "They stand on each other in a circle, so none of them is the first.",
        "Correct the down_revision of the one that is really the earliest (None, or the one "
        "before it).",
    )
