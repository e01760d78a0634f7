"""Asks served students the held-out requests, as clients would, and compares their answers with the teacher's."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx
import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from distill.dataset import HeldOut
from router.agreement import agree
from router.features import RequestView
from router.signals import SIGNAL_TOP, TokenLogprob
from router.train import LabelledRequest

__all__ = ("Replayed", "agreement_interval", "labelled", "paired_difference", "replay")

CONCURRENCY: Final = 8
TIMEOUT_S: Final = 120.0
REFUSED: Final = (400, 413, 422)


@dataclass(frozen=True, slots=True)
class Replayed:
    """A student's answer to one held-out request."""

    request: HeldOut
    answer: str
    tokens: tuple[TokenLogprob, ...]
    agreed: bool
    latency_ms: float


async def replay(
    url: str, model: str, requests: Sequence[HeldOut], on_progress: Callable[[int], None]
) -> list[Replayed]:
    """Ask a student all the requests, a few at a time. ``url`` ends in ``/v1``.

    A request that its server does not take (one too long for it, say) counts as one that it got wrong.
    ``on_progress`` hears how many are done. Raises ``httpx.HTTPError`` when the server fails.
    """
    gate = asyncio.Semaphore(CONCURRENCY)
    done = 0
    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:

        async def ask(request: HeldOut) -> Replayed:
            nonlocal done
            async with gate:
                replayed = await _ask(client, url, model, request)
            done += 1
            on_progress(done)
            return replayed

        return list(await asyncio.gather(*(ask(request) for request in requests)))


async def _ask(client: httpx.AsyncClient, url: str, model: str, request: HeldOut) -> Replayed:
    body: dict[str, Any] = request.parameters | {
        "model": model,
        "messages": request.messages,
        "logprobs": True,
        "top_logprobs": SIGNAL_TOP,
    }
    started = time.perf_counter()
    response = await client.post(f"{url}/chat/completions", json=body)
    latency = (time.perf_counter() - started) * 1000
    if response.status_code in REFUSED:
        return Replayed(request, "", (), False, latency)
    response.raise_for_status()
    choice = response.json()["choices"][0]
    answer = choice["message"].get("content") or ""
    tokens = tuple(
        TokenLogprob(token["logprob"], tuple(top["logprob"] for top in token["top_logprobs"]))
        for token in (choice.get("logprobs") or {}).get("content") or ()
    )
    return Replayed(request, answer, tokens, agree(answer, request.answer), latency)


def labelled(rows: Sequence[Replayed], hold_tokens: int) -> list[LabelledRequest]:
    """The rows as the router learns from them, their answers cut as the gateway cuts them."""
    return [
        LabelledRequest(
            RequestView.from_body(row.request.parameters | {"messages": row.request.messages}),
            row.tokens[:hold_tokens],
            row.agreed,
        )
        for row in rows
    ]


def agreement_interval(agreed: Sequence[bool], confidence: float = 0.95) -> tuple[float, float, float]:
    """Share that agreed with its exact two-sided binomial interval: (share, low, high).

    Clopper and Pearson, Biometrika 26 (1934) 404-413.
    """
    n, k = len(agreed), sum(agreed)
    if n == 0:
        return 0.0, 0.0, 1.0
    half = (1 - confidence) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, half))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - half))
    return k / n, low, high


def paired_difference(
    candidate: Sequence[bool], champion: Sequence[bool], confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Mean difference in agreement on the same requests and its one-sided lower bound by the bootstrap.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3: the percentile of 10,000 resamples.
    Raises ``ValueError`` when the two are of different lengths.
    """
    n = len(candidate)
    if n != len(champion):
        raise ValueError(f"{n} answers of the candidate and {len(champion)} of the champion are no pairs")
    if not n:
        return 0.0, -1.0
    better = sum(one and not other for one, other in zip(candidate, champion, strict=True))
    worse = sum(other and not one for one, other in zip(candidate, champion, strict=True))
    # a difference is -1, 0 or 1, so that a resample is three counts, however many requests there are
    counts = np.random.default_rng(seed).multinomial(n, [better / n, worse / n, 1 - (better + worse) / n], 10_000)
    means: NDArray[np.float64] = (counts[:, 0] - counts[:, 1]) / n
    return (better - worse) / n, float(np.quantile(means, 1 - confidence))
