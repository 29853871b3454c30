"""What a diagnosis stands on, and what follows from it: where, and of what half. Layer 4: pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from playbook.errors import PlaybookError
from playbook.records import History, RevisionGraph
from playbook.repairs import BrokenIndex, RevisionMatch, SchemaMatches, VersionTable
from playbook.revision_files import RevisionFile
from playbook.revision_ids import renamed_file
from playbook.revisions import applied
from playbook.schema_objects import Schema, SchemaDifference
from playbook.schemas import differences

__all__ = [
    "Evidence",
    "HalfApplied",
    "as_id",
    "candidates",
    "find_half_applied",
    "longest_id",
    "made_later",
    "place",
    "renamed",
    "unknown",
]

LEAST_LENGTH = 32
"""What Alembic gives the version table's column."""


@dataclass(frozen=True)
class Evidence:
    """All that a diagnosis stands on, read before it."""

    graph: RevisionGraph
    table: VersionTable
    tables: tuple[str, ...]
    """The user tables, but the version tables."""
    indexes: tuple[BrokenIndex, ...] = ()
    matches: SchemaMatches = SchemaMatches("")
    files: tuple[RevisionFile, ...] = ()
    """Where Alembic cannot load them; else, where a revision is missing."""
    problems: tuple[PlaybookError, ...] = ()
    history: History = History(())
    own: Schema = Schema(())
    """The database's schema, as its own server tells it."""


@dataclass(frozen=True)
class HalfApplied:
    """A revision of which parts are in the database although the version table does not tell it."""

    revision: str
    leftovers: tuple[SchemaDifference, ...]
    indexes: tuple[BrokenIndex, ...]


def place(evidence: Evidence) -> tuple[str, ...]:
    """Return the revisions that the version table names, each once, without what others stand on.

    A number is taken for the id that it is when zeros are put before it.
    """
    graph = evidence.graph
    named = {as_id(row, graph) for row in evidence.table.rows if row}
    below = {parent for one in named for parent in applied(replace(graph, current=(one,))) - {one}}
    return tuple(sorted(named - below))


def as_id(row: str, graph: RevisionGraph) -> str:
    """Return the id that a row means: a number may have lost the zeros before it."""
    ids = [one.revision for one in graph.revisions]
    same = [one for one in ids if one.isdecimal() and row.isdecimal() and int(one) == int(row)]
    return same[0] if row not in ids and len(same) == 1 else row


def unknown(evidence: Evidence) -> tuple[str, ...]:
    """Return the rows that no revision file has; none where the files could not be read."""
    ids = {one.revision for one in evidence.graph.revisions}
    return tuple(one for one in place(evidence) if one not in ids) if ids else ()


def longest_id(graph: RevisionGraph) -> int:
    """Return the characters that the version table must have room for."""
    return max([LEAST_LENGTH, *(len(one.revision) for one in graph.revisions)])


def renamed(evidence: Evidence, name: str) -> RevisionFile | None:
    """Return the file that a missing revision is now, under another id; None if none is."""
    for run in evidence.history.runs:
        for revision, sha256 in run.revision_files:
            if revision == name and (found := renamed_file(name, sha256, evidence.files)):
                return found
    return None


def candidates(evidence: Evidence) -> tuple[tuple[str, ...], ...]:
    """Return where the database can be by its schema: one place, or several of equal schema."""
    return tuple(one.revisions for one in evidence.matches.equal)


def find_half_applied(evidence: Evidence) -> HalfApplied | None:
    """Return the revision next to the database's place of which parts are there; None if none is.

    All that is more than the place's schema is then of that revision.
    """
    mine = evidence.matches.of(place(evidence))
    if mine is None:
        return None
    done = _done(evidence, mine)
    for match in evidence.matches.matches:
        more = _done(evidence, match) - done
        if len(more) != 1 or match.is_equal or not done <= _done(evidence, match):
            continue
        makes = {(d.kind, d.object): d for d in differences(mine.schema, match.schema)}
        indexes = tuple(one for one in evidence.indexes if ("index", one.index) in makes)
        ours = [makes.get((d.kind, d.object)) for d in mine.differences]
        same = all(
            made and made.after == d.after for made, d in zip(ours, mine.differences, strict=True)
        )
        if same and (mine.differences or indexes):
            return HalfApplied(next(iter(more)), mine.differences, indexes)
    return None


def _done(evidence: Evidence, match: RevisionMatch) -> frozenset[str]:
    return applied(replace(evidence.graph, current=match.revisions))


def made_later(evidence: Evidence, index: BrokenIndex) -> bool:
    """Say whether a pending revision makes an index, and none that is applied does."""
    mine = evidence.matches.of(place(evidence))
    if mine is None:
        return False
    makers = [
        one.revisions
        for one in evidence.matches.matches
        if any((o.kind, o.name) == ("index", index.index) for o in one.schema.objects)
    ]
    return bool(makers) and mine.revisions not in makers
