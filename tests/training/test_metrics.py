from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import calibration_error, score, wilson


def test_wilson_as_published():
    """Against values computed by hand from Wilson's formula."""
    found = wilson(8, 10)
    assert (found.value, found.n) == (0.8, 10)
    assert found.low == pytest.approx(0.4902, abs=1e-4)
    assert found.high == pytest.approx(0.9433, abs=1e-4)


@given(st.integers(1, 500), st.data())
def test_an_interval_holds_its_value(n: int, data: st.DataObject):
    """And never leaves the range of a proportion."""
    found = wilson(data.draw(st.integers(0, n)), n)
    assert -1e-9 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= 1 + 1e-9


def test_nothing_measured_is_not_a_number():
    """An empty group claims nothing."""
    found = wilson(0, 0)
    assert math.isnan(found.value)
    assert (found.low, found.high, found.n) == (0.0, 1.0, 0)


def test_calibration_error_is_the_mean_gap():
    """Two bins: sure and half right, unsure and always wrong."""
    confidence = np.array([0.9, 0.9, 0.1, 0.1], np.float32)
    correct = np.array([True, False, False, False])
    assert calibration_error(confidence, correct) == pytest.approx((0.4 + 0.1) / 2, abs=1e-6)
    assert calibration_error(np.ones(3, np.float32), np.ones(3, bool)) == 0


GIVEN = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.7, 0.3]], np.float32)
IN_SCOPE = np.array([0.95, 0.9, 0.5, 0.3], np.float32)


def test_scores_of_a_small_set():
    """Columns are in-scope labels; the negative's number lies between them."""
    labels = np.array([0, 2, 2, 1])
    found = score(GIVEN, IN_SCOPE, labels, out_index=1, threshold=0.6)
    assert (found.accuracy.value, found.accuracy.n) == (pytest.approx(2 / 3), 3)
    assert found.coverage.value == pytest.approx(2 / 3)
    assert found.out_recall.value == 1
    assert found.auroc == 1
    assert 0 < found.macro_f1 < 1
    assert 0 < found.mcc < 1


def test_without_negatives_there_is_no_auroc():
    """What cannot be measured is not made up."""
    found = score(GIVEN, IN_SCOPE, np.array([0, 1, 0, 0]), out_index=2, threshold=0.0)
    assert math.isnan(found.auroc)
    assert found.out_recall.n == 0
    assert found.accuracy.value == 1
    assert found.mcc == 1
