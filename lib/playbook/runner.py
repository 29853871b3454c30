"""Runs a project's Alembic in a process of its own; started by `playbook.migrate`, as a file.

Needs only Alembic and SQLAlchemy, so that the project's own interpreter can run it, and imports
nothing of the playbook. One JSON request a line arrives on standard input, JSON events leave on a
private copy of standard output (what env.py or a revision prints goes to standard error). When
standard input closes, the parent is gone: the process ends at once, and PostgreSQL rolls back.

The project's env.py is run as it is. What the playbook must know of its sessions it learns from
SQLAlchemy's engine events: it sets each session up, checks that it is on the expected database,
sees every statement, and reads the locks just before each commit.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import gc
import hashlib
import importlib.util
import io
import json
import os
import queue
import re
import runpy
import sys
import tempfile
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any, Callable, Dict, NoReturn

import alembic
import sqlalchemy
from alembic import autogenerate, util
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationStep
from alembic.script import Script as ScriptFile
from alembic.script import ScriptDirectory
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import TextIO

    from alembic.runtime.migration import MigrationContext, RevisionStep
    from alembic.script import Script

Emit = Callable[[Any], None]
"""Takes an event: a mapping that JSON can carry."""

IDENTITY = (
    "SELECT (pg_control_system()).system_identifier::text, d.oid::bigint, "
    "current_database()::text, pg_backend_pid() "
    "FROM pg_database AS d WHERE d.datname = current_database()"
)
TABLES = (
    "SELECT c.oid::bigint, n.nspname || '.' || c.relname, coalesce(pg_relation_filenode(c.oid), 0) "
    "FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
    "WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname !~ '^pg_' "
    "AND n.nspname <> 'information_schema'"
)
OWN_TRANSACTION = (
    "SELECT txid_current_if_assigned(), l.relation::bigint, l.mode, "
    "pg_relation_filenode(l.relation)::bigint, current_schema()::text "
    "FROM (SELECT) AS one LEFT JOIN pg_locks AS l ON l.pid = pg_backend_pid() "
    "AND l.locktype = 'relation' AND l.granted "
    "AND l.mode <> 'SIReadLock'"  # of a SERIALIZABLE transaction: it blocks nobody
)
"""In one round trip and of the locked relations only, as the application waits meanwhile. The id
is NULL for a transaction that has written nothing, the file number for a dropped relation."""
OWN_LOCKS = (
    "SELECT relation::bigint, mode FROM pg_locks WHERE pid = pg_backend_pid() "
    "AND locktype = 'relation' AND granted AND mode <> 'SIReadLock'"
)
OWN_XID = "SELECT mod(txid_current(), 4294967296)::text"
"""As ``xmin`` shows it."""
WRITTEN = (
    "SELECT relid::bigint, (n_tup_ins + n_tup_upd + n_tup_del)::bigint "
    "FROM pg_stat_xact_user_tables WHERE n_tup_ins + n_tup_upd + n_tup_del > 0"
)
"""What this transaction has written so far, triggers and functions included."""
VERSION_TABLE_SCHEMA = (
    "SELECT coalesce((SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n "
    "ON n.oid = c.relnamespace WHERE c.relname = :name AND pg_table_is_visible(c.oid)), "
    "current_schema())::text"
)
"""By env.py's own search path, which may be another than the playbook's sessions have."""
SEARCH_PATH = "SELECT current_schemas(false)::text[]"
OWNED_SEQUENCES = (
    "SELECT s.oid::regclass::text, quote_ident(n.nspname) || '.' || quote_ident(s.relname), "
    "'\"' || n.nspname || '\".' || quote_ident(s.relname), a.attname::text "
    "FROM pg_class AS s JOIN pg_namespace AS n ON n.oid = s.relnamespace "
    "JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = s.oid "
    "AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 "
    "JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid "
    "WHERE s.relkind = 'S' AND d.deptype = 'a'"
)
"""Each sequence that a serial column owns, as its default may write it, and that column."""
SERIAL = re.compile(r"nextval\('(.+?)'::regclass\)$")
COLLECT_AFTER = (100_000, 20, 20)
"""Garbage is looked for more seldom than Python does: models and reflected tables are here to stay.

Measured with 1,000 tables: reading the models and comparing them takes 1.2 s instead of 2.1 s.
"""
IDLE = 0
"""libpq's PQTRANS_IDLE: no transaction is open."""
LIMITS = ("lock_timeout", "statement_timeout")
"""Settings that a project may make stricter than the run's, and not laxer."""
LIMIT_CHANGE = re.compile(r"lock_timeout|statement_timeout|\bRESET\b|\bDISCARD\b", re.IGNORECASE)
CONCURRENTLY = re.compile(r"\bCONCURRENTLY\b", re.IGNORECASE)
_PART = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_SPACE = r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
_WRITE = (
    r"(?:(?:UPDATE|DELETE\s+FROM|TRUNCATE(?:\s+TABLE)?)\s+(?:ONLY\s+)?|(?:INSERT|MERGE)\s+INTO\s+"
    r"|COPY\s+(?=[^(]+(?:\([^)]*\)\s*)?FROM\b))(%s(?:\s*\.\s*%s)*)" % (_PART, _PART)
)
BEGINS_WITH = re.compile(_SPACE + r"WITH\b", re.IGNORECASE | re.DOTALL)
WRITE = re.compile(_SPACE + _WRITE, re.IGNORECASE | re.DOTALL)
WRITE_IN_WITH = re.compile(r"[()]" + _SPACE + _WRITE, re.IGNORECASE | re.DOTALL)
"""How statements that write rows begin, also within WITH, and the table that they name."""
MAKES_PLACE = re.compile(r"\s*CREATE\s+(?:SCHEMA|EXTENSION)\s+IF\s+NOT\s+EXISTS\b", re.IGNORECASE)
NOTHING = "SELECT WHERE false"
PLACEHOLDER = re.compile(r"%%|%\((\w+)\)s|%s|\$(\d+)")
DRIVERS = ("psycopg2", "psycopg", "asyncpg", "pg8000")
OWN_DRIVER = re.compile(r"postgres(?:ql)?\+(\w+)://")
REVISION_FILE = re.compile(r"(?!\.#|__init__).*\.py$")
"""The names of the files that Alembic loads."""
LOCK_MODES = (
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)


