"""Reading answers of any shape."""

import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.answer import Answer, Asked
from gateway.tokens import Token, signals, token_of
from ledger.prices import Price, Tokens, cost_nano
from router.signals import SIGNAL_TOP, confidence_signals
from tests.scripted_upstream import Script, token_logprobs, whole_answer

NAMES = st.sampled_from(
    ["choices", "usage", "delta", "message", "content", "logprobs", "token", "logprob", "top_logprobs", "index",
     "finish_reason", "prompt_tokens", "completion_tokens", "prompt_tokens_details", "cached_tokens", "refusal", "x",
     "tool_calls", "function", "name", "arguments", "id"]
)  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(0, 3), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5), st.sampled_from([10**400, -1, 2**63, 1e308, 0.0]),
)  # fmt: skip
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5))
LOGPROB = st.floats(-30, 0) | LEAVES
TOKENS = st.fixed_dictionaries(
    {"token": st.text(max_size=3), "logprob": LOGPROB},
    optional={"top_logprobs": st.lists(st.fixed_dictionaries({"logprob": LOGPROB}) | VALUES, max_size=8) | VALUES},
)
CONTENT = st.fixed_dictionaries({"content": st.lists(TOKENS | VALUES, max_size=4)})
CHOICES = st.fixed_dictionaries(
    {"index": st.just(0)},
    optional={
        "delta": VALUES,
        "message": st.fixed_dictionaries({"content": LEAVES}),
        "logprobs": CONTENT | VALUES,
        "finish_reason": LEAVES,
    },
)
BODIES = st.one_of(
    st.dictionaries(NAMES, VALUES, max_size=6),
    st.fixed_dictionaries(
        {"choices": st.lists(CHOICES | VALUES, max_size=3), "usage": st.dictionaries(NAMES, VALUES, max_size=5)}
    ),
    st.fixed_dictionaries(
        {"choices": st.lists(st.fixed_dictionaries({"logprobs": CONTENT, "message": VALUES}), min_size=1, max_size=2)}
    ),
)
ASKED = st.builds(Asked, st.booleans(), st.integers(0, 20), st.booleans())


def read(content: list[dict[str, Any]]) -> list[Token]:
    return [token for each in content if (token := token_of(each)) is not None]


@settings(max_examples=200, deadline=None)
@given(st.lists(BODIES, min_size=1, max_size=3), ASKED)
def test_no_shape_of_answer_raises_and_what_is_read_is_within_bounds(bodies: list[dict[str, Any]], asked: Asked):
    answer = Answer()
    for body in bodies:
        answer.read(body)
        answer.hide(body, asked)
    tokens = answer.tokens
    assert 0 <= tokens.cached <= max(tokens.prompt, 0)
    assert 0 <= tokens.completion <= 10**9
    assert 0 <= cost_nano(Price(input=100, output=100), tokens) < 2**63
    assert len(answer.finish_reason or "") <= 32
    said = signals(answer.logprobs, 8)
    assert all(len(token.top) <= SIGNAL_TOP for token in said)
    assert all(abs(value) < 1e3 for value in confidence_signals(said))


@settings(max_examples=150, deadline=None)
@given(BODIES, ASKED)
def test_hiding_says_truly_whether_it_changed_the_body(body: dict[str, Any], asked: Asked):
    before = copy.deepcopy(body)
    changed = Answer().hide(body, asked)
    assert changed == (body != before)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=4), max_size=6), st.integers(0, 20), ASKED)
def test_the_client_sees_no_more_than_it_asked_for_and_the_reader_sees_all(words: list[str], sent: int, asked: Asked):
    content = [token_logprobs(word, -0.5, sent) for word in words]
    body = {
        "choices": [{"index": 0, "message": {"content": "x"}, "logprobs": {"content": content, "refusal": content}}]
    }
    answer = Answer()
    answer.read(body)
    answer.hide(body, asked)
    shown = body["choices"][0]["logprobs"]
    if not asked.logprobs:
        assert shown is None
    else:
        assert shown is not None
        for part in ("content", "refusal"):
            assert [len(token["top_logprobs"]) for token in shown[part]] == [min(sent, asked.top_logprobs)] * len(
                words
            )
    assert [len(token.top_logprobs) for token in answer.logprobs] == [sent] * len(words)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=4), max_size=6), st.integers(0, 20), ASKED)
