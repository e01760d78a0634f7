"""Alignment between families of tokenizers: a target is the teacher's own, at the same bytes, or there is none."""

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from distill.data.rows import render
from distill.targets import Alignment, TeacherToken, explain, from_openai
from distill.vocabulary import byte_vocabulary, special_tokens, token_bytes
from tests.engine_fixtures import smollm2_tokenizer

CORPUS = [
    "the card has not arrived yet, is it late?",
    "größe 東京 emoji 🙂🙃 the card",
    "Cards arrive; the red one too",
] * 9
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def finished(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>")


def byte_level(size: int, corpus: list[str] = CORPUS) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=["<end>", "<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return finished(tokenizer)


def sentencepiece_bpe() -> PreTrainedTokenizerFast:
    """As Llama 2: blanks as ``▁`` with one put in front, unknown characters as their bytes."""
    pieces = [
        "<unk>",
        "<end>",
        *BYTES,
        "▁",
        *"thecardiv,g🙂東",
        "th",
        "the",
        "▁the",
        "ca",
        "rd",
        "card",
        "▁card",
        "ar",
    ]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("c", "a"), ("r", "d"), ("ca", "rd"), ("▁", "card"), ("a", "r")]
    model = models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    tokenizer.add_special_tokens(["<unk>", "<end>"])
    return finished(tokenizer)


def unigram() -> PreTrainedTokenizerFast:
    """As T5 and Gemma: pieces by likelihood, ``▁`` in front of every word."""
    words = ["▁", "▁the", "▁card", "▁c", "ard", "the", *"thecardiv,", "東京", "🙂"]
    vocab = [
        ("<unk>", 0.0),
        ("<end>", 0.0),
        *((b, -9.0) for b in BYTES),
        *((w, -2.0 - i / 9) for i, w in enumerate(words)),
    ]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.add_special_tokens(["<unk>", "<end>"])
    return finished(tokenizer)


def wordpiece() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["<unk>", "<end>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return finished(tokenizer)


def characters() -> PreTrainedTokenizerFast:
    pieces = ["<unk>", "<end>", *sorted({*"".join(CORPUS), "▁"})]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<unk>", "<end>"])
    return finished(tokenizer)


FAMILIES: dict[str, PreTrainedTokenizerFast] = {
    "byte level": byte_level(290),
    "byte level with long tokens": byte_level(420, ["the card car", "東京 🙂 größe red", " is it late?"] * 9),
    "sentencepiece": sentencepiece_bpe(),
    "unigram": unigram(),
    "wordpiece": wordpiece(),
    "characters": characters(),
}
TABLES = {name: token_bytes(tokenizer) for name, tokenizer in FAMILIES.items()}
VOCABULARIES = {
    name: byte_vocabulary(TABLES[name]) | special_tokens(tokenizer) for name, tokenizer in FAMILIES.items()
}
SPEAKING = [name for name in FAMILIES if name not in ("wordpiece", "characters")]
"""Those that can say any text: the others have no token for some characters."""
WORDS = ["the", " ", "card", " the card", "  ", "東京", "🙂", "🙃", "ö", ", ", "c", "\n", "late?"]
TEXTS = st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=8).map(
    # an answer of a sentencepiece model has no ``▁`` in it, and a special token's name is text to servers
    lambda parts: "".join(parts).replace("▁", "_").replace("<end>", "end")
)


def said(name: str, text: str) -> list[bytes]:
    """A teacher's tokens as bytes; together they are the text."""
    pieces = [TABLES[name][token] for token in ids_of(name, text)]
    if b"".join(pieces) == b" " + text.encode():
        pieces[0] = pieces[0][1:]
    return pieces


def ids_of(name: str, text: str) -> list[int]:
    return FAMILIES[name].backend_tokenizer.encode(text, add_special_tokens=False).ids


def by_bytes(pieces: list[bytes]) -> list[TeacherToken]:
    """As OpenAI logs: each with a log-probability of its own, to be told apart by."""
    entries = [{"token": "?", "bytes": list(piece), "logprob": -0.001 * (i + 1)} for i, piece in enumerate(pieces)]
    return from_openai(entries)


def by_text(pieces: list[bytes]) -> list[TeacherToken]:
    """As vLLM logs: a character's first tokens are empty, and the one that completes it is all of it."""
    logged, waiting = [], b""
    for i, piece in enumerate(pieces):
        waiting += piece
        try:
            text, waiting = waiting.decode(), b""
        except UnicodeDecodeError:
            text = ""
        logged.append({"token": text, "bytes": list(text.encode()), "logprob": -0.001 * (i + 1)})
    return from_openai(logged)


def spans(pieces: list[bytes]) -> list[tuple[int, int]]:
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    return list(pairwise(ends))


def aligned(student: str, text: str, teacher: list[TeacherToken]) -> tuple[list[int], Alignment]:
    end = FAMILIES[student].convert_tokens_to_ids("<end>")
    ids = [*ids_of(student, text), end]
    return ids, explain(ids, TABLES[student], teacher, VOCABULARIES[student])


pairs = given(TEXTS, st.sampled_from(list(FAMILIES)), st.sampled_from(SPEAKING))


@settings(deadline=None, max_examples=300)
@pairs
def test_a_target_is_the_teachers_own_at_the_same_bytes(text: str, student: str, speaker: str):
    pieces = said(speaker, text)
    assert b"".join(pieces) == text.encode()
    own = {span: -0.001 * (i + 1) for i, span in enumerate(spans(pieces)) if span[0] < span[1]}
    ids, found = aligned(student, text, by_bytes(pieces))
    assert len(found.targets) == len(found.causes) == len(ids)
    at, whole = 0, text.encode()
    joined = b"".join(TABLES[student][token] for token in ids)
    drops = {"sentencepiece": joined != whole, "unigram": joined != whole, "wordpiece": whole[:1] != b" "}
    blank = drops.get(student, False)
    for i, (token, target, cause) in enumerate(zip(ids, found.targets, found.causes, strict=True)):
        piece = TABLES[student][token]
        spoken = piece[1:] if blank and i == 0 else piece
        assert bool(target.ids) == (cause is None)
        if cause is None:
            span = (at, at + len(spoken))
            assert whole[span[0] : span[1]] == spoken
            assert target == type(target)((VOCABULARIES[student][piece],), (own[span],))
        at += len(spoken)


@settings(deadline=None, max_examples=300)
@pairs
def test_a_log_without_bytes_gives_no_target_that_one_with_them_would_not(text: str, student: str, speaker: str):
    pieces = said(speaker, text)
    _, exact = aligned(student, text, by_bytes(pieces))
    ids, found = aligned(student, text, by_text(pieces))
    for token, sure, target in zip(ids, exact.targets, found.targets, strict=True):
        assert target in (sure, type(target)())
        if TABLES[student][token].isascii() and exact.targets and "text_differs" not in found.causes:
            assert target == sure


@settings(deadline=None, max_examples=100)
@given(TEXTS, st.sampled_from(SPEAKING))
def test_a_teacher_of_the_same_tokenizer_maps_exactly(text: str, name: str):
    pieces = said(name, text)
    log = [*by_bytes(pieces), TeacherToken("<end>", -0.5, [("<end>", -0.5)])]
    ids, found = aligned(name, text, log)
    lone = pieces[:1] == [b""]  # a blank that is dropped from the beginning of the text, in a token of its own
    for i, (token, target, cause) in enumerate(zip(ids, found.targets, found.causes, strict=True)):
        if lone and i < 2:
            assert cause in ("special", "split")
        else:
            assert (cause, target.ids[0]) == (None, VOCABULARIES[name].get(TABLES[name][token] or b"<end>"))
    assert found.targets[-1].logprobs == (-0.5,)


CAUSES: dict[str, tuple[str, list[bytes], str]] = {
    "a teacher's token that is two of the student's": ("characters", [b"the"], "split"),
    "two of the teacher's that are one of the student's": ("sentencepiece", [b"t", b"he"], "merged"),
    "a text that differs": ("characters", [b"th", b"x"], "text_differs"),
}


@pytest.mark.parametrize(("student", "pieces", "cause"), CAUSES.values(), ids=CAUSES)
def test_a_position_without_a_target_says_why(student: str, pieces: list[bytes], cause: str):
    _, found = aligned(student, "the", by_bytes(pieces))
    assert cause in found.causes
    assert found.causes[-1] == "special"


def test_a_part_of_a_character_is_told_from_a_split_word():
    _, found = aligned("unigram", "c🙂", by_bytes([b"c", b"\xf0\x9f", b"\x99\x82"]))
    assert found.causes == [None, "partial_utf8", "special"]
    _, found = aligned("byte level", "東", by_text([b"\xe6\x9d", b"\xb1"]))
    assert set(found.causes) == {"partial_utf8", "special"}


def test_a_character_logged_whole_by_the_token_that_completes_it_is_no_target():
    """Its log-probability is that of the last bytes only."""
    _, found = aligned("characters", "東京", by_text([b"\xe6\x9d", b"\xb1", "京".encode()]))
    assert found.causes == ["partial_utf8", None, "special"]


def test_a_row_without_logprobs_says_so_at_every_position():
    _, found = aligned("characters", "the", [])
    assert found.causes == ["no_logprobs"] * 4


def test_alternatives_none_of_which_the_student_has_are_no_target():
    token = TeacherToken("zz", -0.1, [("qq", -3.0)])
    found = explain([0, 1], [b"zz", b"", b"a"], [token], {b"a": 2, b"<end>": 1})
    assert found.causes == ["outside_vocabulary", "special"]


def test_the_mass_of_what_the_student_has_is_counted():
    token = TeacherToken("t", math.log(0.5), [("t", math.log(0.5)), ("h", math.log(0.25)), ("thx", math.log(0.2))])
    _, found = aligned("characters", "t", [token])
    assert (found.given, found.kept) == pytest.approx((0.95, 0.75))


@pytest.mark.parametrize("name", ["sentencepiece", "unigram"])
def test_alternatives_at_the_beginning_of_a_text_are_the_students_first_words(name: str):
    """There it says ``▁the``, where the teacher says ``the``."""
    token = TeacherToken("the", -0.1, [("the", -0.1), ("card", -3.0), ("<end>", -5.0)])
    _, found = aligned(name, "the", [token])
    ids = VOCABULARIES[name]
    assert found.targets[0].ids == (ids[b" the"], ids[b" card"], ids[b"<end>"])


def test_the_end_of_an_answer_is_a_target_where_the_teachers_end_is_logged():
    log = [*by_bytes([b"t"]), TeacherToken("<end>", -0.2, [("<end>", -0.2), ("h", -2.0)])]
    _, found = aligned("characters", "t", log)
    ids = VOCABULARIES["characters"]
    assert found.targets[1].ids == (ids[b"<end>"], ids[b"h"])
    foreign = [*by_bytes([b"t"]), TeacherToken("</s>", -0.2, [])]
    _, found = aligned("characters", "t", foreign)
    assert found.causes == [None, "special"]


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "wordpiece"])
def test_the_bytes_of_the_tokens_are_the_text(name: str):
    text = "the card 東京 🙂 is"
    joined = b"".join(TABLES[name][token] for token in ids_of(name, text))
    assert joined in (text.encode(), b" " + text.encode())


