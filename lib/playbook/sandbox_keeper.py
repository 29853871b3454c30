"""Stops the embedded PostgreSQL when nobody has used it for a while. Layer 2, below sandbox.

A small process of its own, `python -m playbook.sandbox_keeper DATA_FOLDER LOCK`, one per server. It
ends with the server, and with the server's folder. Nothing of the caller's environment goes with
it but what Python needs: it outlives the caller, whose variables may hold secrets.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from playbook.database import connect, fetch
from playbook.errors import PlaybookError, SettingsError
from playbook.postgres_server import (
    Cluster,
    is_file,
    is_running,
    locked,
    running_server,
    stop,
)
from playbook.sandbox_databases import maintenance_target

__all__ = ["end_keeper", "ensure_keeper", "keep"]

MODULE = "playbook.sandbox_keeper"
IDLE_VARIABLE = "PLAYBOOK_SANDBOX_IDLE_S"
IDLE_S = 900.0
"""After this long without a session the server is stopped."""
LOOK_EVERY_S = 30.0
END_S = 2.0
ONLY_ONE = fcntl.LOCK_EX | fcntl.LOCK_NB
KEPT_VARIABLES = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", IDLE_VARIABLE)

SESSIONS = """
SELECT (SELECT coalesce(sum(sessions), 0)::bigint FROM pg_stat_database),
       (SELECT count(*) FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid())
"""


def _lock_file(cluster: Cluster) -> Path:
    return cluster.folder / f"pg{cluster.version}.keeper"


def ensure_keeper(cluster: Cluster) -> None:
    """Start the server's keeper unless there is one; the caller holds the cluster's lock.

    Raises:
        SettingsError: the environment variable for the idle time is not a number above zero.
    """
    _idle_limit_s()
    environment = {key: os.environ[key] for key in KEPT_VARIABLES if key in os.environ}
    # The keeper inherits its lock, so there is never a second one. The shell says the keeper's
    # process id and ends at once, so the keeper is nobody's child and never waited for.
    detach = '"$@" </dev/null >/dev/null 2>&1 & echo $!'
    with suppress(BlockingIOError), locked(_lock_file(cluster), ONLY_ONE) as descriptor:
        keeper = [sys.executable, "-m", MODULE, str(cluster.data), str(descriptor)]
        done = subprocess.run(
            ["/bin/sh", "-c", detach, "sh", *keeper], check=False, env=environment, cwd="/",
            start_new_session=True, pass_fds=[descriptor], stdout=subprocess.PIPE,
        )  # fmt: skip
        os.ftruncate(descriptor, 0)
        os.write(descriptor, done.stdout)


def _has_keeper(cluster: Cluster) -> bool:
    try:
        with locked(_lock_file(cluster), ONLY_ONE):
            return False
    except BlockingIOError:
        return True


def end_keeper(cluster: Cluster) -> None:
    """End the server's keeper if it runs, after proof that the process is one."""
    with suppress(psutil.Error, FileNotFoundError, ValueError):
        process = psutil.Process(int(_lock_file(cluster).read_text()))
        command = process.cmdline()
        if MODULE in command and str(cluster.data) in command:
            process.terminate()
            deadline = time.monotonic() + END_S
            while _has_keeper(cluster) and time.monotonic() < deadline:
                time.sleep(0.005)


def _idle_limit_s() -> float:
    """Return after how many idle seconds the server is stopped.

    Raises:
        SettingsError: the environment variable for it is not a number above zero.
    """
    text = os.environ.get(IDLE_VARIABLE, str(IDLE_S))
    with suppress(ValueError):
        if float(text) > 0:
            return float(text)
    raise SettingsError(
        f"{IDLE_VARIABLE}={text!r} is not a number of seconds above zero.",
        remedy=f"Write, for example, {IDLE_VARIABLE}=900.",
    )


def keep(cluster: Cluster, descriptor: int) -> None:
    """Watch the server until it is gone, or stop it when it has long been idle.

    Args:
        cluster: whose server.
        descriptor: the keeper's lock file, open and locked.
    """
    limit_s = _idle_limit_s()
    sessions = -1
    last_seen = time.time()
    while True:
        time.sleep(min(LOOK_EVERY_S, limit_s / 3))
        if not is_file(descriptor, _lock_file(cluster)):
            return
        before, (sessions, open_sessions) = sessions, _sessions(cluster)
        if open_sessions or sessions not in (-1, before + 1):  # one more is this look's own
            last_seen = time.time()
        if _is_needed(cluster, last_seen, limit_s):
            continue
        with locked(cluster.lock):
            if _is_needed(cluster, last_seen, limit_s):
                continue
            stop(cluster)
            # Freed within the lock, so that whoever starts the server next sees no keeper.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            return


def _sessions(cluster: Cluster) -> tuple[int, int]:
    """Return (sessions ever, sessions open now); (-1, 0) when the server does not answer."""
    with suppress(PlaybookError, FileNotFoundError):
        server = running_server(cluster)
        if server:
            target = maintenance_target(cluster.folder, server.socket_directory)
            with connect(target, read_only=True) as connection:
                return fetch(connection, SESSIONS)[0]
    return -1, 0


def _is_needed(cluster: Cluster, last_seen: float, limit_s: float) -> bool:
    """Whether the server runs, and a session or `ensure_server` has used it lately."""
    last_use = max(last_seen, cluster.lock.stat().st_mtime)
    return is_running(cluster) and time.time() - last_use < limit_s


if __name__ == "__main__":
    data = Path(sys.argv[1])
    with suppress(FileNotFoundError):  # the folder was deleted
        keep(Cluster(data.parent, int(data.name.removeprefix("pg"))), int(sys.argv[2]))
