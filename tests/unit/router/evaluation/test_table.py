"""Tables as projects publish them are read without naming columns, and a bad one says what it has."""

import csv
import gzip
import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from router.evaluation.cells import number, prompt_text
from router.evaluation.layout import Columns
from router.evaluation.reading import TableError
from router.evaluation.table import read_table, read_training_table

MIXTRAL, GPT = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def subject(path, name, n=12):
    """A file such as RouteLLM has for each subject of MMLU."""
    rows = [{"prompt": f"{name} {i}?\nA. x\nB. y", MIXTRAL: i % 2 == 0, GPT: i % 4 != 1} for i in range(n)]
    return write_csv(path / f"mmlu_{name}.csv", rows)


def bench_rows(n=30):
    """Rows in RouterBench's wide layout."""
    models = {"WizardLM/13B": (0.3, 0.001), "claude-v2": (0.7, 0.02), "gpt-4-1106-preview": (0.9, 0.03)}
    rows = []
    for i in range(n):
        row = {"sample_id": f"mmlu-x.val.{i}", "prompt": str([f"System {i}", 'it\'s a "question"'])}
        row |= {"eval_name": f"mmlu-{i % 3}"}
        row |= {name: float(i < n * quality) for name, (quality, _) in models.items()}
        row |= {f"{name}|model_response": "1.0" for name in models}
        row |= {f"{name}|total_cost": cost for name, (_, cost) in models.items()}
        rows.append(row | {"oracle_model_to_route_to": "claude-v2"})
    return rows


def test_a_directory_of_subjects_is_one_table_with_a_group_per_file(tmp_path):
    subject(tmp_path, "anatomy")
    subject(tmp_path, "law")
    table = read_table([tmp_path], Columns())
    assert (table.weak, table.strong) == (MIXTRAL, GPT)
    assert table.groups == ["mmlu_anatomy"] * 12 + ["mmlu_law"] * 12
    assert table.outcomes.weak[:4].tolist() == [1, 0, 1, 0]
    assert table.outcomes.strong[:4].tolist() == [1, 0, 1, 1]
    assert not table.priced and table.dropped == {}
    assert table.prompts[0] == "anatomy 0?\nA. x\nB. y"


def test_columns_of_answers_are_not_taken_for_models(tmp_path):
    rows = [
        {"prompt": f"p{i}", MIXTRAL: i % 3 == 0, GPT: i % 3 < 2, f"{MIXTRAL}_response": i, f"{GPT}_response": 1}
        for i in range(9)
    ]
    table = read_table([write_csv(tmp_path / "gsm8k_responses.csv", rows)], Columns())
    assert (table.weak, table.strong, table.groups) == (MIXTRAL, GPT, None)


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl", "json", "parquet"])
def test_the_wide_layout_is_read_from_every_kind_of_file(tmp_path, kind):
    rows, path = bench_rows(), tmp_path / f"wide.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif kind == "json":
        path.write_text(json.dumps(rows))
    else:
        plain = write_csv(tmp_path / "plain", rows).read_bytes()
        path.write_bytes(gzip.compress(plain) if kind.endswith("gz") else plain)
    table = read_table([path], Columns())
    assert (table.weak, table.strong, table.priced) == ("WizardLM/13B", "gpt-4-1106-preview", True)
    assert table.outcomes.weak.mean() == pytest.approx(0.3)
    assert table.outcomes.strong.mean() == pytest.approx(0.9)
    assert (table.outcomes.weak_cost == 0.001).all() and (table.outcomes.strong_cost == 0.03).all()
    assert set(table.groups) == {"mmlu-0", "mmlu-1", "mmlu-2"}
    assert table.prompts[3] == 'System 3\nit\'s a "question"'
    assert any("the best of 3, beside the cheapest" in note for note in table.notes)


def test_named_columns_and_a_cost_in_figures_go_before_what_would_be_found(tmp_path):
    path = write_csv(tmp_path / "wide.csv", bench_rows())
    named = Columns(weak="claude-v2", strong="WizardLM/13B", weak_cost="0.5", group="sample_id")
    table = read_table([path], named)
    assert (table.weak, table.strong) == ("claude-v2", "WizardLM/13B")
    assert (table.outcomes.weak_cost == 0.5).all() and (table.outcomes.strong_cost == 0.001).all()
    assert len(set(table.groups)) == 30


