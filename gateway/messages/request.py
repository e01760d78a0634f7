"""A request for a message, as the chat that is asked of the upstreams, and as what its answer needs of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from gateway.call import Call, Caller, Endpoint, begin_call
from gateway.errors import BadRequest
from gateway.fields import check_fields, text_field, unsupported
from gateway.messages.blocks import chat_messages, system_text
from gateway.wire import items, mapping

__all__ = ("MESSAGES", "Asking", "chat_body", "read_message")

MESSAGES: Final = Endpoint("messages", "/chat/completions")
SHAPES: Final[dict[str, tuple[type, str]]] = {
    "max_tokens": (int, "an integer"),
    "metadata": (dict, "an object"),
    "output_config": (dict, "an object"),
    "stop_sequences": (list, "a list"),
    "thinking": (dict, "an object"),
    "tool_choice": (dict, "an object"),
    "tools": (list, "a list"),
}
CANNOT: Final[dict[str, tuple[tuple[Any, ...], str]]] = {
    "container": ((), "a container"),
    "context_management": ((), "a conversation that is cleared on the way"),
    "inference_geo": (("global",), "an answer from a region"),
    "mcp_servers": (([],), "tools of MCP servers"),
    "speed": (("standard",), "an answer at another speed"),
}
"""What cannot be done: the values that do not ask for it, and its name."""
HINTS: Final = ("cache_control", "diagnostics", "user_profile_id", "workspace_id")
"""Fields that do not change what an answer is, and that only Anthropic's servers know."""
TRANSLATED: Final = frozenset({"messages", "n", "service_tier", "system", *HINTS} | SHAPES.keys() | CANNOT.keys())
"""Fields that a chat does not have under this name or in this shape; all others go to the upstream as they are."""
CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
TIERS: Final = {"auto": "auto", "standard_only": "default"}
SHOWN: Final = ("enabled", "adaptive", "between_tools")


@dataclass(frozen=True, slots=True)
class Asking:
    """What a message is made of besides the model's answer."""

    id: str
    request_id: str
    model: str
    stop_sequences: tuple[str, ...]
    shows_thinking: bool
    """Whether the client wants to see what the model thought; most read the first block as the answer."""

    def call_id(self, n: int) -> str:
        """The id of the n-th call of a tool, where the model's server gives none."""
        return f"toolu_{self.request_id.removeprefix('req_')}{n}"


def read_message(body: dict[str, Any], headers: Mapping[str, str], caller: Caller) -> tuple[Call, Asking]:
    """The call, and what its answer is to be made into.

    Raises `BadRequest` or `NotFound` with the parameter that is wrong or cannot be served.
    """
    most = body.get("max_tokens")
    if type(most) is not int or most < 1:
        raise BadRequest("'max_tokens' must be an integer of at least 1", param="max_tokens")
    chat = chat_body(body)
    call = begin_call(MESSAGES, chat, chat["messages"], headers, caller)
    # the events are made from every token and from the usage; a chunk that is passed on whole is not encoded twice
    call.asked = replace(call.asked, stream_usage=True, running_usage=True)
    thinking = mapping(body.get("thinking"))
    asking = Asking(
        id=f"msg_{call.id.removeprefix('req_')}",
        request_id=call.id,
        model=call.model,
        stop_sequences=tuple(body.get("stop_sequences") or ()),
        shows_thinking=thinking.get("type") in SHOWN and thinking.get("display") != "omitted",
    )
    return call, asking


def chat_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same request to ``/chat/completions``. Raises `BadRequest`."""
    check_fields(body, SHAPES, CANNOT)
    chat = {name: value for name, value in body.items() if name not in TRANSLATED and value is not None}
    messages = chat_messages(body.get("messages"))
    if body.get("system"):
        messages.insert(0, {"role": "system", "content": system_text(body["system"])})
    output = mapping(body.get("output_config"))
    wanted = {
        "messages": messages,
        "max_completion_tokens": body.get("max_tokens"),
        "stop": _stop(body.get("stop_sequences")),
        "user": mapping(body.get("metadata")).get("user_id"),
        "service_tier": _service_tier(body.get("service_tier")),
        "reasoning_effort": output.get("effort"),
        "response_format": _format(output.get("format")),
        **_tools(body),
    }
    return chat | {name: value for name, value in wanted.items() if value is not None}


def _stop(sequences: Any) -> list[str] | None:
    if not all(isinstance(each, str) for each in items(sequences)):
        raise BadRequest("'stop_sequences' must be a list of strings", param="stop_sequences")
    return sequences or None


def _service_tier(tier: Any) -> str | None:
    if tier is None:
        return None
    if tier not in ("auto", "standard_only"):
        raise BadRequest("'service_tier' must be auto or standard_only", param="service_tier")
    return TIERS[tier]


def _format(wanted: Any) -> dict[str, Any] | None:
    """A chat's JSON schema has a name."""
    if wanted is None:
        return None
    fields = mapping(wanted)
    if fields.get("type") != "json_schema" or not isinstance(fields.get("schema"), dict):
        raise BadRequest("it must be a JSON schema", param="output_config.format")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": fields["schema"], "strict": True}}


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    tools = items(body.get("tools"))
    if not tools:
        # a choice among none is refused by a chat
        return {}
    choice = mapping(body.get("tool_choice"))
    return {
        "tools": [_tool(mapping(tool), f"tools.{i}") for i, tool in enumerate(tools)],
        "tool_choice": _tool_choice(choice),
        "parallel_tool_calls": False if choice.get("disable_parallel_tool_use") is True else None,
    }


def _tool(tool: Mapping[str, Any], place: str) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        raise unsupported(f"{place}.type", f"a tool of type '{tool.get('type')}', only for the client's own")
    if not isinstance(tool.get("input_schema"), dict):
        raise BadRequest("'input_schema' must be an object", param=f"{place}.input_schema")
    function = {"name": text_field(tool, "name", place), "parameters": tool["input_schema"]}
    function |= {name: tool[name] for name in ("description", "strict") if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: Mapping[str, Any]) -> Any:
    if not choice:
        return None
    kind = choice.get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": text_field(choice, "name", "tool_choice")}}
    if not isinstance(kind, str) or kind not in CHOICES:
        raise BadRequest("'type' must be auto, any, tool or none", param="tool_choice.type")
    return CHOICES[kind]
