"""Quantiles that bound the distribution they come from on both sides, and their file."""

import dataclasses

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from router.calibration import Prices
from router.reference import STEPS, Reference, quantiles, read_reference
from router.train import train_router
from tests.unit.router.worlds import traffic


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5]) | st.floats(0, 1), min_size=1, max_size=200))
def test_a_quantile_has_its_share_at_or_below_it_and_less_than_that_below(values):
    found = quantiles(values)
    assert len(found) == STEPS + 1
    assert (found[0], found[-1]) == (min(values), max(values))
    for j, each in enumerate(found):
        assert sum(value <= each for value in values) * STEPS >= j * len(values)
        assert j == 0 or sum(value < each for value in values) * STEPS < j * len(values)


def test_no_values_have_no_quantiles():
    assert quantiles([]) == ()


def test_a_routers_file_is_read_for_its_reference_alone(tmp_path):
    reference = Reference(3, quantiles([0.1, 0.2]), (), quantiles([0.5]))
    described = {"schema_version": 9, "thresholds": {"hard": 0.5}, "reference": reference}
    (tmp_path / "router.json").write_bytes(msgspec.json.encode(described))
    assert read_reference(tmp_path) == reference


def test_a_trained_routers_reference_is_read_from_its_folder(tmp_path):
    trained = train_router(traffic(seed=0, size=60), 0.9, 0.1, Prices(student=0.1, teacher=1.0))
    trained.save(tmp_path)
    found = read_reference(tmp_path)
    assert found is not None
    assert found == trained.reference
    assert found.rows > 0
    assert [len(part) for part in dataclasses.astuple(found)[1:]] == [STEPS + 1] * 3


def test_a_router_without_a_reference_or_without_a_file_has_none(tmp_path):
    assert read_reference(tmp_path) is None
    for content in (b"{}", b"{", b"\xff", b'{"reference": {"rows": "many"}}'):
        (tmp_path / "router.json").write_bytes(content)
        assert read_reference(tmp_path) is None
