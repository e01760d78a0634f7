"""What LiteLLM and Helicone export: one request a record, with or without what was said.

LiteLLM's spend logs (``/spend/logs``, or a copy of the table ``LiteLLM_SpendLogs``) hold messages and answers where
``store_prompts_in_spend_logs`` is on; longer texts are cut, and say so. Helicone's export tool holds bodies with
``--include-body``. Either may have JSON in texts. The fields are those of both projects' own types:
github.com/BerriAI/litellm (proxy/_types.py, SpendLogsPayload) and github.com/Helicone/helicone (examples/export).
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec

from distill.exchange import Exchange, Line, Unreadable, exchange_of, text_of, whole_number
from ledger.prices import Tokens

__all__ = (
    "Told",
    "is_helicone",
    "is_litellm",
    "read_helicone",
    "read_litellm",
    "told_by_helicone",
    "told_by_litellm",
)

CUT: Final = "litellm_truncated"
"""In a text that LiteLLM shortened."""
NOTHING_KEPT: Final = "nothing of what was said was kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a record tells of a request, whether or not it holds what was said. ``cost`` is in the export's currency,
    None where it says none.
    """

    created_at: int | None
    model: str | None
    tokens: Tokens
    cost: float | None
    is_chat: bool = True
    failed: bool = False
    from_cache: bool = False


def is_litellm(line: Line) -> bool:
    """Whether it is a row of LiteLLM's spend logs."""
    return "startTime" in line and ("spend" in line or "call_type" in line)


def is_helicone(line: Line) -> bool:
    """Whether it is a record of Helicone's export."""
    return "request_created_at" in line or ("request_body" in line and "response_body" in line)


def told_by_litellm(line: Line) -> Told:
    """What a row of the spend logs says of its request."""
    call = str(line.get("call_type") or "completion")
    return Told(
        created_at=_instant(line.get("startTime")),
        model=text_of(line.get("model")),
        tokens=Tokens(_whole(line.get("prompt_tokens")), _whole(line.get("completion_tokens"))),
        cost=_amount(line.get("spend")),
        is_chat="completion" in call and "text" not in call,
        failed=line.get("status") == "failure",
        from_cache=str(line.get("cache_hit")).casefold() == "true",
    )


def told_by_helicone(line: Line) -> Told:
    """What a record of the export says of its request."""
    path, status = str(line.get("request_path") or ""), _whole(line.get("response_status")) or 200
    counted = (line.get(name) for name in ("prompt_tokens", "completion_tokens", "prompt_cache_read_tokens"))
    cost = next((line[name] for name in ("costUSD", "cost") if line.get(name) not in (None, "")), None)
    return Told(
        created_at=_instant(line.get("request_created_at")),
        model=next(
            (text for name in ("response_model", "request_model", "model") if (text := text_of(line.get(name)))), None
        ),
        tokens=Tokens(*map(_whole, counted)),
        cost=_amount(cost),
        is_chat=not path or "chat/completions" in path,
        failed=status >= 400 or status < 0,
    )


def read_litellm(line: Line) -> Exchange:
    """A row of the spend logs with what was said. Raises `Unreadable`."""
    told = told_by_litellm(line)
    body = _object(line.get("proxy_server_request"))
    messages = body.get("messages") or _json(line.get("messages"))
    return _exchange(told, {**body, "messages": messages}, _object(line.get("response")), line.get("request_id"))


def read_helicone(line: Line) -> Exchange:
    """A record of the export with its bodies. Raises `Unreadable`."""
    told = told_by_helicone(line)
    request, response = _object(line.get("request_body")), _object(line.get("response_body"))
    return _exchange(told, request, response, line.get("request_id") or line.get("response_id"))


def _exchange(told: Told, request: dict[str, Any], response: dict[str, Any], own_id: Any) -> Exchange:
    if told.failed or not told.is_chat:
        raise Unreadable("it failed" if told.failed else "it is no chat")
    if not request.get("messages") or not response:
        raise Unreadable(NOTHING_KEPT)
    found = exchange_of(request, response)
    if CUT in found.answer or any(CUT in str(message.get("content")) for message in found.messages):
        raise Unreadable("what was said was cut short")
    return replace(
        found,
        model=told.model or found.model,
        created_at=told.created_at or found.created_at,
        tokens=found.tokens if found.tokens.prompt else told.tokens,
        own_id=text_of(own_id) or found.own_id,
    )


def _object(given: Any) -> dict[str, Any]:
    found = _json(given)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _json(given: Any) -> Any:
    """A value that may be JSON in a text, as columns of databases and of CSV are."""
    if not isinstance(given, str):
        return given
    try:
        return msgspec.json.decode(given)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return None


def _instant(given: Any) -> int | None:
    """Milliseconds since the epoch of an ISO time, in UTC where it names no zone; of seconds, as numbers are."""
    if isinstance(given, str):
        try:
            found = datetime.fromisoformat(given)
        except ValueError:
            return None
        aware = found if found.tzinfo else found.replace(tzinfo=UTC)
        return int(aware.timestamp() * 1000)
    return int(given * 1000) if isinstance(given, int | float) and 1e9 < given < 1e11 else None


def _amount(given: Any) -> float | None:
    try:
        found = float(given)
    except (TypeError, ValueError):
        return None
    return found if 0 <= found < 1e9 else None


def _whole(given: Any) -> int:
    """A count, which CSV has as a text."""
    return whole_number(int(given) if isinstance(given, str) and given.isdecimal() and len(given) < 16 else given)
