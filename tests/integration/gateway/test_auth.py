"""Who may call what: every route, every kind of wrong key."""

import re

import httpx
import pytest
from litestar.routes import HTTPRoute

from ledger import keys
from ledger.store import now_ms
from tests.gateway_fixtures import World, chat_body, wait_until

PAGES_BEFORE_LOGIN = {"/ops/login", "/ops/session", "/ops/session/end", "/ops/static/x"}
PUBLIC = {"/healthz", "/readyz", "/metrics", "/openapi.json", *PAGES_BEFORE_LOGIN}


def endpoints(world: World) -> list[tuple[str, str, str | None]]:
    """(method, path, scope) of every handler of the app, path parameters filled in."""
    return sorted(
        (str(method), re.sub(r"\{[^}]*\}", "x", route.path), handler.opt.get("scope"))
        for route in world.app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in handler.http_methods
    )


@pytest.fixture(scope="module")
def wrong_keys(module_world) -> dict[str, str]:
    """Authorization headers that open nothing."""
    store = module_world.store
    _, expired = keys.create(store, "expired", ["admin"], "test", now_ms() - 1)
    key, revoked = keys.create(store, "revoked", ["admin"], "test")
    keys.revoke(store, key.id, "test")
    client, url = module_world.client, f"{module_world.url}/v1/models"
    wait_until(lambda: client.get(url, headers={"authorization": f"Bearer {revoked}"}).status_code == 401)
    admin = module_world.secrets["admin"]
    return {
        "none": "",
        "unknown": "Bearer sk-stillroom-unknown",
        "expired": f"Bearer {expired}",
        "revoked": f"Bearer {revoked}",
        "cut": f"Bearer {admin[:-1]}",
        "longer": f"Bearer {admin}x",
        "its digest": f"Bearer {keys.digest(admin)}",
        "other scheme": f"Token {admin}",
        "no scheme": admin,
        "upper case": f"Bearer {admin.upper()}",
    }


def code_of(path: str, answer: httpx.Response) -> str:
    """The code of an error, whose shape is OpenAI's, and Anthropic's where its clients ask."""
    body = answer.json()
    if path.startswith("/v1/messages"):
        assert body.keys() == {"type", "error", "request_id"}
        assert body["error"].keys() == {"type", "message", "details"}
        return body["error"]["details"]["error_code"]
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return body["error"]["code"]


def test_every_route_declares_a_scope_and_only_the_known_ones_are_public(world: World):
    found = endpoints(world)
    assert len(found) > 20
    assert {path for method, path, scope in found if scope == "public"} == PUBLIC
    assert {scope for method, _, scope in found if method != "OPTIONS"} == {"public", "inference", "read", "admin"}


def test_no_route_answers_a_wrong_key(world: World, wrong_keys: dict[str, str]):
    tried = 0
    for method, path, _ in endpoints(world):
        if path in PUBLIC:
            continue
        for name, header in wrong_keys.items():
            headers = {"authorization": header} if header else {}
            answer = world.client.request(method, world.url + path, headers=headers)
            assert answer.status_code in (401, 403), (method, path, name)
            assert code_of(path, answer) in ("invalid_api_key", "insufficient_permissions")
            tried += 1
    assert tried > 200
    assert world.teacher.seen == world.student.seen == []


def test_no_route_answers_a_key_of_another_scope(world: World):
    for method, path, needed in endpoints(world):
        if path in PUBLIC:
            continue
        for scope in {"inference", "read"} - {needed}:
            answer = world.client.request(method, world.url + path, headers=world.headers(scope))
            assert (answer.status_code, code_of(path, answer)) == (403, "insufficient_permissions"), path


def test_a_key_in_the_query_opens_nothing(world: World):
    secret = world.secrets["admin"]
    answer = world.client.get(f"{world.url}/admin/v1/keys?api_key={secret}&authorization=Bearer%20{secret}")
    assert answer.status_code == 401


