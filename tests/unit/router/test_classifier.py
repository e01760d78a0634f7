"""The request classifier: what it says, how it is trained, and what it says far from its training."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.calibration_error import calibration_error
from router.classifier import DENSE_COLUMNS, Assessment, Classifier
from router.classifier_training import cross_fitted, fit_classifier
from router.corpus import corpus_of, surprise_of
from router.dense import DENSE, dense_row
from router.features import RequestView, edges
from router.hashing import BUCKETS, CHAR_START, PAIR_START, grams_of
from router.lexicon import FEW, WORDS, Lexicon

ANY_TEXT = st.text(st.characters(), max_size=300)  # lone surrogates included
WORDY = st.text("ab \t\nßİ?é漢_1,.\ud800", max_size=80)
SUBJECTS = 10
World = tuple[list[RequestView], np.ndarray, list[str]]


def asking(text: str) -> RequestView:
    return RequestView((("user", text),))


def vocabulary(rng: np.random.Generator, count: int) -> list[str]:
    return ["".join(rng.choice(list("abcdefghiklmnoprstuw"), rng.integers(3, 9))) for _ in range(count)]


def subjects(
    rows: int, seed: int = 0, effect: float = 1.5, length: float = 1.0
) -> tuple[list[RequestView], np.ndarray, list[str]]:
    """Requests of subjects that have words of their own and go well or badly for no reason that carries over; in all
    of them, longer requests go worse.
    """
    rng = np.random.default_rng(seed)
    common, own = vocabulary(rng, 80), [vocabulary(rng, 40) for _ in range(SUBJECTS)]
    effects = effect * rng.permutation(np.linspace(-1.0, 1.0, SUBJECTS))
    subject, size = rng.integers(SUBJECTS, size=rows), np.exp(rng.normal(2.5, 0.7, size=rows)).astype(int) + 3
    texts = [
        " ".join(np.where(rng.random(n) < 0.5, rng.choice(common, n), rng.choice(own[s], n)))
        for s, n in zip(subject, size, strict=True)
    ]
    logits = effects[subject] - length * (np.log(size) - 2.6) / 0.7
    return list(map(asking, texts)), rng.random(rows) < 1 / (1 + np.exp(-logits)), list(map(str, subject))


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Of a random pair of either label, how often the one that agreed ranks higher."""
    higher = scores[labels][:, np.newaxis] - scores[~labels]
    return float(np.mean(higher > 0) + np.mean(higher == 0) / 2)


@pytest.fixture(scope="module")
def world() -> World:
    return subjects(1_000)


@pytest.fixture(scope="module")
def fitted(world: World) -> Classifier:
    views, agreed, _ = world
    return fit_classifier(views, agreed)


@given(ANY_TEXT | WORDY)
@settings(max_examples=150, deadline=None)
def test_any_text_gets_a_score_and_a_novelty(fitted: Classifier, text: str):
    said = fitted.assess(asking(text))
    assert 0.0 <= said.score <= 1.0
    assert 0.0 <= said.novelty <= 1.0
    assert fitted.assess(asking(text)) == said


@given(st.lists(WORDY | ANY_TEXT, min_size=1, max_size=5))
@settings(deadline=None)
def test_one_request_is_read_as_the_trainer_reads_many(texts: list[str]):
    rng = np.random.default_rng(5)
    weights = rng.normal(size=BUCKETS).astype(np.float32)
    corpus = corpus_of(list(map(asking, texts)))
    surprise = surprise_of(corpus.counts(np.arange(len(texts))), 20.0).astype(np.float32)
    lexicon = Lexicon(weights, surprise)
    many = corpus.ngrams(surprise.astype(np.float64)) @ weights.astype(np.float64)
    surprises = corpus.surprises(surprise.astype(np.float64))
    for i, text in enumerate(texts):
        words = edges(text).casefold().split()
        assert lexicon.read(words) == pytest.approx((many[i], surprises[i]), abs=1e-9)
        assert lexicon.read(words) == pytest.approx((many[i], surprises[i]), abs=1e-9)
        assert np.array_equal(corpus.dense[i], np.array(dense_row(asking(text), text, edges(text), words)))


