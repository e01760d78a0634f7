"""Another release's weights into a running vLLM: nobody in, reload, prove it, open again. About half a second.

vLLM's own steps are those of its reinforcement learning API (``/pause``, ``/collective_rpc``, ``/resume``): a reload
without the pause leaves the caches of the old weights, whose answers are of neither release (docs/swapping.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from ledger.artifacts import file_hash
from serving.guard import RELEASE_PATH
from serving.parity import compare, probe_logprobs
from serving.server import EngineError, VllmServer

__all__ = ("Fresh", "SwapError", "Target", "check", "probe", "probes_of", "reloadable", "swap_in_place")

TOLERANCE: Final = {"cpu": 1e-3, "cuda": 0.05}
"""Largest difference, in nats, of a reloaded model's log-probabilities from those of a server started with it."""
RELOAD_S: Final = 300.0
PROBES: Final = 4
PROBE_TOKENS: Final = 24

Fresh = list[list[float]]
"""The log-probabilities that a server gave, started with the weights, for the probes."""


class SwapError(Exception):
    """The weights were not changed as they should be: the server must not go on answering."""


@dataclass(frozen=True)
class Target:
    """What is to be served: a release, its weights, and what a server started with them said, where that is known.

    ``tolerance`` in the place of `TOLERANCE`, where that is not a server of the same kind.
    """

    release: str
    weights: Path
    fresh: Fresh | None
    tolerance: float | None = None


def reloadable(old: Path, new: Path) -> bool:
    """Whether two students differ in their weights only: the rest is read when a server starts."""

    def companions(folder: Path) -> dict[str, str]:
        files = (path for path in folder.iterdir() if path.is_file() and ".safetensors" not in path.name)
        return {path.name: file_hash(path) for path in files}

    return companions(old) == companions(new)


async def probe(server: VllmServer, weights: Path) -> Fresh:
    """Log-probabilities of fixed tokens as the server gives them. Raises `httpx.HTTPError`."""
    async with server.trusted_client(RELOAD_S) as client:
        return await probe_logprobs(server.url, server.options.served_name, probes_of(weights), client)


def probes_of(weights: Path) -> list[list[int]]:
    """Token ids spread over the model's vocabulary."""
    config: dict[str, Any] = msgspec.json.decode((weights / "config.json").read_bytes())
    size = int(config["vocab_size"])
    return [[(7919 * (row * PROBE_TOKENS + i) + 13) % size for i in range(PROBE_TOKENS)] for row in range(PROBES)]


async def swap_in_place(server: VllmServer, target: Target, drain_s: float) -> None:
    """Serve the target from now on. Requests that arrive meanwhile wait at the guard; those under way finish first.

    Raises `SwapError`: the server is then closed, and must be started anew.
    """
    try:
        async with server.trusted_client(drain_s + RELOAD_S) as client:
            left = await _post(client, RELEASE_PATH, {"release": None, "seconds": drain_s})
            if left["under_way"]:
                raise SwapError(f"{left['under_way']} requests were still under way after {drain_s:.0f} s")
            before = None if target.fresh else await probe(server, target.weights)
            await _post(client, "/pause?mode=wait")
            reload = {"method": "reload_weights", "kwargs": {"weights_path": str(target.weights.resolve())}}
            await _post(client, "/collective_rpc", reload)
            await _post(client, "/update_weight_version", {"new_version": target.release})
            await _post(client, "/resume")
            tolerance = target.tolerance or TOLERANCE[server.options.device]
            check(await probe(server, target.weights), target.fresh, before, tolerance)
            await _post(client, RELEASE_PATH, {"release": target.release})
    except (httpx.HTTPError, EngineError) as error:
        raise SwapError(f"vLLM did not take the weights of {target.release}: {error!r}") from error


def check(served: Fresh, fresh: Fresh | None, before: Fresh | None, tolerance: float) -> None:
    """Against a server that was started with the weights; without one, the answers must at least have changed.

    Raises `SwapError`.
    """
    flat = [value for row in served for value in row]
    if not all(map(math.isfinite, flat)):
        raise SwapError("the reloaded model gives log-probabilities that are no numbers")
    if fresh is not None:
        found = compare(served, fresh, tolerance)
        if not found.within:
            raise SwapError(f"the reloaded model differs by {found.max_abs_diff:.4f} nats from one started with it")
    elif before is not None and _same(served, before):
        raise SwapError("the reloaded model answers exactly as the one before")


def _same(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> bool:
    return [list(row) for row in one] == [list(row) for row in other]


async def _post(client: httpx.AsyncClient, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = await client.post(path, json=body or {})
    answer.raise_for_status()
    found: Any = answer.json() if answer.content else {}
    return found if isinstance(found, dict) else {}
