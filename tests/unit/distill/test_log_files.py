"""Files of logs, however they are laid out; a damaged part costs itself and no more."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.exchange import Unreadable
from distill.import_formats import format_of, read_exchange
from distill.log_files import entries
from tests.unit.distill.exports import ASKED, as_texts, helicone, litellm

RECORDS = [litellm(1), helicone(2), litellm(3)]


def read(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    found, bad, seen = [], [], []
    for place, entry in entries(path, seen.append):
        if isinstance(entry, Unreadable):
            bad.append(f"{place}: {entry}")
        else:
            found += entry
    assert sum(seen) == path.stat().st_size
    return found, bad


def table(path: Path, records: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(map(as_texts, records))
    return path


LAYOUTS = {
    "lines": ("a.jsonl", "\n".join(map(json.dumps, RECORDS))),
    "an array": ("a.json", json.dumps(RECORDS)),
    "a laid out array": ("a.json", json.dumps(RECORDS, indent=2)),
    "objects one after the other": ("a.json", "\n".join(map(json.dumps, RECORDS))),
    "a page of an API": ("a.json", json.dumps({"data": RECORDS, "error": None}, indent=2)),
    "a page on one line": ("a.jsonl", json.dumps({"object": "list", "data": RECORDS})),
    "no known ending": ("a.log", "\n\n".join(map(json.dumps, RECORDS))),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize(("name", "text"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_gives_the_same_records(tmp_path, name, text, packed):
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert read(path) == (RECORDS, [])


@pytest.mark.parametrize("record", [litellm(), helicone()], ids=["litellm", "helicone"])
def test_a_table_with_json_in_its_cells_is_the_same_exchange(tmp_path, record):
    (row,), bad = read(table(tmp_path / "a.csv", [record]))
    assert bad == []
    form = format_of(record)
    assert format_of(row) == form
    assert read_exchange(row, form, dict) == read_exchange(record, form, dict)


@pytest.mark.parametrize("form", ["litellm", "helicone"])
def test_an_export_of_a_gateway_is_an_exchange(form):
    found = read_exchange({"litellm": litellm, "helicone": helicone}[form](), form, dict)
    assert (found.messages, found.answer, found.parameters) == (ASKED, "card_arrival", {"temperature": 0})
    assert (found.tokens.prompt, found.tokens.completion, found.tokens.cached) == (100, 10, 40)
    assert found.created_at == 1_772_359_200_250


@pytest.mark.parametrize(
    ("record", "why"),
    [
        pytest.param(litellm(messages={}, response={}, proxy_server_request={}), "nothing of what", id="not stored"),
        pytest.param(litellm(response="{}"), "nothing of what", id="an empty response in a text"),
        pytest.param(litellm(status="failure"), "it failed", id="a failure"),
        pytest.param(litellm(call_type="aembedding"), "it is no chat", id="an embedding"),
        pytest.param(
            litellm(
                proxy_server_request={"messages": [{"role": "user", "content": "a (litellm_truncated 9 chars)"}]}
            ),
            "cut short",
            id="a text that was cut",
        ),
        pytest.param(helicone(response_status=429), "it failed", id="a refused request"),
        pytest.param(helicone(request_body=None), "nothing of what", id="no bodies"),
    ],
)
def test_a_record_without_an_answer_says_why(record, why):
    with pytest.raises(Unreadable, match=why):
        read_exchange(record, format_of(record), dict)


def test_a_value_that_is_broken_costs_itself_and_no_more(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(f'{json.dumps(RECORDS[0])}\n{{"spend": nothing,\n{json.dumps(RECORDS[1])}\n"text"\n{{"cut": "of')
    found, bad = read(path)
    assert found == RECORDS[:2]
    assert len(bad) == 3


def test_a_compressed_file_that_ends_early_gives_what_it_has(tmp_path):
    lines = [json.dumps(litellm(number)) for number in range(2_000)]
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode())[:-200])
    found, bad = read(path)
    assert found == [json.loads(line) for line in lines[: len(found)]]
    assert len(found) > 1_000
    assert "damaged" in bad[-1]


def test_an_array_that_is_longer_than_what_is_read_at_once_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.log_files.CHUNK", 50)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(RECORDS, indent=1))
    assert read(path) == (RECORDS, [])


@settings(deadline=None, max_examples=80)
@given(st.text(max_size=300) | st.binary(max_size=300), st.sampled_from(["a.json", "a.csv", "a.jsonl", "a.jsonl.gz"]))
def test_no_file_whatever_is_in_it_stops_the_reading(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("odd") / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    read(path)
