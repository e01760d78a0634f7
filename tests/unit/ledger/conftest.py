"""A store of its own for each test."""

import pytest

from tests.unit.ledger.rows import a_store


@pytest.fixture
def store():
    with a_store() as opened:
        yield opened
