"""Gateways of others, each a few lines that say how it is started. One that is not installed is left out.

They are looked for on PATH and in ``BENCH_PEERS`` (a folder with a virtual environment, or an npm project, for each).
How they are installed, and which were tried, is in docs/performance.md.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ("PEERS", "Peer", "Started")

FOLDER: Final = Path(os.environ.get("BENCH_PEERS", "/tmp/peers"))


@dataclass(frozen=True)
class Started:
    """How to start a peer, and how to ask it."""

    command: list[str]
    ready: str
    """A path that answers 200 once it serves."""
    path: str = "/v1/chat/completions"
    headers: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    model: str = "bench"


@dataclass(frozen=True)
class Peer:
    """``start(executable, folder, port, upstream)`` writes what it needs into the folder."""

    name: str
    executable: str
    start: Callable[[str, Path, int, int], Started]
    venv: str = ""

    def found(self) -> str | None:
        """Its executable, if it is installed."""
        folders = [FOLDER / (self.venv or self.name) / "bin", FOLDER / self.name / "node_modules" / ".bin"]
        places = os.pathsep.join([*map(str, folders), *([] if self.venv else [os.environ.get("PATH", "")])])
        return shutil.which(self.executable, path=places)


def _litellm(executable: str, folder: Path, port: int, upstream: int) -> Started:
    model = {"model": "openai/bench", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": "bench", "litellm_params": model}],
        "general_settings": {"master_key": "sk-bench"},
    }
    (folder / "litellm.yaml").write_text(json.dumps(config))  # JSON is YAML
    return Started(
        [executable, "--config", str(folder / "litellm.yaml"), "--port", str(port), "--host", "127.0.0.1"],
        "/health/liveliness",
        headers={"authorization": "Bearer sk-bench"},
        environment={"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )


def _vllm_router(executable: str, _folder: Path, port: int, upstream: int) -> Started:
    worker = f"http://127.0.0.1:{upstream}"
    return Started(
        [executable, "--worker-urls", worker, "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"],
        "/health",
    )


def _production_stack(executable: str, _folder: Path, port: int, upstream: int) -> Started:
    backends = ["--static-backends", f"http://127.0.0.1:{upstream}", "--static-models", "bench"]
    options = ["--service-discovery", "static", "--routing-logic", "roundrobin", "--log-level", "error"]
    return Started([executable, "--host", "127.0.0.1", "--port", str(port), *options, *backends], "/health")


def _portkey(executable: str, _folder: Path, port: int, upstream: int) -> Started:
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1"}
    return Started(
        [executable, f"--port={port}", "--headless"], "/", headers=headers | {"authorization": "Bearer none"}
    )


def _tensorzero(executable: str, folder: Path, port: int, upstream: int) -> Started:
    (folder / "tensorzero.toml").write_text(
        f'[gateway]\nbind_address = "127.0.0.1:{port}"\nobservability.enabled = false\n'
        f'[models.bench]\nrouting = ["mock"]\n[models.bench.providers.mock]\ntype = "openai"\n'
        f'model_name = "bench"\napi_base = "http://127.0.0.1:{upstream}/v1/"\napi_key_location = "none"\n'
    )
    return Started(
        [executable, "--config-file", str(folder / "tensorzero.toml")],
        "/health",
        path="/openai/v1/chat/completions",
        model="tensorzero::model_name::bench",
    )


PEERS: Final = (
    Peer("litellm", "litellm", _litellm),
    Peer("vllm-router", "vllm-router", _vllm_router),
    Peer("production-stack", "vllm-router", _production_stack, venv="production-stack"),
    Peer("portkey", "gateway", _portkey, venv="portkey"),
    Peer("tensorzero", "tensorzero-gateway", _tensorzero),
)
