"""What a client sees on its connection: whole answers in one piece, in order, and bodies that are bounded."""

import json
import re
import socket
import time

import pytest

from tests.gateway_fixtures import MAX_BODY, World, chat_body, wait_until
from tests.scripted_upstream import WAIT_S, Script


def request(world: World, *lines: str, body: bytes | None = None, version: str = "1.1") -> bytes:
    raw = json.dumps(chat_body(model="teacher")).encode() if body is None else body
    head = [
        f"POST /v1/chat/completions HTTP/{version}",
        "host: localhost",
        f"authorization: Bearer {world.secrets['inference']}",
        *(lines or (f"content-length: {len(raw)}",)),
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + raw


def connect(world: World) -> socket.socket:
    return socket.create_connection(("127.0.0.1", world.port), timeout=WAIT_S)


def answers(connection: socket.socket, count: int) -> list[tuple[int, dict[str, str], bytes]]:
    """So many answers of a kept-alive connection: status, headers, body."""
    data, found = b"", []
    while len(found) < count:
        head, end, rest = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if not end or len(rest) < int(length[1] if length else 0):
            received = connection.recv(65_536)
            assert received, "the connection was closed"
            data += received
            continue
        size = int(length[1]) if length else 0
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        found.append((int(status.split(" ")[1]), headers, rest[:size]))
        data = rest[size:]
    return found


def test_a_whole_answer_comes_in_one_piece(world: World):
    world.teacher.reset(Script(text="word " * 100))
    with connect(world) as connection:
        for _ in range(3):
            connection.sendall(request(world))
            whole = connection.recv(65_536)
            head, _, body = whole.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert json.loads(body)["choices"][0]["message"]["content"] == "word " * 100


def test_requests_that_are_sent_at_once_are_answered_in_order(world: World):
    texts = ["first", "second", "third"]
    with connect(world) as connection:
        bodies = [json.dumps(chat_body(text, model="teacher", user=text)).encode() for text in texts]
        connection.sendall(b"".join(request(world, body=body) for body in bodies))
        assert [status for status, _, _ in answers(connection, 3)] == [200] * 3
    assert [seen.body["user"] for seen in world.teacher.seen] == texts


@pytest.mark.parametrize(("line", "version"), [("connection: close", "1.1"), ("x-nothing: 1", "1.0")])
def test_a_client_that_wants_no_more_is_told_so_and_left(world: World, line: str, version: str):
    raw = json.dumps(chat_body(model="teacher")).encode()
    with connect(world) as connection:
        connection.sendall(request(world, line, f"content-length: {len(raw)}", version=version))
        [(status, headers, _)] = answers(connection, 1)
        assert (status, headers["connection"]) == (200, "close")
        assert connection.recv(1) == b""


def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(world: World):
    with connect(world) as connection:
        connection.sendall(request(world, f"content-length: {MAX_BODY + 1}", body=b""))
        [(status, _, body)] = answers(connection, 1)
        assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")


def test_a_body_without_a_length_is_refused_where_it_grows_too_large(world: World):
    piece = b"%x\r\n" % 65_536 + b"x" * 65_536 + b"\r\n"
    with connect(world) as connection:
        connection.sendall(request(world, "transfer-encoding: chunked", body=b""))
        for _ in range(MAX_BODY // 65_536 + 1):
            connection.sendall(piece)
        [(status, _, body)] = answers(connection, 1)
        assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")


def test_a_body_in_pieces_is_read_whole(world: World):
    raw = json.dumps(chat_body("in pieces", model="teacher")).encode()
    with connect(world) as connection:
        connection.sendall(request(world, "transfer-encoding: chunked", body=b""))
        for start in range(0, len(raw), 20):
            connection.sendall(b"%x\r\n%s\r\n" % (len(raw[start : start + 20]), raw[start : start + 20]))
            time.sleep(0.002)
        connection.sendall(b"0\r\n\r\n")
        [(status, _, _)] = answers(connection, 1)
    assert status == 200
    assert world.teacher.seen[-1].body["messages"][0]["content"] == "in pieces"


def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing_behind(world: World):
    asked = len(world.teacher.seen)
    with connect(world) as connection:
        connection.sendall(request(world, "content-length: 500", body=b'{"model":'))
    wait_until(lambda: "stillroom_in_flight_requests 0.0" in world.get("/metrics").text)
    answer = world.chat(model="teacher")
    assert answer.status_code == 200
    assert len(world.teacher.seen) == asked + 1
