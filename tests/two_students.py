"""Conversations of several turns over real students behind a gateway, and what vLLM's prefix caches made of them."""

import asyncio
import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import httpx

from router.model import RouterModel
from serving.server import VllmServer
from tests.engine_fixtures import READY_SECONDS
from tests.gateway_fixtures import Keeper, World, running_world, wait_until
from tests.upstream_settings import changed

__all__ = ("Asked", "Cached", "balanced", "cached", "converse", "started")

SYSTEM = "You answer customers of a shop for lamps, politely and in one sentence."
WORDS = "the lamp that I bought last week in your shop does not light any more although its bulb is new and I wonder "
ANSWER_TOKENS = 8
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Cached:
    """Tokens of prompts that vLLM looked up in its prefix cache, and those that it found there."""

    queries: int
    hits: int

    def since(self, before: "Cached") -> "Cached":
        """What was added."""
        return Cached(self.queries - before.queries, self.hits - before.hits)

    @property
    def rate(self) -> float:
        """The share that was found."""
        return self.hits / self.queries


@dataclass(frozen=True)
class Asked:
    """One turn as its client saw it."""

    status: int
    route: str
    seconds: float


def cached(urls: Sequence[str]) -> Cached:
    """Of all these servers, since they began."""
    found = {"queries": 0.0, "hits": 0.0}
    for url in urls:
        text = httpx.get(f"{url}/metrics", timeout=30, trust_env=False).text
        for name, value in re.findall(r"^vllm:prefix_cache_(queries|hits)_total\{[^}]*\} (\S+)$", text, re.MULTILINE):
            found[name] += float(value)
    return Cached(int(found["queries"]), int(found["hits"]))


@contextlib.contextmanager
def started(*servers: VllmServer) -> Iterator[None]:
    """These servers, until they are ready and while they are needed."""

    async def start() -> None:
        for server in servers:
            await server.start()
        await asyncio.gather(*(server.wait_ready(2 * READY_SECONDS, print) for server in servers))

    async def stop() -> None:
        await asyncio.gather(*(server.stop(0) for server in servers))

    try:
        asyncio.run(start())
        yield
    finally:
        asyncio.run(stop())


@contextlib.contextmanager
def balanced(
    home: Path, router: RouterModel, urls: Sequence[str], balance: Literal["affinity", "in_turn"]
) -> Iterator[World]:
    """A gateway before these servers, that knows of all of them."""
    patient = {"balance": balance, "timeout_seconds": PATIENCE_S, "first_byte_timeout_seconds": PATIENCE_S}
    first, *others = [f"{url}/v1" for url in urls]
    home.mkdir()
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(running_world(home, router, changed(student=patient), first))
        for number, url in enumerate(others, 2):
            stack.callback(Keeper(world.store, url, f"replica-{number}").close)
        wait_until(lambda: len(world.app.state.live.snapshot.release.student_urls) == len(urls), 30)
        yield world


def converse(world: World, names: Sequence[str], turns: int, words: int, at_once: int) -> list[Asked]:
    """Conversations, each of so many turns of so many words, one after the other; ``at_once`` of them together."""
    with ThreadPoolExecutor(at_once) as pool:
        found = pool.map(partial(_conversation, world, turns, words), names)
        return [asked for each in found for asked in each]


def _conversation(world: World, turns: int, words: int, name: str) -> list[Asked]:
    messages = [{"role": "system", "content": SYSTEM}]
    told: list[Asked] = []
    text = (WORDS * (words // len(WORDS.split()) + 1)).split()[:words]
    with httpx.Client(timeout=PATIENCE_S, trust_env=False) as client:
        for turn in range(turns):
            messages.append({"role": "user", "content": f"{name}, {turn}: {' '.join(text)}"})
            body = {"model": "student", "messages": messages, "max_tokens": ANSWER_TOKENS, "temperature": 0}
            began = time.monotonic()
            answer = client.post(f"{world.url}/v1/chat/completions", json=body, headers=world.headers())
            seconds = time.monotonic() - began
            told.append(Asked(answer.status_code, answer.headers.get("x-stillroom-route", ""), seconds))
            messages.append({"role": "assistant", "content": answer.json()["choices"][0]["message"]["content"]})
    return told
