"""What can be done about a diagnosis: each remedy with its exact effect and way back. Layer 4.

Reads; nothing is run here but the questions that a remedy's SQL depends on.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.database import fetch_value, identifier
from playbook.errors import MigrationFailed, SettingsError
from playbook.evidence import (
    Evidence,
    candidates,
    find_half_applied,
    longest_id,
    made_later,
    place,
    renamed,
    unknown,
)
from playbook.index_repair import (
    build_statement,
    drop_statements,
    rebuild_statements,
    reindex_statements,
)
from playbook.migrate import Alembic
from playbook.repairs import BrokenIndex, Remedies, Remedy
from playbook.revision_names import next_id
from playbook.revisions import join
from playbook.schema_objects import SchemaDifference
from playbook.version_table import is_sound, move, rewrite

__all__ = ["NAMES", "list_remedies", "parse_revisions"]

NAMES = (
    "stamp", "tidy", "move", "merge", "undo-leftovers", "reindex", "rebuild", "drop-indexes",
)  # fmt: skip
MERGE_MESSAGE = "merge heads"


def parse_revisions(text: str, evidence: Evidence) -> tuple[str, ...]:
    """Return the revisions that the parameter ``revision`` names; none for "".

    Raises:
        SettingsError: no file has one of them, or one stands on another.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    ids = [one.revision for one in evidence.graph.revisions]
    strange = [name for name in names if name not in ids]
    if strange:
        raise SettingsError(
            f"revision={text!r}: no revision file has {join(strange)}.",
            remedy=f"Write -r revision with one of: {', '.join(ids[-12:]) or 'none is known'}.",
        )
    return names


def list_remedies(
    connection: Connection,
    evidence: Evidence,
    alembic: Alembic,
    *,
    revisions: tuple[str, ...] = (),
    message: str = "",
) -> Remedies:
    """Return what can be done, in the order in which it is best done.

    Args:
        connection: a read-only session on the target.
        revisions: which ones to stamp, where somebody has decided it.
        message: of the file that merges several heads.
    """
    return Remedies((
        *_tidy(connection, evidence),
        *_move(connection, evidence),
        *_stamp(connection, evidence, revisions),
        *_undo_leftovers(connection, evidence),
        *_indexes(connection, evidence),
        *_merge(evidence, alembic, message),
    ))  # fmt: skip


def _tidy(connection: Connection, evidence: Evidence) -> Iterator[Remedy]:
    """Yield what brings rows and form in order where it is known where the database is."""
    table, here = evidence.table, place(evidence)
    if not table.type or not here:
        return
    longest = longest_id(evidence.graph)
    if is_sound(table, longest) and list(table.rows) == sorted(here):
        return
    statements, undo = rewrite(connection, table, here, longest=longest)
    yield Remedy(
        "tidy",
        f"Gives {table.name} the form and the rows that Alembic makes: {join(here)}.",
        statements,
        undo,
        revisions=here,
    )


def _move(connection: Connection, evidence: Evidence) -> Iterator[Remedy]:
    ids = {one.revision for one in evidence.graph.revisions}
    ours = [
        (other, rows)
        for other, rows in evidence.table.others
        if rows and all(row in ids for row in rows)
    ]
    if any(evidence.table.rows) or len(ours) != 1:
        return
    other, rows = ours[0]
    statements, undo = move(connection, evidence.table, other)
    named = tuple(row for row in rows if row)
    yield Remedy(
        "move",
        f"Brings {other} to where env.py looks: {evidence.table.name}.",
        statements,
        undo,
        revisions=named,
    )


def _stamp(
    connection: Connection, evidence: Evidence, revisions: tuple[str, ...]
) -> Iterator[Remedy]:
    wanted = revisions or _by_evidence(evidence)
    if not wanted or sorted(wanted) == sorted(row or "" for row in evidence.table.rows):
        return
    longest = longest_id(evidence.graph)
    statements, undo = rewrite(connection, evidence.table, wanted, longest=longest)
    yield Remedy(
        "stamp",
        f"Writes down that the database is at {join(wanted)}; runs no revision.",
        statements,
        undo,
        revisions=wanted,
    )


def _by_evidence(evidence: Evidence) -> tuple[str, ...]:
    """Return where the database is, if only one place fits; () if that must be decided."""
    here, missing = place(evidence), unknown(evidence)
    new_ids = {name: renamed(evidence, name) for name in missing}
    if missing and all(new_ids.values()):
        return tuple(found.revision if (found := new_ids.get(one)) else one for one in here)
    if find_half_applied(evidence) or (not evidence.tables and not missing):
        return ()
    places = candidates(evidence)
    if not missing and any(sorted(one) == sorted(here) for one in places):
        return ()
    return places[0] if len(places) == 1 else ()


