"""The guard before an engine: who waits, who is refused, what each answer is stamped with."""

import asyncio
import json

import pytest

from serving import guard
from serving.guard import KEY_VARIABLE, MARK, RELEASE_PATH, RELEASE_VARIABLE, TOKEN_VARIABLE, ReleaseGuard

TOKEN = "let-me-in"
KEY = "students-own"
CHAT = "/v1/chat/completions"


class Engine:
    """An ASGI application that answers as vLLM does: it puts the mark where its fingerprint goes."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.pieces = [json.dumps({"model": "r7", "system_fingerprint": MARK}, separators=(",", ":")).encode()]

    async def __call__(self, scope, receive, send) -> None:
        self.asked.append(scope["path"])
        await self.may_answer.wait()
        whole = len(self.pieces) == 1
        length = [(b"content-length", str(len(self.pieces[0])).encode())] if whole else []
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-kept", b"1"), *length]})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": piece != self.pieces[-1]})


class Server:
    """The engine behind its guard."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.guarded = ReleaseGuard(self.engine)

    async def ask(self, path=CHAT, release="", token="", body=b"{}"):
        """Status, headers and body."""
        sent: list[dict] = []

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            sent.append(message)

        headers = [(b"x-stillroom-release", release.encode())] if release else []
        headers += [(b"authorization", f"Bearer {token}".encode())] if token else []
        await self.guarded({"type": "http", "path": path, "headers": headers}, receive, send)
        whole = b"".join(message["body"] for message in sent[1:])
        return sent[0]["status"], dict(sent[0]["headers"]), whole

    async def change(self, **wanted):
        status, _, body = await self.ask(RELEASE_PATH, token=TOKEN, body=json.dumps(wanted).encode())
        assert status == 200
        return json.loads(body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    monkeypatch.setenv(RELEASE_VARIABLE, "r1")
    monkeypatch.setattr(guard, "HOLD_S", 0.2)
    return Server


async def test_an_answer_is_stamped_with_the_release_and_its_length_is_right(server):
    status, headers, body = await server().ask(release="r1")
    assert (status, json.loads(body)["system_fingerprint"]) == (200, "r1")
    assert headers == {b"x-kept": b"1", b"content-length": str(len(body)).encode()}


async def test_where_each_model_is_a_release_an_answer_is_stamped_with_its_model(server, monkeypatch):
    monkeypatch.setenv(RELEASE_VARIABLE, "")
    _, _, body = await server().ask(release="r7")
    assert json.loads(body)["system_fingerprint"] == "r7"


async def test_a_stream_is_stamped_where_the_engine_stamps_it_and_passes_as_it_comes(server):
    each = server()
    last = b'data: {"model":"r7","system_fingerprint":"%s"}\n\n' % MARK.encode()
    each.engine.pieces = [b"data: {}\n\n", last, b"data: [DONE]\n\n"]
    _, headers, body = await each.ask()
    assert body == b'data: {}\n\ndata: {"model":"r7","system_fingerprint":"r1"}\n\ndata: [DONE]\n\n'
    assert headers == {b"x-kept": b"1"}


async def test_the_event_that_ends_a_streams_text_is_stamped_too(server):
    each = server()
    text = b'data: {"model":"r7","choices":[{"delta":{"content":"\\"choices\\":["},"finish_reason":null}]}\n\n'
    last = b'data: {"model":"r7","choices":[{"delta":{"content":""},"finish_reason":"stop"}]}\n\n'
    each.engine.pieces = [text, last]
    _, _, body = await each.ask()
    assert body.startswith(text)
    event = json.loads(body[len(text) :].removeprefix(b"data: "))
    assert event["system_fingerprint"] == "r1"
    assert event["choices"][0]["finish_reason"] == "stop"


async def test_what_a_model_says_is_not_taken_for_its_name(server, monkeypatch):
    monkeypatch.setenv(RELEASE_VARIABLE, "")
    each = server()
    said = {"choices": [{"text": '"model":"r9"'}], "model": "r7", "system_fingerprint": MARK}
    each.engine.pieces = [json.dumps(said, separators=(",", ":")).encode()]
    _, _, body = await each.ask()
    assert json.loads(body) == said | {"system_fingerprint": "r7"}


async def test_a_request_for_a_release_that_does_not_come_is_refused_and_not_asked_of_the_engine(server):
    each = server()
    status, _, body = await each.ask(release="r2")
    assert status == 503
    assert "r1 is served" in json.loads(body)["error"]
    assert each.engine.asked == []


async def test_a_swap_lets_those_inside_finish_and_nobody_in_until_it_is_over(server, monkeypatch):
    monkeypatch.setattr(guard, "HOLD_S", 60)
    each = server()
    each.engine.may_answer.clear()
    inside = asyncio.create_task(each.ask(release="r1"))
    await asyncio.sleep(0)
    closing = asyncio.create_task(each.change(release=None, seconds=60))
    await asyncio.sleep(0.01)
    waiting = [asyncio.create_task(each.ask(release=name)) for name in ("r2", "")]
    await asyncio.sleep(0.01)
    assert not closing.done()
    assert each.engine.asked == [CHAT]
    each.engine.may_answer.set()
    assert (await inside)[0] == 200
    assert await closing == {"release": "r1", "under_way": 0}
    assert (await each.ask(token=TOKEN))[0] == 200, "the one that swaps may ask meanwhile"
    assert not any(task.done() for task in waiting)
    await each.change(release="r2")
    for task in waiting:
        status, _, body = await task
        assert (status, json.loads(body)["system_fingerprint"]) == (200, "r2")


async def test_a_swap_that_waits_in_vain_says_how_many_are_under_way(server):
    each = server()
    each.engine.may_answer.clear()
    inside = asyncio.create_task(each.ask())
    await asyncio.sleep(0)
    assert (await each.change(release=None, seconds=0.05))["under_way"] == 1
    each.engine.may_answer.set()
    await inside


@pytest.mark.parametrize("path", ["/pause", "/collective_rpc", "/v1/load_lora_adapter", "/sleep", RELEASE_PATH])
@pytest.mark.parametrize("token", ["", "wrong"])
async def test_an_administrative_route_needs_the_token(server, path, token):
    each = server()
    assert (await each.ask(path, token=token))[0] == 403
    assert each.engine.asked == []


async def test_health_and_metrics_are_open_on_loopback_whatever_happens(server):
    each = server()
    await each.change(release=None, seconds=0)
    for path in ("/health", "/metrics", "/v1/models"):
        assert (await each.ask(path))[0] == 200


@pytest.mark.parametrize(
    "path", [CHAT, "/health", "/metrics", "/tokenize", "/v1/models", "/pause", "/docs", RELEASE_PATH]
)
@pytest.mark.parametrize("wrong", ["", "students", KEY + "2", "STUDENTS-OWN"])
async def test_with_a_key_every_route_asks_for_it(server, monkeypatch, path, wrong):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    each = server()
    status, _, body = await each.ask(path, token=wrong)
    assert (status, json.loads(body)) == (401, {"error": "this server asks for a key"})
    assert each.engine.asked == []


async def test_the_key_opens_what_loopback_leaves_open_and_the_token_everything(server, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    each = server()
    for path in (CHAT, "/health", "/metrics", "/tokenize", "/v1/models"):
        assert (await each.ask(path, token=KEY))[0] == (await each.ask(path, token=TOKEN))[0] == 200
    for path in ("/pause", "/v1/load_lora_adapter", RELEASE_PATH):
        assert (await each.ask(path, token=KEY))[0] == 403
    assert (await each.ask("/pause", token=TOKEN))[0] == 200
    assert (await each.change(release="r2")) == {"release": "r2", "under_way": 0}


@pytest.mark.parametrize(("key", "sent", "passes"), [("", "", True), (KEY, "", False), (KEY, KEY, True)])
async def test_a_websocket_asks_for_the_key_too(server, monkeypatch, key, sent, passes):
    monkeypatch.setenv(KEY_VARIABLE, key)
    reached, told = [], []

    async def engine(scope, _receive, _send):
        reached.append(scope["path"])

    async def send(message):
        told.append(message)

    headers = [(b"authorization", f"Bearer {sent}".encode())]
    await ReleaseGuard(engine)({"type": "websocket", "path": "/v1/realtime", "headers": headers}, None, send)
    assert reached == ["/v1/realtime"] * passes
    assert told == [] if passes else told == [{"type": "websocket.close", "code": 1008}]
