"""Events of the loop: what is noted is read newest first, and drift is not noted again at once."""

import threading

from ledger import drift_rows, events, releases
from ledger.store import now_ms
from tests.unit.ledger.rows import release

DAY = 86_400_000


def test_an_event_is_read_as_it_was_noted(store):
    before = now_ms()
    events.add(store, "drift", "r1", {"drift": "score", "statistic": 0.4, "of": ["a", None, True]})
    (event,) = events.newest(store)
    assert (event.kind, event.subject) == ("drift", "r1")
    assert event.data == {"drift": "score", "statistic": 0.4, "of": ["a", None, True]}
    assert before <= event.at <= now_ms()


def test_the_newest_come_first_and_no_more_than_asked_for(store):
    for number in range(5):
        events.add(store, "drift", f"r{number}", {})
    assert [event.subject for event in events.newest(store, limit=3)] == ["r4", "r3", "r2"]


def test_events_of_another_kind_are_left_out_where_one_is_named(store):
    events.add(store, "drift", "r1", {})
    events.add(store, "budget", "teacher", {})
    assert [event.subject for event in events.newest(store, kind="budget")] == ["teacher"]
    assert len(events.newest(store)) == 2
    assert events.newest(store, kind="nothing") == []


def test_drift_is_noted_once_for_each_kind_and_release_while_it_is_quiet(store):
    assert drift_rows.raise_once(store, "r1", {"drift": "score"}, DAY)
    assert not drift_rows.raise_once(store, "r1", {"drift": "score"}, DAY)
    assert drift_rows.raise_once(store, "r1", {"drift": "novelty"}, DAY)
    assert drift_rows.raise_once(store, "r2", {"drift": "score"}, DAY)
    assert drift_rows.raise_once(store, "r1", {"drift": "score"}, -1), "the quiet time is over"
    assert drift_rows.alarms(store, "r1").keys() == {"score", "novelty"}
    assert drift_rows.alarms(store, "r1")["score"] == events.newest(store, kind="drift")[0].at


def test_events_of_other_kinds_do_not_silence_drift(store):
    events.add(store, "retrained", "r1", {"drift": "score"})
    assert drift_rows.raise_once(store, "r1", {"drift": "score"}, DAY)


def test_of_many_workers_that_find_it_at_once_one_notes_it(store):
    releases.add(store, release("r1"))
    noted: list[bool] = []

    def find() -> None:
        noted.append(drift_rows.raise_once(store, "r1", {"drift": "score"}, DAY))

    threads = [threading.Thread(target=find) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(noted) == [False] * 7 + [True]
    assert len(events.newest(store)) == 1
