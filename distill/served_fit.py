"""How the served student takes the teacher's held-out answers: perplexity, and divergence from its top tokens.

One prefill for each answer, by vLLM's ``prompt_logprobs``. Prompt and answer are cut into tokens apart, as in
training.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from distill.dataset import HeldOut, render
from distill.measures import Fit
from distill.targets import AlignedTarget, align, from_openai
from distill.upstreams import REFUSED, Upstream
from distill.vocabulary import byte_vocabulary, token_bytes

__all__ = ("Scored", "divergence", "measure_fit", "prepare")

TOP: Final = 20
"""As many log-probabilities of a position as vLLM gives by default."""
AT_ONCE: Final = 4
TIMEOUT_S: Final = 120.0
LEAST: Final = 1e-9
"""Of a tail's probability, so that rounding makes no infinity."""


@dataclass(frozen=True, slots=True)
class Scored:
    """An answer in the student's tokens, with the teacher's distribution at each where it is known."""

    prompt: list[int]
    answer: list[int]
    targets: Sequence[AlignedTarget] = ()


def prepare(folder: Path, rows: Sequence[HeldOut], logged: Mapping[str, Sequence[Any]]) -> list[Scored]:
    """Cut the answers into tokens of the tokenizer in ``folder``; answers without a token are left out.

    ``logged`` has the teacher's tokens of an answer, as in OpenAI's ``logprobs.content``, by request id.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    spelled = token_bytes(tokenizer)
    vocabulary, found = byte_vocabulary(spelled), list[Scored]()
    for row in rows:
        prompt, answer = (
            list[int](tokenizer(text, add_special_tokens=False).input_ids)
            for text in (render(row.messages, tokenizer), row.answer)
        )
        if prompt and answer:
            teacher = from_openai(logged.get(row.id, ()))
            found.append(Scored(prompt, answer, align(answer, spelled, teacher, vocabulary) if teacher else ()))
    return found


async def measure_fit(client: httpx.AsyncClient, student: Upstream, answers: Sequence[Scored]) -> Fit | None:
    """Score every answer; None where the server took none of them. ``student.url`` ends in ``/v1``.

    Raises ``httpx.HTTPError``.
    """
    gate = asyncio.Semaphore(AT_ONCE)

    async def score(answer: Scored) -> tuple[list[float], list[float]] | None:
        async with gate:
            positions = await _positions(client, student, answer)
        if positions is None:
            return None
        own = [ranked[token] for token, ranked in zip(answer.answer, positions, strict=True)]
        known = zip(answer.targets, positions, strict=False)
        return own, [divergence(target, ranked) for target, ranked in known if target.ids]

    scored = [found for found in await asyncio.gather(*map(score, answers)) if found is not None]
    logprobs = [value for own, _ in scored for value in own]
    if not logprobs:
        return None
    kl = [value for _, values in scored for value in values]
    mean = -math.fsum(logprobs) / len(logprobs)
    perplexity = math.exp(min(mean, 700.0))  # what a float holds
    return Fit(len(scored), len(logprobs), perplexity, math.fsum(kl) / len(kl) if kl else None, len(kl))


def divergence(target: AlignedTarget, student: Mapping[int, float]) -> float:
    """KL(teacher || student) in nats over the tokens that both name, and one cell for all others.

    ``student`` has natural log-probabilities by token id. Merging cells can only lessen a divergence (the log sum
    inequality: Cover and Thomas, Elements of Information Theory, theorem 2.7.1): this is a lower bound of the whole.
    """
    shared = [(p, student[token]) for token, p in zip(target.ids, target.logprobs, strict=True) if token in student]
    inside = math.fsum(math.exp(p) * (p - q) for p, q in shared)
    tails = [max(1.0 - math.fsum(math.exp(pair[side]) for pair in shared), LEAST) for side in (0, 1)]
    return max(0.0, inside + tails[0] * math.log(tails[0] / tails[1]))


class _Choice(msgspec.Struct):
    prompt_logprobs: list[dict[str, dict[str, Any]] | None]


class _Completion(msgspec.Struct):
    choices: list[_Choice]


async def _positions(client: httpx.AsyncClient, student: Upstream, answer: Scored) -> list[dict[int, float]] | None:
    """The student's log-probabilities by token id at each token of the answer; None where it is too long for it."""
    body = {
        "model": student.model,
        "prompt": [*answer.prompt, *answer.answer],
        "max_tokens": 1,
        "prompt_logprobs": TOP,
    }
    response = await client.post(f"{student.url}/completions", json=body, headers=student.headers, timeout=TIMEOUT_S)
    if response.status_code in REFUSED:
        return None
    response.raise_for_status()
    (choice,) = msgspec.json.decode(response.content, type=_Completion).choices
    ranked = choice.prompt_logprobs[-len(answer.answer) :]
    return [{int(token): float(found["logprob"]) for token, found in (each or {}).items()} for each in ranked]
