"""Which revision's schema a database has: each one built on an empty database, and compared.

Layer 4. The target is only read. Where its server is of another version than the one on which the
revisions are built, its schema is copied there first, so that both are told by the same server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from playbook.database import connect, server_info
from playbook.dump import dump_schema, find_client_tools, load_sql
from playbook.errors import BackupFailed, PlaybookError, explain
from playbook.migrate import Alembic
from playbook.records import RevisionGraph
from playbook.repairs import RevisionMatch, SchemaMatches
from playbook.revisions import applied
from playbook.sandbox import ensure_server
from playbook.schema_objects import COLUMN_ORDER, Schema, SchemaDifference, SchemaObject
from playbook.schemas import differences, read_schema
from playbook.scratch import in_sandbox, on_server
from playbook.targets import Target

__all__ = ["PLACES", "compare_with_revisions", "match", "read_own_schema"]

PLACES = ("sandbox", "server")
LESSER = frozenset({
    COLUMN_ORDER, "comment", "default privilege", "extension", "owner", "privilege", "schema",
})  # fmt: skip
"""Kinds by which no revision is told: they are made by hand as well, or differ by server."""
INVALID = " INVALID"
QUIET_S = 2.0
"""How long nothing is said of building that goes on, and then how often something is."""

Built = list[tuple[tuple[str, ...], Schema]]
Progress = Callable[[str], None]


def compare_with_revisions(
    target: Target,
    graph: RevisionGraph,
    *,
    place: str = "sandbox",
    left_out: Sequence[str] = (),
    on_progress: Progress = lambda text: None,
) -> SchemaMatches:
    """Return how the database's schema differs from that of each revision.

    **Effects**: scratch databases on the sandbox's server, or on the target's own, dropped at the
    end; the target itself is only read.

    Args:
        place: ``sandbox``, or ``server`` for the target's own.
        left_out: relations that do not count, as ``schema.table``: the version tables.

    Returns:
        One match per place in the graph, in upgrade order, base first. What cannot be built is
        left out, and a remark says why.
    """
    where = "the sandbox" if place == "sandbox" else f"the server of {target.label}"
    remarks: list[str] = []
    built: Built = []
    try:
        own = _own_schema(target, place, left_out, remarks)
        for stretch in _stretches(graph):
            with _scratch(target, place) as empty:
                _build(empty, stretch, left_out, built, remarks, on_progress)
    except PlaybookError as error:
        other = " Write -r place server to build them beside the database." * (place == "sandbox")
        return SchemaMatches(where, remarks=(f"Nothing could be built: {explain(error)}{other}",))
    return match(own, built, where=where, remarks=remarks)


@contextmanager
def _scratch(target: Target, place: str) -> Iterator[Target]:
    with in_sandbox(target) if place == "sandbox" else on_server(target) as scratch:
        yield scratch


def read_own_schema(target: Target, left_out: Sequence[str]) -> Schema:
    """Return the target's schema, as its own server tells it."""
    with connect(target, read_only=True) as connection:
        return read_schema(connection, left_out=left_out)


def _own_schema(target: Target, place: str, left_out: Sequence[str], remarks: list[str]) -> Schema:
    """Return the target's schema in the words of the server on which the revisions are built."""
    with connect(target, read_only=True) as connection:
        number = server_info(connection).version_num
    here = ensure_server(target.project).version if place == "sandbox" else number // 10000
    if here == number // 10000:
        return read_own_schema(target, left_out)
    try:
        tools = find_client_tools(max(number, here * 10000))
        schema = dump_schema(target, tools=tools)
        with in_sandbox(target) as scratch:
            load_sql(schema, scratch, tools=tools)
            return read_own_schema(scratch, left_out)
    except BackupFailed as error:
        remarks.append(
            f"The schema does not load on PostgreSQL {here} ({error.problem}), so it is compared "
            f"as PostgreSQL {number // 10000} words it."
        )
    return read_own_schema(target, left_out)


