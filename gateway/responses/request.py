"""A request for a response, as the chat that is asked of the upstreams, and as what its answer repeats of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from gateway.call import Call, Caller, Endpoint, begin_call
from gateway.errors import BadRequest
from gateway.fields import check_fields, unsupported
from gateway.responses.items import Item, Message, chat_messages, input_items

__all__ = ("RESPONSES", "Asking", "chat_body", "read_response", "response_id")

RESPONSES: Final = Endpoint("responses", "/chat/completions")
LOGPROBS: Final = "message.output_text.logprobs"
SHAPES: Final[dict[str, tuple[type, str]]] = {
    "include": (list, "a list"),
    "instructions": (str, "a string"),
    "max_output_tokens": (int, "an integer"),
    "metadata": (dict, "an object"),
    "parallel_tool_calls": (bool, "a boolean"),
    "previous_response_id": (str, "a string"),
    "reasoning": (dict, "an object"),
    "store": (bool, "a boolean"),
    "stream_options": (dict, "an object"),
    "text": (dict, "an object"),
    "tools": (list, "a list"),
}
CANNOT: Final[dict[str, tuple[tuple[Any, ...], str]]] = {
    "background": ((False,), "an answer in the background"),
    "context_management": (([],), "a conversation that is compacted on the way"),
    "conversation": ((), "a conversation that is kept elsewhere; previous_response_id goes on from a response"),
    "moderation": ((), "moderation"),
    "prompt": ((), "a prompt template"),
    "truncation": (("disabled",), "a conversation that is cut to the model's context"),
}
"""What cannot be done: the values that do not ask for it, and its name."""
ECHOED: Final[dict[str, Any]] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "auto",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""Fields that a response repeats from its request, each with what stands there when the request has none."""
# a chat takes metadata only where the provider keeps the answer, which here this gateway does
TRANSLATED: Final = frozenset(
    {"input", "max_tool_calls", "metadata", "tool_choice", "top_logprobs"} | SHAPES.keys() | CANNOT.keys()
)
"""Fields that a chat does not have under this name; all others go to the upstream as they are."""


@dataclass(frozen=True, slots=True)
class Asking:
    """What a response is made of besides the model's answer."""

    id: str
    request_id: str
    created_at: int
    """Seconds since the epoch."""
    model: str
    repeated: Mapping[str, Any]
    """The request's fields as the response repeats them."""
    items: Sequence[Item]
    """The conversation so far, this request's input at the end."""
    kept: bool

    def item_id(self, prefix: str, n: int) -> str:
        """The id of the n-th item of the output."""
        return f"{prefix}_{_suffix(self.request_id)}o{n}"


def response_id(request_id: str) -> str:
    """The response's id, made from that of the request, which feedback is given by."""
    return f"resp_{_suffix(request_id)}"


def _suffix(request_id: str) -> str:
    return request_id.removeprefix("req_")


def read_response(
    body: dict[str, Any], earlier: Sequence[Item], headers: Mapping[str, str], caller: Caller
) -> tuple[Call, Asking]:
    """The call, and what its answer is to be made into. ``earlier`` are the items of the previous response.

    Raises `BadRequest` or `NotFound` with the parameter that is wrong or cannot be served.
    """
    check_fields(body, SHAPES, CANNOT)
    items = input_items(body.get("input"), _suffix(caller.request_id))
    messages = chat_messages(earlier) + chat_messages(items)
    instructions = body.get("instructions")
    if instructions is not None:
        messages.insert(0, {"role": "system", "content": instructions})
    if not messages:
        raise BadRequest("'input' must hold at least one item", param="input")
    call = begin_call(RESPONSES, chat_body(body, messages), messages, headers, caller)
    # the events are made from every token and from the usage; a chunk that is passed on whole is not encoded twice
    call.asked = replace(call.asked, stream_usage=True, running_usage=True)
    stored = body.get("store") is not False
    call.trainable = call.trainable and stored
    asking = Asking(
        id=response_id(call.id),
        request_id=call.id,
        created_at=call.created_at // 1000,
        model=call.model,
        repeated={name: default if body.get(name) is None else body[name] for name, default in ECHOED.items()},
        items=[*earlier, *items],
        kept=stored and call.keep_content,
    )
    return call, asking


def chat_body(body: Mapping[str, Any], messages: Sequence[Message]) -> dict[str, Any]:
    """The same request to ``/chat/completions``. Raises `BadRequest`."""
    chat = {name: value for name, value in body.items() if name not in TRANSLATED and value is not None}
    text, reasoning = body.get("text") or {}, body.get("reasoning") or {}
    wanted = {
        "messages": messages,
        "max_completion_tokens": body.get("max_output_tokens"),
        "reasoning_effort": reasoning.get("effort"),
        "response_format": _format(text.get("format")),
        "verbosity": text.get("verbosity"),
        **_logprobs(body),
        **_tools(body),
    }
    return chat | {name: value for name, value in wanted.items() if value is not None}


def _logprobs(body: Mapping[str, Any]) -> dict[str, Any]:
    top = body.get("top_logprobs")
    if not top and LOGPROBS not in (body.get("include") or ()):
        return {}
    return {"logprobs": True, "top_logprobs": top}


def _format(wanted: Any) -> dict[str, Any] | None:
    """A JSON schema lies one level deeper in a chat. Plain text is what both give when nothing is said."""
    if wanted is None:
        return None
    if not isinstance(wanted, dict):
        raise BadRequest("'text.format' must be an object", param="text.format")
    fields = cast("dict[str, Any]", wanted)
    if fields.get("type") == "text":
        return None
    if fields.get("type") != "json_schema":
        return fields
    schema = {name: value for name, value in fields.items() if name != "type" and value is not None}
    return {"type": "json_schema", "json_schema": schema}


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    tools: list[Any] = body.get("tools") or []
    if not tools:
        # what the other fields say of tools is refused by a chat that has none
        return {}
    return {
        "tools": [_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)],
        "tool_choice": _tool_choice(body.get("tool_choice")),
        "parallel_tool_calls": body.get("parallel_tool_calls"),
    }


def _tool(tool: Any, place: str) -> dict[str, Any]:
    fields = cast("dict[str, Any]", tool) if isinstance(tool, dict) else {}
    if fields.get("type") != "function":
        raise unsupported(f"{place}.type", f"a tool of type '{fields.get('type')}', only for functions")
    if not isinstance(fields.get("name"), str):
        raise BadRequest("'name' must be a string", param=f"{place}.name")
    function = {name: value for name, value in fields.items() if name != "type" and value is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: Any) -> Any:
    if choice is None or isinstance(choice, str):
        return choice
    fields = cast("dict[str, Any]", choice) if isinstance(choice, dict) else {}
    if fields.get("type") != "function":
        raise unsupported("tool_choice.type", f"a choice of type '{fields.get('type')}', only for functions")
    return {"type": "function", "function": {"name": fields.get("name")}}
