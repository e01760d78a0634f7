"""Whether the served model is the trained one: log-probabilities of fixed token sequences, side by side.

A wrong chat template or tokenizer does not show here (probes are token ids); wrong weights, a stale cache, a
changed rope or a too coarse number format do.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

__all__ = ("ParityReport", "compare", "model_logprobs", "probe_logprobs", "trained_logprobs")

SECONDS_PER_PROBE = 120.0


@dataclass(frozen=True)
class ParityReport:
    """Differences in nats over ``tokens`` tokens. ``within``: none is over the tolerance, none is NaN."""

    max_abs_diff: float
    mean_abs_diff: float
    tokens: int
    within: bool


async def probe_logprobs(
    base_url: str,
    model: str,
    probes: Sequence[Sequence[int]],
    client: httpx.AsyncClient,
    headers: Mapping[str, str] | None = None,
) -> list[list[float]]:
    """The served model's log p(token | those before it), in nats, for each probe's every token but the first.

    ``base_url`` is the server's root, without ``/v1``. Raises `httpx.HTTPError` when the server fails.
    """

    async def score(probe: Sequence[int]) -> list[float]:
        body = {"model": model, "prompt": list(probe), "max_tokens": 1, "prompt_logprobs": 0}
        answer = await client.post(
            f"{base_url}/v1/completions", json=body, headers=headers, timeout=SECONDS_PER_PROBE
        )
        answer.raise_for_status()
        positions: list[dict[str, dict[str, Any]]] = answer.json()["choices"][0]["prompt_logprobs"][1:]
        # By the token's id, never by place: vLLM lists the prompt's own token first, then the most likely.
        pairs = zip(probe[1:], positions, strict=True)
        return [float(ranked[str(token)]["logprob"]) for token, ranked in pairs]

    return list(await asyncio.gather(*(score(probe) for probe in probes)))


def trained_logprobs(folder: Path, probes: Sequence[Sequence[int]]) -> list[list[float]]:
    """The same of the weights in ``folder``, by transformers in float32 on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    return model_logprobs(model, probes)


def model_logprobs(model: Any, probes: Sequence[Sequence[int]]) -> list[list[float]]:
    """The same of a model of transformers, as it is."""
    import torch

    scores: list[list[float]] = []
    with torch.inference_mode():
        for probe in probes:
            tokens = torch.tensor([list(probe)], device=model.device)
            logprobs = torch.log_softmax(model(tokens).logits[0, :-1].float(), dim=-1)
            scores.append(logprobs.gather(1, tokens[0, 1:, None])[:, 0].tolist())
    return scores


def compare(served: Sequence[Sequence[float]], trained: Sequence[Sequence[float]], tolerance: float) -> ParityReport:
    """The two scorings' differences. ``tolerance`` is in nats: 1e-3 suits float32, bfloat16 needs about 0.1.

    Raises `ValueError` when they are not of the same probes, or hold no token.
    """
    if [len(row) for row in served] != [len(row) for row in trained]:
        raise ValueError("the two scorings are not of the same probes: their lengths differ")
    flat_served = np.array([value for row in served for value in row], dtype=np.float64)
    flat_trained = np.array([value for row in trained for value in row], dtype=np.float64)
    if not flat_served.size:
        raise ValueError("the probes score no token: each needs at least two")
    differences = np.abs(flat_served - flat_trained)
    largest = float(differences.max())
    return ParityReport(largest, float(differences.mean()), differences.size, largest <= tolerance)
