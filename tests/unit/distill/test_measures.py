"""Figures beside agreement: refusals and speed."""

import pytest

from distill.measures import is_refusal, refusal_share, speed_of
from tests.unit.distill.measured import TOKEN, row


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\u2019m really sorry, no.", True),
        ("Sorry, that is not possible.", True),
        ("I cannot help with this.", True),
        ("As an AI, I have no opinion.", True),
        ("Es tut mir leid, das geht nicht.", True),
        ("The parcel is late. I'm sorry.", False),
        ("I can see it.", False),
        ("Sorry stacks of paper are common.", False),
        ("", False),
    ],
)
def test_a_refusal_is_told_by_how_it_begins(text: str, refuses: bool):
    assert is_refusal(text) is refuses


def test_the_share_of_refusals_is_of_all_rows():
    assert (
        refusal_share([row(0, True, answer="I can't."), row(1, True), row(2, True), row(3, False, answer="")]) == 0.25
    )
    assert refusal_share([]) is None


def test_tokens_per_second_count_time_under_way_once_and_idle_time_not_at_all():
    answers = [
        row(0, True, began=10.0, latency_ms=1000.0, tokens=(TOKEN,) * 10),
        row(1, True, began=10.5, latency_ms=1000.0, tokens=(TOKEN,) * 20),
        row(2, True, began=99.0, latency_ms=500.0, tokens=(TOKEN,) * 30),
        row(3, False, began=200.0, latency_ms=9000.0, tokens=()),
    ]
    speed = speed_of(answers)
    assert speed is not None
    assert (speed.answers, speed.p50_ms, speed.tokens_per_second) == (3, 1000.0, pytest.approx(60 / 2.0))
    assert 950 < speed.p95_ms <= 1000
    assert speed_of(answers[3:]) is None
