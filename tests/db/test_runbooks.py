"""The runbooks' functions in the order of their notebooks: done, refused, failed, done twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from builders import FAILING, SECOND, TABLE, Project, Script, execute
from playbook import backup, init, preview, rollback, sandbox, status, upgrade, verify
from playbook.database import advisory_lock, connect, fetch_value
from playbook.errors import GuardRefused, MigrationFailed, SettingsError, VerifyFailed
from playbook.journal import Run, known_receipts
from playbook.records import Checks, Note, Outcome, Receipt, Severity
from playbook.snapshot import take_snapshot
from playbook.targets import PROJECT_INI, Target, load_target
from servers import PrivateServer
from steps import STEPS, WRITING, Namespace, at, go, history, picture, runs


@pytest.fixture
def example(legacy_database: Target, staging: Callable[..., Project]) -> Namespace:
    """The example's migrations and seeded data, with runs and backups in a folder of the test's."""
    project = staging({})
    project.ini.write_text(PROJECT_INI.read_text().replace("%(here)s", str(PROJECT_INI.parent)))
    return {"database": f"sandbox:{legacy_database.database}", "alembic_ini": str(project.ini)}


def test_whole_round_on_the_example(example: Namespace, legacy_database: Target) -> None:
    before = take_snapshot(legacy_database, ()).tables

    for module in (status, backup, preview, upgrade, verify, rollback):
        parameters = {"target": "000_baseline"} if module is rollback else {}
        outcome = go(module, example, **parameters)
        assert (outcome.outcome, outcome.runbook) == ("succeeded", module.__name__.split(".")[1])
        if module is upgrade:
            assert at(legacy_database) == ["002_add_rag_tables"]

    assert at(legacy_database) == ["000_baseline"]
    after = {table.name: table for table in take_snapshot(legacy_database, ()).tables}
    assert all(after[table.name] == table for table in before)
    assert history(legacy_database) == [
        ("upgrade", "succeeded", ["002_add_rag_tables"]),
        ("rollback", "succeeded", ["000_baseline"]),
    ]
    receipts = runs(example)
    assert [receipt["runbook"] for receipt in receipts] == ["backup", "upgrade", "rollback"]
    assert receipts[1]["backup"]
    assert [step["revision"] for step in receipts[1]["steps"]] == [
        "001_add_auth_fields", "002_add_rag_tables",
    ]  # fmt: skip


def test_core_round_on_an_older_server(
    other_version: PrivateServer, staging: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    fills = Script(
        execute(
            "ALTER TABLE a ADD COLUMN x text",
            "INSERT INTO a VALUES (1, 'one') ON CONFLICT DO NOTHING",
        ),
        execute("ALTER TABLE a DROP COLUMN x"),
    )
    project = staging({"a1": TABLE, "b2": fills, "c3": SECOND})
    with other_version.database() as name:
        monkeypatch.setenv("OLDER", other_version.url(name))
        namespace = {"database": "env:OLDER", "alembic_ini": str(project.ini)}

        for module, parameters in (
            (upgrade, {}), (backup, {"verify": "restore"}), (verify, {}),
            (preview, {"target": "-1", "method": "observed"}),
            (rollback, {"target": "a1"}), (status, {}), (upgrade, {}),
        ):  # fmt: skip
            assert go(module, namespace, **parameters).outcome == "succeeded"

        (salvaged,) = project.folder.glob("runs/*/salvage/public.a.csv")
        assert salvaged.read_text() == "id,x\n1,one\n"


def test_plan_that_needs_an_extension_of_the_server_is_observed_on_that_server(
    other_version: PrivateServer, staging: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = Script(
        execute("CREATE EXTENSION pg_trgm", "SELECT similarity('a', 'b')"),
        execute("DROP EXTENSION pg_trgm"),
    )
    project = staging({"a1": TABLE, "b2": needs})
    with other_version.database() as name, other_version.connect(name) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'")
            if not cursor.fetchone()[0]:
                pytest.skip("this server has no pg_trgm")
            cursor.execute("SELECT array_agg(datname) FROM pg_database")
            before = set(cursor.fetchone()[0])
        monkeypatch.setenv("OLDER", other_version.url(name))
        namespace = {"database": "env:OLDER", "alembic_ini": str(project.ini)}

        with go(preview, namespace, method="observed", before="conclude") as run:
            plan = run.require("plan", object)

        assert "CREATE EXTENSION pg_trgm" in plan.steps[-1].sql
        with connection.cursor() as cursor:
            cursor.execute("SELECT array_agg(datname) FROM pg_database")
            assert set(cursor.fetchone()[0]) == before, "its empty copy is gone"
            cursor.execute("SELECT count(*) FROM pg_extension WHERE extname = 'pg_trgm'")
            assert cursor.fetchone()[0] == 0, "the database itself was only read"


@pytest.mark.parametrize(
    ("module", "step"),
    [
        (upgrade, "check_preflight"), (upgrade, "take_backup"), (upgrade, "take_before_snapshot"),
        (rollback, "check_preflight"), (rollback, "find_loss"), (rollback, "write_salvage"),
        (rollback, "take_backup"), (rollback, "take_before_snapshot"),
        (init, "check_place"), (init, "drop_everything"), (init, "plan_install"),
        (backup, "check_preflight"), (backup, "run_backup"), (backup, "verify_backup"),
    ],
)  # fmt: skip
def test_step_left_out_is_missed_by_the_one_that_stands_on_it(
    small: Callable[..., Namespace], fresh_database: Target, module: ModuleType, step: str
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND})
    before = picture(fresh_database)

    with pytest.raises(GuardRefused, match="has not been taken, or failed"):
        go(module, namespace, leave_out=step)

    assert picture(fresh_database) == before


@pytest.mark.parametrize("module", STEPS)
def test_step_taken_alone_on_a_new_run_never_concludes(
    small: Callable[..., Namespace], module: ModuleType
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND})

    with module.open_run(namespace) as run:
        with pytest.raises(GuardRefused, match="has not been taken, or failed"):
            module.conclude(run)


@pytest.mark.parametrize("module", [upgrade, rollback])
def test_database_that_moved_between_plan_and_run_is_left_alone(
    small: Callable[..., Namespace], fresh_database: Target, module: ModuleType
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND, "c3": Script()})
    go(upgrade, namespace, target="b2")

    def move() -> None:
        with connect(fresh_database) as connection:
            connection.cursor().execute("UPDATE alembic_version SET version_num = 'a1'")

    with pytest.raises(GuardRefused, match="The database is at a1 now, not at b2"):
        go(module, namespace, meanwhile={WRITING[module]: move})

    assert at(fresh_database) == ["a1"]
    assert runs(namespace)[-1]["outcome"] == "refused"


def test_plan_that_changed_since_it_was_shown_is_refused(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND})
    path = Path(namespace["alembic_ini"]).parent / "migrations" / "versions" / "b2.py"

    def edit() -> None:
        path.write_text(path.read_text().replace("CREATE TABLE b", "CREATE TABLE other"))

    with pytest.raises(GuardRefused, match="changed since"):
        go(upgrade, namespace, meanwhile={"run_upgrade": edit})

    assert at(fresh_database) == ["a1"]


@pytest.mark.parametrize("module", [upgrade, rollback])
def test_protected_target_asks_for_its_name(
    small: Callable[..., Namespace], fresh_database: Target, module: ModuleType
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND}) | {"database": "guarded"}
    name = fresh_database.database
    before = picture(fresh_database)

    for confirm, said in (("", "an empty confirm"), ("yes", "confirm='yes'")):
        with pytest.raises(GuardRefused, match=f"{said}.*write -r confirm {name}"):
            go(module, namespace, confirm=confirm)
    with pytest.raises(GuardRefused, match="needs a fresh backup"):
        go(module, namespace, confirm=name, backup="never")
    assert picture(fresh_database) == before

    assert go(module, namespace, confirm=name).outcome == "succeeded"
    assert runs(namespace)[-1]["backup"]


@pytest.mark.parametrize("module", [upgrade, rollback])
def test_dry_run_changes_nothing_and_leaves_nothing(
    example: Namespace, legacy_database: Target, module: ModuleType
) -> None:
    before = picture(legacy_database)

    outcome = go(module, example, dry_run=True)

    assert isinstance(outcome, Outcome)
    assert picture(legacy_database) == before
    assert runs(example) == []
    assert sorted(p.name for p in Path(example["alembic_ini"]).parent.iterdir()) == [
        "alembic.ini", "migrations",
    ]  # fmt: skip


def test_reading_runbooks_change_nothing_in_the_database(
    example: Namespace, legacy_database: Target
) -> None:
    before = picture(legacy_database)

    for module in (status, backup, preview, verify):
        go(module, example)

    assert picture(legacy_database) == before


def test_second_upgrade_has_nothing_to_do(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND})
    go(upgrade, namespace)
    before, count = picture(fresh_database), len(runs(namespace))

    outcome = go(upgrade, namespace)

    assert outcome.unchanged == ("everything",)
    assert picture(fresh_database) == before
    assert len(runs(namespace)) == count


def test_failing_revision_says_where_the_database_is_and_can_be_mended(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND, "c3": FAILING})

    with pytest.raises(MigrationFailed) as caught:
        go(upgrade, namespace)

    assert "Revision c3 failed" in str(caught.value)
    assert "The database is at b2; c3 was rolled back whole." in str(caught.value)
    assert (caught.value.revision, caught.value.current) == ("c3", ("b2",))
    assert at(fresh_database) == ["b2"]
    assert history(fresh_database)[-1] == ("upgrade", "failed", ["b2"])
    receipt = runs(namespace)[-1]
    assert (receipt["outcome"], receipt["to_revisions"]) == ("failed", ["b2"])

    path = Path(namespace["alembic_ini"]).parent / "migrations" / "versions" / "c3.py"
    path.write_text(path.read_text().replace("1 / 0", "1"))
    checks = go(status, namespace, before="read_runs")
    assert checks.require("preflight", object)
    assert "edited" not in str(checks.require("preflight", object))
    go(upgrade, namespace)
    assert at(fresh_database) == ["c3"]


def test_failure_with_rollback_goes_back_to_where_it_began(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND, "c3": FAILING})

    with pytest.raises(MigrationFailed, match="went back from b2 to a1. Its data are as before"):
        go(upgrade, namespace, on_failure="rollback")

    assert at(fresh_database) == ["a1"]
    assert history(fresh_database)[-1][1] == "rolled back"
    assert runs(namespace)[-1]["outcome"] == "rolled back"


def test_failure_with_rollback_that_cannot_go_back_says_where_the_database_is(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    one_way = Script(SECOND.upgrade, None)
    namespace = small({"a1": TABLE, "b2": one_way, "c3": FAILING})

    with pytest.raises(MigrationFailed) as caught:
        go(upgrade, namespace, on_failure="rollback")

    assert "c3" in str(caught.value)
    assert "at b2" in str(caught.value)
    assert at(fresh_database) == ["b2"]


def test_other_run_in_progress_is_refused_by_name(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND})

    with advisory_lock(fresh_database):
        with pytest.raises(GuardRefused, match="migration-playbook"):
            go(upgrade, namespace)

    assert at(fresh_database) == ["a1"]


def test_salvage_and_backup_come_before_what_a_rollback_destroys(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND})
    go(upgrade, namespace)
    with connect(fresh_database) as connection:
        connection.cursor().execute("INSERT INTO b VALUES (7)")

    go(rollback, namespace)

    folder = Path(namespace["alembic_ini"]).parent
    (file,) = folder.glob("runs/*rollback*/salvage/public.b.csv")
    assert file.read_text() == "id\n7\n"
    assert runs(namespace)[-1]["backup"]
    assert [e["what"] for e in runs(namespace)[-1]["events"]][:3] == [
        "salvage written", "backup begins", "backup complete",
    ]  # fmt: skip


def test_missing_downgrade_is_refused_before_anything(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = small({"a1": Script(TABLE.upgrade, None)})
    before = picture(fresh_database)

    with pytest.raises(SettingsError, match="a1 has no downgrade function"):
        go(rollback, namespace)

    assert picture(fresh_database) == before


def test_init_installs_an_empty_database_and_a_second_one_finds_it_installed(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND}, to="")

    first = go(init, namespace)
    before = picture(fresh_database)
    second = go(init, namespace)

    assert first.outcome == second.outcome == "succeeded"
    assert at(fresh_database) == ["b2"]
    assert picture(fresh_database) == before


def test_tables_without_a_version_are_recognised_and_not_overwritten(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE}, to="")
    with connect(fresh_database) as connection:
        connection.cursor().execute("CREATE TABLE a (mine text)")
    before = picture(fresh_database)

    with pytest.raises(GuardRefused, match="made without Alembic.*alembic stamp a1"):
        go(init, namespace)
    with pytest.raises(GuardRefused, match="alembic stamp"):
        go(upgrade, namespace)

    assert picture(fresh_database) == before


def test_drop_saves_what_there_is_and_builds_anew_but_never_on_a_protected_target(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND})
    with connect(fresh_database) as connection:
        connection.cursor().execute("INSERT INTO a VALUES (1); CREATE SCHEMA s CREATE TABLE t ()")

    with pytest.raises(GuardRefused, match="neither drops nor installs there"):
        go(init, namespace | {"database": "guarded"}, drop=True)
    with connect(fresh_database) as connection:
        assert fetch_value(connection, "SELECT count(*) FROM a") == 1
    go(init, namespace, drop=True)

    with connect(fresh_database) as connection:
        assert fetch_value(connection, "SELECT count(*) FROM a") == 0
        assert fetch_value(connection, "SELECT to_regnamespace('s') IS NULL")
    assert at(fresh_database) == ["b2"]
    assert runs(namespace)[-1]["backup"]


def test_role_that_may_not_keep_the_history_is_told_and_the_run_goes_on(
    small: Callable[..., Namespace], fresh_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND}, to="")
    name = fresh_database.database
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {name} LOGIN; GRANT ALL ON SCHEMA public TO {name}")
    host = fresh_database.conninfo["host"]
    monkeypatch.setenv("WEAK", f"postgresql://{name}@/{name}?host={host}")
    try:
        go(upgrade, namespace | {"database": "env:WEAK"}, target="a1")
        assert "not written: " in runs(namespace)[-1]["history"]
        with connect(fresh_database) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA playbook; CREATE TABLE playbook.history (x int)")

        go(status, namespace | {"database": "env:WEAK"})
        go(upgrade, namespace | {"database": "env:WEAK"})

        assert at(fresh_database) == ["b2"]
    finally:
        with connect(fresh_database) as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_edited_file_of_an_applied_revision_is_found_until_it_is_undone(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND})
    go(upgrade, namespace)
    path = Path(namespace["alembic_ini"]).parent / "migrations" / "versions" / "b2.py"
    path.write_text(path.read_text() + "\n# edited\n")

    def warned() -> bool:
        run = go(status, namespace, before="read_runs")
        return any(
            finding.code == "revision-files" and finding.subject == "b2"
            for finding in run.require("preflight", object).findings
        )

    assert warned()
    go(rollback, namespace)
    assert not warned()


def test_killed_run_is_recognised_as_interrupted(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND})
    (path,) = (Path(namespace["alembic_ini"]).parent / "runs").glob("*/receipt.json")
    record = json.loads(path.read_text()) | {"outcome": "running", "pid": 2**22 + 1}
    path.write_text(json.dumps(record))

    run: Run[Any] = go(status, namespace, before="check_preflight")
    (receipt,) = known_receipts(run.target, run.server, "")

    assert isinstance(receipt, Receipt)
    assert receipt.outcome == "interrupted"


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"target": "nope"}, "matches no revision"),
        ({"backup": "no"}, "backup='no' is not known"),
        ({"lock_timeout": "0s"}, "not a duration above zero"),
        ({"on_failure": "x"}, "on_failure='x' is not known"),
        ({"dry_run": "false"}, "must be true or false"),
    ],
)
def test_bad_parameter_is_refused_before_anything(
    small: Callable[..., Namespace], fresh_database: Target, parameters: dict[str, Any], said: str
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND}, to="")

    with pytest.raises(SettingsError, match=said):
        go(upgrade, namespace, **parameters)

    assert runs(namespace) == []
    assert take_snapshot(fresh_database, ()).tables == ()


def test_preview_writes_both_ways_and_says_which_method(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND})

    for method in ("offline", "observed"):
        run = go(preview, namespace, before="conclude", method=method)
        assert "CREATE TABLE b" in (run.directory / "migration.sql").read_text()
        assert "DROP TABLE b" in (run.directory / "rollback.sql").read_text()
        assert json.loads((run.directory / "plan.json").read_text())["method"] == method
    assert at(fresh_database) == ["a1"]


def test_verify_against_a_run_without_a_snapshot_is_refused(
    small: Callable[..., Namespace], tmp_path: Path
) -> None:
    namespace = small({"a1": TABLE}, to="")

    with pytest.raises(SettingsError, match="is not a receipt that can be read"):
        go(verify, namespace, against=str(tmp_path / "nowhere"))
    assert isinstance(go(verify, namespace, before="check_data").require("comparison", Note), Note)


def test_receipt_is_never_half_written(
    small: Callable[..., Namespace], fresh_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND})
    seen: list[str] = []
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target.name == "receipt.json":
            seen.append(json.loads(self.read_text())["outcome"])
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    go(upgrade, namespace)

    ended = seen.index("succeeded")
    assert set(seen[:ended]) == {"running"}
    assert set(seen[ended:]) == {"succeeded"}  # then once more, with its entry in the log
    assert not list(Path(namespace["alembic_ini"]).parent.glob("runs/*/.receipt.json"))


POSITIVE = "-- name: positive\nSELECT id FROM a WHERE id < 0\n"


def _with_check(small: Callable[..., Namespace], rows: str, change: str) -> Namespace:
    """A database at its first revision, whose data check the rows may break; one more pending."""
    second = Script(execute(change), down="1")
    namespace = small({"1": TABLE, "2": second})
    Project(Path(namespace["alembic_ini"]).parent).write_check("1", POSITIVE)
    with connect(_target(namespace)) as connection, connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO a VALUES {rows}")
    return namespace


def _target(namespace: Namespace) -> Target:
    return sandbox.open_target(load_target(str(namespace["database"])))


@pytest.mark.parametrize("change", ["SELECT 1", "DELETE FROM a WHERE id = -1"])
def test_check_that_failed_already_is_shown_and_does_not_fail_the_upgrade(
    small: Callable[..., Namespace], change: str
) -> None:
    namespace = _with_check(small, "(-1), (-2)", change)

    run = go(upgrade, namespace, before="take_backup")
    findings = {f.code: f for f in run.require("preflight", Checks).findings}
    outcome = go(upgrade, namespace)

    assert findings["data-checks"].severity is Severity.WARN
    assert outcome.outcome == "succeeded"
    rows = "1 row; 2 before" if "DELETE" in change else "2 rows, as before"
    assert outcome.next_steps[0] == f"Data check positive was broken already ({rows})."
    assert go(upgrade, namespace).outcome == "succeeded"


@pytest.mark.parametrize(
    ("rows", "said"),
    [("(1)", "positive (1 row; 0 before)"), ("(-1)", "positive (2 rows; 1 before)")],
)
def test_check_that_the_upgrade_breaks_fails_it_and_says_how_it_was(
    small: Callable[..., Namespace], rows: str, said: str
) -> None:
    namespace = _with_check(small, rows, "INSERT INTO a VALUES (-5)")

    with pytest.raises(VerifyFailed) as caught:
        go(upgrade, namespace)

    assert said in str(caught.value)
    assert runs(namespace)[-1]["outcome"] == "failed"
