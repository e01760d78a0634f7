"""Release folders at any fsspec URL (``s3://``, ``gs://``, ``file://``): pushed by who trains, fetched by who serves.

The ledger's content hash is what is trusted, never the store: what was fetched is verified before it has its name. A
copy is taken from the store only where the release's own folder is not on this machine.
"""

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Final

from ledger.artifacts import MANIFEST, ArtifactError, verify_part
from ledger.releases import Release
from ledger.remote import opened, saying, size_of

__all__ = ("ARTIFACT", "delete", "local_part", "push")

ARTIFACT: Final = "artifact"
"""Where a release's summary has its URL."""


def push(folder: Path, base_url: str) -> str:
    """Copy a release's folder to ``base_url/NAME``, its manifest last; what is there in full is not sent again.

    Returns the copy's URL. Raises `ArtifactError` where that cannot be, or where less arrived than was sent.
    """
    url = f"{base_url.rstrip('/')}/{folder.name}"
    store, root = opened(url)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    # whoever finds the manifest finds the rest
    files.sort(key=lambda path: path == folder / MANIFEST)
    with saying(url):
        for path in files:
            target = f"{root}/{path.relative_to(folder).as_posix()}"
            size = path.stat().st_size
            if path.parent != folder and size_of(store, target) == size:
                continue
            store.makedirs(target.rpartition("/")[0], exist_ok=True)
            store.put_file(str(path), target)
            if size_of(store, target) != size:
                raise ArtifactError(
                    f"{target} is not whole after its upload: {size_of(store, target)} of {size} bytes"
                )
    return url


def delete(url: str) -> None:
    """Delete a release's copy. Raises `ArtifactError` where that cannot be; one that is gone is no error."""
    store, root = opened(url)
    with saying(url), contextlib.suppress(FileNotFoundError):
        store.rm(root, recursive=True)


def local_part(release: Release, part: str, cache: Path) -> Path:
    """A verified part of a release, ``student`` or ``router`` or another, on this machine.

    Its own folder where that is here, else a copy below ``cache``, fetched once. Raises `ArtifactError`, ``OSError``.
    """
    own = Path(release.folder)
    url: str | None = release.summary.get(ARTIFACT)
    if own.is_dir() or url is None:
        return verify_part(own, part, release.content_hash)
    kept = cache / f"{release.id}-{release.content_hash[:16]}-{part.partition('.')[0]}"
    if not kept.is_dir():
        _fetch(url, part, release.content_hash, kept)
    return verify_part(kept, part, release.content_hash)


def _fetch(url: str, part: str, content_hash: str, target: Path) -> None:
    """The manifest and one part, verified, then named."""
    store, root = opened(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with saying(url):
            if store.exists(f"{root}/{MANIFEST}"):
                store.get_file(f"{root}/{MANIFEST}", str(unfinished / MANIFEST))
            for found in sorted(store.find(f"{root}/{part}")):
                path = _inside(unfinished, str(found).removeprefix(f"{root}/"))
                path.parent.mkdir(parents=True, exist_ok=True)
                store.get_file(found, str(path))
        verify_part(unfinished, part, content_hash)
        # another process may have been faster: then its copy, verified too, stays
        with contextlib.suppress(OSError):
            unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(f"the store names a file outside of the release: {name}")
    return path
