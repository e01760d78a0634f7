"""Files at any fsspec URL (``s3://``, ``gs://``, ``file://``, a path), and the faults of such places in one line."""

import contextlib
import importlib
from collections.abc import Generator
from typing import Any

from ledger.artifacts import ArtifactError

__all__ = ("opened", "saying", "size_of")


def opened(url: str) -> tuple[Any, str]:
    """The filesystem of a URL, and the path there. Raises `ArtifactError`."""
    # by name: a gateway loads it only where the settings have a URL
    try:
        fsspec: Any = importlib.import_module("fsspec")
        store, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ArtifactError(f"{url} cannot be opened: {error}") from error
    return store, str(root).rstrip("/")


def size_of(store: Any, path: str) -> int | None:
    """Bytes of a file, None where there is none."""
    try:
        return int(store.size(path))
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def saying(url: str) -> Generator[None]:
    """A place's fault as `ArtifactError`: fsspec's filesystems translate their own into ``OSError``."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise ArtifactError(f"{url} cannot be used: {error}") from error
