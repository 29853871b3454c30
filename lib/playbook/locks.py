"""PostgreSQL's table-level lock modes as data: which conflict, and what each blocks. Layer 0.

Source: PostgreSQL's documentation, "Explicit Locking", table 13.2, unchanged from 9.0 to 18.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["CONFLICTS", "MODES", "blocks", "conflicting"]

MODES = (
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
"""As pg_locks.mode spells them, the weakest first."""

CONFLICTS: Mapping[str, frozenset[str]] = {
    "AccessShareLock": frozenset(MODES[7:]),
    "RowShareLock": frozenset(MODES[6:]),
    "RowExclusiveLock": frozenset(MODES[4:]),
    "ShareUpdateExclusiveLock": frozenset(MODES[3:]),
    "ShareLock": frozenset({MODES[2], MODES[3], *MODES[5:]}),
    "ShareRowExclusiveLock": frozenset(MODES[2:]),
    "ExclusiveLock": frozenset(MODES[1:]),
    "AccessExclusiveLock": frozenset(MODES),
}
"""For each mode, those that no other session can hold at the same time."""


def conflicting(mode: str) -> frozenset[str]:
    """Return the modes that a lock keeps others from; raises KeyError for an unknown mode."""
    return CONFLICTS[mode]


def blocks(mode: str) -> str:
    """Return what others cannot do to a table while a lock of this mode is held on it.

    Reading takes AccessShareLock, writing rows RowExclusiveLock.
    """
    stopped = []
    if "AccessShareLock" in CONFLICTS[mode]:
        stopped.append("reads")
    if "RowExclusiveLock" in CONFLICTS[mode]:
        stopped.append("writes")
    return " and ".join(stopped)
