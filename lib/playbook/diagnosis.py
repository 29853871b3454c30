"""What is wrong with a version table, told from what was read. Layer 4: reads nothing itself.

Each finding says what is wrong, what that means, and which remedy mends it; whether that remedy
can be had, `playbook.remedies` says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from playbook.broken_files import find_broken_files
from playbook.evidence import (
    Evidence,
    HalfApplied,
    as_id,
    candidates,
    find_half_applied,
    longest_id,
    made_later,
    place,
    renamed,
    unknown,
)
from playbook.formats import count
from playbook.records import Finding, Receipt, Severity
from playbook.repairs import BrokenIndex, RevisionMatch
from playbook.revision_ids import nearest_id
from playbook.revisions import applied, join
from playbook.version_table import room as version_room

__all__ = ["find_troubles"]

SHOWN = 4
"""How many differences a sentence names."""


def find_troubles(evidence: Evidence) -> list[Finding]:
    """Return what is wrong, the worst first; a single OK if nothing is."""
    found = [
        *_alembic(evidence),
        *_table(evidence),
        *_rows(evidence),
        *_unknown(evidence),
        *_form(evidence),
        *_elsewhere(evidence),
        *_schema(evidence),
        *_heads(evidence),
        *(_index(evidence, one) for one in evidence.indexes),
    ]
    order = list(reversed(Severity))
    return sorted(found, key=lambda one: order.index(one.severity)) or [
        Finding("version-table", Severity.OK, evidence.table.name, _healthy(evidence))
    ]


def _healthy(evidence: Evidence) -> str:
    here = join(place(evidence))
    if here == "base" and not evidence.tables:
        return "The database is empty, and nothing is wrong with that: `upgrade` or `init` is next."
    same = evidence.matches.of(place(evidence))
    schema = ", and the schema is that revision's" if same and same.is_equal else ""
    return f"Nothing is wrong: it names {here}{schema}; every index is valid."


def _alembic(evidence: Evidence) -> Iterator[Finding]:
    """Yield what keeps Alembic from reading the files, or the version table."""
    if not evidence.graph.revisions and (broken := find_broken_files(evidence.files)):
        yield from broken
        return
    if any((*_rows(evidence), *_form(evidence))):  # which say it better
        return
    for problem in evidence.problems:
        yield Finding(
            "alembic",
            Severity.STOP,
            "Alembic",
            problem.problem,
            problem.remedy,
            "Until this is mended no runbook can say what is pending.",
        )


def _table(evidence: Evidence) -> Iterator[Finding]:
    table = evidence.table
    named = [row for row in table.rows if row]
    if named or not evidence.tables or _base_fits(evidence):
        return
    what = count(len(evidence.tables), "table")
    if not table.exists:
        code, detail = "no-version-table", f"There is none, but {what}, made without Alembic."
    else:
        code = "no-rows"
        detail = f"It has no revision in it, but the database has {what}."
    yield Finding(
        code, Severity.STOP, table.name, f"{detail} {_by_schema(evidence)}",
        _how_to_stamp(evidence),
        "Alembic takes such a database for a new one, and would make everything again.",
    )  # fmt: skip


def _base_fits(evidence: Evidence) -> bool:
    """Say whether nothing in the database is of a revision, as far as that is known."""
    base = evidence.matches.of(())
    return bool(base and base.is_equal and len(evidence.matches.matches) > 1)


def _by_schema(evidence: Evidence) -> str:
    """Return what the schema tells of where the database is."""
    matches = evidence.matches
    if not matches.matches:
        return " ".join(matches.remarks) or "Its schema was not compared with the revisions'."
    if matches.equal:
        places = " and of ".join(join(one.revisions) for one in matches.equal)
        more = (
            "; which of them, no schema tells: they differ in rows only"
            if len(matches.equal) > 1
            else ""
        )
        return f"Its schema is that of {places}{more}."
    nearest = matches.nearest()
    if nearest is None:
        return ""
    return (
        f"Its schema is that of no revision; the nearest is {join(nearest.revisions)}, but for "
        f"{_named(nearest)}."
    )


def _named(match: RevisionMatch) -> str:
    """Return the differences of a match in words."""
    words = {"added": "not in the revision", "dropped": "missing", "changed": "different"}
    texts = [f"{d.kind} {d.object} ({words[d.change]})" for d in match.differences[:SHOWN]]
    more = len(match.differences) - SHOWN
    return ", ".join(texts) + (f" and {more} more" if more > 0 else "")


def _how_to_stamp(evidence: Evidence) -> str:
    places = candidates(evidence)
    if len(places) == 1 and places[0]:
        return "Write -r apply stamp: it writes that revision down, and runs nothing."
    known = places or (one.revisions for one in [evidence.matches.nearest()] if one)
    ids = " or ".join(join(one) for one in known) or "ID"
    return (
        "Decide which it is, then write -r apply stamp -r revision ID "
        f"({ids}): it writes that down, and runs nothing."
    )


def _rows(evidence: Evidence) -> Iterator[Finding]:
    table = evidence.table
    tidy = "Write -r apply tidy: the rows that say nothing go."
    if None in table.rows or "" in table.rows:
        others = join([row for row in table.rows if row]) if any(table.rows) else "nothing else"
        yield Finding(
            "null-row", Severity.STOP, table.name,
            f"It holds a row that names no revision (NULL or empty), and {others}.",
            tidy if any(table.rows) else _how_to_stamp(evidence),
            "Alembic stops at it, whatever it is asked.",
        )  # fmt: skip
    twice = [one for one, number in Counter(table.rows).items() if number > 1 and one]
    if twice:
        yield Finding(
            "duplicate-row", Severity.STOP, table.name, f"It holds {join(twice)} more than once.",
            tidy, "Alembic expects to change one row, finds several, and rolls back.",
        )  # fmt: skip
    here = place(evidence)
    named = {as_id(row, evidence.graph) for row in table.rows if row}
    for under in sorted(named - set(here)):
        above = [one for one in here if under in applied(replace(evidence.graph, current=(one,)))]
        yield Finding(
            "ancestor-row", Severity.STOP, table.name,
            f"It holds {under} beside {join(above)}, which already stands on it.", tidy,
            "Alembic keeps one row per branch: it would go on from both.",
        )  # fmt: skip


def _unknown(evidence: Evidence) -> Iterator[Finding]:
    for name in unknown(evidence):
        yield Finding(
            "unknown-revision", Severity.STOP, name,
            f"The database is at {name}, which no revision file has ({_file_of(evidence, name)}). "
            f"{_by_schema(evidence)}",
            _way_back(evidence, name),
            "Alembic cannot tell what is applied, and refuses everything.",
        )  # fmt: skip


def _file_of(evidence: Evidence, name: str) -> str:
    """Return what is known of the file of a missing revision."""
    run = _applied_by(evidence.history.runs, name)
    who = f"applied by {run.who} in the run {run.run_id}" if run else "no run here has applied it"
    found = renamed(evidence, name)
    if found:
        return f"{who}; {found.path.name} is that file, with the id {found.revision}"
    near = nearest_id(name, [one.revision for one in evidence.graph.revisions])
    return who + (f"; the id most like it is {near}" if near else "")


def _applied_by(runs: Sequence[Receipt], name: str) -> Receipt | None:
    return next((run for run in runs if any(step.revision == name for step in run.steps)), None)


def _way_back(evidence: Evidence, name: str) -> str:
    found = renamed(evidence, name)
    if found:
        return (
            f"Write -r apply stamp: the row becomes {found.revision}. Or give the file its old id "
            "back."
        )
    return (
        f"If version control has {name}'s file, bring it back (git log --all -- '*{name}*'). "
        f"If it is lost or was never meant to be: {_how_to_stamp(evidence)[0].lower()}"
        f"{_how_to_stamp(evidence)[1:]}"
    )


def _form(evidence: Evidence) -> Iterator[Finding]:
    table, longest = evidence.table, longest_id(evidence.graph)
    if not table.exists:
        return
    fix = "Write -r apply tidy: the table gets the form that Alembic makes, the rows stay."
    others = [name for name, *_ in table.columns if name != "version_num"]
    if not table.type:
        yield Finding(
            "no-version-column", Severity.STOP, table.name,
            f"It has no column version_num (but {join(others)}): Alembic did not make it.",
            _how_to_stamp(evidence) + " The table is kept, under another name.",
            "Alembic cannot read it.",
        )  # fmt: skip
        return
    length = version_room(table.type)
    if length is None:
        yield Finding(
            "column-type", Severity.STOP, table.name,
            f"version_num is of the type {table.type}, and ids are text.", fix,
            "Alembic compares ids as text, so it takes each for unknown, or fails.",
        )  # fmt: skip
    elif 0 < length < longest:
        yield Finding(
            "column-too-short", Severity.STOP, table.name,
            f"version_num has room for {length} characters, and the longest id has "
            f"{max(len(one.revision) for one in evidence.graph.revisions)}.", fix,
            "The revision runs to its end, and then fails as its id does not fit.",
        )  # fmt: skip
    not_null = next(null for name, _, null in table.columns if name == "version_num")
    if not table.key or not not_null:
        yield Finding(
            "no-primary-key", Severity.WARN, table.name,
            "version_num has no primary key." if not table.key else "version_num may be NULL.",
            fix, "Nothing keeps a row from coming twice, or without a revision.",
        )  # fmt: skip


def _elsewhere(evidence: Evidence) -> Iterator[Finding]:
    ids = {one.revision for one in evidence.graph.revisions}
    for other, rows in evidence.table.others:
        ours = [row for row in rows if row in ids]
        if ours and len(ours) == len(rows) and not any(evidence.table.rows):
            yield Finding(
                "other-schema", Severity.STOP, other,
                f"It holds {join(ours)}, while env.py looks in {evidence.table.name}, which "
                + ("is empty." if evidence.table.exists else "does not exist."),
                f"Write -r apply move: the table goes to {evidence.table.name}. Or let env.py set "
                "version_table_schema, or the role its search_path.",
                "Alembic takes the database for a new one, and would make everything again.",
            )  # fmt: skip


def _schema(evidence: Evidence) -> Iterator[Finding]:
    """Yield how the schema contradicts the version table, where both say something."""
    here = place(evidence)
    if unknown(evidence) or not any(evidence.table.rows) or not evidence.graph.revisions:
        return
    mine = evidence.matches.of(here)
    half = find_half_applied(evidence)
    if half:
        yield _half(evidence, half)
    elif mine and not mine.is_equal:
        equal = evidence.matches.equal
        yield _other_place(evidence, here, equal) if equal else _drifted(evidence, mine)


def _half(evidence: Evidence, half: HalfApplied) -> Finding:
    parts = [f"{one.kind} {one.object}" for one in half.leftovers]
    parts += [f"invalid index {one.index}" for one in half.indexes]
    run = next((r for r in evidence.history.runs if r.under_way == half.revision), None)
    how = f"The run {run.run_id} left it so" if run else "It commits parts of itself"
    return Finding(
        "half-applied", Severity.STOP, half.revision,
        f"It is half-applied: the version table does not name it, and of what it makes there is "
        f"{', '.join(parts)}. {how}.",
        "Write -r apply undo-leftovers to take them away (where it is offered below), then run "
        "`upgrade` again; or finish it by hand.",
        "Run again as it is, the revision stops at what is there already.",
    )  # fmt: skip


def _other_place(
    evidence: Evidence, here: tuple[str, ...], equal: Sequence[RevisionMatch]
) -> Finding:
    there = equal[-1].revisions
    above = applied(replace(evidence.graph, current=there))
    behind = set(here) <= above
    code = "version-behind-schema" if behind else "version-ahead-of-schema"
    why = (
        "`upgrade` would run again what is there already, and stop at it."
        if behind
        else "The application is promised what is not there, and a rollback undoes what never was."
    )
    return Finding(
        code, Severity.STOP, evidence.table.name,
        f"It names {join(here)}, but {_by_schema(evidence)[0].lower()}{_by_schema(evidence)[1:]}",
        _how_to_stamp(evidence), why,
    )  # fmt: skip


def _drifted(evidence: Evidence, mine: RevisionMatch) -> Finding:
    return Finding(
        "schema-differs", Severity.WARN, join(mine.revisions),
        f"The schema is not the revision's: {_named(mine)}.",
        "Somebody changed it by hand: undo that, or put it into a new revision (`author`).",
        "A later revision meets something else than it was written for.",
    )  # fmt: skip


def _heads(evidence: Evidence) -> Iterator[Finding]:
    heads = evidence.graph.heads
    if len(heads) > 1:
        yield Finding(
            "several-heads", Severity.WARN, join(heads),
            f"The revision files end in {len(heads)} heads.",
            "If they are to go on as one, write -r apply merge: it writes a file by the project's "
            "script.py.mako, and leaves the database alone. Branches that are meant need nothing: "
            "-r target heads.",
            "`head` names no single revision, so Alembic refuses it.",
        )  # fmt: skip


def _index(evidence: Evidence, one: BrokenIndex) -> Finding:
    return Finding(
        "invalid-index", Severity.WARN, one.index, _index_detail(evidence, one),
        _index_remedy(evidence, one),
        "It slows every write and serves no query; a unique one does not guard.",
    )  # fmt: skip


def _index_detail(evidence: Evidence, one: BrokenIndex) -> str:
    if one.builder_pid:
        return f"It is being built at this moment, by the session with pid {one.builder_pid}."
    if one.kind == "copy":
        return "It is what a REINDEX CONCURRENTLY that failed has left."
    if one.duplicates:
        return f"Rows of {one.table} break it: {'; '.join(one.duplicates)}."
    if one.kind == "partitioned":
        lacking = (
            f"{join(one.missing)} has no index of it" if one.missing else "of its partitions' "
        )
        return f"It is not valid: {lacking}{'' if one.missing else 'indexes one is not valid'}."
    later = f", and {_maker(evidence, one)} makes it" if made_later(evidence, one) else ""
    return f"A concurrent build of it failed, on {one.table}{later}."


def _maker(evidence: Evidence, index: BrokenIndex) -> str:
    half = find_half_applied(evidence)
    return half.revision if half and index in half.indexes else "a pending revision"


def _index_remedy(evidence: Evidence, one: BrokenIndex) -> str:
    if one.builder_pid:
        return "Wait until it has ended, then run this again."
    if one.kind == "copy":
        return "Write -r apply drop-indexes."
    if one.duplicates:
        away = "" if one.constraint else ", or write -r apply drop-indexes to be rid of it"
        return f"Correct those rows, then write -r apply reindex{away}."
    if one.kind == "partitioned":
        return "Write -r apply reindex: partitions get what they lack, concurrently."
    if made_later(evidence, one):
        return "Write -r apply drop-indexes, then let `upgrade` make it."
    return "Write -r apply reindex (or rebuild: dropped and built, without REINDEX)."
