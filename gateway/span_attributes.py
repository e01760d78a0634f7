"""What a span says of a request: the GenAI semantic conventions' attributes, and ours below ``stillroom.``.

Names and types are those of github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-spans.md (status
"development", read in November 2026). Nothing here imports OpenTelemetry.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import msgspec

from gateway.call import Call
from gateway.sse import event_data
from gateway.upstream import Stream, Upstream, UpstreamReply
from gateway.wire import encode, mapping, objects, string
from ledger.records import Content, RequestRecord

__all__ = ("Attributes", "clean", "of_attempt", "of_content", "of_reply", "of_request", "of_result", "provider")

Attributes: TypeAlias = dict[str, str | bool | int | float | Sequence[str]]

OPERATIONS: Final = {"completions": "text_completion", "embeddings": "embeddings"}
"""By the endpoint's name in the ledger; of any other: ``chat``."""
PROVIDERS: Final = {
    "api.anthropic.com": "anthropic",
    "api.cohere.com": "cohere",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
}
AZURE: Final = ".openai.azure.com"
OPENAI: Final = "openai"
"""Also of a host that is not known: it is OpenAI's API that is spoken there."""
PORTS: Final = {"http": 80, "https": 443}
INT64: Final = 2**63
MAX_TEXT: Final = 200
MAX_CONTENT: Final = 16_000
"""Characters of one attribute of content: of more messages the newest are kept."""


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and -INT64 <= value < INT64 else None


def _number(value: Any) -> float | None:
    found = value if isinstance(value, float) else _integer(value)
    return None if found is None else float(found)


ASKED: Final[dict[str, tuple[str, Callable[[Any], int | float | None]]]] = {
    "max_tokens": ("gen_ai.request.max_tokens", _integer),
    "max_completion_tokens": ("gen_ai.request.max_tokens", _integer),
    "temperature": ("gen_ai.request.temperature", _number),
    "top_p": ("gen_ai.request.top_p", _number),
    "top_k": ("gen_ai.request.top_k", _number),
    "frequency_penalty": ("gen_ai.request.frequency_penalty", _number),
    "presence_penalty": ("gen_ai.request.presence_penalty", _number),
    "seed": ("gen_ai.request.seed", _integer),
}
"""The parameters of a request that are numbers. ``stop`` is the client's own text, and no attribute."""


class _Head(msgspec.Struct):
    id: str | None = None
    model: str | None = None


_decode_head: Final = msgspec.json.Decoder(_Head).decode


def clean(text: str) -> str:
    """What OTLP's protobuf can carry, and no more than `MAX_TEXT` of it: one bad string would lose a whole batch."""
    return text[:MAX_TEXT].encode("utf-8", "replace").decode()


@lru_cache(maxsize=256)
def _server(base_url: str) -> tuple[str, int]:
    parts = urlsplit(base_url)
    return parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)


def provider(upstream: Upstream) -> str:
    """``gen_ai.provider.name``: whose flavour of the API is spoken there."""
    if upstream.name == "student":
        return "vllm"
    host, _ = _server(upstream.base_url)
    return "azure.ai.openai" if host.endswith(AZURE) else PROVIDERS.get(host, OPENAI)


def operation(call: Call) -> str:
    """``gen_ai.operation.name``."""
    return OPERATIONS.get(call.endpoint.name, "chat")


def of_request(call: Call) -> Attributes:
    """What is known when a request begins; ``gen_ai.provider.name`` becomes that of whoever answers."""
    found: Attributes = {
        "gen_ai.operation.name": operation(call),
        "gen_ai.provider.name": "stillroom",
        "gen_ai.request.model": clean(call.model),
        "stillroom.request_id": call.id,
    }
    for name, (attribute, read) in ASKED.items():
        value = read(call.body.get(name))
        if value is not None:
            found[attribute] = value
    if call.stream:
        found["gen_ai.request.stream"] = True
    choices = _integer(call.body.get("n"))
    if choices is not None and choices != 1:
        found["gen_ai.request.choice.count"] = choices
    form = mapping(call.body.get("response_format")).get("type")
    if isinstance(form, str):
        found["gen_ai.output.type"] = "json" if form.startswith("json") else "text"
    return found


