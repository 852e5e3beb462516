"""Figures that describe a classifier on a labelled set. Definitions and sources beside each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import f1_score, matthews_corrcoef, roc_auc_score

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A proportion and its 95% Wilson interval (Wilson 1927)."""

    value: float
    low: float
    high: float
    n: int


def wilson(hits: int, n: int) -> Interval:
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0)
    z = 1.959964
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half), n)


def calibration_error(confidence: Floats, correct: npt.NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error over equal-width bins (Guo et al. 2017)."""
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    error = 0.0
    for place in range(bins):
        members = places == place
        if members.any():
            gap = abs(float(confidence[members].mean()) - float(correct[members].mean()))
            error += gap * members.sum() / len(confidence)
    return error


@dataclass(frozen=True, slots=True)
class Scores:
    """A classifier on one set.

    ``accuracy``: right intents among in-scope messages, no threshold. ``macro_f1``: the same, mean over
    intents. ``mcc``: Matthews correlation of the decisions at the fixed threshold, out of scope as a
    class of its own (Gorodkin 2004; HINT3). ``coverage``: in-scope messages that got an answer.
    ``out_recall``: out-of-scope messages that were recognised. ``auroc``: how well the probability of
    being in scope parts in scope from out of scope. ``ece``: of the best intent's probability given in
    scope, in-scope messages.
    """

    accuracy: Interval
    macro_f1: float
    mcc: float
    coverage: Interval
    out_recall: Interval
    auroc: float
    ece: float


def score(
    given: Floats, in_scope: Floats, labels: Labels, out_index: int, threshold: float
) -> Scores:
    """``given`` (n, in-scope labels): probabilities given in scope; ``in_scope`` (n,): of that."""
    best = given.argmax(axis=1)
    best = best + (best >= out_index)
    inside = labels != out_index
    hits = best[inside] == labels[inside]
    decided = np.where(in_scope >= threshold, best, out_index)
    both = inside.any() and not inside.all()
    return Scores(
        accuracy=wilson(int(hits.sum()), int(inside.sum())),
        macro_f1=float(
            f1_score(
                labels[inside],
                best[inside],
                average="macro",
                labels=np.unique(labels[inside]),
                zero_division=0,
            )
        ),
        mcc=float(matthews_corrcoef(labels, decided)),
        coverage=wilson(int((decided[inside] != out_index).sum()), int(inside.sum())),
        out_recall=wilson(int((decided[~inside] == out_index).sum()), int((~inside).sum())),
        auroc=float(roc_auc_score(inside, in_scope)) if both else math.nan,
        ece=calibration_error(given[inside].max(axis=1), hits),
    )
