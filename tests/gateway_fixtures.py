"""A real gateway on a real socket, over a ledger of its own, between a scripted student and a scripted teacher.

To use it: import the fixtures into a folder's ``conftest.py``.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from litestar import Litestar

from dashboards.pages import handlers as pages
from gateway import recorder
from gateway.app import GatewayConfig, build_app
from gateway.breaker import Breaker
from gateway.server import listen, make_server
from gateway.settings import AuthSettings, GatewaySettings, TeacherSettings
from ledger import keys, releases, replicas, requests
from ledger.artifacts import seal
from ledger.prices import Price
from ledger.records import Content
from ledger.store import Store, now_ms, open_store, sqlite_url
from router.calibration import Prices
from router.features import RequestView
from router.model import RouterModel
from router.settings import RouterSettings
from router.signals import TokenLogprob
from router.thresholds import NEVER
from router.train import LabelledRequest, train_router
from serving.settings import StudentSettings
from tests.scripted_upstream import WAIT_S, Script, ScriptedUpstream

TEACHER_KEY = "sk-teacher-4f1d0c9be7a2"
TEACHER_KEY_ENV = "TEACHER_KEY_OF_THE_TESTS"
EASY, HARD = "please greet politely", "prove theorem rigorously"
SURE, UNSURE = -0.02, -1.6
HOLD = 4
STUDENT_PRICE, TEACHER_PRICE = Price(input=0.1, output=0.4), Price(input=2.0, output=8.0, cached_input=1.0)
MAX_BODY = 1024 * 1024
RELEASE = "rel-1"


def settings(teacher_url: str, home: Path) -> GatewayConfig:
    """What every test starts from; `dataclasses.replace` and `msgspec.structs.replace` change it."""
    return GatewayConfig(
        gateway=GatewaySettings(max_body_bytes=MAX_BODY, requests_per_minute=60_000, drain_seconds=5),
        auth=AuthSettings(),
        teacher=TeacherSettings(
            base_url=teacher_url,
            model="frontier",
            api_key_env=TEACHER_KEY_ENV,
            price=TEACHER_PRICE,
            connect_timeout_seconds=WAIT_S,
            timeout_seconds=WAIT_S,
        ),
        student=StudentSettings(
            price=STUDENT_PRICE, context_tokens=2_000, connect_timeout_seconds=WAIT_S, timeout_seconds=WAIT_S
        ),
        router=RouterSettings(explore_share=0.0, shadow_share=0.0, hold_tokens=HOLD),
        aliases={"gpt-4o-mini": "auto", "cheap": "student"},
        spool=home / "spool",
    )


class Keeper:
    """Keeps a ready replica's heartbeat fresh, as `serving` does."""

    def __init__(self, store: Store, url: str, name: str = "replica-1") -> None:
        self._store, self._name = store, name
        self._ended = threading.Event()
        self.move(url)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def move(self, url: str) -> None:
        """The student is reached at another URL from now on."""
        self._replica = replicas.Replica(self._name, RELEASE, url, "ready", 0)
        replicas.report(self._store, self._replica)

    def _run(self) -> None:
        while not self._ended.wait(3):
            replicas.report(self._store, self._replica)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()


