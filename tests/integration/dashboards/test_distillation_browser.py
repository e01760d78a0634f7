"""Jobs and releases in a real browser: each action, a job that runs, both colour schemes, a phone, the keyboard."""

import pytest

from ledger import canaries, jobs, releases
from tests.integration.dashboards.distilled import a_job, on_trial, training, with_a_past
from tests.integration.dashboards.playwright_page import SCHEMES, SCREENSHOTS, WIDTHS, a_visitor, needs_chromium

pytestmark = needs_chromium
PATIENCE_MS = 30_000


@pytest.fixture
def past(served, composed, tmp_path):
    served.jobs = with_a_past(served.store, tmp_path / "releases")
    yield served
    # ends the streams of events, which a plain server waits for
    composed.app.state.draining = True


@pytest.fixture
def admin(past):
    with a_visitor(past.url) as visitor:
        visitor.log_in(past.secrets["admin"])
        visitor.said = []
        yield visitor


def agree(visitor, button):
    """Press a button, agree to what it says, and wait for the page that follows."""

    def answer(dialog):
        visitor.said.append(dialog.message)
        dialog.accept()

    visitor.page.once("dialog", answer)
    with visitor.page.expect_navigation(timeout=PATIENCE_MS):
        button.click()
    return visitor.said[-1]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_pages_are_sound_in_both_colour_schemes_and_on_a_phone(past, admin, scheme, width):
    page = admin.visit("/ops/distillation", scheme, width)
    page.get_by_role("button", name="Start a job").wait_for()
    admin.check(f"distillation-counted-{scheme}-{width}")
    for state in ("failed", "live"):
        admin.visit(f"/ops/jobs/{past.jobs[state]}", scheme, width)
    assert page.locator(".uplot canvas").count() == 1
    on_trial(past.store)
    for path in ("/ops/releases?training_cost=100", "/ops/releases/r-new", "/ops/releases/r-first"):
        admin.visit(path, scheme, width)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_report_is_shown_as_it_was_written_and_runs_nothing(past, admin, scheme):
    page = admin.page
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 360, "height": 800})
    page.goto(f"{past.url}/ops/jobs/{past.jobs['waiting']}")
    with page.expect_navigation(timeout=PATIENCE_MS):
        page.get_by_role("link", name="its whole report").click()
    # axe cannot look: no script runs here, its own neither
    page.get_by_role("heading", name="Evaluation of r-new").wait_for()
    assert page.locator("svg").count() >= 2
    page.screenshot(path=SCREENSHOTS / f"report-{scheme}.png", full_page=True)
    assert admin.complaints == []


def test_empty_pages_are_sound_too(served):
    with a_visitor(served.url) as visitor:
        visitor.log_in(served.secrets["admin"])
        for scheme in SCHEMES:
            page = visitor.visit("/ops/distillation", scheme, 360)
            page.get_by_text("A job would fail").wait_for()
            visitor.visit("/ops/releases", scheme, 360)


def test_a_job_is_started_with_what_the_form_says_and_its_page_comes(past, admin):
    page = admin.visit("/ops/distillation?since=30d&max_examples=500")
    page.get_by_label("Note, for people").fill("from the browser")
    page.locator("select[name=start_from]").select_option("base")
    said = agree(admin, page.get_by_role("button", name="Start a job"))
    assert "lets the gate decide" in said
    job = jobs.newest(past.store)
    assert page.url.endswith(f"/ops/jobs/{job.id}")
    assert job.settings == {"note": "from the browser", "start_from": "base", "since": "30d", "max_examples": 500}
    assert "waits for a worker" in page.get_by_role("status").inner_text()


def test_no_job_is_started_where_the_person_says_no(past, admin):
    before = jobs.newest(past.store).id
    page = admin.visit("/ops/distillation")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Start a job").click()
    page.wait_for_timeout(300)
    assert jobs.newest(past.store).id == before


def test_a_running_job_is_followed_by_its_events_to_its_end(past, admin):
    job = a_job(past.store, "live one", "training")
    page = admin.page
    page.goto(f"{past.url}/ops/jobs/{job}")
    page.get_by_text("This job is under way").wait_for()
    for step in (20, 60):
        jobs.add_event(past.store, job, "training", training(step))
        page.get_by_text(f"step {step} of 200").first.wait_for(timeout=PATIENCE_MS)
    assert page.locator("progress").get_attribute("value") == "60"
    page.locator(".uplot canvas").wait_for(timeout=PATIENCE_MS)
    page.locator("#log").focus()
    jobs.add_event(past.store, job, "restart", {"ended_by": "SIGKILL", "left": 2})
    page.get_by_text("goes on from its checkpoint").wait_for(timeout=PATIENCE_MS)
    assert page.evaluate("document.activeElement.id") == "log"
    jobs.set_state(past.store, job, "w", "failed", error="the disk is full")
    page.get_by_text("This job is over").wait_for(timeout=PATIENCE_MS)
    assert page.get_by_role("button", name="Cancel the job").count() == 0
    admin.check("job-followed")


