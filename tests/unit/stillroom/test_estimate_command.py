"""``estimate`` as a shell sees it."""

import gzip
import json
import re
import socket

import pytest

from tests.unit.distill.desk_logs import desk, of_helicone, records, stored, write
from tests.unit.distill.test_report_page import Tags

REQUESTS = desk(700)
PRICED = ("--price-input", "100", "--price-output", "100", "--student-cost", "0.0001")


@pytest.fixture
def log(tmp_path):
    return write(tmp_path / "a.jsonl", records(REQUESTS))


def test_a_log_becomes_a_table_a_sentence_and_a_page(run, log, home):
    status, out, _ = run("estimate", str(log), "--target", "0.9", "--student-cost", "0.002", "--training-cost", "20")
    assert status == 0
    assert "saved a month (router first)" in out
    assert "by a proxy" in " ".join(out.split()).casefold()
    text = (home.parent / "estimate.html").read_text("utf-8")
    tags = Tags(text)
    assert tags.seen.count("svg") == 5
    assert "script" not in tags.seen
    headings = re.findall("<h2>(.*?)</h2>", text)
    assert headings[:3] == ["What to do next", "Share that a student could take", "A month"]
    assert headings[-1] == "How this was estimated"


def test_the_page_holds_nothing_of_what_was_said_and_asks_no_other_host(run, log, tmp_path):
    run("estimate", str(log), "--target", "0.9", "--report", str(tmp_path / "e.html"))
    text = (tmp_path / "e.html").read_text("utf-8")
    assert not any(request.text in text for request in REQUESTS)
    assert not any(f">{label}<" in text for label in {request.label for request in REQUESTS})
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


class Refused(socket.socket):
    """Stands for a network that must not be touched: a socket of it fails as soon as it is made."""

    def __init__(self, *_anything):
        raise AssertionError("a socket was opened")


@pytest.mark.parametrize(
    ("exported", "form"), [(dict, "litellm"), (of_helicone, "helicone"), (stored, "stored-completions")]
)
def test_of_any_gateways_export_figures_have_intervals_and_no_socket_is_opened(
    run, tmp_path, monkeypatch, exported, form
):
    path = write(tmp_path / "a.jsonl", [exported(record) for record in records(REQUESTS)])
    monkeypatch.setattr(socket, "socket", Refused)
    monkeypatch.setattr(socket, "getaddrinfo", Refused)
    status, out, _ = run("estimate", str(path), "--target", "0.9", "--json", *PRICED)
    found = json.loads(out)
    assert status == 0
    assert found["inventory"]["formats"] == {form: 700}
    point, first = found["curve"][-1], found["money"]["accountings"][0]
    assert 0 < point["ends"][0] < point["moved"] < point["ends"][1] < 1
    assert first["saving_ends"][0] < first["saving"] < first["saving_ends"][1]
    assert found["agreement_ends"][0] <= point["agreement"] <= found["agreement_ends"][1]
    assert all(part["ends"][0] <= part["moved"] <= part["ends"][1] for part in found["forms"])


def test_a_program_gets_all_of_it_as_json_from_a_gzipped_log(run, log, tmp_path):
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(log.read_bytes()))
    plain = json.loads(run("estimate", str(log), "--json")[1])
    found = json.loads(run("estimate", str(packed), "--json")[1])
    assert found == plain
    assert found["inventory"]["requests"] == 700
    assert {"curve", "beyond", "money", "verdict", "forms", "answers_needed"} <= found.keys()


def test_settings_say_what_is_not_given(run, log, home, tmp_path):
    (tmp_path / "stillroom.toml").write_text(
        "[teacher]\nprice = { input = 10.0, output = 0.0 }\n[student]\nprice = { request = 0.0001 }\n"
        "[router]\nagreement_target = 0.9\n"
    )
    found = json.loads(run("estimate", str(log), "--json")[1])
    assert found["target"] == 0.9
    assert found["money"]["teacher_cost"] == pytest.approx(0.001)
    assert found["money"]["student_cost"] == pytest.approx(0.0001)


def test_bad_records_are_named_on_standard_error(run, tmp_path):
    path = write(tmp_path / "a.jsonl", ["{", *records(desk(60))])
    status, out, err = run("estimate", str(path))
    assert status == 0
    assert f"skipped {path}:1: it is no JSON object" in err
    assert "too few" in out


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (["--price-input", "1"], 2, "--price-input and --price-output go together"),
        (["--target", "2"], 2, "'--target'"),
        (["--report", "nowhere/at/all.html"], 2, "there is no directory"),
        (["--model", "unheard-of"], 1, "no request that a chat model answered"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, log, words, status, why):
    found, _, err = run("estimate", str(log), *words)
    assert found == status
    assert why in err


def test_a_file_that_is_not_there_is_a_usage_error(run, home):
    status, _, err = run("estimate", "nothing.jsonl")
    assert status == 2
    assert "nothing.jsonl" in err
