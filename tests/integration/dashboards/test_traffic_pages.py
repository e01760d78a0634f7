"""The traffic pages as the composed gateway serves them: what is shown, to whom, and that no text becomes markup."""

import csv
import html
import io
import re

import pytest
import sqlalchemy as sa

from ledger import audit, erasure, explorer, feedback, keys, schema
from ledger.explorer import Filters, Wanted
from ledger.records import Content
from ledger.replays import REPLAY, tag_of
from ledger.requests import insert_records
from ledger.store import now_ms
from tests.unit.ledger.rows import row

NASTY = "</pre><script>alert(1)</script>\"'<b>"


def said(text: str, answer: str = "Good day.", **more) -> Content:
    return Content(messages=[{"role": "user", "content": text}], answer=answer, **more)


@pytest.fixture
def busy(ops):
    """120 requests, two a minute; every tenth is the student's."""
    now = now_ms()
    key, _ = keys.create(ops.store, "support-bot", ["inference"], "test")
    records = [
        row(f"req_{i:03d}", created_at=now - i * 30_000, route="student" if i % 10 == 0 else "teacher",
            reason="confident" if i % 10 == 0 else "hard", key_id=key.id, tags=["shop"], score=i / 120, model="auto",
            content=said(f"question {i}"))
        for i in range(120)
    ]  # fmt: skip
    insert_records(ops.store, records)
    return ops


def shown(page: str) -> list[str]:
    return re.findall(r'<th scope="row">(?:<a href="[^"]+">)?([^<]+)', page)


def link(page: str, text: str) -> str:
    found = re.search(rf'href="([^"]+)"[^>]*>{text}', page)
    assert found, f"there is no link {text!r}"
    return html.unescape(found[1])


def test_pages_go_on_from_each_other_and_together_show_everything(busy):
    found, path = [], "/ops/traffic?range=24h"
    for _ in range(3):
        page = busy.get(path).text
        found += shown(page)
        path = link(page, "Older requests") if "Older requests" in page else ""
    assert found == [f"req_{i:03d}" for i in range(120)]
    assert path == ""
    assert "Newest" in page


def test_the_address_holds_the_filters_and_the_form_shows_them(busy):
    page = busy.get("/ops/traffic?range=24h&route=student&tag=shop&score_max=0.5").text
    assert shown(page) == [f"req_{i:03d}" for i in range(0, 61, 10)]
    assert '<option value="student" selected>' in page
    assert 'name="tag" value="shop"' in page
    assert "<details open>" in page
    assert "<details open>" not in busy.get("/ops/traffic?range=24h&route=student").text
    assert "support-bot" in page


def test_csv_has_more_than_the_page_of_the_same_rows(busy):
    page = busy.get("/ops/traffic?range=24h&reason=hard").text
    answer = busy.get(link(page, "CSV"))
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == 108
    assert [each["request"] for each in rows[:50]] == shown(page)
    assert {each["reason"] for each in rows} == {"hard"}
    assert "question" not in answer.text


def test_where_nothing_is_found_that_is_said(busy):
    assert "No request that these filters take" in busy.get("/ops/traffic?model=none").text
    assert "No request" in busy.get("/ops/traffic?from=2020-01-01&to=2020-01-02").text


def test_a_search_that_was_cut_short_says_how_far_it_looked(ops, monkeypatch):
    monkeypatch.setattr(explorer, "WINDOW", 10)
    now = now_ms()
    insert_records(
        ops.store, [row(f"r{i:02d}", created_at=now - i, key_id="k" if i == 25 else "other") for i in range(40)]
    )
    page = ops.get("/ops/traffic?key=k").text
    assert "Looked through 10 requests back to" in page
    for _ in range(2):
        page = ops.get(link(page, "Go on")).text
    assert shown(page) == ["r25"]


@pytest.mark.parametrize("query", ["before=x", "score_min=2", "status=4xx", "route=auto"])
def test_a_filter_that_cannot_be_read_is_said_on_the_page(ops, query):
    answer = ops.get(f"/ops/traffic?{query}")
    assert answer.status_code == 400
    assert f"&#39;{query.partition('=')[0]}&#39;" in answer.text
    assert answer.headers["content-type"].startswith("text/html")


def test_content_is_searched_by_admins_alone(busy):
    assert 'name="text"' not in busy.get().text
    assert 'name="text"' not in busy.get("/ops/traffic").text
    assert busy.get("/ops/traffic?text=question+7").status_code == 403
    found = busy.get("/ops/traffic?text=Question+77", "admin")
    assert shown(found.text) == ["req_077"]
    assert audit.entries(busy.store, 1)[0]["action"] == "content.search"
    assert "/ops/requests/" not in busy.get("/ops/traffic").text
    assert busy.get("/ops/requests/req_077").status_code == 403


def test_a_ledger_that_is_away_is_said_on_the_page(ops):
    with ops.store.write() as connection:
        connection.execute(sa.text("ALTER TABLE requests RENAME TO gone"))
    for path in ("/ops/traffic", "/ops/requests/x", "/ops/requests/x/erasure"):
        answer = ops.get(path, "admin")
        assert (answer.status_code, "cannot be read now" in answer.text) == (503, True), path