def _undo_leftovers(connection: Connection, evidence: Evidence) -> Iterator[Remedy]:
    half = find_half_applied(evidence)
    if not half:
        return
    pairs = [_take_away(connection, one) for one in half.leftovers]
    if not all(pairs):  # a table or a type: whether it may go, somebody must look
        return
    broken = drop_statements(connection, half.indexes)
    # Indexes first, then constraints, then the columns that they are on.
    order = {"index": 0, "constraint": 1, "column": 2}
    known = sorted(
        zip(half.leftovers, pairs, strict=True), key=lambda pair: order.get(pair[0].kind, 3)
    )
    steps = [pair[0] for _, pair in known if pair]
    back = [pair[1] for _, pair in reversed(known) if pair]
    yield Remedy(
        "undo-leftovers",
        f"Takes away what {half.revision} has left, so that it can be run again.",
        (*broken, *steps),
        tuple(back),
        in_transaction=False,
    )


def _take_away(connection: Connection, one: SchemaDifference) -> tuple[str, str] | None:
    """Return the statement that drops a leftover which holds no value, and the one back."""
    if one.change != "added":
        return None
    if one.kind == "index":
        drop = sql.SQL("DROP INDEX CONCURRENTLY {};").format(identifier(one.object))
        build = build_statement(BrokenIndex("", one.object, one.after))
        return drop.as_string(connection), build
    if one.kind not in {"column", "constraint"}:
        return None
    schema, table, name = one.object.split(".", 2)
    relation, own = sql.Identifier(schema, table), sql.Identifier(name)
    if one.kind == "constraint":
        drop = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {};").format(relation, own)
        add = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} ").format(relation, own)
        return drop.as_string(connection), f"{add.as_string(connection)}{one.after};"
    question = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {} IS NOT NULL)").format(relation, own)
    if fetch_value(connection, question):
        return None
    drop = sql.SQL(
        "DO $$BEGIN LOCK TABLE {0}; IF EXISTS (SELECT FROM {0} WHERE {1} IS NOT NULL) THEN "
        "RAISE EXCEPTION 'it holds values now'; END IF; ALTER TABLE {0} DROP COLUMN {1}; END$$;"
    ).format(relation, own)
    add = sql.SQL("ALTER TABLE {} ADD COLUMN {} ").format(relation, own)
    return drop.as_string(connection), f"{add.as_string(connection)}{one.after};"


def _indexes(connection: Connection, evidence: Evidence) -> Iterator[Remedy]:
    idle = [one for one in evidence.indexes if not one.builder_pid]
    half = find_half_applied(evidence)
    later = [one for one in idle if made_later(evidence, one)]
    sound = [one for one in idle if one.kind != "copy" and not one.duplicates and one not in later]
    statements = reindex_statements(connection, sound)
    if statements:
        yield Remedy(
            "reindex",
            f"Builds {_names(sound)} again, without stopping readers or writers.",
            statements,
            in_transaction=False,
        )
    plain = [one for one in sound if one.kind == "index" and not one.constraint]
    if plain:
        yield Remedy(
            "rebuild",
            f"Drops {_names(plain)} and builds it by its definition, without REINDEX.",
            rebuild_statements(connection, plain),
            in_transaction=False,
        )
    away = [
        one
        for one in idle
        if (one.kind == "copy" or one in later or one.duplicates)
        and not one.constraint
        and not (half and one in half.indexes and not _stays(half.leftovers))
    ]
    if away:
        yield Remedy(
            "drop-indexes",
            f"Drops {_names(away)}.",
            drop_statements(connection, away),
            # One that rows break could not be built again.
            tuple(
                build_statement(one) for one in away if one.kind == "index" and not one.duplicates
            ),
            in_transaction=False,
        )


def _stays(leftovers: Sequence[SchemaDifference]) -> bool:
    """Say whether a half-applied revision left an index alone, or more than can be taken away."""
    return not leftovers or any(one.kind not in {"column", "constraint"} for one in leftovers)


def _names(indexes: Sequence[BrokenIndex]) -> str:
    return ", ".join(one.index for one in indexes)


def _merge(evidence: Evidence, alembic: Alembic, message: str) -> Iterator[Remedy]:
    heads = evidence.graph.heads
    if len(heads) < 2:
        return
    said = message or MERGE_MESSAGE
    name = next_id(said, [one.revision for one in evidence.graph.revisions]) or secrets.token_hex(6)
    try:
        path, text = alembic.merge_text(heads, name, said)
    except MigrationFailed:  # the project has no template; the finding says that it needs one
        return
    yield Remedy(
        "merge",
        f"Writes {path.name}, a revision that stands on {join(heads)}; the database is left alone.",
        file=path,
        text=text,
    )
