"""Reading an upstream's answer, whole or in chunks: what the ledger and the router need of it, and what the client
must not see because the gateway alone asked for it. Odd shapes are passed over; nothing here raises.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.tokens import Token, is_number, token_of
from gateway.wire import items, mapping, objects, string
from ledger.prices import Tokens

__all__ = ("Answer", "Asked")

MAX_REASON: Final = 32
MAX_CALLS: Final = 128


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
        options = mapping(body.get("stream_options"))
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
    logprobs: list[Token] = field(default_factory=list[Token])
    finish_reason: str | None = None
    usage: Tokens | None = None
    calls: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    """Of tools, by their index."""

    @property
    def tool_calls(self) -> list[dict[str, Any]] | None:
        """As a whole answer has them; None where no tool is called."""
        return [self.calls[index] for index in sorted(self.calls)] or None

    @property
    def tokens(self) -> Tokens:
        """As the upstream counted them; the tokens that were seen where it broke off before it did."""
        return self.usage or Tokens(completion=len(self.logprobs))

    def read(self, body: dict[str, Any]) -> None:
        """Read a ``chat.completion``, one ``chat.completion.chunk``, or a ``text_completion``, whole or a chunk."""
        usage = mapping(body.get("usage"))
        if usage:
            self.usage = _tokens(usage)
        for choice in objects(body.get("choices")):
            if choice.get("index", 0) != 0:
                continue
            said, tokens = _said(choice)
            self._read_calls(choice)
            if isinstance(said, str):
                self.text += said
            self.logprobs += filter(None, map(token_of, tokens))
            reason = choice.get("finish_reason")
            if isinstance(reason, str) and reason:
                self.finish_reason = reason[:MAX_REASON]

    def take(
        self, text: str, logprobs: list[Token] | None, usage: dict[str, Any] | None, reason: str | None = None
    ) -> None:
        """Read the parts of a chat's text, or of a chunk of it."""
        self.text += text
        if logprobs:
            self.logprobs += logprobs
        if usage:
            self.usage = _tokens(usage)
        if reason:
            self.finish_reason = reason[:MAX_REASON]

    def _read_calls(self, choice: dict[str, Any]) -> None:
        """Calls come whole, or as pieces of their arguments."""
        spoken = mapping(choice.get("delta") or choice.get("message"))
        if not spoken.get("tool_calls"):
            return
        for place, sent in enumerate(objects(spoken["tool_calls"])):
            index, function = sent.get("index", place), mapping(sent.get("function"))
            if not isinstance(index, int) or (index not in self.calls and len(self.calls) >= MAX_CALLS):
                continue
            empty = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            call = self.calls.setdefault(index, empty)
            call["id"] = call["id"] or string(sent.get("id"))
            for part in call["function"]:
                call["function"][part] += string(function.get(part))

    def hide(self, body: dict[str, Any], asked: Asked) -> bool:
        """Take out of a body the log-probabilities that the client did not ask for. True when that changed it.

        What was read stays whole: the ledger keeps it as the upstream sent it.
        """
        changed = False
        for choice in objects(body.get("choices")):
            logprobs = choice.get("logprobs")
            if logprobs is None:
                continue
            shown = _as_asked(logprobs, asked.top_logprobs) if asked.logprobs else None
            if shown != logprobs:
                choice["logprobs"] = shown
                changed = True
        return changed


def _said(choice: dict[str, Any]) -> tuple[Any, Iterable[dict[str, Any]]]:
    """Text and tokens of a chat's choice, or of a completion's, which has the text itself."""
    logprobs, spoken = mapping(choice.get("logprobs")), choice.get("delta") or choice.get("message")
    if spoken is None and "text" in choice:
        return choice["text"], _completion_tokens(logprobs)
    return mapping(spoken).get("content"), objects(logprobs.get("content"))


def _completion_tokens(logprobs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A completion's log-probabilities, lists side by side, as a chat has them: one object per token."""
    tops = items(logprobs.get("top_logprobs"))
    pairs = zip(items(logprobs.get("tokens")), items(logprobs.get("token_logprobs")), strict=False)
    for i, (token, logprob) in enumerate(pairs):
        listed = mapping(tops[i]) if i < len(tops) else {}
        top = [{"token": other, "logprob": value} for other, value in listed.items()]
        yield {"token": token, "logprob": logprob, "top_logprobs": top}


def _as_asked(logprobs: Any, top: int) -> Any:
    """As the upstream would have sent it, had it been asked for the client's own number of alternatives."""
    parts = mapping(logprobs)
    if isinstance(parts.get("top_logprobs"), list):
        listed = items(parts["top_logprobs"])
        chosen = items(parts.get("tokens")) + [None] * len(listed)
        return parts | {"top_logprobs": [_best(each, chosen[i], top) for i, each in enumerate(listed)]}
    lists = {part: items(tokens) for part, tokens in parts.items() if isinstance(tokens, list)}
    cut = {part: [_cut(token, top) for token in tokens] for part, tokens in lists.items()}
    return parts | cut if cut else logprobs


def _best(listed: Any, chosen: Any, top: int) -> Any:
    """A completion's alternatives of one token: the ``top`` likeliest, and always the one that was chosen."""
    alternatives = mapping(listed)
    if len(alternatives) <= top:
        return listed
    numbers = [token for token, value in alternatives.items() if is_number(value)]
    kept = sorted(numbers, key=alternatives.__getitem__, reverse=True)[:top]
    return {token: value for token, value in alternatives.items() if token in kept or token == chosen}


def _cut(token: Any, top: int) -> Any:
    listed = mapping(token).get("top_logprobs")
    return token | {"top_logprobs": listed[:top]} if isinstance(listed, list) else token


def _tokens(usage: dict[str, Any]) -> Tokens:
    prompt = _count(usage.get("prompt_tokens"))
    cached = _count(mapping(usage.get("prompt_tokens_details")).get("cached_tokens"))
    return Tokens(prompt, _count(usage.get("completion_tokens")), min(cached, prompt))


def _count(value: Any) -> int:
    return int(max(value, 0)) if is_number(value) else 0
