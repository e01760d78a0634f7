"""Clients that keep asking, and the count of what became of each request."""

import asyncio
import json
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from tests.gateway_fixtures import EASY, HARD, chat_body
from tests.gateway_process import GatewayProcess
from tests.scripted_upstream import WAIT_S

ERROR_FIELDS = {"message", "type", "param", "code"}
DONE = "data: [DONE]\n\n"


def tell(line: str) -> None:
    """What was measured, for whoever reads pytest's captured output (``-rP``)."""
    sys.stdout.write(line + "\n")


@dataclass
class Tally:
    """What became of the requests, by id."""

    answered: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """With an error of OpenAI's shape."""
    broken: list[str] = field(default_factory=list)
    """Streams that an error event ended."""
    cut: int = 0
    """Connections that ended without an answer or an error: only a killed gateway may do that."""
    improper: list[str] = field(default_factory=list)
    """What is none of these."""
    codes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    """Seconds."""
    by_client: Counter[int] = field(default_factory=Counter)
    """How many of each client's requests are over."""

    @property
    def sent(self) -> int:
        return len(self.ids) + self.cut + len(self.improper)

    @property
    def ids(self) -> list[str]:
        """Of every request that got an answer, a refusal, or a stream with an error event."""
        return self.answered + self.refused + self.broken

    def summary(self) -> str:
        return (
            f"{self.sent} sent: {len(self.answered)} answered, {len(self.refused)} refused, {len(self.broken)} "
            f"broken off, {self.cut} cut; {dict(self.codes)}; the slowest took {self.slowest:.2f} s"
        )

    def count(self, answer: httpx.Response, stream: bool) -> None:
        """Count an answer that was read to its end."""
        text, request_id = answer.text, answer.headers.get("x-request-id")
        if request_id is None:
            self.improper.append(text[:200])
        elif answer.status_code >= 400:
            self._count_error(self.refused, request_id, text)
        elif not stream or text.endswith(DONE):
            proper = text.count("data: [DONE]") == 1 if stream else "choices" in json.loads(text)
            (self.answered if proper and '"error"' not in text else self.improper).append(request_id)
        else:
            last = text.removesuffix("\n\n").rpartition("\n\n")[2]
            self._count_error(self.broken, request_id, last.removeprefix("data: "))

    def _count_error(self, kind: list[str], request_id: str, text: str) -> None:
        try:
            error: dict[str, Any] = json.loads(text)["error"]
            proper = error.keys() >= ERROR_FIELDS and isinstance(error["message"], str)
        except (ValueError, KeyError, TypeError, AttributeError):
            proper, error = False, {}
        (kind if proper else self.improper).append(request_id if proper else text[:200])
        self.codes[str(error.get("code"))] += 1


async def keep_asking(gateway: GatewayProcess, tally: Tally, stop: asyncio.Event, seed: int, pause: float) -> None:
    """One client: plain requests and streams, routed to either side or pinned, with pauses (s) between."""
    chance = random.Random(seed)
    # reading the certificates of authorities takes longer than many requests do
    plain = {"verify": False, "trust_env": False}
    async with httpx.AsyncClient(base_url=gateway.url, headers=gateway.headers, timeout=60, **plain) as client:
        while not stop.is_set():
            stream, model = chance.random() < 0.5, chance.choice(["auto", "auto", "auto", "teacher", "student"])
            body = chat_body(chance.choice([EASY, HARD]), stream=stream, model=model)
            began = asyncio.get_running_loop().time()
            try:
                tally.count(await client.post("/v1/chat/completions", json=body), stream)
            except httpx.TransportError:
                tally.cut += 1
                await asyncio.sleep(0.25)
            tally.slowest = max(tally.slowest, asyncio.get_running_loop().time() - began)
            tally.by_client[seed] += 1
            await asyncio.sleep(chance.uniform(0, 2 * pause))


class Load:
    """``clients`` that ask in the background of an ``async with`` block."""

    def __init__(self, gateway: GatewayProcess, clients: int, pause: float = 0.05) -> None:
        self.tally = Tally()
        self._gateway, self._clients, self._pause = gateway, clients, pause
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(keep_asking(self._gateway, self.tally, self._stop, seed, self._pause))
            for seed in range(self._clients)
        ]
        return self

    async def each_asked(self, times: int = 3) -> None:
        """Return when so many further requests of each client are over. Raises `TimeoutError`."""
        before = self.tally.by_client.copy()
        async with asyncio.timeout(WAIT_S):
            while any(self.tally.by_client[n] < before[n] + times for n in range(self._clients)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)
