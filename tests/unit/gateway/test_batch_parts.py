"""What a batch stands on: files that are whole, parts that grow by lines, and the room that others leave."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.admission import Admission
from gateway.batches.folder import Folder, Part, lines_of
from gateway.batches.line import Answered, LineError, failure, number_of, read_line, request_id_of
from gateway.batches.room import Room
from gateway.budgets import Budgets
from gateway.settings import BatchSettings, GatewaySettings
from ledger.request_ids import new_id
from ledger.spending import SpendReader
from ledger.store import Store, open_store, sqlite_url
from tests.unit.ledger.test_batches import batch

CHAT = "/v1/chat/completions"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(sqlite_url(tmp_path))
    yield opened
    opened.close()


def test_a_file_is_whole_or_not_there(tmp_path: Path):
    folder = Folder(tmp_path / "files")
    assert folder.save("file-1", io.BytesIO(b"abc")) == 3

    class Torn(io.BytesIO):
        """Stands for a disk or a client that breaks off."""

        def read(self, size: int | None = -1) -> bytes:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        folder.save("file-2", Torn())
    assert [path.name for path in folder.path.iterdir()] == ["file-1"]


def test_a_torn_line_is_cut_off_and_the_others_stay(tmp_path: Path):
    path = tmp_path / "part"
    path.write_bytes(b'{"a":1}\n{"b":2}\n{"c"')
    assert list(Part.lines(path)) == [b'{"a":1}\n', b'{"b":2}\n']
    part = Part(path)
    part.add(b'{"d":4}\n')
    with pytest.raises(OSError, match="unavailable"):
        Part(path)
    part.close()
    assert path.read_bytes() == b'{"a":1}\n{"b":2}\n{"d":4}\n'


def test_sealing_again_comes_to_the_same(tmp_path: Path):
    folder = Folder(tmp_path)
    folder.of("part").write_bytes(b"x\n")
    assert [folder.seal("part", "file-1"), folder.seal("part", "file-1")] == [2, 2]
    folder.of("empty").touch()
    assert [folder.seal("empty", "file-2"), folder.seal("empty", "file-2")] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["file-1"]


def test_lines_are_numbered_as_they_stand_in_the_file(tmp_path: Path):
    path = tmp_path / "lines"
    path.write_bytes(b"a\n\n  \nb\r\n" + b"c\n" * 500)
    found = [each for some in lines_of(path) for each in some]
    assert (found[:2], len(found), found[-1][0]) == ([(1, b"a\n"), (4, b"b\r\n")], 502, 504)


def test_a_body_keeps_the_bytes_of_its_client():
    raw = b'{"custom_id":"x","method":"POST","url":"/v1/chat/completions","body":{"n": 1.00, "s":"\\u00e9"}}\n'
    assert read_line(raw, CHAT, 1_000).body == b'{"n": 1.00, "s":"\\u00e9"}'


def test_a_result_says_which_line_it_is_of():
    assert number_of(failure("batch_ab", 17, LineError("code", "why", "name"))) == 17


def test_a_request_id_is_the_lines_own_and_among_those_of_its_batchs_time():
    two = [batch(number, created_at=1_796_000_000_000 + number) for number in (1, 2)]
    of_each = [{request_id_of(one, number, attempt) for number in (1, 2) for attempt in (0, 1)} for one in two]
    assert [len(ids) for ids in of_each] == [4, 4]
    assert new_id(1_796_000_000_000) < min(of_each[0]) < max(of_each[0]) < min(of_each[1])
    assert max(of_each[1]) < new_id(1_796_000_000_003)
    assert request_id_of(two[0], 1, 0) in of_each[0]


@pytest.mark.parametrize(
    ("status", "headers", "pause"),
    [
        pytest.param(429, {"retry-after": "2"}, 2.0, id="a limit of its key"),
        pytest.param(429, {}, None, id="a budget, or what would never pass"),
        pytest.param(429, {"retry-after": "2", "x-stillroom-route": "teacher"}, None, id="the teacher's own"),
        pytest.param(503, {"retry-after": "2"}, None, id="another refusal"),
        pytest.param(200, {}, None, id="an answer"),
    ],
)
def test_only_a_limit_of_its_key_has_a_line_wait(status, headers, pause):
    assert Answered(status, headers, b"{}").pause == pause


@pytest.mark.parametrize(
    ("taken", "others", "free"),
    [
        pytest.param(0, 0, True, id="an idle gateway"),
        pytest.param(3, 0, True, id="the last place"),
        pytest.param(4, 0, False, id="no place is left"),
        pytest.param(1, 3, False, id="others have the rest"),
        pytest.param(0, 5, True, id="one line at least"),
        pytest.param(1, 5, False, id="and no more"),
        pytest.param(0, 50, False, id="a gateway that is half full"),
    ],
)
def test_lines_take_what_interactive_requests_leave(store, taken: int, others: int, free: bool):
    settings = GatewaySettings(batches=BatchSettings(concurrency=4), max_in_flight=100)
    admission = Admission(settings, Budgets(SpendReader(store)), in_flight=taken + others)
    assert Room(admission, taken).is_free() is free


async def test_a_place_that_is_not_wanted_any_more_is_not_taken(store):
    settings = GatewaySettings(batches=BatchSettings(concurrency=1), max_in_flight=100)
    room = Room(Admission(settings, Budgets(SpendReader(store)), in_flight=1), taken=1)
    looks = iter([False, False, True])
    assert await room.enter(lambda: next(looks)) is False
    assert room.taken == 1
    room.leave()
    assert await room.enter(lambda: False)