class WrongDatabaseError(Exception):
    """env.py connected to another database than the one the playbook expects."""


class WrongRevisionError(Exception):
    """The version table does not hold what the plan starts from."""


class NotWrittenError(Exception):
    """A revision file was rendered, and was not to be written."""


class LateRowsError(Exception):
    """Rows came to what a revision destroys, and there is no way to save them."""


class NoDowngradeError(Exception):
    """The revision file has no downgrade function."""


class Meter:
    """How long locks were held and which rows were written, during one request.

    A lock counts from the beginning of the statement after which it was first seen to the moment
    after its transaction's commit. Statements that run outside a transaction hold none afterwards:
    they are told with the time that they took.
    """

    def __init__(self) -> None:
        self.begun = 0.0
        self.since: dict[tuple[int, str], float] = {}
        self.committing: list[tuple[str, str, float]] = []
        self.held: dict[tuple[str, str], float] = {}
        self.rows: dict[str, int] = {}
        self.rows_before: dict[int, int] | None = None
        self.alone: list[tuple[str, float]] = []
        self.seen: set[str] = set()

    def begin(self, raw: Any, autocommit: bool) -> None:
        """Note that a statement is about to run."""
        self.end_transaction()
        if self.rows_before is None and not autocommit:
            # Counts of a transaction before may not have left this session yet.
            self.rows_before = dict(query(raw, WRITTEN))
        self.begun = time.monotonic()

    def done(self, raw: Any, statement: str) -> None:
        """Note the locks that a statement has taken; of a text that runs again no new ones."""
        if statement in self.seen:
            return
        self.seen.add(statement)
        for oid, mode in query(raw, OWN_LOCKS):
            self.since.setdefault((int(oid), mode), self.begun)

    def done_alone(self, statement: str) -> None:
        """Note a statement that has run outside a transaction."""
        self.alone.append((statement, time.monotonic() - self.begun))

    def before_commit(self, raw: Any, tables: Mapping[int, tuple[str, int]]) -> None:
        """Note what is locked, and what was written, just before a commit."""
        now = time.monotonic()
        for oid, mode in query(raw, OWN_LOCKS):
            name = tables.get(int(oid), ("", 0))[0]
            if name:
                self.committing.append((name, mode, self.since.get((int(oid), mode), now)))
        for oid, rows in query(raw, WRITTEN):
            name = tables.get(int(oid), ("", 0))[0]
            written = int(rows) - (self.rows_before or {}).get(oid, 0)
            if name and written:
                self.rows[name] = self.rows.get(name, 0) + written

    def cut_off(self, tables: Mapping[int, tuple[str, int]]) -> None:
        """Note that a statement of the revision's own has ended the transaction."""
        known = ((tables.get(oid, ("", 0))[0], mode, at) for (oid, mode), at in self.since.items())
        self.committing += [lock for lock in known if lock[0]]
        self.end_transaction(over=True)

    def end_transaction(self, over: bool = False) -> None:
        """Add up what a transaction held that has been committed meanwhile."""
        now = time.monotonic()
        for name, mode, since in self.committing:
            self.held[name, mode] = max(self.held.get((name, mode), 0.0), now - since)
        if self.committing or over:
            self.since, self.seen, self.rows_before = {}, set(), None
        self.committing = []

    def summary(self) -> dict[str, Any]:
        """Return what was measured."""
        self.end_transaction()
        return {
            "held": [[*key, seconds] for key, seconds in sorted(self.held.items())],
            "rows": sorted(self.rows.items()),
            "alone": self.alone,
        }


