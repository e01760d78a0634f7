"""How busy a vLLM server is, from the few series of its own ``/metrics`` that say so, and its tokens per second.

The names are those of vLLM's V1 engine (https://docs.vllm.ai/en/stable/usage/metrics/). Of several engines behind one
port counts are summed, and the fullest KV cache is taken.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import httpx
import msgspec

__all__ = ("EngineFigures", "Rate", "Rates", "parse_figures", "read_figures")

SERIES: Final[dict[str, tuple[str, Callable[[Iterable[float]], float]]]] = {
    "vllm:num_requests_running": ("running", sum),
    "vllm:num_requests_waiting": ("waiting", sum),
    "vllm:kv_cache_usage_perc": ("kv_cache", max),
    "vllm:prompt_tokens_total": ("prompt_tokens", sum),
    "vllm:generation_tokens_total": ("generation_tokens", sum),
    "vllm:num_preemptions_total": ("preemptions", sum),
}
WAIT_S: Final = 1.0
WINDOW_S: Final = 60.0
"""Readings that are older say nothing about now."""


class EngineFigures(msgspec.Struct, frozen=True):
    """One reading. ``kv_cache`` is a share of 1, tokens and preemptions are counted since the server's start; None is
    what the server does not tell.
    """

    running: float | None = None
    waiting: float | None = None
    kv_cache: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    preemptions: float | None = None


class Rate(msgspec.Struct, frozen=True):
    """Tokens a second over the last ``seconds``."""

    prompt: float
    generation: float
    seconds: float


@dataclass
class Rates:
    """Remembers the readings of each server for `WINDOW_S`."""

    _seen: dict[str, deque[tuple[float, EngineFigures]]] = field(
        default_factory=dict[str, deque[tuple[float, EngineFigures]]]
    )

    def add(self, url: str, figures: EngineFigures, now: float) -> Rate | None:
        """Take a reading at a time (s, of a clock that never goes back), and give the rate since the oldest kept.

        None at the first reading, and where the server began anew since.
        """
        self._seen = {known: kept for known, kept in self._seen.items() if kept and now - kept[-1][0] <= WINDOW_S}
        kept = self._seen.setdefault(url, deque())
        while kept and now - kept[0][0] > WINDOW_S:
            kept.popleft()
        if kept and not _goes_on(kept[-1][1], figures):
            kept.clear()
        kept.append((now, figures))
        began, first = kept[0]
        if now <= began:
            return None
        prompt = (figures.prompt_tokens or 0.0) - (first.prompt_tokens or 0.0)
        generation = (figures.generation_tokens or 0.0) - (first.generation_tokens or 0.0)
        return Rate(prompt / (now - began), generation / (now - began), now - began)


def parse_figures(text: str) -> EngineFigures | None:
    """The figures in a ``/metrics`` text; None where it has none of them, as that of another kind of server."""
    found: dict[str, list[float]] = {}
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in SERIES:
            try:
                value = float(line.rpartition(" ")[2])
            except ValueError:
                continue
            if value >= 0:
                found.setdefault(name, []).append(value)
    if not found:
        return None
    return EngineFigures(**{SERIES[name][0]: SERIES[name][1](values) for name, values in found.items()})


async def read_figures(client: httpx.AsyncClient, base_url: str, key: str | None = None) -> EngineFigures | None:
    """What the server at ``base_url`` (with or without ``/v1``) says of itself; None where it does not answer so."""
    root = base_url.rstrip("/").removesuffix("/v1")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        async with asyncio.timeout(WAIT_S):
            answer = await client.get(f"{root}/metrics", headers=headers, timeout=httpx.Timeout(WAIT_S))
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
        return None
    return parse_figures(answer.text) if answer.status_code == 200 else None


def _goes_on(before: EngineFigures, now: EngineFigures) -> bool:
    return (now.generation_tokens or 0.0) >= (before.generation_tokens or 0.0) and (now.prompt_tokens or 0.0) >= (
        before.prompt_tokens or 0.0
    )
