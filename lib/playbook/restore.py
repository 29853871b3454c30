"""The runbook `restore`: a new database beside the live one, proven, swapped if asked. Layer 5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playbook import archive, restore_steps
from playbook.archive_contents import list_of_tables, read_contents
from playbook.database import connect, server_info
from playbook.database_swap import sessions_on, way_back, way_on
from playbook.dump import WITHOUT_OWNERS, client_tools_for
from playbook.errors import BackupFailed, GuardRefused, SettingsError, VerifyFailed
from playbook.formats import count
from playbook.journal import Run, protected_as_its_twin
from playbook.manifests import choose_backup
from playbook.new_database import check_name, exists, maintenance_target, stamped_name
from playbook.parameters import Common
from playbook.preflight import Question
from playbook.present import progress
from playbook.receipts import known_receipts
from playbook.records import (
    BackupManifest,
    Banner,
    Checks,
    Comparison,
    Note,
    Outcome,
    Restored,
    Sessions,
)
from playbook.restore_checks import Place, Wanted, check_restore, keeps_owners
from playbook.revisions import join
from playbook.sandbox import open_target
from playbook.snapshot import take_snapshot
from playbook.swap_steps import Names, swap_in
from playbook.targets import load_target
from playbook.verification import compare

__all__ = [
    "Parameters",
    "check_preflight",
    "compare_with_backup",
    "conclude",
    "find_loss",
    "find_sessions",
    "open_run",
    "run_restore",
    "run_swap",
    "show_target",
    "verify_backup",
]

STAMP = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Parameters(Common):
    """The parameters of `restore`."""

    backup: str = "latest"
    into: str = ""
    swap: bool = False
    confirm: str = ""
    tables: str = ""
    to: str = ""
    end_sessions: bool = False
    directory: str = "backups"
    jobs: int = 0


def open_run(namespace: Mapping[str, Any]) -> Run[Parameters]:
    """Check the parameters and connect; raises as `playbook.journal.Run.open` does."""
    run = Run.open("restore", Parameters, namespace)
    with run.closing_on_error():
        parameters = run.parameters
        if parameters.jobs < 0:
            raise SettingsError("jobs must be 0 or more.", remedy="Write -p jobs 2.")
        if parameters.swap and parameters.tables:
            raise SettingsError(
                "With tables only some rows are restored, and such a database is never swapped in.",
                remedy="Leave out swap, or tables.",
            )
        if parameters.end_sessions and not parameters.swap:
            raise SettingsError(
                "end_sessions is for the swap, and swap is False.",
                remedy="Leave it out: a restore beside the live database ends no session.",
            )
        run.keep("place", _place(run))
        run.keep("name", _new_name(run))
    return run


def _place(run: Run[Parameters]) -> Place:
    """Return beside which database a backup is restored: the target, or the one of ``to``."""
    if not run.parameters.to:
        return Place(run.target, maintenance_target(run.target), run.server)
    target = open_target(load_target(run.parameters.to, run.target.alembic_ini), state="empty")
    with connect(target, read_only=True) as connection:
        server = server_info(connection)
    return Place(protected_as_its_twin(target, server), maintenance_target(target), server)


def _new_name(run: Run[Parameters]) -> str:
    """Return the new database's name.

    Raises:
        SettingsError: it cannot be used, or there is such a database.
    """
    place = run.require("place", Place)
    stamp = f"{run.started_at:{STAMP}}"
    name = run.parameters.into or stamped_name(run.server.database, "restored", stamp)
    check_name(name, "into")
    with connect(place.maintenance, read_only=True) as connection:
        if exists(connection, name):
            raise SettingsError(
                f"There is a database {name!r} already, and a restore overwrites nothing.",
                remedy="Choose another name with -r into NAME, or leave it out.",
            )
    return name


def show_target(run: Run[Parameters]) -> Banner:
    """Return which database this is and what will be written."""
    place = run.require("place", Place)
    where = "" if place.target == run.target else f" on the server of {place.target.label}"
    writes = f"a new database{where}"
    if run.parameters.swap:
        writes += f", which then takes the name of {place.server.database}; that one is kept"
    return run.banner(writes)


def _choose_backup(run: Run[Parameters]) -> BackupManifest:
    """Return the backup that the parameter ``backup`` means.

    Raises:
        BackupFailed: there is none, or its manifest is damaged.
    """
    chosen = choose_backup(
        run.target,
        run.server,
        run.parameters.backup,
        directory=run.parameters.directory,
        parameter="backup",
    )
    return run.keep("backup", chosen)


def check_preflight(run: Run[Parameters]) -> Checks:
    """Return what would be in the way of the restore, and of the swap if one is asked for.

    Raises:
        BackupFailed: there is no such backup, or it cannot be read.
        GuardRefused: a finding says STOP, no client can restore it there, or a confirmation is
            missing.
        SettingsError: ``tables`` names one that the backup does not have.
    """
    manifest, place = _choose_backup(run), run.require("place", Place)
    run.forget("preflight")
    tools = client_tools_for(place.server)
    restore_steps.check_tools(manifest, tools, place)
    try:
        contents = read_contents(manifest.directory / archive.DUMP, tools=tools)
    except BackupFailed:  # the proof names the file, if one is damaged
        archive.verify(manifest, "archive", target=place.target, server=place.server)
        raise
    wanted = Wanted(
        manifest, contents, tools, run.server, run.parameters.swap, run.parameters.end_sessions
    )
    run.keep("wanted", wanted)
    _tables(run, manifest)
    receipts = known_receipts(run.target, run.server, run.parameters.output_dir)
    with run.recording_refusal():
        _check_confirmed(run, manifest)
        question = Question(graph=run.graph, receipts=receipts)
        checks = check_restore(place, wanted, question=question, receipts=receipts)
        return run.keep("preflight", run.must_pass(checks))


def _tables(run: Run[Parameters], manifest: BackupManifest) -> tuple[str, ...]:
    """Return the tables that ``tables`` names, as the manifest does; none means all."""
    known = [name for name, _ in manifest.rows]
    asked = [name.strip() for name in run.parameters.tables.split(",") if name.strip()]
    found = tuple(name if name in known else f"public.{name}" for name in asked)
    unknown = [name for name in found if name not in known]
    if unknown:
        raise SettingsError(
            f"The backup has no table {join(unknown)}.",
            remedy=f"It has {join(known)}.",
        )
    return found


def _check_confirmed(run: Run[Parameters], manifest: BackupManifest) -> None:
    """Refuse to swap on a protected target, or in another database's backup, without its name."""
    place, confirm = run.require("place", Place), run.parameters.confirm
    name = place.server.database
    strange = manifest.database != name
    if not run.parameters.swap or confirm == name or not (place.target.protected or strange):
        return
    why = f"{place.target.name!r} is protected"
    if strange:
        why = f"the backup is of {manifest.database!r} and would take the place of {name!r}"
    said = f"confirm={confirm!r}" if confirm else "an empty confirm"
    raise GuardRefused(
        f"The swap is refused: {why}, and {said} is not the database's name.",
        remedy=f"To go on, write -r confirm {name}.",
    )


