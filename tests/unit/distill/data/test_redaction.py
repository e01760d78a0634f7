"""Personal data in a dataset: found, replaced consistently, restored exactly, and nowhere else."""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.data.recognisers import personal
from distill.data.redaction import redact, redact_row, restore
from tests.unit.distill.data.pii_corpus import Case, cases, innocent, values
from tests.unit.distill.data.rows import ask, row

VALUES = st.integers(0, 2**32).map(lambda seed: random.Random(seed).choice(values(random.Random(seed)))[1])
FILLER = st.text(max_size=40)
TEXTS = st.lists(st.builds(" ".join, st.lists(FILLER | VALUES, max_size=5)), min_size=1, max_size=4)


@given(TEXTS)
def test_what_is_hidden_can_be_restored_exactly(texts: list[str]):
    hidden = redact(texts, "DE")
    assert [restore(text, hidden.mapping) for text in hidden.texts] == texts


@given(st.lists(VALUES, min_size=1, max_size=4), st.lists(FILLER, min_size=4, max_size=4))
def test_none_of_the_seeded_values_is_left(seeded: list[str], filler: list[str]):
    texts = [f"{before} {value} ." for before, value in zip(filler, seeded, strict=False)]
    hidden = redact([*texts, " ".join(seeded)], None)
    assert not [value for value in seeded for text in hidden.texts if value in text]


@given(VALUES, VALUES)
def test_the_same_value_has_the_same_placeholder_throughout_a_conversation(one: str, other: str):
    alone = redact([f"to {one} please"], None)
    longer = redact([f"to {one} please", f"not {other} ,", f"but {one} ."], None)
    assert longer.texts[0] == alone.texts[0], "a conversation that goes on keeps its placeholders"
    (name,) = [name for name, value in longer.mapping.items() if value == one]
    assert name in longer.texts[0]
    assert name in longer.texts[2]
    assert len(set(longer.mapping.values())) == len(longer.mapping)


def test_a_placeholder_that_a_text_already_has_is_not_given_again():
    texts = ["write <EMAIL_1> for a@example.com"]
    hidden = redact(texts, None)
    assert hidden.texts == ["write <EMAIL_1> for <EMAIL_2>"]
    assert restore(hidden.texts[0], hidden.mapping) == texts[0]


def test_a_value_is_hidden_where_no_recogniser_would_see_it():
    hidden = redact(["card 4111111111111111", "ref4111111111111111x"], None)
    assert hidden.texts[1] == "ref<CARD_1>x"


def test_nearly_all_of_a_made_corpus_is_found_and_little_else():
    seeded = cases(20)
    found = {case: {value: kind for kind, value in personal(case.text, None)} for case in seeded}
    missed = Counter(case.kind for case in seeded if not hides(case))
    wrong = [
        (case, value)
        for case, values_ in found.items()
        for value in values_
        if value not in case.text or not overlaps(case, value)
    ]
    false = [(text, list(personal(text, None))) for text in innocent() if list(personal(text, None))]
    assert missed.total() <= 0.02 * len(seeded), missed
    assert len(wrong) + len(false) <= 0.02 * len(seeded), (wrong, false)


def hides(case: Case) -> bool:
    return case.value not in redact([case.text], None).texts[0]


def overlaps(case: Case, value: str) -> bool:
    return value in case.value or case.value in value


@pytest.mark.parametrize(
    ("text", "region", "kinds"),
    [
        pytest.param("call 030 901820 now", "DE", ["PHONE"], id="national number of the region"),
        pytest.param("call 030 901820 now", None, [], id="national number of nowhere"),
        pytest.param("the password is hunter2!x9", None, ["SECRET"], id="password by its name"),
        pytest.param("the password is incorrect.", None, [], id="a word after password"),
        pytest.param("card 4111 1111 1111 1112", None, [], id="wrong check digit"),
        pytest.param("DE89370400440532013001", None, [], id="wrong remainder"),
        pytest.param("DE89 3704 0044 0532 0130 00 IS MINE", None, ["IBAN"], id="capitals after an account"),
        pytest.param("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----", None, ["SECRET"], id="PEM"),
    ],
)
def test_what_decides_is_the_check_and_not_the_shape(text: str, region: str | None, kinds: list[str]):
    assert [kind for kind, _ in personal(text, region)] == kinds


def token(text: str) -> dict[str, Any]:
    return {"token": text, "logprob": -0.1, "top_logprobs": []}


def test_an_answer_that_changed_loses_its_soft_targets_and_one_that_did_not_keeps_them():
    targets = [token("lost")]
    told = row("I am bob@example.com", "Hello bob@example.com", logprobs=targets)
    hidden, mapping = redact_row(told, None)
    assert (hidden.messages, hidden.answer) == (ask("I am <EMAIL_1>"), "Hello <EMAIL_1>")
    assert (hidden.logprobs, mapping) == (None, {"<EMAIL_1>": "bob@example.com"})
    unchanged, _ = redact_row(row("I am bob@example.com", "lost", logprobs=targets), None)
    assert unchanged.messages == ask("I am <EMAIL_1>")
    assert unchanged.logprobs == targets


def test_text_in_parts_and_what_names_a_user_are_hidden_too():
    said = row([{"type": "text", "text": "bob@example.com"}], parameters={"user": "bob", "temperature": 0})
    hidden, _ = redact_row(said, None)
    assert hidden.messages == ask([{"type": "text", "text": "<EMAIL_1>"}])
    assert hidden.parameters == {"temperature": 0}


def test_a_text_without_personal_data_is_left_as_it_is():
    said = row("where is my parcel", "lost")
    assert redact_row(said, None) == (said, {})
