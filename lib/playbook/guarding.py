"""Keeps a revision that runs on a scratch copy within it; loaded by `runner`, as a file.

A copy is dropped afterwards, and whatever a revision did outside of it would stay. Two ways lead
out: what all databases of a server share (roles, settings, privileges on databases), and a
connection that the revision opens by itself. The first is refused before it is committed, the
second may only read. Programs that a revision starts, and drivers other than psycopg2 and psycopg,
are not followed.
"""

from __future__ import annotations

import importlib
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OWN_DATABASE = (
    "SELECT (pg_control_system()).system_identifier::text, d.oid::bigint "
    "FROM pg_database AS d WHERE d.datname = current_database()"
)
SHARED = (
    "SELECT CASE l.relation WHEN 1260 THEN 'a role' WHEN 1261 THEN 'a membership in a role' "
    "WHEN 1213 THEN 'a tablespace' ELSE 'the comment on a database or role' END "
    "FROM pg_locks AS l WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' "
    "AND l.database = 0 AND l.granted AND l.mode = 'RowExclusiveLock' "
    "AND l.relation IN (1260, 1261, 1213, 2396) "
    "ORDER BY 1"
)
"""What this transaction has changed of the catalogs that all databases share (OIDs of pg_authid,
pg_auth_members, pg_tablespace, pg_shdescription): commands keep that lock until they commit."""
DATABASES = (
    "SELECT 'the database ' || quote_ident(d.datname), d.oid::bigint, "
    "concat_ws(' ', d.datdba, d.datconnlimit, d.datallowconn, d.datacl), "
    "coalesce(age(d.xmin) <= "
    "age((txid_current_if_assigned() % 4294967296)::text::xid), false) "
    "FROM pg_database AS d WHERE d.datname <> current_database()"
)
"""Of GRANT no lock stays. The last column tells whether a row was written since this transaction
has its id, by itself or a subtransaction; or by somebody else, whose new databases are left out."""
SETTINGS = (
    "SELECT coalesce('the settings of the database ' || quote_ident(d.datname), "
    "'the settings of a role'), s.setrole::bigint, array_to_string(s.setconfig, chr(10)) "
    "FROM pg_db_role_setting AS s LEFT JOIN pg_database AS d ON d.oid = s.setdatabase "
    "WHERE d.datname IS DISTINCT FROM current_database() "
    "AND coalesce(d.datname, '') !~ '^playbook_(scratch|verify|rehearse)_'"
)
SETS = (
    "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' "
    "AND database = 0 AND relation = 2964 AND mode = 'RowExclusiveLock'"
)
_SPACE = r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
_ALONE = (
    r"(?:(?:CREATE|ALTER|DROP)\s+(?:ROLE|USER(?!\s+MAPPING)|GROUP|TABLESPACE|DATABASE)"
    r"|ALTER\s+SYSTEM|COMMENT\s+ON\s+(?:DATABASE|ROLE|TABLESPACE)"
    r"|(?:GRANT|REVOKE)\b[^;]*\bON\s+(?:DATABASE|PARAMETER|TABLESPACE))\b"
)
ALONE = re.compile(r"(?:\A|;)" + _SPACE + _ALONE, re.IGNORECASE | re.DOTALL)
"""What no transaction's end takes back where each statement is its own."""
IN_BLOCK = re.compile(_ALONE, re.IGNORECASE | re.DOTALL)
BLOCK = re.compile(_SPACE + r"DO\b", re.IGNORECASE | re.DOTALL)
COMMITS = re.compile(r"\b(?:COMMIT|END\s+TRANSACTION)\b", re.IGNORECASE)
ELSEWHERE = re.compile(
    r"(?:\A|;)" + _SPACE + r"(?:CREATE|ALTER|DROP)\s+SUBSCRIPTION\b"
    r"|\bdblink(?:_exec|_open|_send_query)?\s*\(",
    re.IGNORECASE | re.DOTALL,
)
"""What reaches another server, or this one as if it were another: subscriptions and dblink."""
TEXT_SHOWN = 120
READ_ONLY_OPTION = "-c default_transaction_read_only=on"
READ_ONLY = "SET default_transaction_read_only = on"


