"""A request for a message of Anthropic's as a chat: what is translated, what passes, what is refused."""

import json
from typing import Any

import pytest

from gateway.call import Caller
from gateway.errors import ApiError, BadRequest
from gateway.messages.request import Asking, chat_body, read_message

CALLER = Caller("req_ab12", "key_1", {"claude-sonnet": "auto"}, log_content=True)
HELLO = {"role": "user", "content": "Hello"}
TOOL = {"name": "locate", "description": "Where it is.", "input_schema": {"type": "object"}}


def ask(**fields: Any) -> tuple[Any, Asking]:
    return read_message({"model": "auto", "max_tokens": 9, "messages": [HELLO], **fields}, {}, CALLER)


def chat(*messages: Any, **fields: Any) -> dict[str, Any]:
    return chat_body({"messages": list(messages) or [HELLO], **fields})


def test_the_call_is_a_chat_of_the_same_words():
    call, asking = ask(model="claude-sonnet", system="Be kind.", temperature=0.5, top_p=0.9, top_k=5, ignore_eos=True)
    assert call.messages == [{"role": "system", "content": "Be kind."}, HELLO]
    assert {name: call.body[name] for name in ("temperature", "top_p", "top_k", "ignore_eos")} == {
        "temperature": 0.5, "top_p": 0.9, "top_k": 5, "ignore_eos": True,
    }  # fmt: skip
    assert (call.body["max_completion_tokens"], call.view.max_tokens) == (9, 9)
    assert (call.endpoint.name, call.endpoint.path, call.target) == ("messages", "/chat/completions", "auto")
    assert (asking.id, asking.model) == ("msg_ab12", "claude-sonnet")


def test_every_field_has_its_name_in_a_chat():
    body = chat(
        system=[{"type": "text", "text": "One."}, {"type": "text", "text": "Two.", "cache_control": {"type": "x"}}],
        stop_sequences=["END"],
        metadata={"user_id": "u1"},
        service_tier="standard_only",
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        tools=[TOOL | {"type": "custom", "cache_control": {"type": "ephemeral"}, "strict": True}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        cache_control={"type": "ephemeral"},
        thinking={"type": "enabled", "budget_tokens": 2000},
        container=None,
    )
    assert body == {
        "messages": [{"role": "system", "content": "One.\n\nTwo."}, HELLO],
        "stop": ["END"],
        "user": "u1",
        "service_tier": "default",
        "reasoning_effort": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "locate", "parameters": {"type": "object"}, "description": "Where it is.", "strict": True,
                },
            }
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "locate"}, {"type": "function", "function": {"name": "locate"}}),
    ],
)
def test_a_choice_of_tools_is_a_chats(choice, expected):
    assert chat(tools=[TOOL], tool_choice=choice)["tool_choice"] == expected
    assert "tool_choice" not in chat(tool_choice=choice)


def test_a_turn_of_tools_is_calls_and_their_results():
    said = chat(
        HELLO,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "locate", "input": {"parcel": "ü"}},
                {"type": "tool_use", "id": "t2", "name": "locate", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "In Rome."},
                {"type": "tool_result", "tool_use_id": "t2", "is_error": True},
                {"type": "text", "text": "And now?"},
            ],
        },
    )["messages"]
    calls = said[1].pop("tool_calls")
    assert [(call["id"], json.loads(call["function"]["arguments"])) for call in calls] == [
        ("t1", {"parcel": "ü"}), ("t2", {}),
    ]  # fmt: skip
    assert said[1:] == [
        {"role": "assistant", "content": "I look."},
        {"role": "tool", "tool_call_id": "t1", "content": "In Rome."},
        {"role": "tool", "tool_call_id": "t2", "content": ""},
        {"role": "user", "content": "And now?"},
    ]


def test_a_call_alone_has_no_text_and_results_alone_no_turn_of_the_user():
    call = {"type": "tool_use", "id": "t1", "name": "locate", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "Rome"}]}
    said = chat(HELLO, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]})["messages"]
    assert said[1]["content"] is None
    assert said[2:] == [{"role": "tool", "tool_call_id": "t1", "content": "Rome"}]


