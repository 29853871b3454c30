"""A restored database takes the live one's name: refused, done, recorded, proven. Layer 4.

On journal and database_swap; which database and whether at all is the runbook's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from playbook.database import connect, lock_holder, server_info
from playbook.database_swap import database_oids, sessions_on, swap, way_on
from playbook.errors import GuardRefused, VerifyFailed
from playbook.formats import count
from playbook.journal import Run
from playbook.records import BackupManifest
from playbook.restore_checks import Place

__all__ = ["Names", "swap_in"]


@dataclass(frozen=True)
class Names:
    """The names of a swap: the live one, that of the restored database, and what is kept."""

    live: str
    restored: str
    kept: str
    """What the live database of before is called afterwards."""


def swap_in(
    run: Run[Any], place: Place, names: Names, manifest: BackupManifest, *, end_sessions: bool
) -> tuple[int, ...]:
    """Give the restored database the live one's name, and return the pids of ended sessions.

    **Effects**: two renames in one transaction, noted in the receipt before and after; with
    ``end_sessions`` the sessions on the live database end.

    Raises:
        GuardRefused: somebody is connected, or a run works with the live database.
        VerifyFailed: the live name does not lead to the restored database.
    """
    _check_alone(place, names, end_sessions=end_sessions)
    with connect(place.maintenance, read_only=True) as connection:
        new = database_oids(connection, names.restored)[names.restored]
    noted = {"live": names.live, "restored": names.restored, "kept": names.kept, "oid": new}
    run.note("swap begins", swap=noted)
    ended = swap(
        place.maintenance, names.live, names.restored, kept=names.kept, end_sessions=end_sessions
    )
    _record(run, place, manifest, f"the live database before is kept as {names.kept}", len(ended))
    _check_swapped(place, names, new)
    return ended


def _check_alone(place: Place, names: Names, *, end_sessions: bool) -> None:
    """Refuse while a run works with the live database, or somebody else does and is to stay."""
    live, way = names.live, way_on(names.live, names.restored, names.kept)
    with connect(place.target, read_only=True) as connection:
        holder = lock_holder(connection)
    with connect(place.maintenance, read_only=True) as connection:
        found = sessions_on(connection, live)
    if holder:
        raise GuardRefused(
            f"Another run holds {live}: {holder}.",
            state=f"Nothing was swapped; {names.restored} is restored and stays.",
            remedy=f"When it has ended, swap by {way}",
        )
    if found and not end_sessions:
        who = "; ".join(
            f"pid {s.pid}, {s.user} in {s.application or 'an unnamed application'}, {s.state}"
            for s in found
        )
        raise GuardRefused(
            f"{count(len(found), 'session')} on {live}: {who}.",
            state=f"Nothing was swapped; {names.restored} is restored and stays.",
            remedy="Write -p end_sessions True to end them, or, when they have left, swap by "
            f"{way}",
        )


def _record(
    run: Run[Any], place: Place, manifest: BackupManifest, what: str, sessions: int
) -> None:
    """Write to the receipt what has been done, and which database has the live name now."""
    with connect(place.target, read_only=True) as connection:
        server = server_info(connection)
    changes: dict[str, Any] = {"to_revisions": list(manifest.revisions)}
    if place.target == run.target:
        run.server = server
        changes["database_oid"] = server.database_oid
    run.note(f"swapped; {what}; {count(sessions, 'session')} ended", **changes)
    if place.target == run.target:
        run.write_history()


def _check_swapped(place: Place, names: Names, new: int) -> None:
    """Prove by the databases' own numbers that each has the name it is to have."""
    with connect(place.maintenance, read_only=True) as connection:
        found = database_oids(connection, names.live, names.kept)
    if found != {names.live: new, names.kept: place.server.database_oid}:
        raise VerifyFailed(
            f"After the swap {names.live} and {names.kept} are not the restored and the former "
            "database.",
            state=f"The server says: {found}; {new} is the restored one.",
            remedy="Somebody else renames databases there: look before anything else is run.",
        )