@pytest.mark.parametrize("size", [1, 2, FEW - 1, FEW, FEW + 1, 3 * FEW])
@pytest.mark.parametrize("kinds", [3, 40, 10_000], ids=["repeated", "mixed", "all new"])
def test_few_words_and_many_are_read_alike(size: int, kinds: int):
    rng = np.random.default_rng(size)
    words = [f"word{number}" for number in rng.integers(kinds, size=size)]
    weights = rng.normal(size=BUCKETS).astype(np.float32)
    surprise = rng.random(PAIR_START).astype(np.float32)
    corpus = corpus_of([asking(" ".join(words))])
    said = corpus.ngrams(surprise.astype(np.float64)) @ weights.astype(np.float64)
    surprises = corpus.surprises(surprise.astype(np.float64))
    lexicon = Lexicon(weights, surprise)
    for _ in range(2):
        assert lexicon.read(words) == pytest.approx((said[0], surprises[0]), abs=1e-9)


@given(st.lists(WORDY | ANY_TEXT | st.just("make " * 3_000), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_one_request_is_scaled_as_many_are(fitted: Classifier, texts: list[str], seed: int):
    """In bounds and out of them."""
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.random((2, DENSE_COLUMNS)), axis=0)
    scaling = replace(
        fitted.scaling, least=low, most=high, mean=(low + high) / 2, scale=rng.random(DENSE_COLUMNS) + 0.01
    )
    of_one = replace(fitted, scaling=scaling, dense=rng.normal(size=DENSE_COLUMNS))
    for text in texts:
        row = dense_row(asking(text), text, edges(text), edges(text).casefold().split())
        columns = scaling.columns(np.array(row, dtype=np.float64))
        wanted = float(scaling.standard(columns) @ of_one.dense), float(scaling.outside(columns))
        assert of_one._read_dense(row) == pytest.approx(wanted, abs=1e-9)


@given(st.lists(ANY_TEXT, max_size=3), st.booleans(), st.integers(0, 1_000))
def test_dense_features_are_bounded(texts: list[str], schema: bool, tools: int):
    view = RequestView(tuple(("user", text) for text in texts), has_tools=tools > 0, wants_schema=schema, tools=tools)
    text = view.text()
    row = np.array(dense_row(view, text, edges(text), edges(text).casefold().split()), dtype=np.float64)
    assert row.shape == (len(DENSE),)
    assert ((row >= 0.0) & (row <= 1.0)).all()


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("```py\nx = 1\n```", "fenced"),
        ("是这样吗\uff1f", "asks"),
        ("Pourquoi pas", "question_words"),
        ("Pick:\nA) tea\nB) milk", "choices"),
        ("Buy:\n- tea\n- milk", "lists"),
        ("see https://example.org", "links"),
        ("\\frac{a}{b}", "share_latex"),
        ("Привет", "share_greek_cyrillic"),
        ("مرحبا", "share_semitic"),
        ("नमस्ते", "share_indic"),
        ("漢字", "share_cjk"),
        ("안녕", "share_hangul"),
    ],
)
def test_dense_features_see_what_they_are_named_after(text: str, column: str):
    def value(said: str) -> float:
        return float(dense_row(asking(said), said, said, said.casefold().split())[DENSE.index(column)])

    assert value(text) > value("tell me more of it") == 0.0


def test_the_parts_of_a_request_that_are_not_its_text_count_too():
    plain = RequestView((("user", "hi"),))
    rich = RequestView((("system", "Be brief."), ("user", "hi")), has_tools=True, tools=3, wants_schema=True)
    rows = [dense_row(view, "hi", "hi", ["hi"]) for view in (plain, rich)]
    differing = {name for name, a, b in zip(DENSE, *rows, strict=True) if a != b}
    assert differing == {"log_turns", "log_context", "log_system", "log_tools", "has_tools", "wants_schema"}


def test_character_ngrams_stay_inside_their_word_and_words_lose_their_marks():
    grams = grams_of(["banana", "(banana),", "--"])
    assert grams.words[0] == grams.words[1]
    padded = " banana "
    assert grams.ends[0] == sum(len(padded) - size + 1 for size in (2, 3, 4, 5))
    alone = grams_of(["banana"])
    assert np.array_equal(np.sort(alone.chars), np.sort(grams.chars[: grams.ends[0]]))
    assert ((grams.chars >= CHAR_START) & (grams.chars < PAIR_START)).all()


