"""Requests that are refused: always in OpenAI's shape, with the status that says why."""

import json
import re
import socket

import pytest

from tests.gateway_fixtures import MAX_BODY, World, chat_body
from tests.scripted_upstream import WAIT_S

OK_BODY = json.dumps(chat_body()).encode()
DEEP = b'{"model":"auto","messages":[{"role":"user","content":"x"}],"x":' + b"[" * 150 + b"]" * 150 + b"}"


def assert_openai_error(answer, status: int, code: str | None = None) -> dict:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"error"}
    error = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    if code is not None:
        assert error["code"] == code
    return error


def post(world: World, content: bytes, path: str = "/v1/chat/completions"):
    return world.client.post(world.url + path, content=content, headers=world.headers("admin"))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"null", b"[]", b'"text"', b"12", b"{", b"{]", b"\x00", b"\xff\xfe", b'{"model": "auto"', b"[" * 100_000,
        b'{"a":' * 100_000, DEEP, b'{"model":"auto","messages":NaN}', b'{"model":"auto","temperature":Infinity}',
        b'{"model":"auto","x":1e999}', b'{"model":"\xed\xa0\x80"}', b'{"model":"\\ud800"}', OK_BODY + b"x",
    ],
    ids=lambda content: f"{content[:12]!r} of {len(content)}",
)  # fmt: skip
def test_a_body_that_is_not_a_json_object_is_a_bad_request(world: World, content: bytes):
    answer = post(world, content)
    assert_openai_error(answer, 400)
    assert re.fullmatch(r"req_[0-9a-f]{24}", answer.headers["x-request-id"])
    assert "x-ratelimit-limit-requests" in answer.headers
    assert world.student.seen == world.teacher.seen == []


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [1]}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}, None]}, "messages"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2.5}, "top_logprobs"),
        ({"top_logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2**80}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
    ],
    ids=str,
)
def test_a_parameter_that_is_wrong_is_named(world: World, change: dict, param: str):
    answer = post(world, json.dumps(chat_body() | change).encode())
    assert assert_openai_error(answer, 400)["param"] == param


@pytest.mark.parametrize(
    "change",
    [
        {"n": 2.0}, {"n": -1}, {"n": "two"}, {"max_tokens": -5}, {"max_tokens": 1e300}, {"max_tokens": 2**200},
        {"stream_options": []}, {"stream": True, "stream_options": "x"}, {"logprobs": 5}, {"store": "no"},
        {"messages": [{}]}, {"messages": [{"role": 1, "content": {"a": 1}}]}, {"tools": {"a": 1}},
        {"response_format": "json"}, {"messages": [{"role": "user", "content": [None, 1, {"type": 2}]}]},
    ],
    ids=str,
)  # fmt: skip
def test_an_odd_value_that_is_the_upstreams_to_judge_reaches_it(world: World, change: dict):
    answer = post(world, json.dumps(chat_body(model="teacher") | change).encode())
    assert answer.status_code == 200
    assert len(world.teacher.seen) == 1


def test_a_long_unknown_model_name_is_not_repeated_whole(world: World):
    error = assert_openai_error(world.chat(model="x" * 100_000), 404, "model_not_found")
    assert len(error["message"]) < 1_000


def test_a_body_beyond_the_cap_is_too_large(world: World):
    assert_openai_error(post(world, b" " * (MAX_BODY + 1)), 413, "request_too_large")
    assert post(world, OK_BODY + b" " * (MAX_BODY - len(OK_BODY))).status_code == 200


def test_a_chunked_body_beyond_the_cap_is_too_large(world: World):
    pieces = (b" " * 65536 for _ in range(MAX_BODY // 65536 + 1))
    answer = world.client.post(f"{world.url}/v1/chat/completions", content=pieces, headers=world.headers())
    assert_openai_error(answer, 413, "request_too_large")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_a_method_that_a_path_does_not_take_is_not_allowed(world: World, method: str):
    answer = world.client.request(method, f"{world.url}/v1/chat/completions", headers=world.headers())
    assert_openai_error(answer, 405, "method_not_allowed")


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/nothing", "/admin", "/schema", "/schema/openapi.json", "/v1/models/x/y", "/../etc/passwd"],
)
def test_a_path_that_is_not_there_is_not_found(world: World, path: str):
    assert_openai_error(world.get(path), 404)


def test_an_admin_body_that_is_not_understood_is_a_bad_request(world: World):
    for content in (b"{", b"\xff", b'{"name": 1}', b'{"name": "x", "more": 1}', b'{"name": "x", "scopes": ["root"]}'):
        assert_openai_error(post(world, content, "/admin/v1/keys"), 400)
    for path in ("/admin/v1/jobs/nothing", "/admin/v1/requests/nothing"):
        assert_openai_error(world.get(path), 404, "not_found")
    for path in ("/admin/v1/keys/nobody/revoke", "/admin/v1/releases/none/promote", "/admin/v1/jobs/none/cancel"):
        assert_openai_error(post(world, b"", path), 404, "not_found")
    assert_openai_error(post(world, b"", "/admin/v1/releases/rollback"), 400)


def exchange(world: World, request: bytes) -> bytes:
    """What comes back on a raw socket."""
    with socket.create_connection(("127.0.0.1", world.port), timeout=WAIT_S) as connection:
        connection.sendall(request)
        received = b""
        while part := connection.recv(65536):
            received += part
    return received


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        (b"", 400, b"invalid_host"),
        (b"host: a\r\nhost: a\r\n", 400, b"invalid_host"),
        (b"host: a\r\nhost: b\r\n", 400, b"invalid_host"),
        (b"host: a b\r\n", 400, b"invalid_host"),
        (b"host: a@evil.example\r\n", 400, b"invalid_host"),
        (b"host: a/../b\r\n", 400, b"invalid_host"),
        (b"host: a:99999999\r\n", 400, b"invalid_host"),
        (b"host:\r\n", 400, b"invalid_host"),
        (b"host: a\r\nx: " + b"y" * 33_000 + b"\r\n", 431, b"headers_too_large"),
        (b"host: a\r\n" + b"x: y\r\n" * 6_000, 431, b"headers_too_large"),
        (b"host: a.example:8080\r\n", 200, b""),
        (b"host: [::1]:8080\r\n", 200, b""),
        (b"host: a\r\nx: " + b"y" * 30_000 + b"\r\n", 200, b""),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else None,
)
def test_headers_are_bounded_and_the_host_is_one(world: World, headers: bytes, status: int, code: bytes):
    answer = exchange(world, b"GET /healthz HTTP/1.1\r\nconnection: close\r\n" + headers + b"\r\n")
    assert status_of(answer) == status
    if status != 200:
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert error["code"].encode() == code
        assert error.keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "headers",
    [
        b"content-length: 4\r\ntransfer-encoding: chunked\r\n",
        b"content-length: 4\r\ncontent-length: 5\r\n",
        b"content-length: -1\r\n",
        b"transfer-encoding: chunked, identity\r\n",
    ],
)
def test_a_request_of_doubtful_length_is_refused(world: World, headers: bytes):
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n" + headers + b"\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n"
    )
    assert exchange(world, request).count(b"HTTP/1.1 400") == 1
    assert world.teacher.seen == []