def test_wordpiece_aligns_words_and_their_endings():
    ids, found = aligned("wordpiece", "the card", by_bytes([b"the", b" card"]))
    assert found.causes == [None, None, "special"]
    assert [target.ids[0] for target in found.targets[:2]] == ids[:2]


def test_behind_a_word_that_the_student_cannot_say_nothing_is_aligned():
    ids, found = aligned("wordpiece", "the0/the", by_bytes([b"the", b"0", b"/", b"the"]))
    assert TABLES["wordpiece"][ids[-2]] == b" the"
    assert found.causes == ["special", "special", "text_differs", "special"]


def test_a_plain_vocabulary_keeps_the_character_that_others_use_for_a_blank():
    assert TABLES["characters"][FAMILIES["characters"].convert_tokens_to_ids("▁")] == "▁".encode()


def test_byte_names_are_text_where_the_tokenizer_has_no_byte_tokens():
    tokenizer = Tokenizer(models.BPE({"<0x41>": 0, "a": 1}, []))
    tokenizer.decoder = decoders.Fuse()
    assert token_bytes(PreTrainedTokenizerFast(tokenizer_object=tokenizer))[0] == b"<0x41>"


SMOLLM2 = smollm2_tokenizer()
SMOLLM2_TABLE = token_bytes(SMOLLM2)
SMOLLM2_VOCABULARY = byte_vocabulary(SMOLLM2_TABLE) | special_tokens(SMOLLM2)


