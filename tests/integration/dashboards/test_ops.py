"""``/ops`` as the composed gateway serves it: its figures are the ledger's, and no text becomes markup."""

import base64
import csv
import html
import io
import re

import pytest
import sqlalchemy as sa
from litestar.testing import TestClient

from ledger import events, jobs, keys, labels, releases, replicas
from ledger.keys import KeyPolicy
from ledger.labels import Label
from ledger.records import NANO
from ledger.releases import Release
from ledger.replicas import Replica
from ledger.requests import insert_records, latency_quantile, usage_by
from ledger.store import now_ms
from tests.gateway_fixtures import RELEASE, go_live
from tests.integration.dashboards.page_reader import Page
from tests.unit.ledger.rows import row
from tests.unit.router.test_model import model

LINK = re.compile(r'href="([^"]+)"')
DAY_MS = 86_400_000

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
            baseline_nano=baseline, latency_ms=10.0 * (i + 1), key_id="key_1", release_id="r1")
        for i, (route, reason, status, cost, baseline) in enumerate(TRAFFIC)
    ]  # fmt: skip
    long_ago = row("old", created_at=now_ms() - 40 * DAY_MS, cost_nano=10**15, baseline_nano=10**15)
    insert_records(ops.store, [*records, long_ago])
    return ops


def test_the_figures_are_the_ledgers(busy):
    page = Page(busy.get().text)
    usage = usage_by(busy.store, ["route", "reason"], now_ms() - 30 * DAY_MS)
    cost = sum(used.cost_nano for used in usage.values())
    baseline = sum(used.baseline_nano for used in usage.values())
    assert cost == 5_650_000_000
    assert page.figures == {
        "Spent today": "5.65",
        "Spent this month": "5.65",
        "Month's end, forecast": "-",
        "Spent": f"{cost / NANO:.2f}",
        "On the teacher alone": f"{baseline / NANO:.2f}",
        "Saved": f"{1 - cost / baseline:.1%}",
        "Answered by the student": "60.0%",
        "Escalated": "0.0%",
        "Agreement": "-",
        "Errors": "40.0%",
        "Requests": "5",
        "Live release": "none",
    }
    assert page.notes["Answered by the student"] == "n = 5"
    assert "no live release" in page.notes["Agreement"]


def test_the_tables_are_the_ledgers(busy):
    tables = Page(busy.get().text).tables
    head, *rows = tables["Requests by route and reason, last 30 days"]
    assert head == [
        "route", "reason", "requests", "errors", "error rate", "prompt tokens", "completion tokens", "cost",
        "baseline",
    ]  # fmt: skip
    assert [[*line[:5], *line[7:]] for line in rows] == [
        ["student", "confident", "2", "1", "50.0%", "0.1200", "3.00"],
        ["student", "teacher_down", "1", "0", "0.0%", "0.0300", "2.00"],
        ["teacher", "explore", "1", "0", "0.0%", "1.50", "0.00"],
        ["teacher", "hard", "2", "1", "50.0%", "4.00", "4.00"],
    ]
    (why,) = tables["Why the teacher answered, last 30 days"][1:]
    assert why == ["hard", "2", "40.0%", "the router expected the student to fail, and did not ask it"]
    _, *latency = tables["Latency by route, last 30 days"]
    since = now_ms() - 30 * DAY_MS
    assert latency == [
        [route, "whole answer",
         *(f"{latency_quantile(busy.store, route, q, since):,.0f} ms" for q in (0.5, 0.95, 0.99)), "3"]
        for route in ("student", "teacher")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("group", "first"),
    [("route", ["student", "3"]), ("release", ["r1", "6"]), ("key", ["key_1", "6"]), ("nonsense", ["student", "2"])],
)
def test_requests_are_grouped_as_asked_and_what_cannot_be_is_grouped_by_reason(busy, group, first):
    tables = Page(busy.get(f"/ops?group={group}").text).tables
    (found,) = (lines for caption, lines in tables.items() if caption.startswith("Requests by"))
    numbers = found[0].index("requests")
    assert [found[1][0], found[1][numbers]] == first


def test_each_table_is_there_as_csv_with_nothing_rounded(busy):
    links = [html.unescape(link) for link in re.findall(r'class="csv" href="([^"]+)"', busy.get().text)]
    named = {re.search(r"table=(\w+)", link)[1] for link in links}
    assert named == {"usage", "reasons", "latency", "spend", "share"}
    answers = {link: busy.get(link) for link in links}
    assert {answer.headers["content-type"] for answer in answers.values()} == {"text/csv; charset=utf-8"}
    (usage,) = (answer for link, answer in answers.items() if "table=usage" in link)
    rows = list(csv.DictReader(io.StringIO(usage.text)))
    assert rows[0]["cost"] == "0.12"
    assert sum(int(each["requests"]) for each in rows) == len(TRAFFIC)
    assert busy.get("/ops?format=csv&table=none").headers["content-type"].startswith("text/html")


