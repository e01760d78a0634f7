"""Reading a labelled set, its split, and the set that comes with the project."""

import json
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize

from stillroom.demo.desk import OUT_OF_SCOPE, Desk, DeskError, Request, load_desk, own_desk

CLINC = Path(__file__).parents[4] / "shared" / "data" / "clinc150" / "data_full.json"
WORDS = st.text(st.characters(categories=("Ll", "Nd")), min_size=1, max_size=8)
ROWS = st.lists(
    st.tuples(
        st.lists(WORDS, min_size=1, max_size=3), st.sampled_from(["a", "b"]), st.sampled_from(["", "g1", "g2"])
    ),
    max_size=40,
)


def parts_of(desk: Desk) -> tuple[list[Request], ...]:
    return desk.train, desk.validation, desk.test


def crossing(desk: Desk) -> set[str]:
    """Groups with requests in more than one part."""
    groups = [{request.group for request in part} for part in parts_of(desk)]
    return {name for one, other in combinations(groups, 2) for name in one & other}


def jsonl(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    lines = [json.dumps({"text": text, "label": label, "group": group}) for text, label, group in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def rows() -> list[tuple[str, str, str]]:
    return [(f"where is parcel {n}", label, "") for label in ("tracking", "other") for n in range(20)]


def test_a_csv_and_a_jsonl_file_of_the_same_rows_give_the_same_desk(tmp_path: Path, rows):
    table = tmp_path / "set.csv"
    table.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label, _ in rows), encoding="utf-8")
    assert load_desk(table) == load_desk(jsonl(tmp_path / "set.jsonl", rows))


def test_a_split_is_70_10_20_of_each_label_and_the_same_each_time(tmp_path: Path):
    rows = [(f"request {label} {n}", label, "") for label in ("a", "b") for n in range(100)]
    desk = load_desk(jsonl(tmp_path / "set.jsonl", rows))
    counts = [Counter(request.label for request in part) for part in parts_of(desk)]
    assert counts == [{"a": 70, "b": 70}, {"a": 10, "b": 10}, {"a": 20, "b": 20}]
    assert desk == load_desk(tmp_path / "set.jsonl")
    assert desk != load_desk(tmp_path / "set.jsonl", seed=1)
    assert desk.labels() == ["a", "b"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS)
def test_any_rows_are_split_by_whole_groups_without_loss_or_refused(tmp_path: Path, rows):
    path = jsonl(tmp_path / "set.jsonl", [(" ".join(words), label, group) for words, label, group in rows])
    try:
        desk = load_desk(path)
    except DeskError as error:
        assert "too small" in str(error)
        return
    assert crossing(desk) == set()
    taken = [(request.text, request.label) for part in parts_of(desk) for request in part]
    assert Counter(taken) == Counter((" ".join(words), label) for words, label, _ in rows)


def test_paraphrases_in_another_word_order_stay_together(tmp_path: Path):
    rows = [(text, label, "") for label in "ab" for n in range(30) for text in (f"{label} is {n}", f"{n} IS {label}")]
    desk = load_desk(jsonl(tmp_path / "set.jsonl", rows))
    assert crossing(desk) == set()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("a.csv", "text,label\nhello,x\n,y\n", r"a\.csv:3: a row needs a text and a label", id="no text"),
        pytest.param("a.csv", "text,label\nhello\n", r"a\.csv:2: a row needs a text and a label", id="no label"),
        pytest.param(
            "a.csv", "question,intent\nhello,x\n", "needs the columns text and label; it has question", id="q"
        ),
        pytest.param("a.csv", "", "needs the columns text and label; it has", id="empty csv"),
        pytest.param("a.csv", "text,label\nhello,x\n", "too small", id="one row"),
        pytest.param("a.jsonl", '{"text": "a", "label": "b"}\n\n["a"]\n', r"a\.jsonl:3: a row needs", id="no object"),
        pytest.param(
            "a.jsonl", '{"text": "a", "label": "b"}\n{"text": 3, "label": "b"}', r"a\.jsonl:2:", id="number"
        ),
        pytest.param("a.jsonl", '{"text": "a", "label": "b"}\n{"text": ', r"a\.jsonl:2: .*Expecting", id="cut JSON"),
        pytest.param("a.jsonl", "", "too small", id="empty jsonl"),
        pytest.param("a.json", '{"train": []}', "not CLINC150's: it needs train, val and test", id="other JSON"),
        pytest.param("a.json", '{"train": [["a"]], "val": [], "test": []}', r"train\[0\]", id="odd CLINC row"),
        pytest.param("a.json", '{"train": [], "val": [], "test": []}', "too small", id="empty CLINC"),
        pytest.param("a.json", "{", "cannot be read", id="broken JSON"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, name: str, content: str, message: str):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DeskError, match=message):
        load_desk(tmp_path / name)