def test_a_table_to_train_on_is_read_like_the_tested_one_where_it_can(tmp_path):
    tested = read_table([write_csv(tmp_path / "wide.csv", bench_rows())], Columns(weak="claude-v2"))
    same = [{"prompt": f"p{i}", GPT: True, "claude-v2": i % 2, "other": 1} for i in range(6)]
    train = read_training_table([write_csv(tmp_path / "same.csv", same)], tested)
    assert (train.weak, train.strong) == ("claude-v2", GPT)
    unlike = [{"question": f"p{i}", "a": i % 2, "b": 1} for i in range(6)]
    train = read_training_table([write_csv(tmp_path / "unlike.csv", unlike)], tested)
    assert (train.weak, train.strong) == ("a", "b")


def test_rows_that_lack_something_are_left_out_and_counted(tmp_path):
    rows = [{"prompt": f"p{i}", "a": 0, "b": 1} for i in range(6)]
    rows[1]["prompt"], rows[2]["a"], rows[3]["b"] = " ", "", "nan"
    table = read_table([write_csv(tmp_path / "t.csv", rows)], Columns())
    assert table.prompts == ["p0", "p4", "p5"]
    assert table.dropped == {"prompt": 1, "score": 2}


def test_marks_from_one_to_ten_are_scaled_and_said_to_be(tmp_path):
    rows = [{"prompt": f"p{i}", "a": 1 + i % 5, "b": 10 - i % 3} for i in range(30)]
    table = read_table([write_csv(tmp_path / "t.csv", rows)], Columns())
    assert min(table.outcomes.weak) == 0.0 and max(table.outcomes.strong) == 1.0
    assert any("from 1..10" in note for note in table.notes)


@pytest.mark.parametrize(
    ("cell", "value"),
    [(True, 1.0), ("True", 1.0), ("false", 0.0), (0, 0.0), (" 0.25 ", 0.25), ("1", 1.0), (0.5, 0.5)],
)
def test_a_score_is_read_however_it_is_written(cell, value):
    assert number(cell) == value


@pytest.mark.parametrize("cell", [None, "", "nan", "inf", "n/a", [1], float("nan")])
def test_what_is_no_score_is_missing(cell):
    assert np.isnan(number(cell))


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("plain", "plain"),
        ('["a", "b"]', "a\nb"),
        ("['it\\'s', \"b\"]", "it's\nb"),
        (["a", "b"], "a\nb"),
        ('[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]', "u"),
        ("[x] is what?", "[x] is what?"),
        ("[1, 2]", "[1, 2]"),
        ("[see above]", "[see above]"),
        (None, ""),
        (3, ""),
    ],
)
def test_a_prompt_is_read_however_it_is_written(cell, text):
    assert prompt_text(cell) == text


@pytest.mark.parametrize(
    ("content", "named", "said"),
    [
        ("prompt,a,b\nx,1,0\n", Columns(weak="c"), "no column 'c'; there are 'prompt', 'a', 'b'"),
        ("words,a,b\nx,1,0\n", Columns(), "no column of prompts found"),
        ("prompt,a\nx,1\n", Columns(), "no two models' scores"),
        ("prompt,a,b\nx,1,0\n", Columns(weak="a", strong="a"), "weak and as the strong"),
        ("prompt,a,b\nx,1,0\n", Columns(weak_cost="cheap"), "neither a column of numbers nor a number"),
        ("prompt,a,b\nx,1,0\n", Columns(weak_cost="1"), "no cost of 'a'"),
        ("prompt,a,b\n", Columns(), "no rows"),
        ("", Columns(), "no rows"),
        ("prompt,a,b\n,1,0\n x,,\n", Columns(weak="a", strong="b"), "no row has"),
    ],
    ids=[
        "no-column",
        "no-prompt",
        "one-model",
        "same-model",
        "odd-cost",
        "one-cost",
        "no-rows",
        "empty",
        "no-whole-row",
    ],
)
def test_a_table_that_will_not_do_says_why(tmp_path, content, named, said):
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(TableError) as error:
        read_table([path], named)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.pkl", b"\x80", "not a kind of file"),
        ("t.jsonl", b'{"prompt": "x"}\n{oops\n', "line 2: not JSON"),
        ("t.jsonl", b"[1]\n", "not an object"),
        ("t.parquet", b"PAR0", "t.parquet"),
        ("t.csv.gz", b"plain", "t.csv.gz"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_one_line(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TableError) as error:
        read_table([path], Columns())
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_path_without_tables_says_so(tmp_path):
    with pytest.raises(TableError, match="no such file"):
        read_table([tmp_path / "none.csv"], Columns())
    with pytest.raises(TableError, match="holds no table"):
        read_table([tmp_path], Columns())
