"""What all tests share: one real engine for the whole run, and hypothesis without deadlines (machines differ)."""

import gc
import os

import pytest
from hypothesis import settings

pytest_plugins = ["tests.engine_fixtures", "tests.postgres_server", "tests.redis_server"]

# before torch is loaded: spinning threads make everything beside a vLLM several times slower
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

settings.register_profile("stillroom", deadline=None)
settings.load_profile("stillroom")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Processes that run tests side by side share nothing, so a file stays in one, and so does the one engine."""
    for item in items:
        needs_engine = "tiny_engine" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("engine" if needs_engine else str(item.path)))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """Finalise here what clients of others left open.

    A warning of it while a plugin is imported, at the end of a run, breaks Python 3.11's parser
    (python/cpython#106905).
    """
    gc.collect()
