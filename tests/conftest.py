"""What all tests share: one real engine for the whole run, and hypothesis without deadlines (machines differ)."""

import functools
import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["tests.engine_fixtures", "tests.postgres_server", "tests.redis_server"]

# before torch is loaded: spinning threads make everything beside a vLLM several times slower
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

settings.register_profile("stillroom", deadline=None)
settings.load_profile("stillroom")


class Scheduling(LoadScopeScheduling):
    """Processes that run tests side by side share nothing, so a file stays in one, and so do those of a group."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(self.config.rootpath / nodeid.partition("::")[0])


@functools.cache
def group_of(file: Path) -> str:
    """Files that ask for the run's one engine are a group, and so are those with several engines of their own: two of
    these side by side do not fit into 24 GB.
    """
    text = file.read_text("utf-8")
    return next((word for word in ("tiny_engine", "several_engines") if word in text), str(file))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Used with ``-n``, since ``--dist loadgroup`` groups nothing: xdist 3.8 writes groups where pytest 9.2 does not
    look.
    """
    return Scheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """Finalise here what clients of others left open.

    A warning of it while a plugin is imported, at the end of a run, breaks Python 3.11's parser
    (python/cpython#106905).
    """
    gc.collect()
