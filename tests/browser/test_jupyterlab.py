"""The upgrade runbook in a real JupyterLab in headless Chromium, from top to bottom."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "notebooks"))

from harness import CHANGED, NOTEBOOKS, ROOT, PrivateProject, private_project
from playwright.sync_api import Locator, Page, expect, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
START_S = 60.0
RUN_MS = 120_000
CLICK_MS = 20_000
MODEL_TO_REVISION_S = 60.0
WIDTH, HEIGHT = 1400, 900
ABOVE_AND_BELOW = 150
SETTINGS = {
    # Cells out of sight are in the page, too, so that a picture shows the whole notebook.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
REVISIONS = ("001_add_auth_fields", "002_add_rag_tables")

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab."""

    url: str
    token: str

    def page(self, notebook: str) -> str:
        """Return the address of a notebook, in a workspace of its own."""
        return f"{self.url}/lab/workspaces/test/tree/{notebook}?token={self.token}"


@pytest.fixture
def project() -> Iterator[PrivateProject]:
    with private_project() as made:
        made.reset("legacy")
        yield made


@pytest.fixture
def lab(project: PrivateProject, tmp_path: Path) -> Iterator[Lab]:
    """A JupyterLab on loopback, with copies of the notebooks and folders of its own."""
    served = tmp_path / "notebooks"
    shutil.copytree(NOTEBOOKS, served, ignore=shutil.ignore_patterns("*.py", ".*"))
    token = secrets.token_hex(16)
    runtime = tmp_path / "runtime"
    folders = {
        "JUPYTER_RUNTIME_DIR": runtime,
        "JUPYTER_CONFIG_DIR": tmp_path / "config",
        "JUPYTER_DATA_DIR": tmp_path / "data",
        "JUPYTERLAB_SETTINGS_DIR": tmp_path / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": tmp_path / "workspaces",
        "IPYTHONDIR": tmp_path / "ipython",
    }
    for name, setting in SETTINGS.items():
        path = tmp_path / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(setting), "utf-8")
    environment = {**project.environment, **{name: str(path) for name, path in folders.items()}}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={served}", "--allow-root",
    ]  # fmt: skip
    log = tmp_path / "lab.log"
    with log.open("wb") as file:
        child = subprocess.Popen(command, env=environment, stdout=file, stderr=file, cwd=tmp_path)
    try:
        yield Lab(_served_url(child, runtime, token, log), token)
    finally:
        _end(child)


