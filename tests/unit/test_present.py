"""What is shown of each record, in a notebook and in a log."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from builders import make_graph
from playbook import (
    charts,
    documents,
    drafts,
    formats,
    present,
    record_charts,
    records,
    rehearsals,
    repairs,
)
from playbook.documents import FileReport, FileReports, FolderSurvey, Imported
from playbook.drafts import (
    CheckSkeleton,
    Draft,
    DraftFile,
    DraftSql,
    ModelChange,
    ModelChanges,
    Placed,
    Tried,
    TriedRevision,
    Unseen,
)
from playbook.records import (
    Applied,
    BackupManifest,
    Backups,
    Banner,
    Blocker,
    Checks,
    ColumnSnapshot,
    Comparison,
    DataCheckResult,
    DataChecks,
    Difference,
    Drift,
    Finding,
    Hazard,
    Hazards,
    History,
    Integrity,
    InvalidIndex,
    Loss,
    LossItem,
    Note,
    Orphans,
    Outcome,
    Plan,
    PlanStep,
    Receipt,
    Restored,
    Retention,
    Revision,
    RevisionGraph,
    Salvage,
    SalvagedFile,
    SequenceBehind,
    Sessions,
    Severity,
    Snapshot,
    StepResult,
    TableSize,
    TableSizes,
    TableSnapshot,
    UnvalidatedConstraint,
    WayBack,
    WaysBack,
)
from playbook.rehearsals import (
    CopyMade,
    HeldLock,
    Passage,
    Rehearsed,
    RoundTrip,
    Trouble,
)
from playbook.repairs import (
    Diagnosis,
    Mended,
    Remedies,
    Remedy,
    RevisionMatch,
    SchemaMatches,
    VersionTable,
)
from playbook.schema_objects import SchemaDifference

EVIL = '<script>alert("x")</script>&Größe文書\x1b[31m\n\u202e'
SHA = "0123456789abcdef" * 4
START = datetime(2026, 11, 23, 8, 0, 0, tzinfo=UTC)
RUN = Path("/home/secret-user/project/runs/20261123T080000Z-upgrade-sandbox")
RECORDS = (records, rehearsals, drafts, documents, repairs)
PARTS = {
    "DraftFile", "ModelChange", "TriedRevision", "Unseen",
    "Allowed", "HeldLock", "Measured", "Passage", "Rehearsal", "Rehearsed", "Trouble",
    "Blocker", "Changes", "ColumnFact", "ColumnSequence", "ColumnSnapshot", "ConstraintFact",
    "DataCheckResult", "Difference", "DumpProgress", "FileReport", "Finding", "ForeignKey",
    "Hazard", "InvalidIndex", "Known", "LateRows", "LogEntry", "LossItem", "Orphans", "PlanStep",
    "Receipt", "Revision", "SalvagedFile", "SequenceBehind", "ServerInfo", "Severity",
    "StepResult", "TableSize", "TableSnapshot", "TableStorage", "UnvalidatedConstraint",
    "WayBack",
    "BrokenIndex", "Remedy", "RevisionMatch",
}  # fmt: skip
"""Records that are shown only within others, or by nobody."""
SHOWN_AS_THEY_ARE = {"CheckSkeleton", "Draft", "DraftSql", "Plan"}
"""Records whose SQL or source is shown as it runs."""


def revision(name: str, *down: str, message: str = "", head: bool = False) -> Revision:
    return Revision(
        revision=name, down_revisions=down, depends_on=(), branch_labels=(), sha256=SHA,
        message=message or f"do {name}", path=Path(f"/p/versions/{name}.py"), is_head=head,
        is_base=not down, is_branch_point=False, is_merge_point=len(down) > 1,
    )  # fmt: skip


def graph(*revisions: Revision, current: tuple[str, ...] = (), **more: Any) -> RevisionGraph:
    heads = tuple(one.revision for one in revisions if one.is_head)
    return RevisionGraph(revisions=revisions, heads=heads, current=current, **more)


BRANCHED = graph(
    revision("0001_users", message="create users"),
    revision("0002_documents", "0001_users", message="create documents"),
    revision("0003_chunks", "0002_documents", message="split documents into chunks"),
    revision("0003_audit", "0002_documents", message="audit log"),
    revision("0004_index", "0003_chunks", message="index chunks concurrently"),
    revision("0005_merge", "0004_index", "0003_audit", message="merge", head=True),
    current=("0003_chunks",), script_directory="/home/secret-user/project/migrations",
)  # fmt: skip
MARKED = replace(
    BRANCHED,
    marks=(("0001_users", "edited"), ("0003_chunks", "edited"), ("0003_chunks", "out of order"),
           ("0004_index", "failed"), ("0000_old", "missing")),
)  # fmt: skip

STEP = PlanStep(
    revision="0004_index", direction="upgrade", from_revisions=("0003_chunks",),
    to_revisions=("0004_index",), message="index chunks", path=Path("/p/versions/0004_index.py"),
    sha256=SHA,
    sql="-- Running upgrade 0003_chunks -> 0004_index\n\n"
    "CREATE INDEX CONCURRENTLY ix_chunks_document\n    ON rag.chunks (document_id)\n"
    "    WHERE title <> '<b>&amp;</b>' AND n > 12;\n\n"
    "UPDATE alembic_version SET version_num='0004_index'\n"
    " WHERE alembic_version.version_num = '0003_chunks';",
)  # fmt: skip

RESULT = StepResult(
    revision="0004_index", direction="upgrade", duration_s=12.306, attempts=3, statements=4,
    locks=(("rag.chunks", "AccessExclusiveLock"), ("rag.documents", "ShareLock")),
    rewritten=("rag.chunks",), transactional=False,
)  # fmt: skip

RECEIPT = Receipt(
    run_id="a", runbook="upgrade", target="sandbox", database="sandbox", outcome="succeeded",
    started_at=START, finished_at=START + timedelta(seconds=252), who="ana@laptop",
    from_revisions=("0003_chunks",), to_revisions=("0005_merge",), steps=(RESULT,),
    backup="/home/secret-user/project/backups/20261123T075900Z-sandbox",
    revision_files=(("0004_index", SHA),), message="All is well.", directory=RUN,
)  # fmt: skip

BACKUP = BackupManifest(
    format_version=1,
    target="sandbox",
    database="sandbox",
    server_version="18.4",
    system_identifier="7581",
    revisions=("0003_chunks",),
    started_at="2026-11-23T07:59:00+00:00",
    finished_at="2026-11-23T07:59:02+00:00",
    duration_s=2.1,
    user="ana",
    host="laptop",
    compression="gzip:1",
    jobs=2,
    pg_dump_version="18.4",
    restore_command="pg_restore --dbname NEW .",
    files=(("dump/toc.dat", 5_242_880, SHA),),
    rows=(("app.users", 12_345), ("rag.chunks", 98_765)),
    verified="archive",
    directory=Path("/home/secret-user/p/backups/20261123T075900Z-sandbox"),
)
PASSAGE = Passage(
    "upgrade", 0.31, 2, 7,
    (HeldLock("rag.chunks", "AccessExclusiveLock", 0.25), HeldLock("rag.docs", "ShareLock", 0.1)),
    ("rag.chunks",), (("rag.chunks", 12_345),), 4_500_000, 1_200_000, False,
)  # fmt: skip

SAMPLES: dict[str, Any] = {
    "VersionTable": VersionTable(
        "public.alembic_version", True, (("version_num", "character varying(32)", True),),
        "alembic_version_pkc", (None, "0003_chunks"), (("old.alembic_version", ("0001_users",)),),
    ),
    "SchemaMatches": SchemaMatches(
        "the sandbox",
        (
            RevisionMatch((), (SchemaDifference("table", "public.users", "", "TABLE"),) * 3),
            RevisionMatch(
                ("0001_users",),
                (SchemaDifference("column", "public.users.id", "integer", "bigint NOT NULL"),
                 SchemaDifference("index", "public.ix_users", "CREATE INDEX ...", "")),
                (SchemaDifference("privilege", "public.users to app", "", "SELECT"),),
            ),
        ),
        ("other.things",), ("0002_tags cannot be built on an empty database: it reads rows.",),
    ),
    "Diagnosis": Diagnosis((
        Finding("unknown-revision", Severity.STOP, "lost", "No file has it.", "Stamp it.", "Why."),
        Finding("several-heads", Severity.WARN, "0004_a, 0004_b", "Two heads.", "Merge them."),
    )),
    "Remedies": Remedies(
        (
            Remedy("stamp", "Writes down 0001_users.", ("DELETE FROM v;", "INSERT INTO v;"),
                   ("DELETE FROM v;",), revisions=("0001_users",)),
            Remedy("reindex", "Builds ix_users again.", ("REINDEX INDEX CONCURRENTLY ix_users;",),
                   in_transaction=False),
            Remedy("merge", "Writes 0005.", file=Path("/p/versions/0005.py"), text="revision = 5"),
        ),
        "stamp",
    ),
    "Mended": Mended(
        "stamp", "Writes down 0001_users.", ("DELETE FROM v;",), ("INSERT INTO v;",), 0.31,
    ),
    "Banner": Banner(
        runbook="upgrade", target="sandbox", label="sandbox database 'sandbox'", kind="sandbox",
        protected=False, writes="tables, by Alembic; a backup first", server_version="18.4",
        user="postgres", current=("0003_chunks",), heads=("0005_merge",), pending=3,
    ),
    "Checks": Checks((
        Finding("connection", Severity.OK, "sandbox", "PostgreSQL 18.4 answers."),
        Finding("long-transaction", Severity.WARN, "pid 4711", "Open for 12 minutes.",
                "Ask its owner, or wait."),
        Finding("invalid-index", Severity.STOP, "rag.ix_chunks", "It is not valid.",
                "Open `repair`."),
    )),
    "RevisionGraph": MARKED,
    "Plan": Plan(
        direction="upgrade", target="head", from_revisions=("0003_chunks",),
        to_revisions=("0004_index",), steps=(STEP,), method="offline", sha256=SHA,
        tables=("rag.chunks",),
    ),
    "TableSizes": TableSizes((
        TableSize("app", "users", 12_345, 1_258_291, 24_576, 1_282_867),
        TableSize("rag", "chunks", -1, 52_428_800, 9_437_184, 61_865_984),
    )),
    "History": History((
        replace(RECEIPT, outcome="failed", started_at=START + timedelta(days=1), finished_at=None,
                backup="", message="Revision 0004_index failed."),
        RECEIPT,
    )),
    "Applied": Applied("upgrade", ("0003_chunks",), ("0004_index",), (RESULT,)),
    "DataChecks": DataChecks((
        DataCheckResult("0003_chunks", "chunks_have_documents", "Each chunk has its document.", 0),
        DataCheckResult("0004_index", "no_empty_chunk", "No chunk is empty.", 1_234,
                        ("id=7 document_id=2", "id=9 document_id=2")),
        DataCheckResult("0004_index", "broken", "It runs.", 0, (), "no such column: x"),
    )),
    "Comparison": Comparison("before the upgrade", "after the upgrade", (
        Difference("app.users", "", "intact", 12_345, 12_345),
        Difference("rag.chunks", "", "rows changed", 98_765, 98_700, "65 rows fewer"),
        Difference("rag.tags", "", "added", -1, 0),
        Difference("rag.chunks", "title", "values changed", 98_765, 98_700, "fingerprint differs"),
        Difference("rag.tags", "name", "values changed", 40, 40, "", 3, 2, "undeclared"),
        Difference("rag.huge", "", "not compared", -1, -1, "not read: time budget"),
    )),
    "Drift": Drift(("remove table rag.old", "add column app.users.email text")),
    "Integrity": Integrity(
        (UnvalidatedConstraint("app.users", "users_email", "CHECK (email <> '') NOT VALID"),),
        (InvalidIndex("rag.chunks", "ix_chunks", "CREATE INDEX ix_chunks ON rag.chunks (id)"),),
        (Orphans("rag.chunks", "chunks_document", "rag.documents", 3, True),),
        (SequenceBehind("rag.chunks", "id", "rag.chunks_id_seq", 1, 98_765),),
        (("sequence rag.other of rag.tags.id", "not checked in time"),),
    ),
    "Hazards": Hazards(
        (
            Hazard(
                "002_rag", "adding-required-field", Severity.STOP, "app.users", 98_700,
                "ACCESS EXCLUSIVE", "every read and write", 1.5, "ALTER TABLE users ADD x int",
                "The table is rewritten.", "Add it nullable first.",
                object="x", rewrite="-- Revision 1 of 2:\nALTER TABLE users ADD x int;",
            ),
        )
    ),
    "Loss": Loss(
        (
            LossItem("rag.tags", "", 40, (("id", 40), ("name", 38)), 3),
            LossItem("rag.chunks", "title", 98_700),
        )
    ),
    "Salvage": Salvage(RUN / "salvage", (
        SalvagedFile("rag.chunks", ("id", "title"), 98_700, RUN / "salvage" / "rag.chunks.csv.gz",
                     1_258_291, SHA),
    )),
    "BackupManifest": BACKUP,
    "Backups": Backups(((BACKUP, 7_260.0),)),
    "Retention": Retention(1, (BACKUP,), ((BACKUP, "among the 1 newest"),)),
    "Snapshot": Snapshot("sandbox", "2026-11-23T08:00:00Z", ("0003_chunks",), (
        TableSnapshot("app", "users", 12_345, (ColumnSnapshot("id", "bigint", True, 12_345, "1"),)),
    )),
    "WaysBack": WaysBack(
        (
            WayBack("downgrade", "40 rows in 1 table", "1.20 s when last done here", "unused"),
            WayBack("fix forward", "nothing", "a new revision", "in use"),
        ),
        "fix forward",
        "3 rows came since the upgrade.",
    ),
    "Restored": Restored(
        "app_restored_20261125T160000Z", "app", "20261125T150000Z-a1", ("public.a",), 4, 12.5,
        ("All other tables are empty, and foreign keys were left out.",),
    ),
    "CopyMade": CopyMade(
        "playbook_rehearse_0badcafe", "dump", "the sandbox", "app", 12.5, 19_500_000,
        ("Owners and privileges were not copied: all belongs to this role.",),
    ),
    "RoundTrip": RoundTrip(
        SHA, "head", ("0003_chunks",), ("0004_index", "0005_merge"), ("0004_index",),
        (Rehearsed("0004_index", "Index chunks.", SHA, PASSAGE, replace(PASSAGE, grown_bytes=-8)),
         Rehearsed("0005_merge", "Merge.", SHA)),
        (Trouble("failed", Severity.STOP, "0005_merge", "upgrade", "rag.chunks", "It failed."),),
    ),
    "Sessions": Sessions(
        "app", (Blocker(4711, "shop", "web", "idle in transaction", "", 63.0),
                Blocker(4712, "shop", "", "active", "", 0.0)),
    ),
    "FolderSurvey": FolderSurvey(
        "manuals", (("application/pdf", 3, 1_200_000), ("text/plain", 1, 512)),
        (("is of a kind that is not imported", 2),),
    ),
    "FileReports": FileReports(
        (("duplicate", 1), ("skipped", 41)),
        (FileReport("a/copy.txt", "duplicate", "has the same text as a.txt"),
         FileReport("broken.pdf", "skipped", "is a damaged PDF")),
        RUN / "files.csv",
    ),
    "Imported": Imported("manuals", 1_204, 20_300, 2, 5, 17, 3, 4_500_000, 12.5, "20261123T-x"),
    "ModelChanges": ModelChanges(
        (ModelChange("adds column users.zone, text, not null"),
         ModelChange("drops column users.nick, and what it holds", destroys=True)),
        (Unseen("rename", "users.nick -> zone", "Likely renamed.", "op.alter_column(1)\nop.x()"),),
        "revisions", ("CHECKs were not compared.",),
    ),
    "Draft": Draft(
        (DraftFile("0006_zone", RUN / "draft" / "0006_zone.py", "import sqlalchemy as sa\n"),),
        Path("/home/secret-user/project/migrations/versions"), "Add users.zone", ("0005_merge",),
        ("add column users.nick",),
    ),
    "DraftSql": DraftSql((("0006_zone", "ALTER TABLE users ADD zone text;"),), "offline"),
    "Tried": Tried(
        "", "dump, in the sandbox", 4,
        (TriedRevision("0006_zone", (0.31, 0.02, -1.0), 12_345, ("public.users",)),),
        (Finding("failed", Severity.STOP, "0006_zone: users", "It lost rows.", "Mend it."),),
        ("0006_zone (downgrade): It lost rows.",), "Not compared whole: public.a.",
    ),
    "CheckSkeleton": CheckSkeleton(
        "0006_zone", "-- name: users_have_zone\nSELECT 1;\n", ("users_have_zone",)
    ),
    "Placed": Placed((), "Nothing was put into the project."),
    "Note": Note("There is nothing to compare yet."),
    "Outcome": Outcome(
        outcome="succeeded", runbook="upgrade", summary="The database is at 0005_merge.",
        changed=("2 revisions applied",), unchanged=("the data of 4 tables",),
        next_steps=("Open `verify` tomorrow.",), files=(RUN / "receipt.json",),
        versions=(("Python", "3.11.7"), ("Alembic", "1.20.1")),
    ),
}  # fmt: skip

EMPTY: dict[str, tuple[Any, str]] = {
    "ModelChanges": (ModelChanges((), (), "target"), "finds no difference"),
    "Tried": (Tried("It is too large."), "was not tried on a copy"),
    "CheckSkeleton": (CheckSkeleton("a", ""), "No data check follows"),
    "Placed": (Placed((Path("/p/versions/0006_zone.py"),)), "versions/0006_zone.py"),
    "Checks": (Checks(()), "No checks"),
    "RevisionGraph": (graph(), "no revisions"),
    "Plan": (replace(SAMPLES["Plan"], steps=()), "Nothing to run"),
    "TableSizes": (TableSizes(()), "no tables"),
    "History": (History(()), "No runs"),
    "Applied": (replace(SAMPLES["Applied"], steps=()), "No revision was run"),
    "DataChecks": (DataChecks(()), "no data checks"),
    "Comparison": (Comparison("then", "now", ()), "no tables to compare"),
    "Drift": (Drift(()), "agree"),
    "Integrity": (Integrity((), ()), "every index is valid"),
    "FolderSurvey": (FolderSurvey("empty", ()), "holds no files"),
    "FileReports": (FileReports((), ()), "Every file was imported"),
    "Loss": (Loss(()), "Nothing will be destroyed"),
    "Salvage": (Salvage(Path("s"), ()), "Nothing had to be salvaged"),
    "Sessions": (Sessions("app", ()), "Nobody else is connected"),
    "Remedies": (Remedies(()), "no remedy to apply"),
    "SchemaMatches": (SchemaMatches(""), "Nothing was compared"),
    "Snapshot": (Snapshot("db", "", (), ()), "no tables"),
    "RoundTrip": (RoundTrip("", "head", (), (), (), (), ()), "nothing was rehearsed"),
}  # fmt: skip


def spoil(value: Any) -> Any:
    """Return a record whose every free text is hostile, ids that are looked up left alone."""
    if isinstance(value, tuple):
        return tuple(spoil(one) for one in value)
    if isinstance(value, Severity | Path) or not (
        isinstance(value, str) or hasattr(value, "__dataclass_fields__")
    ):
        return value
    if isinstance(value, str):
        return EVIL
    # SQL is shown as it runs, as a plan's is, and a file as it is written.
    kept = {"outcome", "transactional", "rewrite", "statements", "undo"}
    kept |= {"text"} if isinstance(value, Remedy) else set()
    fields = {n: spoil(getattr(value, n)) for n in value.__dataclass_fields__ if n not in kept}
    return replace(value, **fields)


def visible(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", " ", html))


def words(text: str) -> set[str]:
    """Return the facts of an output: its words, without the rules and marks of either form."""
    return set(re.findall(r"[\w.:]*\w", text))


@pytest.fixture(scope="module")
def shell() -> InteractiveShell:
    return InteractiveShell.instance()


def _shown() -> set[str]:
    modules = {module.__name__ for module in RECORDS}
    return {one.__name__ for one in present._VIEWS if one.__module__ in modules}


def test_every_record_is_shown_by_itself_or_known_as_a_part_of_another() -> None:
    assert {name for module in RECORDS for name in module.__all__} == _shown() | PARTS


def test_every_record_that_is_shown_has_a_sample_here() -> None:
    assert _shown() == set(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_plain_form_has_every_word_of_the_html(name: str) -> None:
    html = re.sub(r"<svg.*?</svg>|<summary.*?</summary>", " ", present.to_html(SAMPLES[name]))
    html = re.sub(r"</?span[^>]*>", "", html)

    assert words(visible(html)) <= words(present.plain(SAMPLES[name]))


@pytest.mark.parametrize("name", SAMPLES)
def test_two_renderings_are_equal_and_tell_no_address_and_no_home(name: str) -> None:
    copy = replace(SAMPLES[name])
    both = present.to_html(copy) + present.plain(copy)

    assert both == present.to_html(SAMPLES[name]) + present.plain(SAMPLES[name])
    assert " 0x" not in both
    assert "secret-user" not in both


@pytest.mark.parametrize("name", SAMPLES)
def test_hostile_texts_are_escaped_and_stay_on_their_line(name: str) -> None:
    record = spoil(SAMPLES[name])

    html, plain = present.to_html(record), present.plain(record)

    assert "<script" not in html
    if name not in SHOWN_AS_THEY_ARE:
        assert "alert" in html
        assert "\x1b" not in html + plain
        assert "\u202e" not in html + plain


@pytest.mark.parametrize("name", EMPTY)
def test_empty_record_says_so_in_words(name: str) -> None:
    record, sentence = EMPTY[name]

    assert sentence in present.plain(record)
    assert sentence in visible(present.to_html(record))


@pytest.mark.parametrize("name", SAMPLES)
def test_html_has_no_script_class_id_or_style_sheet(name: str) -> None:
    html = present.to_html(SAMPLES[name])

    assert not re.search(r"<(script|style|link)\b|<[^>]*\s(id|class|on\w+)=", html)


@pytest.mark.parametrize("name", SAMPLES)
def test_html_closes_what_it_opens(name: str) -> None:
    html = present.to_html(SAMPLES[name])
    for tag in ("div", "table", "tr", "td", "th", "span", "details", "pre", "svg", "ul", "li"):
        assert len(re.findall(rf"<{tag}\b", html)) == html.count(f"</{tag}>"), tag


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00 s"), (0.314, "0.31 s"), (59.99, "59.99 s"), (59.999, "1.0 min"), (252, "4.2 min"),
     (3598, "1.0 h"), (5400, "1.5 h")],
)  # fmt: skip
def test_duration_is_written_with_the_unit_that_fits(value: float, text: str) -> None:
    assert formats.seconds(value) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (24_576, "24 kB"), (1_258_291, "1.2 MB"),
     (1024**2 - 1, "1 MB"), (1024**3, "1 GB"), (5 * 1024**5, "5120 TB")],
)  # fmt: skip
def test_size_is_written_in_powers_of_1024(size: int, text: str) -> None:
    assert formats.bytes_text(size) == text


def test_count_has_thousands_separators_and_a_fitting_noun() -> None:
    texts = [formats.count(12_345), *(formats.count(n, "row") for n in (0, 1, 1_000))]

    assert texts == ["12,345", "no rows", "1 row", "1,000 rows"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(START, "2026-11-23 08:00:00 UTC"), ("2026-11-23T10:00:00+02:00", "2026-11-23 08:00:00 UTC"),
     ("", ""), ("yesterday", "yesterday")],
)  # fmt: skip
def test_moment_is_written_in_utc(value: datetime | str, text: str) -> None:
    assert formats.moment(value) == text


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/a/b/runs/r/receipt.json", "runs/r/receipt.json"),
        ("/x", "x"),
        ("a/b", "a/b"),
        ("/a/checkout/backups/b", "backups/b"),
        ("/a/backups/sandbox/b/manifest.json", "backups/sandbox/b/manifest.json"),
        ("/a/migrations/versions/x.py", "migrations/versions/x.py"),
    ],
)
def test_short_path_keeps_what_tells_the_file(path: str, text: str) -> None:
    assert formats.short_path(path) == text


def test_banner_of_a_protected_target_is_red_and_says_so() -> None:
    banner = replace(SAMPLES["Banner"], protected=True)

    assert "[PROTECTED]" in present.plain(banner)
    assert charts._TONES["bad"][0] in present.to_html(banner)


def test_banner_of_an_unprotected_target_says_so() -> None:
    assert "[UNPROTECTED]" in present.plain(replace(SAMPLES["Banner"], kind="url"))


def test_checks_keep_their_order_under_a_tally() -> None:
    text = present.plain(SAMPLES["Checks"])

    assert text.startswith("3 checks: 1 OK, 1 WARN, 1 STOP")
    assert text.index("connection") < text.index("long-transaction") < text.index("invalid-index")


def test_reason_of_a_finding_is_shown_unless_all_is_well() -> None:
    for severity, shown in ((Severity.OK, False), (Severity.WARN, True), (Severity.STOP, True)):
        checks = Checks(
            (Finding("a", severity, "pid 1", "It idles.", "End it.", "It holds locks."),)
        )

        assert ("It holds locks." in present.plain(checks)) is shown
        assert ("It holds locks." in present.to_html(checks)) is shown


def test_waiting_is_told_of_a_statement_that_weighs_something_and_will_run() -> None:
    (one,) = SAMPLES["Hazards"].items
    told = {
        (certain, severity): "Meanwhile"
        in present.plain(Hazards((replace(one, is_certain=certain, severity=severity),)))
        for certain in (False, True)
        for severity in (Severity.OK, Severity.STOP)
    }

    assert [key for key, is_told in told.items() if is_told] == [(False, Severity.STOP)]


def test_a_plan_without_hazards_does_not_claim_that_it_takes_no_lock() -> None:
    assert "locks last for moments" in present.plain(Hazards(()))


def test_hazard_of_a_body_of_code_claims_no_table_lock_or_time() -> None:
    (one,) = SAMPLES["Hazards"].items
    code = replace(one, rule="cannot-be-read", table="", object="", rows=-1, lock="", blocks="")

    text = present.plain(Hazards((code,)))

    assert "002_rag: cannot-be-read  " in text
    assert "cannot-be-read on" not in text
    assert "Meanwhile" not in text
    assert "~" not in text


def test_graph_is_drawn_like_git_log_with_the_newest_on_top() -> None:
    lines = present.plain(BRANCHED).splitlines()
    drawn = [line[:6].rstrip() for line in lines[3:-2]]

    assert drawn == ["  o", "  |\\", "  o |", "  | o", "  @ |", "  |/", "  *", "  *"]
    assert "you are here" in next(line for line in lines if "0003_chunks" in line)


def test_graph_joins_several_branches_into_one_parent() -> None:
    several = graph(revision("a"), revision("b", "a"), revision("c", "a"), revision("d", "a"))

    assert "  |/_/\n" in present.plain(several).replace("  \n", "\n")


def test_graph_svg_has_a_titled_picture_per_revision() -> None:
    html = present.to_html(BRANCHED)

    assert html.count("<svg") == html.count("<title>") == len(BRANCHED.revisions)


def test_no_edge_runs_through_a_dot_of_another_revision() -> None:
    nodes = [charts.Node("d", 0, "applied", ("a",)), charts.Node("c", 1, "applied", ("a",)),
             charts.Node("b", 0, "applied", ()), charts.Node("a", 0, "applied", ())]  # fmt: skip

    for edge in charts.edges(nodes):
        between = nodes[edge.child_row + 1 : edge.parent_row]
        assert edge.lane not in {node.lane for node in between}


def test_graph_tells_of_a_revision_that_no_file_has() -> None:
    lost = graph(revision("a", head=True), current=("dead",), unknown=("dead",))

    assert "at dead, a revision that no file has" in present.plain(lost)


def test_graph_shows_what_the_history_tells_of_each_revision() -> None:
    lines = present.plain(MARKED).splitlines()
    row = {name: line for line in lines for name in ("0001", "0003_chunks", "0004") if name in line}

    assert lines[0] == "6 revisions: 3 applied, 3 pending, 1 failed, 2 edited, 1 out of order, " + (
        "1 missing."
    )
    assert "applied, edited" in row["0001"]
    assert "you are here, edited, out of order" in row["0003_chunks"]
    assert "pending, failed" in row["0004"]
    assert "0000_old was applied, and no file has it.  [missing]" in lines


def test_of_a_thousand_revisions_those_near_the_database_and_those_with_a_mark_are_drawn() -> None:
    chain = "<-".join(f"r{n:04}" for n in range(1000))
    graph = replace(make_graph(chain, current=("r0500",)), marks=(("r0007", "edited"),))

    text, html = present.plain(graph), present.to_html(graph)

    assert text.startswith("1,000 revisions: 501 applied, 499 pending, 1 edited.")
    assert len(html) < 150_000
    for name in ("r0999", "r0500", "r0530", "r0470", "r0007"):
        assert f" {name} " in text
    assert "Not drawn: r0006 to r0000: 7 applied." in text
    left_out = [int(n) for n in re.findall(r"(\d+) (?:applied|pending)", text.partition("\n")[2])]
    drawn = len(re.findall(r"^  [o@*]", text, re.MULTILINE))
    assert sum(left_out) + drawn == 1000


def test_of_a_thousand_tables_the_largest_are_drawn_and_the_rest_counted() -> None:
    tables = tuple(TableSize("public", f"t{n:04}", n, n, 0, n) for n in range(1000))

    text = present.plain(TableSizes(tables))

    assert text.startswith("1,000 tables, ")
    assert "public.t0800" in text
    assert "public.t0799" not in text
    assert "Not drawn: 800 smaller tables." in text


def test_of_many_tables_each_that_lost_something_is_drawn() -> None:
    kinds = ["intact"] * 600 + ["rows changed"] * 300
    found = tuple(Difference(f"t{n:04}", "", kind, 5, 4) for n, kind in enumerate(kinds))

    text = present.plain(Comparison("before", "now", found))

    assert text.count("rows changed") == 300
    assert "Not drawn: 600 tables that lost nothing." in text


def test_plan_of_a_thousand_revisions_shows_the_first_ones_and_says_where_the_rest_is() -> None:
    step = PlanStep("r", "upgrade", (), ("r",), "make it", Path("r.py"), "0" * 64, "SELECT 1;")
    plan = Plan("upgrade", "head", (), ("r",), (step,) * 1000, "offline", "0" * 64, ())

    text = present.plain(plan)

    assert text.count("SELECT 1;") == 50
    assert "950 further revisions, whose SQL is in the run's file only  [not drawn]" in text


def test_plan_shows_its_sql_unchanged_in_both_forms() -> None:
    html = present.to_html(SAMPLES["Plan"])
    code = unescape(
        re.sub(r"<[^>]*>", "", re.findall(r"<pre[^>]*>(.*?)</pre>", html, re.DOTALL)[0])
    )

    assert code == STEP.sql
    assert STEP.sql in present.plain(SAMPLES["Plan"])


@pytest.mark.parametrize(("lines", "folded"), [(120, False), (121, True)])
def test_long_sql_is_folded_at_first(lines: int, folded: bool) -> None:
    step = replace(STEP, sql="\n".join(["SELECT 1;"] * lines))

    html = present.to_html(replace(SAMPLES["Plan"], steps=(step,)))

    assert ("<details open" not in html) is folded


def test_applied_shows_only_the_strongest_lock_of_a_table() -> None:
    locks = (("t", "AccessExclusiveLock"), ("t", "RowExclusiveLock"), ("t", "AccessShareLock"))
    text = present.plain(Applied("upgrade", (), (), (replace(RESULT, locks=locks),)))

    assert "AccessExclusiveLock on t" in text
    assert "RowExclusiveLock" not in text


def test_unlike_durations_sizes_and_users_leave_the_rest_of_a_plain_table_alone() -> None:
    def sanitised(run: Receipt) -> str:
        text = re.sub(r" *\d+\.\d+ (?:s|min|h)\b", " D", present.plain(History((run, RECEIPT))))
        return re.sub(r"  \S*@\S*$", "  WHO", text, flags=re.MULTILINE)

    quick = replace(RECEIPT, finished_at=START + timedelta(seconds=0.2), who="someone@elsewhere")

    assert sanitised(quick) == sanitised(RECEIPT)


def test_plain_columns_line_up_under_wide_characters() -> None:
    findings = (
        Finding("a", Severity.OK, "文書", "HERE"),
        Finding("a", Severity.OK, "abcd", "HERE"),
    )
    first, second = (
        line for line in present.plain(Checks(findings)).splitlines() if "HERE" in line
    )

    assert first.index("HERE") + len("文書") == second.index("HERE")


def test_columns_that_are_not_intact_stand_below_the_tables() -> None:
    text = present.plain(SAMPLES["Comparison"])

    assert text.index("rag.tags") < text.index("Columns that are not intact") < text.index("title")


def test_table_of_many_rows_scrolls_in_a_box() -> None:
    table = SAMPLES["TableSizes"].tables[0]

    assert "max-height" in present.to_html(TableSizes((table,) * 300))
    assert "max-height" not in present.to_html(TableSizes((table,)))


@pytest.mark.parametrize("name", SAMPLES)
def test_shell_shows_both_forms(name: str, shell: InteractiveShell) -> None:
    present.install_formatters()
    present.install_formatters()

    data, _ = shell.display_formatter.format(SAMPLES[name])  # type: ignore[union-attr]

    assert data == {"text/plain": present.plain(SAMPLES[name]),
                    "text/html": present.to_html(SAMPLES[name])}  # fmt: skip


def test_import_and_install_load_no_heavy_library() -> None:
    heavy = ("IPython", "matplotlib", "pandas", "numpy", "pygments")
    code = (
        "import sys, json, playbook.present as present; present.install_formatters(); "
        f"print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout) == []


def test_show_prints_the_plain_form_where_there_is_no_notebook() -> None:
    code = (
        "from playbook import present, records; present.install_formatters(); "
        "present.show(records.Note('There is nothing to compare.'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "There is nothing to compare.\n"


def test_progress_and_notes_are_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    present.progress("waiting for pid 7")
    present.note("done")

    assert capsys.readouterr().out == "  … waiting for pid 7\ndone\n"


def test_chart_of_rows_is_a_picture_with_its_facts_as_text() -> None:
    data, metadata = record_charts.rows_chart(SAMPLES["Comparison"])._repr_mimebundle_()

    assert sorted(data) == ["image/png", "text/plain"]
    assert metadata["image/png"]["width"] > 0
    assert "98,765 -> 98,700" in data["text/plain"]
    assert "absent -> 0" in data["text/plain"]


def test_chart_of_many_tables_sums_up_the_rest_and_loses_no_row() -> None:
    many = tuple(Difference(f"s.t{n:03}", "", "intact", n, n) for n in range(300))

    text = record_charts.rows_chart(Comparison("then", "now", many)).text

    assert len(text.splitlines()) == 1 + record_charts.CHARTED_TABLES
    assert "276 other tables" in text
    assert f"{sum(range(276)):,} -> {sum(range(276)):,}" in text


def test_chart_of_names_without_a_glyph_or_with_a_formula_is_drawn_without_a_warning() -> None:
    names = ("s.文書", "s.$x_{", "s." + "long_" * 40)
    tables = tuple(Difference(name, "", "intact", 1, 10_000_000) for name in names)

    assert record_charts.rows_chart(Comparison("then", "now", tables)).png


def test_chart_of_durations_leaves_out_runs_that_did_not_end() -> None:
    text = record_charts.durations_chart(SAMPLES["History"]).text

    assert text.splitlines()[1:] == ["  2026-11-23 08:00 upgrade  4.2 min, succeeded"]


@pytest.mark.parametrize(
    "chart",
    [
        record_charts.rows_chart(Comparison("a", "b", ())),
        record_charts.durations_chart(History(())),
    ],
)
def test_chart_of_nothing_is_a_sentence(chart: charts.Chart) -> None:
    data, _ = chart._repr_mimebundle_()

    assert list(data) == ["text/plain"]
    assert "no " in data["text/plain"]


def test_equal_comparisons_give_equal_pictures() -> None:
    first, second = (record_charts.rows_chart(SAMPLES["Comparison"]).png for _ in range(2))

    assert first == second


def test_changed_values_tell_who_wrote_them_and_whether_that_is_meant() -> None:
    text = present.plain(SAMPLES["Comparison"])

    assert "3 rows written since, 2 of them by the run; undeclared" in text
    assert re.search(r"rag\.huge +not counted +not counted +not compared +not read: time", text)


def test_references_that_are_broken_are_shown_with_their_remedy() -> None:
    text = present.plain(SAMPLES["Integrity"])

    assert "1 foreign key with rows that lack their parent" in text
    assert """SELECT setval('"rag"."chunks_id_seq"', 98765)""" in text
    assert "not checked in time" in text


def test_snapshot_says_of_which_tables_not_every_row_was_read() -> None:
    tables = (
        TableSnapshot("app", "huge", -1, (), "not read: time budget", 0.0),
        TableSnapshot("app", "large", 9_000, (), "10 % of its blocks", 0.1),
    )

    text = present.plain(Snapshot("db", "", (), tables))

    assert re.search(r"app\.huge +not counted", text)
    assert "app.huge: not read: time budget" in text
    assert "app.large: 10 % of its blocks" in text
    assert "2 tables, 9,000 rows" in text