def test_a_completions_logprobs_are_cut_and_read_as_a_chats_are(words: list[str], sent: int, asked: Asked):
    chat = [token_logprobs(word, -0.5, sent) for word in words]
    logprobs = {
        "tokens": words,
        "token_logprobs": [-0.5] * len(words),
        "top_logprobs": [{top["token"]: top["logprob"] for top in token["top_logprobs"]} for token in chat],
        "text_offset": list(range(len(words))),
    }
    body = {"choices": [{"index": 0, "text": "".join(words), "logprobs": logprobs, "finish_reason": "stop"}]}
    answer = Answer()
    answer.read(body)
    assert (answer.text, answer.finish_reason) == ("".join(words), "stop")
    assert signals(answer.logprobs, 8) == signals(read(chat), 8)
    answer.hide(body, asked)
    shown = body["choices"][0]["logprobs"]
    if not asked.logprobs:
        assert shown is None
        return
    assert {name: shown[name] for name in shown if name != "top_logprobs"} == {
        name: logprobs[name] for name in logprobs if name != "top_logprobs"
    }
    for word, listed, whole in zip(words, shown["top_logprobs"], logprobs["top_logprobs"], strict=True):
        assert listed.items() <= whole.items()
        assert len(listed) >= min(asked.top_logprobs, len(whole))
        assert len(listed.keys() - {word}) <= asked.top_logprobs
        assert word in listed or word not in whole


def test_an_answer_is_read_whole():
    answer = Answer()
    answer.read(whole_answer({"model": "m", "logprobs": True, "top_logprobs": 3}, Script(text="a b c")))
    assert (answer.text, answer.finish_reason, answer.tokens) == ("a b c", "stop", Tokens(11, 3, 4))
    assert [token.token for token in answer.logprobs] == ["a", " b", " c"]


def test_only_the_first_choice_is_read():
    answer = Answer()
    answer.read(
        {"choices": [{"index": 1, "message": {"content": "no"}}, {"index": 0, "message": {"content": "yes"}}]}
    )
    assert answer.text == "yes"


def test_without_usage_the_tokens_seen_are_counted():
    answer = Answer()
    body = {"choices": [{"delta": {"content": "x"}, "logprobs": {"content": [token_logprobs("x", -1.0, 2)] * 3}}]}
    answer.read(json.loads(json.dumps(body)))
    assert answer.tokens == Tokens(0, 3, 0)


def test_the_signals_are_the_first_tokens_and_their_highest_alternatives():
    token = {"token": "a", "logprob": -1, "top_logprobs": [{"logprob": -float(i)} for i in range(9, 0, -1)]}
    said = signals(read([token] * 10), 4)
    assert len(said) == 4
    assert said[0].top == (-1.0, -2.0, -3.0, -4.0, -5.0)


def test_tool_calls_are_read_whole_and_in_pieces_alike():
    call = {"id": "call_1", "type": "function", "function": {"name": "lookup", "arguments": '{"id": 7}'}}
    other = {"id": "call_2", "type": "function", "function": {"name": "send", "arguments": "{}"}}
    whole = Answer()
    message = {"content": None, "tool_calls": [call, other]}
    whole.read({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    streamed = Answer()
    for piece in (
        {"index": 1, "id": "call_2", "function": {"name": "send", "arguments": ""}},
        {"index": 0, "id": "call_1", "type": "function", "function": {"name": "lookup", "arguments": '{"id"'}},
        {"index": 0, "function": {"arguments": ": 7}"}},
        {"index": 1, "function": {"arguments": "{}"}},
    ):
        streamed.read({"choices": [{"delta": {"tool_calls": [piece]}}]})
    assert whole.tool_calls == streamed.tool_calls == [call, other]
    assert Answer().tool_calls is None


def test_an_endless_list_of_tool_calls_is_read_to_a_bound():
    answer = Answer()
    for index in range(1_000):
        answer.read({"choices": [{"delta": {"tool_calls": [{"index": index, "function": {"name": "x"}}]}}]})
    assert answer.tool_calls is not None
    assert len(answer.tool_calls) == 128
