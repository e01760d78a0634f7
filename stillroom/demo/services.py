"""The demo's processes: teacher and services as children of this one, and their settings."""

import asyncio
import contextlib
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Final

import httpx
from rich.console import Console

from serving import launch
from stillroom.commands.common import CommandFailed

__all__ = ("CONFIG", "processor", "start_child", "until_it_answers")

CONFIG: Final = """# Written by `stillroom demo`.
home = "{home}"

[gateway]
port = {port}
requests_per_minute = 0

[teacher]
base_url = "{teacher}"
model = "demo-teacher"
price = {{ request = 0.015 }}
top_logprobs = 20

[student]
weights = "{weights}"
context_tokens = 512
price = {{ request = 0.002 }}

[router]
agreement_target = 0.92
confidence = 0.95
explore_share = 0.1

[distill]
approval = "auto"

# a canary takes more traffic than a demo has; what it guards against is shown by the gate here
[distill.canary]
mode = "off"

[distill.training]
train_layers = {train_layers}
epochs = {epochs}
learning_rate = 7e-4
alpha = 0.7
"""


async def start_child(stack: contextlib.AsyncExitStack, arguments: list[str], log: Path) -> None:
    """Start one of our modules; it ends with the stack, and with this process."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", launch.__file__, str(os.getpid()), sys.executable, *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip

    async def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()

    stack.push_async_callback(end)


async def until_it_answers(url: str, what: str, log: Path, console: Console, timeout_s: float = 300) -> None:
    """Wait for a 2xx of the URL. Raises `CommandFailed` after ``timeout_s``."""
    began = time.monotonic()
    async with httpx.AsyncClient(trust_env=False) as client:
        while time.monotonic() - began < timeout_s:
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(url)).is_success:
                    console.print(f"   {what} answers after {time.monotonic() - began:.0f} s")
                    return
            await asyncio.sleep(0.5)
    raise CommandFailed(f"{what} did not answer within {timeout_s:.0f} s; its log is {log}")


def processor() -> str:
    """The machine's processor, for the report."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
