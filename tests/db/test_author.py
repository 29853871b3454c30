"""The runbook `author`: what a change of the models becomes, and what is left after a failure."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import alembic
import pytest

from builders import Project, Script, execute
from playbook import author, preview, rollback, upgrade
from playbook.database import connect, fetch
from playbook.drafts import Draft, ModelChanges, Tried
from playbook.dump import dump_schema, find_client_tools
from playbook.errors import GuardRefused, MigrationFailed, PlaybookError, SettingsError
from playbook.model_comparison import Compared
from playbook.placing import place_texts
from playbook.targets import Target
from playbook.verification import run_checks
from steps import Namespace, go, picture, runs

Small = Callable[..., Namespace]
TEMPLATE = Path(alembic.__file__).parent / "templates" / "generic" / "script.py.mako"
SETTINGS = "target_metadata=M, compare_type=True, compare_server_default=True"
BASE = Script(
    execute(
        "CREATE TYPE mood AS ENUM ('calm', 'glad')",
        "CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL, nick text, age int, "
        "state text DEFAULT 'new', feels mood, CONSTRAINT age_known CHECK (age >= 0))",
        "INSERT INTO people (id, name, nick, age) "
        "SELECT n, 'p' || n, 'n' || n, n % 90 FROM generate_series(1, 300) n",
    ),
    execute("DROP TABLE people", "DROP TYPE mood"),
)
PEOPLE = """
from sqlalchemy import *
from sqlalchemy.dialects.postgresql import ENUM
M = MetaData()
people = Table("people", M,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("nick", Text),
    Column("age", Integer),
    Column("state", Text, server_default="new"),
    Column("feels", ENUM("calm", "glad", name="mood")),
    CheckConstraint("age >= 0", name="age_known"),
)
"""
MORE_COLUMNS = (
    PEOPLE
    + """
people.append_column(Column("zone", Text, nullable=False, server_default="UTC"))
"""
)
REQUIRED = (
    PEOPLE
    + """
people.append_column(Column("tier", Text, nullable=False))
"""
)
TAGS = (
    PEOPLE
    + """
Table("tags", M,
    Column("id", Integer, primary_key=True),
    Column("person_id", ForeignKey("people.id", name="tags_people"), nullable=False),
    Column("word", Text, nullable=False),
    UniqueConstraint("person_id", "word", name="tags_person_word"),
)
Index("people_nick", people.c.nick, unique=True)
"""
)


@pytest.fixture
def made(small: Small) -> Callable[..., Namespace]:
    """A small project at head whose models are given, with Alembic's own template."""

    def make(models: str, revisions: Mapping[str, Script] | None = None, **given: str) -> Namespace:
        options = {"settings": SETTINGS, "to": "heads", **given}
        namespace = small(revisions or {"001_base": BASE}, before=models, **options)
        shutil.copy(TEMPLATE, _migrations(namespace) / "script.py.mako")
        return namespace

    return make


def _migrations(namespace: Namespace) -> Path:
    return Path(namespace["alembic_ini"]).parent / "migrations"


def _files(namespace: Namespace) -> set[str]:
    """Return what is in the project's folders for revisions and data checks."""
    folder = _migrations(namespace)
    found = [*folder.glob("versions/*.py"), *folder.glob("checks/*")]
    return {str(path.relative_to(folder)) for path in found}


def _changes(namespace: Namespace, **parameters: object) -> ModelChanges:
    run = go(author, namespace, before="show_draft", **{"against": "target", **parameters})
    return run.require("changes", ModelChanges)


def _told(namespace: Namespace, **parameters: object) -> list[str]:
    return [one.text for one in _changes(namespace, **parameters).changes]