def verify_backup(run: Run[Parameters]) -> BackupManifest:
    """Prove that every file of the backup is as it was written, and readable to its end.

    Raises:
        BackupFailed: a file is missing or damaged; it is named.
    """
    run.require("preflight", Checks)
    manifest, place = run.require("backup", BackupManifest), run.require("place", Place)
    with run.recording_failure():
        proven = archive.verify(manifest, "archive", target=place.target, server=place.server)
    return run.keep("verified", proven)


def run_restore(run: Run[Parameters]) -> Restored:
    """Restore the backup into a new database beside the live one, with progress, and ANALYZE.

    **Effects**: a new database; the receipt. After a failure it is dropped again. The live
    database is only read.

    Raises:
        RestoreFailed: the backup could not be restored; nothing of it is left, or it says what is.
    """
    run.must_be_first("restored")
    manifest, wanted = run.require("verified", BackupManifest), run.require("wanted", Wanted)
    place, name = run.require("place", Place), run.require("name", str)
    with run.recording_failure():
        run.note("restore begins", backup=str(manifest.directory), restored_into=name)
        for left in restore_steps.drop_interrupted(
            place, known_receipts(run.target, run.server, run.parameters.output_dir)
        ):
            run.note(f"dropped {left}, which an interrupted run left half restored")
        task = restore_steps.Task(
            place=place,
            name=name,
            manifest=manifest,
            tools=wanted.tools,
            jobs=run.parameters.jobs,
            tables=_tables(run, manifest),
            options=_options(run, wanted),
            run_id=run.directory.name,
        )
        restored = restore_steps.restore_beside(task, on_progress=progress)
    run.note(f"restored into {name}")
    return run.keep("restored", restored)


