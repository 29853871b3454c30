"""The embedded PostgreSQL that needs no set-up, and its databases. Layer 2.

One server per project checkout and OS user, shared by kernels, started on first use; a keeper
stops it when nobody uses it. Databases are copies of templates, which the project's own seed
fills once, so that resetting one is fast. Nothing here touches any other server.

On the command line: `python -m playbook.sandbox start|stop|status|reset|psql|remove`.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

import platformdirs

from playbook.database import connect
from playbook.errors import GuardRefused, PlaybookError, SettingsError
from playbook.postgres_files import VERSIONS, client_directory, prepare_folder
from playbook.postgres_server import (
    PORT,
    Cluster,
    Server,
    is_running,
    locked,
    running_server,
    socket_folders,
    start_server,
    stop,
)
from playbook.sandbox_databases import (
    EMPTY,
    check_name,
    databases,
    databases_locked,
    drop,
    libpq_variables,
    maintenance_target,
    replace_database,
)
from playbook.sandbox_keeper import end_keeper, ensure_keeper
from playbook.targets import PROJECT_INI, SANDBOX, Target, load_target

__all__ = [
    "Server",
    "client_directory",
    "drop_database",
    "ensure_server",
    "list_databases",
    "open_target",
    "remove",
    "reset_database",
    "sandbox_folder",
    "stop_server",
]

FOLDER_VARIABLE = "PLAYBOOK_SANDBOX"
VERSION_VARIABLE = "PLAYBOOK_SANDBOX_POSTGRES"
ROOT_FOLDER = Path("/var/lib/migration-playbook")


def sandbox_folder(project: Path) -> Path:
    """Return where a project's sandbox is kept: one per checkout and OS user."""
    base = os.environ.get(FOLDER_VARIABLE, "")
    if base:
        parent = Path(base).expanduser()
    elif os.geteuid() == 0:
        parent = ROOT_FOLDER
    else:
        parent = platformdirs.user_cache_path("migration-playbook")
    digest = sha256(f"{os.geteuid()}:{project.resolve()}".encode()).hexdigest()
    return parent.resolve() / digest[:12]


def ensure_server(project: Path) -> Server:
    """Return the project's sandbox server, started (and made) if it does not run.

    **Effects**: a server and its keeper may be started; they outlive the caller and hold none of
    its files. Safe to call from several processes at once, and after any of them was killed.

    Args:
        project: the folder of alembic.ini.

    Raises:
        SettingsError: the folder, the wheel or a PLAYBOOK_SANDBOX variable cannot be used.
        CannotConnect: the server does not start.
    """
    cluster = Cluster(sandbox_folder(project), _version())
    with suppress(FileNotFoundError):  # no folder yet
        _check_ours(cluster.folder)
        with locked(cluster.lock, fcntl.LOCK_SH):
            server = running_server(cluster)
            if server:
                return _in_use(cluster, server)
    prepare_folder(cluster.folder)
    with locked(cluster.lock):
        return _in_use(cluster, running_server(cluster) or start_server(cluster))


def _check_ours(folder: Path) -> None:
    if folder.lstat().st_uid != os.geteuid():
        prepare_folder(folder)  # which says whose it is


def _in_use(cluster: Cluster, server: Server) -> Server:
    """Note the use for the keeper, within the lock: it cannot stop the server in between."""
    os.utime(cluster.lock)
    ensure_keeper(cluster)
    return server


def _version() -> int:
    text = os.environ.get(VERSION_VARIABLE, "") or str(max(VERSIONS))
    if text not in map(str, VERSIONS):
        raise SettingsError(
            f"{VERSION_VARIABLE}={text!r} is no version of the embedded PostgreSQL.",
            remedy=f"Set it to one of {', '.join(map(str, VERSIONS))}.",
        )
    return int(text)


def open_target(target: Target, *, state: str = "legacy") -> Target:
    """Return a target that can be connected to; a sandbox one is started and made on first use.

    Args:
        target: any target; other kinds than ``sandbox`` are returned unchanged.
        state: what a sandbox database begins as, used only when it does not exist yet: what the
            target's seed makes with ``--state``, or ``empty``.

    Raises:
        SettingsError: the seed failed, or the name cannot be used.
    """
    if target.kind != SANDBOX:
        return target
    check_name(target, state)
    server = ensure_server(target.project)
    maintenance = maintenance_target(target.project, server.socket_directory)
    with connect(maintenance) as connection:
        usable = databases(connection).get(target.database)
    if not usable:
        with databases_locked(server, target) as connection:
            usable = databases(connection).get(target.database)
            if not usable:  # there is none, or one whose removal was interrupted
                replace_database(connection, target, server, state)
    return _resolved(target, server)


def _resolved(target: Target, server: Server) -> Target:
    return target.with_conninfo(
        host=str(server.socket_directory),
        hostaddr="",  # else a PGHOSTADDR of the caller's would lead to another server
        port=PORT,
        user="postgres",
        dbname=target.database,
    )


