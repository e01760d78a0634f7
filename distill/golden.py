"""Golden prompts: what an answer must be, or must hold, whatever the averages say.

A file has one JSON object a line: ``prompt`` or ``messages``, and at least one of ``answer`` (compared by
``comparator``, exact where none is named), ``contains`` and ``not_contains``.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from distill.evaluate import ask_student
from distill.measures import Outcome
from distill.upstreams import Upstream
from router.comparators import COMPARATORS, Reply, agreed, compare
from router.features import RequestView
from router.model import RouterModel
from router.policy import Capabilities, decide, escalate

__all__ = ("Asking", "Golden", "GoldenError", "ask_golden", "load_golden")

CONCURRENCY: Final = 8


class GoldenError(Exception):
    """The file cannot be used; the message says which line and why."""


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One prompt and what its answer must be. Texts are compared without regard to case."""

    id: str = ""
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    parameters: dict[str, Any] = {}
    """Further fields of the request; ``temperature`` is 0 where it is not given."""
    answer: str | None = None
    comparator: str = "exact"
    contains: tuple[str, ...] = ()
    not_contains: tuple[str, ...] = ()

    def body(self) -> dict[str, Any]:
        """The request."""
        messages = self.messages or [{"role": "user", "content": self.prompt}]
        return {"temperature": 0} | self.parameters | {"messages": messages}

    def wrong(self, reply: Reply) -> str:
        """What is wrong with an answer, in words; empty where nothing is."""
        text = reply.text.casefold()
        missing = [part for part in self.contains if part.casefold() not in text]
        present = [part for part in self.not_contains if part.casefold() in text]
        if self.answer is not None and not agreed(compare(self.comparator, reply, Reply(self.answer))):
            return f"is not {self.answer!r} by {self.comparator}"
        if missing:
            return f"does not hold {missing[0]!r}"
        return f"holds {present[0]!r}" if present else ""


def load_golden(path: Path) -> list[Golden]:
    """Read the file; blank lines are passed over. Raises `GoldenError`."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise GoldenError(f"cannot read the golden prompts in {path}: {error.strerror}") from error
    found = [_read(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise GoldenError(f"{path} holds no golden prompt")
    return found


def _read(path: Path, number: int, line: bytes) -> Golden:
    try:
        golden = msgspec.json.decode(line, type=Golden)
    except msgspec.MsgspecError as error:
        raise GoldenError(f"{path}:{number}: {error}") from error
    if (golden.prompt is None) == (not golden.messages):
        raise GoldenError(f"{path}:{number}: give either prompt or messages")
    if golden.answer is None and not golden.contains and not golden.not_contains:
        raise GoldenError(f"{path}:{number}: give answer, contains or not_contains")
    if golden.comparator not in COMPARATORS:
        raise GoldenError(f"{path}:{number}: comparator must be one of {', '.join(COMPARATORS)}")
    return msgspec.structs.replace(golden, id=golden.id or f"line {number}")


@dataclass(frozen=True)
class Asking:
    """A served student with its router, as the gateway would use them."""

    client: httpx.AsyncClient
    student: Upstream
    router: RouterModel
    context_tokens: int

    async def outcomes(
        self, prompts: Sequence[tuple[str, str, dict[str, Any], Callable[[Reply], str]]]
    ) -> list[Outcome]:
        """Of each prompt: its name, its kind, its request, and what says what is wrong with an answer."""
        gate = asyncio.Semaphore(CONCURRENCY)

        async def one(name: str, kind: str, body: dict[str, Any], wrong: Callable[[Reply], str]) -> Outcome:
            async with gate:
                escalated, reply = await self.ask(body)
            why = "" if escalated else wrong(reply)
            return Outcome(name, kind, not why, escalated, why)

        return list(await asyncio.gather(*(one(*prompt) for prompt in prompts)))

    async def ask(self, body: dict[str, Any]) -> tuple[bool, Reply]:
        """Whether a request ends at the teacher, by the thresholds for whole answers, and what the student says.

        A request that the student's server does not take ends there. Raises ``httpx.HTTPError``.
        """
        decision = decide(RequestView.from_body(body), self.router, Capabilities(self.context_tokens))
        if decision.route == "teacher":
            return True, Reply()
        said = await ask_student(self.client, self.student, body)
        if said is None:
            return True, Reply()
        if not decision.is_provisional:
            return False, said.reply
        score = decision.score or 0.0
        abandoned, _ = escalate(self.router, score, said.tokens, whole=True, cut_off=said.cut_off)
        return abandoned, said.reply


async def ask_golden(asking: Asking, prompts: Sequence[Golden]) -> list[Outcome]:
    """Ask every prompt; one that the router leaves to the teacher passes.

    A golden prompt is a promise of the system, not of the student alone. Raises ``httpx.HTTPError``.
    """
    return await asking.outcomes([(golden.id, "golden", golden.body(), golden.wrong) for golden in prompts])
