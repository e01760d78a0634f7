"""What the watch reads: scores of one release's own requests, and labels of the answers its student gave."""

import pytest

from ledger import drift_rows, labels
from ledger.drift_rows import Labelled, Scored
from ledger.labels import Label
from ledger.requests import insert_records
from tests.unit.ledger.rows import row


def scored(request_id: str, at: int, **values: object):
    usual = {"created_at": at, "release_id": "r1", "score": 0.5, "novelty": 0.1}
    return row(request_id, **(usual | values))


def label(request_id: str, at: int, **values: object) -> Label:
    usual = {"source": "explore", "created_at": at, "release_id": "r1", "comparator": "exact", "agreement": 1.0}
    return Label(request_id=request_id, **(usual | {"propensity": 0.02} | values))


def test_the_newest_scores_come_oldest_first(store):
    insert_records(store, [scored(f"q{at}", at, score=at / 10) for at in range(1, 9)])
    found = drift_rows.scored_after(store, "r1", after=2, until=7, limit=3)
    assert found == [Scored(5, 0.5, 0.1), Scored(6, 0.6, 0.1), Scored(7, 0.7, 0.1)]


def test_requests_that_no_router_of_this_release_scored_are_left_out(store):
    insert_records(
        store,
        [
            scored("here", 1),
            scored("another release", 2, release_id="r2"),
            scored("not scored", 3, score=None),
            scored("asked beside", 4, reason="explore"),
        ],
    )
    assert [each.created_at for each in drift_rows.scored_after(store, "r1", 0, 9, 100)] == [1]


def test_a_router_that_says_nothing_of_novelty_is_read_too(store):
    insert_records(store, [scored("old", 1, novelty=None)])
    assert drift_rows.scored_after(store, "r1", 0, 9, 100) == [Scored(1, 0.5, None)]


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_labels_come_once_each_and_in_order_however_many_share_a_time(store, batch):
    names = [f"q{i}" for i in range(7)]
    insert_records(store, [scored(name, 1, route="student", reason="confident") for name in names])
    labels.add(store, [label(name, at) for name, at in zip(names, [5, 5, 5, 6, 6, 7, 9], strict=True)])
    every = list(drift_rows.labels_after(store, "r1", (0, "", ""), 8, batch))
    assert [(each.created_at, each.request_id) for each in every] == [
        (5, "q0"), (5, "q1"), (5, "q2"), (6, "q3"), (6, "q4"), (7, "q5"),
    ]  # fmt: skip
    rest = list(drift_rows.labels_after(store, "r1", every[1][:3], 8, batch))
    assert rest == every[2:]
    assert every[0] == Labelled(5, "q0", "explore", 1.0, 0.02)


def test_only_labels_of_what_the_student_answered_by_its_own_right_count(store):
    insert_records(
        store,
        [
            scored("answered", 1, route="student", reason="confident"),
            scored("answered-explore", 1, reason="explore"),
            scored("shadow-shadow", 1, route="student", reason="explore"),
            scored("escalated", 1, reason="low_confidence"),
            scored("no budget", 1, route="student", reason="budget"),
            scored("said", 1, route="student", reason="confident"),
            scored("other", 1, route="student", reason="confident"),
        ],
    )
    labels.add(
        store,
        [
            *(label(name, 5) for name in ("answered", "answered-explore", "shadow-shadow", "escalated", "no budget")),
            label("unknown", 5),
            label("said", 5, source="feedback"),
            label("other", 5, release_id="r2"),
        ],
    )
    found = drift_rows.labels_after(store, "r1", (0, "", ""), 9)
    assert [each.request_id for each in found] == ["answered", "answered-explore"]
