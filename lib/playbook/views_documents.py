"""How an import of documents is shown. Layer 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playbook.charts import Code, Facts, Items, Number, Pill, Table, Text, View
from playbook.documents import FileReport, FileReports, FolderSurvey, Imported
from playbook.formats import bytes_text, count, seconds, short_path
from playbook.view_parts import nothing, size_cell

__all__ = ["VIEWS"]

_FATES = {"skipped": "bad", "duplicate": "quiet", "replaced": "look", "imported": "good"}


def _survey(survey: FolderSurvey) -> View:
    if not survey.files and not survey.passed_over:
        return nothing(f"The folder {survey.folder} holds no files.")
    rows = tuple(
        (kind, Number(count(files)), size_cell(size)) for kind, files, size in survey.kinds
    )
    title = f"{survey.folder}: {count(survey.files, 'file')}, {bytes_text(survey.size_bytes)}"
    others = tuple(f"{reason}: {count(files, 'file')}" for reason, files in survey.passed_over)
    return View(
        (
            Text(title),
            Table(("kind", "files", "size"), rows),
            Items("Not read", others),
        )
    )


def _reports(reports: FileReports) -> View:
    if not reports.tally:
        return nothing("Every file was imported as it is, or had been before.")
    tally = ", ".join(f"{count(files)} {fate}" for fate, files in reports.tally)
    more = sum(files for _, files in reports.tally) - len(reports.first)
    rest = f" The first {count(len(reports.first))} are shown here." if more else ""
    where = f" All are in {short_path(reports.file)}." if more and reports.file else ""
    table = Table(("", "file", "why"), tuple(map(_report, reports.first)))
    return View((Text(f"{tally}.{rest}{where}"), table))


def _report(report: FileReport) -> tuple[Pill, Code, str]:
    return Pill(report.fate, _FATES.get(report.fate, "quiet")), Code(report.name), report.reason


def _imported(done: Imported) -> View:
    facts = (
        ("new documents", f"{count(done.documents)}, in {count(done.chunks, 'chunk')}"),
        ("older versions taken out", count(done.replaced)),
        ("duplicates", count(done.duplicates)),
        ("unchanged since an earlier run", count(done.unchanged)),
        ("skipped", count(done.skipped)),
        ("read", f"{bytes_text(done.size_bytes)} in {seconds(done.duration_s)}"),
    )
    pill = Pill("dry run", "look") if done.dry_run else Pill("committed", "good")
    return View((Text(f"Corpus {done.corpus}", pill, "heading"), Facts(facts)), "quiet")


VIEWS: dict[type, Callable[[Any], View]] = {
    FileReports: _reports,
    FolderSurvey: _survey,
    Imported: _imported,
}
