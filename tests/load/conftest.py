"""A gateway process between upstreams that are reached over a network that fails as told."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from router.model import RouterModel
from tests.fault_proxy import GOOD, Fault, FaultProxy
from tests.gateway_fixtures import SURE, go_live, router
from tests.gateway_process import KEY_ENV, GatewayProcess, gateway_process
from tests.scripted_upstream import Script, ScriptedUpstream

__all__ = ("Arena", "arena", "arena_of", "router")

SETTINGS = """
requests_per_minute = 0
drain_seconds = 5
[teacher]
base_url = "{teacher}"
model = "frontier"
api_key_env = "{key_env}"
{limits}
[student]
base_url = "{student}"
{limits}
[router]
explore_share = 0.0
shadow_share = 0.0
hold_tokens = 4
"""
LIMITS = """
connect_timeout_seconds = 1.0
first_byte_timeout_seconds = 0.6
timeout_seconds = 0.6
total_timeout_seconds = 5.0
"""
PRELUDE = "from gateway import breaker; breaker.OPEN_S = breaker.MAX_OPEN_S = 0.4"
"""An upstream that is well again is asked again soon."""
GOOD_SCRIPT = Script(text="one two three four five six", logprob=SURE, gap=0.002)


@dataclass
class Arena:
    """The process, and both sides with their networks."""

    gateway: GatewayProcess
    upstreams: dict[str, ScriptedUpstream]
    networks: dict[str, FaultProxy]

    def suffer(self, side: str, network: Fault = GOOD, script: Script = GOOD_SCRIPT) -> None:
        """This side does so from now on."""
        self.upstreams[side].script = script
        self.networks[side].fault = network

    def heal(self) -> None:
        for side in self.upstreams:
            self.upstreams[side].reset(GOOD_SCRIPT)
            self.suffer(side)
            self.networks[side].requests = self.networks[side].passed = 0


@contextlib.contextmanager
def arena_of(home: Path, router: RouterModel, limits: str = LIMITS) -> Iterator[Arena]:
    """An arena whose gateway runs with these limits of both sides."""
    with contextlib.ExitStack() as stack:
        upstreams = {side: ScriptedUpstream() for side in ("student", "teacher")}
        networks = {side: FaultProxy(upstream.port) for side, upstream in upstreams.items()}
        for one in (*networks.values(), *upstreams.values()):
            stack.callback(one.close)
        urls = {side: network.url for side, network in networks.items()}
        settings = SETTINGS.format(**urls, key_env=KEY_ENV, limits=limits)
        gateway = stack.enter_context(gateway_process(home, settings, PRELUDE))
        go_live(gateway.store, home / "releases" / "rel-1", router)
        arena = Arena(gateway, upstreams, networks)
        arena.heal()
        gateway.start()
        yield arena


@pytest.fixture(scope="module")
def module_arena(router: RouterModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with arena_of(tmp_path_factory.mktemp("load"), router) as arena:
        yield arena


@pytest.fixture
def arena(module_arena: Arena) -> Arena:
    """The module's arena, well again."""
    module_arena.heal()
    return module_arena
