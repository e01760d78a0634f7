"""``/ops`` as the composed gateway serves it: its figures are the ledger's, and no text becomes markup."""

import base64
import html
import re
from html.parser import HTMLParser

import pytest

from ledger import jobs, releases
from ledger.records import NANO
from ledger.releases import Release
from ledger.requests import insert_records, latency_quantile, usage_by
from ledger.store import now_ms
from tests.unit.ledger.rows import row

VOID = {"meta", "link"}


class Page(HTMLParser):
    """Reads a page into figures (``dl``) and tables by their heading; fails on tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.figures: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.heading = self.name = ""
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.text = ""
        if tag == "tr":
            self.tables.setdefault(self.heading, []).append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_data(self, data):
        self.text += data

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "h2":
            self.heading = self.text
        elif tag == "dt":
            self.name = self.text
        elif tag == "dd":
            self.figures[self.name] = self.text
        elif tag in ("td", "th"):
            self.tables[self.heading][-1].append(self.text)


TRAFFIC = [
    ("student", "confident", 200, 120_000_000, 3_000_000_000),
    ("student", "confident", 500, 0, 0),
    ("student", "teacher_down", 200, 30_000_000, 2_000_000_000),
    ("teacher", "hard", 200, 4_000_000_000, 4_000_000_000),
    ("teacher", "hard", 429, 0, 0),
    ("teacher", "explore", 200, 1_500_000_000, 0),
]


@pytest.fixture
def busy(ops):
    records = [
        row(f"r{i}", created_at=now_ms(), route=route, reason=reason, status=status, cost_nano=cost,
            baseline_nano=baseline, latency_ms=10.0 * (i + 1))
        for i, (route, reason, status, cost, baseline) in enumerate(TRAFFIC)
    ]  # fmt: skip
    long_ago = row("old", created_at=now_ms() - 40 * 86_400_000, cost_nano=10**15, baseline_nano=10**15)
    insert_records(ops.store, [*records, long_ago])
    return ops


def test_the_figures_are_the_ledgers(busy):
    figures = Page(busy.get().text).figures
    usage = usage_by(busy.store, ["route", "reason"], now_ms() - 30 * 86_400_000)
    cost = sum(used.cost_nano for used in usage.values())
    baseline = sum(used.baseline_nano for used in usage.values())
    assert cost == 5_650_000_000
    assert figures == {
        "Spent, 30 days": f"{cost / NANO:.2f}",
        "On the teacher alone": f"{baseline / NANO:.2f}",
        "Saved": f"{1 - cost / baseline:.1%}",
        "Answered by the student": "60.0%",
        "Requests": "5",
    }


def test_the_tables_are_the_ledgers(busy):
    tables = Page(busy.get().text).tables
    head, *rows = tables["Routes and reasons, last 30 days"]
    assert head == ["route", "reason", "requests", "errors", "cost", "baseline"]
    assert rows == [
        ["student", "confident", "2", "1", "0.1200", "3.0000"],
        ["student", "teacher_down", "1", "0", "0.0300", "2.0000"],
        ["teacher", "explore", "1", "0", "1.5000", "0.0000"],
        ["teacher", "hard", "2", "1", "4.0000", "4.0000"],
    ]
    _, *latency = tables["Latency"]
    since = now_ms() - 30 * 86_400_000
    assert latency == [
        [route, *(str(round(latency_quantile(busy.store, route, q, since))) for q in (0.5, 0.95))]
        for route in ("student", "teacher")
    ]


def test_releases_and_jobs_are_shown_with_the_newest_first(busy):
    for i, name in enumerate(("r1", "r2")):
        summary = {"student_agreement_ci": [0.91, 0.97], "held_out": 240 + i}
        releases.add(busy.store, Release(name, "candidate", i, None, None, None, "/r", "0", summary))
    releases.promote(busy.store, "r1", "test")
    job = jobs.create(busy.store, "manual", "test", {})
    tables = Page(busy.get().text).tables
    assert [line[:2] for line in tables["Releases"][1:]] == [["r2", "candidate"], ["r1", "live"]]
    assert tables["Releases"][2][3:] == ["91.0% to 97.0%", "240"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", tables["Releases"][2][2])
    assert tables["Jobs"][1][:2] == [job.id, "queued"]


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;</td></table>\0\u202e"


def test_hostile_names_and_errors_are_shown_as_text(ops):
    insert_records(ops.store, [row("r", created_at=now_ms(), reason=HOSTILE)])
    releases.add(ops.store, Release(HOSTILE, "candidate", 1, None, None, None, "/r", "0", {"held_out": HOSTILE}))
    job = jobs.create(ops.store, "manual", HOSTILE, {})
    jobs.claim(ops.store, "w")
    jobs.set_state(ops.store, job.id, "w", "failed", error=HOSTILE)
    text = ops.get().text
    page = Page(text)
    assert page.tags.isdisjoint({"script", "img"})
    assert text.count(html.escape(HOSTILE)) == 4
    cells = {cell for table in page.tables.values() for line in table for cell in line}
    assert HOSTILE in cells


def test_the_page_lets_nothing_run_or_load_and_is_not_kept(ops):
    answer = ops.get()
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "style-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "style=" not in answer.text
    assert "<style" not in answer.text


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        pytest.param(None, 401, id="no key"),
        pytest.param("inference", 403, id="a key for inference only"),
        pytest.param("read", 200, id="a key that may read"),
        pytest.param("admin", 200, id="an administrator's key"),
    ],
)
def test_the_page_is_for_keys_that_may_read(busy, scope, status):
    answer = busy.get(scope=scope)
    assert answer.status_code == status
    assert ("Spent" in answer.text) == (status == 200)
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Basic")


def test_a_browser_gives_the_key_as_the_password(busy):
    credentials = base64.b64encode(f"anyone:{busy.secrets['read']}".encode()).decode()
    assert "Spent" in busy.client.get("/ops", headers={"authorization": f"Basic {credentials}"}).text


def test_before_the_first_request_the_page_says_what_to_do(ops):
    page = Page(ops.get().text)
    assert page.figures == {}
    assert page.tables == {}
    assert "No requests in the last 30 days" in ops.get().text
    assert ops.get().text.count("Nothing yet.") == 2


def test_a_job_that_failed_before_the_first_request_is_shown(ops):
    job = jobs.create(ops.store, "manual", "test", {})
    jobs.claim(ops.store, "w")
    jobs.set_state(ops.store, job.id, "w", "failed", error="0 teacher answers")
    assert Page(ops.get().text).tables["Jobs"][1][:2] == [job.id, "failed"]


def test_requests_that_cost_nothing_leave_the_saving_open(ops):
    insert_records(ops.store, [row("r", created_at=now_ms(), reason="explore")])
    figures = Page(ops.get().text).figures
    assert (figures["Saved"], figures["Answered by the student"], figures["Requests"]) == ("-", "-", "0")


def test_a_release_that_is_not_evaluated_yet_is_shown_without_figures(ops):
    for i, summary in enumerate([{}, {"student_agreement_ci": None}]):
        releases.add(ops.store, Release(f"r{i}", "candidate", i, None, None, None, "/r", "0", summary))
    assert [line[3:] for line in Page(ops.get().text).tables["Releases"][1:]] == [["", ""], ["", ""]]


def test_the_style_sheet_is_open_to_all_and_holds_no_data(ops):
    answer = ops.get("/ops/style.css", scope=None)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
