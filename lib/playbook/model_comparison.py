"""The models against a database, and the revision file that follows from it. Layer 4.

What a revision must do is the difference between the models and what the revisions before it
build, whatever this or that database has besides. So the comparison is made with a scratch
database of the sandbox that those revisions have built; where they cannot (some projects expect
tables that the application made, or extensions), with the target itself, which is only read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psycopg2 import sql
from psycopg2.errors import Error as DriverError

from playbook.catalog import installed_extensions
from playbook.check_skeletons import make_skeleton
from playbook.database import connect, server_info
from playbook.drafts import CheckSkeleton, Draft, DraftFile, ModelChanges, Unseen
from playbook.errors import MigrationFailed, PlaybookError, SettingsError, explain
from playbook.known import read_known
from playbook.migrate import Alembic
from playbook.model_words import find_renames, tell_changes
from playbook.records import RevisionGraph
from playbook.revision_names import next_id, suggest_message
from playbook.schema_facts import compare_facts, mentions, read_facts
from playbook.scratch import in_sandbox
from playbook.targets import Target

__all__ = ["AGAINST", "Compared", "Wanted", "check_draft", "compare_models"]

AGAINST = ("auto", "revisions", "target")


@dataclass(frozen=True)
class Wanted:
    """What is asked for: the parameters of a new revision."""

    message: str
    autogenerate: bool
    head: str
    branch_label: str
    rev_id: str
    against: str


@dataclass(frozen=True)
class Compared:
    """What came of it; ``operations`` are Alembic's, as data."""

    changes: ModelChanges
    operations: tuple[Mapping[str, Any], ...]
    draft: Draft | None
    """None where there is nothing to write."""
    checks: CheckSkeleton = CheckSkeleton("", "")


def compare_models(
    target: Target, graph: RevisionGraph, wanted: Wanted, make_folder: Callable[[], Path]
) -> Compared:
    """Compare the models with what the revisions build, and write the draft of a new one.

    **Effects**: scratch databases in the sandbox, dropped again; files in the folder that
    ``make_folder`` makes, which is called only when there is something to write.

    Raises:
        SettingsError: env.py, the models or the template cannot be used.
    """
    with _place(target, graph, wanted) as (place, compared_with, remarks):
        with _opened(place) as alembic:
            message = wanted.message
            raw = _ask(alembic, graph, wanted, message)
            operations = tuple(raw["operations"])
            if not message and operations:  # it has to be called something: a draft's name
                message = suggest_message(operations)
                raw = _ask(alembic, graph, wanted, message)
            unseen: tuple[Unseen, ...] = ()
            if wanted.autogenerate:
                unseen = find_renames(operations)
                found, remark = _look_beyond(target, place, raw)
                unseen, remarks = (*unseen, *found), (*remarks, *remark)
            changes = ModelChanges(tell_changes(operations), unseen, compared_with, remarks)
            is_blank = not wanted.autogenerate and bool(wanted.message)
            if not operations and not is_blank:
                return Compared(changes, (), None)
            draft = _write(alembic, raw, wanted, message, make_folder(), graph)
        if compared_with == "revisions":
            draft = _with_remaining(place, draft)
        with connect(place, read_only=True) as connection:
            keys = read_known(connection).keys
        checks = make_skeleton(draft.revisions[-1], operations, keys)
        return Compared(changes, operations, draft, checks)


def _ask(alembic: Alembic, graph: RevisionGraph, wanted: Wanted, message: str) -> Mapping[str, Any]:
    known = [revision.revision for revision in graph.revisions]
    return alembic.compare_models(
        message=message,
        autogenerate=wanted.autogenerate,
        head=wanted.head or "head",
        branch_label=wanted.branch_label,
        rev_id=wanted.rev_id or next_id(message, known),
    )


def _write(
    alembic: Alembic,
    raw: Mapping[str, Any],
    wanted: Wanted,
    message: str,
    folder: Path,
    graph: RevisionGraph,
) -> Draft:
    made = alembic.write_draft(folder)
    if not made:
        raise SettingsError("The project's template wrote no revision that Alembic can load.")
    return Draft(
        files=tuple(DraftFile(name, path, path.read_text("utf-8")) for name, path in made),
        destination=Path(raw["destination"]),
        message=message,
        follows=(wanted.head,) if wanted.head else graph.heads,
    )