@dataclass
class World:
    """A running gateway and everything around it."""

    url: str
    home: Path
    store: Store
    app: Litestar
    keeper: Keeper
    student: ScriptedUpstream
    teacher: ScriptedUpstream
    secrets: dict[str, str]
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=WAIT_S))

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def headers(self, scope: str = "inference") -> dict[str, str]:
        return {"authorization": f"Bearer {self.secrets[scope]}"}

    def chat(self, text: str = EASY, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        """Ask for a completion, plain or streamed; read to the end."""
        body = chat_body(text, **fields)
        return self.client.post(
            f"{self.url}/v1/chat/completions", json=body, headers=self.headers() | (headers or {})
        )

    def streaming(self, text: str = EASY, **fields: Any) -> contextlib.AbstractContextManager[httpx.Response]:
        """Begin a streamed completion, to be read bit by bit or left."""
        body = chat_body(text, stream=True, **fields)
        return self.client.stream("POST", f"{self.url}/v1/chat/completions", json=body, headers=self.headers())

    def get(self, path: str, scope: str = "admin") -> httpx.Response:
        return self.client.get(self.url + path, headers=self.headers(scope))

    def row(self, request_id: str) -> dict[str, Any]:
        return self.recorded(request_id)[0]

    def recorded(self, request_id: str, seconds: float = WAIT_S) -> tuple[dict[str, Any], Content | None]:
        """The ledger's row and content, once the spool was moved."""
        wait_until(lambda: requests.get(self.store, request_id) is not None, seconds)
        found = requests.get(self.store, request_id)
        assert found is not None
        return found

    def everything_written(self) -> bytes:
        """Every byte of every file that the gateway has written."""
        return b"".join(path.read_bytes() for path in sorted(self.home.rglob("*")) if path.is_file())


def wait_until(condition: Callable[[], bool], seconds: float = WAIT_S) -> None:
    """Wait for something that another thread or process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def answers(url: str) -> bool:
    """Whether somebody says 200 there."""
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def chat_body(text: str = EASY, **fields: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}


def stream_data(answer: httpx.Response) -> list[Any]:
    """The events of a stream, decoded; ``[DONE]`` as it is."""
    lines = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def streamed_text(answer: httpx.Response) -> str:
    parts = [c for event in stream_data(answer) if isinstance(event, dict) for c in event.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in parts)


def _token(p: float) -> TokenLogprob:
    rest = (0.6 * (1 - p), 0.3 * (1 - p))
    return TokenLogprob(float(np.log(p)), tuple(sorted((float(np.log(q)) for q in (p, *rest)), reverse=True)))


def _labelled(rng: np.random.Generator) -> LabelledRequest:
    easy, sure = bool(rng.random() < 0.6), bool(rng.random() < 0.7)
    words = " ".join(f"w{int(w)}" for w in rng.integers(30, size=rng.integers(0, 8)))
    centre = rng.uniform(0.97, 0.995) if sure else rng.uniform(0.3, 0.5)
    said = tuple(_token(float(np.clip(p, 0.01, 0.999))) for p in centre + rng.normal(size=HOLD) * 0.005)
    view = RequestView((("user", f"{EASY if easy else HARD} {words}"),))
    return LabelledRequest(view, said, easy and sure and bool(rng.random() < 0.99))


@pytest.fixture(scope="session")
def router() -> RouterModel:
    """Trusts `EASY` requests that the student is `SURE` of; sends `HARD` ones away, and escalates `UNSURE` ones."""
    rng = np.random.default_rng(0)
    trained = train_router([_labelled(rng) for _ in range(500)], 0.97, 0.1, Prices(1.0, 20.0))
    bars = replace(trained.thresholds, hard=0.5, sure=NEVER, confident=0.5, confident_end=0.5, feasible=True)
    return replace(trained, thresholds=bars)


def go_live(store: Store, folder: Path, router: RouterModel) -> None:
    """A live release with this router, as the distiller leaves it."""
    router.save(folder / "router")
    digest = seal(folder, {})
    releases.add(store, releases.Release(RELEASE, "candidate", now_ms(), None, None, None, str(folder), digest, {}))
    releases.promote(store, RELEASE, "test")


@contextlib.contextmanager
def serving(app: Litestar, drain_seconds: int) -> Iterator[str]:
    """The application behind uvicorn, as the command line runs it. Yields its URL."""
    listener = listen("127.0.0.1", 0)
    server = make_server(app, GatewaySettings(drain_seconds=drain_seconds))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the gateway did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        listener.close()
        assert not thread.is_alive(), "the gateway did not stop"


@contextlib.contextmanager
def running_world(
    home: Path, router: RouterModel | None, change=lambda config: config, student_url: str | None = None
) -> Iterator[World]:
    """A world; without a router there is no release. ``change`` edits the `GatewayConfig`."""
    os.environ[TEACHER_KEY_ENV] = TEACHER_KEY
    recorder.SYNC_S = 0.02  # most tests wait for a row
    student, teacher = ScriptedUpstream(), ScriptedUpstream()
    store = open_store(sqlite_url(home))
    secrets = {scope: keys.create(store, f"{scope}-key", [scope], "test")[1] for scope in keys.SCOPES}
    config = change(settings(teacher.url, home))
    app = build_app(config, store, pages)
    with contextlib.ExitStack() as stack:
        stack.callback(store.close)
        stack.callback(student.close)
        stack.callback(teacher.close)
        if router is not None:
            go_live(store, home / "releases" / RELEASE, router)
        keeper = Keeper(store, student_url or student.url)
        stack.callback(keeper.close)
        url = stack.enter_context(serving(app, int(config.gateway.drain_seconds)))
        world = World(url, home, store, app, keeper, student, teacher, secrets)
        stack.callback(world.client.close)
        yield world


def trust(world: World) -> None:
    """Forget what failed, as a gateway that is started again does."""
    for side in (world.app.state.relay.teacher, world.app.state.relay.student):
        for member in side.members:
            member.breaker = Breaker()
            side.group.show(member)


@pytest.fixture(scope="module")
def module_world(router: RouterModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(tmp_path_factory.mktemp("gateway"), router) as world:
        yield world


@pytest.fixture
def world(module_world: World) -> World:
    """The module's world, its upstreams well again, and trusted again."""
    trust(module_world)
    module_world.student.reset(Script(text="The student says good day.", logprob=SURE))
    module_world.teacher.reset(Script(text="The teacher says good day."))
    return module_world


@pytest.fixture(scope="module")
def module_world_without_release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(tmp_path_factory.mktemp("gateway"), None) as world:
        yield world


@pytest.fixture
def world_without_release(module_world_without_release: World) -> World:
    module_world_without_release.teacher.reset()
    return module_world_without_release
