"""Sends a desk's requests through the gateway with the official ``openai`` client, and measures what comes back."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import openai

from stillroom.demo.desk import Request

__all__ = ("MAX_TOKENS", "SYSTEM", "Reply", "Sender", "ask_teacher", "messages")

SYSTEM: Final = "Sort the request."
MAX_TOKENS: Final = 12


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as the client saw it; ``error`` where there was none."""

    request: Request
    answer: str
    route: str
    reason: str
    latency_ms: float
    error: str | None = None


def messages(text: str) -> list[Any]:
    """The request as the desk's application sends it."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


@dataclass(frozen=True)
class Sender:
    """A client of the gateway, as an application would have it: only the base URL is ours."""

    client: openai.AsyncOpenAI
    concurrency: int

    async def send(
        self,
        requests: Sequence[Request],
        on_done: Callable[[], None],
        headers: dict[str, str] | None = None,
    ) -> list[Reply]:
        """Send all, ``concurrency`` at a time, in order of arrival."""
        gate = asyncio.Semaphore(self.concurrency)

        async def one(request: Request) -> Reply:
            async with gate:
                reply = await self.ask(request, headers)
            on_done()
            return reply

        return list(await asyncio.gather(*(one(request) for request in requests)))

    async def ask(self, request: Request, headers: dict[str, str] | None = None) -> Reply:
        """Ask one request; an error is part of the measurement."""
        started = time.perf_counter()
        try:
            raw = await self.client.chat.completions.with_raw_response.create(
                model="auto",
                messages=messages(request.text),
                temperature=0,
                max_tokens=MAX_TOKENS,
                extra_headers=headers or {},
            )
        except openai.OpenAIError as error:
            return Reply(request, "", "", "", (time.perf_counter() - started) * 1000, str(error))
        latency = (time.perf_counter() - started) * 1000
        answer = raw.parse().choices[0].message.content or ""
        route, reason = raw.headers["x-stillroom-route"], raw.headers["x-stillroom-reason"]
        return Reply(request, answer, route, reason, latency)


async def ask_teacher(base_url: str, requests: Sequence[Request], concurrency: int = 64) -> dict[str, str]:
    """What the teacher would have said to each text: asked directly, as a measurement, and not billed to the demo."""
    client = openai.AsyncOpenAI(base_url=base_url, api_key="measurement", max_retries=3)
    gate = asyncio.Semaphore(concurrency)

    async def one(request: Request) -> tuple[str, str]:
        async with gate:
            completion = await client.chat.completions.create(model="demo-teacher", messages=messages(request.text))
        return request.text, completion.choices[0].message.content or ""

    async with client:
        return dict(await asyncio.gather(*(one(request) for request in requests)))
