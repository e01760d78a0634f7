"""Making a smaller student: chosen decoder layers of a Llama-like model folder, copied bit for bit."""

import json
import re
import shutil
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ("copy_companions", "make_student", "new_folder")

_LAYER = re.compile(r"^(?P<head>.*\blayers\.)(?P<layer>\d+)(?P<rest>\..+)$")
_COMPANIONS = {".json", ".jinja", ".model", ".txt"}


def make_student(source: Path, layers: Sequence[int], out: Path) -> None:
    """Copy the embeddings, the head and the named decoder layers of ``source`` to the new folder ``out``.

    The tokenizer and chat template come along byte for byte. ``out`` appears whole or not at all.

    Args:
        source: A model folder: ``config.json``, safetensors (one file or sharded), tokenizer.
        layers: Indices of ``source``'s layers, in the order they get in the student.
        out: The folder to make.

    Raises:
        ValueError: No layer is named, or one that ``source`` does not have.
        FileExistsError: ``out`` exists.
    """
    # safetensors reads bfloat16 through torch only, which the room must not load when imported.
    from safetensors.torch import save_file

    config = json.loads((source / "config.json").read_bytes())
    depth = config["num_hidden_layers"]
    if not layers or not all(0 <= layer < depth for layer in layers):
        raise ValueError(f"layers {list(layers)} are not a choice from the {depth} layers of {source}")
    config["num_hidden_layers"] = len(layers)
    if config.get("layer_types"):
        config["layer_types"] = [config["layer_types"][layer] for layer in layers]
    with new_folder(out) as folder:
        copy_companions(source, folder)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(dict(_chosen_tensors(source, layers)), folder / "model.safetensors", {"format": "pt"})


def _chosen_tensors(source: Path, layers: Sequence[int]) -> "Iterator[tuple[str, Tensor]]":
    from safetensors import safe_open

    places: dict[int, list[int]] = {}
    for place, layer in enumerate(layers):
        places.setdefault(layer, []).append(place)
    for shard in sorted(source.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                for new_name in _new_names(name, places):
                    yield new_name, tensors.get_tensor(name)


def _new_names(name: str, places: Mapping[int, Sequence[int]]) -> list[str]:
    """The names a tensor has in the student: its own outside the layers, none in a layer left out."""
    match = _LAYER.match(name)
    if match is None:
        return [name]
    return [f"{match['head']}{place}{match['rest']}" for place in places.get(int(match["layer"]), ())]


def copy_companions(source: Path, folder: Path) -> None:
    """Copy what belongs to a model folder beside its weights: config, tokenizer, chat template."""
    for file in sorted(source.iterdir()):
        if file.suffix in _COMPANIONS and not file.name.endswith(".index.json"):
            shutil.copyfile(file, folder / file.name)


@contextmanager
def new_folder(out: Path) -> Generator[Path]:
    """A folder to fill, which becomes ``out`` by one rename at the end, and is removed on an error.

    Raises:
        FileExistsError: ``out`` exists.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary) / "folder"
        folder.mkdir()
        yield folder
        folder.rename(out)