class Observer:
    """What happens on the sessions that env.py opens, during one request."""

    def __init__(
        self, emit: Emit, expected: Mapping[str, Any] | None, session: Mapping[str, str]
    ) -> None:
        self.emit = emit
        self.expected = expected
        self.session = dict(session)
        self.tables: dict[int, tuple[str, int]] = {}
        self.locks: dict[str, str] = {}
        self.rewritten: set[str] = set()
        self.xids: list[int] = []
        self.written: set[str] = set()
        self.wrote: set[str] = set()
        self.statements = 0
        self.outside_transaction = False
        self.last_statement = ""
        self.record = False
        self.recording = False
        self.autocommit = False
        self.limited = False
        self.before_concurrently: dict[str, str] = {}
        self.meter: Meter | None = None
        self.guard: Any = None

    @property
    def read_only(self) -> bool:
        """Whether this request only reads."""
        return self.session.get("default_transaction_read_only") == "on"

    def listen(self) -> None:
        """Hook every pool and engine of this process, whoever creates them."""
        event.listen(Pool, "checkout", self.on_checkout)
        event.listen(Engine, "before_cursor_execute", self.on_statement, retval=True)
        event.listen(Engine, "after_cursor_execute", self.on_statement_done)
        event.listen(Engine, "commit", self.on_commit)
        event.listen(Pool, "checkin", self.on_checkin)

    def reset(
        self, session: Mapping[str, str], record: bool = False, measure: bool = False
    ) -> None:
        """Forget the last request; use these session settings from now on."""
        self.meter = Meter() if measure else None
        self.session.update(session)
        self.tables, self.locks, self.rewritten, self.xids = {}, {}, set(), []
        self.written, self.wrote = set(), set()
        self.statements, self.outside_transaction, self.last_statement = 0, False, ""
        self.record, self.recording = record, False
        self.autocommit, self.limited, self.before_concurrently = False, False, {}

    def on_checkout(self, dbapi_connection: Any, record: Any, proxy: Any) -> None:
        """Check where the session is, then set it up; nothing was written before."""
        kind = type(dbapi_connection).__module__
        if not any(word in kind for word in ("postgresql", *DRIVERS)):
            raise WrongDatabaseError("a database of another kind (%s)" % kind.split(".")[0])
        identifier, oid, name, pid = query(dbapi_connection, IDENTITY)[0]
        if self.expected and (
            identifier != self.expected["system_identifier"]
            or int(oid) != self.expected["database_oid"]
        ):
            dbapi_connection.rollback()
            raise WrongDatabaseError("the database %r" % name)
        for setting, value in self.session.items():
            set_setting(dbapi_connection, setting, value)
        self.tables = {
            int(row[0]): (row[1], int(row[2])) for row in query(dbapi_connection, TABLES)
        }
        if self.guard:
            self.guard.begin(dbapi_connection)
        dbapi_connection.commit()
        self.emit({"event": "session", "pid": int(pid)})

    def on_statement(
        self,
        connection: Any,
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        executemany: bool,
    ) -> tuple[str, Any]:
        """Report a statement before it runs; give CONCURRENTLY its own lock_timeout.

        Where nothing may be written, what env.py makes before its migrations is left out.
        """
        if self.read_only and MAKES_PLACE.match(statement):
            return NOTHING, ()
        self.statements += 1
        self.last_statement = statement
        raw = connection.connection
        autocommit = bool(getattr(getattr(raw, "dbapi_connection", raw), "autocommit", False))
        self.autocommit = autocommit
        if self.guard:
            self.guard.before_statement(raw, statement, autocommit)
        if self.recording and not self.limited:
            self.limited = True  # env.py may have set its own since the session was set up
            self.limit(raw)
        if autocommit:
            self.outside_transaction = True
            if CONCURRENTLY.search(statement) and "concurrently_timeout" in self.session:
                self.give_time(raw)
        text = statement
        if self.recording:
            self.written |= names_written(statement)
            text = with_values(cursor, statement, parameters, context, executemany)
        if self.meter:
            self.meter.begin(raw, autocommit)
        shown = text if self.record else text[:400]
        self.emit(
            {
                "event": "statement",
                "sql": shown,
                "step": self.recording,
                "autocommit": autocommit,
                "outside": self.outside_transaction,
            }
        )
        return statement, parameters

    def tell_outside(self) -> None:
        """Report that what a revision has done so far stays, even if this process is killed."""
        self.emit(
            {"event": "statement", "sql": "", "step": True, "autocommit": False, "outside": True}
        )

    def on_statement_done(
        self,
        connection: Any,
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        executemany: bool,
    ) -> None:
        """See whether a statement ended the transaction; mend what it did to lock_timeout."""
        raw = connection.connection
        if self.meter:
            self.measure(raw, cursor, statement)
        if self.recording and not self.autocommit and has_ended(raw):
            self.outside_transaction = True
            self.tell_outside()
            if self.meter:
                self.meter.cut_off(self.tables)
        if self.recording and LIMIT_CHANGE.search(statement):
            self.limit(raw)
        for setting, value in self.before_concurrently.items():
            set_setting(raw, setting, value)
        self.before_concurrently = {}

    def measure(self, raw: Any, cursor: Any, statement: str) -> None:
        """Tell the meter of a statement that is done."""
        if self.meter and not self.autocommit:
            self.meter.done(raw, statement)
        elif self.meter:
            self.meter.done_alone(statement)
            rows = getattr(cursor, "rowcount", -1)
            for name in names_written(statement) if rows and rows > 0 else ():
                known = resolve(name, "public", {table for table, _ in self.tables.values()})
                for table in known:
                    self.meter.rows[table] = self.meter.rows.get(table, 0) + rows

    def on_checkin(self, dbapi_connection: Any, record: Any) -> None:
        """Note that a session's last transaction is over."""
        if self.meter:
            self.meter.end_transaction()

    def limit(self, raw: Any) -> None:
        """Bring the session's limits down to the run's where they are longer, or off."""
        for setting in LIMITS:
            if setting in self.session:
                limit_setting(raw, setting, self.session[setting])

    def give_time(self, raw: Any) -> None:
        """Give CONCURRENTLY its own patience: a limit that strikes leaves an invalid index."""
        patience = {"lock_timeout": self.session["concurrently_timeout"], "statement_timeout": "0"}
        for setting, value in patience.items():
            shown = query(raw, "SELECT current_setting('%s')" % setting)
            self.before_concurrently[setting] = shown[0][0]
            set_setting(raw, setting, value)

    def on_commit(self, connection: Any) -> None:
        """Read the transaction's id, the locks that it holds and the tables that it rewrote."""
        raw = connection.connection
        if self.guard:
            self.guard.before_commit(raw)
        rows = query(raw, OWN_TRANSACTION)
        self.xids += [int(rows[0][0])] if rows[0][0] else []
        written_here = set()
        for _, oid, mode, filenode, _ in rows:
            name, before = self.tables.get(int(oid or 0), ("", 0))
            if not name:
                continue
            if LOCK_MODES.index(mode) >= LOCK_MODES.index(self.locks.get(name, mode)):
                self.locks[name] = mode
            if LOCK_MODES.index(mode) >= LOCK_MODES.index("RowExclusiveLock"):
                written_here.add(name)
            if filenode and int(filenode) != before:
                self.rewritten.add(name)
        for name in self.written:
            self.wrote |= resolve(name, rows[0][4] or "", written_here)
        self.written = set()
        if self.outside_transaction:  # what was rewritten there is locked no more
            self.compare_files(raw)
        if self.meter:
            self.meter.before_commit(raw, self.tables)

    def compare_files(self, dbapi_connection: Any) -> None:
        """Note every table whose file is another than when the session began."""
        after = {int(row[0]): int(row[2]) for row in query(dbapi_connection, TABLES)}
        for oid, (name, filenode) in self.tables.items():
            if after.get(oid, filenode) != filenode:
                self.rewritten.add(name)

    def summary(self) -> dict[str, Any]:
        """Return what was seen since the last reset."""
        return {
            "statements": self.statements,
            "locks": sorted(self.locks.items()),
            "rewritten": sorted(self.rewritten),
            "xids": self.xids,
            "wrote": sorted(self.wrote),
            "transactional": not self.outside_transaction,
        }


@functools.lru_cache(maxsize=256)
def names_written(statement: str) -> frozenset[str]:
    """Return the tables that a statement says it writes rows to, ``table`` or ``schema.table``.

    By how it begins: a loop may send 100,000 of them. Of several in one text the first counts.
    """
    if BEGINS_WITH.match(statement):
        return frozenset(plain_name(name) for name in WRITE_IN_WITH.findall(statement))
    found = WRITE.match(statement)
    return frozenset({plain_name(found.group(1))} if found else ())