def test_a_range_of_days_holds_those_days_alone(ops):
    for day, cost in ((10, 1), (11, 2), (12, 4)):
        insert_records(
            ops.store, [row(f"d{day}", created_at=1_767_225_600_000 + day * DAY_MS, cost_nano=cost * NANO)]
        )
    page = Page(ops.get("/ops?from=2026-01-12&to=2026-01-12").text)
    assert page.figures["Spent"] == "2.00"
    assert page.figures["Spent today"] == "0.00"


def test_agreement_is_said_with_its_interval_its_n_and_what_each_label_weighs(ops):
    at = now_ms()
    rows = [row(f"s{i}", created_at=at, route="student", reason="confident") for i in range(20)]
    rows += [row(f"t{i}", created_at=at) for i in range(20)]
    insert_records(ops.store, rows)
    kind = {"source": "explore", "created_at": at, "release_id": None, "comparator": "exact"}
    # of a likely sort all agree, and of a sort a ninth as likely none do: the two weigh the same
    found = [Label(request_id=f"s{i}", agreement=1.0, propensity=0.9, **kind) for i in range(9)]
    labels.add(ops.store, [*found, Label(request_id="s9", agreement=0.0, propensity=0.1, **kind)])
    page = Page(ops.get().text)
    assert page.figures["Agreement"] == "75.0%"
    assert "n = 10 labels" in page.notes["Agreement"]
    low, high = map(float, re.match(r"([\d.]+)% to ([\d.]+)%", page.notes["Agreement"]).groups())
    assert 50 <= low < 75 < high <= 100


def test_agreement_below_the_live_releases_target_asks_for_a_look(composed, tmp_path):
    router = model()
    go_live(composed.store, tmp_path / "release", router)
    at = now_ms()
    insert_records(
        composed.store, [row(f"s{i}", created_at=at, route="student", reason="confident") for i in range(60)]
    )
    kind = {"source": "explore", "created_at": at, "release_id": None, "comparator": "exact", "propensity": 0.5}
    labels.add(composed.store, [Label(request_id=f"s{i}", agreement=float(i % 2), **kind) for i in range(60)])
    with TestClient(composed.app) as client:
        page = Page(client.get("/ops", headers={"authorization": f"Bearer {composed.secrets['read']}"}).text)
    target = f"{router.thresholds.agreement_target:.0%}"
    assert page.notes["Agreement"].endswith(f"n = 60 labels; target {target}")
    assert page.alerts == [
        f"{RELEASE} is live and no student server runs: the teacher answers. Serving",
        f"Agreement is below the target of {target}, with its whole interval. Router",
    ]


def test_a_budget_that_is_nearly_spent_is_said_and_a_revoked_keys_is_not(ops):
    policy = KeyPolicy(budget_day=10, budget_month=1_000)
    made = [keys.create(ops.store, name, ["inference"], "test", policy=policy)[0] for name in ("one", "gone")]
    insert_records(ops.store, [row(k.id, created_at=now_ms(), key_id=k.id, cost_nano=9 * NANO) for k in made])
    keys.revoke(ops.store, made[1].id, "test")
    page = Page(ops.get().text)
    assert page.alerts == ["one has spent 90% of today's budget. The key"]
    assert page.notes["Spent today"] == "budgets of 1 key: 10.00"
    assert [line[:4] for line in page.tables["Keys with a budget, now"][1:]] == [["one", "9.00", "10.00", "90.0%"]]


