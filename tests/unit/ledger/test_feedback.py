"""Feedback: whose it may be, which of several counts, and what of it is kept."""

import pytest

from ledger import feedback
from ledger.feedback import Feedback, NothingKept, UnknownRequest
from ledger.requests import expire_contents, get, insert_records
from ledger.trainable import stream_trainable
from tests.unit.ledger.rows import row


def said(request_id: str = "a", **values) -> Feedback:
    return Feedback(id="", created_at=0, request_id=request_id, **values)


def add(store, request_id: str = "a", asker: str | None = "key_1", anyones: bool = False, **values) -> Feedback:
    return feedback.add(store, said(request_id, **values), asker, anyones)


@pytest.fixture
def asked(store):
    insert_records(store, [row("a", key_id="key_1"), row("b", key_id="key_2")])
    return store


def test_feedback_comes_back_as_it_was_given(asked):
    kept = add(asked, score=0.25, label="wrong", correction="É\u0000 right", comment="because")
    assert (kept.score, kept.label, kept.correction, kept.comment) == (0.25, "wrong", "É\u0000 right", "because")
    assert (kept.request_id, kept.key_id) == ("a", "key_1")
    assert kept.id.startswith("fb_")
    assert kept.created_at > 1_600_000_000_000
    assert feedback.of_request(asked, "a") == feedback.newest(asked) == [kept]
    assert feedback.of_request(asked, "b") == []


def test_the_newest_of_a_requests_feedback_counts_as_a_whole(asked):
    first = [add(asked, score=n / 10, correction=f"try {n}") for n in range(5)]
    last = add(asked, score=1.0)
    other = add(asked, "b", "key_2", label="fine")
    assert feedback.of_request(asked, "a") == [last, *reversed(first)]
    assert feedback.of_request(asked, "b") == [other]
    assert feedback.of_request(asked, "none") == []
    assert feedback.newest(asked, 2) == [other, last]


@pytest.mark.parametrize(("asker", "anyones"), [("key_2", False), (None, False), ("key_1x", False)])
def test_a_key_speaks_of_its_own_requests_only(asked, asker, anyones):
    with pytest.raises(UnknownRequest, match="no request 'a'"):
        add(asked, "a", asker, anyones, score=1)
    assert feedback.newest(asked) == []


def test_who_may_speak_of_all_requests_speaks_of_those_that_are_there(asked):
    assert add(asked, "a", "key_admin", anyones=True, score=1).key_id == "key_admin"
    with pytest.raises(UnknownRequest):
        add(asked, "none", "key_admin", anyones=True, score=1)


def test_of_a_request_whose_content_is_not_kept_no_text_is_kept_either(asked):
    insert_records(asked, [row("off", key_id="key_1", content=None, trainable=False)])
    kept = add(asked, "off", score=0.1, label="bad", correction="canary", comment="canary")
    assert (kept.score, kept.label, kept.correction, kept.comment) == (0.1, "bad", None, None)
    assert feedback.of_request(asked, "off") == [kept]
    with pytest.raises(NothingKept):
        add(asked, "off", correction="canary", comment="canary")
    assert len(feedback.newest(asked)) == 1


def test_texts_expire_with_the_content_of_their_request_and_scores_stay(store):
    insert_records(store, [row("old", key_id="key_1", created_at=1), row("new", key_id="key_1", created_at=9)])
    for request_id in ("old", "new"):
        add(store, request_id, score=0.0, label="no", correction="right", comment="because")
    assert expire_contents(store, before=5) == 1
    old, new = feedback.of_request(store, "old")[0], feedback.of_request(store, "new")[0]
    assert (old.score, old.label, old.correction, old.comment) == (0.0, "no", None, None)
    assert (new.correction, new.comment) == ("right", "because")


def trainable(store) -> dict[str, tuple]:
    return {
        values["id"]: (content.answer, values["feedback_score"], values["corrected"], values["answered"])
        for values, content in stream_trainable(store, batch=2)
    }


def test_feedback_comes_with_the_rows_that_are_trained_on(store):
    insert_records(store, [row(name, key_id="key_1") for name in ("plain", "bad", "better", "changed")])
    add(store, "bad", score=0.0, comment="no")
    add(store, "better", score=0.0, correction="right")
    add(store, "changed", correction="wrong again")
    add(store, "changed", score=1.0)
    assert trainable(store) == {
        "plain": ("answer plain", None, False, True),
        "bad": ("answer bad", 0.0, False, True),
        "better": ("right", 0.0, True, True),
        "changed": ("answer changed", 1.0, False, True),
    }


CORRECTED_ONLY = {
    "of the student": {"route": "student"},
    "cut off": {"finish_reason": "length"},
    "without an end": {"finish_reason": None},
    "failed": {"status": 502},
}


@pytest.mark.parametrize("values", CORRECTED_ONLY.values(), ids=CORRECTED_ONLY)
def test_a_correction_makes_any_kept_request_one_to_train_on(store, values):
    logprobs = [{"token": "no", "logprob": -0.1}]
    content = row("x").content
    content.teacher_logprobs = logprobs
    insert_records(store, [row("a", key_id="key_1", content=content, **values)])
    add(store, score=0.0, comment="no text to learn from")
    assert trainable(store) == {}
    add(store, correction="right")
    assert trainable(store) == {"a": ("right", None, True, False)}
    ((_, learned),) = stream_trainable(store)
    assert (learned.messages, learned.teacher_logprobs) == (content.messages, None)
    assert get(store, "a")[1].teacher_logprobs == logprobs


def test_a_correction_of_a_request_that_was_opted_out_is_not_trained_on(store):
    insert_records(store, [row("a", key_id="key_1", trainable=False)])
    add(store, correction="right")
    assert trainable(store) == {}
