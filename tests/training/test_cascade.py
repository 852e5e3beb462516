from __future__ import annotations

import numpy as np
import pytest

from app.classification.decision import Evidence
from app.classification.head import log_softmax
from training.calibrate import calibrate
from training.cascade import CAREFUL, FAST, NEVER, TwoStages, fit_cascade

OUT, COUNT = 3, 4


def evidence(labels: np.ndarray, lm: float, ngram: float, seed: int) -> Evidence:
    """Both see the label through noise, as sharply as given."""
    rng = np.random.default_rng(seed)
    truth = np.eye(COUNT, dtype=np.float32)[labels]

    def seen(sharpness: float) -> np.ndarray:
        noise = rng.normal(size=truth.shape)
        return log_softmax((truth * sharpness + noise).astype(np.float32))

    known = rng.uniform(0.5, 1.0, len(labels)).astype(np.float32)
    return Evidence(seen(lm), seen(ngram), known, known)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.random.default_rng(0).choice(COUNT, size=2000, p=[0.27, 0.27, 0.26, 0.2])


def test_the_thresholds_keep_their_promise(labels: np.ndarray):
    """On what they were fitted on, accuracy and out-of-scope recall lose no more than is allowed."""
    found = evidence(labels, 5.0, 4.0, seed=1)
    calibration = calibrate(found, labels, OUT)
    cascade = fit_cascade(found, labels, OUT, calibration)
    both = TwoStages(found, labels, OUT, calibration, cascade.calibration)
    without = both.measure(NEVER)
    assert without.share.value == 0
    assert cascade.fast <= cascade.careful < 1
    for least, most in ((cascade.careful, CAREFUL), (cascade.fast, FAST)):
        staged = both.measure(least)
        assert staged.share.value > 0.2
        assert without.accuracy.value - staged.accuracy.value <= most
        assert without.out_recall.value - staged.out_recall.value <= most


def test_on_fresh_messages_little_more_is_lost(labels: np.ndarray):
    """The promise is not one about the held-out messages only."""
    found, fresh = (evidence(labels, 5.0, 4.0, seed=seed) for seed in (1, 2))
    calibration = calibrate(found, labels, OUT)
    cascade = fit_cascade(found, labels, OUT, calibration)
    both = TwoStages(fresh, labels, OUT, calibration, cascade.calibration)
    without, staged = both.measure(NEVER), both.measure(cascade.fast)
    assert without.accuracy.value - staged.accuracy.value <= FAST + 0.01
    assert staged.ece < 0.1


def test_worthless_ngrams_answer_next_to_nothing(labels: np.ndarray):
    """Where they know nothing, being sure is luck, and every answer of theirs costs one."""
    found = evidence(labels, 6.0, 0.0, seed=1)
    calibration = calibrate(found, labels, OUT)
    cascade = fit_cascade(found, labels, OUT, calibration)
    both = TwoStages(found, labels, OUT, calibration, cascade.calibration)
    assert both.measure(cascade.fast).share.value < 0.05


def test_a_set_without_messages_out_of_scope_is_measured_too(labels: np.ndarray):
    """Test sets of a shop may have none."""
    inside = np.where(labels == OUT, 0, labels)
    found = evidence(inside, 5.0, 4.0, seed=3)
    calibration = calibrate(evidence(labels, 5.0, 4.0, seed=1), labels, OUT)
    both = TwoStages(found, inside, OUT, calibration, calibration)
    assert both.measure(0.5).out_recall.n == 0
