"""Two keepers of one store, each at an address that others reach: both answer, roll together, and one may die."""

import http.client
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from distill.labels import served_students
from distill.likelihood import answer_logprob
from serving import readiness
from serving.fleet import keeper_alive
from serving.guard import TOKEN_VARIABLE
from serving.settings import StudentSettings
from tests.engine_fixtures import READY_SECONDS, survivors
from tests.gateway_fixtures import wait_until
from tests.integration.serving.test_swaps import LONG_S, TAKEN_OVER_S, check, taken_over
from tests.machines import KEY, Machine, machines, own_addresses
from tests.swap_world import SwapWorld

ADDRESSES = own_addresses()[:2]
pytestmark = [
    pytest.mark.engine,
    pytest.mark.several_engines,
    pytest.mark.timeout(10 * READY_SECONDS),
    pytest.mark.skipif(len(ADDRESSES) < 2, reason="this machine has no two addresses beside loopback"),
]
WEBSOCKET = {
    "connection": "upgrade", "upgrade": "websocket",
    "sec-websocket-version": "13", "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SwapWorld, list[Machine]]]:
    """A live release with a server on each of two machines."""
    with machines(tmp_path_factory.mktemp("machines"), ADDRESSES) as (swaps, keepers):
        swaps.add("r1", 1)
        swaps.promote("r1")
        wait_until(lambda: all(each.alive() for each in keepers) and len(swaps.urls("r1")) == 2, 2 * LONG_S)
        wait_until(lambda: len(swaps.world.app.state.live.snapshot.release.student_urls) == 2)
        yield swaps, keepers


def server_of(machine: Machine) -> psutil.Process:
    """The process of its student's server."""
    return next(each for each in machine.family() if TOKEN_VARIABLE in each.environ())


def said_ready(machine: Machine) -> float:
    """When it last said that its students are ready; 0 where it does not."""
    file = machine.log.with_name(readiness.FILE)
    return file.stat().st_mtime if file.exists() else 0


def told(url: str, method: str, headers: dict[str, str]) -> int:
    """The status of a request that httpx would not send."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
    connection.request(method, place.path, headers=headers)
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_stranger_is_refused_on_every_route_and_the_key_shows_nowhere(both):
    swaps, (first, second) = both
    urls = swaps.urls("r1")
    assert [sum(each.has(url) for url in urls) for each in (first, second)] == [1, 1]
    root = next(url for url in urls if first.has(url)).removesuffix("/v1")
    token = server_of(first).environ()[TOKEN_VARIABLE]
    with httpx.Client(base_url=root, timeout=30, trust_env=False) as client:
        listed = client.get("/openapi.json", headers={"authorization": f"Bearer {token}"}).json()["paths"]
        routes = [(method.upper(), path) for path, methods in listed.items() for method in methods]
        assert {("POST", "/v1/chat/completions"), ("GET", "/health"), ("POST", "/tokenize")} <= {*routes}
        for method, path in [*routes, ("GET", "/metrics"), ("GET", "/docs"), ("GET", "/nowhere"), ("PUT", "/health")]:
            for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": KEY}, {"authorization": KEY}):
                assert client.request(method, path, headers=headers, json={}).status_code == 401, (method, path)
        client.headers["authorization"] = f"Bearer {KEY}"
        statuses = {path: client.get(path).status_code for path in ("/health", "/metrics", "/docs", "/server_info")}
        assert statuses == {"/health": 200, "/metrics": 200, "/docs": 403, "/server_info": 403}
        assert client.post("/pause").status_code == 403
    assert told(f"{root}/v1/realtime", "GET", WEBSOCKET) == 403
    for machine in (first, second):
        assert KEY not in str([process.cmdline() for process in machine.family()])
        for log in machine.log.parent.rglob("*.log"):
            assert KEY not in log.read_text()


def test_each_says_in_its_home_that_its_students_are_ready(both):
    _, keepers = both
    began = time.time()
    for machine in keepers:
        wait_until(lambda of=machine: said_ready(of) > began)


async def test_both_answer_and_whoever_asks_them_has_the_key(both):
    swaps, keepers = both
    world = swaps.world
    for number in range(16):
        answer = world.chat(f"{number} parcels", model="student", max_tokens=2)
        assert (answer.status_code, answer.headers["x-stillroom-route"]) == (200, "student")
    shown = world.get("/admin/v1/serving").json()["students"]
    for machine in keepers:
        (figures,) = (each["figures"] for each in shown if machine.has(each["at"]))
        assert figures["generation_tokens"] >= 3, "more than the keeper's own first request"
    body = {"model": "student", "max_tokens": 1, "messages": [{"role": "user", "content": "How long is this?"}]}
    counted = world.client.post(f"{world.url}/v1/messages/count_tokens", json=body, headers=world.headers())
    assert counted.json()["input_tokens"] > 5
    (student,) = served_students(world.store, StudentSettings()).values()
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        assert await answer_logprob(client, student, body["messages"], "Not long.") < 0


def test_both_roll_to_the_next_release_and_what_one_of_them_had_the_other_answers_when_it_is_killed(both):
    swaps, (first, second) = both
    swaps.add("r2", 2)
    before = {*swaps.urls("r1")}
    with swaps.load(pause=0.1) as asked:
        taken_over(asked, "r1", 0)
        taken_over(asked, "r2", swaps.promote("r2"), 2 * LONG_S)
        swaps.served("r2", 2 * LONG_S, servers=2)
        wait_until(lambda: not swaps.urls("r1") and not swaps.urls("r1", "draining"), TAKEN_OVER_S)
        taken_over(asked, "r2", time.monotonic())
        after = swaps.urls("r2")
        killed, killed_at = first.family(), time.monotonic()
        first.kill()
        assert survivors(killed) == []
        gone_at = time.monotonic()
        left = [url for url in after if second.has(url)]
        # until its rows are stale, requests that meet the dead one are asked of the other
        taken_over(asked, "r2", time.monotonic())
        wait_until(lambda: swaps.urls("r2") == left, TAKEN_OVER_S)
        taken_over(asked, "r2", time.monotonic())
    # of what it had begun to answer as a stream the rest is lost, and its client is told
    check(swaps, [each for each in asked if not (each.cut and each.began < gone_at and each.ended > killed_at)], 150)
    assert len({*before, *after}) == 4
    assert {each.route for each in asked} == {"student"}, "there was always a student to ask"
    assert {each.release for each in asked} == {"r1", "r2"}
    assert keeper_alive(swaps.world.store)
    assert second.process.poll() is None
