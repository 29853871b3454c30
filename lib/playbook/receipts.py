"""A run's folder and its ``receipt.json``: made, written, read, found again. Layer 3: files.

A receipt is rewritten whole, atomically, before and after each side effect; so a killed run leaves
a true one, which is known by its process being gone.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from playbook.errors import PlaybookError, SettingsError
from playbook.records import Receipt, ServerInfo, StepResult
from playbook.targets import Target

__all__ = [
    "OUTCOMES",
    "RECEIPT",
    "from_step",
    "known_receipts",
    "make_folder",
    "read_receipt",
    "runs_folder",
    "settle",
    "to_receipt",
    "to_step",
    "write_receipt",
]

RECEIPT = "receipt.json"
OUTCOMES = ("running", "succeeded", "failed", "refused", "rolled back", "interrupted")


def runs_folder(target: Target, output_dir: str) -> Path:
    """Return where runs go: ``output_dir``, or ``runs/`` of the project."""
    return Path(output_dir).expanduser().resolve() if output_dir else target.project / "runs"


def make_folder(parent: Path, started_at: datetime, runbook: str, target: str) -> Path:
    """Make the folder ``<UTC time>-<notebook>-<target>`` of a run and return it.

    Raises:
        SettingsError: it cannot be made.
    """
    name = re.sub(r"[^\w.-]+", "-", f"{started_at:%Y%m%dT%H%M%SZ}-{runbook}-{target}")
    try:
        parent.mkdir(parents=True, exist_ok=True)  # a file of that name is an error, too
        for suffix in ("", *(f"-{n}" for n in range(2, 1000))):
            with suppress(FileExistsError):
                (parent / f"{name}{suffix}").mkdir(mode=0o700)
                return parent / f"{name}{suffix}"
    except OSError as error:
        raise SettingsError(
            f"The folder {parent / name} cannot be made: {error.strerror}.",
            remedy="Choose another one with -r output_dir PATH.",
        ) from error
    raise SettingsError(f"{parent} is full of runs of this second.", remedy="Run this again.")


def read_receipt(path: Path) -> Receipt:
    """Return the receipt of a run.

    Args:
        path: ``receipt.json`` or the run's folder.

    Raises:
        SettingsError: there is none, or it is damaged.
    """
    file = path / RECEIPT if path.is_dir() else path
    try:
        return to_receipt(json.loads(file.read_text("utf-8")), file.parent)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{file} is not a receipt that can be read ({type(error).__name__}).",
            remedy="Write -r against latest, or the path of a run's folder.",
        ) from error


def known_receipts(target: Target, server: ServerInfo, output_dir: str) -> list[Receipt]:
    """Return the receipts of runs on this very database, the newest first.

    A receipt of another database of the same name, or of one that was dropped, is left out; that of
    a restore whose swap made this database the live one is not. One that is still ``running``
    although its process is gone is returned as ``interrupted``. Of a target with schemas of its own
    only its own runs count: others are of the database's other tenants.
    """
    found = []
    for path in runs_folder(target, output_dir).glob(f"*/{RECEIPT}"):
        try:
            record = json.loads(path.read_text("utf-8"))
            same = record["system_identifier"] == server.system_identifier and (
                record["database_oid"] == server.database_oid or _was_swapped_in(record, server)
            )
            receipt = to_receipt(record, path.parent)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        tenants = {target.name, record["target"]} if target.schemas else {target.name}
        if same and len(tenants) == 1:
            found.append(receipt)
    return sorted(found, key=lambda receipt: receipt.started_at, reverse=True)


def _was_swapped_in(record: Mapping[str, Any], server: ServerInfo) -> bool:
    """Say whether a restore gave this database its name, also if it was killed right after that."""
    swap = record.get("swap", {})
    return (swap.get("live"), swap.get("oid")) == (server.database, server.database_oid)


def settle(path: Path) -> None:
    """Replace a killed run's receipt by one that says so."""
    record = json.loads(path.read_text("utf-8"))
    if record["outcome"] == "running":
        write_receipt(path, record | {"outcome": "interrupted"})


def write_receipt(path: Path, record: Mapping[str, Any]) -> None:
    """Replace a JSON file by its new state in one step, flushed to the disk.

    While a run is at work, it is on one line: a thousand revisions write it two thousand times,
    and Python indents slowly.
    """
    indent = None if record.get("outcome") == "running" else 1
    temporary = path.with_name(f".{path.name}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(record, indent=indent, default=_plain) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise PlaybookError(
            f"The receipt {path} could not be written: {error.strerror}.",
            state="It tells the state before this step.",
            remedy="Make room there.",
        ) from error


def to_receipt(record: Mapping[str, Any], directory: Path) -> Receipt:
    """Return the record of a receipt's JSON.

    One that is still ``running`` although its process is gone is returned as ``interrupted``.
    """
    outcome, message = record["outcome"], record["message"]
    if outcome == "running" and not _is_alive(record):
        outcome = "interrupted"
        message = message or _killed_in_swap(record)
    finished, goal = record["finished_at"], record.get("goal")
    return Receipt(
        run_id=record["run_id"],
        runbook=record["runbook"],
        target=record["target"],
        database=record["database"],
        outcome=outcome,
        started_at=datetime.fromisoformat(record["started_at"]),
        finished_at=datetime.fromisoformat(finished) if finished else None,
        who=record["who"],
        from_revisions=tuple(record["from_revisions"]),
        to_revisions=tuple(record["to_revisions"]),
        steps=tuple(to_step(step) for step in record["steps"]),
        backup=record["backup"],
        revision_files=tuple((name, digest) for name, digest in record["revision_files"]),
        message=message,
        directory=directory,
        host=record["host"],
        system_identifier=record["system_identifier"],
        database_oid=record["database_oid"],
        history_sha256=record.get("history_sha256", ""),
        under_way=record.get("under_way", ""),
        leaves_transaction=record.get("leaves_transaction", False),
        direction=record.get("direction", ""),
        goal=tuple(goal) if goal is not None else None,
    )


def _killed_in_swap(record: Mapping[str, Any]) -> str:
    """Return how to see what a killed restore did, if it had begun to swap."""
    swap = record.get("swap")
    if not swap:
        return ""
    return (
        f"It was swapping {swap['restored']} in for {swap['live']}: if there is a database "
        f"{swap['kept']}, it has, and that is the one before; else nothing was renamed."
    )


def _is_alive(record: Mapping[str, Any]) -> bool:
    """Say whether the process of a running receipt exists; on another host it is assumed to."""
    if record["host"] != socket.gethostname():
        return True
    try:
        process = psutil.Process(record["pid"])
        return process.create_time() <= datetime.fromisoformat(record["started_at"]).timestamp() + 1
    except psutil.NoSuchProcess:
        return False


def to_step(record: Any) -> StepResult:
    """Return a step's record from its JSON, or as it is."""
    if isinstance(record, StepResult):
        return record
    fields = dict(record)
    fields["locks"] = tuple((table, mode) for table, mode in fields["locks"])
    fields["rewritten"] = tuple(fields["rewritten"])
    fields["xids"] = tuple(fields.get("xids", ()))
    fields["wrote"] = tuple(fields.get("wrote", ()))
    return StepResult(**fields)


@lru_cache(maxsize=4096)
def from_step(step: StepResult) -> dict[str, Any]:
    """Return a step's record as JSON has it; not to be changed, as the next writing takes it."""
    return asdict(step)


def _plain(value: Any) -> Any:
    if isinstance(value, StepResult):
        return from_step(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)
