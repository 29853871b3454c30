"""The runbook `author`: from a change of the models to a reviewed revision. Layer 5.

The revision is written as a draft into the run's own folder first, where Alembic takes it for one
of the project's; it is weighed and tried there. Only what came through is then put into the
project, and only when a message says what it is. The target is only read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from playbook.drafts import CheckSkeleton, Draft, DraftSql, ModelChanges, Placed, Tried
from playbook.errors import MigrationFailed, PlaybookError, SettingsError
from playbook.formats import count, short_path
from playbook.hazards import names_of
from playbook.journal import Run
from playbook.migrate import Alembic
from playbook.model_comparison import AGAINST, Compared, Wanted, check_draft, compare_models
from playbook.parameters import Common, one_of
from playbook.placing import must_be_same_project, place_texts
from playbook.plan import build_plan, reverse_sql, weigh_hazards
from playbook.present import progress, show
from playbook.records import (
    Banner,
    Checks,
    Finding,
    Hazards,
    Note,
    Outcome,
    Plan,
    RevisionGraph,
    Severity,
)
from playbook.revision_names import check_id, check_message
from playbook.revision_steps import known_fills, split_draft
from playbook.revisions import at_head, join, pending
from playbook.stages import has_parts, read_fills
from playbook.targets import parse_size_bytes
from playbook.trial import must_have_passed, try_draft

__all__ = [
    "Parameters",
    "check_preflight",
    "conclude",
    "find_changes",
    "find_hazards",
    "open_run",
    "place_files",
    "read_revisions",
    "rewrite_draft",
    "show_checks",
    "show_draft",
    "show_sql",
    "show_target",
    "test_draft",
]

DRAFT, STEPS = "draft", "steps"
"""The folders within the run's: as Alembic writes it, and written anew in steps."""


@dataclass(frozen=True)
class Parameters(Common):
    """The parameters of `author`."""

    message: str = ""
    autogenerate: bool = True
    head: str = ""
    branch_label: str = ""
    rev_id: str = ""
    against: str = "auto"
    rewrite: bool = False
    fill: str = ""
    test_up_to: str = "1GB"
    checks: bool = True
    dry_run: bool = False


def open_run(namespace: Mapping[str, Any]) -> Run[Parameters]:
    """Check the parameters and connect; raises as `playbook.journal.Run.open` does."""
    run = Run.open("author", Parameters, namespace, state="head")
    with run.closing_on_error():
        given = run.parameters
        one_of("against", given.against, AGAINST)
        if given.message.strip():
            check_message(given.message.strip())
        elif not given.autogenerate:
            raise SettingsError(
                "A blank revision needs a message that says what it will do.",
                remedy="Write -r message, such as add_users_time_zone.",
            )
        _read_fill(run)
        parse_size_bytes(given.test_up_to, name="test_up_to")
        check_id(given.rev_id, [one.revision for one in run.graph.revisions])
        _check_label(run)
        _check_head(run)
    return run


def _read_fill(run: Run[Parameters]) -> dict[tuple[str, str], str]:
    try:
        return read_fills(run.parameters.fill)
    except ValueError as error:
        raise SettingsError(
            f"fill={str(error)!r} is not what old rows can get.",
            remedy="Write -r fill \"users.tier = 'free'\", more of them with a semicolon between.",
        ) from error


def _check_label(run: Run[Parameters]) -> None:
    label = run.parameters.branch_label
    taken = {name for one in run.graph.revisions for name in one.branch_labels}
    if label in taken or (label and not label.isidentifier()):
        problem = "is taken by another branch" if label in taken else "is no name"
        raise SettingsError(
            f"branch_label={label!r} {problem}.", remedy="Write letters, digits and _."
        )


def _check_head(run: Run[Parameters]) -> None:
    """Refuse a ``head`` that is none, and none where there are several.

    Raises:
        SettingsError: the sentence lists the heads.
    """
    head, heads = run.parameters.head, run.graph.heads
    labels = {name for one in run.graph.revisions if one.is_head for name in one.branch_labels}
    listed = " or ".join(f"-r head {name}" for name in heads)
    if not head and len(heads) > 1:
        raise SettingsError(
            f"There are {len(heads)} heads, so the new revision has to be told which it follows: "
            f"{join(heads)}.",
            remedy=f"Write {listed}; or merge them first (alembic merge heads).",
        )
    known = {"", "base", *heads, *(f"{label}@head" for label in labels)}
    begun = [name for name in heads if name.startswith(head)]
    if head not in known and len(begun) != 1:
        raise SettingsError(
            f"head={head!r} is no head: a revision that follows another one splits the history.",
            remedy=f"Leave it out, or write {listed or '-r head base'}.",
        )


