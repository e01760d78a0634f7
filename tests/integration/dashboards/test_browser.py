"""``/ops`` in a real browser: in both colour schemes, on a wide and on a narrow screen."""

import base64
import shutil

import pytest

from ledger import jobs, releases
from ledger.records import NANO
from ledger.releases import Release
from ledger.requests import insert_records
from ledger.store import now_ms
from tests.integration.dashboards.browser import a_browser
from tests.unit.ledger.rows import row

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on PATH")]


@pytest.fixture
def busy(served):
    records = [
        row(f"r{i}", created_at=now_ms(), route=route, reason=reason, cost_nano=3 * NANO, baseline_nano=9 * NANO)
        for i, (route, reason) in enumerate([("student", "confident"), ("teacher", "low_confidence")])
    ]
    insert_records(served.store, records)
    summary = {"student_agreement_ci": [0.91, 0.97], "held_out": 240}
    releases.add(served.store, Release("r20261124-7b49d8", "candidate", 1, None, None, None, "/r", "0", summary))
    job = jobs.create(served.store, "manual", "test", {})
    jobs.claim(served.store, "w")
    jobs.set_state(served.store, job.id, "w", "failed", error="a cause with many words " * 10)
    return served


def test_the_page_is_sound_in_both_colour_schemes_and_on_a_phone(busy, tmp_path):
    credentials = base64.b64encode(f"ops:{busy.secrets['read']}".encode()).decode()
    with a_browser(CHROMIUM, tmp_path / "profile") as browser:
        browser.ask("Network.setExtraHTTPHeaders", headers={"Authorization": f"Basic {credentials}"})
        for scheme, ink in (("light", "rgb(0, 0, 0)"), ("dark", "rgb(255, 255, 255)")):
            browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            for width in (1280, 360):
                browser.ask(
                    "Emulation.setDeviceMetricsOverride",
                    width=width, height=800, deviceScaleFactor=1, mobile=width == 360,
                )  # fmt: skip
                browser.visit(f"{busy.url}/ops")
                assert browser.evaluate("document.title") == "Stillroom"
                assert "66.7%" in browser.evaluate("document.body.innerText")
                assert browser.evaluate("getComputedStyle(document.body).color") == ink
                assert browser.evaluate("getComputedStyle(document.querySelector('dl')).display") == "flex"
                assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.complaints == []


def test_an_error_on_the_console_would_have_been_seen(busy, tmp_path):
    with a_browser(CHROMIUM, tmp_path / "profile") as browser:
        browser.visit(f"{busy.url}/no-such-page")
        assert any("404" in complaint for complaint in browser.complaints)
