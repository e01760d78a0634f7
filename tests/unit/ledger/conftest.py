"""A store of its own for each test, once in SQLite and once in PostgreSQL."""

from functools import partial

import pytest

from tests.postgres_server import postgres_store
from tests.unit.ledger.rows import a_store, sqlite_store, stores_of

KINDS = ("sqlite", "postgresql")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that makes stores runs with both kinds."""
    inner = getattr(metafunc.function, "hypothesis", None)
    code = (inner.inner_test if inner else metafunc.function).__code__
    if "store" in metafunc.fixturenames or "a_store" in code.co_names:
        metafunc.fixturenames.append("store_kind")
        metafunc.parametrize("store_kind", KINDS, indirect=True, scope="module")


@pytest.fixture(scope="module")
def store_kind(request):
    if request.param == "sqlite":
        yield
    else:
        with stores_of(partial(postgres_store, request.getfixturevalue("postgres"))):
            yield


@pytest.fixture
def store(store_kind):
    with a_store() as opened:
        yield opened


@pytest.fixture
def sqlite_only():
    with sqlite_store() as opened:
        yield opened