def show_target(run: Run[Parameters]) -> Banner:
    """Return which database this is, and what is written."""
    if run.parameters.dry_run or not run.parameters.message.strip():
        return run.banner("nothing in the database or the project; a draft below runs/")
    return run.banner("nothing in the database; a revision file and its data checks in the project")


def read_revisions(run: Run[Parameters]) -> RevisionGraph:
    """Return all revisions, and which of them the database is at."""
    return run.graph


def check_preflight(run: Run[Parameters]) -> Checks:
    """Return what is in the way of a new revision; STOP ends the run.

    Raises:
        GuardRefused: the database is not at head, or the project's folder cannot be written.
    """
    with run.recording_refusal():
        checks = Checks((_at_head(run), _message(run), _folder(run)))
        return run.keep("preflight", run.must_pass(checks))


def _at_head(run: Run[Parameters]) -> Finding:
    graph = run.graph
    if not graph.revisions or at_head(graph):
        return Finding("at-head", Severity.OK, "place", f"at {join(graph.current)}, the head")
    detail = f"The database is at {join(graph.current)}, {len(pending(graph))} behind the head."
    if graph.unknown:
        detail = f"The database is at {join(graph.unknown)}, which no revision file has."
    if not run.parameters.autogenerate:
        return Finding("at-head", Severity.WARN, "place", detail, "A blank one may be written.")
    return Finding("at-head", Severity.STOP, "place", detail, "Run `upgrade` first.")


def _message(run: Run[Parameters]) -> Finding:
    message = run.parameters.message.strip()
    if message and not run.parameters.dry_run:
        return Finding("message", Severity.OK, "message", message)
    why = "this is a dry run" if message else "it is empty, so nothing is put into the project"
    return Finding("message", Severity.WARN, "message", why, "A draft is made all the same.")


def _folder(run: Run[Parameters]) -> Finding:
    folder = Path(run.graph.script_directory)
    if os.access(folder, os.W_OK):
        return Finding("folder", Severity.OK, "folder", "the revisions' folder can be written")
    writes = bool(run.parameters.message.strip()) and not run.parameters.dry_run
    return Finding(
        "folder",
        Severity.STOP if writes else Severity.WARN,
        "folder",
        f"{folder.name} cannot be written by this user.",
        "Run it where the project's files are yours.",
    )


def find_changes(run: Run[Parameters]) -> ModelChanges:
    """Return how the models differ from what the revisions build, and write the draft.

    **Effects**: a folder of this run with the draft, if there is anything to write; scratch
    databases in the sandbox, which are dropped.

    Raises:
        SettingsError: the models, env.py or the template cannot be used; there is no file.
        MigrationFailed: the draft does not run; it is kept in the run's folder.
    """
    run.require("preflight", Checks)
    run.must_be_first("compared")
    given = run.parameters
    wanted = Wanted(
        message=given.message.strip(),
        autogenerate=given.autogenerate,
        head=given.head,
        branch_label=given.branch_label,
        rev_id=given.rev_id,
        against=given.against,
    )
    with _failing(run):
        compared = compare_models(run.target, run.graph, wanted, lambda: _make_folder(run))
    run.keep("compared", compared)
    if compared.draft:
        run.note("draft written", draft=[str(file.path) for file in compared.draft.files])
        run.keep("draft", compared.draft)
    return run.keep("changes", compared.changes)


def _make_folder(run: Run[Parameters]) -> Path:
    run.note("draft begins")
    folder = run.directory / DRAFT
    folder.mkdir()
    return folder


@contextmanager
def _failing(run: Run[Parameters]) -> Iterator[None]:
    """Record a failure and say what there is of the draft: the project has no new file."""
    with run.recording_failure():
        try:
            yield
        except PlaybookError as error:
            made = sorted((run.directory / DRAFT).glob("*.py")) if run.directory.name else []
            state = "No file was put into the project."
            if made:
                state += f" The draft is kept in {run.directory.name}/{DRAFT}."
            raise _retold(error, state) from error


