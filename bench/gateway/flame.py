"""Where the gateway's CPU time goes: a flame graph of a route, sampled by py-spy while it is under load."""

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Final

import matplotlib as mpl

from bench.gateway import world
from bench.gateway.stillroom_gateway import Route
from bench.gateway.world import Shape

mpl.use("Agg")

from matplotlib import pyplot as plt

__all__ = ("flame",)

SAMPLER: Final = "py-spy"
SECONDS: Final = 10
RATE: Final = 500
REQUESTS: Final = 2_000
ROOT: Final = "run_asgi"
"""What lies below it is the same for every request, and is left out."""
IDLE: Final = "_worker (concurrent/futures"
"""A thread that waits for work."""
NARROWEST, NAMED = 0.004, 0.04
"""Of the whole width: what is drawn, and what has room for its name."""
CHARS: Final = 150
"""That fit into the whole width."""
COLOURS: Final = {"gateway/": "#e8a33d", "router/": "#7aa95c", "ledger/": "#5c8bb0"}
OTHERS: Final = "#cfc8bd"

Stack = tuple[str, ...]


def flame(work: Path, route: Route, shape: Shape, picture: Path) -> None:
    """Draw the flame graph (PNG). Raises ``SystemExit`` where py-spy is not installed."""
    sampler = shutil.which(SAMPLER)
    if sampler is None:
        raise SystemExit(f"{SAMPLER} is not on PATH: pip install {SAMPLER}")
    samples = work / "flame.txt"
    with world.mock(work) as upstream, world.stillroom("flame", route, work, upstream) as subject:
        world.time_load(subject, shape, 32, REQUESTS)
        command = [sampler, "record", "--pid", str(subject.pid), "--format", "raw", "--output", str(samples)]
        sampling = subprocess.Popen(
            [*command, "--duration", str(SECONDS), "--rate", str(RATE)], stdout=subprocess.DEVNULL
        )
        while sampling.poll() is None:
            world.time_load(subject, shape, 32, REQUESTS)
    if sampling.returncode:
        raise SystemExit(f"{SAMPLER} ended with status {sampling.returncode}; it may need the right to trace")
    _draw(_counted(samples.read_text("utf-8")), picture)


def _counted(samples: str) -> dict[Stack, int]:
    """How often each stack was seen, from the request's task upwards or another thread's, without line numbers."""
    counts: dict[Stack, int] = defaultdict(int)
    for line in samples.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame.rpartition(":")[0] or frame for frame in stack.split(";")]
        if frames[-1].startswith(IDLE):
            continue
        begin = next((i for i, frame in enumerate(frames) if ROOT in frame), None)
        if begin is None:
            # the loop itself, and the thread that moves records into the store
            begin = next(
                (i for i, frame in enumerate(frames) if frame.startswith("Ingester.run_once")), len(frames) - 1
            )
        counts[tuple(frames[begin:])] += int(count)
    return counts


def _draw(counts: dict[Stack, int], picture: Path) -> None:
    total, depth = sum(counts.values()), max(map(len, counts))
    figure, axes = plt.subplots(figsize=(16, 0.24 * depth + 1))
    starts: dict[Stack, float] = {(): 0.0}
    widths: dict[Stack, float] = defaultdict(float)
    for stack, count in counts.items():
        for level in range(len(stack) + 1):
            widths[stack[:level]] += count / total
    taken: dict[Stack, float] = defaultdict(float)
    for stack in sorted(widths, key=lambda stack: (len(stack), -widths[stack])):
        if not stack:
            continue
        below, width = stack[:-1], widths[stack]
        starts[stack] = starts[below] + taken[below]
        taken[below] += width
        if width < NARROWEST:
            continue
        colour = next((colour for room, colour in COLOURS.items() if f"({room}" in stack[-1]), OTHERS)
        axes.barh(len(stack), width, 0.92, starts[stack], color=colour, edgecolor="white", linewidth=0.5)
        if width >= NAMED:
            name = stack[-1].partition(" (")[0][: int(width * CHARS)]
            axes.text(starts[stack] + width / 2, len(stack), name, ha="center", va="center", fontsize=6.5)
    axes.set_xlim(0, 1)
    axes.axis("off")
    axes.set_title("gateway (orange), router (green), ledger (blue), others (grey): share of the samples", fontsize=9)
    figure.savefig(picture, dpi=110, bbox_inches="tight")
