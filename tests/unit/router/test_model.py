"""The files of a router: what is written is what is read, and nothing else is read."""

import hashlib
import json
import pickletools
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from router.calibration import Thresholds
from router.classifier import Classifier
from router.classifier_training import fit_classifier
from router.confidence import EVIDENCE, ConfidenceModel
from router.features import RequestView
from router.model import RouterFileError, RouterModel
from router.signals import SIGNALS, TokenLogprob, confidence_signals
from tests.unit.router.worlds import REFERENCE, SUMMARY

FILES = ("router.json", "router.safetensors")
THRESHOLDS = Thresholds(0.2, 0.1 + 0.2, 0.95, 0.05, 300, 1 / 3, 0.951, True, 0.9, 0.25, 0.1)


@cache
def classifier() -> Classifier:
    """Has learned that questions about parcels go well."""
    texts = [f"where is {'my parcel' if n % 2 else 'the proof'} number {n}" for n in range(80)]
    return fit_classifier([RequestView((("user", text),)) for text in texts], np.arange(80) % 2 > 0)


def model(seed: int = 0, needs_logprobs: bool = True) -> RouterModel:
    rng = np.random.default_rng(seed)
    held, whole = (ConfidenceModel(rng.normal(size=EVIDENCE), float(rng.normal())) for _ in range(2))
    return RouterModel(classifier(), held, whole, needs_logprobs, THRESHOLDS, SUMMARY, REFERENCE)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "router"
    model().save(folder)
    return folder


def copy_with(saved: Path, folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for file in FILES:
        (folder / file).write_bytes((saved / file).read_bytes())
    (folder / name).write_bytes(content)
    return folder


@given(st.text(max_size=200), st.lists(st.floats(-20, 0), max_size=10))
def test_a_loaded_router_gives_the_same_numbers_bit_for_bit(saved: Path, text: str, logprobs: list[float]):
    view, tokens = RequestView((("user", text),)), [TokenLogprob(value, (value,)) for value in logprobs]
    before, after = model(), RouterModel.load(saved)
    score = before.score(view)
    assert after.assess(view) == before.assess(view)
    for whole in (False, True):
        assert after.confidence(score, tokens, whole, True) == before.confidence(score, tokens, whole, True)
    assert (after.thresholds, after.training) == (before.thresholds, before.training)
    assert after.reference == before.reference


def test_one_answer_is_judged_as_it_is_among_many():
    held, tokens = model().held, [TokenLogprob(-0.5, (-0.5, -1.5))]
    scores, signals = np.array([0.0, 0.2, 0.9, 1.0]), confidence_signals(tokens)
    many = held.many(scores, np.tile(signals, (4, 1)))
    assert many == pytest.approx([held.one(float(score), signals) for score in scores])


def test_streams_and_whole_answers_are_judged_by_models_of_their_own():
    router, tokens = model(), [TokenLogprob(-0.5, (-0.5, -1.5))]
    signals = confidence_signals(tokens)
    assert router.confidence(0.7, tokens) == router.held.one(0.7, signals)
    assert router.confidence(0.7, tokens, whole=True) == router.whole.one(0.7, signals)


def test_only_a_whole_answer_can_be_cut_off():
    router, tokens = model(), [TokenLogprob(-0.5, (-0.5, -1.5))]
    assert router.confidence(0.7, tokens, cut_off=True) == router.confidence(0.7, tokens)
    assert router.confidence(0.7, tokens, whole=True, cut_off=True) != router.confidence(0.7, tokens, whole=True)
    assert router.whole.weights[SIGNALS.index("cut_off")] != 0


def test_an_answer_without_logprobs_has_no_confidence_if_the_router_knows_better():
    assert model().confidence(0.99, ()) == 0.0
    assert model(needs_logprobs=False).confidence(0.99, ()) > 0.0


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_a_certain_score_gives_a_finite_confidence(score: float):
    assert 0.0 <= model().confidence(score, [TokenLogprob(-0.1, ())]) <= 1.0


def test_the_files_are_safetensors_and_json_with_no_pickle(saved: Path):
    assert sorted(path.name for path in saved.iterdir()) == sorted(FILES)
    json.loads((saved / "router.json").read_bytes())
    for name in FILES:
        with pytest.raises((ValueError, IndexError)):
            list(pickletools.genops((saved / name).read_bytes()))


@given(cut=st.integers(0, 10**6), name=st.sampled_from(FILES))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_a_truncated_file_is_refused(saved: Path, tmp_path: Path, cut: int, name: str):
    content = (saved / name).read_bytes()
    folder = copy_with(saved, tmp_path / "copy", name, content[: cut % (len(content) - 1)])
    with pytest.raises(RouterFileError):
        RouterModel.load(folder)


@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_a_changed_byte_in_the_weights_is_refused(saved: Path, tmp_path: Path, place: int, flip: int):
    content = bytearray((saved / FILES[1]).read_bytes())
    content[place % len(content)] ^= flip
    folder = copy_with(saved, tmp_path / "copy", FILES[1], bytes(content))
    with pytest.raises(RouterFileError, match="damaged"):
        RouterModel.load(folder)


@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_in_the_json_raises_nothing_but_the_named_error(
    saved: Path, tmp_path: Path, place: int, flip: int
):
    content = bytearray((saved / FILES[0]).read_bytes())
    content[place % len(content)] ^= flip
    folder = copy_with(saved, tmp_path / "copy", FILES[0], bytes(content))
    try:
        RouterModel.load(folder)
    except RouterFileError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"null", b"\xff\xfe", b'{"schema_version": 2}', b'{"schema_version": "2"}', b"\x80\x04N."],
)
def test_foreign_json_is_refused(saved: Path, tmp_path: Path, content: bytes):
    with pytest.raises(RouterFileError, match=r"router\.json is not a router"):
        RouterModel.load(copy_with(saved, tmp_path, FILES[0], content))