def one(ops, request_id: str = "req_1", **values) -> str:
    content = values.pop(
        "content", said("Where is my order?", student_tokens=[("Good", -5), (" day", -2_000), (".", -300)])
    )
    insert_records(ops.store, [row(request_id, created_at=now_ms(), content=content, **values)])
    return ops.get(f"/ops/requests/{request_id}", "admin").text


def test_a_request_is_shown_whole_and_that_it_was_read_is_in_the_audit(ops):
    page = one(
        ops,
        route="student",
        reason="confident",
        score=0.9,
        cost_nano=1_000_000,
        baseline_nano=3_000_000,
        tags=["shop"],
    )
    for text in ("Where is my order?", "Good day.", "Its score is high", "0.0010", "0.0030", "0.0020 saved", "shop"):
        assert text in page, text
    assert '<span class="token guess" title="14%"> day</span>' in page
    assert '<span class="token fair" title="74%">.</span>' in page
    entry = audit.entries(ops.store, 1)[0]
    assert (entry["action"], entry["subject"]) == ("content.read", "request:req_1")


def test_the_students_and_the_teachers_answer_are_compared_where_both_are_kept(ops):
    page = one(ops, content=said("q", "It is in Rome.", student_answer="It is in Paris."))
    assert "It is in <del>Paris.</del><ins>Rome.</ins>" in page
    insert_records(
        ops.store, [row("req_2-explore", content=said("q", "Same.", student_answer="Same."), reason="explore")]
    )
    assert "Both answered the same" in one(ops, "req_2", content=said("q", "Same."))


def test_without_content_the_figures_stay_and_nothing_is_offered_that_needs_it(ops):
    page = one(ops, content=None)
    assert "What was said is not kept" in page
    assert "Whole answer" in page
    assert 'name="correction"' not in page
    assert '/replay"' not in page
    assert audit.entries(ops.store, 1)[0]["action"] == "key.create"


def test_replays_and_feedback_are_shown_and_a_replay_leads_back(ops):
    one(ops)
    insert_records(ops.store, [
        row("again", content=said("Where is my order?", "Good night."), reason=REPLAY, tags=[tag_of("req_1")])
    ])  # fmt: skip
    feedback.add(
        ops.store, feedback.Feedback(id="", created_at=0, request_id="req_1", score=0.5, comment="so-so"), None, True
    )
    page = ops.get("/ops/requests/req_1", "admin").text
    assert "Good <del>day.</del><ins>night.</ins>" in page
    assert "so-so" in page
    assert "Good night." in ops.get("/ops/requests/req_1/replays", "admin").text
    assert "so-so" in ops.get("/ops/requests/req_1/feedback", "admin").text
    assert link(ops.get("/ops/requests/again", "admin").text, "req_1") == "/ops/requests/req_1"


def test_no_text_of_a_request_becomes_markup(ops):
    content = said(
        NASTY, NASTY, student_answer=f"{NASTY} x", student_tokens=[(NASTY, -2_000)], parameters={"user": NASTY},
        tool_calls=[{"function": {"name": NASTY, "arguments": NASTY}}],
    )  # fmt: skip
    page = one(ops, content=content, tags=[NASTY], model=NASTY, error_code=NASTY)
    feedback.add(
        ops.store,
        feedback.Feedback(id="", created_at=0, request_id="req_1", label=NASTY, correction=NASTY),
        None,
        True,
    )
    page += ops.get("/ops/requests/req_1/feedback", "admin").text + ops.get("/ops/traffic", "admin").text
    assert "<script>alert" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_what_deleting_would_do_is_said_and_changes_nothing(ops):
    one(ops)
    page = ops.get("/ops/requests/req_1/erasure", "admin").text
    assert "what 1 request says" in page
    assert "No dataset and no release holds a copy" in page
    assert 'hx-delete="/admin/v1/requests/req_1/content"' in page
    with ops.store.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.contents)).scalar() == 1
    erasure.erase(ops.store, erasure.resolve(ops.store, "request", "req_1"), "test")
    page = ops.get("/ops/requests/req_1/erasure", "admin").text
    assert "Nothing that this request says is left" in page
    assert "hx-delete" not in page


def test_a_request_that_is_not_there_is_said_on_the_page(ops):
    for path in ("/ops/requests/none", "/ops/requests/none/erasure"):
        answer = ops.get(path, "admin")
        assert (answer.status_code, "no request none" in answer.text) == (404, True)
    assert "no request none" in ops.get("/ops/requests/none/replays", "admin").text


def test_the_pages_of_one_request_are_for_admins(ops):
    one(ops)
    for part in ("", "/replays", "/feedback", "/erasure"):
        assert ops.get(f"/ops/requests/req_1{part}", "read").status_code == 403


def test_the_page_shows_what_the_explorer_finds(busy):
    found = explorer.page(busy.store, Filters(route="student"), Wanted())
    assert shown(busy.get("/ops/traffic?route=student").text) == [each["id"] for each in found.rows]
