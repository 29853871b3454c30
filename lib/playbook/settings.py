"""How a project's Alembic is run, and where the playbook's settings stand. Layer 1: errors only.

The playbook's settings are sections of the project's own alembic.ini or pyproject.toml, or, where
that is not to be touched, of a file of their own that names it::

    [playbook]
    alembic_ini = /srv/app/alembic.ini
    python = /srv/app/.venv/bin/python

Whichever file it is, a runbook's parameter ``alembic_ini`` names it, and the runs and backups are
kept in its folder. Paths are relative to it. ``[playbook]`` takes, besides a target's options:

- ``alembic_ini``: the project's own alembic.ini or pyproject.toml, where this is another file;
- ``python``: the interpreter of the project's environment, if not the playbook's;
- ``run_from``: the folder from which Alembic is run, if not the one of its file;
- ``name`` and ``x`` (a line each): what ``alembic --name`` and ``-x`` give;
- ``driver``: SQLAlchemy's driver in env.py's URL, if not the one that the project seems to use;
- ``connection = true``: give env.py ``config.attributes["connection"]`` before it asks;
- ``setup``: a Python file that runs once before env.py, in its process, where env.py relies on
  what the application's own command does first;
- ``heads``: what ``target=heads`` means, such as ``expand@head, contract@head``, in that order.

An env.py that does not take its URL from ``sqlalchemy.url`` is told where to find it::

    [playbook.environment]        ; variables of the process that runs Alembic
    SHOP_DB_URL = {url:asyncpg}
    [playbook.options:app:main]   ; options in place of those of the project's section [app:main]
    database_url = {url}          ; without ":app:main", of Alembic's own section

In pyproject.toml these are ``[tool.playbook]``, ``[tool.playbook.targets.NAME]``,
``[tool.playbook.environment]`` and ``[tool.playbook.options]``.
"""

from __future__ import annotations

import configparser
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playbook.errors import SettingsError

__all__ = [
    "SECTION",
    "Invocation",
    "find_python",
    "read_bool",
    "read_invocation",
    "read_options",
    "read_settings",
]

SECTION = "playbook"
ENVIRONMENT = f"{SECTION}.environment"
OPTIONS = f"{SECTION}.options"
KNOWN_OPTIONS = frozenset(
    {
        # of a target
        "url",
        "protected",
        "lock_timeout",
        "schema",
        "seed",
        # of the project
        "alembic_ini",
        "python",
        "run_from",
        "name",
        "driver",
        "connection",
        "setup",
        "x",
        "heads",
    }
)


@dataclass(frozen=True)
class Invocation:
    """How a project's Alembic is run: what its users type before ``alembic upgrade``.

    Texts may hold ``{url}``, ``{host}``, ``{port}``, ``{user}``, ``{password}`` and
    ``{database}``, in whose place the target's stand (see `Target.fill`).
    """

    config: Path
    """Its own alembic.ini or pyproject.toml."""
    directory: Path | None = None
    """The folder from which its users run Alembic; None for the file's own."""
    name: str = "alembic"
    """The section that Alembic reads, as ``alembic --name`` gives it."""
    driver: str = ""
    """SQLAlchemy's driver in the URL that env.py gets; "" for one that suits env.py."""
    gives_connection: bool = False
    """Whether env.py gets ``config.attributes["connection"]``, as from a program."""
    setup: Path | None = None
    """A Python file that runs before env.py, in its process: what a program does before it."""
    arguments: tuple[str, ...] = ()
    """What ``alembic -x`` gives."""
    options: tuple[tuple[str, str, str], ...] = ()
    """(section, option, text) that stand in place of those of its file."""
    environment: tuple[tuple[str, str], ...] = ()
    """(variable, text) of the process that runs Alembic."""


