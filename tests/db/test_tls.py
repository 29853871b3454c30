"""A server behind TLS that checks certificates, and is checked: by URL, service and environment."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builders import SECOND, TABLE, Project
from playbook import backup, dump, preview, rollback, upgrade
from playbook.database import connect, fetch_value
from playbook.errors import BackupFailed, CannotConnect
from playbook.postgres_files import client_directory, server_account
from playbook.targets import load_target
from servers import PrivateServer, private_server
from session import SESSION_FOLDER
from steps import go

CERTIFICATES = """
req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=own-ca
    -keyout ca.key -out ca.crt
req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=another-ca
    -keyout other.key -out other.crt
req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost
    -addext subjectAltName=DNS:localhost -keyout server.key -out server.csr
x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -copy_extensions copy
    -out server.crt
req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=postgres
    -keyout client.key -out client.csr
x509 -req -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out client.crt
"""
DEBIAN = Path("/usr/lib/postgresql/15/bin")
HBA = "hostssl all postgres 127.0.0.1/32 cert\n"


@dataclass(frozen=True)
class Guarded:
    """A server that lets in by certificate alone, and the folder of all keys."""

    server: PrivateServer
    keys: Path

    def url(self, name: str, host: str = "localhost", **files: str) -> str:
        named = {"sslrootcert": "ca.crt", "sslcert": "client.crt", "sslkey": "client.key"} | files
        query = "".join(f"&{key}={self.keys / file}" for key, file in named.items() if file)
        port = self.server.port
        return f"postgresql://postgres@{host}:{port}/{name}?sslmode=verify-full{query}"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl to make certificates with")
    if not (DEBIAN / "postgres").exists():  # the wheel's server and clients have no TLS
        pytest.skip(f"PostgreSQL 15 is not installed in {DEBIAN}")
    keys = Path(tempfile.mkdtemp(prefix="keys-", dir=SESSION_FOLDER))
    for command in CERTIFICATES.replace("\n    ", " ").split("\n"):
        if command:
            subprocess.run(["openssl", *command.split()], cwd=keys, check=True, capture_output=True)
    with private_server(15, DEBIAN, SESSION_FOLDER) as server:
        for name in ("ca.crt", "server.crt", "server.key"):
            copy = server.data / name
            shutil.copyfile(keys / name, copy)
            copy.chmod(0o600)
            server_account().own(copy)
        server.execute("ALTER SYSTEM SET ssl_ca_file = 'ca.crt'", "ALTER SYSTEM SET ssl = on",
                       "CREATE DATABASE app")  # fmt: skip
        server.execute("SELECT pg_reload_conf()")
        (server.data / "pg_hba.conf").write_text("local all all trust\n" + HBA)
        server.stop()
        server.start()
        yield Guarded(server, keys)


def test_round_through_tls_by_url_with_a_client_certificate(
    guarded: Guarded, staging: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = staging({"a1": TABLE, "b2": SECOND})
    monkeypatch.setenv("APP", guarded.url("app"))
    namespace = {"database": "env:APP", "alembic_ini": str(project.ini)}

    go(upgrade, namespace)
    go(backup, namespace, jobs=2, verify="restore")
    go(preview, namespace, target="-1", method="observed")

    assert go(rollback, namespace, target="base").outcome == "succeeded"


def test_service_file_and_environment_serve_the_same_in_every_process(
    guarded: Guarded, staging: Callable[..., Project], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    project = staging({"a1": TABLE})
    (tmp_path / "services").write_text(
        f"[app]\nhost=localhost\nport={guarded.server.port}\nuser=postgres\ndbname=app\n"
        f"sslmode=verify-full\nsslrootcert={guarded.keys}/ca.crt\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGSSLCERT", str(guarded.keys / "client.crt"))
    monkeypatch.setenv("PGSSLKEY", str(guarded.keys / "client.key"))
    namespace = {"database": "service:app", "alembic_ini": str(project.ini)}

    go(upgrade, namespace)
    go(backup, namespace)

    assert go(rollback, namespace, target="base").outcome == "succeeded"


def test_relative_file_is_the_project_s_wherever_a_process_runs(
    guarded: Guarded, staging: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = guarded.url("app").replace(f"{guarded.keys}/", "keys/")
    project = staging({"a1": TABLE}, sections=f"[playbook:tls]\nurl = {url}\n")
    shutil.copytree(guarded.keys, project.folder / "keys")
    monkeypatch.chdir("/")

    namespace = {"database": "tls", "alembic_ini": str(project.ini)}
    go(upgrade, namespace)

    assert go(rollback, namespace, target="base").outcome == "succeeded"


@pytest.mark.parametrize(
    ("change", "said", "remedy"),
    [
        ({"sslrootcert": "other.crt"}, "certificate verify failed", "Correct sslrootcert"),
        ({"sslrootcert": "none.crt"}, "root certificate file", "Correct sslrootcert"),
        ({"host": "127.0.0.1"}, "does not match host name", "or the host's name"),
        ({"sslcert": "", "sslkey": ""}, "valid client certificate", "Correct sslcert and sslkey"),
        ({"sslcert": "none.crt"}, "certificate", "Correct sslcert and sslkey"),
        ({"sslcert": "other.crt", "sslkey": "other.key"}, "", "Correct sslcert and sslkey"),
    ],
)
def test_wrong_certificate_or_host_is_one_sentence_with_its_remedy(
    guarded: Guarded, change: dict[str, str], said: str, remedy: str
) -> None:
    with pytest.raises(CannotConnect) as caught, connect(load_target(guarded.url("app", **change))):
        pass

    text = str(caught.value)
    assert said in text
    assert remedy in text
    assert "\n" not in text


def test_server_without_tls_is_told(password_server: PrivateServer) -> None:
    target = load_target(f"{password_server.url()}?sslmode=require")
    with pytest.raises(CannotConnect, match="does not support SSL.* Turn TLS on"), connect(target):
        pass


def test_client_without_tls_is_not_taken_for_an_encrypted_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would refuse sslmode, or dump in the clear where that may be."""
    monkeypatch.setattr(dump, "_tool_folders", lambda: [client_directory(18)])
    assert dump.find_client_tools(180000).major == 18

    with pytest.raises(BackupFailed, match=r"by TLS, and the pg_dump 18\S+ at hand was built with"):
        dump.find_client_tools(180000, encrypted=True)


def test_session_is_encrypted(guarded: Guarded) -> None:
    with connect(load_target(guarded.url("app"))) as connection:
        query = "SELECT ssl AND client_dn = '/CN=postgres' FROM pg_stat_ssl"
        assert fetch_value(connection, f"{query} WHERE pid = pg_backend_pid()")
