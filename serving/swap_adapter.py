"""LoRA adapters in a running vLLM, one for each release, under the release's name.

A name and a path are never used for a second adapter: vLLM keeps prefix caches by name, and would go on from the old
adapter's (docs/swapping.md).
"""

from pathlib import Path
from typing import Final

from serving.server import VllmServer

__all__ = ("ADAPTER", "AdapterError", "load_adapter", "unload_adapter")

ADAPTER: Final = "adapter"
"""Its folder in a release's student."""
LOAD_S: Final = 120.0


class AdapterError(Exception):
    """vLLM did not take the adapter; the message has its reason."""


async def load_adapter(server: VllmServer, release: str, folder: Path) -> None:
    """Serve a release's adapter as the model of its name. Raises `AdapterError`, `httpx.HTTPError`."""
    await _post(server, "/v1/load_lora_adapter", {"lora_name": release, "lora_path": str(folder)})


async def unload_adapter(server: VllmServer, release: str) -> None:
    """Take the name away; what is under way finishes. Raises `AdapterError`, `httpx.HTTPError`."""
    await _post(server, "/v1/unload_lora_adapter", {"lora_name": release})


async def _post(server: VllmServer, path: str, body: dict[str, object]) -> None:
    async with server.trusted_client(LOAD_S) as client:
        answer = await client.post(path, json=body)
    if not answer.is_success:
        raise AdapterError(f"{path} answered {answer.status_code}: {answer.text[:500]}")