def plain_name(written: str) -> str:
    """Return a name in SQL as the catalogs have it: unquoted, in lower case unless quoted."""
    parts = [
        part[1:-1].replace('""', '"').replace("%%", "%") if part[0] == '"' else part.lower()
        for part in re.findall(_PART, written)
    ]
    return ".".join(parts[-2:])


def resolve(name: str, schema: str, locked: set[str]) -> set[str]:
    """Return which tables a name means: of those locked for writing the current schema's first."""
    if "." in name:
        return {name}
    own = "%s.%s" % (schema, name)
    seen = {table for table in locked if table.split(".", 1)[1] == name}
    return {own} if own in seen or not seen else seen


def query(dbapi_connection: Any, sql: str) -> list[Any]:
    """Return the rows of a parameterless query on a raw connection."""
    cursor = dbapi_connection.cursor()
    try:
        cursor.execute(sql)
        return list(cursor.fetchall())
    finally:
        cursor.close()


def set_setting(dbapi_connection: Any, setting: str, value: str) -> None:
    """Set one session setting, unless this server does not have it."""
    if setting == "concurrently_timeout":
        return
    name, text = (str(part).replace("'", "''") for part in (setting, value))
    query(
        dbapi_connection,
        "SELECT set_config(name, '%s', false) FROM pg_settings WHERE name = '%s'" % (text, name),
    )


def limit_setting(dbapi_connection: Any, setting: str, longest: str) -> None:
    """Bring a timeout down to the run's limit where it is longer, or off."""
    limit_ms = query(dbapi_connection, "SELECT extract(epoch FROM interval '%s') * 1000" % longest)
    query(
        dbapi_connection,
        "SELECT set_config(name, '%s', false) FROM pg_settings "
        "WHERE name = '%s' AND (setting::int = 0 OR setting::int > %d)"
        % (longest, setting, int(limit_ms[0][0])),
    )


def has_ended(raw: Any) -> bool:
    """Say whether no transaction is open any more, by what each driver tells of itself."""
    driver = getattr(raw, "dbapi_connection", raw)  # the pool's own `info` is another
    own = getattr(driver, "_connection", driver)  # within SQLAlchemy's adapter, of an async one
    if hasattr(own, "is_in_transaction"):
        return not own.is_in_transaction()
    return getattr(getattr(own, "info", None), "transaction_status", None) == IDLE


def with_values(
    cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> str:
    """Return a statement with its values in place, as the driver sends it, once for each row."""
    options = getattr(context, "execution_options", None) or {}
    if not parameters and options.get("no_parameters"):
        return statement
    # Even without values the driver makes "%" of "%%".
    # SQLAlchemy 2 sends many rows by one INSERT (insertmanyvalues): executemany, and one mapping.
    rows = parameters if executemany and isinstance(parameters, (list, tuple)) else [parameters]
    mogrify = getattr(cursor, "mogrify", fill_in)
    texts = [mogrify(statement, row) for row in rows]
    return ";\n".join(t.decode() if isinstance(t, bytes) else t for t in texts)


def fill_in(statement: str, values: Any) -> str:
    """Return a statement with its values in place, for a driver that sends them apart from it."""
    if not values and "$" in statement:  # not one of a driver that counts them
        return statement
    places = iter(values if isinstance(values, (list, tuple)) else ())

    def value(found: Any) -> str:
        if found.group(0) == "%%":
            return "%"
        if found.group(1):
            return literal(values[found.group(1)])
        return literal(values[int(found.group(2)) - 1] if found.group(2) else next(places))

    return PLACEHOLDER.sub(value, statement)


def literal(value: Any) -> str:
    """Return a value as SQL has it."""
    if value is None:
        return "NULL"
    if isinstance(value, (bool, int, float)):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        return "'\\x%s'::bytea" % bytes(value).hex()
    if isinstance(value, (list, tuple)):
        return "ARRAY[%s]" % ", ".join(literal(item) for item in value)
    return "'%s'" % str(value).replace("'", "''")


class Attributes(Dict[str, Any]):
    """What env.py finds in ``config.attributes``: a connection, made when it is asked for one."""

    url = ""

    def __missing__(self, key: str) -> Any:
        if key != "connection":
            raise KeyError(key)
        engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.pool.NullPool)
        self[key] = engine.connect()
        return self[key]

    def give(self) -> None:
        """Have the connection ready, for an env.py that asks whether it is there."""
        self["connection"]

    def take_back(self) -> None:
        """Close the connection, if there is one."""
        if "connection" in self:
            self.pop("connection").close()


def load_config(request: Mapping[str, Any], **options: Any) -> Config:
    """Return the project's configuration as its own `alembic` would have it; goes to its folder."""
    given = os.path.abspath(request["config"])
    toml = given.endswith(".toml")
    here = os.path.dirname(given)
    flask = is_flask_s(read_text(os.path.join(here, "env.py")))  # whose ini is a folder below
    os.chdir(request["directory"] or (os.path.dirname(here) if flask else here))
    beside = os.path.abspath("alembic.ini" if toml else "pyproject.toml")
    ini, pyproject = (beside, given) if toml else (given, beside)
    if hasattr(Config, "toml_alembic_config"):
        options["toml_file"] = pyproject
    elif toml:
        raise util.CommandError("Alembic %s cannot read pyproject.toml" % alembic.__version__)
    if request["arguments"]:
        options["cmd_opts"] = argparse.Namespace(x=list(request["arguments"]))
    file = ini if os.path.exists(ini) else None
    config = Config(file, ini_section=request["name"], **options)
    if not main_option(config, "script_location") and os.path.exists(os.path.join(here, "env.py")):
        config.set_main_option("script_location", here.replace("%", "%%"))
    return config


def main_option(config: Config, option: str) -> str:
    """Return an option of the ini file, or of pyproject.toml where this Alembic reads it."""
    get: Any = getattr(config, "get_alembic_option", config.get_main_option)
    return str(get(option) or "")