class SharedChangeError(Exception):
    """A revision changes what is not the copy's alone: ``It changes`` what the text says."""


class Guard:
    """Refuses what a session on a copy would change outside of it."""

    def __init__(self, query: Callable[[Any, str], list[Any]]) -> None:
        self.query = query
        self.settings: set[Any] = set()
        self.databases: dict[int, str] = {}

    def begin(self, raw: Any) -> None:
        """Note what there is of databases and settings, at the beginning of a session."""
        self.databases = {row[1]: row[2] for row in self.query(raw, DATABASES)}
        self.settings = {tuple(row) for row in self.query(raw, SETTINGS)}

    def before_statement(self, raw: Any, statement: str, autocommit: bool) -> None:
        """Refuse a statement that no rollback would undo, or that reaches another server."""
        found = ELSEWHERE.search(statement)
        if not found and (autocommit or COMMITS.search(statement)):
            found = (IN_BLOCK if BLOCK.match(statement) else ALONE).search(statement)
        if found and not self.is_own(raw, statement):
            text = " ".join(statement[found.start() :].strip("; \n").split())
            raise SharedChangeError("what is not the copy's alone: %s" % text[:TEXT_SHOWN])

    def is_own(self, raw: Any, statement: str) -> bool:
        """Say whether a statement names the copy, as one does that asks current_database()."""
        name = str(self.query(raw, "SELECT current_database()::text")[0][0])
        return name in statement

    def before_commit(self, raw: Any) -> None:
        """Refuse to commit a change of what all databases of the server share."""
        found = [row[0] for row in self.query(raw, SHARED)]
        found += [
            name
            for name, oid, now, is_recent in self.query(raw, DATABASES)
            if is_recent and self.databases.get(oid, now) != now
        ]
        if self.query(raw, SETS)[0][0]:
            changed = self.settings ^ {tuple(row) for row in self.query(raw, SETTINGS)}
            found += sorted({row[0] for row in changed})
        if found:
            raise SharedChangeError("what all databases of the server share: %s" % ", ".join(found))


class Strays:
    """Connections that a revision opens by itself: elsewhere than expected they only read."""

    def __init__(self, expected: Mapping[str, Any] | None) -> None:
        self.expected = expected

    def listen(self) -> None:
        """Follow the drivers' own connect functions, those that are installed."""
        psycopg2 = module("psycopg2")
        if hasattr(psycopg2, "_connect"):
            own = psycopg2._connect
            psycopg2._connect = lambda *args, **kw: self.watch(own(*args, **kw))
        psycopg = module("psycopg")
        if psycopg is not None:
            follow(psycopg, self.watch)

    def watch(self, connection: Any) -> Any:
        """Return a new connection, which only reads if it is none of the run's own."""
        if self.expected and not getattr(connection, "async_", 0):
            if self.is_elsewhere(connection):
                cursor = connection.cursor()
                cursor.execute(READ_ONLY)
                cursor.close()
            connection.commit()
        return connection

    def is_elsewhere(self, connection: Any) -> bool:
        """Say whether a connection is to another database than the copy."""
        cursor = connection.cursor()
        cursor.execute(OWN_DATABASE)
        row = tuple(cursor.fetchone())
        cursor.close()
        here = self.expected or {}
        return row != (here.get("system_identifier"), here.get("database_oid"))


@contextmanager
def only_reading() -> Iterator[None]:
    """Let every libpq only read meanwhile: this process's own, and a program's that it starts."""
    before = os.environ.get("PGOPTIONS")
    os.environ["PGOPTIONS"] = ("%s %s" % (before or "", READ_ONLY_OPTION)).strip()
    try:
        yield
    finally:
        if before is None:
            del os.environ["PGOPTIONS"]
        else:
            os.environ["PGOPTIONS"] = before


def module(name: str) -> Any:
    """Return a module, None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def follow(psycopg: Any, watch: Callable[[Any], Any]) -> None:
    """Follow psycopg 3, whose connect is a class method."""
    own = psycopg.Connection.connect.__func__
    psycopg.Connection.connect = classmethod(lambda cls, *a, **kw: watch(own(cls, *a, **kw)))
    psycopg.connect = psycopg.Connection.connect
