"""Soft targets moved from a teacher's tokens to a student's, by bytes."""

import json
import math
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from distill.targets import (
    AlignedTarget,
    TeacherToken,
    align,
    aligned_share,
    from_openai,
)
from distill.vocabulary import byte_vocabulary, token_bytes

CORPUS = ["the card has not arrived yet", "the red car is fast", "größe 東京 emoji 🙂🙃 the the card car"] * 20


def byte_level(vocab_size: int, corpus: list[str] = CORPUS) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<end>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.add_tokens(["<tool>"])
    return fast


STUDENT = byte_level(300)
TEACHER = byte_level(400, ["the card car", "東京 🙂 größe red"] * 20)
TABLE = token_bytes(STUDENT)
VOCABULARY = byte_vocabulary(TABLE)
TEACHER_TABLE = token_bytes(TEACHER)


def token(piece: bytes, logprob: float = -0.1, top: dict[bytes, float] | None = None) -> TeacherToken:
    return TeacherToken(
        piece.decode("latin-1"), logprob, [(text.decode("latin-1"), log) for text, log in (top or {}).items()]
    )


def ids(*pieces: bytes) -> list[int]:
    return [VOCABULARY[piece] for piece in pieces]


def test_importing_the_room_and_its_targets_loads_no_torch():
    code = "import sys, distill, distill.targets, distill.collate, distill.student; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_bytes_of_an_openai_entry_win_over_its_text():
    read = from_openai(
        [
            {
                "token": "\\xf0\\x9f",
                "bytes": [0xF0, 0x9F],
                "logprob": -0.5,
                "top_logprobs": [{"token": "ü", "logprob": -1.0}],
            }
        ]
    )
    assert read == [TeacherToken("\xf0\x9f", -0.5, [("ü".encode().decode("latin-1"), -1.0)])]


def test_an_openai_entry_without_alternatives_has_an_empty_top():
    assert from_openai([{"token": "a", "logprob": -1.0, "bytes": None}]) == [TeacherToken("a", -1.0, [])]


@settings(deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=6), st.floats(-50, 0)), max_size=5))
def test_teacher_tokens_survive_json(pieces: list[tuple[bytes, float]]):
    tokens = [token(piece, log, {piece + b"\xff": log}) for piece, log in pieces]
    assert msgspec.json.decode(msgspec.json.encode(tokens), type=list[TeacherToken]) == tokens


def test_byte_level_tokens_spell_the_text_that_was_encoded():
    text = "größe 東京 🙂\n\ttabs  and\u00a0spaces"
    assert b"".join(TABLE[i] for i in STUDENT(text)["input_ids"]) == text.encode()


def test_special_tokens_stand_for_no_bytes_and_added_text_for_itself():
    assert TABLE[STUDENT.convert_tokens_to_ids("<end>")] == b""
    assert TABLE[STUDENT.convert_tokens_to_ids("<tool>")] == b"<tool>"
    assert b"" not in VOCABULARY


def test_sentencepiece_spelling_is_read():
    vocabulary = {"<unk>": 0, "<0x0A>": 1, "▁the": 2, "ü": 3}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert token_bytes(fast) == [b"", b"\n", b" the", "ü".encode()]


def test_the_lowest_id_stands_for_bytes_that_two_tokens_spell():
    assert byte_vocabulary([b"", b"a", b"a", b"b"]) == {b"a": 1, b"b": 3}


def test_a_token_with_the_same_span_takes_the_mapped_top():
    end = STUDENT.eos_token_id
    teacher = [token(b"t", -0.2, {b"t": -0.2, b"h": -2.0, b"not-a-token": -3.0})]
    targets = align([*ids(b"t"), end], TABLE, teacher, VOCABULARY)
    assert targets == [AlignedTarget(tuple(ids(b"t", b"h")), (-0.2, -2.0)), AlignedTarget()]
    assert aligned_share(targets) == 0.5


def test_a_teacher_token_that_covers_two_student_tokens_gives_no_target():
    targets = align(ids(b"q", b"z", b"!"), TABLE, [token(b"qz"), token(b"!")], VOCABULARY)
    assert [target.ids for target in targets] == [(), (), tuple(ids(b"!"))]


def test_nothing_behind_the_first_difference_of_the_texts_is_aligned():
    targets = align(ids(b"a", b"b", b"c"), TABLE, [token(b"a"), token(b"x"), token(b"c")], VOCABULARY)
    assert [bool(target.ids) for target in targets] == [True, False, False]


def test_a_teacher_that_stopped_short_leaves_the_rest_to_the_hard_label():
    targets = align(ids(b"a", b"b"), TABLE, [token(b"a")], VOCABULARY)
    assert [bool(target.ids) for target in targets] == [True, False]


def test_the_sampled_token_is_known_even_outside_the_top():
    (target,) = align(ids(b"a"), TABLE, [token(b"a", -4.0, {b"b": -0.1, b"c": -3.0})], VOCABULARY)
    assert target == AlignedTarget(tuple(ids(b"b", b"c", b"a")), (-0.1, -3.0, -4.0))


def test_rounded_logs_that_sum_to_more_than_one_are_scaled_down():
    half = math.log(0.5001)
    (target,) = align(ids(b"a"), TABLE, [token(b"a", half, {b"a": half, b"b": half})], VOCABULARY)
    assert math.fsum(map(math.exp, target.logprobs)) == pytest.approx(1.0, abs=1e-12)


def test_an_empty_answer_has_no_aligned_share():
    assert aligned_share([]) == 0.0


TEXTS = st.text(
    alphabet=st.one_of(st.sampled_from("the card 東京 🙂🙃 größe\n"), st.characters(exclude_categories=["Cs"])),
    max_size=40,
)


@settings(deadline=None)
@given(TEXTS, st.randoms(use_true_random=False))
def test_any_text_cut_by_two_tokenisers_aligns_at_equal_spans_only(text: str, chance):
    answer = STUDENT(text)["input_ids"]
    pieces = [TEACHER_TABLE[i] for i in TEACHER(text)["input_ids"]]
    alternatives = {bytes([chance.randrange(256)]): math.log(0.3 / n) for n in range(1, 4)}
    teacher = [token(piece, math.log(0.4), {piece: math.log(0.4)} | alternatives) for piece in pieces]
    targets = align([*answer, STUDENT.eos_token_id], TABLE, teacher, VOCABULARY)

    assert b"".join(TABLE[i] for i in answer) == text.encode() == b"".join(pieces)
    assert len(targets) == len(answer) + 1
    assert targets[-1] == AlignedTarget()
    teacher_spans = set(spans(pieces))
    for span, student, target in zip(spans([TABLE[i] for i in answer]), answer, targets, strict=False):
        assert bool(target.ids) == (span in teacher_spans)
        assert not target.ids or student in target.ids
    for target in targets:
        assert len(set(target.ids)) == len(target.ids) == len(target.logprobs)
        assert math.fsum(map(math.exp, target.logprobs)) <= 1.0 + 1e-9


def spans(pieces: list[bytes]) -> list[tuple[int, int]]:
    at, found = 0, []
    for piece in pieces:
        found.append((at, at + len(piece)))
        at += len(piece)
    return found


def test_the_two_tokenisers_of_these_tests_do_cut_differently():
    text = CORPUS[2]
    assert len(STUDENT(text)["input_ids"]) != len(TEACHER(text)["input_ids"])
    assert json.loads(STUDENT.backend_tokenizer.to_str())["decoder"]["type"] == "ByteLevel"
