"""Ids of requests: none twice, and in the order of their time."""

import multiprocessing
import re

from ledger.request_ids import id_named, new_id, time_of

NOW = 1_796_000_000_000


def test_ids_are_in_the_order_of_time_and_no_two_of_a_time_are_the_same():
    ids = [[new_id(NOW + ms) for _ in range(1_000)] for ms in (0, 1, 3_600_000)]
    assert len({one for of_a_time in ids for one in of_a_time}) == 3_000
    assert max(ids[0]) < min(ids[1])
    assert max(ids[1]) < min(ids[2])
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", one) for of_a_time in ids for one in of_a_time)


def test_an_id_tells_when_its_request_began():
    assert [time_of(new_id(NOW)), time_of(id_named(NOW + 1, "line 7"))] == [NOW, NOW + 1]
    assert [
        time_of(one) for one in ("", "req_1", new_id(NOW).upper(), new_id(NOW) + "0", new_id(NOW)[:-1] + "\n")
    ] == [None] * 5


def put_ids(found) -> None:
    found.put([new_id(NOW) for _ in range(5)])


def test_a_process_that_is_forked_has_ids_of_its_own():
    new_id(NOW)  # some are drawn by now
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    others = [context.Process(target=put_ids, args=(found,)) for _ in range(2)]
    for other in others:
        other.start()
    ids = [one for _ in others for one in found.get(timeout=60)] + [new_id(NOW) for _ in range(5)]
    for other in others:
        other.join()
    assert len(set(ids)) == 15
