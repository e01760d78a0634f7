"""The comparison of log-probabilities, and how they are read from a server's answer."""

import math

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.parity import compare, probe_logprobs

ROWS = st.lists(st.lists(st.floats(-40, 0), min_size=1, max_size=8), min_size=1, max_size=5)


@given(ROWS)
def test_equal_scorings_are_within_any_tolerance(rows):
    report = compare(rows, rows, tolerance=0)
    assert report.within
    assert (report.max_abs_diff, report.mean_abs_diff, report.tokens) == (0, 0, sum(map(len, rows)))


@given(ROWS, st.floats(0.01, 5))
def test_one_token_that_is_off_by_more_than_the_tolerance_fails(rows, shift):
    served = [list(row) for row in rows]
    served[-1][-1] -= shift
    report = compare(served, rows, tolerance=shift / 2)
    assert not report.within
    assert report.max_abs_diff == pytest.approx(shift)


def test_a_logprob_that_is_not_a_number_fails():
    assert not compare([[math.nan, -1.0]], [[-1.0, -1.0]], tolerance=10).within


@pytest.mark.parametrize(
    ("served", "trained", "message"),
    [
        pytest.param([[-1.0]], [[-1.0, -2.0]], "not of the same probes", id="lengths differ"),
        pytest.param([[-1.0]], [[-1.0], [-1.0]], "not of the same probes", id="a probe is missing"),
        pytest.param([[]], [[]], "no token", id="nothing scored"),
    ],
)
def test_scorings_that_cannot_be_compared_are_an_error(served, trained, message):
    with pytest.raises(ValueError, match=message):
        compare(served, trained, tolerance=1)


async def test_the_prompts_own_token_is_taken_wherever_the_server_lists_it():
    likelier = {"7": {"logprob": -0.1, "rank": 1}, "20": {"logprob": -3.5, "rank": 900}}
    first = {"30": {"logprob": -2.5, "rank": 4}}
    answer = {"choices": [{"prompt_logprobs": [None, likelier, first]}]}
    served = httpx.MockTransport(lambda request: httpx.Response(200, json=answer))
    async with httpx.AsyncClient(transport=served) as client:
        assert await probe_logprobs("http://engine", "student", [[10, 20, 30]], client) == [[-3.5, -2.5]]


async def test_a_failing_server_is_an_error():
    failing = httpx.MockTransport(lambda request: httpx.Response(500))
    async with httpx.AsyncClient(transport=failing) as client:
        with pytest.raises(httpx.HTTPStatusError):
            await probe_logprobs("http://engine", "student", [[10, 20]], client)
