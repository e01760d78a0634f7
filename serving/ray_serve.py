"""Ray Serve LLM as the server of a release: the configuration that ``serve run`` takes, as JSON, which YAML reads.

Ray then keeps the replicas, and the gateway asks them at one address (``student.base_url``). vLLM's arguments are
those that Stillroom itself would start it with, by their names in Python.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from serving.settings import StudentSettings

__all__ = ("APPLICATION", "application", "engine_kwargs")

APPLICATION: Final = "stillroom-student"
BUILDER: Final = "ray.serve.llm:build_openai_app"


def application(
    settings: StudentSettings, weights: Path, replicas: tuple[int, int], accelerator: str | None
) -> dict[str, Any]:
    """A file of ``serve run``: one application, whose replicas Ray starts and ends between two numbers.

    ``weights`` is a folder that all machines of the cluster have; ``accelerator`` a type of GPU by Ray's name.
    Raises `ValueError` where ``engine_args`` are not flags.
    """
    model: dict[str, Any] = {
        "model_loading_config": {"model_id": settings.model, "model_source": str(weights)},
        "engine_kwargs": _engine(settings),
        "deployment_config": {
            "autoscaling_config": {"min_replicas": replicas[0], "max_replicas": replicas[1]},
        },
    }
    if accelerator is not None:
        model["accelerator_type"] = accelerator
    args = {"llm_configs": [model]}
    return {
        "applications": [{"name": APPLICATION, "route_prefix": "/", "import_path": BUILDER, "args": args}],
    }


def _engine(settings: StudentSettings) -> dict[str, Any]:
    sizes = {"tensor": settings.tensor_parallel, "pipeline": settings.pipeline_parallel}
    parallel = {f"{name}_parallel_size": size for name, size in sizes.items() if size > 1}
    fixed = {"load_format": "safetensors", "max_logprobs": 20, "max_model_len": settings.context_tokens}
    return fixed | parallel | engine_kwargs(settings.engine_args)


def engine_kwargs(words: Sequence[str]) -> dict[str, Any]:
    """The flags of vLLM's command line by their names in Python: ``--no-x`` is False, one without a value True.

    Raises:
        ValueError: A word is no flag and no flag's value.
    """
    kwargs: dict[str, Any] = {}
    name = ""
    for word in words:
        flag, joined, value = word.partition("=")
        if word.startswith("--"):
            name = flag.removeprefix("--").replace("-", "_")
            if joined:
                kwargs[name], name = _value(value), ""
            elif name.startswith("no_"):
                kwargs[name.removeprefix("no_")], name = False, ""
            else:
                kwargs[name] = True
        elif name:
            kwargs[name], name = _value(word), ""
        else:
            raise ValueError(f"student.engine_args: {word!r} is neither a flag nor the value of one")
    return kwargs


def _value(text: str) -> Any:
    """A number, a truth or a structure where it is one, else the text."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