def _stretches(graph: RevisionGraph) -> list[list[str]]:
    """Return the revisions to upgrade to, in stretches that each begin on an empty database.

    In one stretch each stands on all before it, so that every revision is once the only head.
    """
    found: list[list[str]] = []
    done: frozenset[str] = frozenset()
    for revision in graph.revisions:
        below = applied(replace(graph, current=(revision.revision,)))
        if not found or not done <= below:
            found.append([])
        found[-1].append(revision.revision)
        done = below
    if len(graph.heads) > 1:
        found[-1].append("heads")
    return found or [[]]


def _build(
    empty: Target,
    stretch: Sequence[str],
    left_out: Sequence[str],
    built: Built,
    remarks: list[str],
    on_progress: Progress,
) -> None:
    """Upgrade an empty database along a stretch, and read its schema at each place."""
    with ExitStack() as stack:
        connection = stack.enter_context(connect(empty, read_only=True))
        if not built:
            built.append(((), read_schema(connection, left_out=left_out)))
        alembic = stack.enter_context(Alembic(empty))
        alembic.open(empty, server_info(connection), session={})
        current: tuple[str, ...] = ()
        said = time.monotonic()
        for goal in stretch:
            try:
                for step in alembic.plan("upgrade", goal, current):
                    revision = step.revision
                    alembic.run(step, expected_current=current, session={})
                    current = alembic.current()
                    if sorted(current) not in [sorted(known) for known, _ in built]:
                        built.append((current, read_schema(connection, left_out=left_out)))
                    if time.monotonic() - said > QUIET_S:
                        said = time.monotonic()
                        on_progress(f"building revisions: {revision} is built")
            except PlaybookError as error:
                remarks.append(
                    f"{revision} cannot be built on an empty database, so neither it nor what "
                    f"stands on it is compared: {explain(error)}"
                )
                return


def match(own: Schema, built: Built, *, where: str, remarks: Sequence[str] = ()) -> SchemaMatches:
    """Return how a schema differs from each of some others.

    An index that is not valid counts as the one that it was to become, where there is such a one,
    and else not at all. Objects that none of the others knows are named once, and do not count.
    """
    known = {one.name for _, schema in built for one in schema.objects if _is_top(one)}
    tops = _tops(own)
    foreign = {one for one in tops.values() if one not in known}
    ours = [one for one in own.objects if tops[one.kind, one.name] not in foreign]
    return SchemaMatches(
        where=where,
        matches=tuple(_match(ours, own, place, schema) for place, schema in built),
        foreign=tuple(sorted(one for one in foreign if one != "public")),
        remarks=tuple(remarks),
    )


def _is_top(one: SchemaObject) -> bool:
    return not one.parent or one.parent == one.name


def _tops(schema: Schema) -> dict[tuple[str, str], str]:
    """Return the name of the object that each object is, at last, a part of."""
    parents = {one.name: one.parent for one in schema.objects if not _is_top(one)}
    found = {}
    for one in schema.objects:
        name = one.name if _is_top(one) else one.parent
        while name in parents:
            name = parents[name]
        found[one.kind, one.name] = name
    return found


def _match(
    ours: Sequence[SchemaObject], own: Schema, place: tuple[str, ...], expected: Schema
) -> RevisionMatch:
    there = {(one.kind, one.name) for one in expected.objects}
    objects = []
    for one in ours:
        if one.kind == "index" and one.definition.endswith(INVALID):
            if (one.kind, one.name) not in there:
                continue
            one = replace(one, definition=one.definition.removesuffix(INVALID))
        objects.append(one)
    found = differences(expected, Schema(tuple(objects), own.columns))
    return RevisionMatch(
        revisions=place,
        differences=tuple(d for d in found if not _is_lesser(d)),
        lesser=tuple(d for d in found if _is_lesser(d)),
        schema=expected,
    )


def _is_lesser(difference: SchemaDifference) -> bool:
    return difference.kind in LESSER
