"""What the router looks at: the view of a request, and its features."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from router.hashing import CHAR_BUCKETS, WORD_BUCKETS, ngrams
from router.lexicon import Lexicon

__all__ = ("FEATURES", "RequestView", "dot", "feature_row")

EDGE_CHARS = 4_000
TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal"})
SCHEMA_FORMATS = frozenset({"json_schema", "json_object"})
FULLWIDTH_QUESTION = "\uff1f"
EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
DIGITS = "0123456789"
CODE_CHARS = "{}[]();=<>_"
COUNTS = 9
COUNTS_NORM = math.sqrt(COUNTS)
FEATURES = WORD_BUCKETS + CHAR_BUCKETS + COUNTS
COUNT_COLUMNS = np.arange(WORD_BUCKETS + CHAR_BUCKETS, FEATURES)


@dataclass(frozen=True, slots=True)
class RequestView:
    """What the router looks at, made from the body of a chat request.

    `messages` holds (role, text) in order. `has_images` stands for every part that is not text (images,
    audio, files); such parts are not in the text. `max_tokens` is the bound the client set, if it did.
    """

    messages: tuple[tuple[str, str], ...]
    has_images: bool = False
    has_tools: bool = False
    wants_schema: bool = False
    n: int = 1
    max_tokens: int | None = None
    unserved: bool = False
    """True for a request with one of the `UNSERVED` fields: no student can do it, whatever it says."""

    @staticmethod
    def from_body(body: Mapping[str, object]) -> "RequestView":
        """View of a decoded OpenAI chat body. Odd shapes count as absent; nothing is raised."""
        raw = [_mapping(message) for message in _list(body.get("messages"))]
        contents = [_content(message.get("content")) for message in raw]
        return RequestView(
            messages=tuple(
                (_string(message.get("role")), text) for message, (text, _) in zip(raw, contents, strict=True)
            ),
            has_images=any(other for _, other in contents),
            has_tools=_offers_tools(body) or any(map(_is_tool_turn, raw)),
            wants_schema=_string(_mapping(body.get("response_format")).get("type")) in SCHEMA_FORMATS,
            n=_positive(body.get("n")) or 1,
            max_tokens=_positive(body.get("max_completion_tokens")) or _positive(body.get("max_tokens")),
            unserved=any(UNSERVED[name](body[name]) for name in UNSERVED.keys() & body.keys()),
        )

    def text(self) -> str:
        """The user's turns, one per line: what the features read."""
        return "\n".join(text for role, text in self.messages if role == "user")


def dot(view: RequestView, lexicon: Lexicon, weights: Sequence[float]) -> float | None:
    """The product of `feature_row` with the weights at a fraction of its cost; None where the lexicon cannot tell."""
    text = view.text()
    found = lexicon.dot(text.casefold(), weights)
    if found is None:
        return None
    return found + sum(map(operator.mul, _counts(view, len(text), text), weights[-COUNTS:]))


def feature_row(view: RequestView) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Features of a request as (column indices, values), stateless.

    Blocks: hashed word 1-2-grams and hashed character 2-5-grams of unit norm, and scaled counts of norm at
    most 1. At most the first and the last 4,000 characters of the text are read.
    """
    text = view.text()
    read = text if len(text) <= 2 * EDGE_CHARS else f"{text[:EDGE_CHARS]}\n{text[-EDGE_CHARS:]}"
    columns, weights = ngrams(read.casefold())
    counts = np.array(_counts(view, len(text), read))
    return np.concatenate((columns, COUNT_COLUMNS)), np.concatenate((weights, counts))


def _counts(view: RequestView, length: int, read: str) -> list[float]:
    # Each count is scaled to [0, 1], and the block's norm to at most 1, so that no block outweighs another.
    chars = max(len(read), 1)
    scaled = (
        min(math.log1p(len(view.messages)) / 4.0, 1.0),
        min(math.log1p(length) / 12.0, 1.0),
        sum(map(read.count, DIGITS)) / chars,
        sum(map(read.count, CODE_CHARS)) / chars,
        "```" in read,
        "?" in read or FULLWIDTH_QUESTION in read,
        1.0 - len(read.encode("ascii", "ignore")) / chars,
        view.has_tools,
        view.wants_schema,
    )
    return [value / COUNTS_NORM for value in scaled]


def _content(content: object) -> tuple[str, bool]:
    """The text of a message's content, and whether it has parts other than text."""
    if isinstance(content, str):
        return content, False
    parts = [{"type": "text", "text": part} if isinstance(part, str) else _mapping(part) for part in _list(content)]
    is_text = [_string(part.get("type")) in TEXT_PARTS for part in parts]
    texts = [_string(part.get("text")) for part, readable in zip(parts, is_text, strict=True) if readable]
    return "\n".join(texts), not all(is_text)


def _offers_tools(body: Mapping[str, object]) -> bool:
    return bool(_list(body.get("tools")) or _list(body.get("functions")))


def _is_tool_turn(message: Mapping[str, object]) -> bool:
    return message.get("role") in ("tool", "function") or bool(_list(message.get("tool_calls")))


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[object]:
    return cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _is_given(value: object) -> bool:
    return value is not None and value is not False


def _wants_more_than_text(modalities: object) -> bool:
    return any(modality != "text" for modality in _list(modalities))


def _is_unknown_effort(effort: object) -> bool:
    return effort is not None and _string(effort) not in EFFORTS


def _has_other_tools(tools: object) -> bool:
    return any(_mapping(tool).get("type", "function") != "function" for tool in _list(tools))


# `prediction`, `verbosity`, `service_tier` and `store` are hints that do not change what an answer is: a student
# passes over them. `response_format`, `logit_bias`, `seed`, `stop` and `logprobs` its engine has.
UNSERVED: Final[dict[str, Callable[[object], bool]]] = {
    "audio": _is_given,
    "functions": _is_given,
    "modalities": _wants_more_than_text,
    "prompt_embeds": _is_given,
    "reasoning_effort": _is_unknown_effort,
    "tools": _has_other_tools,
    "web_search_options": _is_given,
}
"""Fields of a request that no student's engine has, each with what tells whether it is asked for.

An engine passes over a field that it does not know, so the answer would lack what was asked without saying so.
"""
