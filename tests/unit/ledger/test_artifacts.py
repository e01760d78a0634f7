"""The hash of a folder changes with every file's name, place and content, and with nothing else."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.artifacts import ArtifactError, folder_hash, read_manifest, seal, verify_part

NAMES = st.sampled_from(["a", "b", "sub/a", "sub/deep/c"])


def fill(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@settings(deadline=None, max_examples=50)
@given(files=st.dictionaries(NAMES, st.binary(max_size=8)), other=st.dictionaries(NAMES, st.binary(max_size=8)))
def test_two_folders_have_one_hash_exactly_when_their_files_are_the_same(files, other, tmp_path_factory):
    first = fill(tmp_path_factory.mktemp("first"), files)
    second = fill(tmp_path_factory.mktemp("second"), other)
    assert (folder_hash(first) == folder_hash(second)) == (files == other)


def test_times_and_modes_do_not_count(tmp_path):
    fill(tmp_path, {"a": b"1"})
    before = folder_hash(tmp_path)
    os.utime(tmp_path / "a", (0, 0))
    (tmp_path / "a").chmod(0o600)
    assert folder_hash(tmp_path) == before


def test_a_file_that_quotes_the_hash_can_be_left_out(tmp_path):
    fill(tmp_path, {"a": b"1"})
    before = folder_hash(tmp_path)
    fill(tmp_path, {"manifest.json": b"{}", "sub/manifest.json": b"{}"})
    assert folder_hash(tmp_path, frozenset({"manifest.json", "sub/manifest.json"})) == before
    assert folder_hash(tmp_path, frozenset({"manifest.json"})) != before


PARTS = {"student/model.safetensors": b"weights", "router/router.json": b"{}", "report.json": b"[]"}


def test_a_sealed_folder_is_verified_part_by_part(tmp_path):
    fill(tmp_path, PARTS)
    digest = seal(tmp_path, {"id": "r1"})
    manifest = read_manifest(tmp_path)
    assert (manifest["id"], set(manifest["parts"])) == ("r1", {"student", "router", "report.json"})
    for part in manifest["parts"]:
        assert verify_part(tmp_path, part, digest) == tmp_path / part
    assert seal(tmp_path, {"id": "r1"}) == digest, "the same again is the same"
    assert seal(tmp_path, {"id": "r2"}) != digest, "what the manifest says counts too"


@pytest.mark.parametrize("changed", [*PARTS, "manifest.json", "router/more.json"])
def test_a_change_is_refused_in_the_part_that_it_is_in(tmp_path, changed):
    fill(tmp_path, PARTS)
    digest = seal(tmp_path, {})
    fill(tmp_path, {changed: b'{"parts": {"student": "0", "router": "0", "report.json": "0"}}'})
    for part in ("student", "router", "report.json"):
        if changed == "manifest.json" or changed.split("/")[0] == part:
            with pytest.raises(ArtifactError):
                verify_part(tmp_path, part, digest)
        else:
            verify_part(tmp_path, part, digest)


def test_before_its_evaluation_a_candidates_student_is_all_that_is_vouched_for(tmp_path):
    fill(tmp_path, {"student/model.safetensors": b"weights", "router/router.json": b"{}"})
    digest = folder_hash(tmp_path / "student")
    assert verify_part(tmp_path, "student", digest) == tmp_path / "student"
    with pytest.raises(ArtifactError, match="not vouched for"):
        verify_part(tmp_path, "router", digest)
    seal(tmp_path, {})
    # the manifest is written, and the ledger does not have its hash yet
    assert verify_part(tmp_path, "student", digest) == tmp_path / "student"
