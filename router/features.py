"""What the router looks at: the view of a request, and its features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from router.hashing import CHAR_BUCKETS, WORD_BUCKETS, char_ngrams, word_ngrams

__all__ = ("FEATURES", "RequestView", "feature_row", "features")

EDGE_CHARS = 4_000
TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal"})
SCHEMA_FORMATS = frozenset({"json_schema", "json_object"})
FULLWIDTH_QUESTION = "\uff1f"
DIGITS = "0123456789"
CODE_CHARS = "{}[]();=<>_"
COUNTS = 9
FEATURES = WORD_BUCKETS + CHAR_BUCKETS + COUNTS


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
        )

    def text(self) -> str:
        """The user's turns, one per line: what the features read."""
        return "\n".join(text for role, text in self.messages if role == "user")


def features(views: Sequence[RequestView]) -> csr_matrix:
    """Feature matrix of shape (len(views), FEATURES), float64, stateless.

    Blocks: hashed word 1-2-grams and hashed character 2-5-grams of unit norm, and scaled counts of norm at
    most 1. At most the first and the last 4,000 characters of the text are read.
    """
    rows = [feature_row(view) for view in views]
    ends = np.cumsum([0, *(indices.size for indices, _ in rows)])
    indices = np.concatenate([np.zeros(0, dtype=np.int64), *(indices for indices, _ in rows)])
    values = np.concatenate([np.zeros(0), *(values for _, values in rows)])
    return csr_matrix((values, indices, ends), shape=(len(rows), FEATURES))


def feature_row(view: RequestView) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """One row of `features` as (column indices, values), without the cost of a sparse matrix."""
    text = view.text()
    read = text if len(text) <= 2 * EDGE_CHARS else f"{text[:EDGE_CHARS]}\n{text[-EDGE_CHARS:]}"
    folded = read.casefold()
    words, word_weights = word_ngrams(folded)
    chars, char_weights = char_ngrams(folded)
    counts = _counts(view, len(text), read)
    indices = np.concatenate((words, chars + WORD_BUCKETS, np.arange(COUNTS) + (WORD_BUCKETS + CHAR_BUCKETS)))
    return indices, np.concatenate((word_weights, char_weights, counts))


def _counts(view: RequestView, length: int, read: str) -> NDArray[np.float64]:
    # Each count is scaled to [0, 1], and the block's norm to at most 1, so that no block outweighs another.
    chars = max(len(read), 1)
    scaled = (
        min(np.log1p(len(view.messages)) / 4.0, 1.0),
        min(np.log1p(length) / 12.0, 1.0),
        sum(map(read.count, DIGITS)) / chars,
        sum(map(read.count, CODE_CHARS)) / chars,
        "```" in read,
        "?" in read or FULLWIDTH_QUESTION in read,
        1.0 - len(read.encode("ascii", "ignore")) / chars,
        view.has_tools,
        view.wants_schema,
    )
    return np.array(scaled, dtype=np.float64) / np.sqrt(COUNTS)


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
