"""Keys and budgets, Serving and Audit as the composed gateway serves them, and in a real browser."""

import csv
import html
import io
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from dashboards import serving_words
from ledger import audit, jobs, keys, releases, replicas
from ledger.keys import KeyPolicy, digest
from ledger.records import NANO
from ledger.replicas import Replica
from ledger.requests import insert_records
from ledger.store import now_ms
from tests.integration.dashboards.playwright_page import SCHEMES, WIDTHS, a_visitor, needs_chromium
from tests.unit.ledger.rows import release, row

PATIENCE_MS = 30_000
NASTY = "\"'<script>alert(1)</script>"
TOKENS = {"generated": 100}
METRICS = """# HELP vllm:num_requests_running Number of requests
vllm:num_requests_running{engine="0",model_name="a {b} c"} 3.0
vllm:num_requests_waiting{engine="0",model_name="a {b} c"} 17.0
vllm:kv_cache_usage_perc{engine="0",model_name="a {b} c"} 0.42
vllm:prompt_tokens_total{engine="0",model_name="a {b} c"} 5000.0
vllm:generation_tokens_total{engine="0",model_name="a {b} c"} %d.0
"""


class Engine(BaseHTTPRequestHandler):
    """What answers at a server's ``/metrics``; each time it has generated 1,000 tokens more."""

    def do_GET(self):
        TOKENS["generated"] += 1_000
        body = (METRICS % TOKENS["generated"]).encode()
        self.send_response(200 if self.path == "/metrics" else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def engine():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def a_fleet(store, engine: str) -> None:
    """A live release with a busy server, and one that went down."""
    releases.add(store, release("r-old"))
    releases.add(store, release("r-new", "r-old", 2))
    releases.promote(store, "r-old", "test")
    releases.promote(store, "r-new", "test")
    for each in (
        Replica("m-keeper", "", "", "keeper", 0),
        Replica("m-r-new", "r-new", engine, "ready", 0),
        Replica("m-r-old", "r-old", "http://127.0.0.1:9/v1", "down", 0),
    ):
        replicas.report(store, each)


def spender(store, name: str = "support-bot"):
    """A key with budgets, limits and spend."""
    policy = KeyPolicy(owner="ann", tags=("shop", "eu"), budget_day=10, budget_month=250.5, requests_per_minute=60)
    key, secret = keys.create(store, name, ["inference"], "test", policy=policy)
    insert_records(store, [row(f"{name}-1", created_at=now_ms(), key_id=key.id, cost_nano=25 * NANO // 10)])
    return key, secret


def shown(page: str) -> list[str]:
    return re.findall(r'<th scope="row"><a href="[^"]+">([^<]+)', page)


def link(page: str, text: str) -> str:
    found = re.search(rf'href="([^"]+)"[^>]*>{text}', page)
    assert found, f"there is no link {text!r}"
    return html.unescape(found[1])


def test_a_key_is_shown_with_what_it_spent_of_its_budgets_and_never_with_its_secret_or_a_hash(ops):
    key, secret = spender(ops.store)
    page, one = ops.get("/ops/keys").text, ops.get(f"/ops/keys/{key.id}").text
    for text in (
        "support-bot",
        "ann",
        "shop, eu",
        "2.50 of 10.00, 25%",
        "2.50 of 250.50, 1%",
        "60 requests a minute",
    ):
        assert text in page, text
    assert "2.50 of 10.00, 25%" in one
    for answer in (page, one, ops.get(f"/ops/keys/{key.id}", "admin").text, ops.get("/ops/audit", "admin").text):
        assert secret not in answer
        assert digest(secret) not in answer


def test_pages_of_keys_go_on_from_each_other_and_filters_are_in_the_address(ops):
    made = [keys.create(ops.store, f"k{i:03d}", ["inference"], "test")[0] for i in range(60)]
    keys.revoke(ops.store, made[7].id, "test")
    page = ops.get("/ops/keys?name=K0").text
    rest = ops.get(link(page, "Older keys")).text
    found = shown(page) + shown(rest)
    assert sorted(found) == [f"k{i:03d}" for i in range(60) if i != 7]
    assert "Older keys" not in rest
    assert shown(ops.get("/ops/keys?state=revoked").text) == ["k007"]
    rows = list(csv.DictReader(io.StringIO(ops.get(link(ops.get("/ops/keys?state=").text, "CSV")).text)))
    assert {each["state"] for each in rows} == {"active", "revoked"}
    assert len(rows) == 60 + len(keys.SCOPES)
    assert "These are the newest" in ops.get("/ops/keys?after=key_gone").text


def test_only_an_admin_is_shown_what_changes_a_key(ops):
    key, _ = spender(ops.store)
    for path in ("/ops/keys", f"/ops/keys/{key.id}"):
        assert "hx-p" not in ops.get(path, "read").text
        assert "hx-p" in ops.get(path, "admin").text
    assert ops.get("/ops/keys/none").status_code == 404


def test_names_and_owners_become_no_markup(ops):
    key, _ = keys.create(
        ops.store, NASTY, ["read"], "test", policy=KeyPolicy(owner=NASTY, tags=(NASTY,), models=(NASTY,))
    )
    for path in ("/ops/keys", f"/ops/keys/{key.id}", "/ops/audit"):
        page = ops.get(path, "admin").text
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)" in page


def test_the_audit_says_what_was_before_and_after_and_is_for_admins(ops):
    key, _ = spender(ops.store)
    keys.update_policy(ops.store, key.id, {"budget_day": 20}, "ben")
    refused = ops.get("/ops/audit", "read")
    assert (refused.status_code, "scope admin" in refused.text) == (403, True)
    page = ops.get("/ops/audit?action=key.update", "admin").text
    assert "<b>budget_day</b>: <del>10.0</del> <ins>20.0</ins>" in page
    assert "budget_month" not in page
    assert "ben" in page
    (entry,) = csv.DictReader(io.StringIO(ops.get(link(page, "CSV"), "admin").text))
    assert (entry["actor"], '"budget_day":10.0' in entry["before"]) == ("ben", True)
    assert "key.create" not in ops.get("/ops/audit?action=job", "admin").text.partition("</datalist>")[2]


def test_pages_of_the_audit_go_on_from_each_other(ops):
    for i in range(55):
        jobs.create(ops.store, "manual", "ann", {"note": str(i)})
    page = ops.get("/ops/audit?action=job.create", "admin").text
    rest = ops.get(link(page, "Older entries"), "admin").text
    found = [each for text in (page, rest) for each in re.findall(r"<td>(job_\w+)</td>", text)]
    assert len(found) == len(set(found)) == 55
    assert "Older entries" not in rest


def test_serving_shows_each_servers_own_figures_and_what_asks_for_a_look(ops, engine):
    assert "No student server runs" in ops.get("/ops/serving").text
    a_fleet(ops.store, engine)
    ops.get("/ops/serving/now")
    page = ops.get("/ops/serving/now").text
    assert "<html" not in page
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    at = cells.index("m-r-new")
    assert cells[at + 3 : at + 6] == ["3", "17", "42%"]
    assert float(cells[at + 6].replace(",", "")) > 0, "tokens a second, from two readings"
    assert cells[cells.index("m-r-old") + 2 :][:2] == ["down", "-"]
    assert "A student server is down" in page
    asked = ops.client.get("/admin/v1/serving", headers={"authorization": f"Bearer {ops.secrets['read']}"}).json()
    (busy, down) = asked["students"]
    assert (busy["figures"]["waiting"], down["figures"]) == (17.0, None)
    assert [each["state"] for each in asked["upstreams"] if each["name"] == "teacher"] == ["closed"]


def test_a_swap_that_is_under_way_is_said(ops, engine):
    a_fleet(ops.store, engine)
    replicas.remove(ops.store, "m-r-old")
    replicas.report(ops.store, Replica("m-r-new", "r-new", engine, "starting", 0))
    page = ops.get("/ops/serving/now").text
    assert "r-new is live and no server has it yet. Meanwhile the teacher answers" in page
    swapping = SimpleNamespace(
        live="r-new", routed="r-old", students=[SimpleNamespace(release_id="r-old", state="ready")]
    )
    assert serving_words.swap(swapping).endswith("Meanwhile r-old goes on answering.")
    replicas.report(ops.store, Replica("m-next", "", engine, "swappable", 0))
    assert "requests for the student wait for it" in ops.get("/ops/serving/now").text
    replicas.report(ops.store, Replica("m-r-new", "r-new", engine, "ready", 0))
    replicas.report(ops.store, Replica("m-r-old", "r-old", engine, "draining", 0))
    assert "r-new is served; 1 server of r-old ends" in ops.get("/ops/serving/now").text


# in a browser


@pytest.fixture
def admin(served):
    with a_visitor(served.url) as visitor:
        visitor.log_in(served.secrets["admin"])
        visitor.said = []
        yield visitor


def agree(visitor, button) -> str:
    """Press a button and agree to what it says."""

    def answer(dialog):
        visitor.said.append(dialog.message)
        dialog.accept()

    visitor.page.once("dialog", answer)
    button.click()
    return visitor.said[-1]


def taken_secret(visitor) -> str:
    """What the dialog shows, once it is closed; nothing of it is left in the page or the address."""
    page = visitor.page
    page.locator("#secret[open]").wait_for(timeout=PATIENCE_MS)
    visitor.check("key-secret")
    secret = page.get_by_role("textbox", name="Secret", exact=True).input_value()
    assert secret not in page.content()
    with page.expect_navigation(timeout=PATIENCE_MS):
        page.get_by_role("button", name="I have it").click()
    assert secret not in page.content() + page.url
    assert secret not in page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    return secret


def by_name(store, name: str):
    return next(key for key in keys.list_keys(store) if key.name == name)


class TestInABrowser:
    """Each action, both colour schemes, a phone, and the keyboard."""

    pytestmark = needs_chromium

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("width", WIDTHS)
    def test_the_pages_are_sound_in_both_colour_schemes_and_on_a_phone(self, served, admin, engine, scheme, width):
        key, _ = spender(served.store)
        keys.update_policy(served.store, key.id, {"budget_day": 20}, "ben")
        a_fleet(served.store, engine)
        for path in ("/ops/keys", f"/ops/keys/{key.id}", "/ops/serving", "/ops/audit", "/ops/audit?subject=none"):
            admin.visit(path, scheme, width)

    def test_a_key_is_made_with_what_the_form_says_and_its_secret_shown_once(self, served, admin):
        page = admin.visit("/ops/keys")
        form = page.locator("#create")
        form.get_by_label("Name", exact=True).fill("from the browser")
        form.get_by_label("read:").check()
        form.get_by_label("Owner").fill("ann")
        form.get_by_label("Tags").fill("shop, eu")
        form.get_by_label("A day", exact=True).fill("12.5")
        form.get_by_label("Requests a minute").fill("0")
        form.get_by_label("Content of its requests").select_option("not kept")
        form.get_by_label("Routes").select_option("student")
        form.get_by_label("Expires").fill("2050-01-31T12:00")
        assert "shown once" in agree(admin, page.get_by_role("button", name="Make the key"))
        secret = taken_secret(admin)
        key = by_name(served.store, "from the browser")
        assert page.url.endswith(f"/ops/keys/{key.id}")
        assert keys.load_active(served.store)[digest(secret)].id == key.id
        assert key.scopes == ("inference", "read")
        assert key.expires_at == 2_527_243_200_000
        assert key.policy == KeyPolicy(
            owner="ann", tags=("shop", "eu"), budget_day=12.5, requests_per_minute=0, log_content=False,
            routes=("student",),
        )  # fmt: skip

    def test_what_the_gateway_refuses_is_said_and_no_key_is_made(self, served, admin):
        page = admin.visit("/ops/keys")
        form = page.locator("#create")
        form.get_by_label("Name", exact=True).fill("poor")
        form.get_by_label("What auto means").select_option("teacher")
        form.get_by_label("Routes").select_option("student")
        agree(admin, page.get_by_role("button", name="Make the key"))
        page.get_by_text("teacher is not among the routes").wait_for(timeout=PATIENCE_MS)
        assert "poor" not in [key.name for key in keys.list_keys(served.store)]

    def test_a_policy_is_changed_and_what_is_emptied_is_set_back(self, served, admin):
        key, _ = spender(served.store)
        page = admin.visit(f"/ops/keys/{key.id}")
        form = page.locator("#change")
        form.get_by_label("A day", exact=True).fill("99")
        form.get_by_label("A month", exact=True).fill("")
        form.get_by_label("Tags").fill("")
        with page.expect_navigation(timeout=PATIENCE_MS):
            assert "within a second" in agree(admin, form.get_by_role("button", name="Save the changes"))
        expected = KeyPolicy(owner="ann", budget_day=99, requests_per_minute=60)
        assert keys.get(served.store, key.id).policy == expected
        assert "budget_month" in page.get_by_role("table", name="The newest changes").inner_text()

    def test_a_key_is_rotated_and_revoked_after_saying_what_that_does(self, served, admin):
        key, old = spender(served.store)
        page = admin.visit(f"/ops/keys/{key.id}")
        page.get_by_label("The present secret works for").select_option("no time more")
        assert "stops working" in agree(admin, page.get_by_role("button", name="Rotate"))
        new = taken_secret(admin)
        active = keys.load_active(served.store)
        assert (digest(old) in active, active[digest(new)].id) == (False, key.id)
        with page.expect_navigation(timeout=PATIENCE_MS):
            assert "cannot be undone" in agree(admin, page.get_by_role("button", name="Revoke"))
        assert digest(new) not in keys.load_active(served.store)
        assert "This key is revoked" in page.inner_text("main")
        assert page.get_by_role("button", name="Rotate").count() == 0
        actions = [entry["action"] for entry in audit.entries(served.store, 2)]
        assert actions == ["key.revoke", "key.rotate"]

    def test_nothing_is_revoked_where_the_person_says_no(self, served, admin):
        key, _ = spender(served.store)
        page = admin.visit(f"/ops/keys/{key.id}")
        page.once("dialog", lambda dialog: dialog.dismiss())
        page.get_by_role("button", name="Revoke").click()
        page.wait_for_timeout(300)
        assert keys.get(served.store, key.id).revoked_at is None

    def test_by_keyboard_alone_a_key_is_made_and_its_dialog_closed(self, served, admin):
        page = admin.visit("/ops/keys")
        assert admin.reached_by_tab()[:4] == ["skip", "nav", "filters", "table"]
        page.locator("#create").get_by_label("Name", exact=True).focus()
        page.once("dialog", lambda dialog: dialog.accept())
        page.keyboard.type("typed")
        page.keyboard.press("Enter")
        page.locator("#secret[open]").wait_for(timeout=PATIENCE_MS)
        with page.expect_navigation(timeout=PATIENCE_MS):
            page.keyboard.press("Escape")
        assert page.url.endswith(by_name(served.store, "typed").id)

    def test_serving_is_read_again_by_itself_and_holds_still_where_it_is_told_to(self, served, admin, engine):
        page = admin.visit("/ops/serving")
        assert "No student server runs" in page.inner_text("main")
        a_fleet(served.store, engine)
        page.get_by_text("m-r-new").first.wait_for(timeout=PATIENCE_MS)
        page.locator("#students").focus()
        with page.expect_response("**/ops/serving/now", timeout=PATIENCE_MS):
            pass
        page.wait_for_timeout(300)
        assert page.evaluate("document.activeElement.id") == "students"
        page.get_by_role("link", name="Hold still").click()
        assert page.locator("[hx-trigger]").count() == 0
        admin.check("serving-still")