@contextmanager
def _place(
    target: Target, graph: RevisionGraph, wanted: Wanted
) -> Iterator[tuple[Target, str, tuple[str, ...]]]:
    """Yield what the models are compared with, its name, and why it is not another."""
    if not wanted.autogenerate:
        yield target, "nothing", ()
        return
    remarks: tuple[str, ...] = ()
    with ExitStack() as stack:
        if wanted.against != "target":
            try:
                yield_this = stack.enter_context(_built(target))
            except PlaybookError as error:
                if wanted.against == "revisions":
                    raise SettingsError(
                        f"The revisions cannot build a scratch database: {explain(error)}",
                        remedy="Leave out against, and the target itself is compared.",
                    ) from error
                remarks = (
                    "The revisions cannot build a scratch database, so the target itself was "
                    f"compared, with all that it has besides: {explain(error)}",
                )
            else:
                yield yield_this, "revisions", ()
                return
        yield target, "target", remarks


@contextmanager
def _built(target: Target) -> Iterator[Target]:
    """Make a scratch database and let the project's revisions build it, from nothing to head."""
    with in_sandbox(target) as copy:
        with _opened(copy) as alembic:
            current: tuple[str, ...] = ()
            for step in alembic.plan("upgrade", "heads", ()):
                alembic.run(step, expected_current=current, session={})
                current = alembic.current()
        yield copy


def check_draft(target: Target, draft: Draft, compared_with: str) -> Draft:
    """Return a draft that was written anew with what it leaves different."""
    if compared_with != "revisions":
        return draft
    with _built(target) as place:
        return _with_remaining(place, draft)


def _with_remaining(place: Target, draft: Draft) -> Draft:
    """Run a draft where the models were compared and note how they still differ.

    One that does not run there is no failure yet: on the target's rows it is tried later.

    Raises:
        SettingsError: it does not load.
    """
    with _opened(replace(place, drafts=str(draft.files[0].path.parent))) as alembic:
        try:
            current = alembic.current()
            for step in alembic.plan("upgrade", "heads", current):
                alembic.run(step, expected_current=current, session={})
                current = alembic.current()
        except MigrationFailed as error:
            return replace(draft, unknown=f"it does not run: {explain(error)}")
        return replace(draft, remaining=tuple(alembic.drift()))


def _look_beyond(
    target: Target, place: Target, raw: Mapping[str, Any]
) -> tuple[tuple[Unseen, ...], tuple[str, ...]]:
    """Return what Alembic's comparison does not see, and a remark where that cannot be told."""
    tables = [f"{schema or 'public'}.{name}" for schema, name in raw["tables"]]
    operations = raw["operations"]
    with connect(place, read_only=True) as connection:
        now = read_facts(connection, tables)
    spoken_of = mentions(now, operations)
    try:
        with in_sandbox(target) as copy:
            _add_extensions(target, copy)
            with _opened(copy) as alembic:
                alembic.create_models()
            with connect(copy, read_only=True) as connection:
                models = read_facts(connection, tables)
    except PlaybookError as error:
        return spoken_of, (
            "CHECKs, enums, types and defaults were not compared, as the models do not make their "
            f"tables in a scratch database: {explain(error)}",
        )
    return (*compare_facts(now, models, operations), *spoken_of), ()


def _add_extensions(target: Target, copy: Target) -> None:
    """Make the target's extensions in a scratch database, as far as the sandbox has them."""
    with connect(target, read_only=True) as connection:
        names = [name.partition(" ")[0] for name in installed_extensions(connection)]
    with connect(copy) as connection, connection.cursor() as cursor:
        for name in names:
            statement = sql.SQL("CREATE EXTENSION IF NOT EXISTS {} CASCADE")
            with suppress(DriverError):  # the models may do without; if not, create_all() says so
                cursor.execute(statement.format(sql.Identifier(name)))


@contextmanager
def _opened(target: Target) -> Iterator[Alembic]:
    with Alembic(target) as alembic:
        with connect(target, read_only=True) as connection:
            server = server_info(connection)
        alembic.open(target, server, session={})
        yield alembic