def _retold(error: PlaybookError, state: str) -> PlaybookError:
    remedy = error.remedy or "Mend what it names, then run `author` again."
    if isinstance(error, MigrationFailed):
        return MigrationFailed(error.problem, state=state, remedy=remedy, revision=error.revision)
    if isinstance(error, SettingsError):
        return SettingsError(error.problem, state=state, remedy=remedy)
    return error


def show_draft(run: Run[Parameters]) -> Draft | Note:
    """Return the revision file as the project's template and hooks made it."""
    return run.require("compared", Compared).draft or _nothing(run)


def _nothing(run: Run[Parameters]) -> Note:
    """Return why there is no draft."""
    if run.require("changes", ModelChanges).unseen:
        return Note(
            "No file was written: Alembic finds no difference. What it does not see stands above; "
            "write it into a blank revision (-p autogenerate False with a message)."
        )
    return Note("No file was written: the models are what the revisions build.")


def show_sql(run: Run[Parameters]) -> DraftSql | Note:
    """Return the SQL that the draft would run on the target; its revision files are loaded.

    Raises:
        MigrationFailed: the draft does not load, or its SQL cannot be had.
    """
    compared = run.require("compared", Compared)
    if compared.draft is None:
        return _nothing(run)
    if not compared.operations:
        return Note("The revision is blank: there is no SQL yet.")
    plan = _plan(run, compared.draft)
    return DraftSql(tuple((step.revision, step.sql) for step in plan.steps), plan.method)


def _plan(run: Run[Parameters], draft: Draft) -> Plan:
    """Plan a draft on the target, with Alembic taking it for one of the project's revisions."""
    target = replace(run.target, drafts=str(draft.files[0].path.parent))
    with _failing(run), Alembic(target) as alembic:
        alembic.open(target, run.server, session={})
        to = draft.revisions[-1]
        plan = build_plan(target, alembic, alembic.graph(), direction="upgrade", to=to)
        with suppress(MigrationFailed):  # its downgrade reads the database, or there is none
            run.keep("reverse", reverse_sql(alembic, plan))
    return run.keep("plan", plan)


def find_hazards(run: Run[Parameters]) -> Hazards | Note:
    """Return what in the draft's SQL can block, break or destroy, as the target's tables are."""
    compared = run.require("compared", Compared)
    if compared.draft is None or not compared.operations:
        return Note("There is no SQL to weigh.")
    return run.keep("hazards", weigh_hazards(run.target, run.require("plan", Plan)))


def rewrite_draft(run: Run[Parameters]) -> Draft | Note:
    """Write the draft anew in steps that make nobody wait, if ``rewrite`` asks for it.

    Raises:
        SettingsError: it cannot be written so; the sentence says why.
    """
    compared = run.require("compared", Compared)
    if compared.draft is None or not compared.operations:
        return Note("There is nothing to write anew.")
    hazards = run.require("hazards", Hazards)
    if not run.parameters.rewrite:
        return Note(_offer(hazards))
    with _failing(run):
        draft, reason = split_draft(
            run.target,
            run.server,
            run.graph,
            compared.draft,
            run.require("plan", Plan),
            run.taken("reverse", str) or "",
            hazards,
            {**known_fills(compared.operations), **_read_fill(run)},
            run.begin() / STEPS,
            branch_label=run.parameters.branch_label,
        )
        if draft is None:
            raise SettingsError(
                f"The revision cannot be written in steps: {reason}",
                state="No file was put into the project.",
                remedy="Or leave out rewrite, and put the rewrites above into the file by hand.",
            )
        draft = check_draft(run.target, draft, compared.changes.compared_with)
    run.note("draft written in steps", draft=[str(file.path) for file in draft.files])
    run.keep("hazards", weigh_hazards(run.target, _plan(run, draft)))
    old, last = compared.checks.revision, draft.revisions[-1]
    text = compared.checks.text.replace(old, last) if old else ""
    checks = replace(compared.checks, revision=last, text=text)
    run.keep("compared", replace(compared, draft=draft, checks=checks))
    return draft


def _offer(hazards: Hazards) -> str:
    offered = [one for one in hazards.items if has_parts(one)]
    if not offered:
        return "No statement needs a safer form."
    return (
        f"{count(len(offered), 'statement')} can be written in steps that make nobody wait, as "
        "shown above; -p rewrite True writes the revision so, in several files."
    )