def test_the_memory_of_words_begins_anew_rather_than_grow_without_bound():
    lexicon = Lexicon(np.ones(BUCKETS, dtype=np.float32), np.ones(PAIR_START, dtype=np.float32))
    first = lexicon.read(["w1", "w2"])
    for start in range(0, WORDS + 2_000, 2_000):
        lexicon.read([f"w{start + i}" for i in range(2_000)])
        assert len(lexicon) <= WORDS
    lexicon.read(["k" * 8_000] * 3 + [f"{i}" * 1_500 for i in range(1_000)])
    assert len(lexicon) <= WORDS
    assert lexicon.read(["w1", "w2"]) == first


def test_only_the_edges_of_a_long_text_are_read(fitted: Classifier):
    head, tail = "head " * 800, "tail " * 800
    said = [fitted.assess(asking(head + middle * 9_000 + tail)) for middle in ("x", "y")]
    assert said[0] == said[1]


def test_in_its_domain_it_ranks_better_than_length_and_is_calibrated(world: World):
    views, agreed, _ = world
    scores, novelties = cross_fitted(views, agreed)
    length = -np.array([len(view.text()) for view in views])
    assert auc(agreed, scores) > auc(agreed, length) + 0.05
    assert calibration_error(scores, agreed, bins=5) < 0.05
    assert 0.0 <= np.quantile(novelties, 0.1) < 0.1 < np.quantile(novelties, 0.9) < 0.6


def test_where_words_mislead_it_falls_back_on_length_for_subjects_it_never_saw(world: World):
    views, agreed, names = world
    unseen = np.isin(np.array(names), ("0", "1", "2"))
    inside, outside = np.flatnonzero(~unseen), np.flatnonzero(unseen)
    fit = fit_classifier([views[i] for i in inside], agreed[inside], [names[i] for i in inside])
    scores, novelties = fit.assess_many([views[i] for i in outside])
    length = -np.array([len(views[i].text()) for i in outside])
    assert auc(agreed[outside], scores) > auc(agreed[outside], length) - 0.04
    assert np.median(novelties) > np.median(fit.assess_many([views[i] for i in inside])[1]) + 0.1


def test_gibberish_and_foreign_text_are_novel_and_say_nothing_by_their_words(world: World, fitted: Classifier):
    views, _, _ = world
    usual = float(np.median(fitted.assess_many(views)[1]))
    for text in ("xqzvj kkqx zzvq jjxq", "Где находится ближайшая станция", "請問最近的車站在哪裡"):
        assert fitted.assess(asking(text)).novelty > max(usual + 0.3, 0.6)


def test_no_group_is_split_when_scores_are_cross_fitted(world: World):
    views, agreed, names = world
    _, random = cross_fitted(views, agreed)
    _, grouped = cross_fitted(views, agreed, names)
    assert np.median(grouped) > np.median(random) + 0.1


def test_the_same_rows_and_seed_give_the_same_classifier(world: World):
    views, agreed, _ = world
    first, second = (fit_classifier(views[:200], agreed[:200], seed=3) for _ in range(2))
    assert first.described() == second.described()
    for name, tensor in first.tensors().items():
        assert np.array_equal(tensor, second.tensors()[name])


def test_what_is_kept_is_what_is_restored(world: World, fitted: Classifier):
    views, _, _ = world
    again = Classifier.restore(fitted.tensors(), fitted.described())
    assert all(again.assess(view) == fitted.assess(view) for view in views[:50])


@pytest.mark.parametrize("damage", ["shape", "missing", "not finite", "number", "scale"])
def test_a_damaged_classifier_is_refused(fitted: Classifier, damage: str):
    tensors, described = fitted.tensors(), fitted.described()
    if damage == "shape":
        tensors["classifier_grams"] = tensors["classifier_grams"][1:]
    elif damage == "missing":
        del tensors["classifier_dense"]
    elif damage == "not finite":
        tensors["classifier_dense"] = np.full(DENSE_COLUMNS, np.nan)
    elif damage == "number":
        described["bias"] = None
    else:
        tensors["classifier_scale"] = np.zeros(DENSE_COLUMNS)
    with pytest.raises(ValueError, match="classifier"):
        Classifier.restore(tensors, described)


