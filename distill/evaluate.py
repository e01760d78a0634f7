"""Asks served students the held-out requests, as clients would, and compares their answers with the teacher's."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx
import structlog
from scipy.special import betaincinv

from distill.comparing import Case, Compared, Comparing
from distill.dataset import HeldOut
from distill.upstreams import REFUSED, BadAnswer, Upstream, tokens_of
from ledger.prices import Tokens
from router.comparators import Reply, agreed
from router.features import RequestView
from router.settings import RouterSettings
from router.signals import SIGNAL_TOP, TokenLogprob
from router.train import LabelledRequest

__all__ = ("Answered", "Comparators", "Replayed", "agreement_interval", "ask_student", "labelled", "replay")

CONCURRENCY: Final = 8
TIMEOUT_S: Final = 120.0
NONE: Final = Tokens()

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Replayed:
    """A student's answer to one held-out request."""

    request: HeldOut
    answer: str
    tokens: tuple[TokenLogprob, ...]
    agreed: bool
    latency_ms: float
    comparator: str = "exact"
    """By which it is said whether it agreed."""
    cut_off: bool = False
    """Whether the answer ended at its length limit."""
    usage: Tokens = NONE
    began: float = 0.0
    """When it was asked, in seconds of ``time.perf_counter``."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a student's server answered, and how long it took."""

    reply: Reply
    tokens: tuple[TokenLogprob, ...]
    usage: Tokens
    began: float
    latency_ms: float

    @property
    def cut_off(self) -> bool:
        """Whether it ended at its length limit."""
        return self.reply.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class Comparators:
    """How answers are compared, and who is asked where that takes a model: the student itself, unless the settings
    name a judge or there are embeddings. ``spent`` hears of each paid call.
    """

    settings: RouterSettings
    spent: Callable[[str, Upstream, Tokens], None]
    teacher: Upstream | None = None
    embeddings: Upstream | None = None

    def asking(self, client: httpx.AsyncClient, student: Upstream) -> Comparing:
        """For the answers of a student."""
        return Comparing(
            settings=self.settings,
            client=client,
            spent=self.spent,
            embeddings=self.embeddings,
            judge=self.teacher,
            student=student,
            # two calls of the teacher for each held-out request are spent where somebody decided to, and not else
            judges_free_text=False,
        )


async def replay(
    student: Upstream, requests: Sequence[HeldOut], comparators: Comparators, on_progress: Callable[[int], None]
) -> list[Replayed]:
    """Ask a student all the requests, a few at a time, and compare its answers by each request's comparator.

    A request that its server does not take (one too long for it, say) counts as one that it got wrong, and so does an
    answer that cannot be compared. ``student.url`` ends in ``/v1``. ``on_progress`` hears how many are done. Raises
    ``httpx.HTTPError`` when the student's server, or one that compares, fails.
    """
    gate = asyncio.Semaphore(CONCURRENCY)
    done = 0
    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
        comparing = comparators.asking(client, student)

        async def ask(request: HeldOut) -> Replayed:
            nonlocal done
            async with gate:
                replayed = await _ask(comparing, student, request)
            done += 1
            on_progress(done)
            return replayed

        return list(await asyncio.gather(*(ask(request) for request in requests)))


async def ask_student(client: httpx.AsyncClient, student: Upstream, body: dict[str, Any]) -> Answered | None:
    """A chat request with the logprobs that the router reads; None where the server does not take it.

    Raises ``httpx.HTTPError``.
    """
    asked = body | {"model": student.model, "logprobs": True, "top_logprobs": SIGNAL_TOP}
    began = time.perf_counter()
    response = await client.post(f"{student.url}/chat/completions", json=asked, headers=student.headers)
    latency = (time.perf_counter() - began) * 1000
    if response.status_code in REFUSED:
        return None
    response.raise_for_status()
    answer = response.json()
    choice = answer["choices"][0]
    message = choice["message"]
    tokens = tuple(
        TokenLogprob(token["logprob"], tuple(top["logprob"] for top in token["top_logprobs"]))
        for token in (choice.get("logprobs") or {}).get("content") or ()
    )
    reply = Reply.kept(message.get("content"), message.get("tool_calls"), choice.get("finish_reason"))
    return Answered(reply, tokens, tokens_of(answer), began, latency)


async def _ask(comparing: Comparing, student: Upstream, request: HeldOut) -> Replayed:
    began = time.perf_counter()
    said = await ask_student(comparing.client, student, request.parameters | {"messages": request.messages})
    if said is None:
        return Replayed(request, "", (), False, (time.perf_counter() - began) * 1000)
    case = Case(request.messages, request.parameters, said.reply, Reply(request.answer), request.tags, request.model)
    found = await _compared(comparing, case)
    return Replayed(
        request, said.reply.text, said.tokens, agreed(found.agreement), said.latency_ms, found.comparator,
        said.cut_off, said.usage, said.began,
    )  # fmt: skip


async def _compared(comparing: Comparing, case: Case) -> Compared:
    """Disagreement where the one that is asked does not take the answers, or says what cannot be read."""
    found = None
    try:
        found = await comparing.compare(case)
    except BadAnswer as error:
        log.warning("comparison_failed", error=str(error))
    except httpx.HTTPStatusError as error:
        if error.response.status_code not in REFUSED:
            raise
        log.warning("comparison_refused", error=str(error).splitlines()[0])
    return found or Compared(0.0, case.comparator(comparing.settings))


def labelled(rows: Sequence[Replayed], hold_tokens: int) -> list[LabelledRequest]:
    """The rows as the router learns from them, their answers cut as the gateway cuts them."""
    return [
        LabelledRequest(
            RequestView.from_body(row.request.parameters | {"messages": row.request.messages}, row.request.tags),
            row.tokens[:hold_tokens],
            row.agreed,
            row.tokens,
            row.cut_off,
            row.request.teacher_right,
            # of the whole answer, the prompt's share included
            row.latency_ms / len(row.tokens) if row.tokens else None,
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
