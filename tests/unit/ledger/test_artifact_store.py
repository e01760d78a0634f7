"""Releases at a URL: what is fetched is what was pushed, and whatever else is there is refused."""

import dataclasses
import shutil

import fsspec
import pytest

from ledger.artifact_store import ARTIFACT, delete, local_part, push
from ledger.artifacts import ArtifactError, folder_hash, seal
from tests.unit.ledger.rows import release

URLS = {"file": "file://{}/store", "memory": "memory://releases-of-{}"}


@pytest.fixture(params=URLS)
def base_url(request, tmp_path):
    return URLS[request.param].format(tmp_path)


@pytest.fixture
def made(tmp_path):
    """A finished release's folder, and its row."""
    folder = tmp_path / "made" / "r1"
    (folder / "student" / "adapter").mkdir(parents=True)
    (folder / "router").mkdir()
    (folder / "student" / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (folder / "student" / "adapter" / "adapter_config.json").write_text("{}")
    (folder / "router" / "router.json").write_text('{"bias": 1}')
    digest = seal(folder, {"id": "r1"})
    return folder, dataclasses.replace(release("r1"), folder=str(folder), content_hash=digest)


def elsewhere(row, url, folder="/not/on/this/machine"):
    return dataclasses.replace(row, folder=folder, summary={ARTIFACT: url})


def overwrite(url, name, content):
    store, root = fsspec.core.url_to_fs(url)
    with store.open(f"{root}/{name}", "wb") as file:
        file.write(content)


def test_a_release_pushed_by_one_machine_is_fetched_part_by_part_by_another(made, base_url, tmp_path):
    folder, row = made
    url = push(folder, base_url)
    there = elsewhere(row, url)
    cache = tmp_path / "cache"
    router = local_part(there, "router", cache)
    assert (router / "router.json").read_text() == '{"bias": 1}'
    assert not list(cache.rglob("*.safetensors")), "a gateway fetches no weights"
    assert folder_hash(local_part(there, "student", cache)) == folder_hash(folder / "student")


def test_a_copy_is_fetched_once(made, base_url, tmp_path):
    folder, row = made
    url = push(folder, base_url)
    first = local_part(elsewhere(row, url), "router", tmp_path / "cache")
    delete(url)
    assert local_part(elsewhere(row, url), "router", tmp_path / "cache") == first


def test_a_folder_of_this_machine_is_used_where_it_is(made, base_url, tmp_path):
    folder, row = made
    there = elsewhere(row, push(folder, base_url), str(folder))
    assert local_part(there, "student", tmp_path / "cache") == folder / "student"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("student/model.safetensors", bytes(range(256)) * 39),
        ("student/model.safetensors", b"\xff" * 256 * 40),
        ("student/evil.py", b"import os"),
        ("manifest.json", b'{"parts": {}}'),
    ],
    ids=["truncated", "changed", "added", "another manifest"],
)
def test_what_is_not_the_release_is_refused_and_leaves_nothing(made, base_url, tmp_path, name, content):
    folder, row = made
    url = push(folder, base_url)
    overwrite(url, name, content)
    with pytest.raises(ArtifactError):
        local_part(elsewhere(row, url), "student", tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.*"))


def test_a_copy_that_was_changed_on_this_machine_is_refused(made, base_url, tmp_path):
    folder, row = made
    there = elsewhere(row, push(folder, base_url))
    local_part(there, "router", tmp_path / "cache").joinpath("router.json").write_text('{"bias": 9}')
    with pytest.raises(ArtifactError, match="not what was released"):
        local_part(there, "router", tmp_path / "cache")


def test_a_candidate_is_pushed_before_its_evaluation_and_again_after_it(made, base_url, tmp_path):
    folder, row = made
    shutil.rmtree(folder / "router")
    (folder / "manifest.json").unlink()
    candidate = dataclasses.replace(row, content_hash=folder_hash(folder / "student"))
    url = push(folder, base_url)
    assert local_part(elsewhere(candidate, url), "student", tmp_path / "cache").is_dir()
    with pytest.raises(ArtifactError, match="not vouched for"):
        local_part(elsewhere(candidate, url), "router", tmp_path / "cache")

    (folder / "router").mkdir()
    (folder / "router" / "router.json").write_text("{}")
    sealed = dataclasses.replace(row, content_hash=seal(folder, {}))
    assert push(folder, base_url) == url
    assert local_part(elsewhere(sealed, url), "router", tmp_path / "cache").is_dir()


def test_a_url_that_cannot_be_used_is_one_error(made, tmp_path):
    folder, row = made
    for url in ("nosuchscheme://x", "file:///proc/releases"):
        with pytest.raises(ArtifactError, match=url):
            push(folder, url)
        with pytest.raises(ArtifactError):
            local_part(elsewhere(row, f"{url}/r1"), "student", tmp_path / "cache")


def test_a_deleted_copy_is_gone_and_may_be_deleted_again(made, base_url):
    folder, _ = made
    url = push(folder, base_url)
    delete(url)
    store, root = fsspec.core.url_to_fs(url)
    assert not store.exists(f"{root}/manifest.json")
    delete(url)
