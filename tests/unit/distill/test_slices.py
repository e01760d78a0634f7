"""Parts of the held-out requests, and how sure a test must be before one of them rejects."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from distill.gate_settings import GateSettings
from distill.intervals import shown_below
from distill.slices import ALPHA, Slice, below_floors, slices_of, worse_than_champion
from tests.unit.distill.measured import row


def asked(number: int, text: str, **changes):
    made = row(number, number % 2 == 0)
    request = msgspec.structs.replace(made.request, messages=[{"role": "user", "content": text}], **changes)
    return replace(made, request=request)


def part(name: str, n: int, agreed: int, better: int | None = None, worse: int | None = None) -> Slice:
    return Slice(name, n, agreed, 0.0, 1.0, better, worse)


def test_requests_are_parted_by_tag_comparator_model_length_and_script():
    answers = [
        asked(0, "Where is it?", tags=["billing", "vip"], model="gpt-4o"),
        asked(1, "Где посылка?" * 40, tags=["billing"]),
        replace(asked(2, "x" * 3_000), comparator="json"),
        replace(asked(3, "7 + 5"), comparator="numeric"),
    ]
    found = {each.name: (each.n, each.agreed) for each in slices_of(answers, None)}
    assert found == {
        "tag:billing": (2, 1),
        "tag:vip": (1, 1),
        "length:medium": (1, 0),
        "comparator:json": (1, 1),
        "comparator:numeric": (1, 0),
        "length:short": (2, 1),
        "script:latin": (2, 2),
    }


def test_a_part_that_is_the_whole_or_another_part_is_named_once():
    assert slices_of([row(n, True) for n in range(5)], None) == []
    found = slices_of([row(n, True, ["a", "b"] if n < 2 else []) for n in range(5)], None)
    assert [each.name for each in found] == ["tag:a"]


def test_pairs_are_counted_where_there_is_a_champion():
    answers = [row(n, n != 0, ["a"] if n < 3 else []) for n in range(6)]
    before = [row(n, n != 1) for n in range(6)]
    (found,) = slices_of(answers, before)
    assert (found.n, found.agreed, found.better, found.worse) == (3, 2, 1, 1)


def test_small_parts_and_parts_without_a_floor_are_not_judged():
    settings = GateSettings(min_slice_size=30, slice_floors={"tag:a": 0.9})
    judged = below_floors(settings, [part("tag:a", 30, 10), part("tag:a2", 500, 0), part("tag:a", 29, 0)])
    assert [(found.name, found.n, floor) for found, floor, _ in judged] == [("tag:a", 30, 0.9)]
    assert judged[0][2] < ALPHA
    settings = GateSettings(min_slice_agreement=0.2)
    assert [floor for _, floor, _ in below_floors(settings, [part("x", 40, 9), part("y", 40, 9)])] == [0.2, 0.2]


def test_parts_on_their_floors_seldom_reject_however_many_they_are():
    rng, settings = np.random.default_rng(0), GateSettings(min_slice_agreement=0.8)
    rejected = plain = 0
    for _ in range(400):
        found = below_floors(settings, [part(f"tag:{i}", 40, int(rng.binomial(40, 0.8))) for i in range(20)])
        rejected += any(p <= ALPHA for _, _, p in found)
        plain += any(shown_below(each.agreed, 40, 0.8) <= ALPHA for each, _, _ in found)
    assert rejected / 400 <= 0.07
    assert plain / 400 > 0.4, "at the same level without a correction, one of the twenty would fail by luck"


def test_a_part_that_got_worse_is_found_among_others():
    parts = [part("tag:a", 60, 30, better=1, worse=20), part("tag:b", 60, 50, 5, 5), part("tag:c", 10, 0, 0, 10)]
    found = {each.name: p for each, p in worse_than_champion(GateSettings(), parts)}
    assert set(found) == {"tag:a", "tag:b"}
    assert found["tag:a"] < 0.001 < 0.5 < found["tag:b"]
    assert worse_than_champion(GateSettings(), [part("tag:a", 60, 30)]) == []


@pytest.mark.parametrize("floor", [-0.1, 1.1, float("nan")])
def test_a_floor_that_is_no_share_is_refused(floor: float):
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        GateSettings(slice_floors={"tag:a": floor})
