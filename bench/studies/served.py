"""A model folder behind real vLLM for the time of a measurement."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from serving.fleet import engine_options
from serving.server import VllmServer, free_port
from serving.settings import StudentSettings

__all__ = ("Served",)

CONCURRENCY = 16
READY_S = 600.0


class Served:
    """``async with Served(...)``: the model answers inside."""

    def __init__(self, weights: Path, log: Path, say: Callable[[str], None], context_tokens: int = 512) -> None:
        settings = StudentSettings(context_tokens=context_tokens)
        self._server = VllmServer(engine_options(settings, weights, "study", free_port()), log)
        self._model = settings.model
        self._say = say

    async def __aenter__(self) -> Self:
        """Start it and wait until it answers."""
        await self._server.start()
        await self._server.wait_ready(READY_S, lambda _line: None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        await self._server.stop(5)

    async def answers(self, conversations: Sequence[list[dict[str, Any]]], max_tokens: int) -> list[str]:
        """The greedy answer to each conversation."""
        return [choice["message"]["content"] or "" for choice in await self.choices(conversations, max_tokens, {})]

    async def choices(
        self, conversations: Sequence[list[dict[str, Any]]], max_tokens: int, more: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """The first choice of each greedy answer; ``more`` goes into the requests."""
        gate = asyncio.Semaphore(CONCURRENCY)
        done = 0
        async with httpx.AsyncClient(timeout=300, trust_env=False) as client:

            async def ask(messages: list[dict[str, Any]]) -> dict[str, Any]:
                nonlocal done
                body = {"model": self._model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}
                async with gate:
                    response = await client.post(f"{self._server.url}/v1/chat/completions", json=body | more)
                response.raise_for_status()
                done += 1
                if done % 200 == 0:
                    self._say(f"  {done} of {len(conversations)} answered")
                return response.json()["choices"][0]

            return list(await asyncio.gather(*(ask(messages) for messages in conversations)))
