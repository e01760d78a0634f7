"""Where the gateway's CPU time goes: a flame graph of a route, sampled by py-spy while it is under load."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

from bench.gateway import world
from bench.gateway.stillroom_gateway import Route
from bench.gateway.world import Shape

__all__ = ("flame",)

SAMPLER: Final = "py-spy"
SECONDS: Final = 10
RATE: Final = 500
REQUESTS: Final = 2_000


def flame(work: Path, route: Route, shape: Shape, picture: Path) -> None:
    """Draw the flame graph (SVG). Raises ``SystemExit`` where py-spy is not installed."""
    sampler = shutil.which(SAMPLER)
    if sampler is None:
        raise SystemExit(f"{SAMPLER} is not on PATH: pip install {SAMPLER}")
    with world.mock(work) as upstream, world.stillroom("flame", route, work, upstream) as subject:
        world.time_load(subject, shape, 32, REQUESTS)
        command = [sampler, "record", "--pid", str(subject.pid), "--output", str(picture)]
        sampling = subprocess.Popen(
            [*command, "--duration", str(SECONDS), "--rate", str(RATE)], stdout=subprocess.DEVNULL
        )
        while sampling.poll() is None:
            world.time_load(subject, shape, 32, REQUESTS)
    if sampling.returncode:
        raise SystemExit(f"{SAMPLER} ended with status {sampling.returncode}; it may need the right to trace")
