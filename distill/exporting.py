"""What the ledger kept, as files that other tools take: nobody is locked in.

What leaves is what may be trained on (`ledger.trainable`): the content was kept, the caller did not opt out, and the
teacher answered in full, or somebody corrected the answer. ``stored-completions`` is a line as OpenAI lists its
stored chat completions, with messages, log-probabilities and metadata; ``openai-chat`` is a fine-tuning example.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from ledger.audit import record
from ledger.records import NANO, Content
from ledger.request_filters import TrainableFilters
from ledger.store import Store
from ledger.trainable import stream_trainable

__all__ = ("EXPORTS", "export")

OF_FINE_TUNING: Final = ("tools", "parallel_tool_calls")
"""Of a request's parameters."""
Row = Mapping[str, Any]

_encode = msgspec.json.Encoder().encode


def export(store: Store, form: str, filters: TrainableFilters, actor: str) -> Iterator[bytes]:
    """Lines in one of `EXPORTS`, oldest first, in bounded memory; the audit says who asked for them."""
    told = {"format": form, "filters": msgspec.to_builtins(filters)}
    with store.write() as connection:
        record(connection, actor, "content.export", "requests", told)
    for row, content in stream_trainable(store, filters=filters):
        yield _encode(EXPORTS[form](row, content)) + b"\n"


def _stored(row: Row, content: Content) -> dict[str, Any]:
    logprobs = None if content.teacher_logprobs is None else {"content": content.teacher_logprobs}
    choice = {"index": 0, "finish_reason": row["finish_reason"], "message": _answer(content), "logprobs": logprobs}
    usage = {
        "prompt_tokens": row["prompt_tokens"],
        "completion_tokens": row["completion_tokens"],
        "total_tokens": row["prompt_tokens"] + row["completion_tokens"],
        "prompt_tokens_details": {"cached_tokens": row["cached_tokens"]},
    }
    return {
        **content.parameters,
        "id": row["id"],
        "object": "chat.completion",
        "created": row["created_at"] // 1000,
        "model": row["model"],
        "messages": content.messages,
        "choices": [choice],
        "usage": usage,
        "metadata": _metadata(row, content.parameters.get("metadata")),
    }


def _fine_tuning(_row: Row, content: Content) -> dict[str, Any]:
    given = {name: content.parameters[name] for name in OF_FINE_TUNING if name in content.parameters}
    return {"messages": [*content.messages, _answer(content)], **given}


def _answer(content: Content) -> dict[str, Any]:
    said = {"role": "assistant", "content": content.answer or None}
    return said | {"tool_calls": content.tool_calls} if content.tool_calls else said


def _metadata(row: Row, given: Any) -> dict[str, Any]:
    """The client's own, and the row's beside it, all texts as OpenAI has them."""
    known = {
        "route": row["route"],
        "reason": row["reason"],
        "release": row["release_id"],
        "key": row["key_id"],
        "tags": ",".join(row["tags"]),
        "cost": f"{row['cost_nano'] / NANO:.9f}",
        "feedback_score": row["feedback_score"],
        "corrected": "true" if row["corrected"] else None,
    }
    ours = {f"stillroom_{name}": str(value) for name, value in known.items() if value not in (None, "")}
    return (dict(given) if isinstance(given, dict) else {}) | ours


EXPORTS: Final[dict[str, Callable[[Row, Content], dict[str, Any]]]] = {
    "stored-completions": _stored,
    "openai-chat": _fine_tuning,
}
"""By name, what a row becomes."""