def read_settings(path: Path) -> configparser.ConfigParser:
    """Return the sections of an ini file or of pyproject.toml's ``[tool.playbook]``.

    Raises:
        SettingsError: the file does not exist or cannot be read.
    """
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # variables keep their case
    try:
        text = path.read_text("utf-8")
        if path.suffix == ".toml":
            parser.read_dict(_sections(tomllib.loads(text)))
        else:
            parser.read_string(text, source=str(path))
    except OSError as error:
        raise SettingsError(
            f"There is no readable alembic.ini at {path} ({error.strerror}).",
            remedy="Write -r alembic_ini path/to/alembic.ini.",
        ) from error
    except (configparser.Error, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        kind = "a TOML file" if path.suffix == ".toml" else "an ini file"
        raise SettingsError(
            f"{path} cannot be read as {kind}: {str(error).splitlines()[0]}.",
            remedy="Mend the line that it names.",
        ) from None
    return parser


def _sections(document: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return ``[tool.playbook]`` as the sections that an ini file would have."""
    own = document.get("tool", {}).get(SECTION, {})
    sections = {SECTION: _texts(own)}
    sections |= {f"{SECTION}:{n}": _texts(t) for n, t in own.get("targets", {}).items()}
    sections[ENVIRONMENT] = _texts(own.get("environment", {}))
    options = own.get("options", {})
    sections[OPTIONS] = _texts(options)
    sections |= {f"{OPTIONS}:{n}": _texts(t) for n, t in options.items() if isinstance(t, dict)}
    return sections


def _texts(table: Mapping[str, Any]) -> dict[str, str]:
    """Return a table's values as an ini file would have them, without the tables in it."""
    return {
        key: str(value).lower()
        if isinstance(value, bool)
        else "\n".join(map(str, value))
        if isinstance(value, list)
        else str(value)
        for key, value in table.items()
        if not isinstance(value, dict)
    }


def read_options(parser: configparser.ConfigParser, path: Path, target: str = "") -> dict[str, str]:
    """Return the options of ``[playbook]`` overlaid by those of a target's section.

    Raises:
        SettingsError: an option is not one of the playbook's.
    """
    options: dict[str, str] = {}
    for section in (SECTION, f"{SECTION}:{target}"):
        options |= {key.lower(): text for key, text in _items(parser, section, path)}
    unknown = sorted(set(options) - KNOWN_OPTIONS)
    if unknown:
        raise SettingsError(
            f"{path.name} has an option {unknown[0]!r} that the playbook does not know.",
            remedy=f"Its sections take {', '.join(sorted(KNOWN_OPTIONS))}.",
        )
    return options


def _items(parser: configparser.ConfigParser, section: str, path: Path) -> list[tuple[str, str]]:
    """Return a section's own options; none where there is no such section."""
    if not parser.has_section(section):
        return []
    here = str(path.parent)
    return [
        (key, text.replace("%(here)s", here))
        for key, text in parser.items(section)
        if key not in parser.defaults()
    ]


def read_invocation(
    parser: configparser.ConfigParser, path: Path, options: Mapping[str, str]
) -> Invocation:
    """Return how the project's Alembic is run.

    Args:
        path: the file that ``parser`` was read from; what it names is relative to its folder.
        options: as `read_options` gives them.

    Raises:
        SettingsError: the project's own file does not exist, or an option is malformed.
    """
    config = _path(path, options["alembic_ini"]) if options.get("alembic_ini") else path
    if not config.is_file():
        raise SettingsError(
            f"alembic_ini in [{SECTION}] of {path.name} names {config}, and there is no such file.",
            remedy="Correct it: the path of the project's own alembic.ini or pyproject.toml.",
        )
    arguments = tuple(line.strip() for line in options.get("x", "").splitlines() if line.strip())
    return Invocation(
        config=config,
        directory=_path(path, options["run_from"]) if options.get("run_from") else None,
        name=options.get("name", "alembic"),
        driver=options.get("driver", ""),
        gives_connection=read_bool(
            options.get("connection", "false"), f"connection in [{SECTION}] of {path.name}"
        ),
        setup=_path(path, options["setup"]) if options.get("setup") else None,
        arguments=arguments,
        options=tuple(
            (section.removeprefix(OPTIONS).removeprefix(":"), key, text)
            for section in parser.sections()
            if section == OPTIONS or section.startswith(f"{OPTIONS}:")
            for key, text in _items(parser, section, path)
        ),
        environment=tuple(_items(parser, ENVIRONMENT, path)),
    )


def find_python(path: Path, text: str) -> str:
    """Return the interpreter that ``python`` names: a command, or a path from the file's folder.

    A link is not followed: a virtual environment's interpreter is one, and finds it by its name.
    """
    if "/" not in text:
        return text
    return str(path.parent / Path(text).expanduser())


def read_bool(text: str, name: str) -> bool:
    """Return a truth value as an ini file has it.

    Raises:
        SettingsError: it is none.
    """
    try:
        return configparser.ConfigParser.BOOLEAN_STATES[text.strip().lower()]
    except KeyError:
        raise SettingsError(
            f"{name} is {text!r}, not a truth value.", remedy="Write true or false."
        ) from None


def _path(settings: Path, text: str) -> Path:
    return (settings.parent / Path(text).expanduser()).resolve()
