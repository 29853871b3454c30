"""The page on one's own project: its examples are files, and those files work."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import jsonschema
import papermill
import pytest
import yaml

from builders import SECOND, TABLE, Project, staging_project
from playbook.targets import load_target
from servers import PrivateServer

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "adopting.md"
EXAMPLES = ROOT / "docs" / "examples"
NOTEBOOKS = ROOT / "notebooks"
SCHEMA = Path(__file__).with_name("kubernetes.schema.json")
PROGRAMS = Path(sys.executable).parent
OPERATOR = {
    "input_nb", "output_nb", "parameters", "kernel_name", "language_name", "kernel_conn_id",
    "log_output", "nbconvert", "nbconvert_args",
}  # fmt: skip
"""PapermillOperator's own arguments in apache-airflow-providers-papermill 3.13.3."""
EVERY_OPERATOR = {"task_id", "retries", "retry_delay", "execution_timeout"}
"""Arguments of Airflow's BaseOperator that the example uses."""


def included() -> dict[str, str]:
    """Return the text that the page shows of each example."""
    found = re.finditer(
        r"\(examples/([\w.-]+)\):\n\n```\w+\n(.*?)\n```", PAGE.read_text("utf-8"), re.DOTALL
    )
    return {match[1]: match[2] for match in found}


def test_page_includes_every_example_word_by_word() -> None:
    texts = {path.name: path.read_text("utf-8").rstrip() for path in EXAMPLES.iterdir()}

    assert included() == texts


def test_workflow_for_github_is_valid_by_its_schema() -> None:
    check_schema("vendor.github-workflows", EXAMPLES / "github-actions.yml")


def test_pipeline_for_gitlab_is_valid_by_its_schema() -> None:
    check_schema("vendor.gitlab-ci", EXAMPLES / "gitlab-ci.yml", "--data-transform", "gitlab-ci")


def check_schema(schema: str, path: Path, *options: str) -> None:
    """Check a file by a schema that check-jsonschema brings with it."""
    command = [PROGRAMS / "check-jsonschema", "--builtin-schema", schema, *options]
    done = subprocess.run([*command, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_manifest_for_kubernetes_is_valid_by_its_schema() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))
    documents = list(yaml.safe_load_all((EXAMPLES / "kubernetes-job.yaml").read_text("utf-8")))

    assert [list(validator.iter_errors(document)) for document in documents] == [[], []]
    documents[1]["spec"]["template"]["spec"]["restartpolicy"] = "Never"
    assert not validator.is_valid(documents[1])


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield the words of every papermill command of the examples."""
    for name in ("first-status.sh", "nightly.sh"):
        yield name, (EXAMPLES / name).read_text("utf-8").replace("\\\n", " ").splitlines()
    github = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text("utf-8"))
    for job, content in github["jobs"].items():
        runs = "\n".join(step.get("run", "") for step in content["steps"])
        yield f"github {job}", runs.replace("\\\n", " ").splitlines()
    gitlab = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text("utf-8"))
    for job in ("preview", "upgrade"):
        yield f"gitlab {job}", gitlab[job]["script"]
    (_, job) = yaml.safe_load_all((EXAMPLES / "kubernetes-job.yaml").read_text("utf-8"))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    yield "kubernetes", [shlex.join([*container["command"], *container["args"]])]


@pytest.mark.parametrize(("name", "lines"), [pytest.param(*one, id=one[0]) for one in commands()])
def test_each_papermill_command_gives_parameters_that_its_notebook_declares(
    name: str, lines: list[str]
) -> None:
    line = next(line for line in lines if re.search(r"papermill\"? ", line) and line[0] != "#")
    words = shlex.split(line)
    notebook = next(word for word in words if "/notebooks/" in f"/{word}")
    given = {words[i + 1] for i, word in enumerate(words) if word == "-r"}

    declared = papermill.inspect_notebook(str(NOTEBOOKS / Path(notebook).name))

    assert {"alembic_ini", "database"} <= given <= set(declared)


@pytest.fixture
def foreign(tmp_path: Path) -> Project:
    """A small project of somebody else's, whose alembic.ini knows nothing of the playbook."""
    project = staging_project(tmp_path / "shop", {"a1": TABLE, "b2": SECOND})
    own = project.ini.read_text("utf-8").partition("[playbook]")[0]
    project.ini.write_text(own, "utf-8")
    return project


