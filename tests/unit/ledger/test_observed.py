"""What the estimates are made of: which requests, which label of each, and with which propensity."""

import math
from typing import Any

import numpy as np
import pytest

from ledger import observed as module
from ledger.labels import Label, add
from ledger.observed import least_propensity, observed
from ledger.requests import expire_contents, insert_records
from ledger.store import Store
from tests.unit.ledger.rows import row


def decided(request_id: str, reason: str = "confident", **values: Any):
    usual = {"score": 0.9, "novelty": 0.1, "release_id": "rel-1", "prompt_tokens": 10, "completion_tokens": 3}
    route = "student" if reason in ("confident", "budget") else "teacher"
    return row(request_id, route=route, reason=reason, **(usual | values))


def beside(request_id: str, kind: str = "explore", **values: Any):
    route = "teacher" if kind == "explore" else "student"
    return row(f"{request_id}-{kind}", **({"route": route, "reason": "explore", "propensity": 0.1} | values))


def label(request_id: str, source: str = "explore", agreement: float = 1.0, propensity: float = 0.1) -> Label:
    return Label(
        request_id=request_id,
        source=source,
        created_at=1,
        release_id="rel-1",
        comparator="exact",
        agreement=agreement,
        propensity=propensity,
    )


def test_each_kind_of_request_is_told_apart(store: Store):
    rows = [
        decided("a", confidence=0.95, created_at=7),
        decided("b", "hard", score=0.2, created_at=6),
        decided("c", "low_confidence", confidence=0.3, stream=True, created_at=5),
        decided("d", "low_confidence", confidence=0.4, created_at=4),
        decided("e", "budget", score=0.3, created_at=3),
    ]
    insert_records(store, [*rows, beside("a", created_at=7)])
    insert_records(store, [beside("b", "shadow", confidence=0.55, created_at=6)])
    add(store, [label("a", agreement=0.0), label("d", "escalated", propensity=1.0)])
    log = observed(store)
    assert len(log) == 5
    assert log.score.tolist() == [0.9, 0.2, 0.9, 0.9, 0.3]
    # the shadow's confidence, and for what was kept from the teacher unread, the score
    np.testing.assert_array_equal(log.confidence, [0.95, 0.55, 0.3, 0.4, 0.3])
    assert log.student.tolist() == [True, False, False, False, True]
    assert log.tried.tolist() == [True, False, True, True, True]
    assert log.stream.tolist() == [False, False, True, False, False]
    assert log.asked.tolist() == [True, True, False, True, False]
    np.testing.assert_array_equal(log.agreement, [0.0, math.nan, math.nan, 1.0, math.nan])
    np.testing.assert_array_equal(log.propensity, [0.1, 0.1, math.nan, 1.0, math.nan])
    assert log.labelled.tolist() == [True, False, False, True, False]
    assert log.tokens[0].tolist() == [10, 3, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": "pinned"},
        {"reason": "unsupported"},
        {"reason": "explore"},
        {"reason": "teacher_down"},
        {"score": None},
        {"trainable": False},
        {"status": 502},
        {"content": None},
        {"created_at": 10},
        {"release_id": "rel-0"},
    ],
    ids=lambda changes: "-".join(f"{k}={v}" for k, v in changes.items()),
)
def test_what_the_router_did_not_decide_or_could_not_explore_is_left_out(store: Store, changes: dict[str, Any]):
    insert_records(store, [decided("a", **({"created_at": 100} | changes))])
    assert len(observed(store, 50, "rel-1")) == 0


def test_a_request_whose_content_expired_is_left_out_labelled_or_not(store: Store):
    insert_records(store, [decided("a", created_at=1), decided("b", created_at=9), beside("a", created_at=1)])
    add(store, [label("a")])
    expire_contents(store, 5)
    log = observed(store)
    assert (len(log), log.labelled.any()) == (1, False)


def test_feedback_is_no_label_and_a_judge_is_believed_before_the_rest(store: Store):
    insert_records(store, [decided("a", created_at=2), decided("b", created_at=1)])
    add(store, [label("a", "likelihood"), label("a", "judge", 0.5), label("a", "explore")])
    add(store, [label("b", "feedback", 0.0)])
    log = observed(store)
    np.testing.assert_array_equal(log.agreement, [0.5, math.nan])


def test_the_newest_are_read_in_bounded_batches(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "BATCH", 3)
    monkeypatch.setattr(module, "IDS_AT_ONCE", 2)
    # several of the same millisecond, so that batches end between them
    insert_records(store, [decided(f"r{n:02}", score=n / 100, created_at=n // 4) for n in range(20)])
    insert_records(store, [beside(f"r{n:02}", created_at=n // 4) for n in range(20)])
    assert observed(store).score.tolist() == [n / 100 for n in reversed(range(20))]
    assert observed(store, most=7).score.tolist() == [n / 100 for n in reversed(range(13, 20))]
    assert observed(store).asked.all()


def test_an_empty_ledger_gives_an_empty_log(store: Store):
    log = observed(store)
    assert (len(log), log.tokens.shape) == (0, (0, 3))


def test_the_least_propensity_is_that_of_the_teachers_answers_only(store: Store):
    assert least_propensity(store) is None
    insert_records(store, [beside("a", propensity=0.2), beside("b", propensity=0.05), decided("c")])
    insert_records(store, [beside("d", "shadow", propensity=0.01), beside("e", propensity=0.001, trainable=False)])
    insert_records(store, [beside("f", propensity=0.002, content=None)])
    assert least_propensity(store) == 0.05
