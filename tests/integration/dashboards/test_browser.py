"""``/ops`` in a real browser: in both colour schemes, on a wide and on a narrow screen, and by keyboard alone."""

import pytest

from ledger import events, jobs, keys, labels, releases
from ledger.keys import KeyPolicy
from ledger.labels import Label
from ledger.records import NANO
from ledger.releases import Release
from ledger.requests import insert_records
from ledger.store import now_ms
from tests.integration.dashboards.playwright_page import SCHEMES, WIDTHS, a_visitor, needs_chromium
from tests.unit.ledger.rows import row

pytestmark = needs_chromium
HOUR_MS = 3_600_000
KINDS = [("student", "confident"), ("student", "confident"), ("teacher", "low_confidence"), ("teacher", "hard")]
INK = {"light": "rgb(27, 31, 35)", "dark": "rgb(232, 234, 237)"}


@pytest.fixture
def busy(served):
    """Three weeks of traffic, labels of a part of it, a key near the end of its budget, and a job that failed."""
    key, _ = keys.create(
        served.store, "support-bot", ["inference"], "test", policy=KeyPolicy(budget_day=10, budget_month=5_000)
    )
    now = now_ms()
    records = [
        row(
            f"r{i}", created_at=now - i * HOUR_MS, route=KINDS[i % 4][0], reason=KINDS[i % 4][1], key_id=key.id,
            cost_nano=(1 + i % 4 * 3) * NANO, baseline_nano=9 * NANO, latency_ms=40.0 + i, first_token_ms=10.0 + i,
        )
        for i in range(500)
    ]  # fmt: skip
    insert_records(served.store, records)
    labels.add(
        served.store,
        [
            Label(request_id=r.id, source="explore", created_at=r.created_at, release_id=None, comparator="exact",
                  agreement=float(i % 20 != 0), propensity=0.1)
            for i, r in enumerate(records) if r.route == "student"
        ],
    )  # fmt: skip
    summary = {"student_agreement_ci": [0.91, 0.97], "held_out": 240}
    releases.add(served.store, Release("r20261124-7b49d8", "candidate", 1, None, None, None, "/r", "0", summary))
    events.add(served.store, "drift", "r20261124-7b49d8", {"psi": 0.31, "requests": 1200})
    job = jobs.create(served.store, "manual", "test", {})
    jobs.claim(served.store, "w")
    jobs.set_state(served.store, job.id, "w", "failed", error="a cause with many words " * 10)
    return served


def test_the_overview_is_sound_in_both_colour_schemes_and_on_a_phone(busy):
    with a_visitor(busy.url) as visitor:
        visitor.log_in(busy.secrets["read"], "/ops?range=30d")
        for scheme in SCHEMES:
            for width in WIDTHS:
                page = visitor.visit("/ops?range=30d", scheme, width)
                assert page.title() == "Overview · Stillroom"
                assert "50.0%" in page.inner_text("main")
                assert page.evaluate("getComputedStyle(document.body).color") == INK[scheme]
                assert page.locator(".uplot canvas").count() == 2


@pytest.mark.parametrize("path", ["/ops?range=1h&group=key", "/ops?from=2020-01-01&to=2020-01-02"])
def test_other_ranges_and_an_empty_one_are_sound(busy, path):
    with a_visitor(busy.url) as visitor:
        visitor.log_in(busy.secrets["read"])
        visitor.visit(path, "dark", 360)


def test_tab_alone_comes_to_the_pages_the_filters_and_the_tables_and_enter_applies_them(busy):
    with a_visitor(busy.url) as visitor:
        visitor.log_in(busy.secrets["read"])
        page = visitor.visit("/ops")
        assert visitor.reached_by_tab() == ["skip", "nav", "table", "filters"]
        page.get_by_label("Group by").focus()
        page.keyboard.type("key")
        page.keyboard.press("Tab")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        assert "group=key" in page.url
        assert "support-bot" in page.get_by_role("table", name="Requests by key").inner_text()


def test_without_a_session_the_login_is_shown_and_is_sound(served):
    with a_visitor(served.url) as visitor:
        for scheme in SCHEMES:
            page = visitor.visit("/ops", scheme, 360)
            assert "/ops/login" in page.url
        visitor.log_in("sk-wrong")
        assert "no such key" in page.get_by_role("alert").filter(visible=True).inner_text()


def test_an_error_on_the_console_would_have_been_seen(served):
    with a_visitor(served.url) as visitor:
        visitor.page.goto(f"{served.url}/no-such-page")
        assert any("404" in complaint for complaint in visitor.complaints)


def test_a_script_that_the_policy_refuses_and_an_unlabelled_field_would_have_been_seen(served):
    with a_visitor(served.url) as visitor:
        page = visitor.visit("/ops/login")
        page.evaluate("document.querySelector('label').remove()")
        assert any(found.startswith("label") for found in visitor.findings())
        page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: '1'}))")
        assert any("Content Security Policy" in complaint for complaint in visitor.complaints)
