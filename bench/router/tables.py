"""``python -m bench.router.tables``: the router on tables of requests whose benefit depends on what is known to us.

The requests are docstrings of installed packages, a package being a domain. Whether the strong model helps is drawn
with a probability that depends on their length, their numbers, their package, on some of these or on nothing. With
``--clinc FOLDER`` a table of CLINC150's questions is added, where a weak and a strong classifier really answered. The
tables are written as CSV for ``stillroom router evaluate --dataset``, and evaluated with it.
"""

import argparse
import ast
import csv
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB

from bench.gateway import machine
from router.evaluation.layout import Columns
from router.evaluation.report import Plan, evaluate_table
from router.evaluation.table import read_table

WORK: Final = Path("var/bench/tables").resolve()
PACKAGES: Final = (
    "numpy", "scipy", "sklearn", "torch", "click", "litestar", "sqlalchemy", "matplotlib", "pyarrow", "transformers",
    "hypothesis", "httpx", "pygments", "rich", "alembic",
)  # fmt: skip
FILES, DOCSTRINGS, SHORTEST, LONGEST = 600, 500, 40, 4_000
BASE_LOGIT: Final = -1.2
BOTH_RIGHT, STRONG_WRONG = 0.75, 0.07
"""Of the requests without benefit: both models right; of those left, the weak one alone."""
FEW: Final = 10
"""Examples of an intent that the weak classifier sees."""

Floats = NDArray[np.float64]
Answers = NDArray[np.bool_]


def docstrings(rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Docstrings, each with its package."""
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            continue
        texts: list[str] = []
        for path in sorted(Path(found.origin).parent.rglob("*.py"))[:FILES]:
            tree = ast.parse(path.read_text("utf-8"))
            nodes = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef))
            texts += [text for n in nodes if SHORTEST < len(text := ast.get_docstring(n) or "") < LONGEST]
        yield from ((texts[i], package) for i in rng.permutation(len(texts))[:DOCSTRINGS])


def write(name: str, rows: list[tuple[str, str]], weak: Answers, strong: Answers) -> Path:
    """A table in the layout of RouteLLM's."""
    path = WORK / f"{name}.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["prompt", "weak-model", "strong-model", "subject"])
        table.writerows(
            (text, bool(w), bool(s), group) for (text, group), w, s in zip(rows, weak, strong, strict=True)
        )
    return path


def made(rng: np.random.Generator, size: int) -> Iterator[Path]:
    """The tables of docstrings, of ``size`` rows."""
    every = list(docstrings(rng))
    rows = [every[i] for i in sorted(rng.permutation(len(every))[:size])]
    length = _standard(np.log([len(text) for text, _ in rows]))
    numbers = _standard(np.array([len(re.findall(r"\d+", text)) / len(text.split()) for text, _ in rows])).clip(-2, 2)
    effect = {package: rng.normal() for package in PACKAGES}
    package = np.array([effect[group] for _, group in rows])
    worlds = {
        "length": 0.6 * length,
        "shortness": -0.4 * length,
        "numbers": 0.8 * numbers,
        "package": package,
        "length, numbers, package": 0.4 * length + 0.3 * numbers + 0.7 * package,
        "nothing": 0 * length,
    }
    for name, logit in worlds.items():
        benefit = rng.random(len(rows)) < expit(BASE_LOGIT + logit)
        both = ~benefit & (rng.random(len(rows)) < BOTH_RIGHT)
        weak_alone = ~benefit & ~both & (rng.random(len(rows)) < STRONG_WRONG)
        yield write(name, rows, both | weak_alone, benefit | both)


def clinc(folder: Path, rng: np.random.Generator, size: int) -> Path:
    """CLINC150's questions of validation and test, answered by naive Bayes on ten examples an intent and by logistic
    regression on all; a domain of intents is a group.
    """
    data: dict[str, Any] = json.loads((folder / "data_full.json").read_text("utf-8"))
    domains: dict[str, list[str]] = json.loads((folder / "domains.json").read_text("utf-8"))
    domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}
    asked = data["val"] + data["test"]
    asked = [asked[i] for i in sorted(rng.permutation(len(asked))[:size])]
    seen: dict[str, int] = {}
    few = [
        (text, intent) for text, intent in data["train"] if seen.setdefault(intent, 0) < FEW and _count(seen, intent)
    ]
    words, pieces = TfidfVectorizer(), TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 4))
    weak = MultinomialNB(alpha=0.1).fit(words.fit_transform([t for t, _ in few]), [i for _, i in few])
    strong = LogisticRegression(C=30, max_iter=200).fit(
        pieces.fit_transform([t for t, _ in data["train"]]), [i for _, i in data["train"]]
    )
    texts, wanted = [text for text, _ in asked], np.array([intent for _, intent in asked])
    answered = weak.predict(words.transform(texts)) == wanted, strong.predict(pieces.transform(texts)) == wanted
    return write("CLINC150", [(text, domain_of[intent]) for text, intent in asked], *answered)


def _count(seen: dict[str, int], intent: str) -> bool:
    seen[intent] += 1
    return True


def _standard(values: Floats) -> Floats:
    return (values - values.mean()) / values.std()


def main() -> None:
    """Make the tables, evaluate them, print what came out."""
    parser = argparse.ArgumentParser(prog="python -m bench.router.tables", description=__doc__)
    parser.add_argument("--rows", type=int, default=2_500)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clinc", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(options.seed)
    paths = list(made(rng, options.rows))
    if options.clinc:
        paths.append(clinc(options.clinc, rng, options.rows))
    print(f"{json.dumps(machine.describe())}\n")
    print("| benefit depends on | split | router | length | TF-IDF | router - length | ECE |")
    print("| --- | --- | ---: | ---: | ---: | --- | ---: |")
    for path in paths:
        found = evaluate_table(
            read_table([path], Columns()), None, Plan(options.folds, options.seed), lambda _line: None
        )
        for split, of in found["splits"].items():
            low, high = of["margin_over_length_ci"]
            apgr = [of["router"]["apgr"], *(of["baselines"][name]["apgr"] for name in ("length", "tfidf"))]
            print(
                f"| {path.stem} | {split.replace('_', ' ')} | {' | '.join(f'{each:.3f}' for each in apgr)} | "
                f"{of['margin_over_length']:+.3f} [{low:+.3f}, {high:+.3f}] | {of['router']['ece']:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
