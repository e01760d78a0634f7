"""Training: what it learns, and that it survives small and one-sided sets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from router.calibration import Prices
from router.calibration_error import calibration_error
from router.features import RequestView
from router.model import RouterModel
from router.policy import Capabilities, decide, escalate
from router.reference import STEPS
from router.signals import TokenLogprob
from router.train import LabelledRequest, train_router
from tests.unit.router.worlds import told_late, traffic

PRICES = Prices(student=1.0, teacher=20.0)


@pytest.fixture(scope="module")
def trained() -> RouterModel:
    return train_router(traffic(seed=1, size=500), 0.9, 0.1, PRICES)


@pytest.fixture(scope="module")
def unseen() -> list[LabelledRequest]:
    return traffic(seed=2, size=1500)


def scored(model: RouterModel, rows: list[LabelledRequest]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores = np.array([model.score(row.view) for row in rows])
    confidences = [model.confidence(float(s), row.tokens) for s, row in zip(scores, rows, strict=True)]
    return scores, np.array(confidences), np.array([row.agreed for row in rows])


def test_confidence_tells_more_than_the_score_and_the_score_more_than_nothing(
    trained: RouterModel, unseen: list[LabelledRequest]
):
    scores, confidences, agreed = scored(trained, unseen)
    assert roc_auc_score(agreed, scores) > 0.55
    assert roc_auc_score(agreed, confidences) > roc_auc_score(agreed, scores) + 0.1


def test_score_and_confidence_are_calibrated_on_unseen_requests(trained: RouterModel, unseen: list[LabelledRequest]):
    scores, confidences, agreed = scored(trained, unseen)
    assert calibration_error(scores, agreed) < 0.05
    assert calibration_error(confidences, agreed) < 0.05


def test_the_served_router_keeps_the_target_on_unseen_requests(trained: RouterModel, unseen: list[LabelledRequest]):
    wrong = answered = 0
    for row in unseen:
        decision = decide(row.view, trained, Capabilities(1000))
        if decision.score is None or decision.route == "teacher":
            continue
        escalated = decision.is_provisional and escalate(trained, decision.score, row.tokens)[0]
        answered += not escalated
        wrong += not escalated and not row.agreed
    assert answered / len(unseen) > 0.3
    assert 1 - wrong / len(unseen) >= 0.9
    assert answered / len(unseen) == pytest.approx(trained.thresholds.student_share, abs=0.08)


def test_the_same_rows_and_seed_give_the_same_router(tmp_path: Path):
    rows = traffic(seed=3, size=60)
    one, other = (train_router(rows, 0.9, 0.1, PRICES, seed=4) for _ in range(2))
    one.save(tmp_path / "one")
    other.save(tmp_path / "other")
    for name in ("router.json", "router.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


@pytest.mark.parametrize("size", [0, 1, 5, 19, 25, 60])
def test_few_rows_train_a_router_that_can_be_saved_and_asked(size: int, tmp_path: Path):
    model = train_router(traffic(seed=5, size=size), 0.95, 0.05, PRICES)
    model.save(tmp_path)
    again = RouterModel.load(tmp_path)
    score = again.score(RequestView((("user", "hello"),)))
    assert 0.0 < score < 1.0
    assert model.thresholds.feasible is False
    assert model.training.rows == size


def one_sided(size: int, agreed: bool) -> list[LabelledRequest]:
    return [replace(row, agreed=agreed) for row in traffic(seed=6, size=size)]


@pytest.mark.parametrize(("size", "feasible"), [(30, False), (300, True)])
def test_agreement_everywhere_still_has_to_pass_the_bound(size: int, feasible: bool):
    rows = one_sided(size, agreed=True)
    model = train_router(rows, 0.95, 0.05, PRICES)
    assert model.thresholds.feasible is feasible
    decision = decide(rows[0].view, model, Capabilities(1000))
    assert decision.route == ("student" if feasible else "teacher")
    assert escalate(model, model.score(rows[0].view), rows[0].tokens)[0] is not feasible
    assert escalate(model, model.score(rows[0].view), ())[0]


def test_agreement_nowhere_sends_everything_to_the_teacher():
    model = train_router(one_sided(300, agreed=False), 0.95, 0.05, PRICES)
    assert not model.thresholds.feasible
    assert model.score(RequestView((("user", "hello"),))) < 0.01


def test_a_handful_of_disagreements_is_too_few_to_learn_from_but_counts():
    rows = one_sided(400, agreed=True)
    model = train_router([replace(row, agreed=i >= 5) for i, row in enumerate(rows)], 0.95, 0.05, PRICES)
    assert not model.training.fitted
    assert model.thresholds.feasible
    assert model.thresholds.agreement_lower_bound < 1 - 5 / 400


def test_a_handful_of_disagreements_is_escalated_where_the_student_itself_was_unsure():
    sure, unsure = (tuple(TokenLogprob(p, (p,)) for _ in range(3)) for p in (-0.01, -1.5))
    rows = [replace(row, agreed=i >= 3, tokens=unsure if i < 6 else sure) for i, row in enumerate(traffic(7, 150))]
    model = train_router(rows, 0.95, 0.05, PRICES)
    assert model.thresholds.feasible
    assert model.thresholds.student_share == pytest.approx(144 / 150)
    score = model.score(rows[0].view)
    assert escalate(model, score, unsure)[0]
    assert not escalate(model, score, sure)[0]


def test_a_student_without_logprobs_is_routed_by_the_score_alone():
    rows = [replace(row, tokens=()) for row in traffic(seed=7, size=120)]
    model = train_router(rows, 0.5, 0.2, PRICES)
    assert model.thresholds.feasible
    assert model.confidence(0.9, ()) >= model.confidence(0.1, ())


def test_rows_without_logprobs_are_left_out_when_others_have_them():
    rows = traffic(seed=8, size=60)
    mixed = rows + [replace(row, tokens=()) for row in traffic(seed=9, size=40)]
    assert train_router(mixed, 0.9, 0.1, PRICES).training.rows == 60


@pytest.fixture(scope="module")
def of_late() -> RouterModel:
    return train_router(told_late(seed=10, size=500), 0.9, 0.1, PRICES)


def test_the_cascade_is_better_than_the_classifier_and_best_at_the_end(of_late: RouterModel):
    by_request, held, whole = of_late.training.classifier, of_late.training.held, of_late.training.whole
    assert by_request.auc is not None
    assert held.auc is not None
    assert whole.auc is not None
    assert by_request.auc + 0.02 < held.auc < whole.auc - 0.05
    assert by_request.student_share + 0.1 < whole.student_share
    assert by_request.cost > whole.cost
    assert min(way.agreement for way in (by_request, held, whole)) >= 0.9
    share = (held.student_share + whole.student_share) / 2
    assert of_late.thresholds.student_share == pytest.approx(share)


def test_what_holding_costs_is_the_time_of_the_tokens_after_the_first(of_late: RouterModel, trained: RouterModel):
    assert of_late.training.hold_ms == 3 * 20.0
    assert trained.training.hold_ms is None


def test_long_answers_are_neither_doubted_nor_believed_for_their_length(of_late: RouterModel):
    rows = [row for row in told_late(seed=11, size=3000) if row.whole]
    for length in (8, 80):
        alike = [row for row in rows if row.whole and len(row.whole) == length]
        confidences = [of_late.confidence(0.7, row.whole or (), whole=True) for row in alike]
        assert np.mean(confidences) == pytest.approx(np.mean([row.agreed for row in alike]), abs=0.08)


def test_what_is_learned_is_whether_the_teacher_would_have_been_better_and_what_is_promised_is_agreement():
    rows = [row for row in traffic(seed=12, size=300) if not row.agreed or "topic5" not in str(row.view.messages)]
    spared = [replace(row, teacher_right="topic5" not in str(row.view.messages)) for row in rows]
    before, after = (train_router(of, 0.9, 0.1, PRICES) for of in (rows, spared))
    view = next(row.view for row in rows if "topic5" in str(row.view.messages))
    assert after.score(view) > before.score(view) + 0.2
    assert after.training.agreed == before.training.agreed == sum(row.agreed for row in rows)


def test_labels_drawn_by_lot_teach_nothing():
    """Neither number may know a row's own label."""
    rng = np.random.default_rng(13)
    rows = [replace(row, agreed=bool(rng.random() < 0.7)) for row in traffic(seed=13, size=400)]
    model = train_router(rows, 0.9, 0.1, PRICES)
    assert model.training.classifier.auc == pytest.approx(0.5, abs=0.1)
    assert model.training.held.auc == pytest.approx(0.5, abs=0.1)
    # as many as lots may answer: of each three tenths are wrong, and one tenth of all may be
    assert model.thresholds.student_share < 1 / 3


def test_the_reference_is_what_was_said_of_the_training_rows(trained: RouterModel):
    reference = trained.reference
    assert reference.rows == 500
    for column in (reference.score, reference.confidence, reference.novelty):
        assert len(column) == STEPS + 1
        assert list(column) == sorted(column)
        assert 0 <= column[0] < column[-1] <= 1
