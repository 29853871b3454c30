"""Every error that the playbook raises on purpose. Layer 0: imports nothing of the playbook.

PlaybookError
├── SettingsError        a parameter, an alembic.ini section or a URL is wrong; nothing was touched
├── GuardRefused         a precondition is false; nothing was changed
│   └── TargetBusy       another run holds the target, or has migrated it meanwhile
├── DatabaseError        the server said no
│   ├── CannotConnect
│   ├── LockNotAcquired  SQLSTATE 55P03
│   ├── StatementTimeout SQLSTATE 57014
│   └── PrivilegeMissing SQLSTATE 42501
├── WrongDatabase        env.py reached another database than the target
├── MigrationFailed      a revision failed; carries where the database is now
│   ├── AlembicDied      the process that ran Alembic is gone
│   └── MigrationStopped somebody stopped the run: an interrupt, or the kernel's end
├── BackupFailed         no usable backup was made, or an existing one is damaged
├── RestoreFailed        a backup could not be restored; the live database was left alone
└── VerifyFailed         the data or the schema are not what they must be

A message is one sentence or a few: what is wrong with the value, what was and was not changed,
what to do next. In a notebook the sentence stands alone, without a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "AlembicDied",
    "BackupFailed",
    "CannotConnect",
    "DatabaseError",
    "GuardRefused",
    "LockNotAcquired",
    "MigrationFailed",
    "MigrationStopped",
    "PlaybookError",
    "PrivilegeMissing",
    "RestoreFailed",
    "SettingsError",
    "StatementTimeout",
    "TargetBusy",
    "VerifyFailed",
    "WrongDatabase",
    "explain",
]

SHOWN_STATEMENT = 120
"""How much of a statement a sentence quotes; characters."""


class PlaybookError(Exception):
    """The base of all errors a runbook can stop with.

    Args:
        problem: what is wrong, with the value.
        state: what was and was not changed.
        remedy: what to do next.
    """

    def __init__(self, problem: str, *, state: str = "", remedy: str = "") -> None:
        self.problem = problem
        self.state = state
        self.remedy = remedy
        super().__init__(" ".join(part for part in (problem, state, remedy) if part))

    def _render_traceback_(self) -> list[str]:
        """Return what IPython prints instead of a traceback: the sentence alone."""
        return [f"{type(self).__name__}: {self}"]


class SettingsError(PlaybookError):
    """A parameter or a setting cannot be used as it stands; nothing was touched."""

    def __init__(
        self, problem: str, *, state: str = "Nothing was changed.", remedy: str = ""
    ) -> None:
        super().__init__(problem, state=state, remedy=remedy)


class GuardRefused(PlaybookError):
    """A precondition is false, so the step was not begun.

    Args:
        reasons: one sentence per failed precondition.
    """

    def __init__(
        self,
        problem: str,
        *,
        state: str = "Nothing was changed.",
        remedy: str = "",
        reasons: Sequence[str] = (),
    ) -> None:
        self.reasons = tuple(reasons)
        super().__init__(problem, state=state, remedy=remedy)


class TargetBusy(GuardRefused):
    """Another run holds the target, or has migrated it since this one looked."""


class DatabaseError(PlaybookError):
    """PostgreSQL refused a statement or a connection.

    Args:
        sqlstate: the five characters of PostgreSQL's appendix A, or "" if the server gave none.
    """

    def __init__(
        self, problem: str, *, state: str = "", remedy: str = "", sqlstate: str = ""
    ) -> None:
        self.sqlstate = sqlstate
        super().__init__(problem, state=state, remedy=remedy)


class CannotConnect(DatabaseError):
    """The server is down, unreachable, lacks the database or refuses the login."""


class LockNotAcquired(DatabaseError):
    """A lock was not granted within lock_timeout (SQLSTATE 55P03)."""


class StatementTimeout(DatabaseError):
    """A statement was cancelled (SQLSTATE 57014)."""


class PrivilegeMissing(DatabaseError):
    """The role may not do this (SQLSTATE 42501)."""


class WrongDatabase(PlaybookError):
    """The project's env.py connected to another database than the target; it was stopped."""


class MigrationFailed(PlaybookError):
    """A revision could not be applied or undone.

    Args:
        revision: the revision that failed, or "" if Alembic stopped before the first.
        statement: the SQL that failed, or "".
        sqlstate: PostgreSQL's code, or "".
        current: the revisions that the database is at now.
        transactional: False if the revision had left its transaction, so that part of it stays.
        kind: the class of what Python raised, or "".
        about: what PostgreSQL says that its error is about (``schema.table.column``, or a table
            and a constraint), or "".
    """

    def __init__(
        self,
        problem: str,
        *,
        state: str = "",
        remedy: str = "",
        revision: str = "",
        statement: str = "",
        sqlstate: str = "",
        current: Sequence[str] = (),
        transactional: bool = True,
        kind: str = "",
        about: str = "",
    ) -> None:
        self.revision = revision
        self.kind = kind
        self.about = about
        self.transactional = transactional
        self.statement = statement
        self.sqlstate = sqlstate
        self.current = tuple(current)
        super().__init__(problem, state=state, remedy=remedy)


class AlembicDied(MigrationFailed):
    """The process that ran Alembic ended by itself, or was killed."""


class MigrationStopped(MigrationFailed):
    """Somebody stopped the run; the revision under way was rolled back."""


def explain(error: BaseException) -> str:
    """Return what failed in one sentence: the statement, the server's words, the SQLSTATE."""
    if not isinstance(error, PlaybookError):
        return "it was told to stop."
    statement = " ".join(getattr(error, "statement", "").split())
    sqlstate = getattr(error, "sqlstate", "")
    shown = statement if len(statement) <= SHOWN_STATEMENT else f"{statement[:SHOWN_STATEMENT]}..."
    text = f"{shown!r}: {error.problem}" if statement else error.problem
    return f"{text.removesuffix('.')} (SQLSTATE {sqlstate})." if sqlstate else text


class BackupFailed(PlaybookError):
    """No usable backup was made, or a file of an existing one is damaged."""


class RestoreFailed(PlaybookError):
    """A backup could not be restored into a new database; the live one was left alone."""


class VerifyFailed(PlaybookError):
    """A data check, a constraint or an index is not as it must be."""
