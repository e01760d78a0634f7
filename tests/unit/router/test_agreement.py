"""The first comparator."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.agreement import agree


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("Yes", " yes.\n"),
        ("card  arrival", "card\narrival"),
        ("ﬁne", "FINE!"),
        ("STRASSE", "straße"),
        ("はい。", "はい"),
        ("\uff46\uff4f\uff4f", "foo"),
        ("no . . .", "no"),
    ],
)
def test_equal_but_for_form_is_agreement(student: str, teacher: str):
    assert agree(student, teacher)


@pytest.mark.parametrize(("student", "teacher"), [("5%", "5"), ("-5", "5"), ("?", "!"), ("", "."), ("a b", "ab")])
def test_another_meaning_is_disagreement(student: str, teacher: str):
    assert not agree(student, teacher)


@given(st.text(), st.text())
def test_agreement_is_reflexive_and_symmetric_and_blind_to_case(one: str, other: str):
    assert agree(one, one)
    assert agree(one, other) == agree(other, one)
    assert agree(one, one.casefold())
