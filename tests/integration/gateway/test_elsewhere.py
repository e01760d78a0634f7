"""Students that Stillroom did not start: several URLs, and a name that DNS has as it has a headless Service's.

The gateway is a process with a ``/etc/resolv.conf`` of its own, so that the system's resolver asks the test's server.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from dnslib import AAAA, QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import DNSHandler, DNSServer

from gateway.elsewhere import addresses
from router.model import RouterModel
from tests.gateway_fixtures import World, chat_body, go_live, running_world, wait_until
from tests.gateway_process import KEY_ENV, GatewayProcess, gateway_process
from tests.scripted_upstream import Script, ScriptedUpstream
from tests.upstream_settings import changed

NAME = "students.models.svc.cluster.local"
RESOLVER = "127.0.0.53"
PODS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
TEXTS = [f"{number} parcels" for number in range(30)]
SETTINGS = f"""
[teacher]
base_url = "http://127.0.0.1:1/v1"
api_key_env = "{KEY_ENV}"
[student]
base_url = "http://{NAME}:{{port}}/v1/"
discover = true
[router]
explore_share = 0.0
shadow_share = 0.0
"""
PRELUDE = """
import ctypes, subprocess
from gateway import elsewhere
assert ctypes.CDLL(None).unshare(0x20000) == 0  # CLONE_NEWNS: what is mounted is this process' own
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "--bind", "{file}", "/etc/resolv.conf"], check=True)
elsewhere.LOOK_S = 0.2
"""

may_mount = pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["/bin/sh", "-c", "unshare -m true"], check=False).returncode != 0,
    reason="a file can be put in /etc/resolv.conf's place by root alone",
)


class Zone:
    """What a DNS server says of one name: addresses; or that there is no such name, or nothing at all."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.fails = False

    def resolve(self, request: DNSRecord, _handler: DNSHandler) -> DNSRecord:
        reply, asked = request.reply(), request.q
        known = str(asked.qname).rstrip(".") == NAME and bool(self.addresses)
        if self.fails or not known:
            reply.header.rcode = RCODE.SERVFAIL if self.fails else RCODE.NXDOMAIN
            return reply
        for address in self.addresses:
            kind = "AAAA" if ":" in address else "A"
            if QTYPE[asked.qtype] == kind:
                data = AAAA(address) if kind == "AAAA" else A(address)
                reply.add_answer(RR(asked.qname, asked.qtype, rdata=data, ttl=1))
        return reply


@pytest.fixture
def zone() -> Iterator[Zone]:
    zone = Zone()
    server = DNSServer(zone, address=RESOLVER, port=53, logger=SimpleNamespace(**dict.fromkeys(
        ("log_recv", "log_send", "log_request", "log_reply", "log_truncated", "log_error", "log_data"),
        lambda *_: None,
    )))  # fmt: skip
    server.start_thread()
    yield zone
    server.stop()
    server.server.server_close()


@pytest.fixture
def pods() -> Iterator[dict[str, ScriptedUpstream]]:
    first = ScriptedUpstream(PODS[0])
    found = {PODS[0]: first} | {address: ScriptedUpstream(address, first.port) for address in PODS[1:]}
    for pod in found.values():
        pod.reset(Script(text="The student says good day."))
    yield found
    for pod in found.values():
        pod.close()


@pytest.fixture
def gateway(pods: dict[str, ScriptedUpstream], router: RouterModel, tmp_path: Path) -> Iterator[GatewayProcess]:
    """Not started yet."""
    file = tmp_path / "resolv.conf"
    file.write_text(f"nameserver {RESOLVER}\noptions timeout:1 attempts:1\n")
    settings = SETTINGS.format(port=pods[PODS[0]].port)
    with gateway_process(tmp_path, settings, PRELUDE.format(file=file)) as process:
        go_live(process.store, tmp_path / "releases" / "rel-1", router)
        yield process


def asked(gateway: GatewayProcess, pods: dict[str, ScriptedUpstream]) -> set[str]:
    """Which pods answer a handful of conversations, none of which fails."""
    for pod in pods.values():
        pod.reset(Script(text="The student says good day."))
    for text in TEXTS:
        body = chat_body(text, model="student")
        answer = gateway.probe.post(f"{gateway.url}/v1/chat/completions", json=body, headers=gateway.headers)
        assert answer.status_code == 200, answer.text
    return {address for address, pod in pods.items() if pod.seen}


@may_mount
def test_the_students_are_those_that_the_name_has(
    gateway: GatewayProcess, pods: dict[str, ScriptedUpstream], zone: Zone
):
    zone.addresses = [*PODS[:2]]
    gateway.start()
    assert asked(gateway, pods) == set(PODS[:2])
    zone.addresses = [*PODS]
    wait_until(lambda: asked(gateway, pods) == set(PODS))
    # one is drained: it is not ready, so the name does not have it
    zone.addresses = [*PODS[1:]]
    wait_until(lambda: asked(gateway, pods) == set(PODS[1:]))
    zone.fails = True
    wait_until(lambda: "students_not_found" in gateway.log())
    assert asked(gateway, pods) == set(PODS[1:]), "a resolver that is away takes nothing away"
    zone.fails, zone.addresses = False, []
    assert asked(gateway, pods) == set(PODS[1:]), "a name without addresses neither"
    zone.addresses = [PODS[0]]
    wait_until(lambda: asked(gateway, pods) == {PODS[0]})
    assert gateway.log().count("students_not_found") == 1


@pytest.fixture
def listed(
    router: RouterModel, pods: dict[str, ScriptedUpstream], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    monkeypatch.setenv("STUDENT_API_KEY", "students-own")
    first, *others = [pod.url.replace("localhost", address) for address, pod in pods.items()]
    with running_world(
        tmp_path, router, changed(student={"base_url": first, "more_base_urls": tuple(others)})
    ) as world:
        yield world


def test_several_servers_by_their_urls_are_equals_and_stand_in_for_each_other(
    listed: World, pods: dict[str, ScriptedUpstream]
):
    for text in TEXTS:
        assert listed.chat(text, model="student").status_code == 200
    assert all(len(pod.seen) >= 3 for pod in pods.values())
    assert {seen.headers["authorization"] for pod in pods.values() for seen in pod.seen} == {"Bearer students-own"}
    gone = pods.pop(PODS[1])
    gone.close()
    for text in TEXTS:
        answer = listed.chat(text, model="student")
        assert (answer.status_code, answer.headers["x-stillroom-route"]) == (200, "student")
    shown = listed.get("/admin/v1/serving").json()["students"]
    assert [each["id"] for each in shown] == [f"student.base_url{number}" for number in ("", " 2", " 3")]
    assert {each["state"] for each in shown} == {"configured"}
    assert [each["at"].split(":")[1] for each in shown] == [f"//{address}" for address in PODS]


def test_an_address_of_either_family_is_a_url():
    assert addresses("http://[::1]:8000/v1") == ("http://[::1]:8000/v1",)
    assert addresses("http://127.0.0.1/v1") == ("http://127.0.0.1:80/v1",)
