"""The features of many requests as a matrix; for the trainer, so that the gateway loads no SciPy."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix

from router.features import FEATURES, RequestView, feature_row

__all__ = ("features",)


def features(views: Sequence[RequestView]) -> csr_matrix:
    """Feature matrix of shape (len(views), FEATURES), float64, of the rows that `feature_row` makes."""
    rows = [feature_row(view) for view in views]
    ends = np.cumsum([0, *(indices.size for indices, _ in rows)])
    indices = np.concatenate([np.zeros(0, dtype=np.int64), *(indices for indices, _ in rows)])
    values = np.concatenate([np.zeros(0), *(values for _, values in rows)])
    return csr_matrix((values, indices, ends), shape=(len(rows), FEATURES))
