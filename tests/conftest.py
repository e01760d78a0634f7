"""What all tests share: one real engine for the whole run, and hypothesis without deadlines (machines differ)."""

import os

from hypothesis import settings

pytest_plugins = ["tests.engine_fixtures"]

# before torch is loaded: spinning threads make everything beside a vLLM several times slower
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

settings.register_profile("stillroom", deadline=None)
settings.load_profile("stillroom")