def _served_url(child: subprocess.Popen[bytes], runtime: Path, token: str, log: Path) -> str:
    """Return the server's address as soon as it answers."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and child.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            url = str(json.loads(path.read_text())["url"]).rstrip("/")
            if _answers(f"{url}/api/status?token={token}"):
                return url
        time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text('utf-8', 'replace')}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def _end(child: subprocess.Popen[bytes]) -> None:
    """End JupyterLab and the kernels that it has started."""
    processes = psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []
    child.terminate()
    try:
        child.wait(20)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    _, alive = psutil.wait_procs(processes, timeout=5)
    for process in alive:
        process.kill()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A page of headless Chromium; where there is none, the test is skipped or fails, as asked."""
    if not CHROMIUM.exists():
        missing = f"Chromium is not installed at {CHROMIUM}"
        if os.environ.get("PLAYBOOK_REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(CLICK_MS)
        try:
            yield page
        finally:
            browser.close()


@contextmanager
def _pictured(page: Page, name: str) -> Iterator[None]:
    """Keep a picture of the page as it is when the block ends, also when it fails."""
    folder = ROOT / "artifacts"
    folder.mkdir(exist_ok=True)
    try:
        yield
    finally:
        page.screenshot(path=folder / f"{name}.png", full_page=True)


def _wait_for_kernel(page: Page) -> None:
    """Wait until the notebook is drawn and has its kernel; before, JupyterLab asks for one."""
    expect(_code_cells(page).first).to_be_visible(timeout=RUN_MS)
    expect(page.locator(".jp-OutputArea-output").first).to_be_visible(timeout=RUN_MS)
    expect(page.locator(".jp-KernelName").first).to_contain_text("Python 3", timeout=RUN_MS)
    idle = page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']")
    expect(idle.first).to_be_visible(timeout=RUN_MS)


def _run_all(page: Page) -> None:
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def _code_cells(page: Page) -> Locator:
    return page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell")


def _show_everything(page: Page) -> None:
    """Make the window as high as the notebook and go to its top, so that all of it is drawn."""
    panel = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer")
    height = panel.evaluate("panel => panel.scrollHeight")
    page.set_viewport_size({"width": WIDTH, "height": int(height) + ABOVE_AND_BELOW})
    panel.evaluate("panel => panel.scrollTo(0, 0)")
    expect(page.locator(".jp-NotebookPanel h1").first).to_be_in_viewport()


def test_upgrade_runs_in_jupyterlab_from_top_to_bottom(lab: Lab, page: Page) -> None:
    page.goto(lab.page("upgrade.ipynb"))
    cells = _code_cells(page)
    _wait_for_kernel(page)
    page.get_by_role("menuitem", name="Edit", exact=True).click()
    page.get_by_role("menuitem", name="Clear Outputs of All Cells", exact=True).click()
    expect(page.locator(".jp-OutputArea-output")).to_have_count(0)

    with _pictured(page, "jupyterlab-upgrade"):
        _run_all(page)
        outcome = cells.last.locator(".jp-OutputArea-output")
        errors = page.locator(".jp-OutputArea [data-mime-type*='error']")
        expect(outcome.or_(errors).first).to_be_visible(timeout=RUN_MS)
        expect(errors).to_have_count(0)
        expect(outcome).to_contain_text("succeeded")
        _show_everything(page)

        banner = cells.nth(1).locator(".jp-OutputArea-output")
        expect(banner).to_contain_text("sandbox")
        expect(banner).to_contain_text("PostgreSQL")
        plan = cells.filter(has_text="plan_upgrade(run)").locator(".jp-OutputArea-output")
        for revision in REVISIONS:
            expect(plan).to_contain_text(revision)
        dots = page.locator(".jp-OutputArea-output svg")
        expect(dots).to_have_count(3)
        assert [dot.bounding_box()["width"] > 0 for dot in dots.all()] == [True] * 3
        expect(page.get_by_text("$method$...")).to_be_visible()
        expect(outcome).to_contain_text("from 000_baseline to 002_add_rag_tables")
        expect(page.locator(".jp-OutputArea [data-mime-type*='stderr']")).to_have_count(0)
        expect(page.get_by_text("Traceback")).to_have_count(0)


def test_author_makes_a_revision_of_a_changed_model_by_hand(
    lab: Lab, page: Page, project: PrivateProject
) -> None:
    project.reset(CHANGED)
    page.goto(lab.page("author.ipynb"))
    cells = _code_cells(page)
    _wait_for_kernel(page)
    began = time.monotonic()
    page.get_by_role("menuitem", name="Edit", exact=True).click()
    page.get_by_role("menuitem", name="Clear Outputs of All Cells", exact=True).click()
    expect(page.locator(".jp-OutputArea-output")).to_have_count(0)
    # As a person does: the quotes of `message` are filled in.
    cells.first.get_by_text('message: str = ""').click()
    page.keyboard.press("Home")
    for _ in range(len('message: str = "')):
        page.keyboard.press("ArrowRight")
    page.keyboard.type("Let people choose their time zone")

    with _pictured(page, "jupyterlab-author"):
        _run_all(page)
        outcome = cells.last.locator(".jp-OutputArea-output")
        errors = page.locator(".jp-OutputArea [data-mime-type*='error']")
        expect(outcome.or_(errors).first).to_be_visible(timeout=RUN_MS)
        expect(errors).to_have_count(0)
        expect(outcome).to_contain_text("003_let_people_choose_their_time was written")
        assert time.monotonic() - began < MODEL_TO_REVISION_S
        _show_everything(page)

    written = project.folder / "migrations" / "versions" / "003_let_people_choose_their_time.py"
    assert "time_zone" in written.read_text("utf-8")


def test_the_tour_is_drawn_as_it_is_stored(lab: Lab, page: Page) -> None:
    page.goto(lab.page("onboarding.ipynb"))
    expect(_code_cells(page).first).to_be_visible(timeout=RUN_MS)

    with _pictured(page, "jupyterlab-onboarding"):
        _show_everything(page)
        expect(
            page.locator(".jp-OutputArea-output").get_by_text("◀ you are here").first
        ).to_be_visible()
        chart = page.locator(".jp-OutputArea-output img").first
        expect(chart).to_be_visible()
        expect(chart).to_have_js_property("complete", True)
        assert chart.evaluate("image => image.naturalWidth") > 0
