"""What a teacher gives is seen from its answers, and the loss of a row is chosen by that."""

import pytest

from distill.capabilities import TeacherCapabilities, detect, loss_for
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
    ],
)
def test_the_best_loss_that_the_log_allows_is_chosen(given, has_log, kind):
    assert loss_for([1] if has_log else None, TeacherCapabilities(**given)) == kind


def test_the_share_of_the_mass_that_is_kept_is_of_positions_with_a_target():
    token = TeacherToken("a", -0.7, [("a", -0.7), ("not of the student", -1.4)])
    report = TargetReport()
    report.add(explain([0, 1], [b"a", b""], [token], {b"a": 0, b"<end>": 1}), "byte_aligned")
    assert (report.aligned, report.not_aligned, report.aligned_share) == (1, {"special": 1}, 0.5)
    assert report.mass_kept == pytest.approx(2.0137527 / (2.0137527 + 1.0))
    assert [row["what"] for row in report.table()] == ["soft target", "special"]


def test_what_the_terms_say_is_kept_with_what_was_seen():
    assert detect([], terms_allow_training=False).terms_allow_training is False
