"""Traffic and one request in a real browser: both colour schemes, a phone, the keyboard alone, and each action."""

import pytest

from ledger import feedback, keys
from ledger.records import Content
from ledger.requests import get, insert_records
from ledger.store import now_ms
from tests.gateway_fixtures import HARD, running_world, wait_until
from tests.integration.dashboards.playwright_page import SCHEMES, WIDTHS, a_visitor, needs_chromium
from tests.scripted_upstream import Script
from tests.unit.ledger.rows import row

pytestmark = needs_chromium
TOKENS = [("Your", -10), (" order", -200), (" comes", -700), (" tomorrow", -2_500), (".", -4)]


@pytest.fixture
def busy(served):
    """Some pages of traffic, and one request that has everything."""
    now = now_ms()
    key, _ = keys.create(served.store, "support-bot", ["inference"], "test")
    records = [
        row(f"req_{i:03d}", created_at=now - i * 1_000, key_id=key.id, tags=["shop", "long-name-of-a-tag"],
            model="auto", route="student" if i % 3 else "teacher", reason="confident" if i % 3 else "hard",
            score=i / 130)
        for i in range(1, 130)
    ]  # fmt: skip
    whole = Content(
        messages=[
            {"role": "system", "content": "You are helpful."},
            {"role": "user", "content": [{"type": "text", "text": "Where is my order?"}, {"type": "image_url"}]},
        ],
        parameters={"temperature": 0.2},
        answer="Your order comes on Tuesday.",
        student_answer="Your order comes tomorrow.",
        student_tokens=TOKENS,
    )
    records.append(
        row("req_whole", created_at=now, route="teacher", reason="low_confidence", score=0.6, content=whole)
    )
    insert_records(served.store, records)
    return served


@pytest.fixture
def replaying(tmp_path, router):
    """A gateway with a student and a teacher that answer, and a request that was asked of it."""
    with running_world(tmp_path, router) as world:
        world.teacher.reset(Script(text="The teacher said good day."))
        asked = world.chat(HARD).headers["x-request-id"]
        world.recorded(asked)
        world.student.reset(Script(text="The student says good day."))
        yield world, asked


def test_traffic_and_a_request_are_sound_in_both_colour_schemes_and_on_a_phone(busy):
    with a_visitor(busy.url) as visitor:
        visitor.log_in(busy.secrets["admin"], "/ops/traffic")
        for scheme in SCHEMES:
            for width in WIDTHS:
                page = visitor.visit("/ops/traffic?tag=shop", scheme, width)
                assert page.get_by_role("link", name="Older requests").is_visible()
                page = visitor.visit("/ops/requests/req_whole", scheme, width)
                assert "tomorrow" in page.locator(".tokens .guess").inner_text()
                assert page.locator(".diff del").first.is_visible()
                visitor.visit("/ops/requests/req_whole/erasure", scheme, width)


@pytest.mark.parametrize("path", ["/ops/traffic?model=none", "/ops/traffic?route=student"])
def test_an_empty_list_and_a_readers_list_are_sound(busy, path):
    with a_visitor(busy.url) as visitor:
        visitor.log_in(busy.secrets["read"])
        page = visitor.visit(path, "dark", 360)
        assert page.locator("input[name=text]").count() == 0


def test_by_keyboard_alone_requests_are_filtered_paged_and_opened(busy):
    with a_visitor(busy.url) as visitor:
        visitor.log_in(busy.secrets["admin"])
        page = visitor.visit("/ops/traffic")
        assert visitor.reached_by_tab() == ["skip", "nav", "filters", "table"]
        page.get_by_label("Route").focus()
        page.keyboard.type("student")
        page.keyboard.press("Tab")
        page.get_by_role("button", name="Show").focus()
        with page.expect_navigation():
            page.keyboard.press("Enter")
        assert "route=student" in page.url
        page.get_by_role("link", name="Older requests").focus()
        with page.expect_navigation():
            page.keyboard.press("Enter")
        assert "before=" in page.url
        page.locator("tbody th a").first.focus()
        with page.expect_navigation():
            page.keyboard.press("Enter")
        assert page.get_by_role("heading", name="Why this route").is_visible()
        visitor.check("traffic-request-by-keyboard")


def test_a_request_is_replayed_and_its_answer_is_shown_beside_the_one_of_then(replaying):
    world, asked = replaying
    with a_visitor(world.url) as visitor:
        visitor.log_in(world.secrets["admin"], f"/ops/requests/{asked}")
        page = visitor.visit(f"/ops/requests/{asked}")
        assert "It was not asked again yet." in page.inner_text("main")
        page.get_by_role("button", name="Replay").click()
        page.get_by_role("heading", name="Student, ").wait_for()
        assert "The student says good day." in page.inner_text("main")
        assert page.locator(".diff del").first.inner_text() == "teacher"
        visitor.check("traffic-replayed")
        assert len(world.student.seen) == 1


def test_a_replay_that_fails_is_said_in_words(replaying):
    world, asked = replaying
    world.student.script = Script(status=500)
    with a_visitor(world.url) as visitor:
        visitor.log_in(world.secrets["admin"], f"/ops/requests/{asked}")
        page = visitor.page
        page.get_by_role("button", name="Replay").click()
        page.get_by_role("alert").filter(visible=True).wait_for()
        assert "the student" in page.get_by_role("alert").filter(visible=True).inner_text()


def test_feedback_is_given_and_shown_without_leaving_the_page(busy):
    with a_visitor(busy.url) as visitor:
        visitor.log_in(busy.secrets["admin"])
        page = visitor.visit("/ops/requests/req_whole")
        page.get_by_label("Score, from 0").fill("0.25")
        page.get_by_label("What the answer should have been").fill("It comes on Wednesday.")
        page.get_by_role("button", name="Give feedback").click()
        page.get_by_text("It should have been:").wait_for()
        visitor.check("traffic-feedback")
    (kept,) = feedback.of_request(busy.store, "req_whole")
    assert (kept.score, kept.correction, kept.label) == (0.25, "It comes on Wednesday.", None)


def test_content_is_deleted_after_two_questions_and_the_figures_stay(busy):
    with a_visitor(busy.url) as visitor:
        visitor.log_in(busy.secrets["admin"])
        page = visitor.visit("/ops/requests/req_whole")
        page.get_by_role("link", name="Delete its content").click()
        page.once("dialog", lambda dialog: dialog.dismiss())
        page.get_by_role("button", name="Delete it for good").click()
        assert (get(busy.store, "req_whole") or ({}, None))[1] is not None
        page.once("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Delete it for good").click()
        page.get_by_text("Nothing that this request says is left").wait_for()
        visitor.check("traffic-deleted")
        page = visitor.visit("/ops/requests/req_whole", "dark", 360)
        assert "What was said is not kept" in page.inner_text("main")
    wait_until(lambda: (get(busy.store, "req_whole") or ({}, 1))[1] is None)
