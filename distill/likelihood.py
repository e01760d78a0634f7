"""How likely the student finds the teacher's answer: a label that needs no judge, from one prefill of the student.

Teacher-forced scoring by vLLM's ``prompt_logprobs``. Prompt and answer are cut into tokens apart, as in training, so
that none straddles the two.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx

from distill.upstreams import REFUSED, BadAnswer, Upstream
from serving.parity import probe_logprobs

__all__ = ("answer_logprob",)


async def answer_logprob(
    client: httpx.AsyncClient, student: Upstream, messages: Sequence[dict[str, Any]], answer: str
) -> float:
    """Mean log-probability of the answer's tokens after the conversation, in nats per token.

    Minus infinity where the student's server does not take them: they are too long for it, say. Raises
    ``httpx.HTTPError``, and `BadAnswer` for an answer without a token.
    """
    root = replace(student, url=student.url.rstrip("/").removesuffix("/v1"))
    try:
        prompt = await _tokens(client, root, {"messages": list(messages), "add_generation_prompt": True})
        tokens = await _tokens(client, root, {"prompt": answer, "add_special_tokens": False})
        if not tokens:
            raise BadAnswer("an answer without a token has no likelihood")
        (scores,) = await probe_logprobs(root.url, student.model, [[*prompt, *tokens]], client, root.headers)
    except httpx.HTTPStatusError as error:
        if error.response.status_code in REFUSED:
            return -math.inf
        raise
    return math.fsum(scores[-len(tokens) :]) / len(tokens)


async def _tokens(client: httpx.AsyncClient, root: Upstream, body: dict[str, Any]) -> list[int]:
    found = (await root.post(client, "/tokenize", body)).get("tokens")
    if not isinstance(found, list):
        raise BadAnswer(f"{root.url}/tokenize did not answer with tokens")
    return found