def test_draft(run: Run[Parameters]) -> Tried | Note:
    """Take the draft up, down and up again on a copy of the target with its rows.

    **Effects**: a scratch copy in the sandbox, dropped again. The target is only read.

    Raises:
        MigrationFailed: a passage failed; nothing was put into the project.
    """
    compared = run.require("compared", Compared)
    if compared.draft is None or not compared.operations:
        return Note("There is nothing to try.")
    run.require("hazards", Hazards)
    with _failing(run):
        tried = try_draft(
            run.target,
            run.server,
            compared.draft,
            run.begin(),
            at_most_bytes=parse_size_bytes(run.parameters.test_up_to, name="test_up_to"),
            on_progress=progress,
        )
        if tried.failures:
            show(tried)
        must_have_passed(tried)
    run.note("draft tried" if not tried.reason else "draft not tried")
    return run.keep("tried", tried)


def show_checks(run: Run[Parameters]) -> CheckSkeleton | Note:
    """Return a skeleton of data checks for the new revision."""
    compared = run.require("compared", Compared)
    if compared.draft is None:
        return _nothing(run)
    return run.keep("checks", compared.checks)


def place_files(run: Run[Parameters]) -> Placed:
    """Put the revision, and its data checks, into the project.

    **Effects**: new files in the revisions' folder and in ``checks/``; none is ever replaced. If
    one cannot be written, or Alembic does not find the revision then, all are taken away again.

    Raises:
        GuardRefused: the project's revision files changed meanwhile, or a file is there already.
    """
    compared = run.require("compared", Compared)
    run.must_be_first("placed")
    draft = compared.draft
    if draft is None:
        return run.keep("placed", Placed((), _nothing(run).text))
    if compared.operations:
        run.require("plan", Plan)
        run.require("tried", Tried)
    if run.parameters.dry_run or not run.parameters.message.strip():
        return run.keep("placed", Placed((), _why_not(run, draft)))
    texts = {draft.destination / file.path.name: file.text for file in draft.files}
    skeleton = run.taken("checks", CheckSkeleton)
    if run.parameters.checks and skeleton and skeleton.text:
        texts[Path(run.graph.script_directory) / "checks" / f"{skeleton.revision}.sql"] = (
            skeleton.text
        )
    with run.recording_failure():
        must_be_same_project(run.target, run.server, run.graph)
        run.note("files are put into the project", files=[str(path) for path in texts])
        place_texts(run.target, run.server, draft, texts)
    return run.keep("placed", Placed(tuple(texts)))


def _why_not(run: Run[Parameters], draft: Draft) -> str:
    if run.parameters.dry_run:
        return "Nothing was put into the project: this is a dry run."
    return (
        "Nothing was put into the project, as the message is empty. To have it there, run this "
        f'again with a message that says what it does, such as -r message "{draft.message}".'
    )


def conclude(run: Run[Parameters]) -> Outcome:
    """Write the outcome to the receipt and return it."""
    placed = run.require("placed", Placed)
    compared = run.require("compared", Compared)
    draft = compared.draft
    summary = placed.reason
    if draft and placed.files:
        changes = count(len(compared.operations), "change") if compared.operations else "blank"
        summary = f"{join(draft.revisions)} was written: {changes}."
    next_steps = tuple(_next(run, placed, compared))
    run.finish("succeeded", summary)
    return run.outcome(
        "succeeded",
        summary,
        changed=tuple(short_path(path) for path in placed.files),
        unchanged=("the database",) if placed.files else ("the database", "the project"),
        next_steps=next_steps,
        files=(*placed.files, *(file.path for file in (draft.files if draft else ()))),
    )


def _next(run: Run[Parameters], placed: Placed, compared: Compared) -> Iterator[str]:
    for one in compared.changes.unseen:
        yield f"Look at it: {one.subject}: {one.detail}"
    tried = run.taken("tried", Tried)
    for found in tried.findings if tried else ():
        if found.severity is not Severity.OK:
            yield f"{found.severity}: {found.subject}: {found.detail} {found.remedy}".rstrip()
    hazards = run.taken("hazards", Hazards)
    if hazards and hazards.stops:
        yield f"`upgrade` will refuse it as it stands: {names_of(hazards.stops)}."
    if placed.files:
        names = " and ".join(short_path(path) for path in placed.files)
        if compared.operations:
            todo = "Complete its docstring and its data checks"
        else:
            todo = "Write its two functions and its docstring: as it stands it does nothing"
        yield f"{todo}. Then `preview`, `rehearse` and `upgrade`."
        yield f"To take it back before it is applied, delete {names}."