def env_text(config: Config) -> str:
    """Return the text of env.py, without importing the package that it may be in."""
    place = main_option(config, "script_location")
    package, colon, path = place.partition(":")
    if colon and not os.path.isabs(place):
        top, _, below = package.partition(".")
        found = importlib.util.find_spec(top)
        root = (found and found.submodule_search_locations or [""])[0]
        place = os.path.join(root, *below.split("."), *path.split(":"))
    return read_text(os.path.join(place, "env.py"))


def read_text(path: str) -> str:
    """Return a file's text; "" where there is none."""
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def is_flask_s(text: str) -> bool:
    """Say whether an env.py is Flask-Migrate's, which needs the application."""
    return "flask" in text and "current_app" in text


def enter_flask() -> None:
    """Load the Flask application as `flask db` does, and make it the current one."""
    cli: Any = importlib.import_module("flask.cli")  # of the project's own
    cli.load_dotenv()
    cli.ScriptInfo(os.environ.get("FLASK_APP")).load_app().app_context().push()


def look(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the driver of env.py's URL; runs nothing of the project's."""
    config = load_config(request)
    try:
        url = config.get_main_option("sqlalchemy.url", "")
    except Exception:  # it may refer to what only `alembic -x` or a program gives
        url = ""
    own = OWN_DRIVER.match(url)
    return {
        "driver": own.group(1) if own else "",
        "is_async": "async_engine" in env_text(config),
        "drivers": [name for name in DRIVERS if importlib.util.find_spec(name)],
    }


class Runner:
    """One project's Alembic; a method a request."""

    def __init__(self, emit: Emit, request: Mapping[str, Any]) -> None:
        self.emit = emit
        self.observer = Observer(emit, request.get("expected"), request.get("session", {}))
        self.observer.listen()
        self.keep_within(request)
        self.buffer = io.StringIO()
        os.environ.update(request["environment"])
        self.config = load_config(request, output_buffer=self.buffer)
        self.config.set_main_option("sqlalchemy.url", request["url"].replace("%", "%%"))
        for section, option, text in request["options"]:
            self.config.set_section_option(
                section or request["name"], option, text.replace("%", "%%")
            )
        self.attributes = Attributes(self.config.attributes)
        self.attributes.url = request["url"]
        self.has_learned = False
        self.memo: dict[Any, Any] = {}
        self.memo_of = ""
        self.own_xids: dict[str, list[str]] = {}
        self.gives_connection = request["gives_connection"]
        self.config.attributes = self.attributes
        if is_flask_s(env_text(self.config)):
            enter_flask()
        if request["setup"]:
            self.names = runpy.run_path(request["setup"])
        self.script = ScriptDirectory.from_config(self.config)
        self.revision_context: Any = None
        self.drafts: str = request.get("drafts") or ""
        if self.drafts:
            sys.dont_write_bytecode = True  # a folder of drafts holds drafts only
            self.add_versions(self.drafts)
        self.hashes: dict[str, str] = {}

    def load(self) -> None:
        """Load the revision files and their hashes, at once.

        What runs later is this, whatever the files hold by then. Where they cannot be loaded,
        `current` and `files` still answer.
        """
        self.has_learned = True  # where this fails, nothing else is tried
        self.hashes = load_hashes(self.script)
        self.has_learned = False

    def keep_within(self, request: Mapping[str, Any]) -> None:
        """Keep a revision that runs on a copy within it, by the file beside this one."""
        if request.get("scratch"):
            beside("guarding").Strays(request["expected"]).listen()
        if request.get("scratch") == "beside":
            self.observer.guard = beside("guarding").Guard(query)

    def run_env(
        self,
        function: Callable[[tuple[str, ...], MigrationContext], Iterable[Any]],
        **options: Any,
    ) -> None:
        """Run the project's env.py with a function that Alembic calls with the current heads."""
        seen = []

        def call(heads: Any, context: MigrationContext) -> Any:
            seen.append(True)
            return function(tuple(heads), context)

        if self.gives_connection and not options.get("as_sql"):
            self.attributes.give()
        try:
            with EnvironmentContext(self.config, self.script, fn=call, **options):
                self.script.run_env()
        finally:
            self.attributes.take_back()
        if not seen:
            raise util.CommandError("env.py returned without running any migration context")

    def add_versions(self, folder: str) -> None:
        """Take a folder for one more of the project's version locations, in this process only."""
        found = [str(location) for location in self.script._version_locations]
        self.script.version_locations = [*found, folder]
        self.script.__dict__.pop("_version_locations", None)  # it is remembered there

    def author(self, request: Mapping[str, Any]) -> Any:
        """Answer a request about a new revision, by the file beside this one."""
        sys.dont_write_bytecode = True  # Alembic loads what it has written
        return getattr(beside("drafting"), request["verb"])(self, request)

    def graph(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return all revisions, in upgrade order, and the heads."""
        revisions = [
            describe(script, self.hashes[script.revision])
            for script in self.script.walk_revisions()
        ]
        return {
            "revisions": revisions[::-1],
            "heads": list(self.script.get_heads()),
            "directory": self.script.dir,
        }

    def learn_folders(self) -> None:
        """Let env.py run once before the files are read, if it may say where they are."""
        asks = main_option(self.config, "revision_environment").lower() == "true"
        if self.has_learned or (self.hashes and not asks):
            return
        self.has_learned = True
        self.script = ScriptDirectory.from_config(self.config)
        if self.drafts:
            self.add_versions(self.drafts)
        self.observer.reset({"default_transaction_read_only": "on"})
        self.run_env(lambda heads, context: [], dont_mutate=True)
        self.hashes = load_hashes(self.script)

    def files(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return each revision file by itself, loaded, and why it cannot be."""
        found = []
        for folder in self.script._version_locations:
            if not os.path.isdir(folder):
                continue
            for path in map(str, ScriptFile._list_py_dir(self.script, folder)):
                if REVISION_FILE.match(os.path.basename(path)):
                    found.append(read_file(path))
        return found

    def merge_text(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Return the file that would merge some heads, by the project's template; writes none."""
        found: dict[str, str] = {}

        def keep(template: Any, path: Any, **values: Any) -> None:
            with tempfile.TemporaryDirectory() as folder:
                copy = os.path.join(folder, "merge.py")
                util.template_to_file(str(template), copy, self.script.output_encoding, **values)
                with open(copy, encoding=self.script.output_encoding or "utf-8") as file:
                    found.update(path=str(path), text=file.read())
            raise NotWrittenError

        vars(self.script)["_generate_template"] = keep
        try:
            self.script.generate_revision(
                request["revision"],
                request["message"],
                head=tuple(request["heads"]),
                imports="",
                upgrades="",
                downgrades="",
            )
        except NotWrittenError:
            return found
        finally:
            del vars(self.script)["_generate_template"]
        raise util.CommandError("Alembic rendered no file")

    def current(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the version table holds; creates nothing."""
        found: dict[str, Any] = {}

        def look(heads: tuple[str, ...], context: MigrationContext) -> list[Any]:
            found.update(
                current=list(heads),
                version_table=context.version_table,
                version_table_schema=context.version_table_schema or schema_seen(context),
                search_path=path_seen(context),
            )
            return []

        self.observer.reset({"default_transaction_read_only": "on"})
        self.run_env(look, dont_mutate=True)
        return found

    def plan(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the steps from the current revisions to a target, in the order they run."""
        heads = tuple(request["current"])
        return [self.step_record(step) for step in self.steps(request, heads)]

    def steps(self, request: Mapping[str, Any], heads: tuple[str, ...]) -> list[RevisionStep]:
        """Return Alembic's own steps for a plan request."""
        if request["direction"] == "upgrade":
            return self.script._upgrade_revs(request["target"], heads)  # type: ignore[arg-type]
        lacking = [s for s in self.downgrade_scripts(request["target"], heads) if not downgrades(s)]
        if lacking:
            raise util.CommandError("Revision %s has no downgrade function" % lacking[0].revision)
        return self.script._downgrade_revs(request["target"], heads)  # type: ignore[arg-type]

    def downgrade_scripts(self, target: str, heads: tuple[str, ...]) -> list[Script]:
        """Return the revision files that a downgrade passes."""
        with self.script._catch_revision_errors(
            ancestor="Destination %(end)s is not a valid downgrade target from current head(s)",
            end=target,
        ):
            return list(self.script.iterate_revisions(heads, target, select_for_downgrade=True))

    def step_record(self, step: RevisionStep) -> dict[str, Any]:
        """Return what the playbook shows of a step."""
        script = step.revision
        return {
            "revision": script.revision,
            "from": list(step.from_revisions),
            "to": list(step.to_revisions),
            "message": script.doc or "",
            "path": script.path,
            "sha256": self.hashes[script.revision],
        }

    def sql(self, request: Mapping[str, Any]) -> list[str]:
        """Return the SQL of each step, by Alembic's offline mode, without connecting."""
        pieces = []

        def render(heads: tuple[str, ...], context: MigrationContext) -> Iterator[Any]:
            # No driver takes this text: it is read, and run by psql, where "%%" is two of them.
            context.dialect.identifier_preparer._double_percents = False
            for step in self.steps(request, tuple(request["current"])):
                start = self.buffer.tell()
                yield step
                pieces.append(self.buffer.getvalue()[start:])

        self.buffer.seek(0)
        self.buffer.truncate()
        # Offline means that nothing is run, and a revision may connect by itself all the same.
        with beside("guarding").only_reading():
            self.run_env(
                render, as_sql=True, starting_rev=request["current"] or None, destination_rev=None
            )
        return pieces

    def run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Apply or undo one revision; the version table must be where the plan has it."""
        result: dict[str, Any] = {}

        def one_step(heads: tuple[str, ...], context: MigrationContext) -> Iterator[Any]:
            if sorted(heads) != sorted(request["expected_current"]):
                raise WrongRevisionError(", ".join(heads) or "base")
            script = self.script.get_revision(request["revision"])
            if request["direction"] == "downgrade" and not downgrades(script):
                raise NoDowngradeError("it has no downgrade function")
            make = (
                MigrationStep.upgrade_from_script
                if request["direction"] == "upgrade"
                else MigrationStep.downgrade_from_script
            )
            step = make(self.script.revision_map, script)
            own = step.migration_fn

            @functools.wraps(own)
            def save_then_run(**options: Any) -> Any:
                self.save_late_rows(context, request.get("late_rows", ()))
                return own(**options)

            step.migration_fn = save_then_run
            self.remember(context, request)
            self.observer.recording = True
            started = time.monotonic()
            yield step
            result["duration_s"] = time.monotonic() - started
            self.observer.recording = False
            result["memo"] = context.impl.memo

        self.observer.reset(
            dict(request["session"], default_transaction_read_only="off"),
            record=request.get("record", False),
            measure=request.get("measure", False),
        )
        started = time.monotonic()
        self.run_env(one_step)
        result["duration_s"] = time.monotonic() - started
        self.memo, self.memo_of = result.pop("memo"), request["direction"]
        meter = self.observer.meter
        return dict(result, **self.observer.summary(), measured=meter and meter.summary())

    def remember(self, context: MigrationContext, request: Mapping[str, Any]) -> None:
        """Give a step what the steps before it have left, as if all were one run of Alembic.

        SQLAlchemy keeps there which types it has made: of two tables with one enum, in two
        revisions, only the first makes it. Each step has a copy, as it may be tried again.
        """
        if request["direction"] == self.memo_of and request["expected_current"]:
            context.impl.memo = copy.deepcopy(self.memo)

    def save_late_rows(
        self, context: MigrationContext, tables: Iterable[Mapping[str, str]]
    ) -> None:
        """Keep others out of what is about to be destroyed, and save what came last.

        Runs inside the revision's transaction, whose end frees the locks. Where the project's
        engine commits each statement by itself no lock can be held; rows are saved all the same.
        """
        counted, literally = self.observer.statements, {"no_parameters": True}
        connection: Any = context.connection
        raw = connection.connection
        alone = bool(getattr(getattr(raw, "dbapi_connection", raw), "autocommit", False))
        recording, self.observer.recording = self.observer.recording, not alone
        for table in tables:
            if not alone:
                connection.exec_driver_sql(table["lock"], execution_options=literally)
            rows = self.read_late_rows(connection, table, literally)
            if not alone:
                xid = connection.exec_driver_sql(OWN_XID, execution_options=literally).scalar()
                self.own_xids.setdefault(table["table"], []).append(xid)
            if rows and not table["path"]:
                raise LateRowsError(
                    "%d rows of %s were written after what it holds was saved, by the application "
                    "or by a downgrade before this one" % (len(rows), table["table"])
                )
            if rows:
                append_rows(table["path"], rows)
        self.observer.statements, self.observer.recording = counted, recording
        if alone:
            self.observer.outside_transaction = False  # nothing of the revision has run yet

    def read_late_rows(
        self, connection: Any, table: Mapping[str, str], options: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        """Return the rows that came after the salvage; a failure is not the revision's.

        Not those that downgrades before this one wrote, under their lock: what these rows held
        then was saved before.
        """
        own = ",".join(self.own_xids.get(table["table"], ()))
        query = "%s AND xmin::text <> ALL ('{%s}')" % (table["query"], own)
        try:
            found = connection.exec_driver_sql(query, execution_options=options)
            return [tuple(row) for row in found]
        except sqlalchemy.exc.DBAPIError as error:
            raise LateRowsError(
                "what came last to %s cannot be read (%s)" % (table["table"], error.orig)
            ) from error

    def stamp(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Set the version table to some revisions without running anything."""

        def mark(heads: tuple[str, ...], context: MigrationContext) -> list[Any]:
            return self.script._stamp_revs(tuple(request["revisions"]), heads)

        self.observer.reset(dict(request["session"], default_transaction_read_only="off"))
        self.run_env(mark)
        return {}

    def drift(self, request: Mapping[str, Any]) -> list[str]:
        """Return, in words, how the models differ from the database; writes no file."""
        arguments: dict[str, Any] = {
            "message": None,
            "autogenerate": True,
            "sql": False,
            "head": "head",
            "splice": False,
            "branch_label": None,
            "version_path": None,
            "rev_id": None,
            "depends_on": None,
        }
        context = autogenerate.RevisionContext(self.config, self.script, arguments)

        def compare(heads: tuple[str, ...], migration_context: MigrationContext) -> list[Any]:
            with serial_columns_known(migration_context):
                context.run_autogenerate(heads, migration_context)
            return []

        self.observer.reset({"default_transaction_read_only": "on"})
        self.run_env(
            compare,
            dont_mutate=True,
            template_args=context.template_args,
            revision_context=context,
        )
        scripts = context.generated_revisions  # none where env.py leaves an empty one out
        operations = scripts[-1].upgrade_ops_list if scripts else []
        return [line for ops in operations for line in flatten(ops.as_diffs())]


@functools.lru_cache(maxsize=None)
def beside(name: str) -> Any:
    """Return a module beside this one, loaded by its path: this folder is on no path."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "%s.py" % name)
    spec: Any = importlib.util.spec_from_file_location("playbook_%s" % name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def serial_columns_known(context: MigrationContext) -> Iterator[None]:
    """Take the defaults of serial columns out of what is reflected, as autogenerate does later.

    It asks for the sequence of each such column by a query of its own; this is one for all.
    """
    connection: Any = context.connection
    owner = {
        name: row[-1]
        for row in connection.execute(sqlalchemy.text(OWNED_SEQUENCES))
        for name in row[:-1]
    }

    def leave_out(inspector: Any, table: Any, column: dict[str, Any]) -> None:
        found = SERIAL.match(column.get("default") or "")
        is_integer = isinstance(column["type"], (sqlalchemy.INTEGER, sqlalchemy.BIGINT))
        if found and is_integer and owner.get(found.group(1)) == column["name"]:
            del column["default"]

    event.listen(sqlalchemy.Table, "column_reflect", leave_out)
    try:
        yield
    finally:
        event.remove(sqlalchemy.Table, "column_reflect", leave_out)


def schema_seen(context: MigrationContext) -> str:
    """Return where env.py's session finds the version table, or would make it; "" for public."""
    connection: Any = context.connection
    name = {"name": context.version_table}
    found = connection.execute(sqlalchemy.text(VERSION_TABLE_SCHEMA), name).scalar()
    return str(found) if found and found != "public" else ""


def path_seen(context: MigrationContext) -> list[str]:
    """Return the schemas in which env.py's session looks for a name without one."""
    connection: Any = context.connection
    return list(connection.execute(sqlalchemy.text(SEARCH_PATH)).scalar() or ())


def append_rows(path: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Append rows of text to a CSV file as COPY writes them, and wait for the disk."""
    with open(path, "a", encoding="utf-8", newline="") as file:
        for row in rows:
            fields = ['"%s"' % f.replace('"', '""') if f is not None else "" for f in row]
            file.write(",".join(fields) + "\n")
        file.flush()
        os.fsync(file.fileno())


def load_hashes(script: ScriptDirectory) -> dict[str, str]:
    """Return the hash of each revision's file.

    Of two files with one id Alembic only warns, and runs one of them; before it fails at a
    revision that stands on none, it says which in a warning.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            hashes = {s.revision: sha256(s.path) for s in script.walk_revisions()}
        except KeyError:
            hashes = {}
            if not any(is_about_revisions(one) for one in caught):
                raise
    for one in caught:
        if is_about_revisions(one):
            raise util.CommandError(str(one.message))
        warnings.showwarning(one.message, one.category, one.filename, one.lineno)
    return hashes


def is_about_revisions(warning: Any) -> bool:
    """Say whether a warning is one of Alembic's on the revision files; they have no class."""
    text = str(warning.message)
    return "is present more than once" in text or bool(
        re.match("Revision .* referenced from .* is not present", text)
    )


def read_file(path: str) -> dict[str, Any]:
    """Return what a revision file says of itself, as Alembic loads it, and its text."""
    with open(path, "rb") as file:
        raw = file.read()
    found: dict[str, Any] = {
        "path": path,
        "sha256": hashlib.sha256(raw).hexdigest(),
        "text": raw.decode("utf-8", "replace"),
        "error": "",
        "line": 0,
        "has_down": False,
        "revision": "",
        "down_revisions": [],
    }
    try:
        module = util.load_python_file(os.path.dirname(path), os.path.basename(path))
    except (Exception, SystemExit) as error:  # whatever the file does
        line = getattr(error, "lineno", 0) or line_within(path, error)
        return dict(found, error="%s: %s" % (type(error).__name__, error), line=line or 0)
    down = getattr(module, "down_revision", None)
    found["has_down"] = hasattr(module, "down_revision")
    found["revision"] = str(getattr(module, "revision", "") or "")
    found["down_revisions"] = [str(one) for one in util.to_tuple(down, default=())]
    return found


def line_within(path: str, error: BaseException) -> int:
    """Return the last line of a file that an exception came through; 0 if none."""
    line, trace = 0, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def describe(script: Script, digest: str) -> dict[str, Any]:
    """Return what the playbook keeps of a revision file."""
    return {
        "revision": script.revision,
        "down_revisions": list(util.to_tuple(script.down_revision, default=())),
        # Resolved: in the file a label or a part of an id may stand.
        "depends_on": sorted(script._resolved_dependencies),
        "branch_labels": sorted(script.branch_labels or ()),
        "message": script.doc or "",
        "path": script.path,
        "sha256": digest,
        "is_head": script.is_head,
        "is_base": script.is_base,
        "is_branch_point": script.is_branch_point,
        "is_merge_point": script.is_merge_point,
    }


def sha256(path: str) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def downgrades(script: Script) -> bool:
    """Say whether a revision file has a downgrade function."""
    return callable(getattr(script.module, "downgrade", None))


def flatten(differences: Iterable[Any]) -> list[str]:
    """Return one line for each difference that autogenerate found."""
    lines: list[str] = []
    for item in differences:
        if isinstance(item, list):
            lines.extend(flatten(item))
        else:
            parts = [name(p) for p in item[1:] if p is not None and not isinstance(p, dict)]
            lines.append(" ".join([item[0].replace("_", " "), *parts]))
    return lines


def name(part: Any) -> str:
    """Return a short text for an object in one of autogenerate's tuples."""
    table: Any = getattr(part, "table", None)
    own: Any = getattr(part, "name", None)
    if own and getattr(table, "name", None):
        return "%s.%s" % (table.name, own)
    if isinstance(part, sqlalchemy.Constraint) and table is not None:  # without a name
        columns = [str(column.name) for column in getattr(part, "columns", ())]
        return "%s (%s)" % (table.name, ", ".join(columns))
    return str(own if own else part)


def error_event(error: BaseException, observer: Observer | None) -> dict[str, Any]:
    """Return the event for an exception: its class, text, SQLSTATE and the statement."""
    original = getattr(error, "orig", None)
    sqlstate = ""
    for candidate in (original, getattr(original, "__cause__", None), error):
        sqlstate = (
            sqlstate
            or getattr(candidate, "pgcode", None)
            or getattr(candidate, "sqlstate", None)
            or ""
        )
    diagnostics = getattr(original, "diag", None)
    message = getattr(diagnostics, "message_primary", None)
    return dict(
        observer.summary() if observer else {},
        event="error",
        kind=type(error).__name__,
        alembic=isinstance(error, util.CommandError),
        message=str(message or original or error).strip(),
        sqlstate=str(sqlstate),
        statement=observer.last_statement if observer and original else "",
        object=object_of(diagnostics or getattr(original, "__cause__", None) or original),
    )


def object_of(diagnostics: Any) -> str:
    """Return what PostgreSQL says that an error is about: a column, or a table and constraint."""
    parts = [getattr(diagnostics, name, None) for name in ("schema_name", "table_name")]
    table = ".".join(str(part) for part in parts if part)
    column, constraint = (
        getattr(diagnostics, name, None) for name in ("column_name", "constraint_name")
    )
    if table and column:
        return "%s.%s" % (table, column)
    return " ".join(str(part) for part in (table, constraint) if part)


def read_requests(stream: TextIO, requests: queue.Queue[Any]) -> None:
    """Put requests on the queue; end the process when the parent has closed the pipe."""
    for line in stream:
        requests.put(json.loads(line))
    os._exit(1)


def serve(requests: queue.Queue[Any], send: Emit) -> NoReturn:
    """Answer requests until the process is ended; each event bears its request's number."""
    runner: Runner | None = None
    request: dict[str, Any] = {}

    def emit(record: Mapping[str, Any]) -> None:
        send(dict(record, request=request.get("number")))

    while True:
        request = requests.get()
        try:
            if request["command"] == "open":
                runner = Runner(emit, request)
                runner.load()
                result = {"alembic": alembic.__version__, "sqlalchemy": sqlalchemy.__version__}
            elif request["command"] == "look":
                result = look(request)
            else:
                project: Any = runner
                project.learn_folders()
                result = getattr(project, request["command"])(request)
        except (Exception, SystemExit) as error:  # reported, whatever a project's env.py raises
            record = error_event(error, runner.observer if runner else None)
            emit(dict(record, project=runner is not None))
        else:
            emit({"event": "result", "result": result})


def close_quietly(*files: TextIO) -> None:
    """Close the descriptors of some files, without a last flush of what they hold."""
    for file in files:
        os.close(file.fileno())


def hide_own_folder() -> None:
    """Take this file's folder off the path: a project's `database` is not the playbook's."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or os.curdir) != here]


def main() -> NoReturn:
    """Talk JSON on the pipes that the parent holds."""
    gc.set_threshold(*COLLECT_AFTER)
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    asked = os.fdopen(os.dup(0), "r", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # a program that a revision starts must not read the requests
    # A process that a revision forks must not keep the pipes open after this one has ended.
    os.register_at_fork(after_in_child=lambda: close_quietly(events, asked))
    hide_own_folder()
    requests: queue.Queue[Any] = queue.Queue()

    def send(record: Mapping[str, Any]) -> None:
        events.write(json.dumps(record) + "\n")
        events.flush()

    threading.Thread(target=read_requests, args=(asked, requests), daemon=True).start()
    serve(requests, send)


if __name__ == "__main__":
    main()
