"""The ops pages in a real Chromium: each visit is checked for errors, accessibility and width, and kept as a picture
in ``var/screenshots``.
"""

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import ConsoleMessage, Page, sync_playwright

ROOT = Path(__file__).parents[3]
CHROMIUM = shutil.which("chromium")
AXE = ROOT / "dashboards/web/node_modules/axe-core/axe.min.js"
SCREENSHOTS = ROOT / "var/screenshots"
SCHEMES = ("light", "dark")
WIDTHS = (1280, 360)
MOST_TABS = 200

needs_chromium = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on PATH"),
]
"""For ``pytestmark``."""


class Visitor:
    """One browser window on a served gateway. ``complaints`` are the errors that the page and its policy raised."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.complaints: list[str] = []
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def log_in(self, secret: str, path: str = "/ops") -> None:
        """By the form, as a person does; ends on the page of ``path``."""
        self.page.goto(f"{self.url}{path}")
        self.page.get_by_label("API key").fill(secret)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_load_state()

    def visit(self, path: str, scheme: str = "light", width: int = 1280) -> Page:
        """Load a page and check it: nothing raised, nothing serious for axe, nothing wider than the window."""
        self.page.emulate_media(color_scheme=scheme)
        self.page.set_viewport_size({"width": width, "height": 800})
        answer = self.page.goto(f"{self.url}{path}")
        assert answer is not None
        assert answer.status == 200, answer.status
        self.check(f"{path}-{scheme}-{width}")
        return self.page

    def check(self, name: str) -> None:
        """What `visit` checks, of the page as it is now, after a click for one. The name is the picture's."""
        self.page.wait_for_load_state("networkidle")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        file = re.sub(r"[^\w.]+", "-", name).strip("-")
        self.page.screenshot(path=SCREENSHOTS / f"{file}.png", full_page=True)
        width = self.page.viewport_size["width"]
        assert self.page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} scrolls sideways"
        assert self.findings() == []
        assert self.complaints == []

    def findings(self) -> list[str]:
        """Serious and critical findings of axe-core, each with where it is."""
        if not AXE.is_file():
            pytest.skip("axe-core is not installed: npm ci in dashboards/web")
        # as a script element the page's policy would refuse it
        self.page.evaluate(f"{AXE.read_text('utf-8')}; undefined")
        violations: list[dict[str, Any]] = self.page.evaluate("axe.run().then((found) => found.violations)")
        return [
            f"{found['id']}: {', '.join(str(node['target']) for node in found['nodes'])}"
            for found in violations
            if found["impact"] in ("serious", "critical")
        ]

    def reached_by_tab(self) -> list[str]:
        """The selectors' names of what Tab comes to from the page's start, in order: see `REACHED`."""
        self.page.evaluate("document.activeElement.blur()")
        reached: list[str] = []
        for _ in range(MOST_TABS):
            self.page.keyboard.press("Tab")
            name = self.page.evaluate(REACHED)
            if name == "end":
                break
            if name and name not in reached:
                reached.append(name)
        return reached

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


REACHED = """(() => {
  const at = document.activeElement;
  if (at === document.body) return "end";
  if (getComputedStyle(at).outlineStyle === "none") return "no visible focus on " + at.outerHTML.slice(0, 80);
  const places = [["skip", ".skip"], ["nav", "nav"], ["filters", "form.filters"], ["table", ".scroll"]];
  for (const [name, selector] of places)
    if (at.closest(selector)) return name;
  return "";
})()"""


@contextlib.contextmanager
def a_visitor(url: str) -> Iterator[Visitor]:
    """Start Chromium without a window; it is gone at the end.

    For one test at a time: the sync API keeps an event loop running, which tests of coroutines do not bear.
    """
    with sync_playwright() as playwright:
        # as root, in containers, there is no sandbox; the pages are our own
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        try:
            yield Visitor(browser.new_page(), url)
        finally:
            browser.close()
