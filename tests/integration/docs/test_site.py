"""The documentation site: it builds without a broken link, asks no other host, and can be read in both schemes."""

import functools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.integration.dashboards.playwright_page import SCHEMES, WIDTHS, a_visitor, needs_chromium

pytest.importorskip("material", reason="the extra docs is not installed")

ROOT = Path(__file__).parents[3]
PAGES = ("/", "/quickstart/", "/concepts/guarantee/", "/reference/commands/", "/runbooks/StillroomErrors/")
SCHEME = {"light": "default", "dark": "slate"}
THEMES_OWN = {"aria-dialog-name", "scrollable-region-focusable"}
"""What axe finds of the theme's own search box and of the boxes that it puts around tables."""
LINK = re.compile(r"\]\(([^)\s]+)\)")


def build(config: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(target)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    built = build(ROOT / "mkdocs.yml", target)
    assert built.returncode == 0, built.stderr
    return target


def test_a_page_that_no_menu_has_and_a_link_to_no_heading_fail_the_build(tmp_path: Path):
    (tmp_path / "docs").mkdir()
    settings = (ROOT / "mkdocs.yml").read_text("utf-8")
    (tmp_path / "mkdocs.yml").write_text(settings.partition("nav:\n  -")[0] + "nav: [index.md]\n")
    (tmp_path / "docs/index.md").write_text("# One\n\n[other](#there)\n\n## There\n")
    assert build(tmp_path / "mkdocs.yml", tmp_path / "whole").returncode == 0
    (tmp_path / "docs/index.md").write_text("# One\n\n[other](#nowhere)\n")
    (tmp_path / "docs/forgotten.md").write_text("# Two\n")
    failed = build(tmp_path / "mkdocs.yml", tmp_path / "torn")
    assert failed.returncode == 1
    assert "#nowhere" in failed.stderr
    assert "forgotten.md" in failed.stderr


def test_links_of_the_pages_outside_the_site_lead_to_files():
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    targets = [
        (page.name, target.partition("#")[0]) for page in pages for target in LINK.findall(page.read_text("utf-8"))
    ]
    assert [pair for pair in targets if "://" not in pair[1] and not (ROOT / pair[1]).exists()] == []


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and writes no log."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.browser
@needs_chromium[1]
def test_pages_ask_no_other_host_and_can_be_read_in_both_schemes_and_widths(url: str):
    elsewhere: list[str] = []
    with a_visitor(url) as visitor:
        page = visitor.page
        page.on("request", lambda r: r.url.startswith((url, "data:")) or elsewhere.append(r.url))
        for scheme, width in zip(SCHEMES, WIDTHS, strict=True):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 800})
            page.goto(url)
            # the theme keeps the scheme of a first visit
            page.evaluate("localStorage.clear()")
            for path in PAGES:
                page.goto(f"{url}{path}")
                page.wait_for_load_state("networkidle")
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert page.evaluate("document.body.dataset.mdColorScheme") == SCHEME[scheme]
                assert [found for found in visitor.findings() if found.partition(":")[0] not in THEMES_OWN] == [], (
                    path
                )
        page.set_viewport_size({"width": 1280, "height": 800})
        page.goto(f"{url}/")
        page.get_by_role("textbox", name="Search").click()
        page.keyboard.type("rollback")
        page.locator(".md-search-result__link[href*='commands/#stillroom-distill-rollback']").wait_for()
    assert elsewhere == []
    assert visitor.complaints == []
