"""What a teacher gives is seen from its answers, and the loss of a row is chosen by that."""

import pytest

from distill.capabilities import TeacherCapabilities, detect, loss_for
from distill.local_teacher import LocalTokens, ends_of
from distill.target_report import TargetReport
from distill.target_scan import scan
from distill.targets import TeacherToken, explain
from tests.engine_fixtures import smollm2_tokenizer

TOKENIZER = smollm2_tokenizer()
ANSWER = "Your card is on its way, and it should arrive within five working days. "


def logged(pieces: list[str], top: int = 2) -> list[dict[str, object]]:
    others = [{"token": f"{i}", "logprob": -3.0} for i in range(top)]
    return [
        {"token": piece, "bytes": list(piece.encode()), "logprob": -0.2, "top_logprobs": others} for piece in pieces
    ]


def own_pieces(text: str) -> list[str]:
    return [TOKENIZER.decode([token]) for token in TOKENIZER(text, add_special_tokens=False).input_ids]


def test_a_teacher_of_the_students_vocabulary_is_seen_to_be_one():
    answers = [(ANSWER * 3, logged(own_pieces(ANSWER * 3)))] * 3
    teacher, report = scan([*answers, ("no log", None)], TOKENIZER)
    assert (teacher.answers, teacher.with_logprobs, teacher.top_logprobs) == (4, 3, 2)
    assert teacher.same_vocabulary is True
    assert report.rows == {"top_k": 3, "hard": 1}
    assert report.not_aligned["special"] == 3
    assert report.not_aligned["no_logprobs"] == len(TOKENIZER("no log").input_ids) + 1
    assert report.positions == report.aligned + sum(report.not_aligned.values())


def test_a_teacher_of_characters_is_not_the_student():
    teacher, report = scan([(ANSWER * 9, logged(list(ANSWER * 9)))], TOKENIZER)
    assert teacher.same_vocabulary is False
    assert report.rows == {"byte_aligned": 1}
    assert report.not_aligned["merged"] > report.aligned > 0


def test_few_tokens_tell_nothing_of_a_vocabulary():
    teacher, report = scan([("card", logged(["card"]))], TOKENIZER)
    assert teacher.same_vocabulary is None
    assert report.rows == {"byte_aligned": 1}


def test_a_teacher_without_logprobs_gives_hard_labels():
    teacher, report = scan([("card", None), ("late", [])], TOKENIZER)
    assert (teacher.gives_logprobs, teacher.top_logprobs, report.rows) == (False, 0, {"hard": 2})
    assert scan([], TOKENIZER)[1].aligned_share == TargetReport().mass_kept == 0.0


@pytest.mark.parametrize(
    ("given", "has_log", "kind"),
    [
        ({"dense": True}, False, "dense"),
        ({"dense": True}, True, "dense"),
        ({"tokens": 1_000, "same_tokens": 1_000}, True, "top_k"),
        ({"tokens": 1_000, "same_tokens": 990}, True, "byte_aligned"),
        ({"tokens": 99, "same_tokens": 99}, True, "byte_aligned"),
        ({"tokens": 1_000, "same_tokens": 1_000}, False, "hard"),
        ({"foreign": True, "tokens": 1_000, "same_tokens": 1_000}, True, "top_k"),
        ({"foreign": True}, True, "byte_aligned"),
        ({"foreign": True}, False, "foreign"),
    ],
)
def test_the_best_loss_that_the_log_allows_is_chosen(given, has_log, kind):
    assert loss_for([1] if has_log else None, 0.6, TeacherCapabilities(**given)) == kind


def test_a_row_of_which_little_is_aligned_is_a_foreign_local_teachers_if_there_is_one():
    assert loss_for([1], 0.4, TeacherCapabilities(foreign=True)) == "foreign"
    assert loss_for([1], 0.4, TeacherCapabilities()) == "byte_aligned"


@pytest.mark.parametrize(("is_foreign", "rows"), [(False, {"dense": 2}), (True, {"foreign": 2})])
def test_a_local_teacher_is_recorded_and_takes_the_rows_that_nothing_was_logged_of(is_foreign, rows):
    teacher, report = scan([("card", None), ("late", [])], TOKENIZER, LocalTokens(TOKENIZER, is_foreign))
    assert (teacher.dense, teacher.foreign, report.rows) == (not is_foreign, is_foreign, rows)


@pytest.mark.parametrize(
    ("pieces", "answer", "ends"),
    [
        ([b"un", b"happy"], "unhappy", [2, 7, 8]),
        ([b" un", b"happy"], "unhappy", [2, 7, 8]),
        (["\u00e9".encode()[:1], "\u00e9".encode()[1:]], "\u00e9", [1, 2, 3]),
        ([b"un"], "unhappy", None),
        ([b"xun", b"happy"], "unhappy", None),
    ],
)
def test_tokens_end_on_bytes_of_the_answer_or_do_not_spell_it(pieces, answer, ends):
    assert ends_of(pieces, answer) == ends


def test_the_share_of_the_mass_that_is_kept_is_of_positions_with_a_target():
    token = TeacherToken("a", -0.7, [("a", -0.7), ("not of the student", -1.4)])
    report = TargetReport()
    report.add(explain([0, 1], [b"a", b""], [token], {b"a": 0, b"<end>": 1}), "byte_aligned")
    assert (report.aligned, report.not_aligned, report.aligned_share) == (1, {"special": 1}, 0.5)
    assert report.mass_kept == pytest.approx(2.0137527 / (2.0137527 + 1.0))
    assert [row["what"] for row in report.table()] == ["soft target", "special"]


def test_what_the_terms_say_is_kept_with_what_was_seen():
    assert detect([], terms_allow_training=False).terms_allow_training is False
