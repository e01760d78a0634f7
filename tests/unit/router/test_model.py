"""The files of a router: what is written is what is read, and nothing else is read."""

import hashlib
import json
import pickletools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from router.calibration import Thresholds
from router.features import FEATURES, RequestView
from router.matrix import features
from router.model import Coefficients, RouterFileError, RouterModel, TrainingSummary
from router.signals import SIGNALS, TokenLogprob, confidence_signals

FILES = ("router.json", "router.safetensors")


def model(seed: int = 0, needs_logprobs: bool = True) -> RouterModel:
    rng = np.random.default_rng(seed)
    return RouterModel(
        Coefficients(
            rng.normal(size=FEATURES).astype(np.float32),
            float(rng.normal()),
            rng.normal(size=len(SIGNALS) + 1),
            float(rng.normal()),
            needs_logprobs,
        ),
        Thresholds(0.2, 0.1 + 0.2, 0.95, 0.05, 300, 1 / 3, 0.951, feasible=True),
        TrainingSummary(300, 280, seed, 0.1, 0.02, 0.01),
    )


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
    assert after.score(view) == score
    assert after.confidence(score, tokens) == before.confidence(score, tokens)
    assert (after.thresholds, after.training) == (before.thresholds, before.training)


def test_one_request_scores_as_it_does_among_many():
    router, tokens = model(), [TokenLogprob(-0.5, (-0.5, -1.5))]
    views = [RequestView((("user", text),)) for text in ("one", "two three", "")]
    scores = router.coefficients.scores(features(views))
    signals = np.tile(confidence_signals(tokens), (3, 1))
    confidences = router.coefficients.confidences(scores, signals)
    assert scores == pytest.approx([router.score(view) for view in views])
    assert confidences == pytest.approx([router.confidence(float(score), tokens) for score in scores])


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
    [b"", b"[]", b"{}", b"null", b"\xff\xfe", b'{"schema_version": 1}', b'{"schema_version": "1"}', b"\x80\x04N."],
)
def test_foreign_json_is_refused(saved: Path, tmp_path: Path, content: bytes):
    with pytest.raises(RouterFileError, match=r"router\.json is not a router"):
        RouterModel.load(copy_with(saved, tmp_path, FILES[0], content))


def test_another_schema_version_is_named_in_the_message(saved: Path, tmp_path: Path):
    changed = json.loads((saved / FILES[0]).read_bytes()) | {"schema_version": 99}
    with pytest.raises(RouterFileError, match="version 99"):
        RouterModel.load(copy_with(saved, tmp_path, FILES[0], json.dumps(changed).encode()))


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"other": np.zeros(3)}, "other tensors"),
        ({"classifier_weights": np.zeros(7), "confidence_weights": np.zeros(10)}, "other tensors"),
        (
            {
                "classifier_weights": np.full(FEATURES, np.nan, dtype=np.float32),
                "confidence_weights": np.zeros(len(SIGNALS) + 1),
            },
            "not finite",
        ),
        (None, "not safetensors"),
    ],
)
def test_foreign_weights_are_refused_even_when_their_hash_matches(
    saved: Path, tmp_path: Path, tensors: dict[str, np.ndarray] | None, complaint: str
):
    folder = copy_with(saved, tmp_path, FILES[1], b"not tensors at all")
    if tensors is not None:
        save_file(tensors, folder / FILES[1])
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
