"""A gateway between upstreams that are each reached over a network that fails as told."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgspec
import pytest

from gateway.app import GatewayConfig
from router.model import RouterModel
from tests.fault_proxy import GOOD, Fault, FaultProxy
from tests.gateway_fixtures import World, router, running_world, wait_until
from tests.integration.faults.cases import FIRST_BYTE, RETRIES, SILENCE, TOTAL, WORDS
from tests.scripted_upstream import Script, ScriptedUpstream

__all__ = ("FaultyWorld", "faulty", "module_faulty", "router")

SAID = {
    "student": Script(text=f"student {WORDS}", logprob=-0.02, gap=0.003),
    "teacher": Script(text=f"teacher {WORDS}", gap=0.003),
}


@dataclass
class FaultyWorld:
    """The world, and the network to each side."""

    world: World
    networks: dict[str, FaultProxy]

    @property
    def upstreams(self) -> dict[str, ScriptedUpstream]:
        return {"student": self.world.student, "teacher": self.world.teacher}

    def fail(self, side: str, network: Fault, script: Script | None) -> None:
        """From now on, this side fails so."""
        if script is not None:
            self.upstreams[side].reset(script)
        self.networks[side].fault = network
        self.networks[side].requests = 0

    def heal(self) -> None:
        """Good networks and good answers. A few requests tell the breaker of a side that failed."""
        for side, upstream in self.upstreams.items():
            failed = self.networks[side].fault != GOOD or upstream.script != SAID[side]
            upstream.reset(SAID[side])
            if failed:
                self.networks[side].fault = GOOD
                for _ in range(3):
                    wait_until(lambda: self.world.chat(model=side).status_code == 200)  # noqa: B023 called here


def impatient(teacher_url: str):
    """Settings whose timeouts a test can wait for."""
    limits = {
        "first_byte_timeout_seconds": FIRST_BYTE,
        "timeout_seconds": SILENCE,
        "total_timeout_seconds": TOTAL,
        "retries": RETRIES,
    }

    def change(config: GatewayConfig) -> GatewayConfig:
        return replace(
            config,
            teacher=msgspec.structs.replace(config.teacher, base_url=teacher_url, **limits),
            student=msgspec.structs.replace(config.student, **limits),
        )

    return change


@pytest.fixture(scope="module")
def module_faulty(router: RouterModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyWorld]:
    networks = {"student": FaultProxy(), "teacher": FaultProxy()}
    home, change = tmp_path_factory.mktemp("faults"), impatient(networks["teacher"].url)
    try:
        with running_world(home, router, change, networks["student"].url) as world:
            networks["student"].target, networks["teacher"].target = world.student.port, world.teacher.port
            yield FaultyWorld(world, networks)
    finally:
        for network in networks.values():
            network.close()


@pytest.fixture
def faulty(module_faulty: FaultyWorld) -> FaultyWorld:
    """The module's world, well again."""
    module_faulty.heal()
    return module_faulty
