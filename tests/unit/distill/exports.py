"""Records as LiteLLM and Helicone export them, made by us after the documented shapes."""

import json
from typing import Any

ASKED = [{"role": "system", "content": "Sort the request."}, {"role": "user", "content": "Where is my card?"}]


def completion(answer: str = "card_arrival") -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_738_960_610,
        "model": "gpt-4o-2024-08-06",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 40}},
    }


def litellm(number: int = 1, **more: Any) -> dict[str, Any]:
    """A row of LiteLLM_SpendLogs with its content stored."""
    return {
        "request_id": f"chatcmpl-{number}",
        "call_type": "acompletion",
        "api_key": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
        "spend": 0.0125,
        "total_tokens": 110,
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "startTime": "2026-03-01T10:00:00.250Z",
        "endTime": "2026-03-01T10:00:01.000Z",
        "completionStartTime": "2026-03-01T10:00:00.700Z",
        "model": "gpt-4o",
        "model_group": "frontier",
        "custom_llm_provider": "openai",
        "user": "default_user_id",
        "metadata": {"user_api_key_alias": "desk", "status": "success"},
        "cache_hit": "False",
        "request_tags": ["cards"],
        "team_id": None,
        "messages": ASKED,
        "response": completion(),
        "proxy_server_request": {"model": "frontier", "messages": ASKED, "temperature": 0},
        "session_id": "7d0c6a0e",
        "status": "success",
        **more,
    }


def helicone(number: int = 1, **more: Any) -> dict[str, Any]:
    """A record of Helicone's export with bodies."""
    return {
        "request_id": f"6f9f7a5e-0000-4000-8000-{number:012d}",
        "request_created_at": "2026-03-01T10:00:00.250Z",
        "request_path": "https://api.openai.com/v1/chat/completions",
        "request_body": {"model": "gpt-4o", "messages": ASKED, "temperature": 0},
        "request_user_id": None,
        "request_properties": {"Helicone-Session-Id": "s1"},
        "request_model": "gpt-4o",
        "response_id": "b1f4",
        "response_created_at": "2026-03-01T10:00:01.000Z",
        "response_body": completion(),
        "response_status": 200,
        "response_model": "gpt-4o-2024-08-06",
        "model": "gpt-4o",
        "provider": "OPENAI",
        "delay_ms": 750,
        "total_tokens": 110,
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "costUSD": 0.0125,
        **more,
    }


def as_texts(record: dict[str, Any]) -> dict[str, str]:
    """The record as a row of CSV: JSON in cells, nothing where there is none."""
    return {
        name: value if isinstance(value, str) else "" if value is None else json.dumps(value)
        for name, value in record.items()
    }