def test_over_several_worlds_a_former_classifier_makes_up_for_few_rows():
    gains: list[float] = []
    for seed in range(4):
        views, agreed, _ = subjects(1_660, seed=seed)
        former = fit_classifier(views[:600], agreed[:600])
        scratch = fit_classifier(views[600:660], agreed[600:660])
        warm = fit_classifier(views[600:660], agreed[600:660], warm=former)
        assert warm.rows == 660
        ranks = [auc(agreed[660:], each.assess_many(views[660:])[0]) for each in (scratch, warm)]
        gains.append(ranks[1] - ranks[0])
    assert np.mean(gains) > 0.02


def test_nothing_is_extrapolated_from_a_column_that_was_the_same_in_all_of_training():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["make", "tidy", "sort", "list"], 10)) for _ in range(200)]
    assert len({len(text) for text in texts}) == 1
    fit = fit_classifier(list(map(asking, texts)), np.array(["make tidy" in text for text in texts]))
    row = dense_row(asking("make " * 2_000), "make " * 2_000, "make " * 2_000, ["make"] * 2_000)
    columns = fit.scaling.columns(np.array(row, dtype=np.float64))
    assert fit.scaling.standard(columns)[0] == pytest.approx(0.0)
    usual, longer, longest = (fit.assess(asking(" ".join(["make", "sort"] * n))) for n in (5, 20, 2_000))
    assert usual.novelty < longer.novelty < longest.novelty
    assert longest.novelty > 0.5
    assert abs(longer.score - usual.score) < 0.2


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_a_dense_value_outside_training_says_what_the_outermost_said(fitted: Classifier, seed: int):
    scaling, rng = fitted.scaling, np.random.default_rng(seed)
    columns = rng.random((3, DENSE_COLUMNS)) * 2.0 - 0.5
    inside = np.minimum(np.maximum(columns, scaling.least), scaling.most)
    assert np.array_equal(scaling.standard(columns), scaling.standard(inside))
    assert (scaling.outside(inside) == 0.0).all()
    assert (scaling.outside(columns) > 0.0).all()


@pytest.mark.parametrize("rows", [0, 1, 2, 30])
def test_with_one_label_only_the_base_rate_is_learned(rows: int):
    views = [asking(f"request {i}") for i in range(rows)]
    fit = fit_classifier(views, np.ones(rows, dtype=bool))
    assert fit.assess(asking("any")).score == pytest.approx((rows + 1) / (rows + 2))
    assert fit.assess(asking("")).score == fit.assess(asking("any")).score
    scores, novelties = cross_fitted(views, np.ones(rows, dtype=bool))
    assert scores.shape == novelties.shape == (rows,)


def test_rows_and_labels_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="as many"):
        fit_classifier([asking("a")], np.ones(2, dtype=bool))


def test_a_request_of_a_group_that_training_did_not_have_is_all_new_and_judged_without_its_words():
    rng = np.random.default_rng(0)
    texts = [f"{rng.choice(['good', 'evil'])} question number {rng.integers(100)}" for _ in range(400)]
    agreed = np.array([text.startswith("good") for text in texts])
    views = [RequestView((("user", text),), group=f"app {i % 4}") for i, text in enumerate(texts)]
    fitted = fit_classifier(views, agreed)
    assert fitted.groups == {f"app {i}" for i in range(4)}

    def of(group: str) -> Assessment:
        return fitted.assess(RequestView((("user", "evil question number 7"),), group=group))

    assert of("app 1").novelty == of("").novelty < 0.5
    assert of("app 1").score < 0.1
    assert of("another app").novelty == 1.0
    assert of("another app").score > of("app 1").score
    again = Classifier.restore(fitted.tensors(), fitted.described())
    assert again.groups == fitted.groups
    scores, novelties = cross_fitted(views, agreed, [view.group for view in views])
    assert (novelties == 1.0).all()
    assert scores.std() < 0.2
