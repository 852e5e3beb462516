from __future__ import annotations

import numpy as np
import pytest

from app.classification.decision import Evidence, decide, fuse, probabilities
from app.classification.head import log_softmax
from app.domain import OUT_OF_SCOPE
from training.calibrate import calibrate, choose_threshold

LABELS = ("a", "b", "c", OUT_OF_SCOPE)
OUT = 3


def evidence(labels: np.ndarray, sharpness: float, seed: int, honest: float = 1.0) -> Evidence:
    """Two models that both see the label through noise; ``honest`` scales what the first claims."""
    rng = np.random.default_rng(seed)
    n = len(labels)
    truth = np.eye(len(LABELS), dtype=np.float32)[labels] * sharpness
    lm = log_softmax((truth + rng.normal(size=truth.shape)).astype(np.float32) * honest)
    ngram = log_softmax((truth + rng.normal(size=truth.shape)).astype(np.float32))
    near = np.where(labels == OUT, 0.3, 0.8) + rng.normal(scale=0.1, size=n)
    return Evidence(lm, ngram, near.astype(np.float32), near.astype(np.float32))


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.random.default_rng(0).choice(4, size=400, p=[0.27, 0.27, 0.26, 0.2])


def test_a_calibrated_decision_beats_chance_on_fresh_messages(labels: np.ndarray):
    """What is fitted on one draw decides well on another."""
    calibration = calibrate(evidence(labels, 3.0, seed=1), labels, OUT)
    fresh = decide(evidence(labels, 3.0, seed=2), calibration, LABELS)
    hits = [LABELS[label] == p.intent for label, p in zip(labels, fresh, strict=True)]
    assert np.mean(hits) > 0.9


def test_over_sure_models_are_damped(labels: np.ndarray):
    """A model that claims five times too much gets the smaller exponent."""
    sober = calibrate(evidence(labels, 2.0, seed=1), labels, OUT)
    boastful = calibrate(evidence(labels, 2.0, seed=1, honest=5.0), labels, OUT)
    assert boastful.lm_weight < sober.lm_weight / 3


def test_fusion_is_no_worse_than_even_shares(labels: np.ndarray):
    """The exponents maximise the likelihood of what was held out."""
    found = evidence(labels, 2.0, seed=1)
    calibration = calibrate(found, labels, OUT)
    rows = labels != OUT

    def likelihood(one: float, other: float) -> float:
        lm, ngram = (np.delete(x[rows], OUT, axis=1) for x in (found.lm, found.ngram))
        fused = fuse(lm, ngram, one, other)
        return float(np.take_along_axis(fused, labels[rows][:, None], axis=1).mean())

    fitted = likelihood(calibration.lm_weight, calibration.ngram_weight)
    assert fitted >= likelihood(0.5, 0.5) - 1e-3


def test_the_gate_tells_in_scope_from_out(labels: np.ndarray):
    """The probability of being in scope is high where it should be."""
    found = evidence(labels, 3.0, seed=1)
    _, in_scope = probabilities(found, calibrate(found, labels, OUT), OUT)
    assert in_scope[labels != OUT].mean() > 0.9
    assert in_scope[labels == OUT].mean() < 0.2


def test_negatives_count_as_the_assumed_share(labels: np.ndarray):
    """Ten times the negatives do not make the gate ten times as suspicious."""
    many = np.concatenate([labels, np.full(3 * len(labels), OUT)])
    few_gate = calibrate(evidence(labels, 1.0, seed=1), labels, OUT)
    many_gate = calibrate(evidence(many, 1.0, seed=1), many, OUT)
    fresh = evidence(labels, 1.0, seed=2)
    shares = [probabilities(fresh, gate, OUT)[1].mean() for gate in (few_gate, many_gate)]
    assert abs(shares[0] - shares[1]) < 0.1


def test_coverage_is_kept(labels: np.ndarray):
    """At least the asked-for share of in-scope messages is answered, whatever errs."""
    found = evidence(labels, 0.7, seed=1)
    calibration = calibrate(found, labels, OUT, least_coverage=0.95)
    answers = decide(found, calibration, LABELS)
    answered = [p.in_scope for label, p in zip(labels, answers, strict=True) if label != OUT]
    assert np.mean(answered) >= 0.95


def test_the_greatest_threshold_that_covers_enough():
    """Three of four in-scope messages, and not a negative more than need be."""
    given = np.ones((5, 1), np.float32)
    in_scope = np.array([0.9, 0.8, 0.7, 0.1, 0.6], np.float32)
    labels = np.array([0, 0, 0, 0, 1])
    threshold = choose_threshold(given, in_scope, labels, 1, np.ones(5), least_coverage=2 / 3)
    assert 0.6 < threshold <= 0.7 + 1e-6


def test_without_a_bound_the_threshold_parts_best():
    """In-scope and out-of-scope messages that can be told apart are told apart."""
    in_scope = np.concatenate([np.linspace(0.6, 1, 50), np.linspace(0, 0.4, 50)])
    labels = np.repeat([0, 1], 50)
    given = np.ones((100, 1), np.float32)
    threshold = choose_threshold(given, in_scope.astype(np.float32), labels, 1, np.ones(100))
    assert 0.35 < threshold < 0.65