@pytest.mark.parametrize("path", ["//admin/v1/keys", "/%61dmin/v1/keys", "/admin/v1/keys/", "/admin/v1/./keys"])
def test_another_spelling_of_a_path_is_guarded_too(world: World, path: str):
    assert world.client.get(world.url + path).status_code in (401, 403, 404)


@pytest.mark.parametrize(
    "secret",
    [
        b"' OR '1'='1", b'"; DROP TABLE keys; --', b"sk-\x09x", "🔑🔑".encode(), b"\xff\xfe\xfd", b"x" * 10_000,
        b"%00", b"../../etc/passwd", b"{{7*7}}", b"Bearer", b"Bearer Bearer",
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"Basic ", b""])
def test_a_hostile_key_is_just_a_wrong_one(world: World, secret: bytes, scheme: bytes):
    answer = world.client.post(
        f"{world.url}/v1/chat/completions", json=chat_body(), headers=[(b"authorization", scheme + secret)]
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert world.get("/admin/v1/keys").status_code == 200


def test_a_key_may_come_as_a_password_and_a_browser_without_one_is_led_to_the_login(world: World):
    assert world.client.get(f"{world.url}/ops", auth=("anyone", world.secrets["read"])).status_code == 200
    asked = world.client.get(f"{world.url}/ops", headers={"accept": "text/html"})
    assert (asked.status_code, asked.headers["location"]) == (303, "/ops/login?next=/ops")


def test_a_key_is_taken_at_once_and_refused_soon_after_its_revocation(world: World):
    made = world.client.post(
        f"{world.url}/admin/v1/keys", json={"name": "short-lived"}, headers=world.headers("admin")
    ).json()
    headers = {"authorization": f"Bearer {made['secret']}"}
    assert world.client.get(f"{world.url}/v1/models", headers=headers).status_code == 200
    world.client.post(f"{world.url}/admin/v1/keys/{made['key']['id']}/revoke", headers=world.headers("admin"))
    wait_until(lambda: world.client.get(f"{world.url}/v1/models", headers=headers).status_code == 401, 30)


def test_a_key_that_another_process_made_is_taken_at_once(world: World):
    for number in range(2):
        _, secret = keys.create(world.store, f"made elsewhere {number}", ["read"], "test")
        asked = world.client.get(f"{world.url}/ops", headers={"authorization": f"Bearer {secret}"})
        assert asked.status_code == 200
        _, secret = keys.create(world.store, f"of a browser {number}", ["read"], "test")
        form = {"key": secret, "next": "/ops/keys"}
        assert world.client.post(f"{world.url}/ops/session", data=form).headers["location"] == "/ops/keys"


def test_no_key_is_written_or_shown(world: World):
    for scope in world.secrets:
        world.client.get(f"{world.url}/v1/nothing", headers=world.headers(scope))
    world.row(world.chat().headers["x-request-id"])
    written = world.everything_written()
    listed = world.get("/admin/v1/keys").text + world.get("/metrics").text + world.get("/ops").text
    for secret in world.secrets.values():
        assert secret.encode() not in written
        assert secret not in listed


def test_the_pages_and_the_admin_api_answer_the_right_keys(world: World):
    assert world.get("/ops", "read").status_code == 200
    assert world.get("/ops", "admin").status_code == 200
    assert world.get("/admin/v1/releases", "read").json()["data"][0]["state"] == "live"
    answer = world.chat()
    world.row(answer.headers["x-request-id"])
    shown = world.get(f"/admin/v1/requests/{answer.headers['x-request-id']}").json()
    assert shown["request"]["reason"] == "confident"
    assert shown["content"]["answer"] == "The student says good day."


def test_the_probes_need_no_key(world: World):
    assert world.client.get(f"{world.url}/healthz").json() == {"status": "ok"}
    assert world.client.get(f"{world.url}/readyz").json() == {"status": "ready"}
