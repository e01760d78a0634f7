"""Training: what it learns, and that it survives small and one-sided sets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from router.calibration import Prices
from router.evaluate import calibration_error
from router.features import RequestView
from router.model import RouterModel
from router.policy import Capabilities, decide, escalate
from router.signals import TokenLogprob
from router.train import LabelledRequest, train_router
from tests.unit.router.worlds import traffic

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
        escalated, _ = escalate(trained, decision.score, row.tokens)
        answered += not escalated
        wrong += not escalated and not row.agreed
    assert answered / len(unseen) > 0.3
    assert 1 - wrong / len(unseen) >= 0.9
    assert answered / len(unseen) == pytest.approx(trained.thresholds.student_share, abs=0.08)


def test_the_same_rows_and_seed_give_the_same_router():
    rows = traffic(seed=3, size=60)
    one, other = (train_router(rows, 0.9, 0.1, PRICES, seed=4) for _ in range(2))
    assert np.array_equal(one.coefficients.classifier_weights, other.coefficients.classifier_weights)
    assert np.array_equal(one.coefficients.confidence_weights, other.coefficients.confidence_weights)
    assert (one.thresholds, one.training) == (other.thresholds, other.training)


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
    assert model.training.regularisation == 0.0
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
