"""The view of a request."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.features import EDGE_CHARS, RequestView, edges

ANY_TEXT = st.text(st.characters(), max_size=400)  # lone surrogates included
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
KEYS = ("messages", "tools", "functions", "response_format", "n", "max_tokens", "max_completion_tokens")
MESSAGE = st.dictionaries(st.sampled_from(("role", "content", "type", "text", "tool_calls")), JSON)
PART = st.fixed_dictionaries({"type": JSON, "text": JSON})
BODY = st.dictionaries(
    st.sampled_from(KEYS), JSON | st.lists(MESSAGE | st.fixed_dictionaries({"content": st.lists(PART)}))
)


@given(BODY | st.dictionaries(st.text(), JSON))
def test_any_json_object_becomes_a_view(body: dict[str, object]):
    view = RequestView.from_body(body)
    assert all(isinstance(role, str) and isinstance(text, str) for role, text in view.messages)
    assert view.n >= 1
    assert view.max_tokens is None or view.max_tokens >= 1
    assert len(edges(view.text())) <= 2 * EDGE_CHARS + 1


def test_a_usual_body_is_read_in_full():
    view = RequestView.from_body(
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]},
                {"role": "assistant", "content": "Hello."},
                {"role": "user", "content": "Bye"},
            ],
            "response_format": {"type": "json_schema", "json_schema": {}},
            "n": 2,
            "max_tokens": 5,
            "max_completion_tokens": 7,
        }
    )
    assert view == RequestView(
        (("system", "Be brief."), ("user", "Hi\nthere"), ("assistant", "Hello."), ("user", "Bye")),
        wants_schema=True,
        n=2,
        max_tokens=7,
    )
    assert view.text() == "Hi\nthere\nBye"


@pytest.mark.parametrize("kind", ["image_url", "input_image", "input_audio", "file", "", None, ["text"]])
def test_a_part_that_is_not_text_is_dropped_from_the_text_and_noted(kind: object):
    content = [{"type": kind, "text": "never"}, {"type": "text", "text": "kept"}]
    view = RequestView.from_body({"messages": [{"role": "user", "content": content}]})
    assert (view.text(), view.has_images) == ("kept", True)


def test_tools_are_counted():
    assert RequestView.from_body({"tools": [{"type": "function"}] * 3}).tools == 3
    assert RequestView.from_body({"functions": [{"name": "f"}]}).tools == 1
    assert RequestView.from_body({"tools": "three"}).tools == 0


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"type": "function"}]},
        {"functions": [{"name": "f"}]},
        {"messages": [{"role": "tool", "content": "42"}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
    ],
    ids=["tools", "functions", "tool turn", "tool call"],
)
def test_tools_are_noted_wherever_they_stand(body: dict[str, object]):
    assert RequestView.from_body(body).has_tools
    assert not RequestView.from_body({"messages": [], "tools": []}).has_tools


def test_importing_the_policy_loads_neither_the_trainer_nor_a_deep_learning_library():
    heavy = "('sklearn', 'torch', 'transformers', 'vllm')"
    code = f"import router.policy, router.calibration_error, sys; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