def test_every_kind_of_block_has_its_place_in_a_chat():
    png = {"type": "base64", "media_type": "image/png", "data": "AA=="}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "AA=="}
    plain = {"type": "text", "media_type": "text/plain", "data": "words"}
    blocks = [
        {"type": "image", "source": png},
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        {"type": "document", "source": pdf, "title": "a.pdf"},
        {"type": "document", "source": plain, "title": "Notes"},
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "inner"}]}},
        {"type": "search_result", "title": "T", "source": "S", "content": [{"type": "text", "text": "found"}]},
    ]
    (message,) = chat({"role": "user", "content": blocks})["messages"]
    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}},
        {"type": "text", "text": "Notes"},
        {"type": "text", "text": "words"},
        {"type": "text", "text": "inner"},
        {"type": "text", "text": "T\nS"},
        {"type": "text", "text": "found"},
    ]
    call, _ = ask(messages=[{"role": "user", "content": blocks}])
    assert call.view.has_images


@pytest.mark.parametrize(
    ("thinking", "shown"),
    [
        (None, False),
        ({"type": "disabled"}, False),
        ({"type": "enabled", "budget_tokens": 1024}, True),
        ({"type": "adaptive"}, True),
        ({"type": "adaptive", "display": "omitted"}, False),
    ],
)
def test_thinking_is_shown_to_who_asks_for_it(thinking, shown):
    assert ask(thinking=thinking)[1].shows_thinking is shown


def user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        pytest.param({"max_tokens": None}, "max_tokens", None, id="no bound"),
        pytest.param({"max_tokens": True}, "max_tokens", None, id="a bound that is no number"),
        pytest.param({"messages": []}, "messages", None, id="no messages"),
        pytest.param({"messages": ["Hi"]}, "messages", None, id="no object"),
        pytest.param({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", None, id="role"),
        pytest.param({"messages": [{"role": "user"}]}, "messages.0.content", None, id="no content"),
        pytest.param(user({"type": "text"}), "messages.0.content.0.text", None, id="no text"),
        pytest.param(user("x"), "messages.0.content", None, id="no block"),
        pytest.param(
            user({"type": "container_upload"}), "messages.0.content.0.type", "unsupported_parameter", id="block"
        ),
        pytest.param(
            user({"type": "image", "source": {"type": "file", "file_id": "f"}}),
            "messages.0.content.0.source.type", "unsupported_parameter", id="image by file",
        ),
        pytest.param(
            user({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text"}]}),
            "messages.0.content.0.content.0.text", None, id="result without text",
        ),
        pytest.param(
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n"}]}]},
            "messages.0.content.0.input", None, id="call without input",
        ),
        pytest.param({"system": [{"type": "image"}]}, "system.0.type", None, id="a picture as system"),
        pytest.param({"stop_sequences": [1]}, "stop_sequences", None, id="stop"),
        pytest.param({"tools": [{"type": "web_search"}]}, "tools.0.type", "unsupported_parameter", id="tool"),
        pytest.param({"tools": [{"name": "x"}]}, "tools.0.input_schema", None, id="tool without schema"),
        pytest.param(
            {"tools": [TOOL], "tool_choice": {"type": "some"}}, "tool_choice.type", None, id="choice of tools"
        ),
        pytest.param({"service_tier": ["auto"]}, "service_tier", None, id="tier"),
        pytest.param({"output_config": {"format": {"type": "xml"}}}, "output_config.format", None, id="format"),
        pytest.param({"mcp_servers": [{"url": "x"}]}, "mcp_servers", "unsupported_parameter", id="MCP"),
        pytest.param({"container": "c"}, "container", "unsupported_parameter", id="container"),
        pytest.param({"thinking": True}, "thinking", None, id="thinking"),
        pytest.param({"stream": 1}, "stream", None, id="stream"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(fields, param, code):
    with pytest.raises(BadRequest) as caught:
        ask(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_a_model_that_is_not_there_is_named():
    with pytest.raises(ApiError, match="claude-9"):
        ask(model="claude-9")
