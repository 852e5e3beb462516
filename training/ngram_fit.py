"""Fitting the character-n-gram half: the baseline of every report, and the partner in the fusion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from app.classification.ngrams import Features, NgramModel, features, weigh

INVERSE_REGULARISATION = 20.0
WORD_FEATURES = 20_000
CHAR_FEATURES = 40_000
LEAST_SHARE = 0.05
"""Labels that a teacher thinks less likely are left out, unless none is likelier."""


@dataclass(frozen=True, slots=True)
class Taught:
    """Normalised texts that nobody has labelled, and a teacher's probabilities (texts, labels) of each."""

    texts: Sequence[str]
    probabilities: npt.NDArray[np.float32]


def fit_ngrams(
    texts: Sequence[str],
    labels: Sequence[int],
    count: int,
    word_features: int = WORD_FEATURES,
    char_features: int = CHAR_FEATURES,
    balanced: bool = False,
    taught: Taught | None = None,
    tolerance: float = 1e-3,
) -> NgramModel:
    """Fit on normalised texts; ``labels`` are columns in ``range(count)``.

    The most frequent buckets are kept, at most ``word_features`` and ``char_features``. A column
    without a row in training gets a bias so low that it is never chosen. A ``taught`` text counts as
    much as a labelled one, shared among its likely labels (distillation, Hinton, Vinyals and Dean 2015).
    ``tolerance`` is the greatest slope at which the fit is done.
    """
    rows = [features(text) for text in (*texts, *(taught.texts if taught else ()))]
    places, targets, shares = _targets(labels, taught)
    words, word_idf = _vocabulary((f.words for f in rows), len(rows), word_features)
    chars, char_idf = _vocabulary((f.chars for f in rows), len(rows), char_features)
    matrix = sparse.hstack(
        [
            _matrix(rows, words, word_idf, words_block=True),
            _matrix(rows, chars, char_idf, words_block=False),
        ],
        format="csr",
    )
    present = sorted(set(targets.tolist()))
    model = LogisticRegression(
        C=INVERSE_REGULARISATION,
        max_iter=600,
        tol=tolerance,
        class_weight="balanced" if balanced else None,
    )
    model.fit(matrix[places], targets, sample_weight=shares)
    weights = np.zeros((matrix.shape[1], count), np.float32)
    bias = np.full(count, -12.0, np.float32)
    if len(present) == 2:
        weights[:, present] = np.concatenate([-model.coef_.T, model.coef_.T], axis=1) / 2
        bias[present] = np.concatenate([-model.intercept_, model.intercept_]) / 2
    else:
        weights[:, present] = model.coef_.T
        bias[present] = model.intercept_
    return NgramModel(
        word_buckets=words,
        word_idf=word_idf,
        word_weights=weights[: len(words)],
        char_buckets=chars,
        char_idf=char_idf,
        char_weights=weights[len(words) :],
        bias=bias,
    )


def score_all(
    model: NgramModel, texts: Iterable[str]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Log-probabilities (n, labels) and known shares (n,) of normalised texts."""
    scored = [model.score(text) for text in texts]
    return np.stack([row for row, _ in scored]), np.array([k for _, k in scored], np.float32)


def _targets(
    labels: Sequence[int], taught: Taught | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Which row of features, which label, and how much it counts: a taught text stands once a label."""
    own = np.arange(len(labels)), np.asarray(labels, np.int64), np.ones(len(labels))
    if taught is None or not len(taught.texts):
        return own
    least = np.minimum(LEAST_SHARE, taught.probabilities.max(axis=1, keepdims=True))
    likely = np.where(taught.probabilities >= least, taught.probabilities, 0.0)
    likely = likely / likely.sum(axis=1, keepdims=True)
    texts, columns = np.nonzero(likely)
    given = texts + len(labels), columns, likely[texts, columns]
    places, targets, shares = (np.concatenate(both) for both in zip(own, given, strict=True))
    return places, targets, shares


def _vocabulary(
    rows: Iterable[npt.NDArray[np.int64]], total: int, limit: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The ``limit`` most frequent buckets, sorted, and their smoothed idf."""
    frequency: Counter[int] = Counter()
    for buckets in rows:
        frequency.update(buckets.tolist())
    kept = sorted(bucket for bucket, _ in frequency.most_common(limit))
    counts = np.array([frequency[bucket] for bucket in kept], dtype=np.float64)
    idf = np.log((1 + total) / (1 + counts)) + 1.0
    return np.array(kept, dtype=np.int64), idf.astype(np.float32)


def _matrix(
    rows: Sequence[Features],
    known: npt.NDArray[np.int64],
    idf: npt.NDArray[np.float32],
    words_block: bool,
) -> sparse.csr_matrix:
    places, values, starts = [], [], [0]
    for row in rows:
        buckets, counts = (
            (row.words, row.word_counts) if words_block else (row.chars, row.char_counts)
        )
        place, value, _ = weigh(buckets, counts, known, idf)
        places.append(place)
        values.append(value)
        starts.append(starts[-1] + len(place))
    return sparse.csr_matrix(
        (np.concatenate(values), np.concatenate(places), np.array(starts)),
        shape=(len(rows), len(known)),
    )
