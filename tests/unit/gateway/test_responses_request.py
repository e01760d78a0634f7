"""A request for a response as a chat: what is translated, what passes, what is refused."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.call import Caller
from gateway.errors import ApiError, BadRequest
from gateway.responses.items import chat_messages, input_items
from gateway.responses.reply import from_chat
from gateway.responses.request import Asking, chat_body, read_response

CALLER = Caller("req_ab12", "key_1", {"gpt-4o": "auto"}, log_content=True)
TEXT = st.text(min_size=1, max_size=12)
NAME = st.text("abcxyz", min_size=1, max_size=5)


def ask(**fields: Any) -> tuple[Any, Asking]:
    return read_response({"model": "auto", "input": "Hello", **fields}, (), {}, CALLER)


def messages(value: Any) -> list[dict[str, Any]]:
    return chat_messages(input_items(value, "x"))


def test_a_string_is_what_the_user_says():
    call, asking = ask(instructions="Be kind.")
    assert call.body["messages"] == call.messages
    assert call.messages == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    assert [item["type"] for item in asking.items] == ["message"]
    assert (call.endpoint.name, call.endpoint.path) == ("responses", "/chat/completions")


def test_instructions_are_of_one_response_only():
    _, asking = ask(instructions="Be kind.")
    call, _ = read_response({"model": "auto", "input": "And now?"}, asking.items, {}, CALLER)
    assert [message["content"] for message in call.messages] == ["Hello", "And now?"]


def test_every_kind_of_part_has_its_place_in_a_chat():
    said = messages(
        [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is it?"},
                    {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"},
                    {"type": "input_file", "file_data": "data:,x", "filename": "a.pdf"},
                    {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
                ],
            },
            {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Go on."}]},
        ]
    )
    assert said == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
                {"type": "file", "file": {"file_data": "data:,x", "filename": "a.pdf"}},
                {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            ],
        },
        {"role": "assistant", "content": "", "refusal": "No."},
        {"role": "developer", "content": "Go on."},
    ]


def call_item(n: int) -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"c{n}", "name": "f", "arguments": f'{{"n":{n}}}'}


def test_calls_of_one_turn_are_one_message_and_thoughts_are_passed_over():
    said = messages(
        [
            {"role": "user", "content": "Do it"},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"role": "assistant", "content": "I shall."},
            call_item(1),
            call_item(2),
            {"type": "function_call_output", "call_id": "c1", "output": "one"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
            call_item(3),
        ]
    )
    assert [message["role"] for message in said] == ["user", "assistant", "tool", "tool", "assistant"]
    assert said[1]["content"] == "I shall."
    assert [call["id"] for call in said[1]["tool_calls"]] == ["c1", "c2"]
    assert said[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"n":1}'}
    assert [(message["tool_call_id"], message["content"]) for message in said[2:4]] == [("c1", "one"), ("c2", "two")]
    assert said[4]["content"] is None


def test_the_fields_are_those_of_a_chat():
    schema = {"name": "s", "schema": {"type": "object"}, "strict": True}
    chat = chat_body(
        {
            "model": "auto",
            "max_output_tokens": 9,
            "reasoning": {"effort": "low", "summary": "auto"},
            "text": {"format": {"type": "json_schema", **schema}, "verbosity": "low"},
            "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": None, "description": "d"}],
            "tool_choice": {"type": "function", "name": "f"},
            "parallel_tool_calls": False,
            "include": ["message.output_text.logprobs"],
            "top_logprobs": 3,
            "temperature": 0.5,
            "user": "u",
            "metadata": {"a": "b"},
            "store": True,
            "x_new": {"deep": [1]},
            "top_p": None,
        },
        [],
    )
    assert chat == {
        "model": "auto",
        "messages": [],
        "max_completion_tokens": 9,
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": schema},
        "verbosity": "low",
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}, "description": "d"}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "logprobs": True,
        "top_logprobs": 3,
        "temperature": 0.5,
        "user": "u",
        "x_new": {"deep": [1]},
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ({"format": {"type": "text"}}, None),
        ({"format": {"type": "json_object"}}, {"type": "json_object"}),
    ],
)
def test_plain_text_is_not_asked_for(text, expected):
    assert chat_body({"text": text}, []).get("response_format") == expected


def test_a_choice_of_tools_is_not_asked_of_a_chat_without_tools():
    call, asking = ask(tool_choice="auto", parallel_tool_calls=True)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & call.body.keys()
    assert asking.repeated["tool_choice"] == "auto"


CANNOT = {
    "background": True,
    "conversation": "conv_1",
    "prompt": {"id": "pmpt_1"},
    "truncation": "auto",
    "moderation": {"model": "m"},
    "context_management": [{"type": "compaction"}],
    "tools[0].type": [{"type": "web_search"}],
    "tool_choice.type": {"type": "allowed_tools"},
    "input[0].type": [{"type": "computer_call_output"}],
    "input[0].content[0].type": [{"role": "user", "content": [{"type": "input_video"}]}],
    "input[0].content[0].file_id": [{"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}],
}


@pytest.mark.parametrize(("param", "value"), CANNOT.items())
def test_what_cannot_be_done_is_said(param: str, value: Any):
    tools = {"tools": [{"type": "function", "name": "f"}]} if param.startswith("tool_choice") else {}
    with pytest.raises(BadRequest) as raised:
        ask(**tools, **{param.partition("[")[0].partition(".")[0]: value})
    assert (raised.value.code, raised.value.param) == ("unsupported_parameter", param)


WRONG = {
    "include": "x",
    "instructions": ["x"],
    "max_output_tokens": True,
    "metadata": [],
    "store": "no",
    "previous_response_id": 7,
    "text": "json",
    "top_logprobs": 21,
    "stream": 1,
    "text.format": {"format": "json"},
    "input": 5,
    "input[0].role": [{"role": "robot", "content": "x"}],
    "input[0].content": [{"role": "user"}],
    "input[0].call_id": [{"type": "function_call_output", "output": "x"}],
    "input[0].name": [{"type": "function_call", "call_id": "c", "arguments": "{}"}],
    "tools[0].name": [{"type": "function"}],
}


@pytest.mark.parametrize(("param", "value"), WRONG.items())
def test_a_wrong_value_is_named(param: str, value: Any):
    with pytest.raises(BadRequest) as raised:
        ask(**{param.partition("[")[0].partition(".")[0]: value})
    assert raised.value.param == param


def test_what_asks_for_nothing_is_taken():
    ask(background=False, conversation=None, truncation="disabled", max_tool_calls=3, include=[], prompt=None)


def test_an_empty_input_is_refused():
    with pytest.raises(BadRequest, match="at least one"):
        ask(input=[])


def test_a_response_that_is_not_to_be_stored_is_neither_kept_nor_learned_from():
    call, asking = ask(store=False)
    assert (call.trainable, call.keep_content, asking.kept) == (False, True, False)
    call, asking = ask()
    assert (call.trainable, asking.kept) == (True, True)
    _, asking = read_response({"model": "auto", "input": "x"}, (), {"x-stillroom-log": "off"}, CALLER)
    assert asking.kept is False


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["input_text", "input_image", "input_file", "refusal", "input_audio"]) | JSON},
    optional={"text": JSON, "image_url": JSON, "detail": JSON, "refusal": JSON},
)
ITEM = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["message", "function_call", "function_call_output", "reasoning"]) | JSON,
        "role": st.sampled_from(["user", "assistant", "developer"]) | JSON,
        "content": TEXT | st.lists(PART | JSON, max_size=2) | JSON,
        "call_id": TEXT | JSON,
        "name": TEXT | JSON,
        "arguments": TEXT | JSON,
        "output": TEXT | st.lists(PART, max_size=2) | JSON,
    },
)
FIELDS = st.fixed_dictionaries(
    {"input": TEXT | st.lists(ITEM | JSON, max_size=3) | JSON},
    optional=dict.fromkeys(
        ("tools", "tool_choice", "text", "reasoning", "include", "metadata", "background", "truncation",
         "instructions", "top_logprobs", "max_output_tokens", "store", "stream", "x"),
        JSON,
    ),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(FIELDS)
def test_odd_values_are_refused_and_nothing_else_happens(fields: dict[str, Any]):
    try:
        call, asking = ask(**fields)
    except ApiError as error:
        assert error.status == 400
        assert error.message
    else:
        assert call.messages
        assert from_chat(asking, {"choices": []})["status"] == "completed"


TURN = st.one_of(
    st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "system"]), TEXT),
    st.builds(
        lambda text, calls: {"role": "assistant", "content": text, "tool_calls": calls},
        TEXT,
        st.lists(
            st.builds(
                lambda i, n, a: {"id": i, "type": "function", "function": {"name": n, "arguments": a}},
                NAME, NAME, TEXT,
            ),
            max_size=3,
        ),
    ),
    st.builds(lambda i, text: {"role": "tool", "tool_call_id": i, "content": text}, NAME, TEXT),
)  # fmt: skip


def as_items(message: dict[str, Any]) -> list[dict[str, Any]]:
    if message["role"] == "tool":
        return [
            {"type": "function_call_output", "call_id": message["tool_call_id"], "output": message["content"]},
        ]
    calls = [
        {"type": "function_call", "call_id": call["id"], **call["function"]} for call in message.get("tool_calls", ())
    ]
    return [{"role": message["role"], "content": message["content"]}, *calls]


@settings(max_examples=150, deadline=None)
@given(st.lists(TURN, min_size=1, max_size=6))
def test_a_conversation_comes_back_from_its_items(turns: list[dict[str, Any]]):
    turns = [{name: value for name, value in turn.items() if value != []} for turn in turns]
    assert messages([item for turn in turns for item in as_items(turn)]) == turns
