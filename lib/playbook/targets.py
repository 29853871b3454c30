"""From a runbook's parameter ``database`` to a validated target. Layer 1: errors and records only.

The only module that sees passwords as text. No connection is opened here; what leaves is either
redacted (`Target.label`), password-free (`Target.sqlalchemy_url`) or meant for a child process's
environment (`Target.libpq_environment`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote, urlencode, urlsplit

import psycopg2
from psycopg2.extensions import parse_dsn

from playbook.errors import SettingsError
from playbook.settings import (
    SECTION,
    Invocation,
    find_python,
    read_bool,
    read_invocation,
    read_options,
    read_settings,
)

__all__ = [
    "PROJECT_INI",
    "Target",
    "led_elsewhere",
    "load_target",
    "parse_duration_s",
    "parse_size_bytes",
    "protected_targets",
    "read_section",
    "redact",
    "target_names",
]

PROJECT_INI = Path(__file__).resolve().parents[2] / "alembic.ini"
"""The alembic.ini beside this checkout's ``lib/``; what ``alembic_ini=""`` means."""

SANDBOX = "sandbox"

VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "user": "PGUSER",
    "dbname": "PGDATABASE",
    "service": "PGSERVICE",
    "passfile": "PGPASSFILE",
    "options": "PGOPTIONS",
    "sslmode": "PGSSLMODE",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
    "sslcrldir": "PGSSLCRLDIR",
    "sslsni": "PGSSLSNI",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "channel_binding": "PGCHANNELBINDING",
    "gssencmode": "PGGSSENCMODE",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}
"""libpq's environment variable for each keyword.

Source: PostgreSQL's documentation, "Environment Variables" of libpq.
"""