def _options(run: Run[Parameters], wanted: Wanted) -> tuple[str, ...]:
    """Return pg_restore's options: whose the objects will be, and which of them."""
    place = run.require("place", Place)
    owners = wanted.contents.readable and keeps_owners(place, wanted.contents)
    options = () if owners else WITHOUT_OWNERS
    tables = _tables(run, wanted.manifest)
    if not tables:
        return options
    path = run.directory / "contents.list"
    known = [name for name, _ in wanted.manifest.rows]
    path.write_text(
        list_of_tables(
            wanted.manifest.directory / archive.DUMP,
            wanted.contents,
            tables,
            known=known,
            tools=wanted.tools,
        ),
        "utf-8",
    )
    return (*options, f"--use-list={path}")


def compare_with_backup(run: Run[Parameters]) -> Comparison:
    """Return how the new database differs from the backup's manifest: in nothing, or it fails.

    Raises:
        VerifyFailed: it differs; it is kept under its name.
    """
    restored, manifest = run.require("restored", Restored), run.require("backup", BackupManifest)
    run.forget("comparison")
    place = run.require("place", Place)
    target = place.target.with_conninfo(dbname=restored.database)
    with run.recording_failure():
        form = restore_steps.form_to_compare(manifest, place.server.version_num)
        before = restore_steps.manifest_snapshot(manifest, restored.tables, form=form)
        after = restore_steps.snapshot_like(
            target, before, restored.tables, dump=manifest.directory / archive.DUMP,
            tools=run.require("wanted", Wanted).tools, jobs=restored.jobs,
        )  # fmt: skip
        revisions = restore_steps.version_rows(target, run.graph)
    names = ("in the backup's manifest", f"in {restored.database}")
    comparison = compare(before, after, names=names)
    bad = [one.table for one in comparison.differences if one.kind != "intact"]
    if not restored.tables and sorted(revisions) != sorted(manifest.revisions):
        bad.append(f"{run.version_table}: {join(revisions)}, not {join(manifest.revisions)}")
    if bad:
        failure = VerifyFailed(
            f"The restored database is not what its backup's manifest says: "
            f"{join(list(dict.fromkeys(bad)))}.",
            state=f"It is kept as {restored.database}, for a look; {restored.beside} was left "
            "alone.",
            remedy="Do not swap it in. Choose another backup; DROP DATABASE when you are done.",
        )
        run.show_then_fail(comparison, failure)
    run.note(f"{restored.database} equals the manifest")
    return run.keep("comparison", comparison)


