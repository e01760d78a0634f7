"""Our own gateway for the benchmark: a home with a key and, for the student's route, a live release with a router.

``python -m bench.gateway.stillroom_gateway FILE`` runs it without a ledger: the line that shows what recording costs.
"""

import contextlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from ledger import keys, releases
from ledger.artifacts import seal
from ledger.records import RequestRecord
from ledger.store import now_ms, open_store, sqlite_url
from router.calibration import Prices
from router.features import RequestView
from router.model import RouterFileError, RouterModel
from router.settings import RouterSettings
from router.signals import SIGNAL_TOP, TokenLogprob
from router.thresholds import NEVER
from router.train import LabelledRequest, train_router

__all__ = ("QUESTION", "SYSTEM", "Route", "command", "prepare")

QUESTION: Final = "Could you tell me in one short sentence where I find the invoices of my last three orders, please?"
"""What every request of the benchmark asks."""
SYSTEM: Final = "You are the help desk of a shop. Answer politely and in one sentence."
HARD: Final = "Prove rigorously that every bounded monotone sequence of reals converges, and generalise to nets."
RELEASE: Final = "bench-release"
SETTINGS: Final = """
home = "{home}"
[gateway]
port = {port}
requests_per_minute = {per_minute}
drain_seconds = 5
[teacher]
base_url = "http://127.0.0.1:{upstream}/v1"
model = "bench"
top_logprobs = {harvest}
[teacher.price]
input = 2.0
output = 8.0
[student]
base_url = "http://127.0.0.1:{upstream}/v1"
[router]
explore_share = 0.0
shadow_share = 0.0
"""


@dataclass(frozen=True)
class Route:
    """Which way the requests of a scenario take through the gateway."""

    release: bool
    """True: a live release answers, after its router's decision and with its confidence read."""
    harvest: int = 0
    """Log-probabilities per token that are asked of the teacher, for the ledger."""
    ledger: bool = True


def command(route: Route, settings: Path) -> list[str]:
    """How the gateway is started."""
    if route.ledger:
        return [sys.executable, "-m", "stillroom.cli", "--config", str(settings), "gateway"]
    return [sys.executable, "-m", "bench.gateway.stillroom_gateway", str(settings)]


def prepare(home: Path, route: Route, port: int, upstream: int, routers: Path) -> tuple[Path, str]:
    """Make the home, its settings file and a key. Returns the file and the key's secret."""
    home.mkdir(parents=True)
    settings = home / "stillroom.toml"
    settings.write_text(
        # a limit that is counted and never reached
        SETTINGS.format(home=home, port=port, upstream=upstream, harvest=route.harvest, per_minute=1_000_000_000)
    )
    store = open_store(sqlite_url(home))
    _, secret = keys.create(store, "bench", ["inference", "admin"], "bench")
    if route.release:
        folder = home / "releases" / RELEASE
        _router(routers).save(folder / "router")
        digest = seal(folder, {})
        releases.add(
            store, releases.Release(RELEASE, "candidate", now_ms(), None, None, None, str(folder), digest, {})
        )
        releases.promote(store, RELEASE, "bench")
    store.close()
    return settings, secret


def _router(folder: Path) -> RouterModel:
    """One trained once for a version of its file. Its bars are pinned, so that each request takes the whole way: it
    is scored, tried by the student, and its confidence is read.
    """
    with contextlib.suppress(RouterFileError):
        return RouterModel.load(folder)
    rng = np.random.default_rng(0)
    trained = train_router([_labelled(rng) for _ in range(400)], 0.95, 0.1, Prices(1.0, 20.0))
    bars = replace(trained.thresholds, hard=0.0, sure=NEVER, confident=0.1, confident_end=0.1, feasible=True)
    replace(trained, thresholds=bars).save(folder)
    return RouterModel.load(folder)


def _labelled(rng: np.random.Generator) -> LabelledRequest:
    easy, sure = bool(rng.random() < 0.6), bool(rng.random() < 0.8)
    words = " ".join(f"w{int(word)}" for word in rng.integers(30, size=3))
    p = rng.uniform(0.985, 0.995) if sure else rng.uniform(0.3, 0.5)
    rest = np.full(SIGNAL_TOP - 1, (1 - p) / SIGNAL_TOP)
    token = TokenLogprob(float(np.log(p)), (float(np.log(p)), *map(float, np.log(rest))))
    view = RequestView((("system", SYSTEM), ("user", f"{QUESTION if easy else HARD} {words}")))
    return LabelledRequest(view, (token,) * RouterSettings().hold_tokens, easy and sure)


def _without_ledger(settings: Path) -> None:
    from gateway.recorder import Recorder  # noqa: PLC0415 this process alone is to be changed
    from stillroom import compose  # noqa: PLC0415
    from stillroom.settings import load_settings  # noqa: PLC0415

    def nothing(_self: Recorder, _record: RequestRecord) -> None:
        return

    Recorder.record = nothing  # pyright: ignore[reportAttributeAccessIssue]
    compose.run_gateway(load_settings(settings), lambda: load_settings(settings))


if __name__ == "__main__":
    _without_ledger(Path(sys.argv[1]))
