"""From the parameter `database` to a target, and no password on the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url

from playbook.errors import SettingsError
from playbook.targets import (
    PROJECT_INI,
    Target,
    load_target,
    parse_duration_s,
    parse_size_bytes,
    read_section,
    redact,
    target_names,
)

SECRET = "hunter2"
INI = """
[DEFAULT]
root = /srv
[playbook]
lock_timeout = 3s
[playbook:sandbox]
url = sandbox
seed = app.seed
[playbook:live]
url = env:APP_URL
protected = true
[playbook:pooled]
url = service:app
python = %(here)s/venv/bin/python
[playbook:plain]
url = postgresql://me@db.example:6432/app?sslmode=require  ; the old one
[playbook:secret]
url = postgresql://me:hunter2@db/app
[playbook:empty]
[playbook:odd]
url = mysql://me:hunter2@db/app
[playbook:unsure]
url = sandbox
protected = perhaps
"""


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    path = tmp_path / "alembic.ini"
    path.write_text(INI)
    return path


def test_names_are_the_sections_of_the_file(ini: Path) -> None:
    assert target_names(ini) == [
        "empty", "live", "odd", "plain", "pooled", "sandbox", "secret", "unsure",
    ]  # fmt: skip
    assert {"sandbox", "production"} <= set(target_names(PROJECT_INI))


def test_section_overlays_the_defaults_and_no_other_section_leaks_in(ini: Path) -> None:
    assert read_section(ini, "sandbox") == {
        "lock_timeout": "3s", "url": "sandbox", "seed": "app.seed",
    }  # fmt: skip
    assert read_section(ini, "pooled")["python"] == f"{ini.parent}/venv/bin/python"


def test_section_of_a_sandbox(ini: Path) -> None:
    target = load_target("sandbox", ini)

    assert (target.kind, target.database, target.seed) == ("sandbox", "sandbox", "app.seed")
    assert target.lock_timeout == "3s"
    assert not target.protected
    assert target.project == ini.parent


def test_further_sandbox_database_has_the_sandboxs_options(ini: Path) -> None:
    target = load_target("sandbox:trial", ini)

    assert (target.database, target.seed) == ("trial", "app.seed")


def test_url_from_the_environment_keeps_its_password_for_libpq_alone(
    ini: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_URL", f"postgres://me:{SECRET}@db.example/app?sslmode=require")

    for target in (load_target("live", ini), load_target("env:APP_URL", ini)):
        assert target.conninfo["password"] == SECRET
        assert target.libpq_environment() == {"PGPASSWORD": SECRET}
        assert SECRET not in repr(target) + target.label + target.sqlalchemy_url() + target.name
        assert target.sqlalchemy_url() == "postgresql+psycopg2://me@db.example/app?sslmode=require"
    assert load_target("live", ini).protected


def test_service_leaves_everything_to_libpq(ini: Path) -> None:
    for target in (load_target("pooled", ini), load_target("service:app", ini)):
        assert target.kind == "service"
        assert dict(target.conninfo) == {"service": "app"}
        assert target.sqlalchemy_url() == "postgresql+psycopg2:///?service=app"
        assert target.label == "service 'app'"


def test_url_without_a_password_is_taken_as_it_is(ini: Path) -> None:
    target = load_target("plain", ini)

    assert target.label == "database 'app' on db.example:6432"
    assert target.conninfo["sslmode"] == "require"
    assert target.libpq_variables()["PGSSLMODE"] == "require"
    assert load_target("postgresql+psycopg2://db/app", ini).database == "app"


@pytest.mark.parametrize(
    ("database", "said"),
    [
        ("nope", "'nope' in the parameter database names no target."),
        ("", "The parameter database is empty."),
        ("empty", "[playbook:empty] of alembic.ini has no url."),
        ("env:NOT_SET", "The environment variable 'NOT_SET', which the parameter database names"),
        ("secret", "holds a password, and what holds it now is no secret"),
        (f"postgresql://me:{SECRET}@db/app", "The URL in the parameter database holds a password"),
        (f"postgresql://db/app?password={SECRET}", "holds a password"),
        (f"postgresql://me:a%2F{SECRET}@db/app", "holds a password"),
        (f"postgresql://me:a/{SECRET}@db/app", "is not one that libpq can read"),
        (f"postgresql://me:a@{SECRET}@db/app", "is not one that libpq can read"),
        (f"postgresql://me:{SECRET}@[db/app", "is not one that libpq can read"),
        (f"postgresql://me:{SECRET}@db/app?nonsense=1", "is not one that libpq can read"),
        (f"mysql://me:{SECRET}@db/app", "names no target"),
        (f"mysql://me:a/{SECRET}@db/app", "names no target"),
        (f"postgresql:/me:{SECRET}@db/app", "names no target"),
        (f"postgresql//me:{SECRET}@db/app", "names no target"),
        (f"me:{SECRET}@db/app", "names no target"),
        (f"host=db password={SECRET}", "names no target"),
        (f"host=db password='a b {SECRET}'", "names no target"),
        ("odd", "names no target"),
        ("unsure", "is 'perhaps', not a truth value"),
    ],
)
def test_refusal_is_one_sentence_without_the_secret(ini: Path, database: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_target(database, ini)

    assert said in str(caught.value)
    assert "Nothing was changed." in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    "value", [f"mysql://me:{SECRET}@db/app", f"me:{SECRET}@db", f"postgresql://a:b/{SECRET}@c/d"]
)
def test_variable_that_holds_no_url_is_refused_without_its_value(
    ini: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("APP_URL", value)

    with pytest.raises(SettingsError, match="APP_URL") as caught:
        load_target("live", ini)

    assert SECRET not in str(caught.value)


def test_option_that_the_playbook_does_not_know_is_refused(ini: Path) -> None:
    ini.write_text("[playbook:sandbox]\nurl = sandbox\nprotect = true\n")

    with pytest.raises(SettingsError, match="option 'protect' that the playbook does not know"):
        load_target("sandbox", ini)


@pytest.mark.parametrize("text", ["no section\n", "[a]\nx = 1\nx = 2\n", "[a\n", b"\xff\xfe"])
def test_file_that_is_no_ini_is_one_sentence(ini: Path, text: str | bytes) -> None:
    ini.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(SettingsError, match="cannot be read as an ini file"):
        load_target("sandbox", ini)


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="There is no readable alembic.ini at .*nope.ini"):
        load_target("sandbox", tmp_path / "nope.ini")


@pytest.mark.parametrize(
    "conninfo",
    [
        {"host": "/var/run/my db", "dbname": 'odd "name" %s/é', "user": "Me@home", "port": "6000"},
        {"host": "::1", "dbname": "app"},
        {"host": "a,b", "port": "5432", "dbname": "app"},
        {"host": "db.example", "port": "5432", "dbname": "app", "user": "me"},
        {"dbname": "app"},
    ],
)
def test_sqlalchemy_reads_back_what_libpq_was_to_get(conninfo: dict[str, str]) -> None:
    url = make_url(Target("x", "url", PROJECT_INI, conninfo).sqlalchemy_url())

    _, keywords = url.get_dialect()().create_connect_args(url)
    assert {k: str(v) for k, v in keywords.items() if v}["dbname"] == conninfo["dbname"]
    for key in ("host", "user"):
        assert str(keywords.get(key) or "") == conninfo.get(key, "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"at postgresql://me:{SECRET}@db/app now", "at postgresql://me:***@db/app now"),
        (f"postgresql://me:a/{SECRET}@b@db/app", "postgresql://me:***@db/app"),
        (f"host=db password={SECRET} user=me", "host=db password=*** user=me"),
        (f"?sslpassword={SECRET}&x=1", "?sslpassword=***&x=1"),
        (f"PASSWORD = '{SECRET} \\' {SECRET}' x", "PASSWORD = *** x"),
        ("postgresql://me@db:5432/app", "postgresql://me@db:5432/app"),
        ("2026-01-01 12:30:00 nothing to hide", "2026-01-01 12:30:00 nothing to hide"),
    ],
)
def test_passwords_are_masked_and_all_else_is_kept(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("text", "seconds"), [("2s", 2), ("500ms", 0.5), ("5min", 300), (" 1.5 h ", 5400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text, name="x") == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "2", "0s", "-1s", "2 days", "s", "1e3s", "0.0ms", "169h", "9" * 400 + "h"]
)
def test_text_that_is_no_duration_is_refused_and_zero_too(text: str) -> None:
    with pytest.raises(SettingsError, match="lock_timeout=.* is not a duration above zero"):
        parse_duration_s(text, name="lock_timeout")


@pytest.mark.parametrize(
    ("text", "size"), [("1kB", 1024), ("500MB", 500 * 1024**2), (" 1.5 GB ", 3 * 512 * 1024**2)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size_bytes(text, name="x") == size


@pytest.mark.parametrize("text", ["", "10", "0GB", "-1GB", "10 gb", "GB", "1e3MB", "5%"])
def test_text_that_is_no_size_is_refused_and_zero_too(text: str) -> None:
    with pytest.raises(SettingsError, match="sample_above=.* is not a size above zero"):
        parse_size_bytes(text, name="sample_above")