def test_a_changed_model_becomes_a_revision_and_its_data_checks(
    made: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = made(TAGS)
    before = picture(fresh_database)

    outcome = go(author, namespace, message="Let people have tags")

    assert outcome.outcome == "succeeded"
    assert picture(fresh_database) == before
    name = "002_let_people_have_tags"
    assert _files(namespace) == {
        "versions/001_base.py", f"versions/{name}_let_people_have_tags.py", f"checks/{name}.sql",
    }  # fmt: skip
    receipt = runs(namespace)[-1]
    assert [Path(path).name for path in receipt["files"]] == [
        path.name for path in outcome.files[1:3]
    ]
    go(upgrade, namespace)
    with upgrade.open_run(dict(namespace)) as run:
        checks = run_checks(run.target, run.graph)
    assert {one.name for one in checks.results} == {
        "tags_have_what_they_need", "tags_have_their_people", "tags_are_unique_by_person_id_word",
        "people_are_unique_by_nick",
    }  # fmt: skip
    assert all(one.failing_rows == 0 and not one.error for one in checks.results)


def test_what_changes_is_told_in_words(made: Callable[..., Namespace]) -> None:
    namespace = made(MORE_COLUMNS.replace('"age", Integer', '"age", BigInteger, nullable=False'))

    assert _told(namespace) == [
        "adds column people.zone, text, not null, default 'UTC'",
        "column people.age changes its type from integer to bigint and becomes not null",
    ]


def test_without_a_message_there_is_a_draft_and_nothing_in_the_project(
    made: Callable[..., Namespace],
) -> None:
    namespace = made(MORE_COLUMNS)

    outcome = go(author, namespace)

    assert "the message is empty" in outcome.summary
    assert _files(namespace) == {"versions/001_base.py"}
    assert [path.name for path in outcome.files] == [
        "receipt.json", "002_add_people_zone_add_people_zone.py"
    ]  # fmt: skip


def test_a_dry_run_puts_nothing_into_the_project(made: Callable[..., Namespace]) -> None:
    namespace = made(MORE_COLUMNS)

    outcome = go(author, namespace, message="add_people_zone", dry_run=True)

    assert "dry run" in outcome.summary
    assert _files(namespace) == {"versions/001_base.py"}


def test_equal_models_create_nothing_at_all(made: Callable[..., Namespace]) -> None:
    namespace = made(PEOPLE)
    receipts = len(runs(namespace))

    outcome = go(author, namespace, message="add_people_zone")

    assert outcome.summary == "No file was written: the models are what the revisions build."
    assert _files(namespace) == {"versions/001_base.py"}
    assert len(runs(namespace)) == receipts


def test_a_blank_revision_is_written_by_the_projects_template(
    made: Callable[..., Namespace],
) -> None:
    namespace = made(MORE_COLUMNS)

    go(author, namespace, message="Fill the nicks of people", autogenerate=False)

    (path,) = _migrations(namespace).glob("versions/002_*.py")
    assert "Fill the nicks of people" in path.read_text()
    assert "zone" not in path.read_text()


def test_ids_are_alembics_own_where_the_project_has_them(made: Callable[..., Namespace]) -> None:
    namespace = made(MORE_COLUMNS, {"1a2b3c4d5e6f": BASE})

    go(author, namespace, message="add_people_zone")

    (path,) = _migrations(namespace).glob("versions/*_add_people_zone.py")
    assert len(path.name.partition("_")[0]) == 12


def test_a_database_behind_its_head_is_refused(made: Callable[..., Namespace]) -> None:
    namespace = made(MORE_COLUMNS)
    go(rollback, namespace, target="-1")

    with pytest.raises(GuardRefused, match="1 behind the head. Run `upgrade` first"):
        go(author, namespace, message="add_people_zone")

    assert _files(namespace) == {"versions/001_base.py"}


def test_of_several_heads_one_has_to_be_named(made: Callable[..., Namespace]) -> None:
    second = Script(execute("CREATE TABLE other (id int)"), execute("DROP TABLE other"), down="")
    namespace = made(MORE_COLUMNS + 'Table("other", M, Column("id", Integer))\n',
                     {"001_base": BASE, "002_other": second})  # fmt: skip
    with pytest.raises(SettingsError, match="-r head 001_base or -r head 002_other"):
        go(author, namespace, message="add_people_zone")
    with pytest.raises(SettingsError, match="'nope' is no head"):
        go(author, namespace, message="add_people_zone", head="nope")

    go(upgrade, namespace, target="heads")
    go(author, namespace, message="add_people_zone", head="001_base")

    (path,) = _migrations(namespace).glob("versions/003_*.py")
    assert "= '001_base'" in path.read_text()


def test_what_alembic_does_not_see_is_told_with_what_to_write(
    made: Callable[..., Namespace],
) -> None:
    changed = (
        PEOPLE.replace('"nick"', '"alias"')
        .replace("age >= 0", "age >= 0 AND age < 200")
        .replace('"glad"', '"glad", "sad"')
        .replace('"name", Text', '"name", String(80)')
        .replace('server_default="new"', 'server_default="old"')
    )
    namespace = made(changed, settings="target_metadata=M, compare_type=False")

    found = {one.kind: one for one in _changes(namespace).unseen}

    assert set(found) == {"rename", "check", "enum", "type", "default"}
    assert found["rename"].write == 'op.alter_column("people", "nick", new_column_name="alias")'
    assert found["check"].write.splitlines()[0].startswith("op.drop_constraint(")
    assert "ADD VALUE IF NOT EXISTS 'sad'" in found["enum"].write
    assert "TYPE character varying(80)" in found["type"].write
    assert "sa.text(" in found["default"].write


def test_the_lines_that_are_told_make_the_models_true(made: Callable[..., Namespace]) -> None:
    changed = (
        PEOPLE.replace("age >= 0", "age >= 0 AND age < 200")
        .replace('"glad"', '"glad", "sad"')
        .replace('"name", Text', '"name", String(80)')
        .replace('server_default="new"', 'server_default="old"')
    )
    namespace = made(changed, settings="target_metadata=M, compare_type=False")
    lines = [line for one in _changes(namespace).unseen for line in one.write.splitlines()]
    body = "\n".join(lines)
    project = Project(Path(namespace["alembic_ini"]).parent)
    project.write("002_by_hand", Script(body, "pass", down="001_base"))
    go(upgrade, namespace)

    assert _changes(namespace).unseen == ()


def test_a_renamed_table_is_told(made: Callable[..., Namespace]) -> None:
    namespace = made(PEOPLE.replace('Table("people"', 'Table("persons"'))

    (found,) = [one for one in _changes(namespace).unseen if one.kind == "rename"]

    assert found.write == 'op.rename_table("people", "persons")'


def test_code_that_speaks_of_a_dropped_column_is_named(made: Callable[..., Namespace]) -> None:
    code = Script(
        execute(
            "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN NEW.nick := lower(NEW.nick); RETURN NEW; END'",
            "CREATE TRIGGER touch BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION touch()",
            "CREATE VIEW nicks AS SELECT nick FROM people",
        ),
        execute("DROP VIEW nicks", "DROP TRIGGER touch ON people", "DROP FUNCTION touch"),
    )
    namespace = made(PEOPLE.replace('    Column("nick", Text),\n', ""),
                     {"001_base": BASE, "002_code": code})  # fmt: skip

    found = [one.detail for one in _changes(namespace).unseen]

    assert any("trigger touch of public.people" in text for text in found)
    assert any("view public.nicks" in text for text in found)


def test_a_required_column_fails_on_rows_and_leaves_no_file(
    made: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = made(REQUIRED)
    before = picture(fresh_database)

    with pytest.raises(MigrationFailed, match="fails on a copy with rows") as failure:
        go(author, namespace, message="add_people_tier")

    assert "No file was put into the project. The draft is kept in" in str(failure.value)
    assert _files(namespace) == {"versions/001_base.py"}
    assert picture(fresh_database) == before
    assert runs(namespace)[-1]["outcome"] == "failed"


def test_a_required_column_written_in_steps_comes_through_with_its_rows(
    made: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = made(REQUIRED)
    with pytest.raises(SettingsError, match='-r fill "people.tier = ..."'):
        go(author, namespace, message="add_people_tier", rewrite=True)
    before = _schema(fresh_database)

    outcome = go(
        author, namespace, message="add_people_tier", rewrite=True, fill="people.tier = 'free'"
    )

    new = sorted(_files(namespace) - {"versions/001_base.py"})
    assert outcome.outcome == "succeeded"
    assert [name.partition("/")[2][:4] for name in new if "versions" in name] == [
        "002_", "003_", "004_", "005_", "006_"
    ]  # fmt: skip
    go(upgrade, namespace)
    with connect(fresh_database) as connection:
        assert fetch(connection, "SELECT tier, count(*) FROM people GROUP BY 1") == [("free", 300)]
    assert _changes(namespace).is_empty
    go(rollback, namespace, target="001_base")
    assert _schema(fresh_database) == before


def test_a_column_whose_name_is_no_plain_word_is_filled_online_and_by_psql_alike(
    made: Callable[..., Namespace],
    fresh_database: Target,
    run_psql: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    namespace = made(REQUIRED.replace('"tier"', '"5% tier"'))
    with pytest.raises(SettingsError, match="-r fill 'people.\"5% tier\" = ...'"):
        go(author, namespace, message="add_people_tier", rewrite=True)

    go(author, namespace, message="add_people_tier", rewrite=True,
       fill="people.\"5% tier\" = '100%'")  # fmt: skip
    outcome = go(preview, namespace, method="offline")
    script = next(path for path in outcome.files if path.name == "migration.sql")
    done = run_psql(fresh_database, script.read_text())

    assert done.returncode == 0, done.stderr
    filled = 'SELECT "5% tier", count(*) FROM people GROUP BY 1'
    with connect(fresh_database) as connection:
        assert fetch(connection, filled) == [("100%", 300)]
    go(rollback, namespace, target="001_base")
    go(upgrade, namespace)
    with connect(fresh_database) as connection:
        assert fetch(connection, filled) == [("100%", 300)]


def _schema(target: Target) -> str:
    return dump_schema(target, tools=find_client_tools(180000))


def test_the_models_own_default_fills_old_rows(made: Callable[..., Namespace]) -> None:
    namespace = made(REQUIRED.replace("nullable=False))", 'nullable=False, default="it\'s 5:00"))'))

    run = go(author, namespace, message="add_people_tier", rewrite=True, before="place_files")

    texts = [file.text for file in run.require("compared", Compared).draft.files]
    assert any("it''s 5:00" in text for text in texts)
    found = {one.code for one in run.require("tried", Tried).findings}
    assert found == {"not-transactional"}  # the steps lose nothing and leave no trace


@pytest.mark.parametrize(
    ("name", "break_it", "says"),
    [
        ("models", lambda folder: _prepend(folder / "env.py", "1 / 0"), "ZeroDivisionError"),
        ("template", lambda folder: (folder / "script.py.mako").write_text("${1 / 0}"), "Template"),
        ("no template", lambda folder: (folder / "script.py.mako").unlink(), "script.py.mako"),
        (
            "a revision that does not load",
            lambda folder: _prepend(folder / "script.py.mako", "def def"), "SyntaxError",
        ),
        (
            "a name that the file does not import",
            lambda folder: _replace(folder / "script.py.mako", "import sqlalchemy as sa", ""),
            "sa",
        ),
        (
            "an env.py without models",
            lambda folder: _replace(folder / "env.py", "target_metadata=M, ", ""), "MetaData",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_broken_leaves_no_file_and_is_named(
    made: Callable[..., Namespace], name: str, break_it: Callable[[Path], object], says: str
) -> None:
    namespace = made(MORE_COLUMNS)
    break_it(_migrations(namespace))
    before = _files(namespace)

    with pytest.raises(PlaybookError, match=says) as failure:
        go(author, namespace, message="add_people_zone", against="target")

    assert _files(namespace) == before
    assert "changed" in str(failure.value) or "No file was put" in str(failure.value)


def _prepend(path: Path, line: str) -> None:
    path.write_text(f"{line}\n{path.read_text()}")


def _replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_a_failing_hook_leaves_no_file(made: Callable[..., Namespace]) -> None:
    namespace = made(MORE_COLUMNS)
    with Path(namespace["alembic_ini"]).open("a") as ini:
        ini.write("[post_write_hooks]\nhooks = no\nno.type = nobody\n")

    with pytest.raises(SettingsError, match="nobody"):
        go(author, namespace, message="add_people_zone")

    assert _files(namespace) == {"versions/001_base.py"}


def test_a_revision_that_came_meanwhile_is_not_passed_over(
    made: Callable[..., Namespace],
) -> None:
    namespace = made(MORE_COLUMNS)
    project = Project(Path(namespace["alembic_ini"]).parent)
    other = Script(down="001_base")

    with pytest.raises(GuardRefused, match="changed since this run began"):
        go(
            author, namespace, message="add_people_zone",
            meanwhile={"place_files": lambda: project.write("002_other", other)},
        )  # fmt: skip

    assert _files(namespace) == {"versions/001_base.py", "versions/002_other.py"}


def test_no_file_is_replaced_and_none_is_left_half_placed(
    made: Callable[..., Namespace],
) -> None:
    namespace = made(MORE_COLUMNS)
    project = Project(Path(namespace["alembic_ini"]).parent)
    project.write_check("002_add_people_zone", "-- mine\n")

    with pytest.raises(GuardRefused, match="could not be put into the project"):
        go(author, namespace, message="add_people_zone")

    assert _files(namespace) == {"versions/001_base.py", "checks/002_add_people_zone.sql"}
    assert (_migrations(namespace) / "checks/002_add_people_zone.sql").read_text() == "-- mine\n"


def test_of_two_revisions_at_the_same_moment_one_is_taken_away(
    made: Callable[..., Namespace],
) -> None:
    namespace = made(MORE_COLUMNS)
    project = Project(Path(namespace["alembic_ini"]).parent)
    with go(author, namespace, before="test_draft", message="add_people_zone") as run:
        draft = run.require("compared", Compared).draft
        project.write("002_other", Script(down="001_base"))
        texts = {draft.destination / file.path.name: file.text for file in draft.files}

        with pytest.raises(GuardRefused, match="002_other came at the same moment"):
            place_texts(run.target, run.server, draft, texts)

    assert _files(namespace) == {"versions/001_base.py", "versions/002_other.py"}


KILLED = """
import os, sys
from pathlib import Path
from playbook import placing
from playbook.drafts import Draft
folder = Path(sys.argv[1])
texts = {folder / "001.py": "whole = 1", folder / "002.py": "half = 2"}
link, linked = os.link, []
def linking(source, path):
    linked.append(path)
    if len(linked) == 2:
        os._exit(9)
    link(source, path)
os.link = linking
placing.place_texts(None, None, Draft((), folder, "", ()), texts)
"""


def test_a_kill_leaves_whole_files_only(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False, timeout=60)

    assert done.returncode == 9
    assert {path.name: path.read_text() for path in tmp_path.glob("*.py")} == {
        "001.py": "whole = 1"
    }


def test_where_the_revisions_cannot_build_it_the_target_is_compared(
    made: Callable[..., Namespace], fresh_database: Target
) -> None:
    needs = Script(execute("ALTER TABLE found ADD COLUMN note text"), "pass")
    namespace = made(
        'from sqlalchemy import *\nM = MetaData()\nTable("found", M, Column("id", Integer, '
        'primary_key=True), Column("note", Text), Column("extra", Text))\n',
        {"001_first": Script(), "002_needs": needs},
        to="+1",
    )
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE found (id int PRIMARY KEY)")
    go(upgrade, namespace)

    changes = _changes(namespace, against="auto")

    assert changes.compared_with == "target"
    assert [one.text for one in changes.changes] == ["adds column found.extra, text, null"]
    assert "relation" in changes.remarks[0]
    with pytest.raises(SettingsError, match="cannot build a scratch database"):
        go(author, namespace, against="revisions")
    assert go(author, namespace, message="add_found_extra").outcome == "succeeded"


def test_what_only_this_database_has_does_not_come_into_the_revision(
    made: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = made(MORE_COLUMNS)
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE INDEX by_hand ON people (age)")

    told = _told(namespace, against="revisions")

    assert told == ["adds column people.zone, text, not null, default 'UTC'"]
    assert "drops index by_hand of people" in _told(namespace, against="target")


def test_a_database_too_large_is_not_copied_and_that_is_said(
    made: Callable[..., Namespace],
) -> None:
    namespace = made(MORE_COLUMNS)

    run = go(author, namespace, message="add_people_zone", test_up_to="1kB", before="place_files")

    assert "more than the 1 kB of test_up_to" in run.require("tried", Tried).reason


def test_a_step_refuses_where_an_earlier_one_was_left_out(
    made: Callable[..., Namespace],
) -> None:
    namespace = made(MORE_COLUMNS)

    with pytest.raises(GuardRefused, match="'tried' has not been taken"):
        go(author, namespace, message="add_people_zone", leave_out="test_draft")

    assert _files(namespace) == {"versions/001_base.py"}


def test_env_pys_own_directives_are_respected(made: Callable[..., Namespace]) -> None:
    number = "def number(context, revision, scripts):\n    scripts[0].message = 'By env.py'\n"
    namespace = made(
        MORE_COLUMNS + number, settings=f"{SETTINGS}, process_revision_directives=number"
    )

    run = go(author, namespace, message="add_people_zone", before="show_sql")

    draft = run.require("compared", Compared).draft
    assert isinstance(draft, Draft)
    assert "By env.py" in draft.files[0].text


def test_directives_that_leave_out_an_empty_revision_are_no_error(
    made: Callable[..., Namespace],
) -> None:
    empty = "def drop(context, revision, scripts):\n    scripts[:] = []\n"
    namespace = made(PEOPLE + empty, settings=f"{SETTINGS}, process_revision_directives=drop")

    outcome = go(author, namespace, message="add_people_zone")

    assert "No file was written" in outcome.summary
