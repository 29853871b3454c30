"""Client tools: which are chosen, how they fail, and that no password reaches their arguments."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from playbook import dump
from playbook.compression import parse_compression
from playbook.database import connect, fetch_value
from playbook.dump import (
    ClientTools,
    choose_compression,
    dump_database,
    dump_schema,
    find_client_tools,
    has_compression,
    load_sql,
    read_archive,
    read_row_texts,
    restore_archive,
)
from playbook.errors import BackupFailed, SettingsError
from playbook.row_texts import END
from playbook.targets import Target, load_target
from playbook.zstd_feeder import SMALL_BYTES
from playbook.zstd_files import Compressor
from playbook.zstd_frames import plain_chunks
from servers import PASSWORD, PrivateServer
from steps import picture, run_sql


@pytest.mark.parametrize("major", [13, 15, 16, 17, 18])
def test_tools_nearest_to_the_server_and_not_older_are_chosen(major: int) -> None:
    tools = find_client_tools(major * 10000 + 3)

    assert tools.major >= major
    assert tools.version.split(".")[0] == str(tools.major)
    assert os.access(tools.path("psql"), os.X_OK)
    if major in (16, 18):
        assert tools.major == major


def test_server_newer_than_every_tool_is_refused_with_both_versions() -> None:
    with pytest.raises(BackupFailed) as caught:
        find_client_tools(990001)

    assert str(caught.value).startswith(
        "The server is PostgreSQL 99, and the newest pg_dump here is 18."
    )
    assert "Nothing was changed." in str(caught.value)


def test_pg_dump_that_does_not_run_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pg_dump", "pg_restore"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    assert find_client_tools(180000).directory != tmp_path


@pytest.mark.parametrize(
    ("text", "meaning"),
    [("auto", "zstd:1"), ("none", "none"), ("gzip", "gzip:6"), ("gzip:9", "gzip:9"),
     ("zstd", "zstd:1"), ("zstd:-5", "zstd:-5"), ("zstd:19", "zstd:19")],
)  # fmt: skip
def test_compression_that_a_parameter_means(text: str, meaning: str) -> None:
    assert str(choose_compression(parse_compression(text), find_client_tools(180000))) == meaning


@pytest.mark.parametrize("text", ["", "zstd:20", "zstd:x", "gzip:0", "gzip:10", "lz4:3", "9"])
def test_unknown_compression_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(SettingsError, match="auto, zstd:LEVEL .*, lz4, gzip:LEVEL .* or none"):
        parse_compression(text)


def test_lz4_is_refused_in_a_sentence_where_the_client_has_none(tmp_path: Path) -> None:
    (tmp_path / "pg_dump").write_text(
        "#!/bin/sh\necho pg_dump: error: this build does not support compression with LZ4 >&2\n"
        "exit 1\n"
    )
    (tmp_path / "pg_dump").chmod(0o755)

    with pytest.raises(BackupFailed, match=r"pg_dump 18\.4 at hand was built without lz4"):
        choose_compression(parse_compression("lz4"), ClientTools(tmp_path, 18, "18.4"))


@pytest.mark.parametrize("major", [15, 16, 18])
def test_client_is_asked_what_it_was_built_with(major: int) -> None:
    tools = find_client_tools(major * 10000)
    help_text = subprocess.run(
        [tools.path("pg_dump"), "--compress=zstd:1", "-Fc", "-d", "host=/nonexistent"],
        capture_output=True, text=True, check=False,
    ).stderr  # fmt: skip

    assert has_compression(tools, "gzip")
    assert has_compression(tools, "zstd") == ("compress" not in help_text)


@pytest.mark.parametrize("open_one", ["1.dat", "2.dat"])
def test_file_that_is_still_written_is_not_taken_for_complete(
    tmp_path: Path, open_one: str
) -> None:
    """Of two made within one tick of the kernel's clock nobody knows which one is open."""
    for name in ("1.dat", "2.dat"):
        (tmp_path / name).write_bytes(b"begun" + (b"" if name == open_one else END))
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    compressor = Compressor(tmp_path, level=1, writers=1)
    with (tmp_path / open_one).open("ab") as still_open:
        compressor.look()
        time.sleep(0.1)

        still_open.write(b" and ended" + END)
    compressor.finish()
    compressor.stop()

    found = b"".join(plain_chunks(tmp_path / f"{open_one}.zst"))
    assert found == b"begun and ended" + END
    assert compressor.texts[open_one].rows == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.dat.zst", "2.dat.zst"]


REFUSES_PIPES = """#!/bin/sh
for folder; do :; done
case "$*" in *--dbname=*) folder=$(echo "$*" | tr ' ' '\\n' | grep playbook-restore) ;; esac
if [ -n "$(find "$folder" -type p -o -type l)" ]; then
    echo "pg_restore: error: \\"$folder/1.dat\\" is not a regular file" >&2; exit 1
fi
exec "{}" "$@"
"""


