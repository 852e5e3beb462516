"""Fusion, scope gate and threshold, all fitted on held-out messages, never on a test set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef

from app.classification.decision import Calibration, Evidence, fuse, probabilities, scope_features

OUT_SHARE = 0.2
"""Assumed share of messages out of scope where the held-out set does not say: one in five."""

PRIOR_ROWS = 2.0
"""How many held-out rows a sum of exponents of one outweighs: few rows alone make a model too sure."""

Labels = npt.NDArray[np.int64]


def calibrate(
    evidence: Evidence,
    labels: Labels,
    out_index: int,
    out_share: float = OUT_SHARE,
    least_coverage: float = 0.0,
) -> Calibration:
    """Fit everything on held-out evidence; ``labels`` (n,) are columns, ``out_index`` marks negatives.

    1. Exponents of the geometric mean by maximum likelihood of the in-scope rows.
    2. Scope gate: logistic regression, negatives weighted to ``out_share`` of the whole.
    3. Threshold: the one with the best weighted Matthews correlation of the decisions or, when
       ``least_coverage`` is given, the greatest that answers that share of the in-scope messages.
    """
    weights = _weights(labels, out_index, out_share)
    lm_weight, ngram_weight = _fit_fusion(evidence, labels, out_index)
    calibration = Calibration(
        lm_weight,
        ngram_weight,
        scope_weights=(),
        scope_bias=0.0,
        scope_mean=(),
        scope_scale=(),
        threshold=0.0,
    )
    calibration = _fit_scope(evidence, labels, out_index, weights, calibration)
    given, in_scope = probabilities(evidence, calibration, out_index)
    threshold = choose_threshold(given, in_scope, labels, out_index, weights, least_coverage)
    return replace(calibration, threshold=threshold)


def _weights(labels: Labels, out_index: int, out_share: float) -> npt.NDArray[np.float64]:
    out = labels == out_index
    weights = np.ones(len(labels))
    if out.any() and not out.all():
        weights[out] = out_share / (1 - out_share) * (~out).sum() / out.sum()
    return weights


def _fit_fusion(evidence: Evidence, labels: Labels, out_index: int) -> tuple[float, float]:
    """Non-negative exponents that make in-scope probabilities likeliest, given in scope."""
    rows = labels != out_index
    lm = np.delete(evidence.lm[rows], out_index, axis=1)
    ngram = np.delete(evidence.ngram[rows], out_index, axis=1)
    target = (labels[rows] - (labels[rows] > out_index))[:, None]

    def loss(exponents: npt.NDArray[np.float64]) -> float:
        fused = fuse(lm, ngram, float(exponents[0]), float(exponents[1]))
        chosen = np.take_along_axis(fused, target, axis=1).astype(np.float64)
        pull = PRIOR_ROWS / len(target) * float(exponents.sum() - 1.0) ** 2
        return pull - float(chosen.mean())

    # Derivative-free: float32 scores are too coarse for finite differences.
    best = minimize(loss, x0=np.array([0.5, 0.5]), bounds=[(0.0, 6.0)] * 2, method="Nelder-Mead")
    return float(best.x[0]), float(best.x[1])


def _fit_scope(
    evidence: Evidence,
    labels: Labels,
    out_index: int,
    weights: npt.NDArray[np.float64],
    calibration: Calibration,
) -> Calibration:
    fused = fuse(evidence.lm, evidence.ngram, calibration.lm_weight, calibration.ngram_weight)
    columns = scope_features(evidence, fused, out_index)
    mean = columns.mean(axis=0)
    scale = np.maximum(columns.std(axis=0), 1e-3)
    model = LogisticRegression(C=0.3, max_iter=500)
    model.fit((columns - mean) / scale, labels != out_index, sample_weight=weights)
    return replace(
        calibration,
        scope_weights=tuple(float(w) for w in model.coef_[0]),
        scope_bias=float(model.intercept_[0]),
        scope_mean=tuple(float(m) for m in mean),
        scope_scale=tuple(float(s) for s in scale),
    )


def choose_threshold(
    given: npt.NDArray[np.float32],
    in_scope: npt.NDArray[np.float32],
    labels: Labels,
    out_index: int,
    weights: npt.NDArray[np.float64],
    least_coverage: float = 0.0,
) -> float:
    """The probability of being in scope from which the best intent is given out.

    ``given`` (n, in-scope labels) and ``in_scope`` (n,) as :func:`probabilities` returns them. With
    ``least_coverage`` it is the greatest one that still answers that share of in-scope messages.
    """
    if least_coverage:
        return float(np.quantile(in_scope[labels != out_index], 1.0 - least_coverage))
    best = given.argmax(axis=1)
    best = best + (best >= out_index)
    candidates = np.unique(np.quantile(in_scope, np.linspace(0.0, 0.99, 120)))

    def worth(threshold: float) -> float:
        decided = np.where(in_scope >= threshold, best, out_index)
        return float(matthews_corrcoef(labels, decided, sample_weight=weights))

    # Neighbouring thresholds are averaged: the maximum of a ragged curve is partly luck.
    worths = np.array([worth(float(t)) for t in candidates])
    smooth = np.convolve(np.pad(worths, 3, mode="edge"), np.ones(7) / 7, mode="valid")
    return float(candidates[int(smooth.argmax())])
