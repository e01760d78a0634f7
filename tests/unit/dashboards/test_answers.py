"""Answers as pieces: nothing of the text is lost, and each token is in the band of its probability."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards import answers
from dashboards.answers import BANDS, Message, Piece
from ledger.records import Content


def content(*tokens: tuple[str, float]) -> Content:
    return Content(messages=[], student_tokens=[(token, int(math.log(p) * 1_000)) for token, p in tokens])


WORDY = st.lists(st.sampled_from(["a", "b", " ", "\n", "long", "."]), max_size=30).map("".join)


@given(WORDY | st.text(), WORDY | st.text())
def test_a_comparison_holds_both_answers_whole(first, second):
    found = answers.compared(first, second)
    assert found.pieces is not None
    assert "".join(piece.text for piece in found.pieces if piece.kind != "new") == first
    assert "".join(piece.text for piece in found.pieces if piece.kind != "gone") == second
    assert found.is_same == (first == second)


def test_words_that_differ_are_told_from_those_that_do_not():
    assert answers.compared("It is in Paris now.", "It is in Rome now.").pieces == [
        Piece("same", "It is in "), Piece("gone", "Paris"), Piece("new", "Rome"), Piece("same", " now."),
    ]  # fmt: skip


def test_answers_too_long_to_compare_are_shown_as_they_are():
    found = answers.compared("word " * 3_000, "word")
    assert (found.pieces, found.second) == (None, "word")


@pytest.mark.parametrize(
    ("p", "kind"), [(1.0, "sure"), (0.95, "sure"), (0.7, "fair"), (0.4, "unsure"), (0.01, "guess")]
)
def test_a_token_is_in_the_band_of_its_probability(p, kind):
    (piece,) = answers.tokens(content(("x", p)))
    assert (piece.kind, piece.text) == (kind, "x")
    assert piece.note == ("" if kind == "sure" else f"{math.exp(int(math.log(p) * 1_000) / 1_000):.0%}")


def test_sure_tokens_are_run_together_and_the_others_are_not():
    found = answers.tokens(content(("It", 0.99), (" is", 0.95), (" in", 0.2), (" Rome", 0.2), (".", 1.0)))
    assert [(piece.kind, piece.text) for piece in found] == [
        ("sure", "It is"), ("guess", " in"), ("guess", " Rome"), ("sure", "."),
    ]  # fmt: skip


def test_the_least_sure_tokens_come_first_with_their_probability():
    ranked = answers.least_sure(content(*[(str(i), 0.3 + i / 100) for i in range(20)], ("worst", 0.1)))
    assert ranked[0][0] == "worst"
    assert ranked[0][1] == pytest.approx(0.1, rel=0.01)
    assert len(ranked) == 10


def test_without_tokens_there_is_nothing_to_show():
    assert answers.tokens(Content(messages=[])) == answers.least_sure(Content(messages=[])) == []
    assert [least for least, *_ in BANDS] == sorted((least for least, *_ in BANDS), reverse=True)


def test_a_message_is_shown_in_its_parts_and_a_picture_is_cut():
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10_000}}
    call = [{"id": "1", "function": {"name": "find", "arguments": "{}"}}]
    said = [
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": call},
        {"content": "no role"},
    ]
    asked, called, other = answers.messages(said)
    assert (asked.role, asked.parts[0]) == ("user", "What is it?")
    assert asked.parts[1].endswith("characters more")
    assert len(asked.parts[1]) < 2_100
    assert '"find"' in called.parts[0]
    assert other == Message("?", ["no role"])
