"""How alike two answers are in meaning: the cosine of their embeddings."""

from collections.abc import Callable
from typing import Final

import httpx
import numpy as np

from distill.upstreams import BadAnswer, Upstream, tokens_of
from ledger.prices import Tokens

__all__ = ("similarity",)

MAX_CHARS: Final = 24_000
"""Of each text, from its beginning: embedding models take about 8,000 tokens."""


async def similarity(
    client: httpx.AsyncClient, embeddings: Upstream, texts: tuple[str, str], spent: Callable[[Tokens], None]
) -> float:
    """Cosine of the two texts' embeddings, -1 to 1. ``spent`` hears the tokens.

    Raises ``httpx.HTTPError``, and `BadAnswer` where the answer does not hold two vectors of one length.
    """
    body = {"input": [text[:MAX_CHARS] for text in texts], "encoding_format": "float"}
    answer = await embeddings.post(client, "/embeddings", body)
    spent(tokens_of(answer))
    try:
        one, other = (np.asarray(item["embedding"], dtype=np.float64) for item in answer["data"])
        norms = float(np.linalg.norm(one) * np.linalg.norm(other))
        cosine = float(one @ other) / norms
    except (LookupError, TypeError, ValueError, ZeroDivisionError) as error:
        raise BadAnswer("the embeddings' answer does not hold two vectors") from error
    if not np.isfinite(cosine):
        raise BadAnswer("the embeddings' answer does not hold two vectors of finite numbers")
    return cosine