def turn(text: str) -> tuple[list[int], list[int]]:
    """A prompt and an answer in SmolLM2's template, cut as a dataset cuts them.

    It has no token for a few bytes (a control character's, the first of rare planes'), so that it cannot say them.
    """
    prompt = render([{"role": "user", "content": "Where is my card?"}], SMOLLM2)
    ids = SMOLLM2(text, add_special_tokens=False).input_ids
    assume(b"".join(SMOLLM2_TABLE[token] for token in ids) == text.encode())
    return SMOLLM2(prompt, add_special_tokens=False).input_ids, [*ids, SMOLLM2.eos_token_id]


@settings(deadline=None, max_examples=100)
@given(TEXTS, st.sampled_from([by_bytes, by_text]))
def test_smollm2_taught_by_itself_maps_to_the_token_its_end_included(text: str, log):
    _, ids = turn(text)
    pieces = [SMOLLM2_TABLE[token] for token in ids[:-1]]
    teacher = [*log(pieces), TeacherToken("<|im_end|>", -0.5, [])]
    found = explain(ids, SMOLLM2_TABLE, teacher, SMOLLM2_VOCABULARY)
    for token, target, cause in zip(ids, found.targets, found.causes, strict=True):
        if cause is None:
            assert target.ids == (token,)
        else:
            assert log is by_text
            assert cause == "partial_utf8"
    assert found.causes[-1] is None


