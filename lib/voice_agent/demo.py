"""The playbook's main job from end to end, on a fresh sandbox database: `make demo`.

Runs the notebooks as papermill does, on the target ``demo``: the application's legacy tables,
made anew. Executed notebooks, reports and receipts go to one folder below ``runs/``.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from playbook.archive import backup_folder
from playbook.errors import PlaybookError
from playbook.sandbox import reset_database
from playbook.targets import PROJECT_INI, load_target

DATABASE = "demo"
RUNBOOKS = ("status", "backup", "preview", "upgrade", "verify", "rollback", "upgrade")
CELL_TIMEOUT_S = 120
QUIET_KERNEL = "--IPKernelApp.log_level=CRITICAL"
"""Without it each kernel warns that it talks to its own machine without encryption."""


class DemoFailed(Exception):
    """A runbook of the demo failed; the text is one sentence."""


@dataclass(frozen=True)
class Ended:
    """A runbook that was run to its end."""

    output: Path
    outcome: str
    """The outcome in a word, as the notebook's last output says it."""
    summary: str
    duration_s: float


def main() -> int:
    """Run every runbook of the demo, a line for each; return the exit code."""
    folder = PROJECT_INI.parent / "runs" / f"demo-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    begun = time.monotonic()
    _say(f"The playbook on a fresh copy of a legacy database, the target {DATABASE!r}:")
    try:
        with ThreadPoolExecutor(1) as reports:
            converted = _run_all(folder, reports)
            for report in converted:
                report.result()
    except (PlaybookError, DemoFailed) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    _say(
        f"Done in {time.monotonic() - begun:.0f} s. Open the reports: {_relative(folder)}/*.html "
        "(the notebooks and receipts are beside them). Next: make lab, and take the tour."
    )
    return 0


def _run_all(folder: Path, reports: ThreadPoolExecutor) -> list[Future[None]]:
    """Run the notebooks one after the other; each one's report is made while the next runs."""
    with ThreadPoolExecutor(1) as pool:
        database = pool.submit(reset_database, load_target(DATABASE))
        import papermill  # takes as long as the database: side by side

        database.result()
    # The demo's earlier backups are of a database that has just been made anew.
    shutil.rmtree(backup_folder(load_target(DATABASE), "backups"), ignore_errors=True)
    folder.mkdir(parents=True)
    converted = []
    for number, runbook in enumerate(RUNBOOKS, 1):
        ended = _run(papermill, runbook, folder / f"{number}-{runbook}.ipynb")
        converted.append(reports.submit(_write_report, ended.output))
        _say(
            f"  {number} {runbook:8} {ended.outcome:9} {ended.duration_s:4.1f} s  "
            f"{_relative(ended.output)}  {ended.summary}"
        )
    return converted


def _run(papermill: Any, runbook: str, output: Path) -> Ended:
    """Execute one notebook.

    Raises:
        DemoFailed: a cell failed, or the notebook does not say that it succeeded.
    """
    notebooks = PROJECT_INI.parent / "notebooks"
    begun = time.monotonic()
    try:
        executed = papermill.execute_notebook(
            notebooks / f"{runbook}.ipynb",
            output,
            {"database": DATABASE, "output_dir": str(output.parent)},
            progress_bar=False,
            cwd=notebooks,
            execution_timeout=CELL_TIMEOUT_S,
            extra_arguments=[QUIET_KERNEL],
        )
    except papermill.PapermillExecutionError as error:
        raise DemoFailed(
            f"`{runbook}` failed: {error.evalue} The whole of it is in {_relative(output)}."
        ) from error
    outcome, summary = _outcome(executed)
    if outcome != "succeeded":
        raise DemoFailed(f"`{runbook}` ended {outcome!r}: {summary} See {_relative(output)}.")
    return Ended(output, outcome, summary, time.monotonic() - begun)


def _outcome(executed: Any) -> tuple[str, str]:
    """Return (outcome, summary) of an executed notebook: its last output's first two lines."""
    text: str = executed.cells[-1].outputs[-1]["data"]["text/plain"]
    title, summary = text.splitlines()[:2]
    return title.partition("[")[2].rstrip("]"), summary


def _write_report(notebook: Path) -> None:
    """Write a notebook as one HTML file that needs nothing beside it."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="lab", embed_images=True)
    html, _ = exporter.from_filename(str(notebook))
    notebook.with_suffix(".html").write_text(html, "utf-8")


def _relative(path: Path) -> str:
    return os.path.relpath(path)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