def test_first_five_minutes_end_with_the_status_of_a_foreign_database(
    password_server: PrivateServer, foreign: Project, tmp_path: Path
) -> None:
    checkout = tmp_path / "migration-playbook"
    checkout.mkdir()
    (checkout / "notebooks").symlink_to(NOTEBOOKS)
    with password_server.database() as database:
        password_server.execute(
            *_role(password_server.password), "CREATE TABLE a (id int PRIMARY KEY)",
            "CREATE TABLE alembic_version (version_num text)",
            "INSERT INTO alembic_version VALUES ('a1')", database=database,
        )  # fmt: skip
        secret = tmp_path / "pgpass"
        secret.write_text(f"127.0.0.1:*:*:reader:{password_server.password}\n", "utf-8")
        secret.chmod(0o600)
        variables = {
            "DATABASE_URL": password_server.url(database, "reader"),
            "APP": str(foreign.folder),
            "PGPASSFILE": str(secret),
            "PATH": os.pathsep.join([str(PROGRAMS), os.environ["PATH"]]),
        }
        try:
            done = subprocess.run(
                ["sh", "-e", EXAMPLES / "first-status.sh"], cwd=checkout, timeout=100,
                env=os.environ | variables, capture_output=True, text=True, check=False,
            )  # fmt: skip
        finally:
            password_server.execute("DROP ROLE reader")

    assert done.returncode == 0, done.stderr
    shown = (checkout / "status.html").read_text("utf-8")
    assert "The database is at a1, 1 revision behind head." in shown
    assert sorted(path.name for path in foreign.folder.iterdir()) == ["alembic.ini", "migrations"]


def _role(password: str) -> list[str]:
    """Return the page's statements, and the one that gives the role its password."""
    statements = (EXAMPLES / "reader.sql").read_text("utf-8").strip().rstrip(";").split(";\n")
    return [*statements, f"ALTER ROLE reader PASSWORD '{password}'"]


