"""From two models' scores to one calibrated decision.

Everything here was fitted on held-out messages (see ``training.calibrate``) and travels in the
artifact as ``calibration.json``; serving only evaluates it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.classification.head import log_softmax
from app.domain import OUT_OF_SCOPE, IntentScore, Prediction

Floats = npt.NDArray[np.float32]

SCOPE_FEATURES = (
    "fused_out_logit",
    "lm_out_logit",
    "ngram_out_logit",
    "top_logit",
    "margin",
    "agreement",
    "prototype_cosine",
    "known_share",
)
"""Names of the columns of :func:`scope_features`, in order."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Fusion, temperature, scope gate and threshold.

    ``lm_weight`` and ``ngram_weight`` are the exponents of a weighted geometric mean of the two
    models' probabilities; their sum acts as an inverse temperature (Guo et al. 2017).
    ``scope_weights`` and ``scope_bias`` are a logistic regression on :data:`SCOPE_FEATURES`, scaled by
    ``scope_mean`` and ``scope_scale``: the probability that the message is in scope at all.
    A message is answered from the probability ``threshold`` of being in scope on; how sure the best
    intent is plays no part in that: a message between two intents is ambiguous, not out of scope.
    """

    lm_weight: float
    ngram_weight: float
    scope_weights: tuple[float, ...]
    scope_bias: float
    scope_mean: tuple[float, ...]
    scope_scale: tuple[float, ...]
    threshold: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the models say of ``n`` messages.

    ``lm`` and ``ngram`` are log-probabilities (n, labels), ``prototype_cosine`` (n,) the greatest
    cosine between the hidden state and an intent's prototype, ``known_share`` (n,) see
    :meth:`app.classification.ngrams.NgramModel.score`.
    """

    lm: Floats
    ngram: Floats
    prototype_cosine: Floats
    known_share: Floats


def fuse(lm: Floats, ngram: Floats, lm_weight: float, ngram_weight: float) -> Floats:
    """Weighted geometric mean of two distributions: log-probabilities (n, labels)."""
    return log_softmax(np.float32(lm_weight) * lm + np.float32(ngram_weight) * ngram)


def scope_features(evidence: Evidence, fused: Floats, out_index: int) -> Floats:
    """Columns of :data:`SCOPE_FEATURES`, (n, features)."""
    in_scope = np.delete(fused, out_index, axis=1)
    two_best = -np.sort(-in_scope, axis=1)[:, :2]
    lm_in = np.delete(evidence.lm, out_index, axis=1)
    ngram_in = np.delete(evidence.ngram, out_index, axis=1)
    best = in_scope.argmax(axis=1)[:, None]
    agreement = np.minimum(
        np.take_along_axis(log_softmax(lm_in), best, axis=1)[:, 0],
        np.take_along_axis(log_softmax(ngram_in), best, axis=1)[:, 0],
    )
    columns = (
        _logit(fused[:, out_index]),
        _logit(evidence.lm[:, out_index]),
        _logit(evidence.ngram[:, out_index]),
        _logit(log_softmax(in_scope).max(axis=1)),
        np.minimum(two_best[:, 0] - two_best[:, -1], 8.0),
        np.maximum(agreement, -8.0),
        evidence.prototype_cosine,
        evidence.known_share,
    )
    return np.stack(columns, axis=1).astype(np.float32)


def _logit(log_probability: Floats) -> Floats:
    p = np.clip(np.exp(log_probability), 1e-4, 1 - 1e-4)
    result: Floats = np.log(p) - np.log1p(-p)
    return result


def probabilities(
    evidence: Evidence, calibration: Calibration, out_index: int
) -> tuple[Floats, Floats]:
    """In-scope intent probabilities (n, labels - 1) given in scope, and P(in scope) (n,)."""
    fused = fuse(evidence.lm, evidence.ngram, calibration.lm_weight, calibration.ngram_weight)
    columns = scope_features(evidence, fused, out_index)
    mean, scale, weights = (
        np.array(values, dtype=np.float32)
        for values in (calibration.scope_mean, calibration.scope_scale, calibration.scope_weights)
    )
    logit = (columns - mean) / scale @ weights + np.float32(calibration.scope_bias)
    in_scope = 1.0 / (1.0 + np.exp(-np.clip(logit, -30, 30)))
    given = np.exp(log_softmax(np.delete(fused, out_index, axis=1)))
    return given, in_scope.astype(np.float32)


def decide(
    evidence: Evidence, calibration: Calibration, labels: tuple[str, ...]
) -> list[Prediction]:
    """One prediction a message. ``labels`` holds :data:`OUT_OF_SCOPE` once, as the columns stand."""
    out_index = labels.index(OUT_OF_SCOPE)
    intents = [label for label in labels if label != OUT_OF_SCOPE]
    given, in_scope = probabilities(evidence, calibration, out_index)
    return [
        _prediction(row * p, float(p), intents, calibration.threshold)
        for row, p in zip(given, in_scope, strict=True)
    ]


def _prediction(joint: Floats, in_scope: float, intents: list[str], threshold: float) -> Prediction:
    ranking = tuple(IntentScore(intents[i], float(joint[i])) for i in np.argsort(-joint))
    best = ranking[0]
    if in_scope >= threshold:
        return Prediction(best.intent, best.confidence, in_scope=True, ranking=ranking)
    return Prediction(OUT_OF_SCOPE, 1.0 - in_scope, in_scope=False, ranking=ranking)