def find_loss(run: Run[Parameters]) -> Comparison | Note:
    """Return how the live database differs from the backup: what a swap takes out of use.

    The backup is looked at as it was restored and found equal: a manifest may have one fingerprint
    for all columns of a table, by which a column added since would look like other values.
    """
    run.require("comparison", Comparison)
    place, restored = run.require("place", Place), run.require("restored", Restored)
    live = place.server.database
    if not run.parameters.swap:
        return run.keep("loss", Note(f"Nothing: {live} stays where it is, untouched."))
    with run.recording_failure():
        before, after = (
            take_snapshot(target, ())
            for target in (place.target.with_conninfo(dbname=restored.database), place.target)
        )
    return run.keep("loss", compare(before, after, names=("in the backup", f"in {live} now")))


def find_sessions(run: Run[Parameters]) -> Sessions | Note:
    """Return who is connected to the live database and would be in the way of a swap."""
    place = run.require("place", Place)
    run.require("loss", object)
    if not run.parameters.swap:
        return run.keep("sessions", Note("Nobody has to leave: no swap was asked for."))
    with connect(place.maintenance, read_only=True) as connection:
        found = sessions_on(connection, place.server.database)
    return run.keep("sessions", Sessions(place.server.database, found))


def run_swap(run: Run[Parameters]) -> Note:
    """Give the new database the live one's name, which is kept under another one, if asked for.

    **Effects**: two renames in one transaction; with ``end_sessions`` the sessions on the live
    database end. After a failure, or a kill at any moment, both have the names they had.

    Raises:
        GuardRefused: an earlier step is missing, a confirmation is, or somebody is connected.
        VerifyFailed: the live name does not lead to the restored database.
    """
    run.must_be_first("swapped")
    restored, place = run.require("restored", Restored), run.require("place", Place)
    for step, kind in (("comparison", Comparison), ("loss", object), ("sessions", object)):
        run.require(step, kind)
    if not run.parameters.swap:
        return run.keep("swapped", Note("No swap was asked for: both keep their names."))
    live = place.server.database
    kept = stamped_name(live, "before", f"{run.started_at:{STAMP}}")
    with run.recording_failure():
        manifest = run.require("backup", BackupManifest)
        _check_confirmed(run, manifest)
        names = Names(live, restored.database, kept)
        ended = swap_in(run, place, names, manifest, end_sessions=run.parameters.end_sessions)
    note = f"{live} is the restored database now. The one before is kept as {kept}."
    return run.keep("swapped", Note(f"{note} Ended: {count(len(ended), 'session')}."))


def conclude(run: Run[Parameters]) -> Outcome:
    """Write the outcome to the receipt and return it."""
    restored, swapped = run.require("restored", Restored), run.require("swapped", Note)
    run.require("comparison", Comparison)
    place, manifest = run.require("place", Place), run.require("backup", BackupManifest)
    live = place.server.database
    kept = stamped_name(live, "before", f"{run.started_at:{STAMP}}")
    what = f"{manifest.directory.name} was restored"
    what += f" ({join(list(restored.tables))} only)" if restored.tables else ""
    if run.parameters.swap:
        message = f"{what} and is {live} now."
        run.finish("succeeded", message)
        return run.outcome(
            "succeeded",
            message,
            changed=(swapped.text,),
            unchanged=(f"every row of the database before: it is {kept}",),
            next_steps=(
                f"The way back: {way_back(live, restored.database, kept)}",
                f"`status` shows {live}; DROP DATABASE {kept} when nobody will miss it.",
            ),
            files=_files(run),
        )
    message = f"{what} into {restored.database} and equals its manifest."
    run.finish("succeeded", message)
    on = () if restored.tables else (
        "To put it in the live one's place, run this with -p swap True, or: "
        f"{way_on(live, restored.database, kept)}",
    )  # fmt: skip
    return run.outcome(
        "succeeded",
        message,
        changed=(f"a new database, {restored.database}",),
        unchanged=(live,),
        next_steps=(*on, f"DROP DATABASE {restored.database} when it is of no more use."),
        files=_files(run),
    )


def _files(run: Run[Parameters]) -> tuple[Path, ...]:
    return tuple(run.directory.glob("*.list"))
