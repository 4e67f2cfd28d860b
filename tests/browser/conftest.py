"""The running Space and a headless Chromium of the system. Screenshots go to out/screenshots: for people, and CI artefacts."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from space_server import REPOSITORY, SpaceServer


SCREENSHOTS = REPOSITORY / "out" / "screenshots"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# No sandbox: CI runs as root. The rest keeps the browser from asking the network for things of its own.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = next((path for name in NAMES if (path := shutil.which(name))), None)
    if executable is None:
        message = "no Chromium on this machine: make test-browser installs it, or says how"
        if os.environ.get("SCISSORHANDS_NEED_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpaceServer]:
    server = SpaceServer(tmp_path_factory.mktemp("space"))
    yield server
    server.close()


class Visitor:
    """A browser window of its own on the Space. ``problems``: errors on its console, and what it asked of other hosts."""

    def __init__(self, browser: Browser, url: str, viewport: dict[str, int] = DESKTOP, colours: str = "light"):
        self.url = url
        self.context = browser.new_context(viewport=viewport, color_scheme=colours, accept_downloads=True)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.problems: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self._look_at(request.url))
        self.page.goto(url)
        self.page.wait_for_selector("#erase-button")

    def _look_at(self, address: str) -> None:
        if not address.startswith((self.url, "data:", "blob:")):
            self.problems.append(f"asked {address}")

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def wait_text(self, selector: str, text: str, seconds: float = 30) -> str:
        """Wait until the element has the text; all of its text."""
        element = self.page.locator(selector).filter(has_text=text)
        element.wait_for(timeout=1000 * seconds)
        return element.inner_text()

    def screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.wait_for_timeout(400)  # fades and transitions
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@pytest.fixture
def visit(browser: Browser, server: SpaceServer) -> Iterator:
    """Opens further windows; all are closed, and none may have had a problem."""
    visitors: list[Visitor] = []

    def open_one(**options) -> Visitor:
        visitors.append(Visitor(browser, server.url, **options))
        return visitors[-1]

    yield open_one
    problems = [problem for visitor in visitors for problem in visitor.problems]
    for visitor in visitors:
        visitor.context.close()
    assert not problems
