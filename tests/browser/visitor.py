"""A browser window on the Space, as a visitor has it."""

import os

from playwright.sync_api import Browser, Page
from space_server import REPOSITORY


SCREENSHOTS = REPOSITORY / "out" / "screenshots"
# On a machine that is busy with other things: how many times longer than usual everything may take.
PATIENCE = float(os.environ.get("SCISSORHANDS_PATIENCE", "1"))
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


class Visitor:
    """A browser window of its own on the Space. ``problems``: errors on its console, and what it asked of other hosts."""

    def __init__(self, browser: Browser, url: str, viewport: dict[str, int] = DESKTOP, colours: str = "light"):
        self.url = url
        self.context = browser.new_context(viewport=viewport, color_scheme=colours, accept_downloads=True)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(30_000 * PATIENCE)
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
        element.wait_for(timeout=1000 * seconds * PATIENCE)
        return element.inner_text()

    def screenshot(self, name: str, height: int | None = None) -> None:
        """Of the whole page, or of its first ``height`` pixels."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.wait_for_timeout(400)  # fades and transitions
        clip = None if height is None else {"x": 0, "y": 0, "width": self.page.viewport_size["width"], "height": height}
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True, clip=clip)
