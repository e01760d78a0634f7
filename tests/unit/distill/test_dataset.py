"""From the ledger to a dataset: what is taken, what is held out, and that the held-out part is the traffic."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from distill.collate import read_examples
from distill.data.rows import Row
from distill.dataset import Building, DatasetError, HeldOut, build_dataset, is_held_out, read_held_out, render
from distill.settings import DistillSettings
from ledger.records import RequestRecord
from ledger.requests import insert_records
from ledger.store import Store, open_store, sqlite_url
from tests.unit.distill.data.rows import EXACT, ask, record, row, split

SETTINGS = DistillSettings(min_examples=1, holdout_share=0.3, data=EXACT)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)


def texts(rows: Any) -> set[str]:
    return {r.messages[1]["content"] for r in rows}


@pytest.fixture
def store(tmp_path: Path):
    opened = open_store(sqlite_url(tmp_path))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


@given(TEXTS, st.lists(st.text(max_size=20), max_size=3), st.floats(0, 1))
def test_a_conversation_is_on_the_side_of_its_first_user_message(first, turns, share):
    later = [{"role": role, "content": turn} for turn in turns for role in ("assistant", "user")]
    other_system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": first}]
    sides = {is_held_out(m, share) for m in (ask(first), ask(first, *later), other_system, [*other_system, *later])}
    assert len(sides) == 1


@given(TEXTS, st.floats(0, 1), st.floats(0, 1))
def test_what_is_held_out_at_a_small_share_is_held_out_at_a_larger_one(first, one, other):
    small, large = sorted((one, other))
    assert is_held_out(ask(first), large) or not is_held_out(ask(first), small)


@given(st.lists(st.lists(TEXTS, max_size=8), min_size=2, max_size=4))
def test_a_request_stays_on_its_side_in_every_later_dataset(rounds):
    seen: list[Row] = []
    sides: list[tuple[set[str], set[str]]] = []
    for texts_of_round in rounds:
        seen += [row(text) for text in texts_of_round]
        selection = split(seen, SETTINGS, 0.1)
        sides.append((texts(selection.train.values()), texts(selection.held_out.values())))
    for (train, _), (_, held_out) in itertools.product(sides, sides):
        assert not train & held_out


def test_about_the_asked_share_is_held_out():
    held_out = sum(is_held_out(ask(f"parcel {n}"), 0.25) for n in range(4_000))
    assert 900 < held_out < 1_100


def test_a_repeated_request_keeps_its_newest_answer_and_counts_as_new():
    rows = [row("Where is it?", "old", id="a"), row("other"), row("where  IS it?", "new", id="b")]
    selection = split(rows, DistillSettings(data=EXACT, holdout_share=0), 0.1)
    assert [(r.id, r.answer) for r in selection.train.values()][-1] == ("b", "new")
    assert [r.answer for r in selection.train.values()] == ["lost", "new"]
    assert selection.dropped == {"duplicate": 1}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({"answer": " \n"}, "empty_answer", id="blank"),
        pytest.param({"answer": "I'm sorry, but I can't help."}, "refusal", id="refusal"),
        pytest.param({"answer": "\n I\u2019m sorry, but I cannot"}, "refusal", id="typographic refusal after space"),
        pytest.param({"parameters": {"tools": [{"type": "function"}]}}, "not_plain_text", id="tools"),
        pytest.param({"parameters": {"n": 3}}, "not_plain_text", id="several answers"),
        pytest.param(
            {"messages": ask([{"type": "image_url", "image_url": {"url": "data:"}}])}, "not_plain_text", id="image"
        ),
    ],
)
def test_what_a_text_student_cannot_learn_from_is_dropped_and_counted(changes, why):
    selection = split([row("where is it?", **changes)], SETTINGS, 0.1)
    assert (selection.dropped, selection.train, selection.held_out) == ({why: 1}, {}, {})


def test_a_conversation_that_the_template_refuses_is_dropped_and_counted():
    selection = split([row("where is it?")], SETTINGS, 0.1, lambda _messages: False)
    assert (selection.dropped, selection.train, selection.held_out) == ({"template": 1}, {}, {})


@pytest.mark.parametrize("reason", ["pinned", "unsupported"])
def test_requests_that_the_router_does_not_decide_on_are_trained_on_but_never_held_out(reason):
    selection = split([row(f"parcel {n}", reason=reason) for n in range(200)], SETTINGS, 0.1)
    assert selection.held_out == {}
    assert len(selection.train) + selection.dropped["not_sampled"] == 200
    assert len(selection.train) > 100


def test_the_held_out_rows_are_a_uniform_sample_of_the_traffic():
    """A simulated router: the confident requests reach the ledger by their propensities only, the others always."""
    rng, rate = np.random.default_rng(5), 0.25
    propensities = {"new": 0.9, "usual": rate}
    kinds = ("confident", "hard", "low_confidence", "student_down")
    logged: list[Row] = []
    traffic, sorts = dict.fromkeys(kinds, 0), dict.fromkeys(propensities, 0)
    for n in range(12_000):
        kind = kinds[rng.choice(4, p=[0.6, 0.2, 0.15, 0.05])]
        text = f"parcel {n}"
        if is_held_out(ask(text), SETTINGS.holdout_share):
            traffic[kind] += 1
        if kind != "confident":
            logged.append(row(text, reason=kind))
            continue
        sort = "new" if rng.random() < 0.3 else "usual"
        sorts[sort] += is_held_out(ask(text), SETTINGS.holdout_share)
        if rng.random() < propensities[sort]:
            logged.append(row(text, answer=sort, reason="explore", propensity=propensities[sort]))
    kept = dict.fromkeys((*kinds, *propensities), 0)
    for held in split(logged, SETTINGS, rate).held_out.values():
        kept["confident" if held.reason == "explore" else held.reason] += 1
        if held.reason == "explore":
            kept[held.answer] += 1
    for kind, n in (traffic | sorts).items():
        expected, spread = rate * n, np.sqrt(n * rate * (1 - rate))
        assert abs(kept[kind] - expected) < 4 * spread, (kind, kept, traffic, sorts)


def test_a_request_that_comes_back_has_the_same_chance_whether_it_was_escalated_or_explored():
    rng, rate, repeats = np.random.default_rng(6), 0.2, 5
    escalated = [row(f"hard {n}", reason="hard") for n in range(3_000) for _ in range(repeats)]
    explored = [
        row(f"easy {n}", reason="explore", propensity=rate)
        for n in range(3_000)
        for _ in range(repeats)
        if rng.random() < rate
    ]
    held_out = split([*escalated, *explored], DistillSettings(data=EXACT, holdout_share=1), rate).held_out
    hard = sum(r.reason == "hard" for r in held_out.values())
    assert abs(hard - (len(held_out) - hard)) < 4 * np.sqrt(2 * 3_000 * 0.33 * 0.67)
    assert abs(hard - 3_000 * (1 - 0.8**repeats)) < 4 * np.sqrt(3_000 * 0.33 * 0.67)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 40), min_size=1),
    st.floats(0.05, 1),
    st.integers(1, 60),
)
def test_no_key_has_more_than_its_share_of_what_is_trained_on(counts, share, most):
    settings = DistillSettings(data=EXACT, holdout_share=0, max_share_per_key=share, max_examples=most)
    rows = [row(f"{key} {n}", key_id=key) for key, count in counts.items() for n in range(count)]
    selection = split(rows, settings, 0.1)
    kept = selection.train.values()
    assert len(kept) <= most
    for key in counts:
        assert sum(r.key_id == key for r in kept) <= share * len(kept) or share == 1
    dropped = selection.dropped
    assert len(kept) + dropped.get("key_cap", 0) + dropped.get("beyond_max_examples", 0) == len(rows)


def test_a_key_that_floods_the_traffic_keeps_its_newest_rows():
    rows = [row(f"honest {n}", key_id="honest") for n in range(10)]
    rows += [row(f"flood {n}", key_id="flood") for n in range(500)]
    selection = split(rows, DistillSettings(data=EXACT, holdout_share=0, max_share_per_key=0.5), 0.1)
    assert texts(selection.train.values()) == {f"honest {n}" for n in range(10)} | {
        f"flood {n}" for n in range(490, 500)
    }


def logprobs_of(pieces: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "token": piece,
            "logprob": -0.1,
            "bytes": list(piece.encode()),
            "top_logprobs": [
                {"token": piece, "logprob": -0.1, "bytes": list(piece.encode())},
                {"token": "a", "logprob": -3.0, "bytes": [97]},
            ],
        }
        for piece in pieces
    ]


def pieces_of(tokenizer: Any, answer: str) -> list[str]:
    return [tokenizer.decode([token]) for token in tokenizer(answer, add_special_tokens=False).input_ids]


@pytest.fixture
def build(store: Store, tokenizer: Any, tmp_path: Path) -> Callable[..., Any]:
    """Insert records, build from them: ``build(records, **settings)``."""

    def built(records: list[RequestRecord], **settings: Any):
        insert_records(store, records)
        values = {"min_examples": 1, "holdout_share": 0.3, "data": EXACT} | settings
        building = Building(store, DistillSettings(**values), 0.1, tokenizer)
        return build_dataset(building, tmp_path / "dataset")

    return built


def test_the_files_are_what_the_trainer_and_the_evaluation_read(build, tokenizer: Any, tmp_path: Path):
    records = [
        record(f"where is parcel {n}", "lost", teacher_logprobs=logprobs_of(pieces_of(tokenizer, "lost")))
        for n in range(60)
    ]
    manifest = build(records)
    examples = list(read_examples(tmp_path / "dataset" / "train.parquet"))
    held_out = read_held_out(tmp_path / "dataset")
    assert (manifest.train, manifest.held_out) == (len(examples), len(held_out))
    assert len(examples) + len(held_out) == 60
    assert all(isinstance(held, HeldOut) and held.parameters == {"temperature": 0} for held in held_out)
    assert {tokenizer.decode(example.answer_ids) for example in examples} == {"lost<end>"}
    prompts = {tokenizer.decode(example.prompt_ids) for example in examples}
    assert all(prompt.startswith("Sort the request.where is parcel") for prompt in prompts)
    written = json.loads((tmp_path / "dataset" / "manifest.json").read_bytes())
    assert written == msgspec.to_builtins(manifest)
    assert manifest.keys == {"key_1": len(examples)}


def test_the_aligned_share_counts_the_tokens_that_have_a_soft_target(build, tokenizer: Any, tmp_path: Path):
    pieces = pieces_of(tokenizer, "lost refund")
    with_targets = [record(f"a {n}", "lost refund", teacher_logprobs=logprobs_of(pieces)) for n in range(10)]
    without = [record(f"b {n}", "lost refund") for n in range(10)]
    manifest = build([*with_targets, *without], holdout_share=0.2)
    examples = list(read_examples(tmp_path / "dataset" / "train.parquet"))
    aligned = sum(bool(ids) for example in examples for ids in example.soft_ids)
    assert manifest.aligned_share == pytest.approx(aligned / sum(len(e.answer_ids) for e in examples))
    soft = [example for example in examples if example.soft_ids]
    assert all([bool(ids) for ids in e.soft_ids] == [*[True] * len(pieces), False] for e in soft), "not the end token"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"content": None}, id="no content kept"),
        pytest.param({"trainable": False}, id="opted out"),
        pytest.param({"route": "student"}, id="the student's answer"),
        pytest.param({"finish_reason": "length"}, id="cut short"),
        pytest.param({"status": 500}, id="failed"),
    ],
)
def test_rows_that_may_not_be_trained_on_are_in_neither_file(build, tmp_path: Path, changes):
    secret = [record(f"canary {n}", "secret", **changes) for n in range(40)]
    manifest = build([*secret, *(record(f"where is parcel {n}", "lost") for n in range(40))])
    assert manifest.train + manifest.held_out == 40
    assert b"canary" not in (tmp_path / "dataset" / "held_out.jsonl").read_bytes()
    answers = {tuple(example.answer_ids) for example in read_examples(tmp_path / "dataset" / "train.parquet")}
    assert len(answers) == 1


def test_content_in_parts_is_rendered_as_text_and_odd_messages_do_not_stop_the_build(build, tmp_path: Path):
    parts = [record([{"type": "text", "text": f"parcel {n}"}, "please"], "lost") for n in range(20)]
    odd = [
        record("x", "lost", messages=[{"role": "user", "content": None}, {"role": "assistant", "tool_calls": [{}]}]),
        record("x", "lost", messages=[{"role": "user", "content": {"text": 3}}]),
        record("x", "lost", messages=[{"content": "no role"}]),
    ]
    manifest = build([*parts, *odd])
    assert manifest.train + manifest.held_out + sum(manifest.dropped.values()) == 23
    assert manifest.dropped["not_plain_text"] == 1
    assert all(len(example.prompt_ids) > 1 for example in read_examples(tmp_path / "dataset" / "train.parquet"))


def test_text_parts_stand_on_lines_of_their_own(tokenizer: Any):
    parts = [{"type": "text", "text": "parcel"}, {"type": "text", "text": "lost"}]
    assert render(ask(parts), tokenizer) == "Sort the request.parcel\nlost"


def test_a_template_that_raises_drops_its_rows(store: Store, tiny: Path, tmp_path: Path):
    strict = AutoTokenizer.from_pretrained(tiny)
    strict.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    strict.chat_template += "{% for m in messages %}{{ m.content }}{% endfor %}"
    with_system = [record(f"parcel {n}", "lost") for n in range(5)]
    without = [record("x", "lost", messages=[{"role": "user", "content": f"p {n}"}]) for n in range(40)]
    insert_records(store, [*with_system, *without])
    manifest = build_dataset(Building(store, SETTINGS, 0.1, strict), tmp_path / "dataset")
    assert manifest.dropped == {"template": 5}
    assert manifest.train + manifest.held_out == 40


def test_too_few_rows_are_an_error_that_says_how_many_there_are_and_why(build):
    with pytest.raises(DatasetError) as raised:
        build([record("one", "lost"), record("two", "")], min_examples=100, holdout_share=0)
    assert str(raised.value) == (
        "1 teacher answers can be trained on, 100 are needed (distill.min_examples); dropped: {'empty_answer': 1}"
    )


def test_nothing_held_out_is_an_error_before_anything_is_trained(build):
    with pytest.raises(DatasetError, match=r"no teacher answer is held out .*pinned.*dropped: \{'not_sampled': "):
        build([record(f"parcel {n}", "lost", reason="pinned") for n in range(40)])


def test_only_the_newest_rows_are_taken_when_there_are_too_many(build, tmp_path: Path, tokenizer: Any):
    repeated = [record("again", "old"), *(record(f"parcel {n}", "lost") for n in range(20)), record("again", "new")]
    build([*repeated, record("held", "out", messages=held_out_messages())], max_examples=1, holdout_share=0.05)
    (example,) = read_examples(tmp_path / "dataset" / "train.parquet")
    assert tokenizer.decode(example.answer_ids) == "new<end>"


def held_out_messages() -> list[dict[str, Any]]:
    """A conversation that is held out even at a share of 5%."""
    return next(ask(f"q {n}") for n in itertools.count() if is_held_out(ask(f"q {n}"), 0.05))