def of_attempt(call: Call, upstream: Upstream) -> Attributes:
    """One call of an upstream, when it begins."""
    host, port = _server(upstream.base_url)
    found: Attributes = {
        "gen_ai.operation.name": operation(call),
        "gen_ai.provider.name": provider(upstream),
        "gen_ai.request.model": upstream.model,
        "server.address": host,
        "server.port": port,
        "stillroom.request_id": call.id,
        "stillroom.upstream": upstream.name,
    }
    if upstream.release:
        found["stillroom.release"] = upstream.release
    if call.stream:
        found["gen_ai.request.stream"] = True
    return found


def of_reply(reply: UpstreamReply | Stream) -> Attributes:
    """Which answer it is, and which model gave it, where its first bytes say so."""
    data: bytes | None = reply.body if isinstance(reply, UpstreamReply) else _first_data(reply.first)
    try:
        head = _decode_head(data or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    named = {"gen_ai.response.id": head.id, "gen_ai.response.model": head.model}
    return {name: clean(value) for name, value in named.items() if value}


def _first_data(chunk: bytes | None) -> bytes | None:
    """The data of a stream's first event, where the first bytes hold it whole."""
    event, ended, _ = (chunk or b"").partition(b"\n\n")
    return event_data(event + ended) if ended else None


def of_result(record: RequestRecord) -> Attributes:
    """How a request ended: the conventions' usage and finish reason, and the ledger's words."""
    found: dict[str, Any] = {
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.cached_tokens or None,
        "gen_ai.response.finish_reasons": [clean(record.finish_reason)] if record.finish_reason else None,
        "http.response.status_code": record.status,
        "stillroom.route": record.route,
        "stillroom.reason": record.reason,
        "stillroom.release": record.release_id,
        "stillroom.score": record.score,
        "stillroom.confidence": record.confidence,
        "stillroom.cost_nano": record.cost_nano,
        "stillroom.abandoned.input_tokens": record.attempt_prompt_tokens or None,
        "stillroom.abandoned.output_tokens": record.attempt_completion_tokens or None,
    }
    if record.status >= 400:
        found["error.type"] = record.error_code or str(record.status)
    if record.stream and record.first_token_ms is not None:
        found["gen_ai.response.time_to_first_chunk"] = record.first_token_ms / 1000
    # an upstream may count as it likes, OTLP in 64 bits
    return {name: value for name, value in found.items() if value is not None and _fits(value)}


def _fits(value: Any) -> bool:
    return not isinstance(value, int) or _integer(value) is not None


def of_content(content: Content, finish_reason: str | None) -> Attributes:
    """What was said, in the conventions' messages, as JSON; only where a setting asks for it."""
    said = _parts({"content": content.answer, "tool_calls": content.tool_calls})
    answer = {"role": "assistant", "parts": said, "finish_reason": finish_reason or "error"}
    asked = [
        {"role": string(each.get("role")) or "user", "parts": _parts(each)} for each in objects(content.messages)
    ]
    return {"gen_ai.input.messages": _newest(asked), "gen_ai.output.messages": _newest([answer])}


def _newest(messages: Sequence[Mapping[str, Any]]) -> str:
    """As many as fit, as JSON; a message that is too long alone is left out with those before it."""
    kept, left = list[str](), MAX_CONTENT
    for message in reversed(messages):
        text = encode(message).decode()
        left -= len(text) + 1
        if left < 0:
            break
        kept.append(text)
    return f"[{','.join(reversed(kept))}]"


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    if message.get("role") == "tool":
        return [{"type": "tool_call_response", "id": message.get("tool_call_id"), "result": content}]
    texts = [content] if isinstance(content, str) and content else []
    return [
        *({"type": "text", "content": text} for text in texts),
        *(_part(part) for part in objects(content)),
        *_calls(message),
    ]


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    """A picture or a file is named, and not carried."""
    if part.get("type") == "text":
        return {"type": "text", "content": string(part.get("text"))}
    return {"type": string(part.get("type")) or "unknown"}


def _calls(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for call in objects(message.get("tool_calls")):
        function = mapping(call.get("function"))
        yield {
            "type": "tool_call",
            "id": call.get("id"),
            "name": string(function.get("name")),
            "arguments": function.get("arguments"),
        }