@pytest.mark.parametrize("content", [b"text,label\n\xff\xfe,a\n", b"text,label\na\x00b,c\n", None])
def test_a_file_that_is_no_text_or_not_there_is_a_desk_error(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DeskError):
        load_desk(tmp_path / "a.csv")


def test_clincs_out_of_scope_requests_are_mixed_into_their_splits(tmp_path: Path):
    data = {
        split: [[f"{split} {n} {label}", label] for n in range(5) for label in "ab"]
        for split in ("train", "val", "test")
    }
    data |= {f"oos_{split}": [[f"oos {split}", "oos"]] for split in ("train", "val", "test")}
    (tmp_path / "data_full.json").write_text(json.dumps(data), encoding="utf-8")
    desk = load_desk(tmp_path / "data_full.json")
    assert [len(part) for part in parts_of(desk)] == [11, 11, 11]
    assert all(sum(not request.in_scope for request in part) == 1 for part in parts_of(desk))


@pytest.mark.skipif(not CLINC.exists(), reason="CLINC150 is not on this machine")
def test_clinc150_is_read_as_published():
    desk = load_desk(CLINC)
    assert [len(part) for part in parts_of(desk)] == [15_100, 3_100, 5_500]
    assert len(desk.labels()) == 151
    assert sum(not request.in_scope for request in desk.test) == 1_000


@pytest.fixture(scope="module")
def own() -> Desk:
    return own_desk()


def test_our_own_set_is_large_enough(own: Desk):
    counts = Counter(request.label for part in parts_of(own) for request in part)
    out_of_scope = sum(counts.pop(label, 0) for label in OUT_OF_SCOPE)
    assert len(counts) >= 20
    assert min(counts.values()) >= 40
    assert out_of_scope >= 150
    for part in parts_of(own):
        assert {request.label for request in part} == set(own.labels()), "every label in every part"


def test_no_group_or_text_of_our_own_set_crosses_its_splits(own: Desk):
    assert crossing(own) == set()
    texts = Counter(" ".join(r.text.casefold().split()) for part in parts_of(own) for r in part)
    assert max(texts.values()) == 1


def test_no_near_duplicate_of_a_label_crosses_the_splits_of_our_own_set(own: Desk):
    """Minimal pairs of two labels ("change the delivery day" / "... address") are no leak, and are left in."""
    rows = [(request, number) for number, part in enumerate(parts_of(own)) for request in part]
    counted = CountVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit_transform([r.text for r, _ in rows])
    unit = normalize(counted.astype(float))
    near = (unit @ unit.T).tocoo()
    pairs = {(i, j) for i, j, value in zip(near.row, near.col, near.data, strict=True) if i < j and value > 0.8}
    leaks = [
        (rows[i][0].text, rows[j][0].text)
        for i, j in pairs | overlapping([word_trigrams(r.text) for r, _ in rows])
        if rows[i][1] != rows[j][1] and rows[i][0].label == rows[j][0].label
    ]
    assert leaks == []


def word_trigrams(text: str) -> set[tuple[str, ...]]:
    words = text.casefold().split()
    return {tuple(words[at : at + 3]) for at in range(max(1, len(words) - 2))}


def overlapping(sets: list[set[tuple[str, ...]]]) -> set[tuple[int, int]]:
    """Pairs of sets whose Jaccard index is above 0.8."""
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, members in enumerate(sets):
        for member in members:
            places[member].append(number)
    pairs = {pair for numbers in places.values() for pair in combinations(numbers, 2)}
    return {(i, j) for i, j in pairs if len(sets[i] & sets[j]) > 0.8 * len(sets[i] | sets[j])}


def test_shifting_traffic_begins_with_the_old_half_of_the_intents_and_goes_on_with_both(own: Desk):
    shifted = own.shifting(first=1_000)
    before, after = shifted.train[:1_000], shifted.train[1_000:]
    old = {request.label for request in before if request.in_scope}
    new = {request.label for request in after if request.slice == "new"}
    assert {request.slice for request in before} == {"old"}
    assert not old & new
    assert abs(len(old) - len(new)) <= 1
    for mixed in (after, shifted.test):
        assert sum(request.slice == "new" for request in mixed) == len(mixed) / 2
    assert {request.text for request in shifted.train} <= {request.text for request in own.train}


def test_a_desk_too_small_to_shift_says_how_many_requests_it_has(own: Desk):
    with pytest.raises(DeskError, match="training requests; more than 100000 are needed"):
        own.shifting(first=100_000)
