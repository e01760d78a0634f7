"""The router's page in a real browser: the slider by keyboard, setting thresholds and undoing it, on a phone too."""

import json

import pytest

from ledger import releases
from ledger.set_thresholds import set_on
from tests.integration.dashboards.playwright_page import SCHEMES, WIDTHS, a_visitor, needs_chromium
from tests.integration.dashboards.routed import infeasible, priced, second_release, with_traffic
from tests.integration.dashboards.test_distillation_browser import agree

pytestmark = needs_chromium
PATIENCE_MS = 30_000


@pytest.fixture
def composed(tmp_path):
    with priced(tmp_path) as composed:
        yield composed


@pytest.fixture
def routed(served, tmp_path, router):
    with_traffic(served.store, tmp_path / "release", router)
    return served


@pytest.fixture
def admin(routed):
    with a_visitor(routed.url) as visitor:
        visitor.log_in(routed.secrets["admin"])
        visitor.said = []
        yield visitor


def opened(visitor, path="/ops/router"):
    """The page, its estimates read and drawn."""
    page = visitor.page
    page.goto(f"{visitor.url}{path}")
    # the gateway looks for releases every half second
    while page.get_by_text("is not read yet").count() or page.get_by_text("there is no router to look at").count():
        page.reload()
    page.locator("#point").wait_for(timeout=PATIENCE_MS)
    return page


def kept(store):
    return set_on(releases.live(store))


def slide(page, key, until):
    """Press a key on the slider until the form's button may be pressed and ``until`` holds of its point."""
    page.locator("#point").focus()
    for _ in range(60):
        page.keyboard.press(key)
        if until(point(page)):
            return point(page)
    raise AssertionError("there is no such point")


def point(page):
    points = json.loads(page.locator("#points").inner_text() or page.locator("#points").text_content())
    return points[int(page.locator("#point").input_value())]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_sound_in_both_colour_schemes_and_on_a_phone(routed, admin, scheme, width):
    opened(admin)
    page = admin.visit("/ops/router", scheme, width)
    page.locator("#point").wait_for(timeout=PATIENCE_MS)
    admin.check(f"router-estimated-{scheme}-{width}")
    assert page.locator(".uplot canvas").count() == 4
    for summary in page.locator("details > summary").all():
        summary.click()
    admin.check(f"router-opened-{scheme}-{width}")


def test_pages_with_nothing_to_show_are_sound_too(served, tmp_path, router):
    with a_visitor(served.url) as visitor:
        visitor.log_in(served.secrets["admin"])
        visitor.visit("/ops/router", "dark", 360)
        with_traffic(served.store, tmp_path / "release", infeasible(router))
        opened(visitor)
        for scheme in SCHEMES:
            page = visitor.visit("/ops/router", scheme, 360)
            page.locator("#point").wait_for(timeout=PATIENCE_MS)
            visitor.check(f"router-infeasible-{scheme}")


def test_keys_move_the_slider_and_what_it_would_do_is_said_at_once(routed, admin):
    page = opened(admin)
    said = page.locator("#point-said")
    assert said.inner_text().startswith("In force now.")
    assert page.get_by_role("button", name="Set these thresholds").is_disabled()
    before = page.locator("#point").input_value()
    page.locator("#point").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#point").input_value() == str(int(before) + 1)
    assert said.inner_text() == point(page)["said"]
    assert page.locator("#point").get_attribute("aria-valuetext") == point(page)["name"]
    page.keyboard.press("End")
    assert "The teacher answers 100.0%" in said.inner_text()
    assert said.get_attribute("role") == "status"
    assert not page.get_by_label("I accept").is_visible()
    page.keyboard.press("Home")
    assert "The teacher answers 0.0%" in said.inner_text()
    assert page.get_by_label("I accept").is_visible()
    admin.check("router-slid")
    assert kept(routed.store) is None


def test_thresholds_are_set_by_the_keyboard_alone_and_undone(routed, admin):
    page = opened(admin)
    chosen = slide(page, "ArrowRight", lambda found: found["kept"] and not found["now"])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Set these thresholds"
    asked = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    with page.expect_navigation(timeout=PATIENCE_MS):
        page.keyboard.press("Enter")
    assert asked == [chosen["confirm"]]
    found = kept(routed.store)
    assert (found.hard, found.confident, found.guaranteed) == (
        chosen["body"]["hard"],
        chosen["body"]["confident"],
        True,
    )
    page.get_by_text("Set by admin at").wait_for()
    page.locator("#point").wait_for(timeout=PATIENCE_MS)
    assert "which undoing sets again" in page.inner_text("main")
    admin.check("router-set")
    undone = agree(admin, page.get_by_role("button", name="Back to the release's own thresholds"))
    assert "those it came with again: hard 0.500" in undone
    assert kept(routed.store) is None
    assert page.get_by_text("Set by admin at").count() == 0


def test_what_has_no_guarantee_takes_a_tick_before_it_is_asked(routed, admin):
    page = opened(admin)
    chosen = slide(page, "ArrowLeft", lambda found: not found["kept"])
    button = page.get_by_role("button", name="Set these thresholds")
    button.click()
    page.wait_for_timeout(300)
    assert kept(routed.store) is None
    assert page.evaluate("document.activeElement.type") == "checkbox"
    page.get_by_label("I accept").check()
    assert "They are set without the guarantee" in agree(admin, button)
    found = kept(routed.store)
    assert (found.hard, found.guaranteed) == (chosen["body"]["hard"], False)
    page.get_by_text("They have no guarantee").wait_for()


def test_nothing_is_set_where_the_person_says_no_or_another_release_is_live(routed, admin, router, tmp_path):
    page = opened(admin)
    slide(page, "ArrowRight", lambda found: found["kept"] and not found["now"])
    button = page.get_by_role("button", name="Set these thresholds")
    page.once("dialog", lambda dialog: dialog.dismiss())
    button.click()
    page.wait_for_timeout(300)
    assert kept(routed.store) is None
    second_release(routed.store, tmp_path / "two", router)
    # the gateway that was asked must have seen it
    page.wait_for_timeout(1_500)
    page.once("dialog", lambda dialog: dialog.accept())
    button.click()
    page.get_by_role("alert").filter(has_text="meant for rel-1, and rel-2 is live").wait_for(timeout=PATIENCE_MS)
    assert kept(routed.store) is None


def test_without_scripts_a_point_is_looked_at_by_the_table(routed, admin):
    page = opened(admin)
    context = page.context.browser.new_context(java_script_enabled=False)
    context.add_cookies(page.context.cookies())
    plain = context.new_page()
    plain.goto(f"{routed.url}/ops/router")
    plain.get_by_role("link", name="Estimate now").click()
    plain.locator("details > summary").first.click()
    name = plain.get_by_role("button", name="Look at").nth(2).get_attribute("aria-label")
    plain.get_by_role("button", name="Look at").nth(2).click()
    assert plain.url.endswith("/ops/router?at=2")
    assert plain.locator("#point").get_attribute("aria-valuetext") == name.removeprefix("Look at ")
    assert "PUT /admin/v1/router/thresholds" in plain.inner_text("main")


def test_a_key_that_may_only_read_sees_what_it_would_do_and_no_button(routed):
    with a_visitor(routed.url) as visitor:
        visitor.log_in(routed.secrets["read"])
        page = opened(visitor)
        page.locator("#point").focus()
        page.keyboard.press("End")
        assert "The teacher answers 100.0%" in page.locator("#point-said").inner_text()
        assert page.get_by_role("button", name="Set these thresholds").count() == 0
