"""Keys with policies: what each field does to real requests, and how fast a change holds in all processes."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.app import build_app
from gateway.settings import EmbeddingsSettings
from ledger import keys
from ledger.keys import KeyPolicy
from ledger.prices import Price
from ledger.store import now_ms, open_store, sqlite_url
from router.model import RouterModel
from tests.gateway_fixtures import (
    EASY,
    HARD,
    SURE,
    World,
    chat_body,
    running_world,
    serving,
    settings,
    stream_data,
    wait_until,
)
from tests.scripted_upstream import Script, ScriptedUpstream

IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
WAIT_S = 30.0
Maker = Callable[..., "Holder"]


class Holder:
    """A key that the gateway knows, and who holds it."""

    def __init__(self, world: World, **policy: Any) -> None:
        self.world = world
        self.key, self.secret = keys.create(world.store, "app", ["inference"], "test", policy=KeyPolicy(**policy))
        wait_until(lambda: self.get("/v1/models").status_code == 200)

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secret}"}

    def get(self, path: str) -> httpx.Response:
        return self.world.client.get(self.world.url + path, headers=self.headers)

    def chat(self, text: Any = EASY, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        return self.world.chat(text, self.headers | (headers or {}), **fields)


@pytest.fixture
def holder(world: World) -> Maker:
    return lambda **policy: Holder(world, **policy)


def route(answer: httpx.Response) -> tuple[str, str]:
    return answer.headers["x-stillroom-route"], answer.headers["x-stillroom-reason"]


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# what a key may


def test_a_key_sends_and_sees_the_models_that_it_may(holder: Maker):
    app = holder(models=("gpt-4o-mini", "student"))
    assert app.chat(model="gpt-4o-mini").status_code == 200
    assert code(app.chat(model="auto")) == (403, "model_not_found")
    assert code(app.chat(model="nothing")) == (404, "model_not_found")
    assert [model["id"] for model in app.get("/v1/models").json()["data"]] == ["student", "gpt-4o-mini"]
    assert app.get("/v1/models/student").status_code == 200
    assert code(app.get("/v1/models/auto")) == (404, "model_not_found")


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_of_one_route_is_answered_by_it_alone(holder: Maker, stream: bool):
    students, teachers = holder(routes=("student",)), holder(routes=("teacher",))
    assert route(students.chat(HARD, stream=stream)) == ("student", "pinned")
    assert route(teachers.chat(EASY, stream=stream)) == ("teacher", "pinned")
    for answer in (
        students.chat(model="teacher"),
        students.chat(headers={"x-stillroom-route": "teacher"}),
        students.chat(IMAGE),
        teachers.chat(model="student"),
    ):
        assert code(answer) == (403, "route_not_allowed")
    assert [model["id"] for model in teachers.get("/v1/models").json()["data"]] == ["auto", "teacher", "gpt-4o-mini"]


def test_a_key_of_one_route_does_not_fall_back_to_the_other(holder: Maker, world: World):
    students, teachers = holder(routes=("student",)), holder(routes=("teacher",))
    world.student.reset(Script(status=500))
    world.teacher.reset(Script(status=500))
    for app, upstream in ((students, world.teacher), (teachers, world.student)):
        seen = len(upstream.seen)
        assert app.chat(HARD).status_code in (502, 503)
        assert len(upstream.seen) == seen


def test_a_key_has_its_own_meaning_of_auto(holder: Maker):
    app = holder(default_route="teacher")
    assert route(app.chat(EASY)) == ("teacher", "pinned")
    assert route(app.chat(EASY, model="gpt-4o-mini")) == ("teacher", "pinned")
    assert route(app.chat(EASY, {"x-stillroom-route": "student"})) == ("student", "pinned")
    assert route(app.chat(EASY, model="student")) == ("student", "pinned")


def test_a_keys_tags_are_on_its_rows_before_those_of_the_request(holder: Maker, world: World):
    app = holder(tags=("team-a", "prod"))
    answer = app.chat(headers={"x-stillroom-tags": "x, prod"})
    assert world.row(answer.headers["x-request-id"])["tags"] == ["team-a", "prod", "x"]


def test_nothing_of_the_content_is_kept_for_a_key_that_says_so(holder: Maker, world: World):
    canary = "canary-77-zeppelin"
    answer = holder(log_content=False).chat(f"{EASY} {canary}")
    row, content = world.recorded(answer.headers["x-request-id"])
    assert (row["status"], content) == (200, None)
    assert canary.encode() not in world.everything_written()


# limits


def test_all_six_headers_tell_of_the_limits_of_a_key(holder: Maker):
    answer = holder(requests_per_minute=10, tokens_per_minute=5_000).chat(max_tokens=100)
    shown = {name: value for name, value in answer.headers.items() if name.startswith("x-ratelimit")}
    assert len(shown) == 6
    assert (shown["x-ratelimit-limit-requests"], shown["x-ratelimit-remaining-requests"]) == ("10", "9")
    assert shown["x-ratelimit-limit-tokens"] == "5000"
    assert 4_800 < int(shown["x-ratelimit-remaining-tokens"]) < 4_900


def test_a_key_past_its_requests_is_refused_and_others_are_not(holder: Maker, world: World):
    app = holder(requests_per_minute=3)
    answers = [app.chat() for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 3 + [429]
    assert code(answers[-1]) == (429, "rate_limit_exceeded")
    assert answers[-1].headers["retry-after"] == "20"
    assert answers[-1].headers["x-ratelimit-remaining-requests"] == "0"
    assert len(world.student.seen) == 3
    assert world.chat().status_code == 200


def test_a_request_that_cannot_be_read_counts_too(holder: Maker, world: World):
    app = holder(requests_per_minute=1)
    assert app.chat(messages=[]).status_code == 400
    assert app.chat(messages=[]).status_code == 429


def test_tokens_are_settled_by_what_was_really_used(holder: Maker, world: World):
    app = holder(tokens_per_minute=1_000)
    first = app.chat(max_tokens=900)
    assert int(first.headers["x-ratelimit-remaining-tokens"]) < 100
    second = app.chat(max_tokens=900)
    assert second.status_code == 200
    assert int(second.headers["x-ratelimit-remaining-tokens"]) < 100
    world.student.script = Script(text="word " * 3_000, logprob=SURE)
    assert app.chat(max_tokens=10).status_code == 200
    refused = app.chat(max_tokens=10)
    assert code(refused) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) > 60
    assert code(app.chat(max_tokens=5_000)) == (429, "rate_limit_exceeded")


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_has_so_many_requests_in_flight_and_its_slots_come_back(holder: Maker, world: World, stream: bool):
    app = holder(max_concurrent=2)
    world.student.script = Script(text="a b c d e f g h", logprob=SURE, delay=0.3, gap=0.02)
    for _ in range(2):
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: app.chat(stream=stream), range(6)))
        assert sorted(answer.status_code for answer in answers) == [200] * 2 + [429] * 4
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert (code(refused), refused.headers["retry-after"]) == ((429, "rate_limit_exceeded"), "1")
        wait_until(lambda: world.app.state.admission.in_flight == 0)


def leave_early(app: Holder, world: World) -> None:
    with world.client.stream(
        "POST", f"{world.url}/v1/chat/completions", json=chat_body(stream=True), headers=app.headers
    ) as answer:
        next(answer.iter_raw())


def time_out(app: Holder, world: World) -> None:
    with contextlib.suppress(httpx.ReadTimeout):
        httpx.post(f"{world.url}/v1/chat/completions", json=chat_body(), headers=app.headers, timeout=0.2)


ENDS = {
    "an answer": (Script(logprob=SURE), lambda app, _: app.chat()),
    "a stream": (Script(logprob=SURE), lambda app, _: app.chat(stream=True)),
    "a stream that breaks off": (Script(logprob=SURE, cut_after=6), lambda app, _: app.chat(stream=True)),
    "a refusal of the upstream": (Script(status=400), lambda app, _: app.chat(model="student")),
    "a fault of the upstream": (Script(status=500), lambda app, _: app.chat(model="student")),
    "a body that is none": (Script(), lambda app, _: app.chat(messages=7)),
    "a model that is none": (Script(), lambda app, _: app.chat(model="none")),
    "a client that leaves a stream": (Script(text="w " * 400, logprob=SURE, gap=0.02), leave_early),
    "a client that leaves": (Script(logprob=SURE, delay=5), time_out),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_slot_comes_back_whatever_the_end(holder: Maker, world: World, end: str):
    app = holder(max_concurrent=1, tokens_per_minute=1_000_000, budget_day=1_000.0)
    script, ask = ENDS[end]
    for _ in range(2):
        world.student.reset(script)
        ask(app, world)
        wait_until(lambda: world.app.state.admission.in_flight == 0)
    admission = world.app.state.admission
    assert (admission._of_key, admission._unsettled) == ({}, {})
    assert admission.budgets._accounts[app.key.id].reserved == 0
    world.student.reset(Script(logprob=SURE))
    assert app.chat().status_code == 200


def test_a_gateway_that_is_full_refuses_before_the_body_and_counts_streams_to_their_end(tmp_path: Path):
    def change(config):
        return replace(config, gateway=msgspec.structs.replace(config.gateway, max_in_flight=2))

    with running_world(tmp_path, None, change) as world:
        world.teacher.script = Script(text="word " * 20, gap=0.05)
        with world.streaming() as one, world.streaming() as other:
            assert one.status_code == other.status_code == 200
            refused = world.chat(messages="not even read")
            assert code(refused) == (429, "server_is_overloaded")
            assert refused.headers["retry-after"] == "1"
            assert "stillroom_in_flight_requests 2.0" in world.get("/metrics").text
            one.read()
            other.read()
        wait_until(lambda: "stillroom_in_flight_requests 0.0" in world.get("/metrics").text)
        assert world.chat().status_code == 200


def test_embeddings_keep_to_the_policy_of_their_key(tmp_path: Path):
    server = ScriptedUpstream()
    server.reset(Script(body=b'{"data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}}'))

    def change(config):
        embeddings = EmbeddingsSettings(base_url=server.url, model="embed-small", price=Price(input=1_000.0))
        return replace(config, embeddings=embeddings)

    with contextlib.closing(server), running_world(tmp_path, None, change) as world:

        def ask(app: Holder) -> httpx.Response:
            body = {"model": "embed-small", "input": "hello"}
            return world.client.post(f"{world.url}/v1/embeddings", json=body, headers=app.headers)

        assert code(ask(Holder(world, models=("auto",)))) == (403, "model_not_found")
        assert code(ask(Holder(world, routes=("student",)))) == (403, "route_not_allowed")
        # a default route is for what is routed
        assert ask(Holder(world, default_route="student")).status_code == 200
        soft = Holder(world, budget_day=0.008, budget_kind="soft")
        assert ask(soft).status_code == 200
        assert code(ask(soft)) == (429, "insufficient_quota")
        app = Holder(world, models=("embed-small",), tokens_per_minute=1_000)
        assert ask(app).status_code == 200
        assert 980 <= int(ask(app).headers["x-ratelimit-remaining-tokens"]) <= 992
        assert [model["id"] for model in app.get("/v1/models").json()["data"]] == ["embed-small"]


# the admin API


def admin(world: World, method: str, path: str, body: Any = None) -> httpx.Response:
    return world.client.request(method, f"{world.url}/admin/v1/keys{path}", json=body, headers=world.headers("admin"))


def test_a_key_is_made_shown_changed_rotated_and_revoked_over_http(world: World):
    made = admin(
        world, "POST", "", {"name": "shop", "owner": "ann", "budget_day": 1, "expires_at": "2100-01-01T00:00:00Z"}
    )
    assert made.status_code == 201
    key = made.json()["key"]
    assert key["policy"] == {"owner": "ann", "budget_day": 1.0}
    assert key["expires_at"] == 4_102_444_800_000
    shown = admin(world, "GET", f"/{key['id']}").json()
    assert shown["key"] == key
    assert shown["spend"]["day"] == {"spent": 0.0, "budget": 1.0, "remaining": 1.0}
    assert shown["spend"]["month"] == {"spent": 0.0, "budget": None, "remaining": None}
    changed = admin(world, "PATCH", f"/{key['id']}", {"owner": None, "requests_per_minute": 5})
    assert changed.json()["policy"] == {"budget_day": 1.0, "requests_per_minute": 5}
    rotated = admin(world, "POST", f"/{key['id']}/rotate", {"overlap_seconds": 60})
    assert rotated.status_code == 200
    assert rotated.json()["secret"] != made.json()["secret"]
    assert now_ms() < rotated.json()["key"]["previous_until"] <= now_ms() + 60_000
    assert admin(world, "POST", f"/{key['id']}/revoke").json()["id"] == key["id"]
    assert admin(world, "GET", f"/{key['id']}").json()["key"]["revoked_at"] is not None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "x", "budget_day": -1}, "budget_day"),
        ({"name": "x", "routes": ["cloud"]}, "routes"),
        ({"name": "x", "expires_at": "soon"}, "expires_at"),
        ({"name": "x", "expires_at": 1}, "expires_at"),
        ({"name": "x", "scopes": ["root"]}, "scopes"),
        ({"name": ""}, "name"),
        ({"name": "x", "nothing": 1}, None),
        ({"name": 1}, None),
        ({}, None),
        ([], None),
    ],
    ids=str,
)
def test_a_key_that_makes_no_sense_is_a_bad_request_that_names_the_field(world: World, body: Any, param: str | None):
    answer = admin(world, "POST", "", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_changes_of_a_key_that_is_not_there_are_404(world: World):
    for method, path in (("GET", "/x"), ("PATCH", "/x"), ("POST", "/x/rotate"), ("POST", "/x/revoke")):
        assert admin(world, method, path, {}).status_code == 404
    made = admin(world, "POST", "", {"name": "y"}).json()["key"]
    answer = admin(world, "PATCH", f"/{made['id']}", {"nothing": 1})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "nothing")
    assert admin(world, "POST", f"/{made['id']}/rotate", {"overlap_seconds": -1}).status_code == 400


# all processes


@pytest.fixture(scope="module")
def pair(router: RouterModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    """A world, and the URL of a second gateway over the same store."""
    home = tmp_path_factory.mktemp("pair")
    with running_world(home, router) as world:
        store = open_store(sqlite_url(home))
        with serving(build_app(settings(world.teacher.url, home), store), 5) as other:
            yield world, other
        store.close()


def both(pair: tuple[World, str], secret: str, status: int) -> bool:
    """Whether both gateways answer so."""
    world, other = pair
    headers = {"authorization": f"Bearer {secret}"}
    paths = [f"{url}/v1/models/student" for url in (world.url, other)]
    return all(world.client.get(path, headers=headers).status_code == status for path in paths)


def test_every_change_of_a_key_comes_to_hold_in_all_gateways(pair: tuple[World, str]):
    world, _ = pair
    key, secret = keys.create(world.store, "app", ["inference"], "test")
    assert both(pair, secret, 200)
    keys.update_policy(world.store, key.id, {"models": ["auto"]}, "test")
    wait_until(lambda: both(pair, secret, 404), WAIT_S)
    keys.update_policy(world.store, key.id, {"models": None}, "test")
    wait_until(lambda: both(pair, secret, 200), WAIT_S)
    _, second = keys.rotate(world.store, key.id, 0, "test")
    assert both(pair, second, 200)
    wait_until(lambda: both(pair, secret, 401), WAIT_S)
    _, third = keys.rotate(world.store, key.id, 3_600, "test")
    assert both(pair, third, 200)
    assert both(pair, second, 200)  # the overlap
    _, fourth = keys.rotate(world.store, key.id, 1, "test")
    assert both(pair, fourth, 200)
    wait_until(lambda: both(pair, third, 401), WAIT_S)
    until = keys.get(world.store, key.id).previous_until
    assert until is not None
    assert now_ms() >= until
    keys.revoke(world.store, key.id, "test")
    wait_until(lambda: both(pair, fourth, 401), WAIT_S)


def test_a_stream_goes_on_though_its_key_is_revoked(holder: Maker, world: World):
    app = holder()
    world.student.script = Script(text="word " * 30, logprob=SURE, gap=0.05)
    asked = threading.Thread(target=lambda: answers.append(app.chat(stream=True)))
    answers: list[httpx.Response] = []
    asked.start()
    wait_until(lambda: len(world.student.seen) == 1)
    keys.revoke(world.store, app.key.id, "test")
    asked.join()
    assert stream_data(answers[0])[-1] == "[DONE]"
    wait_until(lambda: app.get("/v1/models").status_code == 401, WAIT_S)