def reset_database(target: Target, state: str = "legacy") -> Target:
    """Drop a sandbox database and make it anew; return the target, ready to connect to.

    **Effects**: all its data are lost and its sessions ended: it is a sandbox. When the seed
    fails, the old database is still there.

    Args:
        target: a target of kind ``sandbox``.
        state: as in `open_target`.

    Raises:
        GuardRefused: the target is not a sandbox.
        SettingsError: the seed failed, or the name cannot be used.
    """
    server = _server_of(target, state)
    with databases_locked(server, target) as connection:
        replace_database(connection, target, server, state)
    return _resolved(target, server)


def drop_database(target: Target) -> None:
    """Drop a sandbox database if it exists, ending its sessions.

    Raises:
        GuardRefused: the target is not a sandbox.
    """
    server = _server_of(target, EMPTY)
    with databases_locked(server, target) as connection:
        drop(connection, target.database)


def list_databases(project: Path) -> tuple[str, ...]:
    """Return the names of the sandbox's databases, sorted; templates are left out.

    **Effects**: starts the server if the project has a sandbox; it never makes one.
    """
    if not Cluster(sandbox_folder(project), _version()).data.exists():
        return ()
    server = ensure_server(project)
    with connect(maintenance_target(project, server.socket_directory)) as connection:
        return tuple(sorted(databases(connection)))


def _server_of(target: Target, state: str) -> Server:
    if target.kind != SANDBOX:
        raise GuardRefused(
            f"The {target.label} is not a sandbox, so it is neither reset nor dropped here.",
            remedy="Write -r database sandbox, or a target whose url begins with sandbox.",
        )
    check_name(target, state)
    return ensure_server(target.project)


def stop_server(project: Path) -> bool:
    """Stop the project's servers, of every version; return whether one ran. Data are kept."""
    stopped = False
    with _clusters_locked(project) as clusters:
        for cluster in clusters:
            end_keeper(cluster)
            stopped |= stop(cluster)
    return stopped


def remove(project: Path) -> bool:
    """Stop the project's servers and delete its sandbox folder; return whether there was one."""
    folder = sandbox_folder(project)
    if not folder.is_dir():
        return False
    _check_ours(folder)
    with _clusters_locked(project) as clusters:
        for cluster in clusters:
            end_keeper(cluster)
            stop(cluster, immediate=True)
            for outside in socket_folders(cluster)[1:]:
                shutil.rmtree(outside, ignore_errors=True)
        # Gone in one step for those who wait for the locks; then file by file.
        trash = folder.with_name(f"{folder.name}.removed-{os.getpid()}")
        folder.rename(trash)
    shutil.rmtree(trash)
    return True


@contextmanager
def _clusters_locked(project: Path) -> Iterator[list[Cluster]]:
    """Hold the locks of all versions that the project's folder has; yield those clusters."""
    folder = sandbox_folder(project)
    clusters = [Cluster(folder, version) for version in sorted(VERSIONS)]
    with ExitStack() as locks:
        if folder.is_dir():
            for cluster in clusters:
                locks.enter_context(locked(cluster.lock))
        yield [cluster for cluster in clusters if cluster.data.exists()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    options = _parser().parse_args(given[:end])
    options.psql = given[end + 1 :]
    try:
        sys.stdout.write(_run_command(options))
    except PlaybookError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m playbook.sandbox", description=__doc__.split("\n")[0]
    )
    commands = {
        "start": "start the server", "stop": "stop it; the data are kept",
        "status": "say where it is and which databases it has",
        "reset": "make a database anew",
        "psql": "open psql on a database; what follows -- is for psql",
        "remove": "stop the server and delete all its data",
    }  # fmt: skip
    parser.add_argument(
        "command", choices=commands, help="; ".join(map(": ".join, commands.items()))
    )
    parser.add_argument("name", nargs="?", default=SANDBOX, help="reset, psql: the target's name")
    parser.add_argument("--state", default="legacy", help="reset: what the database begins as")
    parser.add_argument("--alembic-ini", default=str(PROJECT_INI), help="the project's file")
    return parser


def _run_command(options: argparse.Namespace) -> str:
    project = Path(options.alembic_ini).expanduser().resolve().parent
    match options.command:
        case "start":
            server = ensure_server(project)
            return f"PostgreSQL {server.version} runs, socket in {server.socket_directory}\n"
        case "stop":
            return "Stopped.\n" if stop_server(project) else "Nothing was running.\n"
        case "remove":
            return "The sandbox is removed.\n" if remove(project) else "There is no sandbox.\n"
        case "status":
            return _status(project)
    target = load_target(options.name, options.alembic_ini)
    if options.command == "psql":
        _psql(open_target(target, state=options.state), options.psql)
    return f"The {reset_database(target, options.state).label} is as new.\n"


def _status(project: Path) -> str:
    lines = [f"folder: {sandbox_folder(project)}"]
    with _clusters_locked(project) as clusters:
        running = {cluster.version: is_running(cluster) for cluster in clusters}
    lines += [f"PostgreSQL {v}: {'runs' if up else 'stopped'}" for v, up in running.items()]
    if running.get(_version()):
        lines.append(f"databases: {', '.join(list_databases(project)) or 'none yet'}")
    return "\n".join(lines) + "\n"


def _psql(target: Target, arguments: Sequence[str]) -> NoReturn:
    os.execve(
        client_directory(_version()) / "psql",
        ["psql", *arguments],
        libpq_variables(target.conninfo["host"], target.database),
    )


if __name__ == "__main__":
    sys.exit(main())
