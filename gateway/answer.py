"""Reading an upstream's answer, whole or in chunks: what the ledger and the router need of it, and what the client
must not see because the gateway alone asked for it. Odd shapes are passed over; nothing here raises.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from ledger.prices import Tokens
from router.signals import SIGNAL_TOP, TokenLogprob

__all__ = ("Answer", "Asked", "signals")

BELIEVABLE: Final = 10**9
"""A count or a log-probability beyond this is not believed: sums of it would not fit the ledger's columns."""
MAX_REASON: Final = 32


@dataclass(frozen=True, slots=True)
class Asked:
    """What the client itself asked for; the rest is taken out of its answer."""

    logprobs: bool
    top_logprobs: int
    stream_usage: bool
    running_usage: bool = False
    """vLLM's ``continuous_usage_stats``: usage in every chunk."""

    @staticmethod
    def by(body: dict[str, Any]) -> "Asked":
        """From the client's body."""
        options = _mapping(body.get("stream_options"))
        return Asked(
            bool(body.get("logprobs")),
            int(body.get("top_logprobs") or 0),
            bool(options.get("include_usage")),
            bool(options.get("continuous_usage_stats")),
        )


@dataclass(slots=True)
class Answer:
    """What was read of one upstream answer so far (its first choice)."""

    text: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    finish_reason: str | None = None
    usage: Tokens | None = None

    @property
    def tokens(self) -> Tokens:
        """As the upstream counted them; the tokens that were seen where it broke off before it did."""
        return self.usage or Tokens(completion=len(self.logprobs))

    def read(self, body: dict[str, Any]) -> None:
        """Read a ``chat.completion`` or one ``chat.completion.chunk``."""
        usage = _mapping(body.get("usage"))
        if usage:
            self.usage = _tokens(usage)
        for choice in _objects(body.get("choices")):
            if choice.get("index", 0) != 0:
                continue
            content = _mapping(choice.get("delta") or choice.get("message")).get("content")
            if isinstance(content, str):
                self.text += content
            logprobs = _mapping(choice.get("logprobs"))
            self.logprobs.extend(filter(_is_token, _objects(logprobs.get("content"))))
            reason = choice.get("finish_reason")
            if isinstance(reason, str) and reason:
                self.finish_reason = reason[:MAX_REASON]

    def hide(self, body: dict[str, Any], asked: Asked) -> bool:
        """Take out of a body the log-probabilities that the client did not ask for. True when that changed it.

        What was read stays whole: the ledger keeps it as the upstream sent it.
        """
        changed = False
        for choice in _objects(body.get("choices")):
            logprobs = choice.get("logprobs")
            if logprobs is None:
                continue
            if not asked.logprobs:
                choice["logprobs"] = None
                changed = True
                continue
            for part, tokens in _mapping(logprobs).items():
                if isinstance(tokens, list):
                    logprobs[part] = [_cut(token, asked.top_logprobs) for token in cast("list[Any]", tokens)]
                    changed = changed or logprobs[part] != tokens
        return changed


def _cut(token: Any, top: int) -> Any:
    listed = _mapping(token).get("top_logprobs")
    return token | {"top_logprobs": listed[:top]} if isinstance(listed, list) else token


def signals(logprobs: Sequence[dict[str, Any]], tokens: int) -> list[TokenLogprob]:
    """OpenAI's ``logprobs.content`` as the router reads it: the first ``tokens`` tokens, `SIGNAL_TOP` deep, always.

    The router was trained on answers that were cut in the same way.
    """
    return [TokenLogprob(float(token["logprob"]), _top(token)) for token in logprobs[:tokens]]


def _top(token: dict[str, Any]) -> tuple[float, ...]:
    listed = [top["logprob"] for top in _objects(token.get("top_logprobs")) if _is_number(top.get("logprob"))]
    return tuple(sorted(map(float, listed), reverse=True)[:SIGNAL_TOP])


def _tokens(usage: dict[str, Any]) -> Tokens:
    prompt = _count(usage.get("prompt_tokens"))
    cached = _count(_mapping(usage.get("prompt_tokens_details")).get("cached_tokens"))
    return Tokens(prompt, _count(usage.get("completion_tokens")), min(cached, prompt))


def _count(value: Any) -> int:
    return int(max(value, 0)) if _is_number(value) else 0


def _is_token(token: dict[str, Any]) -> bool:
    return isinstance(token.get("token"), str) and _is_number(token.get("logprob"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= BELIEVABLE


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    for item in cast("list[Any]", value) if isinstance(value, list) else ():
        if isinstance(item, dict):
            yield cast("dict[str, Any]", item)
