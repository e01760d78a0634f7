"""What is recorded of one request, and how it is encoded for the spool and the store."""

import threading
from typing import Any

import msgspec
import zstandard

from ledger.labels import Label

__all__ = (
    "IMPORTED",
    "NANO",
    "UNASKED",
    "Content",
    "RequestRecord",
    "compressed",
    "decode_content",
    "decode_record",
    "decompressed",
    "encode_content",
    "encode_record",
    "nano",
)

NANO = 1_000_000_000
"""Money is kept as integers of a billionth of the currency unit: sums are exact."""
IMPORTED = "imported"
"""The reason of a row that comes from another system's logs: nobody waited for it here, and no key is billed."""
UNASKED = ("explore", "replay")
"""Reasons of rows that no client asked for: they cost, and are no request of anybody's traffic."""


def nano(amount: float) -> int:
    """The amount in currency units as integer nano-units, rounded to the nearest."""
    return round(amount * NANO)


class Content(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What was said. Kept apart from the row, so that it can be expired or refused alone."""

    messages: list[dict[str, Any]]
    parameters: dict[str, Any] = {}
    """The request's other fields, so that it can be asked again as it was."""
    answer: str = ""
    student_answer: str | None = None
    """The student's answer where it was abandoned, or where the teacher answered beside it."""
    student_finish_reason: str | None = None
    """How that answer ended; None where it was cut off, so that it cannot be compared."""
    tool_calls: list[dict[str, Any]] | None = None
    """The answer's, as OpenAI has them."""
    student_tool_calls: list[dict[str, Any]] | None = None
    """The student's answer's."""
    teacher_logprobs: list[Any] | None = None
    """The teacher's tokens as in OpenAI's ``logprobs.content`` (token, logprob, top_logprobs)."""
    least_likely: tuple[str, float] | None = None
    """The student's least likely token and its log-probability, of as much of its answer as there was."""
    student_tokens: list[tuple[str, int]] | None = None
    """The student's tokens, as many as there were, each with its log-probability in thousandths (of a nat)."""


class RequestRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One row of ``requests``. Times are milliseconds, ``created_at`` is milliseconds since the epoch,
    money is nano-units of the settings' currency.
    """

    id: str
    created_at: int
    key_id: str | None = None
    endpoint: str = "chat.completions"
    model: str = ""
    route: str
    reason: str
    release_id: str | None = None
    score: float | None = None
    confidence: float | None = None
    novelty: float | None = None
    propensity: float = 1.0
    status: int = 200
    error_code: str | None = None
    finish_reason: str | None = None
    stream: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    attempt_prompt_tokens: int = 0
    """Tokens of answers that were abandoned for another, or broke off before they were shown."""
    attempt_completion_tokens: int = 0
    cost_nano: int = 0
    baseline_nano: int = 0
    latency_ms: float = 0.0
    first_token_ms: float | None = None
    tags: list[str] = []
    trainable: bool = True
    """False where the caller opted out (``x-stillroom-log: off`` or ``store: false``)."""
    content: Content | None = None
    label: Label | None = None
    """Of the request that this row was asked beside: it goes into ``labels`` with the row."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RequestRecord)
_content_encoder = msgspec.json.Encoder()
_content_decoder = msgspec.json.Decoder(Content)

MAX_CONTENT_BYTES = 64 * 1024 * 1024


def encode_record(record: RequestRecord) -> bytes:
    """The record as MessagePack, content included: the payload of one spool frame.

    Content that MessagePack cannot hold (an integer above 64 bits somewhere in a client's JSON) is left out.
    """
    try:
        return _encoder.encode(record)
    except (OverflowError, RecursionError):
        return _encoder.encode(msgspec.structs.replace(record, content=None))


def decode_record(payload: bytes) -> RequestRecord:
    """Raises ``msgspec.MsgspecError`` for a payload that is not a record."""
    return _decoder.decode(payload)


def encode_content(content: Content) -> bytes:
    """JSON compressed with zstd: the ``body`` of a row of ``contents``."""
    return compressed(_content_encoder.encode(content))


def decode_content(body: bytes) -> Content:
    """The inverse of `encode_content`."""
    return _content_decoder.decode(decompressed(body))


class _Compressors(threading.local):
    """A compressor of its own for each thread: one that two use at once crashes the process."""

    def __init__(self) -> None:
        self.own = zstandard.ZstdCompressor(level=3)


_compressors = _Compressors()


def compressed(data: bytes) -> bytes:
    """What was said, as a column of the store holds it."""
    return _compressors.own.compress(data)


def decompressed(body: bytes) -> bytes:
    """The inverse of `compressed`. Raises ``zstandard.ZstdError``."""
    return zstandard.decompress(body, max_output_size=MAX_CONTENT_BYTES)