def test_sections_of_the_page_give_a_foreign_project_its_targets(
    foreign: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = foreign.ini.read_text("utf-8") + (EXAMPLES / "alembic.ini").read_text("utf-8")
    foreign.ini.write_text(text, "utf-8")
    monkeypatch.setenv("DATABASE_URL", "postgresql://owner@db.example.org/shop")
    monkeypatch.setenv("STAGING_DATABASE_URL", "postgresql://owner@db.example.org/staging")

    production = load_target("production", foreign.ini)
    staging = load_target("staging", foreign.ini)

    assert (production.database, production.protected) == ("shop", True)
    assert (staging.database, staging.protected) == ("staging", False)
    assert Path(production.python) == foreign.folder / ".venv/bin/python"


def test_file_of_the_playbooks_own_names_a_project_that_is_not_touched(
    foreign: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("playbook.settings")
    text = (EXAMPLES / "playbook.ini").read_text("utf-8")
    own = tmp_path / "playbook.ini"
    own.write_text(text.replace("/srv/shop", str(foreign.folder)), "utf-8")
    monkeypatch.setenv("DATABASE_URL", "postgresql://owner@db.example.org/shop")

    target = load_target("production", own)

    assert (target.database, target.protected, target.project) == ("shop", True, tmp_path)
    assert target.python == str(foreign.folder / ".venv/bin/python")


Night = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """Run the nightly script as cron does, with a papermill that ends as it is told."""
    programs = tmp_path / "playbook" / ".venv" / "bin"
    programs.mkdir(parents=True)

    def run(ends: str = "exit 0", target: str = "service:shop") -> subprocess.CompletedProcess[str]:
        program = programs / "papermill"
        program.write_text(f"#!/bin/sh\necho one line of progress\n{ends}\n", "utf-8")
        program.chmod(0o755)
        variables = {
            "PLAYBOOK": str(tmp_path / "playbook"), "ALEMBIC_INI": "/srv/shop/alembic.ini",
            "TARGET": target, "STATE": str(tmp_path / "state"), "PATH": "/usr/bin:/bin",
        }  # fmt: skip
        return subprocess.run(
            [EXAMPLES / "nightly.sh"], env={k: v for k, v in variables.items() if v},
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip

    return run


def test_good_night_prints_nothing(night: Night) -> None:
    done = night()

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_bad_night_prints_the_end_of_the_log_and_exits_as_papermill_did(night: Night) -> None:
    done = night("echo VerifyFailed; exit 143")

    assert done.returncode == 143
    assert "verify of service:shop failed (exit code 143)" in done.stdout
    assert "VerifyFailed" in done.stdout


def test_second_night_says_that_the_first_is_still_at_work(night: Night, tmp_path: Path) -> None:
    if not shutil.which("flock"):
        pytest.skip("flock is not installed")
    (tmp_path / "state").mkdir()
    held = subprocess.Popen(
        ["flock", tmp_path / "state" / "lock", "sh", "-c", "echo held; read line"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert held.stdout is not None
    held.stdout.readline()

    done = night()
    held.communicate("go\n")

    assert done.returncode == 75
    assert done.stdout == "verify of service:shop is still running since the last time\n"


def test_night_without_a_setting_says_which(night: Night) -> None:
    done = night(target="")

    assert done.returncode != 0
    assert "TARGET" in done.stderr


def test_crontab_sets_what_the_nightly_script_asks_for() -> None:
    *settings, entry = (EXAMPLES / "crontab").read_text("utf-8").splitlines()
    asked = re.findall(r'"\$\{(\w+):\?', (EXAMPLES / "nightly.sh").read_text("utf-8"))

    assert set(asked) <= {line.partition("=")[0] for line in settings}
    assert re.fullmatch(r"[\d*]+( [\d*]+){4} \S*/docs/examples/nightly\.sh", entry)


class Operator:
    """Takes what PapermillOperator 3.13.3 takes, and nothing else."""

    made: list[dict[str, object]] = []

    def __init__(self, **arguments: object) -> None:
        assert set(arguments) <= OPERATOR | EVERY_OPERATOR
        self.made.append(arguments)


class Dag:
    """A block of tasks, with the arguments of Airflow's DAG that the example uses."""

    def __init__(self, dag_id: str, **arguments: object) -> None:
        names = {"start_date", "schedule", "catchup", "max_active_runs", "params"}
        assert set(arguments) <= names

    def __enter__(self) -> Dag:
        return self

    def __exit__(self, *error: object) -> None:
        return None


def test_dags_for_airflow_give_the_operator_what_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = "airflow.providers.papermill.operators.papermill"
    monkeypatch.setattr(Operator, "made", [])
    for name, content in (("airflow", {"DAG": Dag}), (place, {"PapermillOperator": Operator})):
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    text = (EXAMPLES / "airflow_dag.py").read_text("utf-8")
    ast.parse(text)

    exec(compile(text, "airflow_dag.py", "exec"), {})

    assert [task["task_id"] for task in Operator.made] == ["upgrade", "verify"]
    for task in Operator.made:
        notebook = NOTEBOOKS / Path(str(task["input_nb"])).name
        parameters = task["parameters"]
        assert isinstance(parameters, dict)
        assert set(parameters) <= set(papermill.inspect_notebook(str(notebook)))
        assert "{{ ts_nodash }}" in str(task["output_nb"])


def test_links_and_commands_of_the_page_lead_to_what_is_there() -> None:
    text = PAGE.read_text("utf-8")

    for link in re.findall(r"\]\(([^):#]+)\)", text):
        assert (PAGE.parent / link).exists(), link
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake (?:-C \S+ )?(\w+)", text)) & {"setup"} <= targets