def test_what_asks_for_a_look_is_said_with_where_to_look(ops):
    assert "Nothing asks for a look" in ops.get().text
    now = now_ms()
    insert_records(ops.store, [row(f"r{i}", created_at=now, status=502 if i < 2 else 200) for i in range(30)])
    for kind in ("novelty", "novelty", "score"):
        events.add(ops.store, "drift", "r1", {"drift": kind, "text": f"the {kind} moved"})
    releases.add(ops.store, Release("r1", "candidate", 1, None, None, None, "/r", "0", {}))
    releases.promote(ops.store, "r1", "test")
    replicas.report(ops.store, Replica("keeper", "", "", "keeper", 0))
    replicas.report(ops.store, Replica("m", "r1", "http://127.0.0.1:1/v1", "down", 0))
    releases.add(ops.store, Release("r2", "candidate", 2, None, "r1", None, "/r", "0", {}))
    job = jobs.create(ops.store, "manual", "test", {})
    jobs.claim(ops.store, "w")
    for state in ("building", "training", "evaluating"):
        jobs.set_state(ops.store, job.id, "w", state)
    jobs.set_state(ops.store, job.id, "w", "awaiting_approval", release_id="r2")
    text = ops.get().text
    said = [each.partition(", 20")[0] for each in Page(text).alerts]
    assert said == [
        "A swap is under way: r1 is live and no server has it yet. Meanwhile the teacher answers. Serving",
        "A student server is down. Its log is in the home's folder logs. Serving",
        "2 of the last hour's 30 requests ended with a status of 400 or above. These requests",
        "Drift of r1",
        "Drift of r1",
    ]
    assert "Release r2 waits for a decision" in re.sub(" passed its gate and", "", text)
    for link in ("/ops/serving", "/ops/traffic?range=1h&amp;status=error", "/ops/router", f"/ops/jobs/{job.id}"):
        assert f'href="{link}"' in text, link


def test_every_row_leads_to_what_it_counts(busy):
    key, _ = keys.create(busy.store, "bot", ["inference"], "test", policy=KeyPolicy(budget_day=10, tags=("a&b",)))
    insert_records(
        busy.store, [row("tagged", created_at=now_ms(), key_id=key.id, tags=["a&b"], reason="low_confidence")]
    )
    for group, wanted in (
        ("reason", "/ops/traffic?range=24h&route=teacher&reason=low_confidence"),
        ("key", f"/ops/traffic?range=24h&key={key.id}"),
        ("tag", "/ops/traffic?range=24h&tag=a%26b"),
        ("reason", f"/ops/keys/{key.id}"),
    ):
        links = [html.unescape(each) for each in LINK.findall(busy.get(f"/ops?range=24h&group={group}").text)]
        assert wanted in links, group
        found = busy.get(wanted).text
        assert "tagged" in found or "bot" in found


PAGES = (
    "/ops", "/ops/traffic", "/ops/requests/x", "/ops/router", "/ops/distillation", "/ops/jobs/x", "/ops/releases",
    "/ops/releases/x", "/ops/keys", "/ops/keys/x", "/ops/audit",
)  # fmt: skip


def test_a_ledger_that_is_away_is_said_inside_the_pages_frame(ops):
    ops.get(scope="admin")
    with ops.store.write() as connection:
        named = connection.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'table'"))
        for (name,) in named.all():
            if not name.startswith("sqlite_"):
                connection.execute(sa.text(f"ALTER TABLE {name} RENAME TO away_{name}"))
    for path in PAGES:
        answer = ops.get(path, "admin")
        assert (answer.status_code, answer.headers["content-type"]) == (503, "text/html; charset=utf-8"), path
        assert re.search("ledger cannot be re(ad|ached) now", answer.text), path
        assert 'aria-label="Pages"' in answer.text, path
    part = ops.client.get("/ops/jobs/x/part", headers={"authorization": f"Bearer {ops.secrets['admin']}"})
    assert part.json()["error"]["message"] == "The ledger cannot be reached now."


def test_who_may_not_see_a_page_is_told_so_inside_the_pages_frame(ops):
    answer = ops.get("/ops", "inference")
    assert (answer.status_code, "Log out, and log in with a key" in answer.text) == (403, True)
    assert answer.headers["x-request-id"]