def test_pg_restore_that_takes_no_pipes_gets_plain_files(
    legacy_database: Target, fresh_database: Target, tmp_path: Path
) -> None:
    """As pg_restore 17.12 does, which sees that every file is a regular one."""
    tools = find_client_tools(180000)
    run_sql(legacy_database, LARGE)
    dump_database(legacy_database, tmp_path / "d", tools=tools, jobs=1,
                  compression=parse_compression("zstd"))  # fmt: skip
    (tmp_path / "pg_restore").write_text(REFUSES_PIPES.format(tools.path("pg_restore")))
    (tmp_path / "pg_restore").chmod(0o755)
    (tmp_path / "pg_dump").symlink_to(tools.path("pg_dump"))
    strict = ClientTools(tmp_path, tools.major, tools.version)
    assert any(f.stat().st_size >= SMALL_BYTES for f in (tmp_path / "d").glob("*.zst"))

    restore_archive(tmp_path / "d", fresh_database, tools=strict, jobs=2)

    assert picture(fresh_database) == picture(legacy_database)


@pytest.mark.parametrize("compression", ["zstd:1", "gzip:1", "none"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_dump_is_restored_into_another_database(
    legacy_database: Target, fresh_database: Target, tmp_path: Path, compression: str, jobs: int
) -> None:
    tools = find_client_tools(180000)

    dump_database(
        legacy_database, tmp_path / "d", tools=tools, jobs=jobs,
        compression=parse_compression(compression),
    )  # fmt: skip
    read_archive(tmp_path / "d", tools=tools)
    restore_archive(tmp_path / "d", fresh_database, tools=tools, jobs=2)

    assert picture(fresh_database) == picture(legacy_database)
    packed = compression.startswith("zstd")
    assert all(packed == (path.suffix == ".zst") for path in (tmp_path / "d").glob("[0-9]*"))


def test_zstd_dump_is_restored_by_public_tools_alone(
    legacy_database: Target, fresh_database: Target, tmp_path: Path
) -> None:
    tools = find_client_tools(180000)
    dump_database(
        legacy_database, tmp_path / "d", tools=tools, jobs=2,
        compression=parse_compression("zstd:1"),
    )  # fmt: skip
    if not shutil.which("zstd"):
        pytest.skip("there is no zstd here")

    subprocess.run(["sh", "-c", "zstd -q -d d/*.zst"], cwd=tmp_path, check=True)
    subprocess.run(
        [tools.path("pg_restore"), "--exit-on-error", "--dbname", fresh_database.database, "d"],
        cwd=tmp_path, check=True, env=os.environ | fresh_database.libpq_variables(),
    )  # fmt: skip

    assert picture(fresh_database) == picture(legacy_database)


def test_failing_pg_restore_leaves_no_thread_and_no_folder_behind(
    fresh_database: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with connect(fresh_database) as connection:
        connection.cursor().execute(
            "CREATE TABLE big AS SELECT n, md5(n::text) AS x FROM generate_series(1, 50000) AS n;"
            "CREATE TABLE large AS SELECT * FROM big"
        )
    tools = find_client_tools(180000)
    dump_database(
        fresh_database, tmp_path / "d", tools=tools, jobs=2, compression=parse_compression("zstd")
    )
    before = threading.active_count()

    with pytest.raises(BackupFailed, match='relation "big" already exists'):
        restore_archive(tmp_path / "d", fresh_database, tools=tools, jobs=2)

    assert threading.active_count() == before
    assert list((tmp_path / "temporary").iterdir()) == []


def test_damaged_file_is_never_restored_as_if_it_were_whole(
    fresh_database: Target, tmp_path: Path
) -> None:
    with connect(fresh_database) as connection:
        connection.cursor().execute(
            "CREATE TABLE big AS SELECT md5(n::text) AS x FROM generate_series(1, 50000) AS n"
        )
    tools = find_client_tools(180000)
    dump_database(
        fresh_database, tmp_path / "d", tools=tools, jobs=1, compression=parse_compression("zstd")
    )
    with connect(fresh_database) as connection:
        connection.cursor().execute("DROP TABLE big")
    path = next((tmp_path / "d").glob("*.zst"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])

    with pytest.raises(BackupFailed, match=rf"{path.name} ends too early"):
        restore_archive(tmp_path / "d", fresh_database, tools=tools, jobs=1)


def test_failing_pg_dump_is_told_in_its_own_words(fresh_database: Target, tmp_path: Path) -> None:
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        # pg_dump -v names every table: the word must not be taken for the failure.
        cursor.execute("CREATE TABLE error_log (x int); CREATE ROLE weak_dumper LOGIN")
    try:
        with pytest.raises(BackupFailed) as caught:
            dump_database(
                fresh_database.with_conninfo(user="weak_dumper"), tmp_path / "d",
                tools=find_client_tools(180000), jobs=1, compression=parse_compression("none"),
            )  # fmt: skip
    finally:
        with connect(fresh_database) as connection:
            connection.cursor().execute("DROP ROLE weak_dumper")

    assert str(caught.value) == (
        "pg_dump failed: query failed: ERROR: permission denied for table error_log."
    )


def test_killed_tool_is_told(fresh_database: Target, tmp_path: Path) -> None:
    (tmp_path / "pg_dump").write_text("#!/bin/sh\nkill -9 $$\n")
    (tmp_path / "pg_dump").chmod(0o755)

    with pytest.raises(BackupFailed, match="pg_dump failed: it was ended by signal 9"):
        dump_schema(fresh_database, tools=ClientTools(tmp_path, 18, "18.4"))


def test_failing_sql_leaves_nothing_of_it(fresh_database: Target) -> None:
    tools = find_client_tools(180000)

    with pytest.raises(BackupFailed, match='relation "nope" does not exist'):
        load_sql("CREATE TABLE t (); SELECT FROM nope;", fresh_database, tools=tools)

    assert "CREATE TABLE" not in dump_schema(fresh_database, tools=tools)


def test_password_is_in_the_environment_and_never_in_the_arguments(
    password_server: PrivateServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = load_target(password_server.url()).with_conninfo(password=PASSWORD)
    seen: list[list[str]] = []
    real = dump.subprocess.Popen.__init__

    def note(self: object, command: list[str], **options: object) -> None:
        seen.append([str(part) for part in command])
        real(self, command, **options)

    monkeypatch.setattr(dump.subprocess.Popen, "__init__", note)
    running: list[str] = []
    dump_database(
        target, tmp_path / "d", tools=find_client_tools(180000), jobs=1,
        compression=parse_compression("none"),
        on_progress=lambda tables, size: running.extend(
            " ".join(process.cmdline()) for process in psutil.Process().children()
        ),
    )  # fmt: skip
    dump_schema(target, tools=find_client_tools(180000))

    assert seen
    assert PASSWORD not in str(seen) + str(running)
    assert stat.S_ISDIR((tmp_path / "d").stat().st_mode)


@pytest.mark.parametrize(("compression", "nice"), [("zstd:1", dump.STEPS_BACK), ("gzip", 0)])
def test_pg_dump_steps_back_for_who_follows_it(
    fresh_database: Target, tmp_path: Path, compression: str, nice: int
) -> None:
    run_sql(fresh_database, "CREATE TABLE held (n int)")
    seen: set[int] = set()
    with connect(fresh_database, autocommit=False) as holder:
        holder.cursor().execute("LOCK TABLE held")

        def look(tables: int, size: int) -> None:
            below = psutil.Process().children(recursive=True)
            found = {process.nice() for process in below if process.name() == "pg_dump"}
            seen.update(found)
            if found:
                holder.rollback()

        dump_database(
            fresh_database, tmp_path / "d", tools=find_client_tools(180000), jobs=1,
            compression=parse_compression(compression), on_progress=look,
        )  # fmt: skip

    assert seen == {min(psutil.Process().nice() + nice, 19)}


def test_interrupt_is_all_that_is_told(
    fresh_database: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that reads pg_dump's words must not end by a traceback of its own."""
    run_sql(fresh_database, *(f"CREATE TABLE t{n} ()" for n in range(200)))
    monkeypatch.setattr(dump, "REPORT_S", 0.0)

    def interrupt(tables: int, size: int) -> None:
        if tables:
            raise KeyboardInterrupt

    for number in range(6):  # it is a matter of moments
        with pytest.raises(KeyboardInterrupt):
            dump_database(
                fresh_database, tmp_path / str(number), tools=find_client_tools(180000), jobs=1,
                compression=parse_compression("zstd:1"), on_progress=interrupt,
            )  # fmt: skip


def test_rows_that_no_folder_has_room_for_are_told_with_the_way_out(
    fresh_database: Target, small_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sql(
        fresh_database, "CREATE TABLE t AS SELECT repeat('x', 900) FROM generate_series(1, 4000)"
    )
    tools = find_client_tools(180000)
    for folder, why in (
        (small_disk("1m"), "No space left on device"),
        (Path("/nonexistent"), "No such file or directory"),
    ):
        monkeypatch.setattr(tempfile, "tempdir", str(folder))

        with pytest.raises(BackupFailed, match=f"by way of {folder}: {why}\\.") as caught:
            read_row_texts(fresh_database, tools=tools, jobs=1, encoding="UTF8")

        assert "set TMPDIR" in caught.value.remedy
        assert not folder.exists() or not list(folder.iterdir())


def test_history_of_the_playbook_need_not_be_readable_for_a_comparison(
    durable_server: PrivateServer,
) -> None:
    with durable_server.database() as name:
        durable_server.execute(
            "CREATE SCHEMA playbook", "CREATE TABLE playbook.history (n int)",
            "CREATE TABLE t AS SELECT 1 AS n", "CREATE ROLE clerk LOGIN",
            "GRANT SELECT ON t TO clerk", database=name,
        )  # fmt: skip
        clerk = load_target(durable_server.url(name)).with_conninfo(user="clerk")
        try:
            tools = find_client_tools(180000)
            (texts,) = read_row_texts(clerk, tools=tools, jobs=1, encoding="UTF8").values()
        finally:
            durable_server.execute("DROP OWNED BY clerk", "DROP ROLE clerk", database=name)

    assert texts.rows == 1


LARGE = "CREATE TABLE large AS SELECT n, md5(n::text) AS x FROM generate_series(1, 9000) AS n"
FROZEN = """
SELECT relallvisible = (SELECT count(DISTINCT (ctid::text::point)[0]) FROM large)
FROM pg_class WHERE relname = 'large'
"""
"""That each page with rows is marked as visible to all; from 16 on there are empty ones behind."""
NAMED_LIKE_A_STATEMENT = 'CREATE TABLE "COPY t  FROM stdin;\n" AS SELECT 1 AS n'
OF_AN_EXTENSION = """
SET allow_system_table_mods = on;
CREATE TABLE settings (name text);
ALTER EXTENSION plpgsql ADD TABLE settings;
UPDATE pg_extension SET extconfig = ARRAY['settings'::regclass], extcondition = ARRAY['']
WHERE extname = 'plpgsql';
INSERT INTO settings VALUES ('one')
"""


def copied(source: Target, copy: Target, folder: Path, *, major: int = 18) -> None:
    """Dump a database and restore it into another one, each by two jobs."""
    tools, zstd = find_client_tools(major * 10000), parse_compression("zstd")
    dump_database(source, folder, tools=tools, jobs=2, compression=zstd)
    restore_archive(folder, copy, tools=tools, jobs=2, extra=())


def is_frozen(target: Target) -> bool:
    with connect(target) as connection:
        connection.cursor().execute("ANALYZE large")
        return bool(fetch_value(connection, FROZEN))


def test_several_jobs_load_rows_frozen(
    legacy_database: Target, fresh_database: Target, tmp_path: Path
) -> None:
    """No page is written again for hint bits, and no vacuum has to freeze anything."""
    run_sql(legacy_database, LARGE, NAMED_LIKE_A_STATEMENT)

    copied(legacy_database, fresh_database, tmp_path / "d")

    assert picture(fresh_database) == picture(legacy_database)
    assert is_frozen(fresh_database)


def test_older_servers_load_rows_frozen(other_version: PrivateServer, tmp_path: Path) -> None:
    with other_version.database() as name, other_version.database() as copy:
        source, new = (load_target(other_version.url(each)) for each in (name, copy))
        run_sql(source, LARGE)

        copied(source, new, tmp_path / "d", major=other_version.major)

        assert is_frozen(new)


def test_table_whose_name_is_a_keyword_by_now_is_restored_on_a_newer_server(
    other_version: PrivateServer, fresh_database: Target, tmp_path: Path
) -> None:
    """A newer pg_restore quotes its name and takes its rows for some other table's."""
    tools, newer = find_client_tools(other_version.major * 10000), find_client_tools(180000)
    with other_version.database() as name:
        source = load_target(other_version.url(name))
        run_sql(source, "CREATE TABLE merge_action AS SELECT 1 AS n")
        dump_database(
            source, tmp_path / "d", tools=tools, jobs=2, compression=parse_compression("zstd")
        )

    restore_archive(tmp_path / "d", fresh_database, tools=newer, jobs=2)

    with connect(fresh_database) as connection:
        assert fetch_value(connection, "SELECT n FROM merge_action") == 1


def test_rows_of_a_table_that_an_extension_makes_are_restored(
    fresh_database: Target, legacy_database: Target, tmp_path: Path
) -> None:
    """Such a table is not emptied first, so that its rows cannot be loaded frozen."""
    run_sql(legacy_database, OF_AN_EXTENSION)
    run_sql(fresh_database, "CREATE TABLE settings (name text)")

    copied(legacy_database, fresh_database, tmp_path / "d")

    with connect(fresh_database) as connection:
        assert fetch_value(connection, "SELECT array_agg(name) FROM settings") == ["one"]
