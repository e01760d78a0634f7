"""``ledger import|erase|flagged`` as a shell sees them."""

import json

import pytest

from ledger import datasets, keys
from ledger.records import Content
from ledger.requests import count, get, insert_records
from tests.unit.ledger.rows import row
from tests.unit.ledger.test_datasets import dataset


@pytest.fixture
def history(tmp_path):
    asked = [{"role": "user", "content": "Where is my card?"}]
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0}
    answer = {"message": {"role": "assistant", "content": "In the post."}, "finish_reason": "stop"}
    lines = [
        {"messages": [*asked, {"role": "assistant", "content": "By mail."}]},
        {"object": "chat.completion", "created": 1_738_960_610, "choices": [answer], "usage": usage, "input": asked},
    ]
    path = tmp_path / "history.jsonl"
    path.write_text("\n".join([*map(json.dumps, lines), "{"]) + "\n")
    return str(path)


def test_history_is_imported_priced_and_its_bad_lines_named(stillroom, ledger, history, monkeypatch):
    monkeypatch.setenv("STILLROOM_TEACHER__PRICE__INPUT", "2.5")
    key = keys.create(ledger, "shop", ["inference"], "tester")[0]
    command = ["ledger", "import", history, "--price-from-settings", "--key", key.id]
    status, out, err = stillroom(*command)
    assert status == 0
    assert out == (
        "imported 2 of 3 lines; 0 were known, 1 are bad, 0 are not to be trained on, 0 have log-probabilities\n"
        "they cost 2.50 at the teacher's price\n"
    )
    assert f"stillroom: skipped {history}:3: it is no JSON object" in err
    assert count(ledger) == 2
    again = json.loads(stillroom(*command, "--json")[1])
    assert (again["imported"], again["known"], again["bad"]) == (0, 2, 1)


def test_a_dry_run_imports_nothing(stillroom, ledger, history):
    assert stillroom("ledger", "import", history, "--dry-run")[1].startswith("would import 2 of 3 lines")
    assert count(ledger) == 0


def test_a_file_with_no_line_to_import_is_a_failure(stillroom, ledger, history):
    status, _, err = stillroom("ledger", "import", history, "--format", "batch")
    assert (status, err.splitlines()[-1]) == (1, "stillroom: not one line could be imported")


def test_an_import_for_a_key_that_is_not_there_is_a_usage_error(stillroom, ledger, history):
    status, _, err = stillroom("ledger", "import", history, "--key", "key_x")
    assert status == 2
    assert "there is no key 'key_x'" in err


def test_a_user_is_erased_copies_are_named_and_purged(stillroom, ledger, tmp_path):
    content = Content(messages=[{"role": "user", "content": "x"}], parameters={"user": "ann"})
    insert_records(ledger, [row("a", content=content)])
    (tmp_path / "d1").mkdir()
    (tmp_path / "d1" / "held_out.jsonl").write_text("x")
    datasets.add(ledger, dataset("d1", folder=str(tmp_path / "d1")), [("a", True)])
    assert stillroom("ledger", "flagged")[1] == "nothing that was erased is held anywhere\n"
    command = ["ledger", "erase", "--user", "ann", "--purge-datasets"]
    status, out, _ = stillroom(*command, "--dry-run")
    assert (status, "would erase the content of 1 requests" in out, get(ledger, "a")[1] is None) == (0, True, False)
    assert "1 files in" in " ".join(out.split())
    purged = json.loads(stillroom(*command, "--json")[1])
    assert (purged["contents"], purged["purged"]) == (1, [str(tmp_path / "d1" / "held_out.jsonl")])
    assert get(ledger, "a")[1] is None
    assert not (tmp_path / "d1" / "held_out.jsonl").exists()
    (shown,) = json.loads(stillroom("ledger", "flagged", "--json")[1])
    assert (shown["holder"], shown["where"]) == ("d1", "files deleted")


@pytest.mark.parametrize("named", [[], ["--user", "a", "--key", "b"]])
def test_what_is_to_be_erased_is_named_once(stillroom, ledger, named):
    status, _, err = stillroom("ledger", "erase", *named)
    assert (status, "name one of --user, --conversation, --request and --key" in err) == (2, True)


def test_a_conversation_that_is_not_there_is_a_failure(stillroom, ledger):
    status, _, err = stillroom("ledger", "erase", "--conversation", "x")
    assert (status, "there is no content of a request or conversation 'x'" in err) == (1, True)


def test_what_was_kept_is_exported_to_a_file_or_to_standard_output(stillroom, ledger, tmp_path):
    content = Content(messages=[{"role": "user", "content": "Where is my card?"}], answer="In the post.")
    insert_records(ledger, [row("a", content=content, finish_reason="stop")])
    status, out, err = stillroom("ledger", "export", "--format", "openai-chat")
    assert (status, err) == (0, "exported 1 requests\n")
    assert json.loads(out)["messages"][-1] == {"role": "assistant", "content": "In the post."}
    assert stillroom("ledger", "export", "--output", str(tmp_path / "all.jsonl"))[0] == 0
    assert json.loads((tmp_path / "all.jsonl").read_text())["id"] == "a"
    assert stillroom("ledger", "export", "--until", "1969-12-31", "--output", str(tmp_path / "old.jsonl"))[0] == 0
    assert (tmp_path / "old.jsonl").read_bytes() == b""


def test_an_export_since_a_time_that_is_none_is_a_usage_error(stillroom, ledger):
    status, out, err = stillroom("ledger", "export", "--since", "lately")
    assert (status, out) == (2, "")
    assert "lately" in err
