"""Which headers cross: our id and the trace to the upstream, the upstream's id and the trace to the client."""

import pytest

from tests.gateway_fixtures import EASY, HARD, UNSURE, World
from tests.scripted_upstream import Script

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TEXTS = {"student": EASY, "teacher": HARD}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_our_request_id_reaches_the_upstream_and_its_own_comes_back(world: World, side: str, stream: bool):
    upstream = getattr(world, side)
    upstream.script = Script(logprob=-0.02, headers={"x-request-id": "req_of_theirs"})
    answer = world.chat(TEXTS[side], {"x-request-id": "of-the-client"}, stream=stream)
    assert answer.headers["x-stillroom-route"] == side
    assert upstream.seen[0].headers["x-request-id"] == answer.headers["x-request-id"]
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["x-stillroom-upstream-request-id"] == "req_of_theirs"


def test_every_attempt_and_both_sides_carry_the_same_id(world: World):
    world.student.script = Script(text="no idea at all of it", logprob=UNSURE)
    world.teacher.reset(Script(), [Script(status=503, body=b"")])
    answer = world.chat(EASY)
    seen = [*world.student.seen, *world.teacher.seen]
    assert [each.headers["x-request-id"] for each in seen] == [answer.headers["x-request-id"]] * 3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_the_trace_goes_to_the_upstream_and_back(world: World, side: str, stream: bool):
    sent = {"traceparent": TRACE, "tracestate": "vendor=1"}
    answer = world.chat(TEXTS[side], sent, stream=stream)
    seen = getattr(world, side).seen[0].headers
    assert {name: seen[name] for name in sent} == sent
    assert answer.headers["traceparent"] == TRACE
    assert "traceparent" not in world.chat(TEXTS[side], stream=stream).headers


def test_the_trace_comes_back_with_an_error_too(world: World):
    world.teacher.script = Script(status=501, body=b"")
    answer = world.chat(headers={"traceparent": TRACE}, model="teacher")
    assert (answer.status_code, answer.headers["traceparent"]) == (503, TRACE)


@pytest.mark.parametrize("stream", [False, True])
def test_the_upstreams_limits_and_connection_headers_stay_with_it(world: World, stream: bool):
    world.teacher.script = Script(
        headers={
            "x-ratelimit-remaining-requests": "3",
            "x-ratelimit-limit-tokens": "77",
            "keep-alive": "timeout=5",
            "upgrade": "h2c",
            "set-cookie": "a=1",
            "openai-version": "2020-10-01",
        }
    )
    answer = world.chat(model="teacher", stream=stream)
    assert answer.headers["x-ratelimit-remaining-requests"] != "3"
    assert answer.headers.get("x-ratelimit-limit-tokens") != "77"
    assert not {"keep-alive", "upgrade", "set-cookie"} & set(answer.headers)
    assert answer.headers["openai-version"] == "2020-10-01"


def test_hop_by_hop_headers_of_the_client_stay_with_us(world: World):
    world.chat(
        headers={"te": "trailers", "upgrade": "h2c", "proxy-authorization": "Basic x", "x-mine": "1"}, model="teacher"
    )
    assert not {"te", "upgrade", "proxy-authorization", "x-mine", "keep-alive"} & set(world.teacher.seen[0].headers)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_refused(world: World, status: int, stream: bool):
    location = {"location": f"{world.student.url}/chat/completions"}
    world.teacher.script = Script(status=status, body=b"", headers=location)
    answer = world.chat(model="teacher", stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    assert world.student.seen == []
    assert len(world.teacher.seen) == 1