@pytest.mark.parametrize("version", [1, 99])
def test_another_schema_version_is_named_in_the_message(saved: Path, tmp_path: Path, version: int):
    changed = json.loads((saved / "router.json").read_bytes()) | {"schema_version": version}
    with pytest.raises(RouterFileError, match=f"version {version}.*retrain it"):
        RouterModel.load(copy_with(saved, tmp_path, FILES[0], json.dumps(changed).encode()))


def test_the_classifiers_part_of_the_json_is_checked(saved: Path, tmp_path: Path):
    changed = json.loads((saved / "router.json").read_bytes()) | {"classifier": {}}
    with pytest.raises(RouterFileError, match="no router's weights"):
        RouterModel.load(copy_with(saved, tmp_path, FILES[0], json.dumps(changed).encode()))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"held_weights": None}, "held_weights must"),
        ({"whole_weights": np.zeros(7)}, "whole_weights must"),
        ({"held_weights": np.full(EVIDENCE, np.nan)}, "held_weights must"),
        ({"classifier_dense": np.zeros(7)}, "classifier_dense must"),
        (None, "not safetensors"),
    ],
)
def test_foreign_weights_are_refused_even_when_their_hash_matches(
    saved: Path, tmp_path: Path, changes: dict[str, np.ndarray | None] | None, complaint: str
):
    folder = copy_with(saved, tmp_path, FILES[1], b"not tensors at all")
    if changes is not None:
        tensors = load_file(saved / FILES[1]) | changes
        save_file({name: array for name, array in tensors.items() if array is not None}, folder / FILES[1])
    digest = hashlib.sha256((folder / FILES[1]).read_bytes()).hexdigest()
    changed = json.loads((saved / FILES[0]).read_bytes()) | {"tensors_sha256": digest}
    (folder / FILES[0]).write_text(json.dumps(changed))
    with pytest.raises(RouterFileError, match=complaint):
        RouterModel.load(folder)


@pytest.mark.parametrize("missing", FILES)
def test_a_missing_file_is_named_as_such(saved: Path, tmp_path: Path, missing: str):
    folder = copy_with(saved, tmp_path, missing, b"")
    (folder / missing).unlink()
    with pytest.raises(RouterFileError, match="No such file"):
        RouterModel.load(folder)
