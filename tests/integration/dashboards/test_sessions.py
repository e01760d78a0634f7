"""A browser's session: begun with a key, good for the pages and for changes with their token, ended with the key."""

import time

import pytest
from litestar.testing import TestClient

from gateway.sessions import Sessions
from ledger import keys

FORM = {"content-type": "application/x-www-form-urlencoded"}
BROWSER = {"accept": "text/html"}


@pytest.fixture
def browser(composed):
    with TestClient(composed.app) as client:
        client.follow_redirects = False
        yield client


def log_in(browser, secret: str, target: str = "/ops"):
    return browser.post("/ops/session", content=f"key={secret}&next={target}", headers=FORM)


def token_of(page: str) -> str:
    return page.partition('"x-csrf-token": "')[2].partition('"')[0]


def test_a_page_without_a_session_leads_to_the_login_and_from_there_back_to_the_page(browser, composed):
    asked = browser.get("/ops?range=24h", headers=BROWSER)
    assert (asked.status_code, asked.headers["location"]) == (303, "/ops/login?next=/ops%3Frange%3D24h")
    assert "API key" in browser.get(asked.headers["location"]).text
    begun = log_in(browser, composed.secrets["read"], "/ops?range=24h")
    assert (begun.status_code, begun.headers["location"]) == (303, "/ops?range=24h")
    cookie = begun.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert browser.get("/ops", headers=BROWSER).status_code == 200


@pytest.mark.parametrize("target", ["https://example.com", "//example.com", "/admin/v1/keys", "/ops/login"])
def test_a_login_leads_nowhere_but_to_the_pages(browser, composed, target):
    assert log_in(browser, composed.secrets["read"], target).headers["location"] == "/ops"


@pytest.mark.parametrize(("secret", "why"), [("sk-wrong", "key"), ("inference", "scope")])
def test_a_key_that_may_not_is_refused_in_words(browser, composed, secret, why):
    refused = log_in(browser, composed.secrets.get(secret, secret))
    assert refused.headers["location"].startswith(f"/ops/login?refused={why}")
    assert "set-cookie" not in refused.headers
    assert 'role="alert"' in browser.get(refused.headers["location"]).text


def test_a_session_changes_nothing_without_the_token_of_a_page(browser, composed):
    log_in(browser, composed.secrets["admin"])
    bare = browser.post("/admin/v1/jobs", json={})
    assert (bare.status_code, bare.json()["error"]["code"]) == (403, "csrf_token_missing")
    token = token_of(browser.get("/ops", headers=BROWSER).text)
    assert browser.post("/admin/v1/jobs", json={}, headers={"x-csrf-token": token}).status_code == 202


def test_a_session_has_the_scopes_of_its_key_and_never_asks_a_model(browser, composed):
    log_in(browser, composed.secrets["read"])
    token = {"x-csrf-token": token_of(browser.get("/ops", headers=BROWSER).text)}
    assert browser.post("/admin/v1/jobs", json={}, headers=token).status_code == 403
    asked = browser.post("/v1/chat/completions", json={"model": "auto", "messages": []}, headers=token)
    assert asked.status_code == 401


def test_a_revoked_key_and_a_logout_end_the_session(browser, composed):
    log_in(browser, composed.secrets["read"])
    key = next(key for key in keys.list_keys(composed.store) if key.scopes == ("read",))
    keys.revoke(composed.store, key.id, "test")
    until_refused = time.monotonic() + 30
    while browser.get("/ops", headers=BROWSER).status_code != 303:
        assert time.monotonic() < until_refused
        time.sleep(0.1)
    log_in(browser, composed.secrets["admin"])
    assert browser.get("/ops", headers=BROWSER).status_code == 200
    ended = browser.post("/ops/session/end")
    assert ended.headers["location"] == "/ops/login"
    assert browser.get("/ops", headers=BROWSER).status_code == 303


def test_a_cookie_that_was_changed_or_is_of_another_home_is_none_of_ours(tmp_path):
    ours, other = Sessions.of(tmp_path / "a"), Sessions.of(tmp_path / "b")
    value = ours.issue("key_1")
    assert ours.read(value) == Sessions.of(tmp_path / "a").read(value) == "key_1"
    assert (tmp_path / "a" / "session.key").stat().st_mode & 0o777 == 0o600
    changed = value.replace("key_1", "key_2")
    strangers = ((other, value), (ours, changed), (ours, ""), (ours, "a.b.c.d"))
    assert [sessions.read(each) for sessions, each in strangers] == [None] * 4