LOCAL = (None, "", "localhost", "127.0.0.1", "::1")
_URL_SCHEME = re.compile(r"^postgres(?:ql)?(?:\+\w+)?://")
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")
_SECRET_KEYS = ("password", "sslpassword")
_SECRETS = (
    # In every way SQL has to write a text, also one whose end was cut off.
    (
        re.compile(
            r"(\bpassword\s+)(?:(?:e|u&)?'(?:[^'\\]|\\.?|'')*(?:'|\Z)|\$(\w*)\$.*?(?:\$\2\$|\Z))",
            re.IGNORECASE | re.DOTALL,
        ),
        r"\1'***'",
    ),
    (re.compile(r"(['\"]\w*password['\"]\s*:\s*)('[^']*'|\"[^\"]*\")", re.IGNORECASE), r"\1'***'"),
    (re.compile(r"(://[^/\s@:]*):\S*@"), r"\1:***@"),
    # The same, mistyped or without its scheme.
    (re.compile(r"""(?<![^\s'"])((?:\w+:?/{1,2})?[^\s'":/@]+):(?!//)[^\s@]\S*@"""), r"\1:***@"),
    (re.compile(r"((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE), r"\1***"),
)
_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|min|h)\s*$")
LONGEST_S = 7 * 24 * 3600.0
"""Longer than any run; PostgreSQL's own settings end at 24 days."""
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(kB|MB|GB|TB)\s*$")
_UNIT_BYTES = {"kB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4}
_UNIT_S = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Target:
    """A database that a runbook is pointed at; not yet a connection.

    ``conninfo`` holds libpq's keywords (``host``, ``dbname``, ``service``...), the password
    among them where the environment gave one: it is left out of the repr on purpose.
    """

    name: str
    """The section's name, or the parameter with its secrets masked."""
    kind: str
    """``sandbox``, ``service`` or ``url``."""
    alembic_ini: Path
    """The file that the parameter names: the project's own, or the playbook's that names it."""
    conninfo: Mapping[str, str] = field(repr=False)
    protected: bool = False
    lock_timeout: str = "2s"
    python: str = ""
    """The interpreter that runs the project's migrations; "" is the playbook's own."""
    seed: str = ""
    """The module (run by ``python -m``) that fills a new sandbox database; "" leaves it empty."""
    invocation: Invocation | None = None
    """How the project's Alembic is run; None for its alembic.ini as it stands."""
    driver: str = ""
    """SQLAlchemy's driver in that variable."""
    heads: str = ""
    """What ``target=heads`` means, in the project's own order; "" leaves the order to Alembic."""
    drafts: str = ""
    """A folder of revision files that are not in the project yet; Alembic takes them as its own."""
    variable: str = ""
    """The environment variable that holds its URL, where one does: env.py may read it, too."""
    scratch: str = ""
    """``beside`` (on the original's server) or ``elsewhere`` for a copy that is dropped again, and
    that a revision must not leave; "" for a database that is meant."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables that its child processes get in place of this process's own."""
    schemas: tuple[str, ...] = ()
    """The search path of all sessions, of env.py's too: a tenant's schema; empty is the role's."""

    @property
    def project(self) -> Path:
        """The folder of alembic.ini: where ``runs/`` and ``backups/`` are."""
        return self.alembic_ini.parent

    @property
    def database(self) -> str:
        """The database's name as configured; "" where libpq's service file decides."""
        return self.conninfo.get("dbname", "")

    @property
    def label(self) -> str:
        """A short text for banners and messages, never with a password."""
        if self.kind == SANDBOX:
            return f"{SANDBOX} database {self.database!r}"
        if self.kind == "service":
            return f"service {self.conninfo['service']!r}"
        host = self.conninfo.get("host", "local socket")
        return f"database {self.database!r} on {host}:{self.conninfo.get('port', '5432')}"

    def with_conninfo(self, **keywords: str) -> Target:
        """Return the same target with some of libpq's keywords replaced."""
        return replace(self, conninfo=MappingProxyType({**self.conninfo, **keywords}))

    def sqlalchemy_url(self, driver: str = "psycopg2", *, secret: bool = False) -> str:
        """Return a SQLAlchemy URL without the password (see `libpq_environment`).

        Args:
            driver: SQLAlchemy's name of it; "" leaves it to the URL's reader.
            secret: put the password in after all: for a child's environment alone.
        """
        rest = {k: v for k, v in self.conninfo.items() if k not in _SECRET_KEYS}
        if driver and not driver.startswith("psycopg"):  # no libpq: see `libpq_variables`
            rest = {k: v for k, v in rest.items() if k in {"user", "host", "port", "dbname"}}
        user, host = rest.pop("user", ""), rest.pop("host", "")
        port, dbname = rest.pop("port", ""), rest.pop("dbname", "")
        if port and "," in host and "," not in port:  # libpq lets many hosts share one port
            port = ",".join([port] * len(host.split(",")))
        password = self.conninfo.get("password", "") if secret else ""
        who = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
        authority = f"{who}@" if who else ""
        if host and re.fullmatch(r"[\w.-]+", host):
            authority += host + (f":{port}" if port else "")
        else:  # a socket's folder, an IPv6 address or a list of hosts
            rest |= {k: v for k, v in (("host", host), ("port", port)) if v}
        query = f"?{urlencode(rest)}" if rest else ""
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        return f"{scheme}://{authority}/{quote(dbname, safe='')}{query}"

    def fill(self, text: str, *, driver: str, secret: bool = False) -> str:
        """Return a text with the target's own in place of ``{url}``, ``{host}`` and so on.

        Args:
            driver: SQLAlchemy's, in ``{url}``; ``{url:NAME}`` names another.
            secret: whether the password may be in it: for a child's environment alone.

        Raises:
            SettingsError: it asks for what is not there.
        """
        known: dict[str, object] = {"url": _Url(self, driver, secret)}
        if self.kind != "service":  # of which libpq alone knows the rest
            known |= {
                "host": self.conninfo.get("host", ""),
                "port": self.conninfo.get("port", "5432"),
                "user": self.conninfo.get("user", ""),
                "database": self.database,
            }
        if secret:
            known["password"] = self.conninfo.get("password", "")
        try:
            return text.format_map(known)
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise SettingsError(
                f"{text!r} in {self.alembic_ini.name} cannot be filled in "
                f"({type(error).__name__}: {error}).",
                remedy=f"It may hold {', '.join(f'{{{name}}}' for name in known)}; write {{{{ for "
                "a brace.",
            ) from None

    def libpq_variables(self) -> dict[str, str]:
        """Return the variables by which any libpq program in a child process finds the target."""
        found = {VARIABLES[k]: v for k, v in self.conninfo.items() if k in VARIABLES}
        return found | self.libpq_environment()

    def libpq_environment(self) -> dict[str, str]:
        """Return the variables that give a child process the secrets (and only those)."""
        password = self.conninfo.get("password")
        return {"PGPASSWORD": password} if password else {}


@dataclass(frozen=True)
class _Url:
    """``{url}`` in a text: with the driver that its use suggests, or that it asks for."""

    target: Target
    driver: str
    secret: bool

    def __format__(self, driver: str) -> str:
        return self.target.sqlalchemy_url(driver or self.driver, secret=self.secret)


def led_elsewhere(original: Target, copy: Target, *, beside: bool = False) -> Target:
    """Return a copy's target whose child processes find it where they would find the original.

    A variable whose URL leads to the original, the target's own or any other one that env.py or a
    revision may read, holds the copy's instead; so do libpq's own variables where one of them names
    a database. Driver and query of a URL stay, and its password where the server is the same.

    Args:
        beside: whether the copy is on a server that is not to be changed otherwise.
    """
    same_server = original.conninfo.get("host") == copy.conninfo.get("host")
    led = {
        name: _led_url(text, copy, same_server=same_server)
        for name, text in (os.environ | dict(original.environment)).items()
        if name == original.variable or _leads_to(text, original)
    }
    if any(name in os.environ for name in ("PGDATABASE", "PGSERVICE")):
        led |= copy.libpq_variables()
    return replace(copy, scratch="beside" if beside else "elsewhere", environment=led)


def _led_url(text: str, copy: Target, *, same_server: bool) -> str:
    parts = urlsplit(text)
    if same_server and parts.netloc:
        return parts._replace(path=f"/{quote(copy.database, safe='')}").geturl()
    return copy.sqlalchemy_url(parts.scheme.partition("+")[2] or "psycopg2")


def _leads_to(text: str, target: Target) -> bool:
    """Say whether a text is a URL of the target's database, as far as names tell."""
    if not _URL_SCHEME.match(text):
        return False
    try:
        found = parse_dsn(_URL_SCHEME.sub("postgresql://", text))
    except psycopg2.ProgrammingError:
        return False
    if target.kind == SANDBOX and "host" not in target.conninfo:  # its socket is not known yet
        return found.get("dbname") == target.database
    one, other = (
        ("" if keywords.get("host") in LOCAL else keywords.get("host"), keywords.get("dbname"))
        for keywords in (found, target.conninfo)
    )
    return one == other


def redact(text: str) -> str:
    """Return the text with the passwords of URLs and of ``password=`` masked as ``***``."""
    for pattern, mask in _SECRETS:
        text = pattern.sub(mask, text)
    return text


def parse_duration_s(text: str, *, name: str) -> float:
    """Return a duration in seconds.

    Args:
        text: a number with PostgreSQL's unit ``ms``, ``s``, ``min`` or ``h``, such as ``2s``.
        name: the parameter it came from, for the message.

    Raises:
        SettingsError: it is not such a text, or zero (PostgreSQL takes 0 as "no limit"), or more
            than `LONGEST_S`.
    """
    match = _DURATION.match(text)
    if not match or not 0 < float(match[1]) * _UNIT_S[match[2]] <= LONGEST_S:
        raise SettingsError(
            f"{name}={text!r} is not a duration above zero and of at most 7 days.",
            remedy=f"Write a number with its unit, such as -r {name} 500ms, 2s or 5min.",
        )
    return float(match[1]) * _UNIT_S[match[2]]


def parse_size_bytes(text: str, *, name: str) -> int:
    """Return a size in bytes.

    Args:
        text: a number with PostgreSQL's unit ``kB``, ``MB``, ``GB`` or ``TB`` (powers of 1024).
        name: the parameter it came from, for the message.

    Raises:
        SettingsError: it is not such a text, or zero.
    """
    match = _SIZE.match(text)
    if not match or not float(match[1]):
        raise SettingsError(
            f"{name}={text!r} is not a size above zero.",
            remedy=f"Write a number with its unit, such as -r {name} 500MB or 10GB.",
        )
    return int(float(match[1]) * _UNIT_BYTES[match[2]])


def target_names(alembic_ini: Path = PROJECT_INI) -> list[str]:
    """Return the names of the targets that alembic.ini has, sorted.

    Raises:
        SettingsError: the file does not exist or cannot be read.
    """
    parser = read_settings(alembic_ini)
    prefix = f"{SECTION}:"
    return sorted(
        section.removeprefix(prefix) for section in parser.sections() if section.startswith(prefix)
    )


def read_section(alembic_ini: Path, name: str = "") -> dict[str, str]:
    """Return the options of ``[playbook]`` overlaid by those of ``[playbook:NAME]``.

    Raises:
        SettingsError: the file cannot be read, or an option is not one of the playbook's.
    """
    return read_options(read_settings(alembic_ini), alembic_ini, name)


def load_target(database: str = SANDBOX, alembic_ini: str | Path = "") -> Target:
    """Return the target that a runbook's parameter ``database`` means.

    Args:
        database: a section's name, ``env:NAME``, ``service:NAME``, ``sandbox:NAME`` or a URL
            without a password.
        alembic_ini: path of the project's alembic.ini; "" is the playbook's own.

    Raises:
        SettingsError: nothing of that name, a variable that is not set, a malformed URL, or a
            URL with a password in a parameter or in alembic.ini.
    """
    ini = Path(alembic_ini).expanduser().resolve() if alembic_ini else PROJECT_INI
    names = target_names(ini)
    if not database.strip():
        raise SettingsError(
            "The parameter database is empty.",
            remedy=f"Write -r database NAME with one of: {', '.join(names)}.",
        )
    named = database in names
    if alembic_ini and database == SANDBOX and not named:
        raise SettingsError(
            f"No database was named for the project of {ini}.",
            remedy="Write -r database with env:NAME, service:NAME, a URL without a password"
            + (f", or one of {', '.join(names)}." if names else "."),
        )
    section = SANDBOX if database.startswith(f"{SANDBOX}:") else database
    options = read_section(ini, section if section in names else "")
    url = options.get("url", "") if named else database
    if named and not url:
        raise SettingsError(
            f"[{SECTION}:{database}] of {ini.name} has no url.",
            remedy="Give it url = sandbox, env:NAME, service:NAME or a URL without a password.",
        )
    origin = f"[{SECTION}:{database}] of {ini.name}" if named else "the parameter database"
    kind, conninfo = _read_url(url, origin=origin, names=names)
    schemas = _read_schemas(options.get("schema", ""))
    if schemas:
        conninfo["options"] = f"{conninfo.get('options', '')} {_path_option(schemas)}".strip()
    conninfo |= {k: _absolute(v, ini) for k, v in conninfo.items() if k in _FILES}
    return Target(
        name=database if named else redact(database),
        kind=kind,
        alembic_ini=ini,
        conninfo=MappingProxyType(conninfo),
        protected=read_bool(options.get("protected", "false"), f"protected in {origin}"),
        lock_timeout=options.get("lock_timeout", "2s"),
        python=find_python(ini, options.get("python", "")),
        seed=options.get("seed", ""),
        invocation=read_invocation(read_settings(ini), ini, options),
        variable=url.removeprefix("env:") if url.startswith("env:") else "",
        driver=_driver(url),
        heads=options.get("heads", ""),
        schemas=schemas,
    )


def _read_schemas(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _path_option(schemas: Sequence[str]) -> str:
    """Return the search path as libpq's ``options`` takes it; it goes wherever a session is opened.

    Source: "options" of libpq's documentation: a backslash before spaces and backslashes.
    """
    path = ",".join('"' + name.replace('"', '""') + '"' for name in schemas)
    return "-csearch_path=" + re.sub(r"([\\\s])", r"\\\1", path)


def _absolute(path: str, ini: Path) -> str:
    """Return a file's path that means the same in every process: the child has its own folder.

    A relative one is of the project where it is there, else, as for libpq, of this process.
    """
    if path in ("", "system"):  # sslrootcert=system: the CAs that the machine trusts
        return path
    of_project = ini.parent / path
    return str(of_project if of_project.exists() else Path(path).absolute())


def protected_targets(alembic_ini: Path) -> list[Target]:
    """Return the protected targets of alembic.ini that can be resolved now."""
    found = []
    for name in target_names(alembic_ini):
        try:
            target = load_target(name, alembic_ini)
        except SettingsError:  # its variable is not set here, so nothing can reach it by that
            continue
        if target.protected and target.kind != SANDBOX:
            found.append(target)
    return found


def _read_url(url: str, *, origin: str, names: list[str]) -> tuple[str, dict[str, str]]:
    """Return (kind, libpq keywords) of one of the four forms a url takes."""
    if url == SANDBOX or url.startswith(f"{SANDBOX}:"):
        return SANDBOX, {"dbname": url.partition(":")[2] or SANDBOX}
    if url.startswith("service:"):
        return "service", {"service": url.removeprefix("service:")}
    if url.startswith("env:"):
        variable = url.removeprefix("env:")
        value = os.environ.get(variable, "")
        if not value:
            raise SettingsError(
                f"The environment variable {variable!r}, which {origin} names, is not set.",
                remedy=f"Set it to the database's URL: export {variable}=postgresql://...",
            )
        return "url", _parse_url(value, f"the environment variable {variable!r}")
    if not _URL_SCHEME.match(url):
        raise SettingsError(
            f"{redact(url)!r} in {origin} names no target.",
            remedy=f"Write -r database NAME with one of {', '.join(names)}, or env:NAME, "
            "service:NAME, or postgresql://user@host/name.",
        )
    conninfo = _parse_url(url, origin)
    if any(key in conninfo for key in _SECRET_KEYS):
        raise SettingsError(
            f"The URL in {origin} holds a password, and what holds it now is no secret: papermill "
            "writes its parameters into the output notebook.",
            remedy="Delete that file or change the password, then put the URL into an environment "
            "variable and write -r database env:DATABASE_URL, or leave the password to ~/.pgpass.",
        )
    return "url", conninfo


def _driver(url: str) -> str:
    """Return the driver that a URL names, or the variable's that holds it; "" for none."""
    text = os.environ.get(url.removeprefix("env:"), "") if url.startswith("env:") else url
    named = _URL_SCHEME.match(text)
    return named[0].removesuffix("://").partition("+")[2] if named else ""


def _parse_url(url: str, origin: str) -> dict[str, str]:
    """Return the libpq keywords of a URL; libpq itself reads it."""
    if not _URL_SCHEME.match(url):
        raise SettingsError(
            f"{origin[0].upper()}{origin[1:]} does not hold a postgresql:// URL.",
            remedy="It must read postgresql://user@host:port/name.",
        )
    unreadable = SettingsError(
        f"The URL in {origin} is not one that libpq can read.",
        remedy="It must read postgresql://user@host:port/name; percent-encode odd characters "
        "(the @ of a password is %40, its / is %2F).",
    )
    try:
        keywords: dict[str, str] = parse_dsn(_URL_SCHEME.sub("postgresql://", url))
    except psycopg2.ProgrammingError:  # its text may quote the password
        raise unreadable from None
    # libpq would take the rest of a password with a bare @ or / for the host or the port, and
    # then show it.
    bare_at = url.partition("?")[0].count("@") > 1
    if bare_at or not re.fullmatch(r"[\d,]*", keywords.get("port", "")):
        raise unreadable
    return keywords
