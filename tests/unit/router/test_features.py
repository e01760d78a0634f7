"""The view of a request and its features."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.features import EDGE_CHARS, FEATURES, RequestView, dot, feature_row
from router.hashing import CHAR_BUCKETS, WORD_BUCKETS, ngrams
from router.lexicon import MAX_CHARS, MAX_NEW_WORDS, WORDS, Lexicon
from router.matrix import features

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


def asking(text: str) -> RequestView:
    return RequestView((("user", text),))


@given(BODY | st.dictionaries(st.text(), JSON))
def test_any_json_object_becomes_a_view(body: dict[str, object]):
    view = RequestView.from_body(body)
    assert all(isinstance(role, str) and isinstance(text, str) for role, text in view.messages)
    assert view.n >= 1
    assert view.max_tokens is None or view.max_tokens >= 1
    feature_row(view)


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


@given(st.lists(ANY_TEXT, max_size=3), st.booleans(), st.booleans())
def test_features_of_any_text_are_finite_and_deterministic(texts: list[str], tools: bool, schema: bool):
    view = RequestView(tuple(("user", text) for text in texts), has_tools=tools, wants_schema=schema)
    matrix = features([view, view])
    assert matrix.shape == (2, FEATURES)
    assert np.isfinite(matrix.data).all()
    first, second = matrix.toarray()
    assert np.array_equal(first, second)
    for block in np.split(first, [WORD_BUCKETS, WORD_BUCKETS + CHAR_BUCKETS]):
        assert np.linalg.norm(block) <= 1 + 1e-9


def test_a_row_alone_equals_the_row_in_the_matrix():
    view = asking("What is 17 * 3? ```x = [1]```")
    indices, values = feature_row(view)
    assert np.array_equal(features([asking("other"), view])[1].toarray()[0, indices], values)
    assert features([]).shape == (0, FEATURES)


def weights_of(text: str, kind: str) -> dict[int, float]:
    """The columns of a text's words or characters, and their weights."""
    pairs = zip(*(part.tolist() for part in ngrams(text)), strict=True)
    return {column: weight for column, weight in pairs if (column < WORD_BUCKETS) == (kind == "words")}


@given(st.text("ab \t\nßİ?é漢", max_size=80))
def test_no_character_ngram_spans_two_words(text: str):
    alone = [weights_of(word, "chars").keys() for word in text.split()]
    assert weights_of(text, "chars").keys() == set().union(*alone)


def test_character_ngrams_are_counted_as_a_plain_loop_counts_them():
    padded = " banana "
    grams = [padded[i : i + size] for size in (2, 3, 4, 5) for i in range(len(padded) - size + 1)]
    expected = 1 + np.log(sorted(map(grams.count, set(grams))))
    found = sorted(weights_of("banana", "chars").values())
    assert found == pytest.approx(expected / np.linalg.norm(expected))


def test_words_and_pairs_of_words_are_hashed_alike_wherever_they_stand():
    early, late = (weights_of(text, "words").keys() for text in ("red fox ran", "a lazy red fox slept"))
    assert len(early) == 5
    assert len(early & late) == 3


def test_the_buckets_are_those_that_trained_routers_know():
    columns, weights = ngrams("red fox, red fox?")
    assert columns.tolist()[:4] == [16790, 24378, 25047, 29403]
    assert weights[:2].tolist() == pytest.approx([0.54645401, 0.32274454])


WEIGHTS = np.random.default_rng(7).normal(size=FEATURES).tolist()


@given(st.lists(st.text("ab \t\nßİ?é漢_1\ud800", max_size=60), max_size=4))
def test_the_lexicon_says_what_the_features_say(texts: list[str]):
    lexicon = Lexicon()
    for text in (*texts, *texts):
        indices, values = feature_row(asking(text))
        assert dot(asking(text), lexicon, WEIGHTS) == pytest.approx(float(np.array(WEIGHTS)[indices] @ values))


def test_the_lexicon_leaves_long_texts_and_those_of_new_words_to_the_features():
    lexicon = Lexicon()
    assert lexicon.dot("a" * (MAX_CHARS + 1), WEIGHTS) is None
    assert lexicon.dot(" ".join(f"w{i}" for i in range(MAX_NEW_WORDS + 1)), WEIGHTS) is None
    assert lexicon.dot("k" * 200, WEIGHTS) is None
    assert lexicon.dot("", WEIGHTS) == 0.0


def test_the_lexicon_forgets_rather_than_grow_without_bound():
    lexicon = Lexicon()
    for start in range(0, WORDS + 500, 40):
        assert lexicon.dot(" ".join(f"w{start + i}" for i in range(40)), WEIGHTS) is not None
    assert len(lexicon) <= WORDS
    again = asking("w1 w2 w16399")
    indices, values = feature_row(again)
    assert dot(again, lexicon, WEIGHTS) == pytest.approx(float(np.array(WEIGHTS)[indices] @ values))


def test_only_the_edges_of_a_long_text_are_read():
    head, tail = "head " * (EDGE_CHARS // 5), "tail " * (EDGE_CHARS // 5)
    rows = [feature_row(asking(head + middle * 10_000 + tail)) for middle in ("x", "y")]
    assert np.array_equal(rows[0][0], rows[1][0])
    assert np.array_equal(rows[0][1], rows[1][1])


def test_importing_the_policy_loads_neither_the_trainer_nor_a_deep_learning_library():
    heavy = "('sklearn', 'torch', 'transformers', 'vllm')"
    code = f"import router.policy, router.evaluate, sys; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
