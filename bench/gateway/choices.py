"""What each choice is worth: the gateway with one of them taken back, beside the gateway as it is, in turns.

``python -m bench.gateway.choices NAME FILE`` runs the gateway so changed; the product itself has no such switches.
"""

import contextlib
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx

from bench.gateway import machine, world
from bench.gateway.peers import FOLDER
from bench.gateway.stillroom_gateway import Route
from bench.gateway.world import Shape, Subject

__all__ = ("CHOICES", "compare")

CONNECTIONS: Final = 32
AIOHTTP: Final = FOLDER / "httpx-aiohttp"
"""Where ``pip install --target`` put it."""


def _server(**changed: Any) -> None:
    import uvicorn  # noqa: PLC0415 each of these changes a process that does nothing else

    config = uvicorn.Config
    uvicorn.Config = lambda *given, **options: config(*given, **(options | changed))  # pyright: ignore


def _transport(make: Callable[[], httpx.AsyncBaseTransport]) -> None:
    from gateway import app  # noqa: PLC0415

    app.open_client = lambda: httpx.AsyncClient(transport=make())


def _httpx_transport() -> httpx.AsyncBaseTransport:
    return httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=4096, max_keepalive_connections=4096))


def _aiohttp_transport() -> httpx.AsyncBaseTransport:
    sys.path.append(str(AIOHTTP))
    from httpx_aiohttp import AiohttpTransport  # noqa: PLC0415 # pyright: ignore

    return AiohttpTransport(limits=httpx.Limits(max_connections=4096))  # pyright: ignore


def _no_short_way() -> None:
    from gateway import server  # noqa: PLC0415
    from gateway.hygiene import refuse_bad_headers  # noqa: PLC0415

    server.front = refuse_bad_headers  # pyright: ignore


def _no_typed_reading() -> None:
    from gateway import chunks, streams  # noqa: PLC0415

    chunks._read_whole_text = lambda *_: None  # noqa: SLF001 # pyright: ignore
    streams.read_text = lambda *_: None


def _no_raw_relaying() -> None:
    from gateway.answer import Answer  # noqa: PLC0415

    _no_typed_reading()
    hide = Answer.hide
    Answer.hide = lambda *given: hide(*given) or True  # pyright: ignore


def _json() -> None:
    from gateway import wire  # noqa: PLC0415 before anything takes the functions from it

    class Decoder:
        decode = staticmethod(json.loads)

    def encode(value: Any) -> bytes:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()

    wire.encode, wire._decoder, wire.as_written = encode, Decoder(), json.loads  # noqa: SLF001 # pyright: ignore
    _no_typed_reading()


def _no_memory_of_words() -> None:
    from router.lexicon import Lexicon  # noqa: PLC0415

    read = Lexicon.read

    def forgetful(self: Lexicon, words: list[str]) -> tuple[float, float]:
        self._known.clear()  # pyright: ignore
        return read(self, words)

    Lexicon.read = forgetful  # pyright: ignore


CHOICES: Final[dict[str, Callable[[], None]]] = {
    "as it is": lambda: None,
    "asyncio's loop, not uvloop": partial(_server, loop="asyncio"),
    "uvicorn's httptools protocol, not ours": partial(_server, http="httptools"),
    "h11, not httptools": partial(_server, http="h11"),
    "httpx's transport": partial(_transport, _httpx_transport),
    "httpx-aiohttp's transport": partial(_transport, _aiohttp_transport),
    "all of Litestar's layers": _no_short_way,
    "answers read as dictionaries": _no_typed_reading,
    "and written again": _no_raw_relaying,
    "json, not msgspec, for bodies": _json,
    "words hashed anew each time": _no_memory_of_words,
}


def compare(work: Path, route: Route, cells: list[tuple[Shape, int]], windows: int) -> None:
    """A table of CPU time, each choice beside the gateway as it is: the least of so many windows of either, in turns.

    ``cells`` are shapes, each with the requests in a window.
    """
    print(f"{json.dumps(machine.describe())}\n")
    names = [f"{shape.name}, {what}" for shape, _ in cells for what in ("as it is", "changed", "RPS changed")]
    print(f"| taken back | {' | '.join(names)} |\n| --- |{' ---: |' * len(names)}")
    with world.mock(work) as upstream, _gateway("choice plain", "as it is", route, work, upstream) as plain:
        for choice in CHOICES:
            if choice == "httpx-aiohttp's transport" and not (AIOHTTP / "httpx_aiohttp").exists():
                print(f"| {choice}: not in {AIOHTTP} |")
                continue
            with _gateway("choice changed", choice, route, work, upstream) as other:
                cost = [part for shape, requests in cells for part in _both(plain, other, shape, requests, windows)]
            print(f"| {choice} | {' | '.join(cost)} |", flush=True)


def _gateway(
    name: str, choice: str, route: Route, work: Path, upstream: int
) -> contextlib.AbstractContextManager[Subject]:
    return world.stillroom(name, route, work, upstream, [sys.executable, "-m", "bench.gateway.choices", choice])


def _both(plain: Subject, other: Subject, shape: Shape, requests: int, windows: int) -> list[str]:
    used: dict[int, list[float]] = {plain.pid: [], other.pid: []}
    rate = 0.0
    for _ in range(windows):
        for subject in (plain, other):
            found = world.time_load(subject, shape, CONNECTIONS, requests)
            if found.errors:
                raise SystemExit(f"{subject.name}: {found.errors} errors, the first: {found.error}")
            used[subject.pid].append((found.cpu_after - found.cpu_before) / found.requests * 1e6)
            rate = max(rate, found.rps) if subject is other else rate
    return [*(f"{min(each):,.0f}" for each in used.values()), f"{rate:,.0f}"]


def _run(choice: str, settings: Path) -> None:
    CHOICES[choice]()
    from stillroom import compose  # noqa: PLC0415 what it takes is changed by now
    from stillroom.settings import load_settings  # noqa: PLC0415

    compose.run_gateway(load_settings(settings), lambda: load_settings(settings))


if __name__ == "__main__":
    _run(sys.argv[1], Path(sys.argv[2]))
