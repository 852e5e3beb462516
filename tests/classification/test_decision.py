from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.classification.decision import (
    SCOPE_FEATURES,
    Calibration,
    Evidence,
    decide,
    fuse,
    probabilities,
    scope_features,
)
from app.classification.head import log_softmax
from app.domain import OUT_OF_SCOPE

LABELS = ("a", "b", OUT_OF_SCOPE, "c")
OUT = 2


def calibration(threshold: float = 0.5, bias: float = 0.0) -> Calibration:
    return Calibration(
        lm_weight=0.7,
        ngram_weight=0.4,
        scope_weights=(-0.5, -0.3, -0.2, 0.4, 0.1, 0.2, 1.0, 0.5),
        scope_bias=bias,
        scope_mean=(0.0,) * len(SCOPE_FEATURES),
        scope_scale=(1.0,) * len(SCOPE_FEATURES),
        threshold=threshold,
    )


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    """From flat to as sure as float32 gets, alike and in contradiction."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    n = draw(st.integers(1, 5))
    sureness = draw(st.sampled_from([0.0, 1.0, 10.0, 200.0]))

    def scores() -> np.ndarray:
        return log_softmax((rng.standard_normal((n, 4)) * sureness).astype(np.float32))

    return Evidence(
        lm=scores(),
        ngram=scores(),
        prototype_cosine=rng.uniform(-1, 1, n).astype(np.float32),
        known_share=rng.uniform(0, 1, n).astype(np.float32),
    )


@given(evidences(), st.floats(0, 1), st.floats(-50, 50))
def test_ranking_and_out_of_scope_make_a_whole(evidence: Evidence, threshold: float, bias: float):
    """Every in-scope intent once, best first; with P(out of scope) they add up to one."""
    settings = calibration(threshold, bias)
    _, in_scope = probabilities(evidence, settings, OUT)
    for prediction, p in zip(decide(evidence, settings, LABELS), in_scope, strict=True):
        confidences = [score.confidence for score in prediction.ranking]
        assert sorted(score.intent for score in prediction.ranking) == ["a", "b", "c"]
        assert confidences == sorted(confidences, reverse=True)
        assert all(0 <= confidence <= 1 for confidence in confidences)
        assert sum(confidences) + (1 - float(p)) == pytest.approx(1, abs=1e-4)


@given(evidences(), st.floats(0, 1))
def test_the_best_intent_is_given_out_exactly_from_the_threshold_on(
    evidence: Evidence, threshold: float
):
    """From that probability of being in scope on, the best intent; below it an honest out of scope."""
    settings = calibration(threshold)
    _, in_scope = probabilities(evidence, settings, OUT)
    for prediction, p in zip(decide(evidence, settings, LABELS), in_scope, strict=True):
        best = prediction.ranking[0]
        assert prediction.in_scope == (float(p) >= threshold)
        if prediction.in_scope:
            assert (prediction.intent, prediction.confidence) == (best.intent, best.confidence)
        else:
            assert prediction.intent == OUT_OF_SCOPE
            assert prediction.confidence == pytest.approx(1 - float(p))


@given(evidences())
def test_a_message_is_decided_on_alone(evidence: Evidence):
    """Neighbours in the batch do not change a decision."""
    together = decide(evidence, calibration(), LABELS)
    for i, expected in enumerate(together):
        alone = Evidence(
            evidence.lm[i : i + 1],
            evidence.ngram[i : i + 1],
            evidence.prototype_cosine[i : i + 1],
            evidence.known_share[i : i + 1],
        )
        given_alone = decide(alone, calibration(), LABELS)[0]
        assert given_alone.intent == expected.intent
        assert given_alone.confidence == pytest.approx(expected.confidence, abs=1e-5)


@given(evidences())
def test_fusion_is_a_distribution_between_the_two(evidence: Evidence):
    """With all weight on one model it is that model."""
    fused = fuse(evidence.lm, evidence.ngram, 0.5, 0.5)
    np.testing.assert_allclose(np.exp(fused).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(
        np.exp(fuse(evidence.lm, evidence.ngram, 1, 0)), np.exp(evidence.lm), atol=1e-5
    )


@given(evidences())
def test_scope_features_are_finite_and_as_many_as_named(evidence: Evidence):
    """However sure the models are."""
    fused = fuse(evidence.lm, evidence.ngram, 1, 1)
    columns = scope_features(evidence, fused, OUT)
    assert columns.shape == (len(evidence.lm), len(SCOPE_FEATURES))
    assert np.isfinite(columns).all()


def test_the_place_of_out_of_scope_among_the_labels_does_not_matter():
    """Columns may stand in any order."""
    lm = log_softmax(np.array([[3.0, 1.0, 0.5, 0.0]], np.float32))
    evidence = Evidence(lm, lm, np.array([0.5], np.float32), np.array([1.0], np.float32))
    order = [2, 0, 3, 1]
    moved = Evidence(lm[:, order], lm[:, order], evidence.prototype_cosine, evidence.known_share)
    one = decide(evidence, calibration(), LABELS)[0]
    other = decide(moved, calibration(), tuple(LABELS[i] for i in order))[0]
    assert (one.intent, other.confidence) == (other.intent, pytest.approx(one.confidence))