@pytest.mark.parametrize(
    ("button", "state", "words"),
    [
        ("Approve the release", "live", "Approve r-new?"),
        ("Reject the release", "rejected", "never goes live"),
        ("Cancel the job", "cancelled", "cannot be undone"),
    ],
)
def test_a_job_that_waits_is_decided_by_a_button(past, admin, monkeypatch, button, state, words):
    page = admin.page
    page.goto(f"{past.url}/ops/jobs/{past.jobs['waiting']}")
    if state == "rejected":
        page.get_by_label("Why").fill("answers too short")
    assert words in agree(admin, page.get_by_role("button", name=button))
    found = jobs.get(past.store, past.jobs["waiting"])
    assert found.state in (state, "canary" if state == "live" else state)
    assert found.error == ("answers too short" if state == "rejected" else None)


def test_what_the_gateway_refuses_is_said_on_the_page(past, admin):
    page = admin.page
    page.goto(f"{past.url}/ops/jobs/{past.jobs['waiting']}")
    jobs.cancel(past.store, past.jobs["waiting"], "someone else")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Approve the release").click()
    page.get_by_role("alert").filter(has_text="does not await approval").wait_for(timeout=PATIENCE_MS)


def test_releases_are_promoted_pinned_and_rolled_back(past, admin):
    page = admin.visit("/ops/releases/r-first")
    assert "kept on disk" in agree(admin, page.get_by_role("button", name="Pin"))
    assert releases.get(past.store, "r-first").pinned
    agree(admin, page.get_by_role("button", name="Unpin"))
    assert not releases.get(past.store, "r-first").pinned
    assert "r-live is retired" in agree(admin, page.get_by_role("button", name="Make it live"))
    assert releases.live(past.store).id == "r-first"
    releases.promote(past.store, "r-live", "ann")
    page = admin.visit("/ops/releases")
    assert "r-first is live again" in agree(admin, page.get_by_role("button", name="Roll back to r-first"))
    assert {each.id: each.state for each in releases.list_releases(past.store)}["r-live"] == "rolled_back"


def test_a_release_is_tried_and_its_trial_stopped_or_promoted(past, admin):
    page = admin.visit("/ops/releases/r-first")
    page.get_by_label("Mode").select_option("shadow")
    page.get_by_label("Share of the conversations").fill("0.5")
    agree(admin, page.get_by_role("button", name="Try it"))
    canary = canaries.current(past.store)
    assert (canary.release_id, canary.mode, canary.share) == ("r-first", "shadow", 0.5)
    page = admin.visit("/ops/releases")
    assert "taken back" in agree(admin, page.get_by_role("button", name="Stop the trial"))
    assert canaries.newest(past.store).outcome == "stopped"
    on_trial(past.store, "r-first")
    page = admin.visit("/ops/releases")
    agree(admin, page.get_by_role("button", name="Promote r-first now"))
    assert releases.live(past.store).id == "r-first"


def test_a_key_that_may_only_read_sees_no_button(past):
    with a_visitor(past.url) as visitor:
        visitor.log_in(past.secrets["read"])
        page = visitor.visit("/ops/releases/r-first")
        assert [each.inner_text() for each in page.get_by_role("button").all()] == ["Log out"]


def test_a_job_is_started_by_the_keyboard_alone(past, admin):
    page = admin.visit("/ops/distillation")
    page.get_by_role("button", name="Start a job").wait_for()
    assert visited(admin) >= {"skip", "nav", "filters", "table"}
    page.get_by_label("Note, for people").focus()
    page.keyboard.type("typed")
    page.once("dialog", lambda dialog: dialog.accept())
    with page.expect_navigation(timeout=PATIENCE_MS):
        page.keyboard.press("Enter")
    assert jobs.newest(past.store).settings == {"note": "typed"}


def visited(visitor) -> set[str]:
    reached = visitor.reached_by_tab()
    assert not [name for name in reached if name.startswith("no visible focus")]
    return set(reached)