def test_what_smollm2_cannot_say_ends_the_alignment():
    ids = [*SMOLLM2("a\x06b", add_special_tokens=False).input_ids, SMOLLM2.eos_token_id]
    found = explain(ids, SMOLLM2_TABLE, by_bytes([b"a", b"\x06", b"b"]), SMOLLM2_VOCABULARY)
    assert found.causes == [None, "text_differs", "special"]


@settings(deadline=None, max_examples=100)
@given(TEXTS)
def test_an_answer_begins_where_the_chat_template_leaves_off(text: str):
    """The prompt ends in a line's end: cut with it, an answer that begins with one would lose its own first token."""
    prompt, answer = turn(text)
    assert SMOLLM2.decode(prompt).endswith("<|im_start|>assistant\n")
    assert SMOLLM2.decode(answer) == f"{text}<|im_end|>"
    messages = [{"role": "user", "content": "Where is my card?"}, {"role": "assistant", "content": text}]
    whole = SMOLLM2.apply_chat_template(messages, tokenize=False)
    assert SMOLLM2.decode(prompt + answer) == whole.removesuffix("\n")


@settings(deadline=None, max_examples=100)
@given(TEXTS, st.sampled_from(SPEAKING))
def test_smollm2_takes_from_another_tokenizer_only_its_own_spans(text: str, speaker: str):
    _, ids = turn(text)
    pieces = said(speaker, text)
    own = {span: -0.001 * (i + 1) for i, span in enumerate(spans(pieces)) if span[0] < span[1]}
    found = explain(ids, SMOLLM2_TABLE, by_bytes(pieces), SMOLLM2_VOCABULARY)
    student_spans = spans([SMOLLM2_TABLE[token] for token in ids])
    for span, target, cause in zip(student_spans, found.targets, found.causes, strict=True):
        assert (cause is None) <= (target.logprobs == (own.get(span),))
        after_nothing = (span[0], span[0]) in spans(pieces)  # behind a dropped blank
        assert (span in own and not after_nothing) <= (cause is None)
