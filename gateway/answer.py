"""Reading an upstream's answer, whole or in chunks: what the ledger and the router need of it, and what the client
must not see because the gateway alone asked for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ledger.prices import Tokens
from router.signals import SIGNAL_TOP, TokenLogprob

__all__ = ("Answer", "Asked", "signals")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the client itself asked for; the rest is taken out of its answer."""

    logprobs: bool
    top_logprobs: int
    stream_usage: bool

    @staticmethod
    def by(body: dict[str, Any]) -> "Asked":
        """From the client's body."""
        options = body.get("stream_options")
        return Asked(
            bool(body.get("logprobs")),
            int(body.get("top_logprobs") or 0),
            isinstance(options, dict) and bool(options.get("include_usage")),
        )


NO_TOKENS = Tokens()


@dataclass(slots=True)
class Answer:
    """What was read of one upstream answer so far (its first choice)."""

    text: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    finish_reason: str | None = None
    tokens: Tokens = NO_TOKENS
    usage_seen: bool = False

    def read(self, body: dict[str, Any]) -> None:
        """Read a ``chat.completion`` or one ``chat.completion.chunk``."""
        usage = body.get("usage")
        if isinstance(usage, dict):
            self.tokens, self.usage_seen = _tokens(usage), True
        for choice in body.get("choices") or ():
            if choice.get("index", 0) != 0:
                continue
            part = choice.get("delta") or choice.get("message") or {}
            if isinstance(part.get("content"), str):
                self.text += part["content"]
            logprobs = choice.get("logprobs")
            if isinstance(logprobs, dict) and logprobs.get("content"):
                self.logprobs.extend(logprobs["content"])
            self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def hide(self, body: dict[str, Any], asked: Asked) -> bool:
        """Take out of a body what the client did not ask for. True when that changed it."""
        changed = False
        for choice in body.get("choices") or ():
            logprobs = choice.get("logprobs")
            if not isinstance(logprobs, dict):
                continue
            changed = True
            if not asked.logprobs:
                choice["logprobs"] = None
                continue
            for token in logprobs.get("content") or ():
                token["top_logprobs"] = (token.get("top_logprobs") or [])[: asked.top_logprobs]
        return changed


def _tokens(usage: dict[str, Any]) -> Tokens:
    details = usage.get("prompt_tokens_details") or {}
    return Tokens(
        int(usage.get("prompt_tokens") or 0),
        int(usage.get("completion_tokens") or 0),
        int(details.get("cached_tokens") or 0),
    )


def signals(logprobs: Sequence[dict[str, Any]], tokens: int) -> list[TokenLogprob]:
    """OpenAI's ``logprobs.content`` as the router reads it: the first ``tokens`` tokens, `SIGNAL_TOP` deep, always.

    The router was trained on answers that were cut in the same way.
    """
    return [
        TokenLogprob(
            float(token["logprob"]),
            tuple(
                sorted((float(top["logprob"]) for top in token.get("top_logprobs") or ()), reverse=True)[:SIGNAL_TOP]
            ),
        )
        for token in logprobs[:tokens]
    ]
