"""The servers that a comparator asks: the teacher, the embeddings, a student."""

import os
from dataclasses import dataclass
from typing import Any, Final, cast

import httpx

from ledger.prices import Price, Tokens

__all__ = ("REFUSED", "BadAnswer", "Upstream", "tokens_of")

REFUSED: Final = (400, 413, 422)
"""Statuses of a server that does not take a request: one too long for it, say."""
TIMEOUT_S: Final = 120.0
FREE: Final = Price()


class BadAnswer(Exception):
    """A server answered with something else than its API has; the message is one line."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """An OpenAI-compatible server: ``url`` ends in ``/v1``, ``api_key_env`` names the variable that holds its key."""

    url: str
    model: str
    api_key_env: str | None = None
    price: Price = FREE

    @property
    def headers(self) -> dict[str, str]:
        """With its key, where it has one."""
        key = os.environ.get(self.api_key_env) if self.api_key_env else None
        return {"authorization": f"Bearer {key}"} if key else {}

    async def post(self, client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object that it answers ``body`` (without its model) with.

        Raises ``httpx.HTTPError``, for statuses too, and `BadAnswer`.
        """
        url, sent = self.url.rstrip("/") + path, body | {"model": self.model}
        response = await client.post(url, json=sent, headers=self.headers, timeout=TIMEOUT_S)
        response.raise_for_status()
        try:
            answer = response.json()
        except ValueError as error:
            raise BadAnswer(f"{url} did not answer with JSON") from error
        if not isinstance(answer, dict):
            raise BadAnswer(f"{url} did not answer with a JSON object")
        return cast("dict[str, Any]", answer)


def tokens_of(answer: dict[str, Any]) -> Tokens:
    """The tokens that an answer's ``usage`` counts; none where it has none that can be read."""
    usage = answer.get("usage")
    counts = cast("dict[str, Any]", usage) if isinstance(usage, dict) else {}
    prompt, completion = (counts.get(name) for name in ("prompt_tokens", "completion_tokens"))
    return Tokens(*(value if isinstance(value, int) and value > 0 else 0 for value in (prompt, completion)))
