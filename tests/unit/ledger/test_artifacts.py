"""The hash of a folder changes with every file's name, place and content, and with nothing else."""

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.artifacts import folder_hash

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
