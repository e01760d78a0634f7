"""The spool: what was appended is read back whole or not at all, whatever the file went through."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
from itertools import accumulate
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import spool
from ledger.spool import FRAME_HEADER, SpoolWriter, being_written, read_frames, segments

PAYLOADS = st.lists(st.binary(max_size=300), min_size=1, max_size=8)


def read(folder: Path) -> list[bytes]:
    return [payload for path in segments(folder) for _, payload in read_frames(path)]


def spooled(folder: Path, payloads: list[bytes]) -> Path:
    writer = SpoolWriter(folder)
    assert all(writer.append(payload) for payload in payloads)
    writer.close()
    (path,) = segments(folder)
    return path


@settings(deadline=None, max_examples=60)
@given(PAYLOADS)
def test_what_is_appended_is_read_back_in_order_with_the_offset_after_each_frame(payloads):
    with tempfile.TemporaryDirectory() as folder:
        path = spooled(Path(folder), payloads)
        ends = list(accumulate(FRAME_HEADER.size + len(payload) for payload in payloads))
        assert list(read_frames(path)) == list(zip(ends, payloads, strict=True))
        for i, end in enumerate(ends):
            assert [payload for _, payload in read_frames(path, end)] == payloads[i + 1 :]


@settings(deadline=None, max_examples=60)
@given(PAYLOADS, st.data())
def test_a_file_cut_anywhere_gives_the_whole_frames_before_the_cut_and_nothing_else(payloads, data):
    with tempfile.TemporaryDirectory() as folder:
        path = spooled(Path(folder), payloads)
        ends = list(accumulate(FRAME_HEADER.size + len(payload) for payload in payloads))
        cut = data.draw(st.integers(0, ends[-1]))
        os.truncate(path, cut)
        assert [payload for _, payload in read_frames(path)] == payloads[: sum(end <= cut for end in ends)]


@settings(deadline=None, max_examples=60)
@given(PAYLOADS, st.data())
def test_a_changed_byte_never_gives_a_payload_that_was_not_appended(payloads, data):
    with tempfile.TemporaryDirectory() as folder:
        path = spooled(Path(folder), payloads)
        content = bytearray(path.read_bytes())
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        found = [payload for _, payload in read_frames(path)]
        ends = accumulate(FRAME_HEADER.size + len(payload) for payload in payloads)
        assert found == payloads[: sum(end <= position for end in ends)]


@settings(deadline=None, max_examples=60)
@given(PAYLOADS, st.integers(1, 10_000))
def test_zeros_after_the_last_frame_are_no_frames(payloads, zeros):
    with tempfile.TemporaryDirectory() as folder:
        path = spooled(Path(folder), payloads)
        with path.open("ab") as file:
            file.write(bytes(zeros))
        assert [payload for _, payload in read_frames(path)] == payloads


def test_a_full_segment_is_followed_by_a_new_one_and_nothing_is_lost_between(tmp_path):
    writer = SpoolWriter(tmp_path, segment_bytes=1_000)
    payloads = [bytes([i]) * 300 for i in range(20)]
    assert all(writer.append(payload) for payload in payloads)
    assert len(segments(tmp_path)) == 5
    assert all(path.stat().st_size >= 1_000 for path in segments(tmp_path))
    assert sorted(read(tmp_path)) == payloads
    writer.close()


def test_a_full_segment_counts_as_being_written_until_it_is_synced(tmp_path):
    writer = SpoolWriter(tmp_path, segment_bytes=1)
    writer.append(b"whole segment")
    (path,) = segments(tmp_path)
    with being_written(path) as written:
        assert written
    writer.sync()
    with being_written(path) as written:
        assert not written
    assert str(path) not in [file.path for file in psutil.Process().open_files()]


def test_threads_that_append_at_once_lose_and_mix_nothing(tmp_path):
    writer = SpoolWriter(tmp_path, segment_bytes=5_000)
    payloads = [[f"{worker}-{i}".encode() * 10 for i in range(200)] for worker in range(4)]

    def work(mine: list[bytes]) -> None:
        for payload in mine:
            assert writer.append(payload)
            writer.sync()

    threads = [threading.Thread(target=work, args=(mine,)) for mine in payloads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert sorted(read(tmp_path)) == sorted(payload for mine in payloads for payload in mine)


def test_two_writers_never_share_a_name_even_in_one_process(tmp_path):
    writers = [SpoolWriter(tmp_path) for _ in range(3)]
    for i, writer in enumerate(writers):
        assert writer.append(b"%d" % i)
    assert len({path.name for path in segments(tmp_path)}) == 3
    for writer in writers:
        writer.close()


WRITER = """
import sys, time
from pathlib import Path
from ledger.spool import SpoolWriter
writer = SpoolWriter(Path(sys.argv[1]))
writer.append(b"from another process")
print("up", flush=True)
time.sleep(60)
"""


def test_a_segment_is_being_written_as_long_as_its_process_lives(tmp_path):
    with subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "up\n"
        (path,) = segments(tmp_path)
        with being_written(path) as written:
            assert written
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        with being_written(path) as written:
            assert not written
    assert read(tmp_path) == [b"from another process"]


def test_a_writer_whose_new_file_was_removed_before_it_was_locked_takes_another(tmp_path, monkeypatch):
    lock, removed = fcntl.flock, []

    def reader_comes_first(file: int, operation: int) -> None:
        if not removed:
            (path,) = segments(tmp_path)
            with path.open("rb") as claimed:
                lock(claimed, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            removed.append(path)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", reader_comes_first)
    writer = SpoolWriter(tmp_path)
    assert writer.append(b"kept")
    assert removed
    assert read(tmp_path) == [b"kept"]
    writer.close()


def test_a_payload_that_no_reader_would_take_is_refused_and_the_next_one_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "MAX_PAYLOAD", 1_000)
    writer = SpoolWriter(tmp_path)
    assert not writer.append(bytes(1_001))
    assert writer.append(bytes(1_000))
    assert writer.failures == 1
    assert read(tmp_path) == [bytes(1_000)]
    writer.close()


def test_a_full_disk_refuses_appends_and_takes_them_again_once_there_is_room(tmpfs):
    """On a real file system of 256 kB: a short write, refusals, then room again."""
    writer = SpoolWriter(tmpfs / "spool")
    taken: list[bytes] = []
    for i in range(40):
        payload = bytes([i]) * 10_000
        if writer.append(payload):
            taken.append(payload)
    assert 0 < len(taken) < 40
    assert writer.failures == 40 - len(taken)
    assert not writer.append(bytes(100_000))
    assert read(tmpfs / "spool") == taken
    (tmpfs / "ballast").unlink()
    assert writer.append(b"later")
    writer.close()
    assert read(tmpfs / "spool") == [*taken, b"later"]


@pytest.fixture
def tmpfs(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.call(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], stderr=subprocess.DEVNULL):
        pytest.skip("needs to mount a tmpfs")
    (folder / "ballast").write_bytes(bytes(50_000))
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


LIMITED = """
import resource, signal, sys
from pathlib import Path
from ledger.spool import SpoolWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
writer = SpoolWriter(Path(sys.argv[1]))
print([writer.append(bytes([i]) * 20_000) for i in range(4)])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(writer.append(b"later"))
"""


def test_a_write_that_was_cut_short_leaves_no_torn_frame_before_the_next(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, check=True, timeout=30
    )
    assert run.stdout.splitlines()[-1] == "True"
    assert "[True, True, False, False]" in run.stdout
    assert read(tmp_path) == [bytes([0]) * 20_000, bytes([1]) * 20_000, b"later"]