def test_releases_jobs_and_events_are_shown_with_the_newest_first(busy):
    for i, name in enumerate(("r1", "r2")):
        summary = {"student_agreement_ci": [0.91, 0.97], "held_out": 240 + i}
        releases.add(busy.store, Release(name, "candidate", i, None, None, None, "/r", "0", summary))
        events.add(busy.store, "drift", name, {"psi": 0.31})
    releases.promote(busy.store, "r1", "test")
    job = jobs.create(busy.store, "manual", "test", {})
    page = Page(busy.get().text)
    shown = page.tables["Releases, the newest first"]
    assert [line[:2] for line in shown[1:]] == [["r2", "candidate"], ["r1", "live"]]
    assert shown[2][3:] == ["91.0% to 97.0%", "240"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", shown[2][2])
    assert page.figures["Live release"] == "r1"
    assert page.tables["Jobs, the newest first"][1][:2] == [job.id, "queued"]
    assert [line[1:] for line in page.tables["Events, the newest first"][1:]] == [
        ["drift", "r2", "psi 0.31"], ["drift", "r1", "psi 0.31"]
    ]  # fmt: skip


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;</td></table>\0\u202e"


def test_hostile_names_and_errors_are_shown_as_text(ops):
    usual = Page(ops.get().text).tags.count("script")
    key, _ = keys.create(ops.store, HOSTILE.replace("\0", ""), ["read"], "test", policy=KeyPolicy(budget_day=1))
    insert_records(
        ops.store, [row("r", created_at=now_ms(), reason=HOSTILE, key_id=key.id, cost_nano=NANO, release_id=HOSTILE)]
    )
    releases.add(ops.store, Release(HOSTILE, "candidate", 1, None, None, None, "/r", "0", {"held_out": HOSTILE}))
    job = jobs.create(ops.store, "manual", HOSTILE, {})
    jobs.claim(ops.store, "w")
    jobs.set_state(ops.store, job.id, "w", "failed", error=HOSTILE)
    events.add(ops.store, "drift", HOSTILE, {HOSTILE: HOSTILE})
    for group in ("reason", "release", "key"):
        text = ops.get(f"/ops?group={group}").text
        page = Page(text)
        assert page.tags.count("script") == usual + 2, "the data of the two charts"
        assert "img" not in page.tags
        assert "<script>alert" not in text
        cells = [cell for table in page.tables.values() for line in table for cell in line]
        # the release twice, the job's error, the event's subject, and what the requests are grouped by
        assert cells.count(HOSTILE) >= 4


def test_the_page_lets_nothing_run_or_load_from_elsewhere_and_is_not_kept(busy):
    answer = busy.get()
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "style=" not in answer.text
    assert "<style" not in answer.text
    assert not re.findall(r'(?:src|href)="(?!/|#|data:)', answer.text)


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        pytest.param("inference", 403, id="a key for inference only"),
        pytest.param("read", 200, id="a key that may read"),
        pytest.param("admin", 200, id="an administrator's key"),
    ],
)
@pytest.mark.parametrize("path", ["/ops", "/ops?format=csv&table=usage"])
def test_the_page_and_its_csv_are_for_keys_that_may_read(busy, path, scope, status):
    answer = busy.get(path, scope=scope)
    assert answer.status_code == status
    assert ("teacher_down" in answer.text) == (status == 200)


def test_without_a_key_nothing_is_shown_but_the_login(busy):
    busy.client.follow_redirects = False
    answer = busy.get(scope=None)
    assert (answer.status_code, answer.headers["location"]) == (303, "/ops/login?next=/ops")
    assert "teacher_down" not in answer.text


def test_a_client_gives_the_key_as_the_password_too(busy):
    credentials = base64.b64encode(f"anyone:{busy.secrets['read']}".encode()).decode()
    assert "Spent" in busy.client.get("/ops", headers={"authorization": f"Basic {credentials}"}).text


def test_before_the_first_request_the_page_says_what_to_do(ops):
    text = ops.get().text
    page = Page(text)
    assert set(page.figures) == {"Spent today", "Spent this month", "Month's end, forecast"}
    assert page.tables == {}
    assert "No requests in the last 30 days" in text
    assert text.count("Nothing yet.") == 3
    assert "No key has a budget." in text


def test_a_job_that_failed_before_the_first_request_is_shown(ops):
    job = jobs.create(ops.store, "manual", "test", {})
    jobs.claim(ops.store, "w")
    jobs.set_state(ops.store, job.id, "w", "failed", error="0 teacher answers")
    page = Page(ops.get().text)
    assert page.tables["Jobs, the newest first"][1][:2] == [job.id, "failed"]
    assert page.alerts == [f"The newest job, {job.id}, failed. The job"]


def test_requests_that_cost_nothing_leave_the_saving_open(ops):
    insert_records(ops.store, [row("r", created_at=now_ms(), reason="explore")])
    figures = Page(ops.get().text).figures
    assert (figures["Saved"], figures["Answered by the student"], figures["Requests"]) == ("-", "-", "0")


def test_a_release_that_is_not_evaluated_yet_is_shown_without_figures(ops):
    for i, summary in enumerate([{}, {"student_agreement_ci": None}]):
        releases.add(ops.store, Release(f"r{i}", "candidate", i, None, None, None, "/r", "0", summary))
    shown = Page(ops.get().text).tables["Releases, the newest first"]
    assert [line[3:] for line in shown[1:]] == [["-", "-"], ["-", "-"]]


def test_the_style_sheet_is_open_to_all_and_holds_no_data(ops):
    answer = ops.get("/ops/static/ops.css", scope=None)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/css")
